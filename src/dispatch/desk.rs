//! What the store hands over: a delivery that is born claimed finds its slot reserved.

use std::sync::Arc;

use super::Inner;
use crate::store::{ClaimedDelivery, HandOver, OwnedLane, Place, Reserved};
use crate::types::id::NodeId;
use crate::types::{DeliveryId, LaneId, Millis};

/// A slot of a lane and of the node; dropped it is free again.
pub(super) struct Slot {
    pub(super) inner: Arc<Inner>,
    pub(super) lane: LaneId,
    pub(super) turn: i64,
    /// What has the slot; none before it is made.
    pub(super) delivery: Option<DeliveryId>,
}

impl Slot {
    /// Frees it for the next in the lane's hand.
    pub(super) fn free(self) {
        let (inner, lane) = (self.inner.clone(), self.lane);
        drop(self);
        inner.serve(lane);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let now = self.inner.clock.now();
        if self.inner.lanes().done(self.lane, self.turn, self.delivery, now) {
            self.inner.wake.deliveries.nudge();
        }
    }
}

impl Inner {
    /// What has a place is sent, or waits in the hand.
    pub(super) fn seat(self: &Arc<Self>, claimed: ClaimedDelivery, place: Place) {
        match place {
            Place::Slot => self.begin(claimed),
            Place::Hand => self.keep(claimed),
        }
    }

    /// Frees the place of what is not there, or is not sent.
    pub(super) fn give_back(
        self: &Arc<Self>,
        (lane, turn, delivery): (LaneId, i64, Option<DeliveryId>),
        place: Place,
    ) {
        match place {
            Place::Slot => {
                self.lanes().unsent(lane);
                Slot { inner: self.clone(), lane, turn, delivery }.free();
            }
            Place::Hand => self.lanes().out_of_hand(lane, 1),
        }
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
        Some(Reserved { lease: inner.options.deadline + inner.options.margin, place })
    }

    fn give_back(&self, lane: LaneId, turn: i64, place: Place) {
        if let Some(inner) = self.0.upgrade() {
            inner.give_back((lane, turn, None), place);
        }
    }

    fn take(&self, claimed: ClaimedDelivery, place: Place) {
        let Some(inner) = self.0.upgrade() else { return };
        match place {
            // Reserved before the stop: nobody would wait for its answer.
            Place::Slot if inner.stopping.is_cancelled() => {
                self.give_back(claimed.lane, claimed.turn, place);
                inner.put_back(vec![claimed], inner.clock.now());
            }
            Place::Slot | Place::Hand => inner.seat(claimed, place),
        }
    }

    fn lacks(&self, lane: LaneId) -> bool {
        let inner = self.0.upgrade().filter(|inner| !inner.stopping.is_cancelled());
        inner.is_some_and(|inner| inner.lanes().lacks(lane, inner.clock.now()))
    }

    fn own(&self, asked: &[LaneId], owned: Vec<OwnedLane>) -> Vec<LaneId> {
        let Some(inner) = self.0.upgrade() else { return Vec::new() };
        inner.lanes().own(asked, owned, inner.clock.now())
    }

    fn avoid(&self, lanes: &[LaneId]) {
        if let Some(inner) = self.0.upgrade() {
            inner.lanes().avoid(lanes, inner.clock.now());
        }
    }

    fn disown(&self, lanes: &[LaneId]) {
        if let Some(inner) = self.0.upgrade() {
            inner.lanes().disown(lanes);
        }
    }

    fn empty_hand(&self, lane: LaneId) {
        if let Some(inner) = self.0.upgrade() {
            inner.empty_hand(lane, Millis::default());
        }
    }

    fn cancelled(&self, lane: LaneId, delivery: DeliveryId) -> bool {
        let Some(inner) = self.0.upgrade() else { return false };
        inner.lanes().unblock(lane);
        inner.drop_cancelled(lane, delivery)
    }

    fn node(&self) -> NodeId {
        self.0.upgrade().map_or(NodeId::from_uuid(uuid::Uuid::nil()), |inner| inner.node)
    }
}
