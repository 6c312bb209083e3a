//! Redrives: a filter over dead letters, worked off in bounded steps that survive a restart.

use super::Store;
use super::batch::Sql;
use super::db::Row;
use super::dead_letters::{letters, lock, reopen};
use super::error::{Error, Result};
use super::jobs::Filter;
use super::model::PageOf;
use crate::args;
use crate::types::{DeliveryId, Millis, RedriveId, TenantId, api, id};

/// Letters queued again in one transaction.
const STEP: u32 = 200;
/// Into how many steps the letters of a second are cut where a rate is given.
const STEPS_A_SECOND: u32 = 5;

macro_rules! columns {
    () => {
        "SELECT id, state, matched, redriven, created_at, ended_at FROM redrives"
    };
}

static START: Sql = Sql::plain(
    "INSERT INTO redrives (id, tenant_id, filter, rate_per_second, state, matched, redriven, next_at, created_at)
     VALUES ($1, $2, $3, $4, 'running', $5, 0, $6, $6)",
);
const ONE: &str = concat!(columns!(), " WHERE id = $1 AND tenant_id = $2");
const LIST: &str = concat!(columns!(), " WHERE tenant_id = $1");
static CANCEL: Sql = Sql::plain(
    "UPDATE redrives SET state = 'cancelled', ended_at = $3, next_at = NULL
     WHERE id = $1 AND tenant_id = $2 AND state = 'running'",
);
static NEXT: Sql = Sql::plain(
    "SELECT q.id, q.tenant_id, q.filter, q.rate_per_second, q.cursor_id, q.created_at, q.next_at FROM redrives q
     WHERE q.state = 'running' AND q.next_at <= $1 ORDER BY q.next_at LIMIT 1 {lock}",
);
static ADVANCE: Sql = Sql::plain(
    "UPDATE redrives SET redriven = redriven + $2, cursor_id = $3, next_at = $4, state = $5, ended_at = $6
     WHERE id = $1",
);
static STILL_THERE: Sql = Sql::plain("DELETE FROM dead_letters WHERE delivery_id = $1");
const MATCHING: &str = "SELECT delivery_id FROM dead_letters WHERE tenant_id = $1";

impl Store {
    /// Begins to queue again what matches now.
    pub async fn start_redrive(
        &self,
        tenant: TenantId,
        filter: &api::ReplayFilter,
        rate_per_second: Option<u32>,
        now: Millis,
    ) -> Result<api::Redrive> {
        let matched = self.count_dead_letters(tenant, filter).await?;
        let id: RedriveId = self.0.dice.id(now);
        let text = serde_json::to_string(filter).map_err(|e| Error::Bug(e.to_string()))?;
        let mut tx = self.0.writers.begin().await?;
        let matched_i = i64::try_from(matched).unwrap_or(i64::MAX);
        tx.run(&START, args![id, tenant, text, rate_per_second, matched_i, now]).await?;
        tx.commit().await?;
        self.redrive(tenant, id).await
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
        let mut f = letters(MATCHING, tenant, &filter);
        f.and_some("delivery_id > {}", cursor);
        f.args.push(step.into());
        let n = f.args.len();
        f.push(&format!(" ORDER BY delivery_id LIMIT ${n}"));
        let (sql, args) = f.finish();
        let found = tx.all_text(sql, args).await?;
        let mut redriven = 0i64;
        for letter in &found {
            // Only what is still dead: a letter may have been discarded or replayed since it was read.
            let id = letter.id(0)?;
            if lock(&mut tx, tenant, id).await? == "dead" && tx.run(&STILL_THERE, args![id]).await? > 0 {
                redriven += i64::from(reopen(&mut tx, id, now).await?);
            }
        }
        let last = found.last().map(|r| r.id::<id::Delivery>(0)).transpose()?.or(cursor);
        let done = found.len() < step as usize;
        let pause = rate.map_or(0, |r| i64::from(step) * 1000 / i64::from(r.max(1)));
        let (state, ended) = if done { ("done", Some(now)) } else { ("running", None) };
        // From when the step was due, not from when someone came to do it; of a long silence one second is made up.
        let from = row.time(6)?.max(now.minus(std::time::Duration::from_secs(1)));
        let next = (!done).then_some(Millis(from.0 + pause));
        tx.run(&ADVANCE, args![id, redriven, last, next, state, ended]).await?;
        tx.commit().await?;
        Ok(true)
    }
}

fn redrive(row: &Row) -> Result<api::Redrive> {
    let big = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(api::Redrive {
        redrive_id: row.id(0)?,
        state: row.text(1)?,
        matched: big(row.int(2)?),
        redriven: big(row.int(3)?),
        created_at: row.time(4)?,
        ended_at: row.time_opt(5)?,
    })
}
