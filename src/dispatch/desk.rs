//! What the store hands over: a delivery that is born claimed finds its slot reserved.

use std::sync::Arc;

use super::Inner;
use super::lanes::Place;
use crate::store::{ClaimedDelivery, HandOver, Reserved};
use crate::types::id::NodeId;
use crate::types::{DeliveryId, LaneId};

/// A slot of a lane and of the node; dropped it is free again.
pub(super) struct Slot {
    pub(super) inner: Arc<Inner>,
    pub(super) lane: LaneId,
    pub(super) turn: i64,
    /// What has the slot; none before it is made.
    pub(super) delivery: Option<DeliveryId>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.inner.lanes().done(self.lane, self.turn, self.delivery, self.inner.clock.now());
        // Someone may wait for the slot, or for silence.
        self.inner.wake.deliveries.nudge();
    }
}

/// Where the store hands over deliveries that are born claimed.
pub(super) struct Desk(pub(super) std::sync::Weak<Inner>);

impl HandOver for Desk {
    fn reserve(&self, lane: LaneId, turn: i64, bytes: usize) -> Option<Reserved> {
        let inner = self.0.upgrade()?;
        if inner.stopping.is_cancelled() {
            return None;
        }
        let place = inner.lanes().reserve(lane, turn, bytes, inner.clock.now())?;
        Some(Reserved { lease: inner.options.deadline + inner.options.margin, waits: place == Place::Hand })
    }

    fn give_back(&self, lane: LaneId, turn: i64, waits: bool) {
        let Some(inner) = self.0.upgrade() else { return };
        match waits {
            true => inner.lanes().out_of_hand(lane, 1),
            false => drop(Slot { inner, lane, turn, delivery: None }),
        }
    }

    fn take(&self, claimed: ClaimedDelivery, waits: bool) {
        let Some(inner) = self.0.upgrade() else { return };
        if waits {
            return inner.keep(claimed);
        }
        let (lane, turn, delivery) = (claimed.lane, claimed.turn, Some(claimed.id));
        let slot = Slot { inner: inner.clone(), lane, turn, delivery };
        inner.start(claimed, slot);
    }

    fn node(&self) -> NodeId {
        self.0.upgrade().map_or(NodeId::from_uuid(uuid::Uuid::nil()), |inner| inner.node)
    }
}
