//! Places for deliveries that are about to be made: a slot, or one in this node's hand.

use std::time::Duration;

use super::Lanes;
use crate::store::{DueDelivery, Place};
use crate::types::{LaneId, Millis};

/// The longest that something is in hand.
pub const LONGEST: Duration = Duration::from_secs(5);
/// Deliveries in hand that wait for a slot, over all lanes, and the largest body that may: together they are memory.
const NODE_HAND: usize = 2_048;
pub(super) const HAND_BYTES: usize = 16 << 10;

/// What becomes of the next that is in a lane's hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromHand {
    /// Its slot is taken.
    Now,
    /// There is none.
    Later,
    /// Its lane may not send.
    Never,
}

impl Lanes {
    /// Reserves a place for a delivery of so many bytes that is about to be made. It must not overtake those that wait.
    pub fn reserve(&mut self, id: LaneId, turn: i64, bytes: usize, now: Millis) -> Option<Place> {
        let share = if self.has_to_wait(id) { 0 } else { self.share(id) };
        let hand = self.in_hand < NODE_HAND && bytes <= HAND_BYTES;
        let place = self.change(id, |lane| lane.reserve(turn, now, share, hand)).flatten();
        self.in_flight += usize::from(place == Some(Place::Slot));
        self.in_hand += usize::from(place == Some(Place::Hand));
        place
    }

    /// Picks up to `most` that are to be claimed beyond the slots, into the hand: one delivery per lane and turn, as long as
    /// the node has slots to spare. The places are taken; [`Lanes::out_of_hand`] gives them back.
    pub fn pick_for_hand(&mut self, most: usize, now: Millis) -> Vec<DueDelivery> {
        let mut picked = Vec::new();
        // Where slots are few turns are taken for each: what is in a hand would keep its lane's.
        if self.crowded() {
            return picked;
        }
        let mut lanes: Vec<LaneId> = self.turns.iter().copied().collect();
        while !lanes.is_empty() {
            lanes.retain(|id| {
                let room = self.in_hand < NODE_HAND && picked.len() < most;
                let taken = self.change(*id, |lane| room.then(|| lane.take_in_hand(now)).flatten()).flatten();
                let Some(due) = taken else { return false };
                self.known.remove(&due.id);
                self.in_hand += 1;
                picked.push(due);
                true
            });
        }
        picked
    }

    /// Takes a slot for what is next in a lane's hand.
    pub fn serve_hand(&mut self, id: LaneId, turn: i64, now: Millis) -> FromHand {
        let share = self.share(id);
        let taken = self.change(id, |lane| lane.serve_hand(turn, now, share));
        self.squeezed |= taken == Some(FromHand::Later) && self.is_squeezed(id);
        if taken == Some(FromHand::Now) {
            self.in_flight += 1;
            self.in_hand = self.in_hand.saturating_sub(1);
        }
        taken.unwrap_or(FromHand::Never)
    }

    /// So many of a lane are no longer in hand, and were not sent.
    pub fn out_of_hand(&mut self, id: LaneId, n: usize) {
        self.in_hand = self.in_hand.saturating_sub(n);
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.in_hand = lane.in_hand.saturating_sub(n);
        }
        // They are in the store again, and there is room in the hand.
        self.stirred(id);
        self.rouse(id);
    }

    /// What was claimed for a lane by then goes back from its hand, or on its way there.
    pub fn emptied(&mut self, id: LaneId, at: Millis) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.emptied_at = lane.emptied_at.max(at);
        }
    }

    /// Whether a lane's hand was emptied then or since.
    pub fn was_emptied(&self, id: LaneId, since: Millis) -> bool {
        self.lanes.get(&id).is_some_and(|lane| lane.emptied_at >= since)
    }

    /// What waits in memory for a slot.
    pub fn in_hand(&self) -> usize {
        self.in_hand
    }
}
