//! The endpoints that an event may go to, as transactions ask for them.
//!
//! A node goes by what it read within the last second; its own changes it sees at once. So does a submission that names one. A claim asks for the endpoint
//! once more, whether it is enabled and where it is; a delivery that is handed over as it is made goes by what was read
//! here: for a second after another node's change it may be sent where, and as, the endpoint was before.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::batch::{Col, Sql};
use super::endpoints::{believed, endpoint, endpoint_columns};
use super::error::Result;
use super::gather::Gather;
use super::pool::Tx;
use super::{Inner, Store};
use crate::args;
use crate::types::endpoint::{Endpoint, Pattern, any_matches};
use crate::types::job::JobEvent;
use crate::types::{EndpointId, Millis, TenantId};

/// So long a node goes by what it read: the time a new endpoint takes to be honoured by every node.
const BELIEVED: Duration = Duration::from_secs(1);
/// Endpoints remembered, and accounts that have none; forgetting one costs a read.
const REMEMBERED: usize = 20_000;

/// A tenant and an account of it; '' stands for none.
pub(super) type Audience = (TenantId, String);
/// The endpoints of one account.
pub(super) type Group = Arc<Vec<Arc<Endpoint>>>;

/// What was lately read. In memory, bounded.
#[derive(Default)]
pub(super) struct Subscribers(Mutex<Known>);

#[derive(Default)]
struct Known {
    groups: HashMap<Audience, (Group, Millis)>,
    named: HashMap<EndpointId, (Option<Arc<Endpoint>>, Millis)>,
    /// How many endpoints both remember, an account without any counted as one.
    held: usize,
    /// Rises when this node changes an endpoint, so that a read begun before is not remembered.
    changes: u64,
}

fn fresh<V: Clone>(found: Option<&(V, Millis)>, now: Millis) -> Option<V> {
    found.filter(|(_, at)| is_fresh(*at, now)).map(|(value, _)| value.clone())
}

fn is_fresh(at: Millis, now: Millis) -> bool {
    now >= at && now.since(at) < BELIEVED
}

impl Subscribers {
    /// This node changed an endpoint.
    pub(super) fn changed(&self) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.changes += 1;
        known.forget();
    }

    /// How often this node has changed an endpoint, before a read that is to be remembered.
    fn changes(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).changes
    }

    fn group(&self, of: &Audience, now: Millis) -> Option<Group> {
        fresh(self.0.lock().unwrap_or_else(PoisonError::into_inner).groups.get(of), now)
    }

    /// How many endpoints an account had when it was last read.
    pub(super) fn about(&self, of: &Audience) -> usize {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.groups.get(of).map_or(0, |(group, _)| group.len())
    }

    /// What is known of an endpoint; None within for one that was not there.
    fn named(&self, id: EndpointId, now: Millis) -> Option<Option<Arc<Endpoint>>> {
        fresh(self.0.lock().unwrap_or_else(PoisonError::into_inner).named.get(&id), now)
    }

    /// Remembers one that was read after `changes`, no earlier than at `now`.
    fn remember(&self, changes: u64, one: &Arc<Endpoint>, now: Millis) {
        self.put_named(changes, one.id, Some(one.clone()), now);
    }

    fn put_named(&self, changes: u64, id: EndpointId, one: Option<Arc<Endpoint>>, now: Millis) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.makes_room(changes, 1, now) {
            let before = known.named.insert(id, (one, now));
            known.held -= usize::from(before.is_some());
        }
    }

    fn put_group(&self, changes: u64, of: Audience, group: Group, now: Millis) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.makes_room(changes, size(&group), now) {
            let before = known.groups.insert(of, (group, now));
            known.held -= before.map_or(0, |(group, _)| size(&group));
        }
    }
}

/// What it counts for.
fn size(group: &Group) -> usize {
    group.len().max(1)
}

impl Known {
    /// For what was read after `changes` and is so large. False where it is not to be remembered: this node has changed an endpoint
    /// since.
    fn makes_room(&mut self, changes: u64, size: usize, now: Millis) -> bool {
        if self.changes != changes {
            return false;
        }
        if self.held + size > REMEMBERED {
            self.groups.retain(|_, (_, at)| is_fresh(*at, now));
            self.named.retain(|_, (_, at)| is_fresh(*at, now));
            self.held =
                self.named.len() + self.groups.values().map(|(group, _)| self::size(group)).sum::<usize>();
        }
        if self.held + size > REMEMBERED {
            self.forget();
        }
        self.held += size;
        true
    }

    fn forget(&mut self) {
        self.groups.clear();
        self.named.clear();
        self.held = 0;
    }
}

pub(super) static GROUPS: Sql = Sql::batch(
    concat!(
        "SELECT ",
        endpoint_columns!(),
        // LEFT, so that nothing but a look for each account is left: while the table is empty PostgreSQL would take all of it
        // for next to nothing, and go on doing so.
        " FROM {b} LEFT JOIN endpoints e ON e.tenant_id = b.tenant_id AND e.account = b.account AND e.deleted_at IS NULL
          ORDER BY e.id"
    ),
    0,
    &[("tenant_id", Col::Uuid), ("account", Col::Text)],
);

pub(super) static NAMED: Sql = Sql::batch(
    concat!(
        "SELECT ",
        endpoint_columns!(),
        " FROM {b} JOIN endpoints e ON e.id {is b.id} WHERE COALESCE(e.deleted_at, 0) = 0"
    ),
    0,
    &[("id", Col::Uuid)],
);

// LEFT as above.
pub(super) static SIZES: Sql = Sql::batch(
    "SELECT COUNT(e.id) FROM {b}
     LEFT JOIN endpoints e ON e.tenant_id = b.tenant_id AND e.account = b.account AND e.deleted_at IS NULL",
    0,
    &[("tenant_id", Col::Uuid), ("account", Col::Text)],
);

/// How many endpoints these accounts have together.
pub(super) async fn count(inner: &Inner, tx: &mut Tx, of: &BTreeSet<Audience>, now: Millis) -> Result<usize> {
    let (mut known, mut unknown) = (0, Vec::new());
    for audience in of {
        match inner.subscribers.group(audience, now) {
            Some(group) => known += group.len(),
            None => unknown.push(args![audience.0, audience.1.as_str()]),
        }
    }
    let rows = tx.batch(&SIZES, vec![], unknown).await?;
    rows.iter().try_fold(known, |sum, row| Ok(sum + row.count(0)? as usize))
}

/// The endpoints of these accounts.
pub(super) async fn groups(
    inner: &Inner,
    tx: &mut Tx,
    of: BTreeSet<Audience>,
    now: Millis,
) -> Result<HashMap<Audience, Group>> {
    let changes = inner.subscribers.changes();
    let mut found = HashMap::with_capacity(of.len());
    let mut unknown: HashMap<Audience, Vec<Arc<Endpoint>>> = HashMap::new();
    for audience in of {
        match inner.subscribers.group(&audience, now) {
            Some(group) => drop(found.insert(audience, group)),
            None => drop(unknown.insert(audience, Vec::new())),
        }
    }
    let rows = unknown.keys().map(|(tenant, account)| args![*tenant, account.as_str()]).collect();
    for row in tx.batch(&GROUPS, vec![], rows).await? {
        if row.uuid_opt(0)?.is_none() {
            continue;
        }
        let one = believed(&row, 0)?;
        let audience = (one.tenant, one.settings.account.clone().unwrap_or_default());
        unknown.entry(audience).or_default().push(Arc::new(one));
    }
    for (audience, group) in unknown {
        let group = Arc::new(group);
        inner.subscribers.put_group(changes, audience.clone(), group.clone(), now);
        found.insert(audience, group);
    }
    Ok(found)
}

/// These endpoints; None for one that is gone.
pub(super) async fn named(
    inner: &Inner,
    tx: &mut Tx,
    ids: BTreeSet<EndpointId>,
    now: Millis,
) -> Result<HashMap<EndpointId, Option<Arc<Endpoint>>>> {
    let changes = inner.subscribers.changes();
    let mut found = HashMap::with_capacity(ids.len());
    let mut unknown = Vec::new();
    for id in ids {
        match inner.subscribers.named(id, now) {
            Some(known) => drop(found.insert(id, known)),
            None => unknown.push(id),
        }
    }
    for row in tx.batch(&NAMED, vec![], unknown.iter().map(|id| args![*id]).collect()).await? {
        let one = believed(&row, 0)?;
        found.insert(one.id, Some(Arc::new(one)));
    }
    for id in unknown {
        let one = found.entry(id).or_insert(None).clone();
        inner.subscribers.put_named(changes, id, one, now);
    }
    Ok(found)
}

/// Those that submissions name at this moment.
pub(super) type Asked = Gather<EndpointId, Arc<Endpoint>>;

impl Store {
    /// Those of these endpoints that the tenant has, as this node last read them, within the last second. What is read here the
    /// transactions of the next second need not read.
    pub async fn named_endpoints(
        &self,
        tenant: TenantId,
        ids: BTreeSet<EndpointId>,
        now: Millis,
    ) -> Result<Vec<Arc<Endpoint>>> {
        let subscribers = &self.0.subscribers;
        let changes = subscribers.changes();
        let (mut found, mut unknown) = (Vec::with_capacity(ids.len()), Vec::new());
        for id in ids {
            match subscribers.named(id, now).flatten().filter(|one| one.readable) {
                Some(one) => found.push(one),
                // One that was not there may be by now, and one that could not be read is an error whoever read it before.
                None => unknown.push(id),
            }
        }
        let alone = match unknown[..] {
            [one] => self.0.asked.ask(one, |ids| self.readable(ids)).await?,
            _ => None,
        };
        let read = match alone {
            Some(one) => vec![one],
            None if unknown.is_empty() => Vec::new(),
            // Many, or one that is not there or cannot be read.
            None => {
                let rows =
                    self.scout_batch(&NAMED, vec![], unknown.iter().map(|id| args![*id]).collect()).await?;
                // That of another tenant is not there, be it readable or not.
                let theirs = rows.iter().filter(|row| row.id(1).is_ok_and(|owner: TenantId| owner == tenant));
                theirs.map(|row| endpoint(row, 0).map(Arc::new)).collect::<Result<_>>()?
            }
        };
        read.iter().for_each(|one| subscribers.remember(changes, one, now));
        found.extend(read);
        found.retain(|one| one.tenant == tenant);
        Ok(found)
    }

    /// Those of these endpoints that are there and can be read.
    async fn readable(&self, ids: Vec<EndpointId>) -> Result<HashMap<EndpointId, Arc<Endpoint>>> {
        let rows = self.scout_batch(&NAMED, vec![], ids.iter().map(|id| args![*id]).collect()).await?;
        let readable = rows.iter().filter_map(|row| endpoint(row, 0).ok());
        Ok(readable.map(|one| (one.id, Arc::new(one))).collect())
    }
}

/// The job events that someone of the group wants, as bits of [`JobEvent::bit`].
pub(super) fn job_events(group: &[Arc<Endpoint>]) -> i64 {
    let wanted = |patterns: &[Pattern]| {
        JobEvent::ALL.iter().filter(|e| any_matches(patterns, e.as_str())).fold(0, |set, e| set | e.bit())
    };
    group.iter().fold(0, |set, endpoint| set | wanted(&endpoint.settings.patterns))
}
