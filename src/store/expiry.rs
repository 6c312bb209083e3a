//! Deliveries whose `expiresAt` has passed while nobody could send them: parked, held, or under a lease that ran out.

use super::Store;
use super::batch::{Col, Sql};
use super::db::Row;
use super::deliveries::LOST_ATTEMPTS;
use super::emit::Outbox;
use super::error::Result;
use super::record::{UPDATE_DELIVERIES, bury};
use super::sweep::{BITE, KEEP_LETTERS};
use crate::args;
use crate::types::delivery::DeadReason;
use crate::types::{DeliveryId, Millis};

// What a living lease holds is left to its holder: it judges by the same instant.
macro_rules! not_in_flight {
    () => {
        "(phase = 'ready' OR due_at <= $1)"
    };
}
macro_rules! past_expiry {
    () => {
        "d.ended_at IS NULL AND d.expires_at <= $1 AND d.state || '' = 'owed'"
    };
}
pub(super) use past_expiry;
pub(super) static EXPIRED: Sql = Sql::plain(concat!(
    "SELECT d.id, q.fence FROM deliveries d JOIN delivery_queue q ON q.delivery_id {is d.id} WHERE ",
    past_expiry!(),
    " AND ",
    not_in_flight!(),
    " ORDER BY d.expires_at LIMIT $2"
));
pub(super) static TAKE: Sql = Sql::batch(
    concat!(
        "DELETE FROM delivery_queue USING {b} WHERE delivery_queue.delivery_id {is b.delivery_id}
           -- what ended since may have been sent again, and expires no more
           AND delivery_queue.fence = b.fence AND ",
        not_in_flight!(),
        " RETURNING delivery_queue.delivery_id, delivery_queue.fence, attempt, phase, started_at"
    ),
    1,
    &[("delivery_id", Col::Uuid), ("fence", Col::Int)],
);

/// One that has expired, under the fence that it had then.
type Seen = (DeliveryId, i64);

impl Store {
    /// Lays down what may not be sent any more; gives how many were looked at, [`Store::BITE`] at the most.
    pub async fn end_expired(&self, now: Millis) -> Result<usize> {
        let rows = self.scout(EXPIRED.text(self.0.scouts.engine()), args![now, BITE]).await?;
        let mut seen: Vec<Seen> = rows.iter().map(|r| Ok((r.id(0)?, r.int(1)?))).collect::<Result<_>>()?;
        seen.sort_unstable();
        let (mut rest, mut most) = (&seen[..], seen.len());
        while !rest.is_empty() {
            let some = &rest[..most.min(rest.len())];
            match self.lay_down(some, now).await? {
                true => rest = &rest[some.len()..],
                false => most = (some.len() / 8).max(1),
            }
        }
        Ok(seen.len())
    }

    /// Lays these down in one transaction; not if there are several, and it would be too large.
    async fn lay_down(&self, seen: &[Seen], now: Millis) -> Result<bool> {
        let mut tx = self.0.writers.begin().await?;
        let rows = seen.iter().map(|&(id, fence)| args![id, fence]).collect();
        let taken = tx.batch(&TAKE, args![now], rows).await?;
        // An attempt whose end nobody saw is written down, as the next claim would.
        let lost = taken.iter().filter_map(|row| lost(row).transpose()).collect::<Result<_>>()?;
        tx.batch(&LOST_ATTEMPTS, vec![], lost).await?;
        let reason = DeadReason::Expired;
        let ended = |row: &Row| {
            let (none, nothing, kept) = (None::<i64>, None::<String>, now.plus(KEEP_LETTERS));
            let (id, fence, attempt) = (row.uuid(0)?, row.int(1)?, row.int(2)?);
            Ok(args![id, "dead", fence, attempt, none, reason.as_str(), now, kept, nothing.clone(), nothing])
        };
        tx.batch(&UPDATE_DELIVERIES, vec![], taken.iter().map(ended).collect::<Result<_>>()?).await?;
        let mut out = Outbox::new(&self.0, now);
        // Nobody repeats it without, if others hold their rows.
        out.leaves_lanes();
        let dead = taken.iter().map(|row| Ok((row.id(0)?, reason))).collect::<Result<_>>()?;
        bury(&mut tx, &mut out, dead, now).await?;
        if out.is_crowded() && seen.len() > 1 {
            tx.rollback().await?;
            return Ok(false);
        }
        let mut after = out.write(&mut tx).await?;
        tx.commit().await?;
        after.pass();
        Ok(true)
    }
}

fn lost(row: &Row) -> Result<Option<Vec<super::db::Value>>> {
    let leased = row.text(3)? == "leased";
    let begun = row.time_opt(4)?.filter(|_| leased);
    begun.map(|at| Ok(args![row.uuid(0)?, row.int(2)?, at])).transpose()
}
