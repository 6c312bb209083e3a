//! Reads the lanes that could send more, and claims what has a place: a slot, or one in this node's hand.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Dispatcher, Inner};
use crate::store::{ClaimedDelivery, DueDelivery, Place, Result};
use crate::types::{DeliveryId, LaneId, Millis};

/// Lanes read again in one tick.
const HUNGRY: usize = 64;
/// Bytes of bodies in the hand up to which more is claimed into it.
const NODE_HAND_BYTES: usize = 32 << 20;
/// What a body is taken for until a larger one was seen.
pub(super) const BODY_BYTES: usize = 64 << 10;

/// The places of what is about to be claimed; dropped, those that are left are free again.
pub(super) struct Places {
    inner: Arc<Inner>,
    left: HashMap<DeliveryId, (LaneId, i64, Place)>,
}

impl Places {
    /// All of `picked` have that place.
    pub(super) fn of<'a>(
        inner: &Arc<Inner>,
        picked: impl Iterator<Item = (&'a DueDelivery, Place)>,
    ) -> Places {
        let left = picked.map(|(d, place)| (d.id, (d.lane, d.turn, place))).collect();
        Places { inner: inner.clone(), left }
    }

    /// Gives a claimed delivery its place.
    pub(super) fn seat(&mut self, claimed: ClaimedDelivery) {
        if let Some((.., place)) = self.left.remove(&claimed.id) {
            self.inner.seat(claimed, place);
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for (id, (lane, turn, place)) in self.left.drain() {
            self.inner.give_back((lane, turn, Some(id)), place);
        }
    }
}

impl Inner {
    /// What is to be claimed next, for slots and into the hand.
    pub(super) fn pick(&self, now: Millis) -> (Vec<DueDelivery>, Vec<DueDelivery>) {
        let mut lanes = self.lanes();
        let slots = lanes.pick(now);
        // How large a body is shows once it is claimed: each is taken for the largest so far.
        let bytes = NODE_HAND_BYTES.saturating_sub(self.hand_bytes.load(Ordering::Relaxed));
        let most = bytes / self.largest_body.load(Ordering::Relaxed);
        (slots, lanes.pick_for_hand(most, now))
    }
}

impl Dispatcher {
    /// Reads again the lanes that could send more than is kept in mind. True if more of them may wait for it.
    pub(super) async fn feed(&self, now: Millis) -> Result<bool> {
        let inner = &self.0;
        let hungry = inner.lanes().hungry(now, HUNGRY);
        let full = hungry.len() == HUNGRY;
        for h in hungry {
            let read = match h.ordered {
                true => inner.store.next_in_order(h.lane, now).await?,
                false => inner.store.due_in_lane(h.lane, now, h.size, h.turn).await?,
            };
            inner.lanes().refill(h.lane, read, now);
        }
        Ok(full)
    }

    /// Claims what has a slot, and what has a place in the hand.
    pub(super) async fn claim(
        &self,
        slots: Vec<DueDelivery>,
        hand: Vec<DueDelivery>,
        now: Millis,
    ) -> Result<()> {
        let inner = &self.0;
        let with = |place| move |due| (due, place);
        // Given back for what another node or a zombie took meanwhile, and on any error.
        let mut places =
            Places::of(inner, slots.iter().map(with(Place::Slot)).chain(hand.iter().map(with(Place::Hand))));
        let lease = inner.options.deadline + inner.options.margin;
        let picked = [slots, hand].concat();
        for claimed in inner.store.claim(picked, inner.node, lease, now).await? {
            places.seat(claimed);
        }
        Ok(())
    }
}
