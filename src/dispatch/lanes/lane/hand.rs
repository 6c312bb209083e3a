//! What a lane has in hand: where a delivery waits in memory for a slot.

use super::super::FromHand;
use super::super::hand::LONGEST;
use super::super::ready::IN_MIND;
use super::super::trust::Standing;
use super::Lane;
use crate::store::{DueDelivery, Place};
use crate::types::Millis;

/// So many times its slots a lane may have in hand at the most.
const IN_HAND: u128 = 8;

impl Lane {
    /// Where a delivery that is about to be made goes: it must not overtake those that wait.
    pub(in crate::dispatch::lanes) fn reserve(
        &mut self,
        turn: i64,
        now: Millis,
        of_node: usize,
        hand: bool,
    ) -> Option<Place> {
        let waits = self.more || !self.ready.is_empty() || self.set.limits.ordered;
        let place = match waits {
            true => None,
            false if self.in_hand == 0 && self.is_free(turn, now, of_node) => {
                self.begin(turn, now);
                Some(Place::Slot)
            }
            false if hand && self.in_hand < self.hand_size() && self.may_keep(now) => {
                self.in_hand += 1;
                Some(Place::Hand)
            }
            false => None,
        };
        // It will be in the store: whoever has a slot next reads it there.
        self.more |= place.is_none();
        place
    }

    /// Takes the slot that what is next in hand waits for, if it is there.
    pub(in crate::dispatch::lanes) fn serve_hand(
        &mut self,
        turn: i64,
        now: Millis,
        of_node: usize,
    ) -> FromHand {
        if !self.is_open(now) {
            return FromHand::Never;
        }
        if !self.is_free(turn, now, of_node) {
            return FromHand::Later;
        }
        self.in_hand = self.in_hand.saturating_sub(1);
        self.begin(turn, now);
        FromHand::Now
    }

    /// How many deliveries it keeps in mind: what it may soon send.
    pub(in crate::dispatch::lanes) fn in_mind(&self) -> usize {
        IN_MIND + if self.keeps() { self.hand_size() } else { 0 }
    }

    /// Whether it may take into the hand what waits in the store.
    pub(in crate::dispatch::lanes) fn has_hand(&self, now: Millis) -> bool {
        let sends = !self.set.limits.ordered && self.in_flight > 0 && self.may_keep(now);
        sends && self.in_hand < self.hand_size()
    }

    /// How many may be in its hand: no more than it sends in half the time that they may be there, or they go back unsent.
    fn hand_size(&self) -> usize {
        let times = (LONGEST / 2).as_micros() / self.answers_in.as_micros().max(1);
        self.slots as usize * usize::try_from(times.clamp(1, IN_HAND)).unwrap_or(1)
    }

    /// Takes what is to be claimed into the hand. Only first attempts, and while no retry waits for a slot: in the hand
    /// nothing passes what came before it.
    pub(in crate::dispatch::lanes) fn take_in_hand(&mut self, now: Millis) -> Option<DueDelivery> {
        if !self.has_hand(now) || self.ready.has_retries() {
            return None;
        }
        let (due, dry) = self.ready.take(|_| Some(0), true)?;
        self.dry |= dry;
        self.in_hand += 1;
        Some(due)
    }

    /// Whether what it has no slot for may wait in memory: it answers, its pace is its own, and nobody's turn is passed over.
    fn may_keep(&self, now: Millis) -> bool {
        // What is claimed in the instant in which the hand was emptied would go back at once.
        self.keeps() && self.is_open(now) && now > self.emptied_at
    }

    fn keeps(&self) -> bool {
        let answers = self.standing == Standing::Answers && self.breaker.failures() == 0;
        answers && !self.shared && self.set.limits.rate_per_second.is_none()
    }
}
