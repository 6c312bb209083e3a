//! What holds a queue's claims back: a pause, and a limit of jobs under way over all nodes.
//!
//! A queue without settings costs its claims one read a second and node. A limit is counted from the leases
//! that hold, under a lock of the queue's row: there is no semaphore beside them that could leak.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::batch::{Col, Sql};
use super::db::Row;
use super::error::Result;
use super::model::LeaseRequest;
use super::pool::Tx;
use super::{Inner, Store};
use crate::args;
use crate::types::{Millis, TenantId};

/// So long a node goes by what it read of a queue: the time a change takes to reach every node.
const BELIEVED: Duration = Duration::from_secs(1);
/// Queues remembered; forgetting one costs a read.
const REMEMBERED: usize = 10_000;

type Key = (TenantId, String);

/// The settings of one queue that bear on claims.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limit {
    paused_until: Option<Millis>,
    max_in_flight: Option<u32>,
}

impl Limit {
    fn read(row: &Row, at: usize) -> Result<Limit> {
        let max_in_flight = row.int_opt(at + 1)?.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        Ok(Limit { paused_until: row.time_opt(at)?, max_in_flight })
    }

    fn paused(&self, now: Millis) -> bool {
        self.paused_until.is_some_and(|until| until > now)
    }

    fn holds_back(&self, now: Millis) -> bool {
        self.max_in_flight.is_some() || self.paused(now)
    }
}

/// What was lately read. In memory, bounded.
#[derive(Default)]
pub(super) struct Limits(Mutex<Known>);

#[derive(Default)]
struct Known {
    seen: HashMap<Key, (Limit, Millis)>,
    /// Rises when this node changes a queue, so that a read begun before is not remembered.
    changes: u64,
}

impl Limits {
    fn get(&self, key: &Key, now: Millis) -> Option<Limit> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |at: Millis| now >= at && now.since(at) < BELIEVED;
        known.seen.get(key).filter(|(_, at)| fits(*at)).map(|(limit, _)| *limit)
    }

    /// Whether it is known that nothing holds the queue back.
    pub(super) fn has_none(&self, key: &Key, now: Millis) -> bool {
        self.get(key, now).is_some_and(|limit| !limit.holds_back(now))
    }

    fn changes(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).changes
    }

    fn put(&self, key: Key, limit: Limit, changes: u64, now: Millis) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.changes != changes {
            return;
        }
        if known.seen.len() >= REMEMBERED {
            known.seen.clear();
        }
        known.seen.insert(key, (limit, now));
    }

    /// This node changed the settings of a queue.
    pub(super) fn changed(&self) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.changes += 1;
        known.seen.clear();
    }
}

static SETTINGS: Sql = Sql::batch(
    "SELECT q.tenant_id, q.name, q.paused_until, q.max_in_flight
     FROM {b} JOIN queues q ON q.tenant_id = b.tenant_id AND q.name = b.name",
    0,
    &[("tenant_id", Col::Uuid), ("name", Col::Text)],
);

// Two nodes that count at once would both see room for the last job.
static LOCK: Sql = Sql::batch(
    "SELECT q.tenant_id, q.name, q.paused_until, q.max_in_flight
     FROM {b} JOIN queues q ON q.tenant_id = b.tenant_id AND q.name = b.name
     ORDER BY q.tenant_id, q.name {wait}",
    0,
    &[("tenant_id", Col::Uuid), ("name", Col::Text)],
);

static LIVE: Sql = Sql::plain(
    "SELECT COUNT(*) FROM (
         SELECT 1 AS one FROM job_queue q
         WHERE q.tenant_id = $1 AND q.queue = $2 AND q.phase = 'leased'
           AND q.due_at > $3  -- a lease that ran out holds nothing
         LIMIT $4) AS c",
);

/// The queues of one transaction's claims that are held back, those with a limit under a lock.
pub(super) type Held = HashMap<Key, Hold>;

/// One of them.
pub(super) struct Hold {
    limit: Limit,
    /// What the limit leaves, once it has been counted: it may be a count of 100,000 rows, and is the same for all claims.
    room: Option<u32>,
}

/// Asks what holds the wished queues back. The first statement of its transaction: whoever waits for a
/// limit's lock holds nothing that its owner could wait for.
pub(super) async fn held(inner: &Inner, tx: &mut Tx, wants: &[&LeaseRequest], now: Millis) -> Result<Held> {
    let keys: BTreeSet<Key> = wants.iter().map(|want| want.of_queue()).collect();
    let changes = inner.limits.changes();
    let mut held = HashMap::new();
    let mut unknown = Vec::new();
    for key in keys {
        match inner.limits.get(&key, now) {
            Some(limit) if !limit.holds_back(now) => {}
            Some(limit) => drop(held.insert(key, limit)),
            None => unknown.push(key),
        }
    }
    let mut read = settings(tx, &SETTINGS, &unknown).await?;
    for key in unknown {
        let limit = read.remove(&key).unwrap_or_default();
        inner.limits.put(key.clone(), limit, changes, now);
        if limit.holds_back(now) {
            held.insert(key, limit);
        }
    }
    let limited = held.iter().filter(|(_, limit)| limit.max_in_flight.is_some() && !limit.paused(now));
    let limited: Vec<Key> = limited.map(|(key, _)| key.clone()).collect();
    held.extend(settings(tx, &LOCK, &limited).await?);
    Ok(held.into_iter().map(|(key, limit)| (key, Hold { limit, room: None })).collect())
}

async fn settings(tx: &mut Tx, sql: &'static Sql, keys: &[Key]) -> Result<HashMap<Key, Limit>> {
    let rows = keys.iter().map(|(tenant, name)| args![*tenant, name.as_str()]).collect();
    let rows = tx.batch(sql, vec![], rows).await?;
    rows.iter().map(|row| Ok(((row.id(0)?, row.text(1)?), Limit::read(row, 2)?))).collect()
}

/// How many of the wished jobs may be handed out now.
pub(super) async fn room(tx: &mut Tx, held: &mut Held, want: &LeaseRequest, now: Millis) -> Result<u32> {
    let Some(hold) = held.get_mut(&want.of_queue()) else { return Ok(want.max) };
    if hold.limit.paused(now) {
        return Ok(0);
    }
    let Some(most) = hold.limit.max_in_flight else { return Ok(want.max) };
    let room = match hold.room {
        Some(room) => room,
        None => left(most, &tx.all(&LIVE, args![want.tenant, want.queue.as_str(), now, most]).await?)?,
    };
    hold.room = Some(room);
    Ok(room.min(want.max))
}

/// So many of the queue's jobs were handed out.
pub(super) fn taken(held: &mut Held, want: &LeaseRequest, jobs: usize) {
    if let Some(room) = held.get_mut(&want.of_queue()).and_then(|hold| hold.room.as_mut()) {
        *room = room.saturating_sub(u32::try_from(jobs).unwrap_or(u32::MAX));
    }
}

fn left(most: u32, live: &[Row]) -> Result<u32> {
    Ok(most.saturating_sub(live.first().map(|row| row.count(0)).transpose()?.unwrap_or(0)))
}

impl Store {
    /// Whether a claim of the queue would be let through now. Takes no lock: for who waits.
    pub(super) async fn lets_through(&self, want: &LeaseRequest, now: Millis) -> Result<bool> {
        let key = want.of_queue();
        let engine = self.0.scouts.engine();
        let limit = match self.0.limits.get(&key, now) {
            Some(limit) => limit,
            None => {
                let changes = self.0.limits.changes();
                let named = vec![args![want.tenant, want.queue.as_str()]];
                let rows = self.scout_batch(&SETTINGS, vec![], named).await?;
                let limit = rows.first().map(|row| Limit::read(row, 2)).transpose()?.unwrap_or_default();
                self.0.limits.put(key, limit, changes, now);
                limit
            }
        };
        match limit.max_in_flight {
            _ if limit.paused(now) => Ok(false),
            None => Ok(true),
            Some(most) => {
                let args = args![want.tenant, want.queue.as_str(), now, most];
                Ok(left(most, &self.scout(LIVE.text(engine), args).await?)? > 0)
            }
        }
    }
}
