//! Lanes and the nodes that own them.

pub(super) mod fleet;
mod free;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::Store;
use super::batch::{Col, Sql};
use super::db::{Row, Value};
use super::error::{Error, Result};
use super::model::{LaneSettings, LaneState, OwnedLane};
use super::pool::Tx;
use crate::args;
use crate::types::endpoint::lane_of as lane_of_endpoint;
use crate::types::id::NodeId;
use crate::types::lane::Limits;
use crate::types::{DeliveryId, EndpointId, LaneId, Millis, TenantId};
use free::{MINE, MINE_FREE, NOBODYS, NOBODYS_FREE, take_free};
pub(super) use view::{held_columns, held_until, hold};

static ALIVE: Sql = Sql::plain(
    "INSERT INTO nodes (id, alive_until) VALUES ($1, $2)
     ON CONFLICT (id) DO UPDATE SET alive_until = excluded.alive_until",
);
static GONE: Sql = Sql::plain("DELETE FROM nodes WHERE id = $1");
static FORGET: Sql = Sql::plain("DELETE FROM nodes WHERE alive_until < $1");
static DISOWN: Sql = Sql::plain("UPDATE lanes SET owner_id = NULL WHERE owner_id = $1");
static VOID_LEASES: Sql = Sql::plain(
    "UPDATE delivery_queue SET due_at = $2 WHERE phase = 'leased' AND node_id <> $1 AND due_at > $2",
);
static DISOWN_OTHERS: Sql = Sql::plain("UPDATE lanes SET owner_id = NULL WHERE owner_id <> $1");
static FORGET_OTHERS: Sql = Sql::plain("DELETE FROM nodes WHERE id <> $1");

// Owned by this node afterwards: lanes that were free, ownerless, or whose owner is dead.
static OWN: Sql = Sql::batch(
    "INSERT INTO lanes (id, tenant_id, endpoint_id, origin, owner_id, concurrency, failures, opened, used_at, owners)
     SELECT b.id, b.tenant_id, b.endpoint_id, b.origin, $1, 10, 0, 0, $2, 1
     FROM {b}
     WHERE NOT EXISTS (  -- whose lane it is must not find its row locked
       SELECT 1 FROM lanes l JOIN nodes n ON n.id {is l.owner_id} AND n.alive_until > $2
       WHERE l.id {is b.id} AND l.owner_id <> $1)
     -- in one order, so that two nodes cannot deadlock
     ORDER BY b.id
     ON CONFLICT (id) DO UPDATE SET owner_id = excluded.owner_id, used_at = excluded.used_at, owners = lanes.owners + 1
       WHERE lanes.owner_id IS NULL OR lanes.owner_id = excluded.owner_id
          OR NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = lanes.owner_id AND n.alive_until > $2)
     RETURNING id, concurrency, failures, opened, held_until, held_reason, rate_at, paused_until, cleared_at,
       owners, CASE WHEN EXISTS (SELECT 1 FROM delivery_queue q WHERE q.lane_id {is lanes.id}) THEN CAST(1 AS BIGINT) ELSE 0 END, tenant_id",
    2,
    &[("id", Col::Uuid), ("tenant_id", Col::Uuid), ("endpoint_id", Col::Uuid), ("origin", Col::Text)],
);

static ORIGINS: Sql = Sql::batch(
    "SELECT d.lane_id, d.tenant_id, d.url, d.endpoint_id, l.id
     FROM {b} JOIN deliveries d ON d.id = b.delivery_id LEFT JOIN lanes l ON l.id = d.lane_id",
    0,
    &[("delivery_id", Col::Uuid)],
);

// What was found out before someone put an end to it is no more.
macro_rules! unless_cleared {
    ($column:literal) => {
        concat!(
            $column,
            " = CASE WHEN COALESCE(lanes.cleared_at, 0) = b.cleared_at THEN b.",
            $column,
            " ELSE lanes.",
            $column,
            " END, "
        )
    };
}
pub(super) static SAVE: Sql = Sql::batch(
    concat!(
        "UPDATE lanes SET ",
        unless_cleared!("failures"),
        unless_cleared!("opened"),
        unless_cleared!("held_until"),
        unless_cleared!("held_reason"),
        "concurrency = b.concurrency, rate_at = b.rate_at, owner_id = CASE WHEN b.release = 1 THEN NULL ELSE owner_id END
         FROM {b} WHERE lanes.id = b.id AND COALESCE(lanes.owner_id, lanes.id) = $1"
    ),
    1,
    &[
        ("id", Col::Uuid),
        ("concurrency", Col::Int),
        ("failures", Col::Int),
        ("opened", Col::Int),
        ("held_until", Col::Int),
        ("held_reason", Col::Text),
        ("rate_at", Col::Int),
        ("cleared_at", Col::Int),
        ("release", Col::Int),
    ],
);

macro_rules! set {
    () => {
        "SELECT l.id, l.paused_until, l.cleared_at, ep.max_in_flight, ep.rate_per_second, COALESCE(ep.ordered, 0),
          l.set_at FROM "
    };
}
static SET: Sql = Sql::batch(
    concat!(set!(), "{b} JOIN lanes l ON l.id = b.id LEFT JOIN endpoints ep ON ep.id = l.endpoint_id"),
    0,
    &[("id", Col::Uuid)],
);
const SET_SINCE: &str = concat!(
    set!(),
    "lanes l LEFT JOIN endpoints ep ON ep.id = l.endpoint_id WHERE l.owner_id = $1 AND l.set_at >= $2"
);
// Makes the lane of a new endpoint, and changes nothing but the mark where there is one. An update alone would pass over
// one that another transaction is just making, whose owner has read what was set before and would never look again.
static TOUCH: Sql = Sql::plain(
    "INSERT INTO lanes (id, tenant_id, endpoint_id, concurrency, failures, opened, used_at, set_at)
     VALUES ($1, $2, $3, 10, 0, 0, $4, $4)
     ON CONFLICT (id) DO UPDATE SET set_at = excluded.set_at",
);
// Who owns it does the same once it looks.
static CLEAR: Sql = Sql::plain(
    "UPDATE lanes SET set_at = $2, cleared_at = $2, failures = 0, opened = 0, held_until = NULL, held_reason = NULL
     WHERE id = $1",
);

/// Lanes that one transaction writes down.
const SAVED_AT_ONCE: usize = 1_000;
/// So long lanes that others hold are waited for, one after the other, whichever come first in a set that has no order: the row
/// of a busy one is hardly ever free, and never for long not to be had.
const WAITED: Duration = Duration::from_millis(500);

impl Store {
    /// This node is alive until then.
    pub async fn keep_alive(&self, node: NodeId, until: Millis) -> Result<()> {
        let mut tx = self.0.writers.begin().await?;
        tx.run(&ALIVE, args![node, until]).await?;
        tx.commit().await
    }

    /// This node leaves: its lanes are free at once.
    pub async fn leave(&self, node: NodeId) -> Result<()> {
        let mut tx = self.0.writers.begin().await?;
        tx.run(&DISOWN, args![node]).await?;
        tx.run(&GONE, args![node]).await?;
        tx.commit().await
    }

    /// Nodes that have been dead for long are forgotten.
    pub async fn forget_nodes(&self, before: Millis) -> Result<u64> {
        let mut tx = self.0.writers.begin().await?;
        let n = tx.run(&FORGET, args![before]).await?;
        tx.commit().await?;
        Ok(n)
    }

    /// At the start on SQLite, where no other process can be: what a node before this one held of deliveries
    /// is free at once, its leases and its lanes. Gives how many leases that were.
    ///
    /// On PostgreSQL another node may hold them, so nothing is done. Workers' leases survive.
    pub async fn void_old_leases(&self, node: NodeId, now: Millis) -> Result<u64> {
        match self.0.readers.engine() {
            super::db::Engine::Postgres => Ok(0),
            super::db::Engine::Sqlite => {
                let mut tx = self.0.writers.begin().await?;
                let n = tx.run(&VOID_LEASES, args![node, now]).await?;
                tx.run(&DISOWN_OTHERS, args![node]).await?;
                tx.run(&FORGET_OTHERS, args![node]).await?;
                tx.commit().await?;
                Ok(n)
            }
        }
    }

    /// Tries to own the lanes of the given deliveries, one delivery per lane. Gives those it owns now. What another
    /// transaction holds holds up no other lane: those are waited for last, each for itself, and what is not had in time, or
    /// before the store failed, is left to the next try.
    pub async fn own_lanes(
        &self,
        node: NodeId,
        of: &[(LaneId, DeliveryId)],
        now: Millis,
    ) -> Result<Vec<OwnedLane>> {
        let mut owned = Vec::new();
        match self.own_by_parts(node, of, now, &mut owned).await {
            Ok(()) => {}
            // What is owned by then is committed, and its owner must know of it.
            Err(e) if !owned.is_empty() || matches!(e, Error::Locked(_)) => {
                tracing::warn!(lanes = of.len(), owned = owned.len(), error = %e, "lanes with due deliveries could not be owned");
            }
            Err(e) => return Err(e),
        }
        Ok(owned)
    }

    async fn own_by_parts(
        &self,
        node: NodeId,
        of: &[(LaneId, DeliveryId)],
        now: Millis,
        owned: &mut Vec<OwnedLane>,
    ) -> Result<()> {
        let of = of.iter().map(|(_, delivery)| args![*delivery]).collect();
        // Each lane once, or the upsert is refused.
        let (mut there, mut new) = (BTreeMap::new(), BTreeMap::new());
        for row in self.scout_batch(&ORIGINS, vec![], of).await? {
            let endpoint = row.uuid_opt(3)?;
            // An endpoint may move to another origin; its lane goes with it.
            let url = row.text(2)?;
            let origin = origin_of(&url).ok().filter(|_| endpoint.is_none()).map(|(origin, _)| origin);
            let lane = args![row.uuid(0)?, row.uuid(1)?, endpoint, origin];
            let lanes = if row.uuid_opt(4)?.is_some() { &mut there } else { &mut new };
            lanes.insert(row.uuid(0)?, lane);
        }
        // For themselves: who makes one waits for whoever else is making it, and must hold none that others wait for.
        if !new.is_empty() {
            match self.own_alone(node, new.into_values().collect(), now).await? {
                Some(lanes) => owned.extend(lanes),
                None => tracing::warn!("new lanes could not be owned in time"),
            }
        }
        let mut held = HashSet::new();
        if !there.is_empty() {
            let mut tx = self.0.writers.begin().await?;
            let asked = there.keys().map(|id| args![*id]).collect();
            let (free, rest) = take_free(&mut tx, [&NOBODYS_FREE, &NOBODYS], args![node, now], asked).await?;
            held = rest;
            let free = there.iter().filter(|(id, _)| free.contains(id)).map(|(_, lane)| lane.clone());
            let free = self::owned(&mut tx, node, free.collect(), now).await?;
            tx.commit().await?;
            owned.extend(free);
        }
        let until = Instant::now() + WAITED;
        for lane in held.iter().take_while(|_| Instant::now() < until).filter_map(|id| there.remove(id)) {
            owned.extend(self.own_alone(node, vec![lane], now).await?.into_iter().flatten());
        }
        Ok(())
    }

    /// In a transaction of its own. None if another one holds their rows for too long.
    async fn own_alone(
        &self,
        node: NodeId,
        lanes: Vec<Vec<Value>>,
        now: Millis,
    ) -> Result<Option<Vec<OwnedLane>>> {
        let mut tx = self.0.writers.begin().await?;
        match owned(&mut tx, node, lanes, now).await {
            Ok(lanes) => {
                tx.commit().await?;
                Ok(Some(lanes))
            }
            Err(Error::Locked(_)) => {
                let _ = tx.rollback().await;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// What was set since then for lanes of this node, and when.
    pub async fn lanes_set(
        &self,
        node: NodeId,
        since: Millis,
    ) -> Result<Vec<(LaneId, LaneSettings, Millis)>> {
        let rows = self.scout(SET_SINCE, args![node, since]).await?;
        let set = |row| settings(row).and_then(|(lane, set)| Ok((lane, set, row.time(6)?)));
        rows.iter().map(set).collect()
    }

    /// Writes down how lanes stand, and lets go of those marked so. Gives those of `node` that it could not write, as
    /// another transaction holds them; those are waited for last, each for itself.
    pub async fn save_lanes(&self, node: NodeId, lanes: &[(LaneState, bool)]) -> Result<HashSet<LaneId>> {
        let mut left = HashSet::new();
        // Some at a time: others may wait for each.
        for some in lanes.chunks(SAVED_AT_ONCE) {
            let mut tx = self.0.writers.begin().await?;
            let asked = some.iter().map(|(l, _)| args![l.id]).collect();
            let (free, held) = take_free(&mut tx, [&MINE_FREE, &MINE], args![node], asked).await?;
            left.extend(held.into_iter().map(LaneId::from_uuid));
            let free = some.iter().filter(|(l, _)| free.contains(&l.id.uuid()));
            tx.batch(&SAVE, args![node], free.map(saved).collect()).await?;
            tx.commit().await?;
        }
        let until = Instant::now() + WAITED;
        let held: Vec<_> = left.iter().copied().collect();
        for held in held.into_iter().take_while(|_| Instant::now() < until) {
            let mut tx = self.0.writers.begin().await?;
            let lane = lanes.iter().filter(|(l, _)| l.id == held).map(saved).collect();
            match tx.batch(&SAVE, args![node], lane).await {
                Ok(_) => {
                    tx.commit().await?;
                    left.remove(&held);
                }
                Err(Error::Locked(_)) => drop(tx.rollback().await),
                Err(e) => return Err(e),
            }
        }
        Ok(left)
    }
}

fn saved((l, release): &(LaneState, bool)) -> Vec<Value> {
    args![
        l.id,
        l.concurrency,
        l.failures,
        l.opened,
        l.held_until,
        l.held_reason.clone(),
        l.rate_at,
        l.cleared_at.unwrap_or_default(),
        i64::from(*release),
    ]
}

/// [`own`], with what is set for them.
async fn owned(tx: &mut Tx, node: NodeId, lanes: Vec<Vec<Value>>, now: Millis) -> Result<Vec<OwnedLane>> {
    let owned = own(tx, node, lanes, now).await?;
    // What is due in one that nobody owned was passed over by no look.
    let mut owned: Vec<OwnedLane> =
        owned.into_iter().map(|(lane, first)| OwnedLane { more: lane.more && !first, ..lane }).collect();
    let ids = owned.iter().map(|lane| args![lane.state.id]).collect();
    let set = tx.batch(&SET, vec![], ids).await?;
    let mut set: HashMap<LaneId, LaneSettings> = set.iter().map(settings).collect::<Result<_>>()?;
    for lane in &mut owned {
        lane.set = set.remove(&lane.state.id).unwrap_or_default();
    }
    Ok(owned)
}

/// Tries to own lanes: a row of [`OWN`] for each, in order of their ids and no lane twice. Gives those that `node` owns once this
/// is durable, without their limits, which are not read, and whether nobody owned them before.
pub(super) async fn own(
    tx: &mut Tx,
    node: NodeId,
    lanes: Vec<Vec<Value>>,
    now: Millis,
) -> Result<Vec<(OwnedLane, bool)>> {
    let rows = tx.batch(&OWN, args![node, now], lanes).await?;
    let lane = |row: &Row| {
        let set = LaneSettings {
            paused_until: row.time_opt(7)?,
            cleared_at: row.time_opt(8)?,
            ..Default::default()
        };
        let lane = OwnedLane { state: state(row)?, tenant: row.id(11)?, set, more: row.int(10)? == 1 };
        Ok((lane, row.int(9)? == 1))
    };
    rows.iter().map(lane).collect()
}

fn state(r: &Row) -> Result<LaneState> {
    Ok(LaneState {
        id: r.id(0)?,
        concurrency: r.count(1)?,
        failures: r.count(2)?,
        opened: r.count(3)?,
        held_until: r.time_opt(4)?,
        held_reason: r.text_opt(5)?,
        rate_at: r.time_opt(6)?,
        cleared_at: r.time_opt(8)?,
    })
}

/// What is set, as [`SET`] reads it.
fn settings(r: &Row) -> Result<(LaneId, LaneSettings)> {
    let limit = |n| Ok::<_, Error>(r.int_opt(n)?.and_then(|l| u32::try_from(l).ok()));
    let limits = Limits { max_in_flight: limit(3)?, rate_per_second: limit(4)?, ordered: r.int(5)? == 1 };
    Ok((r.id(0)?, LaneSettings { paused_until: r.time_opt(1)?, cleared_at: r.time_opt(2)?, limits }))
}

/// Origin and host of a URL that was checked at registration. It is stored as its parser wrote it, without a user and
/// without a usual port, so its origin is how it begins (WHATWG URL, 4.5 and 4.7).
pub(super) fn origin_of(url: &str) -> Result<(&str, &str)> {
    let (scheme, rest) =
        url.split_once("://").ok_or_else(|| Error::Bug("a stored URL has no host".to_owned()))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        // A colon within an IPv6 address begins no port.
        Some((host, port)) if !port.ends_with(']') => host,
        Some(_) | None => authority,
    };
    Ok((&url[..scheme.len() + 3 + authority.len()], host))
}

/// The lane of ad-hoc URLs is known without asking: tenant and origin, hashed.
pub(super) fn lane_of(tenant: TenantId, origin: &str) -> LaneId {
    let hash = Sha256::new().chain_update(tenant.uuid()).chain_update(origin).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    LaneId::from_uuid(Uuid::from_bytes(bytes))
}

/// What is set for an endpoint has changed: the owner of its lane looks.
pub(super) async fn touch(tx: &mut Tx, tenant: TenantId, of: EndpointId, now: Millis) -> Result<()> {
    tx.run(&TOUCH, args![lane_of_endpoint(of), tenant, of, now]).await.map(drop)
}

/// What its owner has found out of a receiver is no longer so, as far as someone knows: its breaker closes, a pause that
/// the receiver asked for ends.
pub(super) async fn clear(tx: &mut Tx, lane: LaneId, now: Millis) -> Result<()> {
    tx.run(&CLEAR, args![lane, now]).await.map(drop)
}

/// What takes turns in an ad-hoc lane: the URL, hashed; never 0, which is no turn.
pub(super) fn turn_of(url: &str) -> i64 {
    let hash = Sha256::digest(url);
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash[..8]);
    i64::from_be_bytes(bytes) | 1
}
