//! What the store hands over: a delivery that is born claimed finds its slot reserved.

use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use crate::store::{ClaimedDelivery, HandOver};
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
    fn reserve(&self, lane: LaneId, turn: i64) -> Option<Duration> {
        let inner = self.0.upgrade()?;
        if inner.stopping.is_cancelled() {
            return None;
        }
        let now = inner.clock.now();
        let reserved = inner.lanes().reserve(lane, turn, now);
        reserved.then(|| inner.options.deadline + inner.options.margin)
    }

    fn give_back(&self, lane: LaneId, turn: i64) {
        if let Some(inner) = self.0.upgrade() {
            drop(Slot { inner, lane, turn, delivery: None });
        }
    }

    fn take(&self, claimed: ClaimedDelivery) {
        if let Some(inner) = self.0.upgrade() {
            let (lane, turn, delivery) = (claimed.lane, claimed.turn, Some(claimed.id));
            let slot = Slot { inner: inner.clone(), lane, turn, delivery };
            inner.start(claimed, slot);
        }
    }

    fn node(&self) -> NodeId {
        self.0.upgrade().map_or(NodeId::from_uuid(uuid::Uuid::nil()), |inner| inner.node)
    }
}
