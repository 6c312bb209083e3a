//! A lane that nobody owns is owned by the node that makes something for it, in the same transaction: what is made is
//! handed over then, and need not be found, owned and claimed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Outbox;
use super::delivery::{Handed, NewDelivery, To, Way, leased};
use crate::args;
use crate::store::error::{Error, Result};
use crate::store::lanes::{origin_of, own};
use crate::store::model::{ClaimedDelivery, OwnedLane, Receiver};
use crate::store::pool::Tx;
use crate::store::{HandOver, LaneSettings};
use crate::types::lane::Limits;
use crate::types::{DeliveryId, LaneId};

/// Deliveries for which one transaction asks for lanes; the rest is left to the dispatcher's looks.
const UNOWNED: usize = 256;

/// A delivery to a lane that this node does not own.
pub(super) struct Unowned {
    /// As it is handed over, but for its lease.
    claimed: ClaimedDelivery,
    /// Which row of the queue it has.
    at: usize,
    /// Of an ad-hoc lane.
    origin: Option<String>,
    limits: Limits,
}

/// Lanes that the node owns if the transaction becomes durable. Dropped before, it does not.
pub(in crate::store) struct Adopted {
    desk: Arc<dyn HandOver>,
    lanes: Vec<LaneId>,
}

impl Adopted {
    /// After the commit.
    pub(in crate::store) fn keep(mut self) {
        self.lanes.clear();
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        if !self.lanes.is_empty() {
            self.desk.disown(&self.lanes);
        }
    }
}

impl Outbox<'_> {
    /// It owns no lane, and what goes to one that is not owned waits for a look.
    pub(in crate::store) fn leaves_lanes(&mut self) {
        self.unowned = None;
    }

    /// Keeps in mind what is about to stand in the queue, if its lane can be owned.
    pub(super) fn note_unowned(
        &mut self,
        id: DeliveryId,
        way: Way<'_>,
        new: &NewDelivery<'_>,
        desk: &dyn HandOver,
    ) {
        let room = self.unowned.as_ref().is_some_and(|unowned| unowned.len() < UNOWNED);
        if !room || !desk.lacks(way.lane) {
            return;
        }
        let (origin, limits) = match new.to {
            To::Url(url) => (origin_of(url).ok(), Limits::default()),
            To::Gone(..) => return,
            To::Endpoint(endpoint) => (None, endpoint.settings.limits.of_lane()),
        };
        let claimed = self.in_hand(id, way, new, Duration::ZERO);
        let origin = origin.map(|(origin, _)| origin.to_owned());
        let one = Unowned { claimed, at: self.queue.len(), origin, limits };
        self.unowned.get_or_insert_default().push(one);
    }

    /// Owns what can be owned, and hands over what has a place then.
    pub(super) async fn adopt(&mut self, tx: &mut Tx) -> Result<()> {
        let unowned = self.unowned.take().unwrap_or_default();
        // Lanes that it numbers are locked in an order of their own.
        let none = unowned.is_empty() || !self.ordered.is_empty();
        let Some(desk) = self.inner.desk.get().filter(|_| !none).cloned() else { return Ok(()) };
        let mut lanes: BTreeMap<LaneId, &Unowned> = BTreeMap::new();
        for one in &unowned {
            lanes.entry(one.claimed.lane).or_insert(one);
        }
        let row = |(lane, one): (&LaneId, &&Unowned)| {
            let endpoint = one.claimed.endpoint.as_ref().map(|endpoint| endpoint.id);
            args![*lane, one.claimed.tenant, endpoint, one.origin.clone()]
        };
        let owned = own(tx, desk.node(), lanes.iter().map(row).collect(), self.now).await;
        let asked: Vec<LaneId> = lanes.keys().copied().collect();
        let owned = owned.map_err(|e| match e {
            Error::Locked(_) => {
                // Left alone for a while, or each transaction would wait for them.
                desk.avoid(&asked);
                Error::Again
            }
            e => e,
        })?;
        // The endpoint's own, as this node last read them, within the last second; the dispatcher looks for what was set since.
        let limits = |lane: &OwnedLane| lanes.get(&lane.state.id).map(|one| one.limits).unwrap_or_default();
        let limited = |(lane, _): (OwnedLane, bool)| OwnedLane {
            set: LaneSettings { limits: limits(&lane), ..lane.set },
            ..lane
        };
        let new = desk.own(&asked, owned.into_iter().map(limited).collect());
        self.adopted = Some(Adopted { desk: desk.clone(), lanes: new });
        for Unowned { mut claimed, at, .. } in unowned {
            let Some(reserved) = desk.reserve(claimed.lane, claimed.turn, claimed.body.len()) else {
                continue;
            };
            let longer = claimed.endpoint.as_ref().map(Receiver::longer).unwrap_or_default();
            claimed.lease_until = self.now.plus(reserved.lease + longer);
            self.queue[at] = leased(&claimed, desk.node());
            self.handed.push(Handed::new(desk.clone(), claimed, reserved.place));
        }
        Ok(())
    }
}
