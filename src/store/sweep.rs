//! What any node may do now and then: end what is overdue, remove what is past its retention.

mod needed;
mod retain;

use std::time::Duration;

use futures_util::future::join_all;

use super::Store;
use super::batch::Sql;
use super::db::Row;
use super::error::{Error, Result};
use super::expiry::past_expiry;
use super::fan_out::told_later_due;
use super::model::{JobChange, Right, What};
use super::parking::drain_due;
use super::redrive::step_due;
use crate::args;
use crate::types::Millis;
#[cfg(test)]
pub(super) use needed::{PASSING, POSTPONE};
pub use retain::Retained;
#[cfg(test)]
pub(super) use retain::{
    DROP_BODIES, DROP_EVENTS, EMPTY_EVENTS, OLD_EVENTS, POSTPONE_EVENTS, PURGE, STILL_OVER,
};
pub(super) use retain::{KEEP_DELIVERIES, KEEP_EVENTS, KEEP_LETTERS};

/// Rows per bite.
pub(super) const BITE: u32 = 500;
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

impl Store {
    /// A look that gives as many as this has not seen all.
    pub const BITE: u32 = BITE;

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
}

fn overdue(row: &Row) -> Result<JobChange> {
    Ok(JobChange { id: row.id(0)?, tenant: None, right: Right::Sweep(row.int(1)?), what: What::Overdue })
}
