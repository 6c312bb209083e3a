//! What was handed over, or claimed ahead, while its lane had no slot free: it waits in memory, leased, instead of
//! being claimed when its turn has come.
//!
//! Only lanes that answer have something in hand, and only for moments: what waits for longer, or whose lane may
//! not send any more, goes back to the store as it was, and no attempt is spent.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::lanes::{FromHand, LONGEST};
use super::{Inner, attempt};
use crate::store::ClaimedDelivery;
use crate::types::delivery::Verdict;
use crate::types::{DeliveryId, LaneId, Millis};

/// By lane, the oldest first.
pub(super) type Hand = HashMap<LaneId, VecDeque<ClaimedDelivery>>;

impl Inner {
    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts it into the hand, for which its place is reserved.
    pub(super) fn keep(self: &Arc<Self>, claimed: ClaimedDelivery) {
        let lane = claimed.lane;
        self.hand_bytes.fetch_add(claimed.body.len(), Ordering::Relaxed);
        self.largest_body.fetch_max(claimed.body.len(), Ordering::Relaxed);
        let mut hand = self.hand();
        // Asked while the hand is held: who empties it finds this one there, or is seen here.
        if self.lanes().was_emptied(lane, claimed.started_at) {
            drop(hand);
            return self.out_of_hand(lane, VecDeque::from([claimed]), self.clock.now());
        }
        hand.entry(lane).or_default().push_back(claimed);
        drop(hand);
        // Asked only now: a stop empties the hands once, and nobody else would put back what comes later.
        match self.stopping.is_cancelled() {
            true => self.empty_hands(),
            false => self.serve(lane),
        }
    }

    /// Sends of a lane's hand what it has slots for.
    pub(super) fn serve(self: &Arc<Self>, lane: LaneId) {
        while let Some(claimed) = self.next_in_hand(lane) {
            self.begin(claimed);
        }
    }

    fn next_in_hand(self: &Arc<Self>, lane: LaneId) -> Option<ClaimedDelivery> {
        let now = self.clock.now();
        let mut hand = self.hand();
        let waiting = hand.get_mut(&lane)?;
        let next = waiting.front()?;
        // Before the match: what it looks at is held until its end, and its arms need the lanes themselves.
        let served = self.lanes().serve_hand(lane, next.turn, now);
        match served {
            FromHand::Later if now.since(next.started_at) < LONGEST => None,
            FromHand::Now => {
                let mut claimed = waiting.pop_front()?;
                self.hand_bytes.fetch_sub(claimed.body.len(), Ordering::Relaxed);
                // It was claimed earlier; its attempt begins now.
                claimed.started_at = now;
                if waiting.is_empty() {
                    hand.remove(&lane);
                }
                Some(claimed)
            }
            FromHand::Later | FromHand::Never => {
                let back = hand.remove(&lane).unwrap_or_default();
                drop(hand);
                self.out_of_hand(lane, back, now);
                None
            }
        }
    }

    /// Looks at every hand: slots may have come free otherwise than by an answer, and nothing may wait for long.
    pub(super) fn serve_all(self: &Arc<Self>) {
        let lanes: Vec<LaneId> = self.hand().keys().copied().collect();
        lanes.into_iter().for_each(|lane| self.serve(lane));
    }

    /// Puts back all that is in hand: nothing more is sent.
    pub(super) fn empty_hands(self: &Arc<Self>) {
        let hand = std::mem::take(&mut *self.hand());
        for (lane, back) in hand {
            self.out_of_hand(lane, back, self.clock.now());
        }
    }

    /// Puts back what a lane has in hand, and what is on its way there: it was claimed under what was set before.
    /// That was at `set_at`, by this node's clock or another's.
    pub(super) fn empty_hand(self: &Arc<Self>, lane: LaneId, set_at: Millis) {
        let now = self.clock.now();
        let mut hand = self.hand();
        self.lanes().emptied(lane, now.max(set_at));
        let back = hand.remove(&lane);
        drop(hand);
        if let Some(back) = back {
            self.out_of_hand(lane, back, now);
        }
    }

    /// Takes out of the hand what somebody has cancelled. False if it is not there.
    pub(super) fn drop_cancelled(self: &Arc<Self>, lane: LaneId, id: DeliveryId) -> bool {
        let mut hand = self.hand();
        let Some(waiting) = hand.get_mut(&lane) else { return false };
        let place = waiting.iter().position(|claimed| claimed.id == id);
        let Some(cancelled) = place.and_then(|place| waiting.remove(place)) else { return false };
        if waiting.is_empty() {
            hand.remove(&lane);
        }
        drop(hand);
        self.hand_bytes.fetch_sub(cancelled.body.len(), Ordering::Relaxed);
        self.lanes().out_of_hand(lane, 1);
        true
    }

    fn out_of_hand(self: &Arc<Self>, lane: LaneId, back: VecDeque<ClaimedDelivery>, now: Millis) {
        let bytes = back.iter().map(|claimed| claimed.body.len()).sum();
        self.hand_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.lanes().out_of_hand(lane, back.len());
        self.put_back(back.into(), now);
    }

    // Where the store is away their leases run out.
    pub(super) fn put_back(self: &Arc<Self>, back: Vec<ClaimedDelivery>, now: Millis) {
        let inner = self.clone();
        let unsent = back.iter().map(|d| attempt::not_sent(d, Verdict::RetryAt(now))).collect();
        self.spawn(async move {
            if let Err(e) = inner.store.record(unsent, now).await {
                tracing::warn!(error = %e, "what was in hand is claimed again when its lease runs out");
            }
            inner.wake.deliveries.nudge();
        });
    }
}
