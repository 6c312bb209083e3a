//! Parked deliveries: let go at a ramp once their endpoint is resumed, cancelled once it is deleted.
//!
//! Parked is what was claimed or made while the endpoint was not enabled: its `due_at` lies `PARKED` later than it
//! would, so no look at what is due meets it again, however many there are.

use std::time::Duration;

use super::Store;
use super::batch::{Col, Sql};
use super::db::Row;
use super::due::by_rank;
use super::error::Result;
use super::pool::Tx;
use super::sweep::KEEP_DELIVERIES;
use crate::args;
use crate::types::endpoint::{PARKED, lane_of};
use crate::types::{EndpointId, Millis};

/// Deliveries let go by the first step; each step doubles it.
const FIRST_STEP: i64 = 10;
/// ... up to so many.
const STEP_MAX: i64 = 2_000;
/// The pace of the steps.
const STEP_EVERY: Duration = Duration::from_secs(1);
/// Deliveries of a deleted endpoint cancelled in one transaction.
const CANCEL_STEP: i64 = 1_000;
/// So long after its change an endpoint is looked at again: a transaction that read it before may still park, much later where
/// its node was suspended in the middle. Each look comes twice as late as the one before, so a day costs 17 of them.
const STRAGGLERS: Duration = Duration::from_secs(24 * 3600);
/// What was under way to a deleted endpoint has ended by then.
const SETTLED: Duration = Duration::from_secs(60);

/// Endpoints found in one look, and looks of one go.
const FOUND: u32 = 50;
const LOOKS: usize = 10;

macro_rules! drain_due {
    () => {
        "e.drain_at <= $1"
    };
}
pub(super) use drain_due;
const DUE: &str =
    concat!("SELECT e.id FROM endpoints e WHERE ", drain_due!(), " ORDER BY e.drain_at LIMIT $2");
const ONE: &str = "
    SELECT e.id, e.state, e.state_since, e.deleted_at, e.drain_step, e.drain_at
    FROM endpoints e WHERE e.id = $1 AND e.drain_at <= $2";
macro_rules! parked {
    ($rank:literal) => {
        concat!(
            "SELECT * FROM (SELECT q.delivery_id, q.due_at - $3 AS due_at FROM ",
            "delivery_queue q WHERE (q.lane_id, q.rank, q.due_at) >= ($1, ",
            $rank,
            ", $3) AND (q.lane_id, q.rank, q.due_at) <= ($1, ",
            $rank,
            ", $4) ",
            by_rank!(),
            "$2) AS r"
        )
    };
}
// The oldest first, for parking has kept their order, and evenly over the time until the next step. None falls due in the
// past: who looks for what is due begins where the last look ended.
static LET_GO: Sql = Sql::plain(concat!(
    "UPDATE delivery_queue SET due_at = CASE WHEN p.due_at > p.turn_at THEN p.due_at ELSE p.turn_at END
     FROM (SELECT o.delivery_id, o.due_at, $5 + (row_number() OVER (ORDER BY o.due_at) - 1) * $6 / $2 AS turn_at
           FROM (SELECT a.delivery_id, a.due_at FROM (",
    parked!("0"),
    " UNION ALL ",
    parked!("1"),
    " UNION ALL ",
    parked!("2"),
    " UNION ALL ",
    parked!("3"),
    ") AS a ORDER BY a.due_at LIMIT $2) AS o) AS p
     WHERE delivery_queue.delivery_id {is p.delivery_id} AND delivery_queue.due_at + 0 >= $3"
));
static CANCEL_QUEUE: Sql = Sql::plain(
    "DELETE FROM delivery_queue
     WHERE delivery_id IN (SELECT q.delivery_id FROM delivery_queue q WHERE q.lane_id = $1 ORDER BY q.lane_id, q.rank LIMIT $2)
     RETURNING delivery_id, fence, attempt",
);
pub(super) static CANCEL: Sql = Sql::batch(
    "UPDATE deliveries SET state = 'cancelled', version = version + 1, fence = b.fence, attempt = b.attempt, ended_at = $1,
            remove_at = $2
     FROM {b}
     WHERE deliveries.id = b.id
       AND deliveries.state || '' = 'owed'",
    2,
    &[("id", Col::Uuid), ("fence", Col::Int), ("attempt", Col::Int)],
);
// A step belongs to the node that set the next one.
static TAKE_STEP: Sql =
    Sql::plain("UPDATE endpoints SET drain_at = $3, drain_step = $4 WHERE id = $1 AND drain_at = $2");
static LATER: Sql = Sql::plain("UPDATE endpoints SET drain_at = $3 WHERE id = $1 AND drain_at = $2");
static NO_MORE: Sql = Sql::plain("UPDATE endpoints SET drain_at = NULL WHERE id = $1 AND state_since = $2");
static FORGET: Sql = Sql::plain("DELETE FROM endpoints WHERE id = $1 AND deleted_at IS NOT NULL");
static FORGET_SECRETS: Sql = Sql::plain("DELETE FROM secrets WHERE owner_id = $1");
static FORGET_LANE: Sql = Sql::plain("DELETE FROM lanes WHERE id = $1");

impl Store {
    /// One step of each endpoint, up to a bound, that has parked deliveries to let go or a deleted one's to cancel; gives how many
    /// deliveries that were. Any node may do it.
    pub async fn step_drains(&self, now: Millis) -> Result<u64> {
        let mut moved = 0;
        for _ in 0..LOOKS {
            let found = self.scout(DUE, args![now, FOUND]).await?;
            for row in &found {
                moved += self.step_drain_of(row.id(0)?, now).await?;
            }
            if found.len() < FOUND as usize {
                break;
            }
        }
        Ok(moved)
    }

    pub(super) async fn step_drain_of(&self, id: EndpointId, now: Millis) -> Result<u64> {
        let rows = self.scout(ONE, args![id, now]).await?;
        let Some(row) = rows.first() else { return Ok(0) };
        let step = (row.int(4)? * 2).clamp(FIRST_STEP, STEP_MAX);
        let mut tx = self.0.writers.begin().await?;
        let ours = tx.run(&TAKE_STEP, args![id, row.time(5)?, now.plus(STEP_EVERY), step]).await? > 0;
        tx.commit().await?;
        if !ours {
            return Ok(0);
        }
        let mut tx = self.0.writers.begin().await?;
        let moved = match row.time_opt(3)? {
            Some(deleted) => cancel_some(&mut tx, id, deleted, now).await?,
            None => let_go_some(&mut tx, id, row, step, now).await?,
        };
        if moved == 0 {
            let since = row.time(2)?.max(row.time_opt(3)?.unwrap_or_default());
            tx.run(&LATER, args![id, now.plus(STEP_EVERY), after_nothing(since, now)]).await?;
        }
        tx.commit().await?;
        Ok(moved)
    }
}

/// When an endpoint that has nothing parked is looked at again: a transaction that read it before its change parks
/// something within moments, and hardly ever later.
fn after_nothing(since: Millis, now: Millis) -> Millis {
    now.plus(now.since(since).max(STEP_EVERY)).min(since.plus(STRAGGLERS).max(now.plus(STEP_EVERY)))
}

async fn let_go_some(tx: &mut Tx, id: EndpointId, row: &Row, step: i64, now: Millis) -> Result<u64> {
    let since = row.time(2)?;
    // Paused again meanwhile: what is parked stays so.
    let enabled = row.text(1)? == "enabled";
    let pace = i64::try_from(STEP_EVERY.as_millis()).unwrap_or(i64::MAX);
    let moved = match enabled {
        true => tx.run(&LET_GO, args![lane_of(id), step, PARKED, i64::MAX, now, pace]).await?,
        false => 0,
    };
    if !enabled || (moved == 0 && now.since(since) >= STRAGGLERS) {
        tx.run(&NO_MORE, args![id, since]).await?;
    }
    Ok(moved)
}

async fn cancel_some(tx: &mut Tx, id: EndpointId, deleted: Millis, now: Millis) -> Result<u64> {
    let ended = tx.all(&CANCEL_QUEUE, args![lane_of(id), CANCEL_STEP]).await?;
    let rows = ended.iter().map(|r| Ok(args![r.uuid(0)?, r.int(1)?, r.int(2)?])).collect::<Result<_>>()?;
    tx.batch(&CANCEL, args![now, now.plus(KEEP_DELIVERIES)], rows).await?;
    let since = now.since(deleted);
    if ended.is_empty() && since >= SETTLED {
        tx.run(&FORGET_SECRETS, args![id]).await?;
        tx.run(&FORGET_LANE, args![id]).await?;
    }
    if ended.is_empty() && since >= STRAGGLERS {
        tx.run(&FORGET, args![id]).await?;
    }
    Ok(ended.len() as u64)
}
