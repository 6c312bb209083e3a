//! What any node may do now and then: end what is overdue, remove what is past its retention.

use std::time::Duration;

use super::Store;
use super::batch::{Col, Sql};
use super::db::Row;
use super::error::Result;
use super::model::{JobChange, Right, What};
use crate::args;
use crate::types::Millis;

/// Rows per bite.
const BITE: u32 = 500;
/// A delivered or cancelled delivery is kept so long.
const KEEP_DELIVERIES: Duration = Duration::from_secs(7 * 24 * 3600);
/// A dead letter is kept so long.
const KEEP_LETTERS: Duration = Duration::from_secs(30 * 24 * 3600);
/// The stub of a purged job answers 410 so long.
const KEEP_STUBS: Duration = Duration::from_secs(30 * 24 * 3600);
/// A job that a delivery or a dead letter still needs is looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

const WATCHED: &str = "SELECT job_id, fence FROM job_queue WHERE watch_at <= $1 ORDER BY watch_at LIMIT $2";
const LOST: &str = "
    SELECT job_id, fence FROM job_queue WHERE attempts_left = 0 AND cancel_at IS NULL AND due_at <= $1 ORDER BY due_at LIMIT $2";

macro_rules! needed {
    () => {
        "EXISTS (SELECT 1 FROM deliveries d WHERE d.job_id = jobs.id
                 AND (d.state = 'owed' OR EXISTS (SELECT 1 FROM dead_letters x WHERE x.delivery_id = d.id)))"
    };
}

static POSTPONE: Sql = Sql::plain(concat!(
    "UPDATE jobs SET expires_at = $2
     WHERE id IN (SELECT j.id FROM jobs j WHERE j.expires_at <= $1 AND j.purged_at IS NULL ORDER BY j.expires_at LIMIT $3)
       AND ",
    needed!()
));
static PURGE: Sql = Sql::plain(concat!(
    "UPDATE jobs
     SET input = NULL, callback = NULL, sealed = NULL, metadata = '{}', error = NULL, result = NULL, result_type = NULL,
         result_url = NULL, reference = NULL, token = NULL, purged_at = $1, expires_at = $2
     WHERE id IN (SELECT j.id FROM jobs j WHERE j.expires_at <= $1 AND j.purged_at IS NULL
                  ORDER BY j.expires_at LIMIT $3)
       AND expires_at <= $1  -- asked of the row itself: a retry may have reopened it since the list was made
       AND NOT ",
    needed!(),
    " RETURNING id"
));
static DROP_STUBS: Sql = Sql::plain(
    "DELETE FROM jobs WHERE id IN (
         SELECT j.id FROM jobs j WHERE j.expires_at <= $1 AND j.purged_at IS NOT NULL ORDER BY j.expires_at LIMIT $2)",
);
static DROP_JOB_EVENTS: Sql = Sql::batch(
    "DELETE FROM events WHERE job_id IN (SELECT b.id FROM {b})
       AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = events.id)",
    0,
    &[("id", Col::Uuid)],
);
static OLD_LETTERS: Sql = Sql::plain(
    "DELETE FROM dead_letters WHERE delivery_id IN (
         SELECT x.delivery_id FROM dead_letters x WHERE x.died_at <= $1 ORDER BY x.died_at LIMIT $2)
     RETURNING delivery_id",
);
static OLD_DELIVERIES: Sql = Sql::plain(
    "DELETE FROM deliveries WHERE id IN (
         SELECT d.id FROM deliveries d
         WHERE d.ended_at <= $1 AND NOT EXISTS (SELECT 1 FROM dead_letters x WHERE x.delivery_id = d.id)
           -- a job shows its callback's state for as long as it is kept
           AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = d.job_id AND j.purged_at IS NULL)
         ORDER BY d.ended_at LIMIT $2)
     RETURNING id, event_id",
);
static DROP_ATTEMPTS: Sql =
    Sql::batch("DELETE FROM attempts WHERE delivery_id IN (SELECT b.id FROM {b})", 0, &[("id", Col::Uuid)]);
static DROP_BODIES: Sql = Sql::batch(
    "DELETE FROM bodies WHERE event_id IN (SELECT b.id FROM {b})
       AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = bodies.event_id)",
    0,
    &[("id", Col::Uuid)],
);
// A job's events go with the job, unless a delivery still told of them then.
static DROP_EVENTS: Sql = Sql::batch(
    "DELETE FROM events WHERE id IN (SELECT b.id FROM {b})
       AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = events.id)
       AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = events.job_id AND j.purged_at IS NULL)",
    0,
    &[("id", Col::Uuid)],
);
static MARK_DISCARDED: Sql = Sql::batch(
    "UPDATE deliveries SET discarded_at = $1 FROM {b} WHERE deliveries.id = b.id AND deliveries.state = 'dead'",
    1,
    &[("id", Col::Uuid)],
);
static OLD_KEYS: Sql = Sql::plain(
    "DELETE FROM idempotency
     WHERE (tenant_id, route, key) IN (
         SELECT i.tenant_id, i.route, i.key FROM idempotency i
         WHERE i.expires_at <= $1 AND NOT EXISTS (SELECT 1 FROM job_queue q WHERE q.job_id = i.job_id)
         ORDER BY i.expires_at LIMIT $2)",
);

impl Store {
    /// Jobs past a deadline, a time-out, a cancel's grace or their last lease; gives how many were looked at.
    pub async fn end_overdue(&self, now: Millis) -> Result<usize> {
        let mut rows = self.scout(WATCHED, args![now, BITE]).await?;
        rows.extend(self.scout(LOST, args![now, BITE]).await?);
        let mut changes: Vec<JobChange> = rows.iter().map(overdue).collect::<Result<_>>()?;
        changes.sort_unstable_by_key(|c| c.id);
        changes.dedup_by_key(|c| c.id);
        if changes.is_empty() {
            return Ok(0);
        }
        let looked_at = changes.len();
        for answer in self.change(changes, now).await? {
            match answer {
                // Another node or the holder was quicker.
                Ok(_) | Err(super::Error::LeaseLost | super::Error::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(looked_at)
    }

    /// Removes one bite of everything past its retention; gives how many rows went. Zero: all is clean.
    pub async fn retain(&self, now: Millis) -> Result<u64> {
        let mut gone = 0;
        let mut tx = self.0.writers.begin().await?;
        let letters = tx.all(&OLD_LETTERS, args![now.minus(KEEP_LETTERS), BITE]).await?;
        gone += letters.len() as u64;
        let ids = letters.iter().map(|r| Ok(args![r.uuid(0)?])).collect::<Result<_>>()?;
        tx.batch(&MARK_DISCARDED, args![now], ids).await?;
        gone += tx.run(&OLD_KEYS, args![now, BITE]).await?;
        gone += tx.run(&DROP_STUBS, args![now, BITE]).await?;
        tx.commit().await?;

        let mut tx = self.0.writers.begin().await?;
        let old = tx.all(&OLD_DELIVERIES, args![now.minus(KEEP_DELIVERIES), BITE]).await?;
        gone += old.len() as u64;
        let ids = |i: usize| old.iter().map(|r| Ok(args![r.uuid(i)?])).collect::<Result<Vec<_>>>();
        tx.batch(&DROP_ATTEMPTS, vec![], ids(0)?).await?;
        tx.batch(&DROP_BODIES, vec![], ids(1)?).await?;
        tx.batch(&DROP_EVENTS, vec![], ids(1)?).await?;
        tx.commit().await?;

        let mut tx = self.0.writers.begin().await?;
        tx.run(&POSTPONE, args![now, now.plus(LOOK_AGAIN), BITE]).await?;
        let purged = tx.all(&PURGE, args![now, now.plus(KEEP_STUBS), BITE]).await?;
        gone += purged.len() as u64;
        let ids = purged.iter().map(|r| Ok(args![r.uuid(0)?])).collect::<Result<_>>()?;
        tx.batch(&DROP_JOB_EVENTS, vec![], ids).await?;
        tx.commit().await?;
        Ok(gone)
    }
}

fn overdue(row: &Row) -> Result<JobChange> {
    Ok(JobChange { id: row.id(0)?, tenant: None, right: Right::Sweep(row.int(1)?), what: What::Overdue })
}
