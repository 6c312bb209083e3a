//! What is due: over all lanes, lane by lane, and in order.

use super::Store;
use super::batch::{Col, Sql};
use super::db::Row;
use super::error::Result;
use super::model::{DueDelivery, InLane};
use crate::args;
use crate::types::id::NodeId;
use crate::types::{DeliveryId, LaneId, Millis};

/// Turns of a lane that one look passes through.
const TURNS_READ: u32 = 64;

macro_rules! due_columns {
    () => {
        "delivery_id, tenant_id, lane_id, fence, due_at, phase, attempt, used, unknowns, started_at, turn"
    };
}

const DUE: &str = concat!(
    "SELECT ",
    due_columns!(),
    " FROM delivery_queue WHERE due_at > $1 AND due_at <= $2 ORDER BY due_at LIMIT $3"
);

// What a lane owes of one rank, up to an instant. As a range of row values: written as conditions of their own,
// PostgreSQL may walk the index over `due_at` alone, through everything that a dead lane owes (ADR 0001, 40-95 times slower).
macro_rules! of_rank {
    ($lane:literal, $rank:literal, $until:literal) => {
        concat!(
            "delivery_queue q WHERE (q.lane_id, q.rank, q.due_at) >= (",
            $lane,
            ", ",
            $rank,
            ", 0) AND (q.lane_id, q.rank, q.due_at) <= (",
            $lane,
            ", ",
            $rank,
            ", ",
            $until,
            ") "
        )
    };
}
/// Oldest first, by the index.
macro_rules! by_rank {
    () => {
        "ORDER BY q.lane_id, q.rank, q.due_at LIMIT "
    };
}
pub(super) use {by_rank, of_rank};

macro_rules! due_in_rank {
    ($rank:literal, $until:literal, $limit:literal) => {
        concat!(
            "SELECT * FROM (SELECT ",
            due_columns!(),
            " FROM ",
            of_rank!("$1", $rank, $until),
            by_rank!(),
            $limit,
            ") AS r"
        )
    };
}

const FIRSTS: &str = concat!(due_in_rank!("0", "$2", "$3"), " UNION ALL ", due_in_rank!("2", "$2", "$3"));
const RETRIES: &str = concat!(due_in_rank!("1", "$2", "$3"), " UNION ALL ", due_in_rank!("3", "$2", "$3"));

// From turn to turn: one probe of the index for each, however much it owes. One row more than is asked for tells
// where the next look begins. With a bare `t.turn` SQLite takes the index for the lane alone.
const TURNS: &str = "
    WITH RECURSIVE t (turn, n) AS (
        SELECT (SELECT q.turn FROM delivery_queue q WHERE q.lane_id = $1 AND q.turn > $3 AND q.turn <> 0
                ORDER BY q.lane_id, q.turn LIMIT 1), CAST(1 AS BIGINT)
        UNION ALL
        SELECT (SELECT q.turn FROM delivery_queue q WHERE q.lane_id = $1 AND q.turn > t.turn AND q.turn <> 0
                ORDER BY q.lane_id, q.turn LIMIT 1), t.n + 1
        FROM t WHERE t.turn IS NOT NULL AND t.n < $4
    )
    SELECT t.turn, (SELECT q.delivery_id FROM delivery_queue q
                    WHERE (q.lane_id, q.turn, q.due_at) >= ($1, t.turn + 0, 0)
                      AND (q.lane_id, q.turn, q.due_at) <= ($1, t.turn + 0, $2) AND q.turn <> 0
                    ORDER BY q.lane_id, q.turn, q.due_at LIMIT 1)
    FROM t WHERE t.turn IS NOT NULL ORDER BY t.turn";

static BY_ID: Sql = Sql::batch(
    "SELECT q.delivery_id, q.tenant_id, q.lane_id, q.fence, q.due_at, q.phase, q.attempt, q.used, q.unknowns,
            q.started_at, q.turn
     FROM {b} JOIN delivery_queue q ON q.delivery_id {is b.delivery_id} WHERE q.due_at + 0 <= $1",
    1,
    &[("delivery_id", Col::Uuid)],
);

// What an endpoint was owed before it had an order goes before all that has a number.
const IN_ORDER: &str = concat!(
    due_in_rank!("0", "9223372036854775807", "1"),
    " UNION ALL ",
    due_in_rank!("1", "9223372036854775807", "1"),
    " UNION ALL SELECT * FROM (SELECT ",
    due_columns!(),
    " FROM delivery_queue q WHERE q.lane_id = $1 AND q.turn <> 0 ORDER BY q.lane_id, q.turn, q.due_at LIMIT 1) AS r"
);

macro_rules! first_in_rank {
    ($rank:literal) => {
        concat!("(SELECT q.delivery_id FROM ", of_rank!("l.id", $rank, "$1"), by_rank!(), "1)")
    };
}

/// The first that is due in a lane of the skip scan; null where nothing is.
macro_rules! first_due {
    () => {
        concat!(
            "COALESCE(",
            first_in_rank!("0"),
            ", ",
            first_in_rank!("1"),
            ", ",
            first_in_rank!("2"),
            ", ",
            first_in_rank!("3"),
            ")"
        )
    };
}

// A skip scan: a few probes of the index per lane that has anything queued, however much that is, and whether or not it is
// due: so what bounds it are the lanes that it passes. Asked for by EXISTS, what is due would be joined, and PostgreSQL might
// read all of it. Null where nothing is due, and where the lane is in the hands of another living node.
const LANES_DUE: &str = concat!(
    "
    WITH RECURSIVE l(id, n) AS (
        SELECT (SELECT q.lane_id FROM delivery_queue q WHERE q.lane_id > $3 ORDER BY q.lane_id LIMIT 1), CAST(1 AS BIGINT)
        UNION ALL
        SELECT (SELECT q.lane_id FROM delivery_queue q WHERE q.lane_id > l.id ORDER BY q.lane_id LIMIT 1), l.n + 1
        FROM l WHERE l.id IS NOT NULL AND l.n < $4
    )
    SELECT l.id,
           CASE WHEN EXISTS (SELECT 1 FROM lanes a JOIN nodes n ON n.id = a.owner_id
                             WHERE a.id = l.id AND a.owner_id <> $2 AND n.alive_until > $1)
                THEN NULL ELSE ",
    first_due!(),
    " END
    FROM l WHERE l.id IS NOT NULL ORDER BY l.n"
);

const NEXT_DUE: &str =
    "SELECT due_at FROM delivery_queue WHERE due_at > $1 AND due_at <= $2 ORDER BY due_at LIMIT 1";

fn due(row: &Row) -> Result<DueDelivery> {
    let leased = row.text(5)? == "leased";
    Ok(DueDelivery {
        id: row.id(0)?,
        tenant: row.id(1)?,
        lane: row.id(2)?,
        turn: row.int(10)?,
        fence: row.int(3)?,
        due_at: row.time(4)?,
        attempt: row.count(6)?,
        used: row.count(7)?,
        unknowns: row.count(8)? + u32::from(leased),
        lost_at: row.time_opt(9)?.filter(|_| leased),
    })
}

impl Store {
    /// Deliveries of all tenants that fell due after `floor` and by `now`, oldest first.
    pub async fn due(&self, floor: Millis, now: Millis, limit: u32) -> Result<Vec<DueDelivery>> {
        self.scout(DUE, args![floor, now, limit]).await?.iter().map(due).collect()
    }

    /// Due deliveries of one lane: the oldest, and where these are not all the oldest of other turns, from
    /// behind `turn` on, and the oldest first attempts. So what one URL owes hides no other, and retries hide no
    /// first attempt.
    pub async fn due_in_lane(
        &self,
        lane: LaneId,
        now: Millis,
        limit: u32,
        turn: Option<i64>,
    ) -> Result<InLane> {
        let read = async |sql| -> Result<Vec<DueDelivery>> {
            self.scout(sql, args![lane, now, limit]).await?.iter().map(due).collect()
        };
        let limit_of = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let mut firsts = read(FIRSTS).await?;
        let mut oldest = read(RETRIES).await?;
        oldest.extend(&firsts);
        oldest.sort_by_key(|d| d.due_at);
        oldest.truncate(limit_of(limit));
        if oldest.len() < limit_of(limit) {
            return Ok(InLane { oldest, ..InLane::default() });
        }
        let hidden = oldest.iter().any(|d| d.attempt > 0);
        firsts.sort_by_key(|d| d.due_at);
        firsts.truncate(if hidden { limit_of(limit / 2) } else { 0 });
        let turns = self.scout(TURNS, args![lane, now, turn.unwrap_or(i64::MIN), TURNS_READ]).await?;
        let last = turns.last().map(|row| row.int(0)).transpose()?;
        let next = last.filter(|_| turns.len() == TURNS_READ as usize);
        let mut ids = Vec::new();
        for row in &turns {
            ids.extend(row.uuid_opt(1)?);
        }
        let ids = ids.into_iter().map(|id| args![id]).collect();
        let others =
            self.scout_batch(&BY_ID, args![now], ids).await?.iter().map(due).collect::<Result<_>>()?;
        Ok(InLane { oldest, others, firsts, more: true, turn: next, ..InLane::default() })
    }

    /// The next delivery in the order of an ordered lane, if it is due. Whatever its state it holds the others back.
    pub async fn next_in_order(&self, lane: LaneId, now: Millis) -> Result<InLane> {
        let rows = self.scout(IN_ORDER, args![lane]).await?;
        let rows = rows.iter().map(due).collect::<Result<Vec<_>>>()?;
        let next = rows.into_iter().min_by_key(|d| (d.turn, d.due_at));
        let oldest = next.into_iter().filter(|d| d.due_at <= now).collect();
        // Nobody knows when one that is under way comes back.
        let waits = next.filter(|d| d.due_at > now && d.lost_at.is_none());
        Ok(InLane { oldest, waits, ..InLane::default() })
    }

    /// Of the next `limit` lanes behind `after` that owe anything, those that `node` has or may have and in which
    /// something is due, each with one such delivery: for the pass without a floor. Then the lane behind which it goes on,
    /// unless it came to the end.
    pub async fn lanes_due(
        &self,
        node: NodeId,
        now: Millis,
        after: Option<LaneId>,
        limit: u32,
    ) -> Result<(Vec<(LaneId, DeliveryId)>, Option<LaneId>)> {
        let after = after.unwrap_or(LaneId::from_uuid(uuid::Uuid::nil()));
        let rows = self.scout(LANES_DUE, args![now, node, after, limit]).await?;
        let mut due = Vec::new();
        for row in &rows {
            if let Some(first) = row.uuid_opt(1)? {
                due.push((row.id(0)?, DeliveryId::from_uuid(first)));
            }
        }
        let last = rows.last().filter(|_| rows.len() == limit as usize);
        Ok((due, last.map(|row| row.id(0)).transpose()?))
    }

    /// When the next delivery after `floor` falls due, if by `until`: beyond may lie all that is dead and not removed yet.
    pub async fn next_due(&self, floor: Millis, until: Millis) -> Result<Option<Millis>> {
        self.scout(NEXT_DUE, args![floor, until]).await?.first().map(|r| r.time(0)).transpose()
    }
}
