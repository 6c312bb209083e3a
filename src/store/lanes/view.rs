//! Lanes as people see them, and what people set.

use super::super::Store;
use super::super::batch::Sql;
use super::super::db::{Row, Value};
use super::super::due::{by_rank, of_rank};
use super::super::error::{Error, Result};
use super::super::list::{Filter, Found};
use super::super::model::{LaneFilter, LaneOrder, PageOf};
use super::clear;
use crate::args;
use crate::types::api::LanePlace;
use crate::types::delivery::HeldReason;
use crate::types::lane::MOST_IN_FLIGHT;
use crate::types::{LaneId, Millis, TenantId, api, id};

/// Until when the lane `l` is held, by someone or by what its owner found out.
macro_rules! held_until {
    () => {
        "CASE WHEN COALESCE(l.paused_until, 0) > COALESCE(l.held_until, 0) THEN l.paused_until ELSE l.held_until END"
    };
}

/// The columns of [`hold`], in order; `ep` is the endpoint.
macro_rules! held_columns {
    () => {
        "l.held_until, l.held_reason, l.paused_until, ep.state"
    };
}

pub(in crate::store) use {held_columns, held_until};

/// Why a lane sends nothing now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Hold {
    /// Until when; None: until someone resumes it.
    pub(in crate::store) until: Option<Millis>,
    /// As the lane shows it.
    pub(in crate::store) word: &'static str,
    /// As its deliveries show it.
    pub(in crate::store) reason: HeldReason,
}

/// Reads [`held_columns!`] from the column `at` on. What someone set goes before what was found out.
pub(in crate::store) fn hold(row: &Row, at: usize, now: Millis) -> Result<Option<Hold>> {
    let later = |until: Option<Millis>| until.filter(|until| *until > now);
    let told = |until: Millis| (until < Millis::MAX).then_some(until);
    let (held, paused) = (later(row.time_opt(at)?), later(row.time_opt(at + 2)?));
    let endpoint = row.text_opt(at + 3)?;
    let breaker = row.text_opt(at + 1)?.as_deref() == Some("breaker");
    // Nobody knows when an endpoint is resumed.
    match endpoint.as_deref() {
        Some("disabled") => {
            return Ok(Some(Hold { until: None, word: "disabled", reason: HeldReason::Disabled }));
        }
        Some("paused") => return Ok(Some(Hold { until: None, word: "paused", reason: HeldReason::Paused })),
        Some(_) | None => {}
    }
    Ok(match (paused, held) {
        (Some(until), _) => Some(Hold { until: told(until), word: "paused", reason: HeldReason::Paused }),
        (None, Some(until)) if breaker => {
            Some(Hold { until: Some(until), word: "breaker", reason: HeldReason::Breaker })
        }
        (None, Some(until)) => {
            Some(Hold { until: Some(until), word: "retry-after", reason: HeldReason::Paused })
        }
        (None, None) => None,
    })
}

macro_rules! oldest_in_rank {
    ($rank:literal) => {
        concat!(
            "SELECT * FROM (SELECT q.due_at FROM ",
            of_rank!("l.id", $rank, "4503599627370495"), // beyond it: parked
            "AND q.phase = 'ready' ",
            by_rank!(),
            "1) AS r"
        )
    };
}
/// When the oldest that waits in the lane `l.id` is or was due.
macro_rules! oldest_due {
    () => {
        concat!(
            "(SELECT MIN(o.due_at) FROM (",
            oldest_in_rank!("0"),
            " UNION ALL ",
            oldest_in_rank!("1"),
            " UNION ALL ",
            oldest_in_rank!("2"),
            " UNION ALL ",
            oldest_in_rank!("3"),
            ") AS o)"
        )
    };
}

macro_rules! lane_columns {
    () => {
        concat!(
            "SELECT l.id, l.endpoint_id, l.origin, l.concurrency, l.failures, ",
            held_columns!(),
            ", ep.max_in_flight, ep.rate_per_second, COALESCE(ep.ordered, 0),
           -- counted up to a bound: a lane may owe a million
           (SELECT COUNT(*) FROM (SELECT 1 AS one FROM delivery_queue q WHERE q.lane_id = l.id LIMIT 10001) AS c),
           ",
            oldest_due!(),
            ",
           -- what is leased has begun; its lease ends before most retries come, and no more than so many are passed
           (SELECT COUNT(*) FROM (SELECT q.phase FROM delivery_queue q
                                  WHERE q.lane_id = l.id AND q.rank IN (1, 3) AND q.due_at > $2
                                  ORDER BY q.rank, q.due_at LIMIT 10001) AS c WHERE c.phase = 'leased')
    FROM lanes l LEFT JOIN endpoints ep ON ep.id = l.endpoint_id WHERE l.tenant_id = $1"
        )
    };
}

const LIST: &str = lane_columns!();
const ONE: &str = concat!(lane_columns!(), " AND l.id = $3");

/// The condition of the index of lanes that are held.
const HELD: &str = " AND l.held_until IS NOT NULL";

// Where nobody owns it, it starts anew with one request at a time; its owner sees to that itself.
static PAUSE: Sql = Sql::plain(
    "UPDATE lanes SET paused_until = $3, set_at = $4,
            concurrency = CASE WHEN $3 IS NULL THEN 1 ELSE concurrency END
     WHERE id = $1 AND tenant_id = $2",
);

impl Store {
    /// A page of the tenant's lanes. One call that asks for a state looks at some thousands of those that an index tells apart;
    /// one that asks for those that wait longest at all.
    pub async fn lanes(
        &self,
        tenant: TenantId,
        filter: &LaneFilter,
        limit: u32,
        now: Millis,
    ) -> Result<Found<api::Lane, id::Lane>> {
        let mut f = Filter::new(LIST, args![tenant, now]);
        let mut walked = Filter::new("SELECT l.id FROM lanes l WHERE l.tenant_id = $1", args![tenant]);
        match filter.state {
            None => {}
            Some(api::LaneState::Open) => {
                f.push(concat!(" AND COALESCE(", held_until!(), ", 0) <= $2"));
                f.push(" AND COALESCE(ep.state, 'enabled') = 'enabled'");
            }
            Some(api::LaneState::Paused) => {
                f.push(" AND (l.paused_until > $2 OR (l.held_until > $2 AND l.held_reason <> 'breaker')");
                f.push(" OR ep.state <> 'enabled')");
            }
            Some(api::LaneState::Broken) => {
                // The partial index is taken only where the text names its condition.
                walked.push(HELD);
                f.push(HELD);
                f.push(" AND l.held_until > $2 AND l.held_reason = 'breaker'");
                f.push(
                    " AND COALESCE(l.paused_until, 0) <= $2 AND COALESCE(ep.state, 'enabled') = 'enabled'",
                );
            }
        }
        let mut end = None;
        let (sql, args) = match filter.order {
            LaneOrder::Youngest(after) => {
                if filter.state.is_some() {
                    end = self.end_of_look(walked, "l.id", after).await?;
                }
                f.and_some("l.id >= {}", end);
                f.page("l.id", PageOf { after, limit })
            }
            LaneOrder::OldestDue(after) => by_oldest(f, after, limit),
        };
        let rows = self.read(sql, args).await?;
        Ok(Found::new(rows.iter().map(|row| lane(row, now)).collect::<Result<_>>()?, limit, end))
    }

    /// One lane.
    pub async fn lane(&self, tenant: TenantId, id: LaneId, now: Millis) -> Result<api::Lane> {
        let rows = self.read(ONE, args![tenant, now, id]).await?;
        lane(rows.first().ok_or(Error::NotFound)?, now)
    }

    /// Pauses a lane until then, or lets it send again, whatever held it. Its owner goes by it within a second.
    pub async fn pause_lane(
        &self,
        tenant: TenantId,
        id: LaneId,
        until: Option<Millis>,
        now: Millis,
    ) -> Result<api::Lane> {
        let mut tx = self.0.writers.begin().await?;
        let there = tx.run(&PAUSE, args![id, tenant, until, now]).await? > 0;
        if there && until.is_none() {
            clear(&mut tx, id, now).await?;
        }
        tx.commit().await?;
        self.lane(tenant, id, now).await
    }
}

/// Ordered by the oldest waiting delivery; lanes where nothing waits come last. It goes on behind a place, not behind a lane:
/// the one that was last may have moved since.
fn by_oldest(mut f: Filter, after: Option<LanePlace>, limit: u32) -> (&'static str, Vec<Value>) {
    let oldest = format!("COALESCE({}, {})", oldest_due!(), Millis::MAX.0);
    if let Some(LanePlace { oldest_due, lane_id }) = after {
        f.args.extend(args![oldest_due, lane_id]);
        let last = f.args.len();
        f.push(&format!(" AND ({oldest}, l.id) > (${}, ${last})", last - 1));
    }
    f.args.push(limit.into());
    f.push(&format!(" ORDER BY {oldest}, l.id LIMIT ${}", f.args.len()));
    f.finish()
}

fn lane(row: &Row, now: Millis) -> Result<api::Lane> {
    let endpoint_id = row.id_opt(1)?;
    let hold = hold(row, 5, now)?;
    let state = match hold.map(|hold| hold.reason) {
        Some(HeldReason::Breaker) => api::LaneState::Broken,
        Some(HeldReason::Paused | HeldReason::Disabled) => api::LaneState::Paused,
        None => api::LaneState::Open,
    };
    let big = |n: i64| u64::try_from(n).unwrap_or(0);
    let limit = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
    let most = limit(row.int_opt(9)?).unwrap_or(MOST_IN_FLIGHT);
    Ok(api::Lane {
        lane_id: row.id(0)?,
        kind: if endpoint_id.is_some() { "endpoint" } else { "origin" }.to_owned(),
        endpoint_id,
        origin: row.text_opt(2)?,
        state,
        held_reason: hold.map(|hold| hold.word.to_owned()),
        held_until: hold.and_then(|hold| hold.until),
        depth: big(row.int(12)?),
        oldest_due: row.time_opt(13)?,
        in_flight: big(row.int(14)?),
        max_in_flight: row.count(3)?.min(most),
        rate_per_second: limit(row.int_opt(10)?),
        ordered: row.int(11)? == 1,
        failures: row.count(4)?,
    })
}
