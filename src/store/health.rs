//! How endpoints fare: what attempts say of them is weighed by [`crate::types::disable`], written down and told.

use std::collections::BTreeMap;

use super::batch::{Col, Sql};
use super::db::{Row, Value};
use super::emit::{EndpointNotice, News, Outbox};
use super::error::{Error, Result};
use super::model::Attempted;
use super::pool::Tx;
use crate::args;
use crate::types::delivery::{DeadReason, Verdict};
use crate::types::disable::{Health, Notice, Reason, Seen, Told, weigh};
use crate::types::{EndpointId, Millis, TenantId};

// Of those that delivered, those whose health that changes: one that is well and delivers is neither read, locked nor
// written. The index of those that fail is small, while each of very many endpoints stands on a page of its own.
pub(super) static FAILING: Sql = Sql::batch(
    "SELECT q.id FROM {b} JOIN endpoints q ON q.id {is b.id} WHERE q.failing_since IS NOT NULL",
    0,
    &[("id", Col::Uuid)],
);
// Those whose health may change. What comes of requests that were under way when an endpoint was paused or disabled says
// nothing more: it begins anew when it is resumed.
pub(super) static CONCERNED: Sql = Sql::batch(
    "SELECT q.id, q.tenant_id, q.account, q.url, q.failing_since, q.failed, q.told
     FROM {b} JOIN endpoints q ON q.id = b.id
     WHERE q.state = 'enabled' AND COALESCE(q.deleted_at, 0) = 0
     ORDER BY q.id {wait}",
    0,
    &[("id", Col::Uuid)],
);
static WRITE: Sql = Sql::batch(
    "UPDATE endpoints
     SET failing_since = b.failing_since, failed = b.failed, told = b.told,
         state = CASE WHEN b.reason IS NULL THEN endpoints.state ELSE 'disabled' END,
         state_reason = COALESCE(b.reason, endpoints.state_reason),
         state_since = CASE WHEN b.reason IS NULL THEN endpoints.state_since ELSE $1 END
     FROM {b} WHERE endpoints.id = b.id",
    1,
    &[
        ("id", Col::Uuid),
        ("failing_since", Col::Int),
        ("failed", Col::Int),
        ("told", Col::Text),
        ("reason", Col::Text),
    ],
);

/// An endpoint as it fared until now.
struct Concerned {
    id: EndpointId,
    tenant: TenantId,
    account: Option<String>,
    url: String,
    health: Health,
}

/// What a batch of outcomes made of one.
struct Weighed {
    health: Health,
    reason: Option<Reason>,
    notices: Vec<(Notice, EndpointNotice)>,
}

/// Notes what these outcomes say of the endpoints they came from: disables those that are given up, and tells the
/// tenant's other endpoints of each step.
pub(super) async fn note(
    tx: &mut Tx,
    out: &mut Outbox<'_>,
    outcomes: impl Iterator<Item = (&Attempted, Verdict)>,
    now: Millis,
) -> Result<()> {
    let mut all = by_endpoint(outcomes);
    let (mut delivered, mut asked) = (Vec::new(), Vec::new());
    for (id, seen) in &all {
        let well = seen.iter().all(|s| *s == Seen::Delivered);
        if well { &mut delivered } else { &mut asked }.push(args![*id]);
    }
    for row in tx.batch(&FAILING, vec![], delivered).await? {
        asked.push(args![row.uuid(0)?]);
    }
    let (mut rows, mut news) = (Vec::new(), Vec::new());
    for row in tx.batch(&CONCERNED, vec![], asked).await? {
        let before = concerned(&row)?;
        let weighed = weigh_all(&before, all.remove(&before.id).unwrap_or_default(), now);
        if weighed.health != before.health {
            rows.push(written(before.id, &weighed));
        }
        if weighed.reason.is_some() {
            out.disabled(before.id);
        }
        news.extend(weighed.notices.into_iter().map(|(notice, data)| (before.tenant, notice, data)));
    }
    tx.batch(&WRITE, args![now], rows).await?;
    out.know(tx, news.iter().map(|(tenant, _, _)| (*tenant, String::new()))).await?;
    for (tenant, notice, data) in &news {
        let (kind, about) = (notice.kind(), Some(data.endpoint_id));
        out.news(&News { tenant: *tenant, kind, data, about, job_id: None, traceparent: None }, None)?;
    }
    Ok(())
}

fn by_endpoint<'a>(
    outcomes: impl Iterator<Item = (&'a Attempted, Verdict)>,
) -> BTreeMap<EndpointId, Vec<Seen>> {
    let mut all: BTreeMap<EndpointId, Vec<Seen>> = BTreeMap::new();
    for (attempted, verdict) in outcomes {
        // What was not sent says nothing of its receiver.
        let (Some((id, _)), true) = (&attempted.endpoint, attempted.exchange.is_some()) else { continue };
        let first = attempted.number == 1;
        all.entry(*id).or_default().push(match verdict {
            Verdict::Delivered => Seen::Delivered,
            Verdict::Dead(DeadReason::Gone) => Seen::Gone { first },
            Verdict::RetryAt(_) | Verdict::Dead(_) => Seen::Failed { first },
        });
    }
    all
}

/// One that has just delivered is well, whatever another delivery came to meanwhile; but gone is gone.
fn weigh_all(before: &Concerned, mut seen: Vec<Seen>, now: Millis) -> Weighed {
    if seen.contains(&Seen::Delivered) {
        seen.retain(|s| !matches!(s, Seen::Failed { .. }));
    }
    seen.sort_unstable();
    let mut weighed = Weighed { health: before.health, reason: None, notices: Vec::new() };
    for seen in seen {
        let (health, notice) = weigh(weighed.health, seen, now);
        if let Some(notice) = notice {
            let (reason, told_of) = match notice {
                Notice::Failing => (None, health),
                Notice::Recovered => (None, weighed.health),
                Notice::Disabled(reason) => (Some(reason), health),
            };
            weighed.reason = reason.or(weighed.reason);
            weighed.notices.push((notice, endpoint_notice(before, told_of, reason)));
        }
        weighed.health = health;
    }
    weighed
}

fn endpoint_notice(of: &Concerned, health: Health, reason: Option<Reason>) -> EndpointNotice {
    EndpointNotice {
        endpoint_id: of.id,
        account: of.account.clone(),
        url: of.url.clone(),
        reason: reason.map(Reason::as_str),
        since: health.failing_since,
        failed: health.failed,
    }
}

fn concerned(row: &Row) -> Result<Concerned> {
    let told = row.text(6)?;
    let told = Told::from_word(&told).ok_or(Error::Bug(told))?;
    Ok(Concerned {
        id: row.id(0)?,
        tenant: row.id(1)?,
        account: row.text_opt(2)?.filter(|account| !account.is_empty()),
        url: row.text(3)?,
        health: Health { failing_since: row.time_opt(4)?, failed: row.count(5)?, told },
    })
}

fn written(id: EndpointId, weighed: &Weighed) -> Vec<Value> {
    let Health { failing_since, failed, told } = weighed.health;
    args![id, failing_since, failed, told.as_str(), weighed.reason.map(Reason::as_str)]
}
