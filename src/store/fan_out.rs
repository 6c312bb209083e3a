//! Fan-outs: the endpoints of an event that its transaction had no room for, told in chunks.
//!
//! Who is told, and with which bytes, was fixed when the event happened; a step only makes the deliveries that are still
//! missing. Any node takes it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::batch::{Col, Sql};
use super::db::Row;
use super::emit::{AT_ONCE, After, NewDelivery, Outbox, To};
use super::error::{Error, Result};
use super::lanes::origin_of;
use super::pool::Tx;
use super::{Inner, Store, subscribers};
use crate::args;
use crate::types::endpoint::Endpoint;
use crate::types::{EndpointId, EventId, Millis};

macro_rules! told_later_due {
    () => {
        "q.due_at <= $1"
    };
}
pub(super) use told_later_due;
// Of the tenants after the one that was last told, each the oldest first; each row is locked for as long as its step lasts,
// so two nodes never make one chunk twice.
pub(super) static NEXT: Sql = Sql::plain(concat!(
    "SELECT q.event_id, q.variant, q.tenant_id, q.job_id, q.traceparent, q.endpoints, q.done, e.kind, e.created_at, o.body
     FROM fan_outs q LEFT JOIN events e ON e.id = q.event_id
     LEFT JOIN bodies o ON o.event_id = q.event_id AND o.variant = q.variant
     WHERE ",
    told_later_due!(),
    " AND q.tenant_id > $2 ORDER BY q.tenant_id, q.event_id, q.variant LIMIT $3 {lock}"
));
pub(super) static ADVANCE: Sql =
    Sql::plain("UPDATE fan_outs SET done = $3 WHERE event_id = $1 AND variant = $2");
pub(super) static FINISH: Sql = Sql::plain("DELETE FROM fan_outs WHERE event_id = $1 AND variant = $2");
pub(super) static POSTPONE: Sql =
    Sql::plain("UPDATE fan_outs SET due_at = $3 WHERE event_id = $1 AND variant = $2");
pub(super) static URLS: Sql =
    Sql::batch("SELECT e.id, e.url FROM {b} JOIN endpoints e ON e.id = b.id", 0, &[("id", Col::Uuid)]);

/// The bytes of an id.
const WIDTH: usize = 16;
/// Fan-outs that one step looks at, with their bodies.
const SOME: u32 = 50;
/// When one that cannot be told is looked at again.
const UNTELLABLE: Duration = Duration::from_secs(300);
/// ... and one that needs what another transaction holds. To find that out takes more than a second, so that many of them
/// would keep their tenant's others waiting if they came again soon.
const HELD: Duration = Duration::from_secs(30);

impl Store {
    /// One chunk of the oldest fan-outs of the tenants whose turn it is; gives how many deliveries that were. Zero: none is
    /// left, or another node has them in hand.
    ///
    /// One that cannot be told is put off, so that it keeps back no other; so is one that needs a lane which another
    /// transaction holds, but not for long.
    pub async fn step_fan_outs(&self, now: Millis) -> Result<usize> {
        match self.tell_some(SOME, now).await {
            // It is one of them: alone each is told, or known as the one.
            Err(e) if e.may_be_one_of_them() => self.tell_some(1, now).await,
            told => told,
        }
    }

    async fn tell_some(&self, most: u32, now: Millis) -> Result<usize> {
        let last = self.0.told_last.get();
        let mut tx = self.0.writers.begin().await?;
        let mut rows = tx.all(&NEXT, args![now, last, most]).await?;
        if rows.is_empty() && !last.is_nil() {
            rows = tx.all(&NEXT, args![now, Uuid::nil(), most]).await?;
        }
        let Some(first) = rows.first() else {
            tx.rollback().await?;
            return Ok(0);
        };
        let step = match tell(&self.0, &mut tx, &rows, now).await {
            // On PostgreSQL it is only now that the database sees the rows, and may refuse them.
            Ok(step) => tx.commit().await.map(|()| step),
            Err(e) => {
                let _ = tx.rollback().await;
                Err(e)
            }
        };
        match step {
            Ok(mut step) => {
                step.after.pass();
                self.0.told_last.set(step.tenant);
                Ok(step.endpoints)
            }
            Err(e) if most > 1 => Err(e),
            Err(e) => {
                let (id, variant, tenant): (EventId, _, _) = (first.id(0)?, first.text(1)?, first.uuid(2)?);
                self.0.told_last.set(tenant);
                let held = matches!(e, Error::Locked(_));
                if !held && !e.is_its_own() {
                    return Err(e);
                }
                let mut tx = self.0.writers.begin().await?;
                tx.run(&POSTPONE, args![id, variant, now.plus(if held { HELD } else { UNTELLABLE })]).await?;
                tx.commit().await?;
                if held {
                    tracing::warn!(event.id = %id, "an event is to be told to a lane that is held and is put off");
                    return Err(e);
                }
                tracing::error!(event.id = %id, error = %e, "an event cannot be told to all who are to hear of it and is put off");
                Ok(1)
            }
        }
    }
}

/// What one step came to.
struct Step {
    after: After,
    /// How many were told.
    endpoints: usize,
    /// The last one that had its turn.
    tenant: Uuid,
}

async fn tell(inner: &Inner, tx: &mut Tx, rows: &[Row], now: Millis) -> Result<Step> {
    let chunks = chunks(rows)?;
    let ids: BTreeSet<EndpointId> = chunks.iter().flat_map(|c| c.ids.iter().copied()).collect();
    let gone_urls = urls(tx, &ids).await?;
    let known = subscribers::named(inner, tx, ids, now).await?;
    let mut out = Outbox::new(inner, now);
    // Nobody repeats it without, if others hold their rows.
    out.leaves_lanes();
    for chunk in &chunks {
        let to = chunk.ids.iter().filter_map(|id| receiver(*id, &known, &gone_urls));
        chunk.tell(&mut out, to)?;
        let (id, variant) = (chunk.row.uuid(0)?, chunk.row.text(1)?);
        match chunk.last {
            true => tx.run(&FINISH, args![id, variant]).await?,
            false => tx.run(&ADVANCE, args![id, variant, chunk.done]).await?,
        };
    }
    let tenant = chunks.last().map_or(Ok(Uuid::nil()), |c| c.row.uuid(2))?;
    let endpoints = chunks.iter().map(|c| c.ids.len()).sum();
    Ok(Step { after: out.write(tx).await?, endpoints, tenant })
}

/// What one step makes of one fan-out.
struct Chunk<'r> {
    row: &'r Row,
    ids: Vec<EndpointId>,
    /// How many will have been told.
    done: i64,
    last: bool,
}

/// As many as one transaction makes, over these fan-outs.
fn chunks(rows: &[Row]) -> Result<Vec<Chunk<'_>>> {
    let mut room = AT_ONCE;
    let mut chunks = Vec::new();
    for row in rows.iter() {
        if room == 0 {
            break;
        }
        let all = row.bytes(5)?;
        let done = usize::try_from(row.int(6)?).unwrap_or_default();
        let ids: Vec<EndpointId> = all
            .chunks_exact(WIDTH)
            .skip(done)
            .take(room)
            .filter_map(|bytes| Some(EndpointId::from_uuid(Uuid::from_slice(bytes).ok()?)))
            .collect();
        room -= ids.len();
        let told = done + ids.len();
        let done = i64::try_from(told).unwrap_or(i64::MAX);
        chunks.push(Chunk { row, ids, done, last: told * WIDTH >= all.len() });
    }
    Ok(chunks)
}

impl Chunk<'_> {
    fn tell<'k>(&self, out: &mut Outbox<'_>, to: impl Iterator<Item = To<'k>>) -> Result<()> {
        let row = self.row;
        let variant = row.text(1)?;
        let missing = |what: &str| Error::Bug(format!("its {what} is missing"));
        let kind = row.text_opt(7)?.ok_or_else(|| missing("event"))?;
        let body = row.text_opt(9)?.ok_or_else(|| missing("body"))?;
        let trace = row.text_opt(4)?;
        for to in to {
            let endpoint = match to {
                To::Endpoint(endpoint) => Some(endpoint),
                To::Url(_) | To::Gone(..) => None,
            };
            out.delivery(&NewDelivery {
                event_id: row.id(0)?,
                event_kind: &kind,
                event_at: row.time(8)?,
                variant: &variant,
                body: &body,
                job_id: row.id_opt(3)?,
                signer: endpoint.map(|e| e.id),
                policy: endpoint.map(|e| e.settings.retry).unwrap_or_default(),
                traceparent: trace.as_deref(),
                ..NewDelivery::of(row.id(2)?, to)
            })?;
        }
        Ok(())
    }
}

/// Where the endpoint is; a deleted one's delivery is made cancelled, and none once all traces of it are gone.
fn receiver<'k>(
    id: EndpointId,
    known: &'k HashMap<EndpointId, Option<Arc<Endpoint>>>,
    gone_urls: &'k HashMap<EndpointId, String>,
) -> Option<To<'k>> {
    match known.get(&id).and_then(Option::as_deref) {
        Some(endpoint) => Some(To::Endpoint(endpoint)),
        None => gone_urls.get(&id).map(|url| To::Gone(id, url)),
    }
}

async fn urls(tx: &mut Tx, ids: &BTreeSet<EndpointId>) -> Result<HashMap<EndpointId, String>> {
    let rows = tx.batch(&URLS, vec![], ids.iter().map(|id| args![*id]).collect()).await?;
    let mut urls = HashMap::with_capacity(rows.len());
    for row in &rows {
        let url = row.text(1)?;
        // That of a deleted one, if it is none, is a trace that says nothing.
        if origin_of(&url).is_ok() {
            urls.insert(row.id(0)?, url);
        }
    }
    Ok(urls)
}
