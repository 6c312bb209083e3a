//! What any node may do now and then: end what is overdue, remove what is past its retention.

mod needed;

use std::time::Duration;

use futures_util::future::join_all;

use super::Store;
use super::batch::{Col, Sql};
use super::db::Row;
use super::error::{Error, Result};
use super::expiry::past_expiry;
use super::fan_out::told_later_due;
use super::feed::{raise_marks, removed};
use super::model::{JobChange, Right, What};
use super::parking::drain_due;
use super::redrive::step_due;
use crate::args;
use crate::types::Millis;
#[cfg(test)]
pub(super) use needed::{PASSING, POSTPONE};
use needed::{needed, put_off};

/// Rows per bite.
pub(super) const BITE: u32 = 500;
/// A delivered or cancelled delivery is kept so long.
pub(super) const KEEP_DELIVERIES: Duration = Duration::from_secs(7 * 24 * 3600);
/// An event stands in its tenant's feed so long, whatever becomes of its job.
pub(super) const KEEP_EVENTS: Duration = Duration::from_secs(7 * 24 * 3600);
/// A dead letter and its delivery are kept so long.
pub(super) const KEEP_LETTERS: Duration = Duration::from_secs(30 * 24 * 3600);
/// The stub of a purged job answers 410 so long.
const KEEP_STUBS: Duration = Duration::from_secs(30 * 24 * 3600);
/// A redrive that is over and a secret that signs no more are kept so long.
const KEEP_TRACES: Duration = Duration::from_secs(30 * 24 * 3600);
/// What was learned of a lane is kept so long after its last use.
const KEEP_LANES: Duration = Duration::from_secs(7 * 24 * 3600);
/// What is still needed is put off for so long.
const LOOK_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// Overdue jobs that are handed to the committer at a time: requests wait behind them.
const TOGETHER: usize = 64;
/// When one that cannot be ended is looked at again.
const UNENDABLE: Duration = Duration::from_secs(300);

macro_rules! watched {
    () => {
        " FROM job_queue WHERE watch_at <= $1"
    };
}
macro_rules! lost {
    () => {
        " FROM job_queue WHERE attempts_left = 0 AND cancel_at IS NULL AND due_at <= $1"
    };
}
const WATCHED: &str = concat!("SELECT job_id, fence", watched!(), " ORDER BY watch_at LIMIT $2");
const LOST: &str = concat!("SELECT job_id, fence", lost!(), " ORDER BY due_at LIMIT $2");

// Whatever else it is due for it may still be.
static PUT_OFF: Sql = Sql::plain(
    "UPDATE job_queue
     SET watch_at = CASE WHEN watch_at <= $2 THEN $3 ELSE watch_at END,
         due_at = CASE WHEN attempts_left = 0 AND due_at <= $2 THEN $3 ELSE due_at END
     WHERE job_id = $1",
);

// All that a look of the sweep may find, in one question: most looks find nothing, and each verb would ask for itself.
pub(super) const ANYTHING: &str = concat!(
    "SELECT CAST(1 AS BIGINT) WHERE EXISTS (SELECT 1",
    watched!(),
    ") OR EXISTS (SELECT 1",
    lost!(),
    ") OR EXISTS (SELECT 1 FROM deliveries d WHERE ",
    past_expiry!(),
    ") OR EXISTS (SELECT 1 FROM redrives q WHERE ",
    step_due!(),
    ") OR EXISTS (SELECT 1 FROM endpoints e WHERE ",
    drain_due!(),
    ") OR EXISTS (SELECT 1 FROM fan_outs q WHERE ",
    told_later_due!(),
    ")"
);

pub(super) static PURGE: Sql = Sql::plain(concat!(
    "UPDATE jobs
     SET input = NULL, callback = NULL, sealed = NULL, metadata = '{}', error = NULL, result = NULL, result_type = NULL,
         result_url = NULL, reference = NULL, token = NULL, purged_at = $1, remove_at = $2
     WHERE id IN (SELECT j.id FROM jobs j WHERE j.remove_at <= $1 AND j.purged_at IS NULL
                  ORDER BY j.remove_at LIMIT $3)
       AND remove_at <= $1 AND purged_at IS NULL AND state <> 'owed' AND NOT ",
    needed!(),
    " RETURNING id"
));
static DROP_STUBS: Sql = Sql::plain(
    "DELETE FROM jobs WHERE id IN (
         SELECT j.id FROM jobs j WHERE j.remove_at <= $1 AND j.purged_at IS NOT NULL ORDER BY j.remove_at LIMIT $2)",
);
// It was told, or is still to be. In one: for each of two joined by OR PostgreSQL may read the whole table.
macro_rules! has_receivers {
    ($id:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = ",
            $id,
            " UNION ALL SELECT 1 FROM fan_outs f WHERE f.event_id = ",
            $id,
            ")"
        )
    };
}
pub(super) static DROP_JOB_EVENTS: Sql = Sql::batch(
    concat!(
        "DELETE FROM events WHERE job_id IN (SELECT b.id FROM {b}) AND created_at <= $1 AND NOT ",
        has_receivers!("events.id"),
        removed!()
    ),
    1,
    &[("id", Col::Uuid)],
);
// What is younger stays in the feed, without what the job's retention takes away.
static EMPTY_JOB_EVENTS: Sql = Sql::batch(
    "UPDATE events SET data = '{}', remove_at = created_at + $1 FROM {b} WHERE events.job_id = b.id",
    1,
    &[("id", Col::Uuid)],
);
macro_rules! old_events {
    () => {
        "WHERE id IN (SELECT e.id FROM events e WHERE e.remove_at <= $1 ORDER BY e.remove_at LIMIT $2)
           AND remove_at <= $1 AND "
    };
}
pub(super) static POSTPONE_EVENTS: Sql =
    Sql::plain(concat!("UPDATE events SET remove_at = $3 ", old_events!(), has_receivers!("events.id")));
pub(super) static OLD_EVENTS: Sql = Sql::plain(concat!(
    "DELETE FROM events ",
    old_events!(),
    "NOT ",
    has_receivers!("events.id"),
    removed!()
));
const OLD_LETTERS: &str =
    "SELECT x.delivery_id FROM dead_letters x WHERE x.died_at <= $1 ORDER BY x.died_at LIMIT $2";
static DROP_LETTERS: Sql = Sql::batch(
    "DELETE FROM dead_letters WHERE delivery_id IN (SELECT b.id FROM {b}) AND died_at + 0 <= $1 RETURNING delivery_id",
    1,
    &[("id", Col::Uuid)],
);

macro_rules! shown {
    () => {
        "(EXISTS (SELECT 1 FROM dead_letters x WHERE x.delivery_id = deliveries.id)
          -- a job shows its callback's state for as long as it is kept
          OR EXISTS (SELECT 1 FROM jobs j WHERE j.id = deliveries.job_id AND j.purged_at IS NULL))"
    };
}
macro_rules! old_deliveries {
    () => {
        "WHERE id IN (SELECT d.id FROM deliveries d WHERE d.remove_at <= $1 ORDER BY d.remove_at LIMIT $2)
           AND remove_at <= $1 AND state <> 'owed' AND "
    };
}
static POSTPONE_DELIVERIES: Sql =
    Sql::plain(concat!("UPDATE deliveries SET remove_at = $3 ", old_deliveries!(), shown!()));
static OLD_DELIVERIES: Sql = Sql::plain(concat!(
    "DELETE FROM deliveries ",
    old_deliveries!(),
    "NOT ",
    shown!(),
    " RETURNING id, event_id"
));
static DROP_ATTEMPTS: Sql =
    Sql::batch("DELETE FROM attempts WHERE delivery_id IN (SELECT b.id FROM {b})", 0, &[("id", Col::Uuid)]);
pub(super) static DROP_BODIES: Sql = Sql::batch(
    concat!(
        "DELETE FROM bodies WHERE event_id IN (SELECT b.id FROM {b}) AND NOT ",
        has_receivers!("bodies.event_id")
    ),
    0,
    &[("id", Col::Uuid)],
);
// A job's events have no time of their own before the job has gone.
pub(super) static DROP_EVENTS: Sql = Sql::batch(
    concat!(
        "DELETE FROM events WHERE id IN (SELECT b.id FROM {b}) AND remove_at + 0 <= $1 AND NOT ",
        has_receivers!("events.id"),
        removed!()
    ),
    1,
    &[("id", Col::Uuid)],
);
static MARK_DISCARDED: Sql = Sql::batch(
    "UPDATE deliveries SET discarded_at = $1 FROM {b}
     WHERE deliveries.id = b.id
       AND deliveries.state || '' = 'dead'",
    1,
    &[("id", Col::Uuid)],
);
macro_rules! old_keys {
    () => {
        "WHERE (tenant_id, route, key) IN (
             SELECT i.tenant_id, i.route, i.key FROM idempotency i WHERE i.expires_at <= $1 ORDER BY i.expires_at LIMIT $2)
           AND expires_at <= $1 AND "
    };
}
macro_rules! key_needed {
    () => {
        "EXISTS (SELECT 1 FROM job_queue q WHERE q.job_id {is idempotency.job_id})"
    };
}
static POSTPONE_KEYS: Sql =
    Sql::plain(concat!("UPDATE idempotency SET expires_at = $3 ", old_keys!(), key_needed!()));
static OLD_KEYS: Sql = Sql::plain(concat!("DELETE FROM idempotency ", old_keys!(), "NOT ", key_needed!()));
// A lane that nobody owns and where nothing waits is what its next delivery would make anew, but for the
// slots that were learned.
static OLD_LANES: Sql = Sql::plain(
    "DELETE FROM lanes
     WHERE id IN (SELECT l.id FROM lanes l
                  WHERE l.used_at <= $1
                    AND (l.endpoint_id IS NULL OR NOT EXISTS (SELECT 1 FROM endpoints e WHERE e.id = l.endpoint_id))
                    AND (l.held_until IS NULL OR l.held_until <= $2)
                    AND (l.paused_until IS NULL OR l.paused_until <= $2)
                    AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = l.owner_id)
                    AND NOT EXISTS (SELECT 1 FROM delivery_queue q WHERE q.lane_id = l.id)
                  ORDER BY l.used_at LIMIT $3)
       -- another node may have taken it since
       AND used_at <= $1",
);
static OLD_REDRIVES: Sql = Sql::plain("DELETE FROM redrives WHERE ended_at <= $1");
static OLD_LEARNED: Sql = Sql::plain("DELETE FROM learned WHERE updated_at <= $1");
static OLD_SECRETS: Sql = Sql::plain("DELETE FROM secrets WHERE expires_at <= $1");
/// A key whose job is owed is put off for so long.
const KEY_AGAIN: Duration = Duration::from_secs(3600);

impl Store {
    /// A look that gives as many as this has not seen all.
    pub const OVERDUE_BITE: usize = BITE as usize;

    /// Whether [`Store::end_overdue`], [`Store::end_expired`], [`Store::step_redrive`], [`Store::step_drains`] or
    /// [`Store::step_fan_outs`] may find something to do.
    pub async fn anything_overdue(&self, now: Millis) -> Result<bool> {
        Ok(!self.scout(ANYTHING, args![now]).await?.is_empty())
    }

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
        for some in changes.chunks(TOGETHER) {
            // A call for each: what one of them fails by is its own affair, and the committer puts them together.
            let ends = join_all(some.iter().map(|change| self.end(change, now))).await;
            for (change, ended) in some.iter().zip(ends) {
                let ended = match ended {
                    // It may have been its connection.
                    Err(e) if e.is_its_own() => self.end(change, now).await,
                    ended => ended,
                };
                match ended {
                    Err(e) if e.is_its_own() => self.put_off(change, &e, now).await?,
                    Ok(()) | Err(Error::Locked(_)) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(looked_at)
    }

    async fn end(&self, change: &JobChange, now: Millis) -> Result<()> {
        match self.change(vec![change.clone()], now).await?.pop() {
            // Another node or the holder was quicker.
            Some(Err(Error::LeaseLost | Error::NotFound | Error::Expired)) => Ok(()),
            Some(Err(e)) => Err(e),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// What cannot be ended must not keep all others from their end.
    async fn put_off(&self, change: &JobChange, why: &Error, now: Millis) -> Result<()> {
        tracing::error!(job.id = %change.id, error = %why, "a job that is overdue cannot be ended");
        let mut tx = self.0.writers.begin().await?;
        tx.run(&PUT_OFF, args![change.id, now, now.plus(UNENDABLE)]).await?;
        tx.commit().await
    }

    /// Removes or puts off one bite of everything past its retention; gives how many rows that were. Zero:
    /// all is clean.
    pub async fn retain(&self, now: Millis) -> Result<u64> {
        // In this order: a letter holds its job, and a job its deliveries.
        let letters = self.retain_letters(now).await?;
        let jobs = self.retain_jobs(now).await?;
        let deliveries = self.retain_deliveries(now).await?;
        let events = self.retain_events(now).await?;
        Ok(letters + jobs + deliveries + events)
    }

    async fn retain_letters(&self, now: Millis) -> Result<u64> {
        let old = self.scout(OLD_LETTERS, args![now.minus(KEEP_LETTERS), BITE]).await?;
        let ids = || old.iter().map(|r| Ok(args![r.uuid(0)?])).collect::<Result<Vec<_>>>();
        let mut tx = self.0.writers.begin().await?;
        // The delivery before its letter, as everywhere, so that two transactions cannot deadlock.
        tx.batch(&MARK_DISCARDED, args![now], ids()?).await?;
        let letters = tx.batch(&DROP_LETTERS, args![now.minus(KEEP_LETTERS)], ids()?).await?;
        let mut gone = letters.len() as u64;
        gone += tx.run(&POSTPONE_KEYS, args![now, BITE, now.plus(KEY_AGAIN)]).await?;
        gone += tx.run(&OLD_KEYS, args![now, BITE]).await?;
        tx.run(&OLD_REDRIVES, args![now.minus(KEEP_TRACES)]).await?;
        tx.run(&OLD_LEARNED, args![now.minus(KEEP_TRACES)]).await?;
        tx.run(&OLD_SECRETS, args![now.minus(KEEP_TRACES)]).await?;
        gone += tx.run(&OLD_LANES, args![now.minus(KEEP_LANES), now, BITE]).await?;
        tx.commit().await?;
        Ok(gone)
    }

    async fn retain_deliveries(&self, now: Millis) -> Result<u64> {
        let mut tx = self.0.writers.begin().await?;
        let put_off = tx.run(&POSTPONE_DELIVERIES, args![now, BITE, now.plus(LOOK_AGAIN)]).await?;
        let old = tx.all(&OLD_DELIVERIES, args![now, BITE]).await?;
        let ids = |i: usize| old.iter().map(|r| Ok(args![r.uuid(i)?])).collect::<Result<Vec<_>>>();
        tx.batch(&DROP_ATTEMPTS, vec![], ids(0)?).await?;
        tx.batch(&DROP_BODIES, vec![], ids(1)?).await?;
        let events = tx.batch(&DROP_EVENTS, args![now], ids(1)?).await?;
        raise_marks(&mut tx, &events).await?;
        tx.commit().await?;
        Ok(put_off + old.len() as u64)
    }

    async fn retain_jobs(&self, now: Millis) -> Result<u64> {
        let mut tx = self.0.writers.begin().await?;
        let mut gone = tx.run(&DROP_STUBS, args![now, BITE]).await?;
        gone += put_off(&mut tx, now).await?;
        let purged = tx.all(&PURGE, args![now, now.plus(KEEP_STUBS), BITE]).await?;
        gone += purged.len() as u64;
        let ids = || purged.iter().map(|r| Ok(args![r.uuid(0)?])).collect::<Result<Vec<_>>>();
        let events = tx.batch(&DROP_JOB_EVENTS, args![now.minus(KEEP_EVENTS)], ids()?).await?;
        let kept = i64::try_from(KEEP_EVENTS.as_millis()).unwrap_or(i64::MAX);
        tx.batch(&EMPTY_JOB_EVENTS, args![kept], ids()?).await?;
        raise_marks(&mut tx, &events).await?;
        tx.commit().await?;
        Ok(gone)
    }

    async fn retain_events(&self, now: Millis) -> Result<u64> {
        let mut tx = self.0.writers.begin().await?;
        let put_off = tx.run(&POSTPONE_EVENTS, args![now, BITE, now.plus(LOOK_AGAIN)]).await?;
        let old = tx.all(&OLD_EVENTS, args![now, BITE]).await?;
        // Left where nobody was there any more to be told.
        let bodies = old.iter().map(|r| Ok(args![r.uuid(2)?])).collect::<Result<_>>()?;
        tx.batch(&DROP_BODIES, vec![], bodies).await?;
        raise_marks(&mut tx, &old).await?;
        tx.commit().await?;
        Ok(put_off + old.len() as u64)
    }
}

fn overdue(row: &Row) -> Result<JobChange> {
    Ok(JobChange { id: row.id(0)?, tenant: None, right: Right::Sweep(row.int(1)?), what: What::Overdue })
}
