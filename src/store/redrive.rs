//! Redrives: a filter over dead letters or ended deliveries, worked off in bounded steps that survive a restart.

mod matching;

use std::time::Duration;

use uuid::Uuid;

use super::Store;
use super::batch::{Col, Sql};
use super::db::Row;
use super::error::{Error, Result};
use super::list::Filter;
use super::model::{Matched, PageOf, ReplayOf};
use super::pool::Tx;
use super::reopen::{lock, reopen};
use super::secrets::LOCK_TENANT;
use crate::args;
use crate::types::delivery::DeliveryState;
use crate::types::{DeliveryId, Millis, RedriveId, TenantId, api, id};
use matching::{bite, count, edge, wanted};
pub(super) use matching::{is_direct, matching};

/// Letters queued again in one transaction.
const STEP: u32 = 200;
/// Into how many steps the letters of a second are cut where a rate is given.
const STEPS_A_SECOND: u32 = 5;
/// So many are looked at in one transaction, however few of them match.
const LOOKED: u32 = 10_000;
/// ... and counted before a redrive starts.
const COUNTED: u32 = 100_000;
/// So many of a tenant run at once: each takes its steps in turn, so more of them would only take longer.
const RUNNING: u32 = 100;
/// A step that failed is tried again so much later.
const TRY_AGAIN: Duration = Duration::from_secs(5);

macro_rules! columns {
    () => {
        "SELECT id, state, matched, redriven, created_at, ended_at, source, skipped, at_least, filter, rate_per_second
         FROM redrives"
    };
}

static START: Sql = Sql::plain(
    "INSERT INTO redrives (id, tenant_id, filter, rate_per_second, state, matched, redriven, skipped, next_at, created_at,
                           source, at_least, account)
     VALUES ($1, $2, $3, $4, 'running', $5, 0, 0, $6, $6, $7, $8, $9)",
);
const ONE: &str = concat!(columns!(), " WHERE id = $1 AND tenant_id = $2");
static RUNNING_NOW: Sql =
    Sql::plain("SELECT id FROM redrives WHERE tenant_id = $1 AND state = 'running' LIMIT $2");
const LIST: &str = concat!(columns!(), " WHERE tenant_id = $1");
static CANCEL: Sql = Sql::plain(
    "UPDATE redrives SET state = 'cancelled', ended_at = $3, next_at = NULL
     WHERE id = $1 AND tenant_id = $2 AND state = 'running'",
);
macro_rules! step_due {
    () => {
        "q.state = 'running' AND q.next_at <= $1"
    };
}
pub(super) use step_due;
// Of the tenant whose turn it is the one that has waited longest.
static NEXT: Sql = Sql::plain(concat!(
    "SELECT q.id, q.tenant_id, q.filter, q.rate_per_second, q.cursor_id, q.created_at, q.next_at, q.source
     FROM redrives q
     WHERE ",
    step_due!(),
    " AND q.tenant_id > $2 ORDER BY q.tenant_id, q.next_at, q.id LIMIT 1 {lock}"
));
static ADVANCE: Sql = Sql::plain(
    "UPDATE redrives SET redriven = redriven + $2, cursor_id = $3, next_at = $4, state = $5, ended_at = $6,
            skipped = skipped + $7
     WHERE id = $1",
);
static PUT_OFF: Sql = Sql::plain("UPDATE redrives SET next_at = $2 WHERE id = $1 AND state = 'running'");
static STILL_THERE: Sql = Sql::batch(
    "SELECT x.delivery_id FROM {b} JOIN dead_letters x ON x.delivery_id = b.id",
    0,
    &[("id", Col::Uuid)],
);

impl Store {
    /// Begins to queue again what matches now. [`Error::TooManyRedrives`] where as many of the tenant run as may.
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
        let (count, at_least) =
            (i64::try_from(matched.count).unwrap_or(i64::MAX), i64::from(matched.at_least));
        let mut tx = self.0.writers.begin().await?;
        // The tenant's row is the lock: two requests must not both see room for the last one.
        tx.all(&LOCK_TENANT, args![tenant]).await?;
        if tx.all(&RUNNING_NOW, args![tenant, RUNNING]).await?.len() >= RUNNING as usize {
            tx.rollback().await?;
            return Err(Error::TooManyRedrives(RUNNING));
        }
        let (of, account) = (of.as_str(), filter.account.clone());
        tx.run(&START, args![id, tenant, text, rate_per_second, count, now, of, at_least, account]).await?;
        tx.commit().await?;
        self.redrive(tenant, id).await
    }

    /// How many match; of a tenant with very many only the newest are looked at.
    pub async fn count_matching(
        &self,
        tenant: TenantId,
        of: ReplayOf,
        filter: &api::ReplayFilter,
    ) -> Result<Matched> {
        let older: Option<DeliveryId> = match is_direct(filter) {
            true => None,
            false => {
                let (sql, args) = edge(tenant, of, filter, None, ("DESC", COUNTED));
                self.read(sql, args).await?.first().map(|r| r.id(0)).transpose()?
            }
        };
        let (sql, args) = count(tenant, of, filter, older);
        let rows = self.read(sql, args).await?;
        let n = rows.first().map_or(Ok(0), |r| r.int(0))?;
        Ok(Matched { count: u64::try_from(n).unwrap_or(0), at_least: older.is_some() })
    }

    /// How far a redrive is.
    pub async fn redrive(&self, tenant: TenantId, id: RedriveId) -> Result<api::Redrive> {
        redrive(self.read(ONE, args![id, tenant]).await?.first().ok_or(Error::NotFound)?)
    }

    /// The tenant's redrives, newest first; only those of some accounts where these are given.
    pub async fn redrives(
        &self,
        tenant: TenantId,
        accounts: Option<&[String]>,
        page: PageOf<id::Redrive>,
    ) -> Result<Vec<api::Redrive>> {
        let mut f = Filter::new(LIST, args![tenant]);
        if let Some(accounts) = accounts {
            f.any("account", accounts);
        }
        let (sql, args) = f.page("id", page);
        self.read(sql, args).await?.iter().map(redrive).collect()
    }

    /// Stops a redrive; what it queued stays queued.
    pub async fn cancel_redrive(&self, tenant: TenantId, id: RedriveId, now: Millis) -> Result<api::Redrive> {
        let mut tx = self.0.writers.begin().await?;
        tx.run(&CANCEL, args![id, tenant, now]).await?;
        tx.commit().await?;
        self.redrive(tenant, id).await
    }

    /// Does one step of one redrive that is due. False if none was. Any node may do it, and tenants take turns.
    ///
    /// One whose step fails is put off, so that it keeps back no other.
    pub async fn step_redrive(&self, now: Millis) -> Result<bool> {
        let last = self.0.redriven_last.get();
        let mut tx = self.0.writers.begin().await?;
        let mut rows = tx.all(&NEXT, args![now, last]).await?;
        if rows.is_empty() && !last.is_nil() {
            rows = tx.all(&NEXT, args![now, Uuid::nil()]).await?;
        }
        let Some(row) = rows.first() else {
            tx.rollback().await?;
            return Ok(false);
        };
        self.0.redriven_last.set(row.uuid(1)?);
        let stepped = step(&mut tx, row, now).await;
        let Err(e) = stepped else {
            tx.commit().await?;
            return Ok(true);
        };
        let _ = tx.rollback().await;
        let id: RedriveId = row.id(0)?;
        let mut tx = self.0.writers.begin().await?;
        tx.run(&PUT_OFF, args![id, now.plus(TRY_AGAIN)]).await?;
        tx.commit().await?;
        tracing::error!(redrive.id = %id, error = %e, "a step of a redrive failed and is put off");
        Ok(true)
    }
}

async fn step(tx: &mut Tx, row: &Row, now: Millis) -> Result<()> {
    let (id, tenant): (RedriveId, TenantId) = (row.id(0)?, row.id(1)?);
    let mut filter: api::ReplayFilter =
        serde_json::from_str(&row.text(2)?).map_err(|e| Error::Bug(format!("stored filter: {e}")))?;
    let started = row.time(5)?;
    // A letter that died after the start, perhaps by this very redrive, is not sent for ever.
    let end = started.plus(Duration::from_millis(1));
    filter.until = Some(filter.until.map_or(end, |until| until.min(end)));
    let rate = row.int_opt(3)?.and_then(|r| u32::try_from(r).ok());
    let cursor: Option<DeliveryId> = row.id_opt(4)?;
    let step = rate.map_or(STEP, |r| r.div_ceil(STEPS_A_SECOND).min(STEP));
    let of = ReplayOf::of(&row.text(7)?)?;
    let seen = match is_direct(&filter) {
        true => None,
        false => {
            let (sql, args) = edge(tenant, of, &filter, cursor, ("ASC", LOOKED - 1));
            tx.all_text(sql, args).await?.first().map(|r| r.id::<id::Delivery>(0)).transpose()?
        }
    };
    let (sql, args) = bite(tenant, of, &filter, (cursor, seen), step);
    let found = tx.all_text(sql, args).await?;
    let ids = found.iter().map(|row| row.id(0)).collect::<Result<Vec<DeliveryId>>>()?;
    let redriven = i64::try_from(again(tx, tenant, &ids, (of, &filter), now).await?).unwrap_or(i64::MAX);
    let full = found.len() == step as usize;
    let last = if full { ids.last().copied() } else { seen };
    let done = last.is_none();
    let count = i64::try_from(found.len()).unwrap_or(i64::MAX);
    let pause = rate.map_or(0, |r| count * 1000 / i64::from(r.max(1)));
    let (state, ended) = if done { ("done", Some(now)) } else { ("running", None) };
    // From when the step was due, not from when someone came to do it; of a long silence one second is made up. One without a
    // rate, or with nothing to send, goes on behind all that is due.
    let from = if pause > 0 { row.time(6)?.max(now.minus(Duration::from_secs(1))) } else { now };
    let next = (!done).then_some(Millis(from.0 + pause));
    tx.run(&ADVANCE, args![id, redriven, last.or(cursor), next, state, ended, count - redriven])
        .await
        .map(drop)
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

/// Queues those again that are still what was looked for: one may have been sent again or discarded since, or its endpoint
/// be deleted. Gives how many that were.
async fn again(
    tx: &mut Tx,
    tenant: TenantId,
    ids: &[DeliveryId],
    (of, filter): (ReplayOf, &api::ReplayFilter),
    now: Millis,
) -> Result<usize> {
    let ended = match of {
        ReplayOf::Letters => DeliveryState::Dead,
        ReplayOf::Deliveries => wanted(filter),
    };
    let locked = lock(tx, tenant, ids).await?;
    let mut still: Vec<DeliveryId> =
        locked.into_iter().filter(|(_, state)| state == ended.as_str()).map(|(id, _)| id).collect();
    if of == ReplayOf::Letters {
        let rows = still.iter().map(|id| args![*id]).collect();
        still = tx.batch(&STILL_THERE, vec![], rows).await?.iter().map(|r| r.id(0)).collect::<Result<_>>()?;
    }
    reopen(tx, &still, now).await
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
        // One that cannot be read fails at each of its steps, and can still be looked at and cancelled.
        filter: serde_json::from_str(&row.text(9)?).ok(),
        rate_per_second: row.int_opt(10)?.and_then(|r| u32::try_from(r).ok()),
        state: row.text(1)?,
        matched: big(row.int(2)?),
        at_least: row.int(8)? != 0,
        redriven: big(row.int(3)?),
        skipped: big(row.int(7)?),
        created_at: row.time(4)?,
        ended_at: row.time_opt(5)?,
    })
}
