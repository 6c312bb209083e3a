//! Figures of the fleet: nodes, and what they have in hand.

use std::time::Duration;

use uuid::Uuid;

use crate::args;
use crate::store::Store;
use crate::store::due::{by_rank, of_rank};
use crate::store::error::{Error, Result};
use crate::types::{LaneId, Millis};

const FLEET: &str = "
    SELECT (SELECT COUNT(*) FROM nodes n WHERE n.alive_until > $1),
           (SELECT COUNT(*) FROM lanes l WHERE l.owner_id IS NOT NULL)";

const NODES: &str = "SELECT COUNT(*) FROM nodes n WHERE n.alive_until > $1";

// Free to send, and for a while: what was held a moment ago has not had the time to go. A breaker is closed by an answer alone,
// so the probe of a dead receiver does not count as one that sends.
macro_rules! sends {
    () => {
        "COALESCE(l.opened, 0) = 0 AND COALESCE(l.held_until, 0) <= $2 AND COALESCE(l.paused_until, 0) <= $2
                AND COALESCE(l.cleared_at, 0) <= $2"
    };
}
macro_rules! waits_in_rank {
    ($rank:literal) => {
        concat!(
            "SELECT * FROM (SELECT q.due_at FROM ",
            of_rank!("s.id", $rank, "$1"),
            "AND q.phase = 'ready' ",
            by_rank!(),
            "1) AS r"
        )
    };
}
// When the oldest fell due that waits in a lane which sends. The first is mostly one; behind a receiver that has been dead for long
// lies all it is owed, and what the others are owed is found lane by lane. Each look is bounded: where held lanes owe more than
// one passes, and more lanes owe something than the other, a stall of the fleet still shows in those it passes.
macro_rules! oldest_waiting {
    () => {
        concat!(
            "COALESCE(
               (SELECT w.due_at
                FROM (SELECT q.due_at, q.lane_id FROM delivery_queue q WHERE q.phase = 'ready' AND q.due_at <= $1
                      ORDER BY q.due_at LIMIT $4) AS w
                LEFT JOIN lanes l ON l.id = w.lane_id WHERE ",
            sends!(),
            " ORDER BY w.due_at LIMIT 1),
               (WITH RECURSIVE s(id, n) AS (
                    SELECT (SELECT q.lane_id FROM delivery_queue q WHERE q.lane_id > $3 ORDER BY q.lane_id LIMIT 1),
                           CAST(1 AS BIGINT)
                    UNION ALL
                    SELECT (SELECT q.lane_id FROM delivery_queue q WHERE q.lane_id > s.id ORDER BY q.lane_id LIMIT 1), s.n + 1
                    FROM s WHERE s.id IS NOT NULL AND s.n < $4)
                SELECT MIN(CASE WHEN ",
            sends!(),
            " THEN (SELECT MIN(o.due_at) FROM (",
            waits_in_rank!("0"),
            " UNION ALL ",
            waits_in_rank!("1"),
            " UNION ALL ",
            waits_in_rank!("2"),
            " UNION ALL ",
            waits_in_rank!("3"),
            ") AS o) END)
                FROM s LEFT JOIN lanes l ON l.id = s.id WHERE s.id IS NOT NULL),
               $1)"
        )
    };
}

pub(in crate::store) const FIGURES: &str = concat!(
    "SELECT ",
    oldest_waiting!(),
    ",
           (SELECT COUNT(*) FROM nodes n WHERE n.alive_until > $1),
           (SELECT COUNT(*) FROM redrives r WHERE r.state = 'running'),
           COALESCE((SELECT f.created_at FROM fan_outs f ORDER BY f.event_id LIMIT 1), $1)"
);

/// Deliveries that one look for the oldest passes, and lanes.
const PASSED: u32 = 1_000;
/// A lane that was held counts as held for so long afterwards.
const JUST_HELD: Duration = Duration::from_secs(60);

impl Store {
    /// How many lanes each living node has when they are fairly shared out; at least 1.
    pub async fn fair_share(&self, now: Millis) -> Result<usize> {
        let rows = self.scout(FLEET, args![now]).await?;
        let row = rows.first().ok_or(Error::NotFound)?;
        let count = |i| Ok::<_, Error>(usize::try_from(row.int(i)?).unwrap_or(0).max(1));
        Ok(count(1)?.div_ceil(count(0)?))
    }

    /// How many nodes with the role `dispatch` live. From here on this one writes one transaction at a time if there are others,
    /// as long as that takes what there is.
    pub async fn heed_nodes(&self, now: Millis) -> Result<u64> {
        let rows = self.scout(NODES, args![now]).await?;
        let alive = rows.first().ok_or(Error::NotFound)?.int(0)?;
        self.0.committer.width.share(alive > 1);
        Ok(alive.unsigned_abs())
    }

    /// Figures of the fleet for `/metrics` and `/healthz`: name and value. Five looks, no table is counted: ids of events are
    /// in the order of their time. What waits in a lane that is held, or was a moment ago, is not late.
    pub async fn figures(&self, now: Millis) -> Result<Vec<(&'static str, i64)>> {
        let first = LaneId::from_uuid(Uuid::nil());
        let rows = self.read(FIGURES, args![now, now.minus(JUST_HELD), first, PASSED]).await?;
        let row = rows.first().ok_or(Error::NotFound)?;
        let age = |i| Ok::<_, Error>(i64::try_from(now.since(row.time(i)?).as_secs()).unwrap_or(i64::MAX));
        Ok(vec![
            ("deliveries_oldest_due_seconds", age(0)?),
            ("fan_outs_oldest_seconds", age(3)?),
            ("nodes_alive", row.int(1)?),
            ("redrives_running", row.int(2)?),
            ("feed_held_transactions", self.feed_holds().await?),
        ])
    }
}
