//! What is past its retention goes, bite by bite.

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use super::LOOK_AGAIN;
use super::needed::{needed, put_off};
use crate::args;
use crate::store::Store;
use crate::store::batch::{Col, Sql};
use crate::store::error::Result;
use crate::store::feed::{raise_marks, removed};
use crate::types::Millis;

/// A delivered or cancelled delivery is kept so long.
pub(in crate::store) const KEEP_DELIVERIES: Duration = Duration::from_secs(7 * 24 * 3600);
/// An event stands in its tenant's feed so long, whatever becomes of its job.
pub(in crate::store) const KEEP_EVENTS: Duration = Duration::from_secs(7 * 24 * 3600);
/// A dead letter and its delivery are kept so long.
pub(in crate::store) const KEEP_LETTERS: Duration = Duration::from_secs(30 * 24 * 3600);
/// The stub of a purged job answers 410 so long.
const KEEP_STUBS: Duration = Duration::from_secs(30 * 24 * 3600);
/// A redrive that is over and a secret that signs no more are kept so long.
const KEEP_TRACES: Duration = Duration::from_secs(30 * 24 * 3600);
/// What was learned of a lane is kept so long after its last use.
const KEEP_LANES: Duration = Duration::from_secs(7 * 24 * 3600);
/// Events that one transaction empties for each job that a bite may take. A job may have any number of them, and whoever
/// writes waits behind such a transaction.
const EVENTS_A_JOB: i64 = 10;
/// A call that has emptied so many events ends; the next one goes on.
const EVENTS_A_CALL: u64 = 20_000;

/// What retention removes, each kind for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retained {
    /// Dead letters, and what else is small: idempotency keys, lanes, secrets, what was learned.
    Letters,
    /// Ended jobs, and later what answers 410 for them.
    Jobs,
    /// Ended deliveries with their attempts.
    Deliveries,
    /// Events of the feed.
    Events,
}

impl Retained {
    /// In this order: a letter holds its job, and a job its deliveries.
    pub const ALL: [Retained; 4] =
        [Retained::Letters, Retained::Jobs, Retained::Deliveries, Retained::Events];
}

const OVER: &str = "
    SELECT j.id, j.sequence FROM jobs j WHERE j.remove_at <= $1 AND j.purged_at IS NULL AND j.state <> 'owed'
    ORDER BY j.remove_at LIMIT $2";
// The first that was not emptied yet, by an earlier call.
const FIRST_KEPT: &str = "
    SELECT e.sequence FROM events e WHERE e.job_id = $1 AND e.remove_at IS NULL ORDER BY e.sequence LIMIT 1";
macro_rules! over {
    () => {
        concat!("remove_at <= $1 AND purged_at IS NULL AND state <> 'owed' AND NOT ", needed!())
    };
}
pub(in crate::store) static STILL_OVER: Sql = Sql::batch(
    concat!("SELECT jobs.id FROM {b} JOIN jobs ON jobs.id = b.id WHERE ", over!()),
    1,
    &[("id", Col::Uuid)],
);
pub(in crate::store) static PURGE: Sql = Sql::batch(
    concat!(
        "UPDATE jobs
         SET input = NULL, callback = NULL, sealed = NULL, metadata = '{}', error = NULL, result = NULL, result_type = NULL,
             result_url = NULL, reference = NULL, token = NULL, purged_at = $1, remove_at = $2
         WHERE id IN (SELECT b.id FROM {b}) AND ",
        over!(),
        " RETURNING id"
    ),
    2,
    &[("id", Col::Uuid)],
);
// They stay in the feed for the rest of their time, without what the job's retention takes away.
pub(in crate::store) static EMPTY_EVENTS: Sql = Sql::batch(
    "UPDATE events SET data = '{}', remove_at = created_at + $1 FROM {b}
     WHERE events.job_id = b.job_id AND events.sequence > b.after AND events.sequence <= b.until
       AND events.remove_at IS NULL
     RETURNING events.id",
    1,
    &[("job_id", Col::Uuid), ("after", Col::Int), ("until", Col::Int)],
);
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
macro_rules! old_events {
    () => {
        "WHERE id IN (SELECT e.id FROM events e WHERE e.remove_at <= $1 ORDER BY e.remove_at LIMIT $2)
           AND remove_at <= $1 AND "
    };
}
pub(in crate::store) static POSTPONE_EVENTS: Sql =
    Sql::plain(concat!("UPDATE events SET remove_at = $3 ", old_events!(), has_receivers!("events.id")));
pub(in crate::store) static OLD_EVENTS: Sql = Sql::plain(concat!(
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
pub(in crate::store) static DROP_BODIES: Sql = Sql::batch(
    concat!(
        "DELETE FROM bodies WHERE event_id IN (SELECT b.id FROM {b}) AND NOT ",
        has_receivers!("bodies.event_id")
    ),
    0,
    &[("id", Col::Uuid)],
);
// A job's events have no time of their own before the job has gone.
pub(in crate::store) static DROP_EVENTS: Sql = Sql::batch(
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
macro_rules! old_lanes {
    () => {
        "WHERE id IN (SELECT q.id FROM lanes q WHERE q.used_at <= $1 ORDER BY q.used_at LIMIT $2 {lock}) AND "
    };
}
// A lane that nobody owns and where nothing waits is what its next delivery would make anew, but for the
// slots that were learned.
macro_rules! lane_needed {
    () => {
        "((lanes.endpoint_id IS NOT NULL AND EXISTS (SELECT 1 FROM endpoints e WHERE e.id = lanes.endpoint_id))
          OR COALESCE(lanes.held_until, 0) > $3 OR COALESCE(lanes.paused_until, 0) > $3
          OR EXISTS (SELECT 1 FROM nodes n WHERE n.id = lanes.owner_id)
          OR EXISTS (SELECT 1 FROM delivery_queue q WHERE q.lane_id = lanes.id))"
    };
}
// As if it had been used, or what is needed would be passed by every bite.
static POSTPONE_LANES: Sql =
    Sql::plain(concat!("UPDATE lanes SET used_at = $3 ", old_lanes!(), lane_needed!()));
static OLD_LANES: Sql = Sql::plain(concat!("DELETE FROM lanes ", old_lanes!(), "NOT ", lane_needed!()));
macro_rules! past {
    ($table:literal, $instant:literal) => {
        concat!(
            "DELETE FROM ",
            $table,
            " WHERE id IN (SELECT id FROM ",
            $table,
            " WHERE ",
            $instant,
            " <= $1 ORDER BY ",
            $instant,
            " LIMIT $2)"
        )
    };
}
static OLD_REDRIVES: Sql = Sql::plain(past!("redrives", "ended_at"));
static OLD_SECRETS: Sql = Sql::plain(past!("secrets", "expires_at"));
static OLD_API_KEYS: Sql = Sql::plain(past!("api_keys", "COALESCE(revoked_at, expires_at)"));
static OLD_LEARNED: Sql = Sql::plain(
    "DELETE FROM learned
     WHERE (tenant_id, what, name) IN (SELECT l.tenant_id, l.what, l.name FROM learned l
                                       WHERE l.updated_at <= $1 ORDER BY l.updated_at LIMIT $2)
       -- a node may have added to it since
       AND updated_at <= $1",
);
/// A key whose job is owed is put off for so long.
const KEY_AGAIN: Duration = Duration::from_secs(3600);

impl Store {
    /// Removes or puts off one bite of what is past its retention, about `bite` rows; zero: there is nothing left of the kind.
    pub async fn retain(&self, what: Retained, now: Millis, bite: u32) -> Result<u64> {
        match what {
            Retained::Letters => self.retain_letters(now, bite).await,
            Retained::Jobs => self.retain_jobs(now, bite).await,
            Retained::Deliveries => self.retain_deliveries(now, bite).await,
            Retained::Events => self.retain_events(now, bite).await,
        }
    }

    async fn retain_letters(&self, now: Millis, bite: u32) -> Result<u64> {
        let old = self.scout(OLD_LETTERS, args![now.minus(KEEP_LETTERS), bite]).await?;
        let mut old = old.iter().map(|r| r.uuid(0)).collect::<Result<Vec<_>>>()?;
        // In the order of a redrive, and the delivery before its letter: two transactions must not deadlock.
        old.sort_unstable();
        let ids = || old.iter().map(|id| args![*id]).collect::<Vec<_>>();
        let mut tx = self.0.writers.begin().await?;
        tx.batch(&MARK_DISCARDED, args![now], ids()).await?;
        let letters = tx.batch(&DROP_LETTERS, args![now.minus(KEEP_LETTERS)], ids()).await?;
        let mut gone = letters.len() as u64;
        gone += tx.run(&POSTPONE_KEYS, args![now, bite, now.plus(KEY_AGAIN)]).await?;
        gone += tx.run(&OLD_KEYS, args![now, bite]).await?;
        for traces in [&OLD_REDRIVES, &OLD_LEARNED, &OLD_SECRETS, &OLD_API_KEYS] {
            gone += tx.run(traces, args![now.minus(KEEP_TRACES), bite]).await?;
        }
        for lanes in [&POSTPONE_LANES, &OLD_LANES] {
            gone += tx.run(lanes, args![now.minus(KEEP_LANES), bite, now]).await?;
        }
        tx.commit().await?;
        Ok(gone)
    }

    async fn retain_deliveries(&self, now: Millis, bite: u32) -> Result<u64> {
        let mut tx = self.0.writers.begin().await?;
        let put_off = tx.run(&POSTPONE_DELIVERIES, args![now, bite, now.plus(LOOK_AGAIN)]).await?;
        let old = tx.all(&OLD_DELIVERIES, args![now, bite]).await?;
        let ids = |i: usize| old.iter().map(|r| Ok(args![r.uuid(i)?])).collect::<Result<Vec<_>>>();
        tx.batch(&DROP_ATTEMPTS, vec![], ids(0)?).await?;
        tx.batch(&DROP_BODIES, vec![], ids(1)?).await?;
        let events = tx.batch(&DROP_EVENTS, args![now], ids(1)?).await?;
        raise_marks(&mut tx, &events).await?;
        tx.commit().await?;
        Ok(put_off + old.len() as u64)
    }

    async fn retain_jobs(&self, now: Millis, bite: u32) -> Result<u64> {
        let mut tx = self.0.writers.begin().await?;
        let mut gone = tx.run(&DROP_STUBS, args![now, bite]).await?;
        gone += put_off(&mut tx, now, bite).await?;
        tx.commit().await?;
        let most = i64::from(bite) * EVENTS_A_JOB;
        let mut jobs = Vec::new();
        for row in self.scout(OVER, args![now, bite]).await? {
            let (id, last) = (row.uuid(0)?, row.int(1)?);
            let after = match last > most {
                true => self.scout(FIRST_KEPT, args![id]).await?.first().map_or(Ok(last), |r| r.int(0))? - 1,
                false => 0,
            };
            jobs.push((id, after, last));
        }
        let mut emptied = 0;
        for step in steps(&jobs, most) {
            let done = self.purge(step, now).await?;
            gone += done.purged;
            emptied += done.emptied;
            if emptied >= EVENTS_A_CALL {
                break;
            }
        }
        // Where no job went yet there is still more to do.
        Ok(if gone > 0 { gone } else { emptied })
    }

    async fn purge(&self, step: Step, now: Millis) -> Result<Purged> {
        let mut tx = self.0.writers.begin().await?;
        let mut over: Vec<_> = step.over.iter().map(|(id, ..)| *id).collect();
        over.sort_unstable();
        let over = over.into_iter().map(|id| args![id]).collect();
        let going = step.going.iter().map(|(id, ..)| args![*id]).collect();
        let purged = tx.batch(&PURGE, args![now, now.plus(KEEP_STUBS)], over).await?;
        let going = tx.batch(&STILL_OVER, args![now], going).await?;
        // One that something has come to need since it was looked for keeps them.
        let free = purged.iter().chain(&going).map(|r| r.uuid(0)).collect::<Result<HashSet<_>>>()?;
        let parts = step.over.iter().chain(&step.going).filter(|(id, ..)| free.contains(id));
        let parts = parts.map(|&(id, after, until)| args![id, after, until]).collect();
        let kept = i64::try_from(KEEP_EVENTS.as_millis()).unwrap_or(i64::MAX);
        let emptied = tx.batch(&EMPTY_EVENTS, args![kept], parts).await?;
        tx.commit().await?;
        Ok(Purged { purged: purged.len() as u64, emptied: emptied.len() as u64 })
    }

    async fn retain_events(&self, now: Millis, bite: u32) -> Result<u64> {
        let mut tx = self.0.writers.begin().await?;
        let put_off = tx.run(&POSTPONE_EVENTS, args![now, bite, now.plus(LOOK_AGAIN)]).await?;
        let old = tx.all(&OLD_EVENTS, args![now, bite]).await?;
        // Left where nobody was there any more to be told.
        let bodies = old.iter().map(|r| Ok(args![r.uuid(2)?])).collect::<Result<_>>()?;
        tx.batch(&DROP_BODIES, vec![], bodies).await?;
        raise_marks(&mut tx, &old).await?;
        tx.commit().await?;
        Ok(put_off + old.len() as u64)
    }
}

/// A job and its events from behind one sequence number up to another.
type Part = (Uuid, i64, i64);

/// What one transaction does.
#[derive(Debug, Default, PartialEq)]
struct Step {
    /// Jobs that go with it, each with the last of its events.
    over: Vec<Part>,
    /// Events of one that goes with a later step.
    going: Option<Part>,
}

/// What came of it.
struct Purged {
    purged: u64,
    emptied: u64,
}

/// Jobs, each with what is left of its events, in steps of at most `most` events.
fn steps(jobs: &[Part], most: i64) -> Vec<Step> {
    let mut steps = vec![];
    let (mut step, mut room) = (Step::default(), most);
    for &(id, mut after, events) in jobs {
        while events - after > room {
            step.going = Some((id, after, after + room)).filter(|_| room > 0);
            after += room;
            steps.push(std::mem::take(&mut step));
            room = most;
        }
        step.over.push((id, after, events));
        room -= events - after;
    }
    steps.push(step);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_takes_no_more_events_than_it_may_and_each_job_goes_with_its_last() {
        let [a, b, c] = [1, 2, 3].map(Uuid::from_u128);
        let step = |over: &[Part], going| Step { over: over.to_vec(), going };
        let of = |jobs: &[Part]| steps(jobs, 10);
        assert_eq!(
            of(&[(a, 0, 4), (b, 0, 6), (c, 0, 1)]),
            [step(&[(a, 0, 4), (b, 0, 6)], None), step(&[(c, 0, 1)], None)]
        );
        assert_eq!(
            of(&[(a, 0, 4), (b, 0, 26), (c, 0, 0)]),
            [
                step(&[(a, 0, 4)], Some((b, 0, 6))),
                step(&[], Some((b, 6, 16))),
                step(&[(b, 16, 26), (c, 0, 0)], None)
            ]
        );
        assert_eq!(of(&[(b, 20, 26)]), [step(&[(b, 20, 26)], None)], "what an earlier call has begun");
        assert_eq!(of(&[]), [step(&[], None)]);
    }
}
