//! Redrives: a filter over dead letters or ended deliveries, worked off in bounded steps that survive a restart.

use super::Store;
use super::batch::Sql;
use super::db::{Row, Value};
use super::dead_letters::{lock, reopen};
use super::error::{Error, Result};
use super::jobs::Filter;
use super::model::{PageOf, ReplayOf};
use super::pool::Tx;
use crate::args;
use crate::types::delivery::DeliveryState;
use crate::types::{DeliveryId, Millis, RedriveId, TenantId, api, id};

/// Letters queued again in one transaction.
const STEP: u32 = 200;
/// Into how many steps the letters of a second are cut where a rate is given.
const STEPS_A_SECOND: u32 = 5;

macro_rules! columns {
    () => {
        "SELECT id, state, matched, redriven, created_at, ended_at, source, skipped FROM redrives"
    };
}

static START: Sql = Sql::plain(
    "INSERT INTO redrives (id, tenant_id, filter, rate_per_second, state, matched, redriven, skipped, next_at, created_at,
                           source)
     VALUES ($1, $2, $3, $4, 'running', $5, 0, 0, $6, $6, $7)",
);
const ONE: &str = concat!(columns!(), " WHERE id = $1 AND tenant_id = $2");
const LIST: &str = concat!(columns!(), " WHERE tenant_id = $1");
static CANCEL: Sql = Sql::plain(
    "UPDATE redrives SET state = 'cancelled', ended_at = $3, next_at = NULL
     WHERE id = $1 AND tenant_id = $2 AND state = 'running'",
);
static NEXT: Sql = Sql::plain(
    "SELECT q.id, q.tenant_id, q.filter, q.rate_per_second, q.cursor_id, q.created_at, q.next_at, q.source
     FROM redrives q
     WHERE q.state = 'running' AND q.next_at <= $1 ORDER BY q.next_at LIMIT 1 {lock}",
);
static ADVANCE: Sql = Sql::plain(
    "UPDATE redrives SET redriven = redriven + $2, cursor_id = $3, next_at = $4, state = $5, ended_at = $6,
            skipped = skipped + $7
     WHERE id = $1",
);
static STILL_THERE: Sql = Sql::plain("SELECT x.delivery_id FROM dead_letters x WHERE x.delivery_id = $1");
const LETTERS: &str = "SELECT delivery_id FROM dead_letters WHERE tenant_id = $1";
const DELIVERIES: &str = "SELECT id FROM deliveries WHERE tenant_id = $1";
const COUNT_LETTERS: &str = "SELECT COUNT(*) FROM dead_letters WHERE tenant_id = $1";
const COUNT_DELIVERIES: &str = "SELECT COUNT(*) FROM deliveries WHERE tenant_id = $1";

impl Store {
    /// Begins to queue again what matches now.
    pub async fn start_redrive(
        &self,
        tenant: TenantId,
        (of, filter): (ReplayOf, &api::ReplayFilter),
        rate_per_second: Option<u32>,
        now: Millis,
    ) -> Result<api::Redrive> {
        let matched = self.count_matching(tenant, of, filter).await?;
        let id: RedriveId = self.0.dice.id(now);
        let text = serde_json::to_string(filter).map_err(|e| Error::Bug(e.to_string()))?;
        let mut tx = self.0.writers.begin().await?;
        let matched_i = i64::try_from(matched).unwrap_or(i64::MAX);
        tx.run(&START, args![id, tenant, text, rate_per_second, matched_i, now, of.as_str()]).await?;
        tx.commit().await?;
        self.redrive(tenant, id).await
    }

    /// How many match.
    pub async fn count_matching(
        &self,
        tenant: TenantId,
        of: ReplayOf,
        filter: &api::ReplayFilter,
    ) -> Result<u64> {
        let base = match of {
            ReplayOf::Letters => COUNT_LETTERS,
            ReplayOf::Deliveries => COUNT_DELIVERIES,
        };
        let (sql, args) = matching(base, tenant, of, filter).finish();
        let rows = self.read(sql, args).await?;
        let n = rows.first().map_or(Ok(0), |r| r.int(0))?;
        Ok(u64::try_from(n).unwrap_or(0))
    }

    /// How far a redrive is.
    pub async fn redrive(&self, tenant: TenantId, id: RedriveId) -> Result<api::Redrive> {
        redrive(self.read(ONE, args![id, tenant]).await?.first().ok_or(Error::NotFound)?)
    }

    /// The tenant's redrives, newest first.
    pub async fn redrives(&self, tenant: TenantId, page: PageOf<id::Redrive>) -> Result<Vec<api::Redrive>> {
        let (sql, args) = Filter::new(LIST, args![tenant]).page("id", page);
        self.read(sql, args).await?.iter().map(redrive).collect()
    }

    /// Stops a redrive; what it queued stays queued.
    pub async fn cancel_redrive(&self, tenant: TenantId, id: RedriveId, now: Millis) -> Result<api::Redrive> {
        let mut tx = self.0.writers.begin().await?;
        tx.run(&CANCEL, args![id, tenant, now]).await?;
        tx.commit().await?;
        self.redrive(tenant, id).await
    }

    /// Does one step of one redrive that is due. False if none was. Any node may do it.
    pub async fn step_redrive(&self, now: Millis) -> Result<bool> {
        let mut tx = self.0.writers.begin().await?;
        let rows = tx.all(&NEXT, args![now]).await?;
        let Some(row) = rows.first() else {
            tx.rollback().await?;
            return Ok(false);
        };
        let (id, tenant): (RedriveId, TenantId) = (row.id(0)?, row.id(1)?);
        let mut filter: api::ReplayFilter =
            serde_json::from_str(&row.text(2)?).map_err(|e| Error::Bug(format!("stored filter: {e}")))?;
        let started = row.time(5)?;
        // A letter that died after the start, perhaps by this very redrive, is not sent for ever.
        filter.until = Some(filter.until.map_or(started.plus(std::time::Duration::from_millis(1)), |u| {
            u.min(started.plus(std::time::Duration::from_millis(1)))
        }));
        let rate = row.int_opt(3)?.and_then(|r| u32::try_from(r).ok());
        let cursor: Option<DeliveryId> = row.id_opt(4)?;
        let step = rate.map_or(STEP, |r| r.div_ceil(STEPS_A_SECOND).min(STEP));
        let of = ReplayOf::of(&row.text(7)?)?;
        let (sql, args) = bite(tenant, of, &filter, cursor, step);
        let found = tx.all_text(sql, args).await?;
        let mut redriven = 0i64;
        for one in &found {
            redriven += i64::from(again(&mut tx, tenant, one.id(0)?, (of, &filter), now).await?);
        }
        let last = found.last().map(|r| r.id::<id::Delivery>(0)).transpose()?.or(cursor);
        let done = found.len() < step as usize;
        let pause = rate.map_or(0, |r| i64::from(step) * 1000 / i64::from(r.max(1)));
        let (state, ended) = if done { ("done", Some(now)) } else { ("running", None) };
        // From when the step was due, not from when someone came to do it; of a long silence one second is made up.
        let from = row.time(6)?.max(now.minus(std::time::Duration::from_secs(1)));
        let next = (!done).then_some(Millis(from.0 + pause));
        let skipped = i64::try_from(found.len()).unwrap_or(i64::MAX) - redriven;
        tx.run(&ADVANCE, args![id, redriven, last, next, state, ended, skipped]).await?;
        tx.commit().await?;
        Ok(true)
    }
}

impl ReplayOf {
    const fn as_str(self) -> &'static str {
        match self {
            ReplayOf::Letters => "letters",
            ReplayOf::Deliveries => "deliveries",
        }
    }

    fn of(word: &str) -> Result<ReplayOf> {
        let all = [ReplayOf::Letters, ReplayOf::Deliveries];
        all.into_iter().find(|of| of.as_str() == word).ok_or_else(|| Error::Bug(format!("source {word}")))
    }
}

/// The next `step` that match, behind the cursor.
fn bite(
    tenant: TenantId,
    of: ReplayOf,
    filter: &api::ReplayFilter,
    cursor: Option<DeliveryId>,
    step: u32,
) -> (&'static str, Vec<Value>) {
    let (base, behind, order) = match of {
        ReplayOf::Letters => (LETTERS, "delivery_id > {}", " ORDER BY delivery_id LIMIT "),
        ReplayOf::Deliveries => (DELIVERIES, "id > {}", " ORDER BY id LIMIT "),
    };
    let mut f = matching(base, tenant, of, filter);
    f.and_some(behind, cursor);
    f.args.push(step.into());
    let n = f.args.len();
    f.push(&format!("{order}${n}"));
    f.finish()
}

/// Queues one of them again, if it is still what was looked for: it may have been sent again or discarded since, or
/// its endpoint be deleted.
async fn again(
    tx: &mut Tx,
    tenant: TenantId,
    id: DeliveryId,
    (of, filter): (ReplayOf, &api::ReplayFilter),
    now: Millis,
) -> Result<bool> {
    let state = lock(tx, tenant, id).await?;
    let still = match of {
        ReplayOf::Letters => state == "dead" && !tx.all(&STILL_THERE, args![id]).await?.is_empty(),
        ReplayOf::Deliveries => state == wanted(filter).as_str(),
    };
    Ok(still && reopen(tx, id, now).await?)
}

fn wanted(filter: &api::ReplayFilter) -> DeliveryState {
    filter.state.unwrap_or(DeliveryState::Dead)
}

/// What a replay's filter finds in `base`, which is dead letters or deliveries.
pub(super) fn matching(
    base: &'static str,
    tenant: TenantId,
    of: ReplayOf,
    filter: &api::ReplayFilter,
) -> Filter {
    let mut f = Filter::new(base, args![tenant]);
    f.and_some("job_id = {}", filter.job_id);
    f.and_some("endpoint_id = {}", filter.endpoint_id);
    f.and_some("account = {}", filter.account.clone());
    f.and_some("host = {}", filter.host.clone());
    f.and_some("event_kind = {}", filter.kind.clone());
    let key = match of {
        ReplayOf::Letters => {
            f.and_some("(reason = {} OR last_error = {})", filter.reason.clone());
            f.and_some("died_at >= {}", filter.since);
            f.and_some("died_at < {}", filter.until);
            "delivery_id"
        }
        ReplayOf::Deliveries => {
            // As literals, or the partial indexes are not taken.
            f.push(match wanted(filter) {
                DeliveryState::Delivered => " AND state = 'delivered'",
                DeliveryState::Cancelled => " AND state = 'cancelled'",
                DeliveryState::Dead => " AND state = 'dead'",
                DeliveryState::Pending | DeliveryState::InFlight | DeliveryState::Held => " AND 1 = 0",
            });
            f.and_some(
                "(last_error = {} OR EXISTS (SELECT 1 FROM dead_letters m WHERE m.delivery_id = deliveries.id
                                             AND m.reason = {}))",
                filter.reason.clone(),
            );
            f.and_some("ended_at >= {}", filter.since);
            f.and_some("ended_at < {}", filter.until);
            // Nothing ends before it is made, which its id tells.
            f.and_some("id < {}", filter.until.map(|at| DeliveryId::mint(at, [0; 10])));
            "id"
        }
    };
    if let Some(ids) = &filter.ids {
        among(&mut f, key, ids);
    }
    f
}

/// Padded to a few lengths with one that is there already: each length is a statement of its own, kept for good.
fn among(f: &mut Filter, key: &str, ids: &[DeliveryId]) {
    let length = [1, 10, 100, 1_000].into_iter().find(|n| *n >= ids.len()).unwrap_or(ids.len());
    let places: Vec<String> = ids
        .iter()
        .cycle()
        .take(if ids.is_empty() { 0 } else { length })
        .map(|id| {
            f.args.push((*id).into());
            format!("${}", f.args.len())
        })
        .collect();
    let list = if places.is_empty() { "NULL".to_owned() } else { places.join(", ") };
    f.push(&format!(" AND {key} IN ({list})"));
}

fn redrive(row: &Row) -> Result<api::Redrive> {
    let big = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(api::Redrive {
        redrive_id: row.id(0)?,
        of: match ReplayOf::of(&row.text(6)?)? {
            ReplayOf::Letters => "deadLetters",
            ReplayOf::Deliveries => "deliveries",
        }
        .to_owned(),
        state: row.text(1)?,
        matched: big(row.int(2)?),
        redriven: big(row.int(3)?),
        skipped: big(row.int(7)?),
        created_at: row.time(4)?,
        ended_at: row.time_opt(5)?,
    })
}
