//! The lanes that this node owns: who is due, who may send, who must wait.
//!
//! A lane is a standing endpoint or one tenant's ad-hoc URLs of one origin. What a receiver does
//! to its lane harms no other: each has its own slots, and turns are taken lane by lane.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::store::{DueDelivery, LaneState};
use crate::types::delivery::Outcome;
use crate::types::{DeliveryId, LaneId, Millis};

/// Requests under way at once on this node, over all lanes.
pub const NODE_SLOTS: usize = 512;
/// Beyond so many only first attempts are sent: a storm of retries leaves them a quarter.
const RETRY_SLOTS: usize = NODE_SLOTS / 4 * 3;
/// Due deliveries of one lane that are kept in mind; the rest stays in the store.
const IN_MIND: usize = 64;
/// The bounds of a lane's slots.
const SLOTS: (f64, f64) = (1.0, 64.0);
/// A lane without work is let go after this long.
const IDLE: Duration = Duration::from_secs(60);
/// A lane of another node is looked at again after this long.
const FOREIGN: Duration = Duration::from_secs(5);

/// One lane in this node's hands.
#[derive(Debug)]
struct Lane {
    /// How many requests may be under way; adapts between 1 and 64.
    slots: f64,
    in_flight: usize,
    ready: VecDeque<DueDelivery>,
    /// The store may hold more that is due than is kept in mind.
    more: bool,
    held_until: Option<Millis>,
    held_reason: Option<String>,
    failures: u32,
    opened: u32,
    /// Changed since it was last written down.
    dirty: bool,
    /// Sends nothing new and is let go once nothing is in flight: another node has room for it.
    leaving: bool,
    idle_since: Millis,
}

impl Lane {
    fn free(&self, now: Millis) -> usize {
        if self.leaving || self.held_until.is_some_and(|until| until > now) {
            return 0;
        }
        (self.slots as usize).saturating_sub(self.in_flight)
    }

    fn state(&self, id: LaneId) -> LaneState {
        LaneState {
            id,
            concurrency: self.slots as u32,
            failures: self.failures,
            opened: self.opened,
            held_until: self.held_until,
            held_reason: self.held_reason.clone(),
        }
    }
}

/// All lanes of this node.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: HashMap<LaneId, Lane>,
    /// Whose turn it is.
    turns: VecDeque<LaneId>,
    /// Deliveries in mind, so that one seen twice is kept once.
    known: HashSet<DeliveryId>,
    /// Lanes that other nodes own, and when to look again.
    foreign: HashMap<LaneId, Millis>,
    in_flight: usize,
}

impl Lanes {
    /// Takes note of due deliveries. Gives one per lane that nobody here owns yet.
    pub fn offer(&mut self, due: Vec<DueDelivery>, now: Millis) -> Vec<(LaneId, DeliveryId)> {
        let mut unowned: HashMap<LaneId, DeliveryId> = HashMap::new();
        for d in due {
            match self.lanes.get_mut(&d.lane) {
                None => {
                    if self.foreign.get(&d.lane).is_none_or(|again| *again <= now) {
                        unowned.entry(d.lane).or_insert(d.id);
                    }
                }
                Some(lane) if lane.ready.len() >= IN_MIND => lane.more = true,
                Some(lane) => {
                    if self.known.insert(d.id) {
                        lane.ready.push_back(d);
                    }
                }
            }
        }
        unowned.into_iter().collect()
    }

    /// These lanes have something due, seen without a floor: read them again. Gives those not owned here.
    pub fn stir(&mut self, due: &[(LaneId, DeliveryId)]) -> Vec<(LaneId, DeliveryId)> {
        let mut unowned = Vec::new();
        for (id, first) in due {
            match self.lanes.get_mut(id) {
                Some(lane) => lane.more = true,
                None => unowned.push((*id, *first)),
            }
        }
        unowned
    }

    /// Gives up every lane. What is in flight stays counted until it ends.
    pub fn forget(&mut self) {
        *self = Lanes { in_flight: self.in_flight, ..Lanes::default() };
    }

    /// The answer to a try to own `asked`: those not in `owned` belong to another node.
    pub fn own(&mut self, asked: &[LaneId], owned: Vec<LaneState>, now: Millis) {
        for state in owned {
            let lane = Lane {
                slots: f64::from(state.concurrency).clamp(SLOTS.0, SLOTS.1),
                in_flight: 0,
                ready: VecDeque::new(),
                more: true,
                held_until: state.held_until,
                held_reason: state.held_reason,
                failures: state.failures,
                opened: state.opened,
                dirty: false,
                leaving: false,
                idle_since: now,
            };
            self.foreign.remove(&state.id);
            if let std::collections::hash_map::Entry::Vacant(place) = self.lanes.entry(state.id) {
                place.insert(lane);
                self.turns.push_back(state.id);
            }
        }
        self.foreign.retain(|_, again| *again > now);
        for id in asked {
            if !self.lanes.contains_key(id) {
                self.foreign.insert(*id, now.plus(FOREIGN));
            }
        }
    }

    /// Lanes that could send but have nothing in mind while the store may hold more.
    pub fn hungry(&mut self, now: Millis, most: usize) -> Vec<LaneId> {
        let hungry = self.lanes.iter_mut().filter(|(_, l)| l.more && l.ready.is_empty() && l.free(now) > 0);
        hungry
            .take(most)
            .map(|(id, lane)| {
                lane.more = false;
                *id
            })
            .collect()
    }

    /// Notes what was read of one lane; `full` says that the store may hold more.
    pub fn refill(&mut self, lane: LaneId, due: Vec<DueDelivery>, full: bool, now: Millis) {
        self.offer(due, now);
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.more |= full;
        }
    }

    /// How many to read of a lane at once.
    pub const fn refill_size() -> usize {
        IN_MIND
    }

    /// Picks what is to be claimed: one delivery per lane and turn, as far as slots reach.
    /// The slots are taken; [`Lanes::done`] gives them back.
    pub fn pick(&mut self, now: Millis) -> Vec<DueDelivery> {
        let mut picked = Vec::new();
        let mut passed = 0;
        while self.in_flight < NODE_SLOTS && passed < self.turns.len() {
            let Some(id) = self.turns.pop_front() else { break };
            self.turns.push_back(id);
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            let due = if lane.free(now) == 0 {
                None
            } else if self.in_flight < RETRY_SLOTS {
                lane.ready.pop_front()
            } else {
                let first = lane.ready.iter().position(|due| due.attempt == 0);
                first.and_then(|at| lane.ready.remove(at))
            };
            match due {
                None => passed += 1,
                Some(due) => {
                    passed = 0;
                    self.known.remove(&due.id);
                    lane.in_flight += 1;
                    lane.idle_since = now;
                    self.in_flight += 1;
                    picked.push(due);
                }
            }
        }
        picked
    }

    /// Reserves a slot for a delivery that is about to be made. It must not overtake those that wait.
    pub fn reserve(&mut self, id: LaneId, now: Millis) -> bool {
        let Some(lane) = self.lanes.get_mut(&id) else { return false };
        if self.in_flight >= NODE_SLOTS || lane.more || !lane.ready.is_empty() || lane.free(now) == 0 {
            return false;
        }
        lane.in_flight += 1;
        lane.idle_since = now;
        self.in_flight += 1;
        true
    }

    /// Gives a slot back.
    pub fn done(&mut self, id: LaneId, now: Millis) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.in_flight = lane.in_flight.saturating_sub(1);
            lane.idle_since = now;
        }
    }

    /// What a receiver did shapes its lane: additive increase, multiplicative decrease on trouble;
    /// 429 and 503 with `Retry-After` pause it.
    pub fn learn(&mut self, id: LaneId, outcome: &Outcome, now: Millis) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        lane.dirty = true;
        match outcome {
            Outcome::Answered { status: status @ (429 | 503), retry_after, .. } => {
                lane.slots = (lane.slots / 2.0).max(SLOTS.0);
                if let Some(wait) = retry_after {
                    let until = now.plus(*wait);
                    lane.held_until = Some(lane.held_until.map_or(until, |u| u.max(until)));
                    lane.held_reason = Some("retry-after".to_owned());
                }
                lane.failures = if *status == 503 { lane.failures + 1 } else { 0 };
            }
            Outcome::Answered { status: 500.., .. } => {
                lane.slots = (lane.slots / 2.0).max(SLOTS.0);
                lane.failures = 0;
            }
            Outcome::Answered { .. } => {
                lane.slots = (lane.slots + 1.0 / lane.slots).min(SLOTS.1);
                lane.failures = 0;
            }
            Outcome::Failed(fault) if fault.infrastructure() => {
                lane.slots = (lane.slots / 2.0).max(SLOTS.0);
                lane.failures += 1;
            }
            Outcome::Failed(_) => {}
        }
    }

    /// Whether this node soon has no slot left for its lanes.
    pub fn crowded(&self) -> bool {
        self.in_flight >= RETRY_SLOTS
    }

    /// Marks lanes beyond a fair `share` to be let go, those with the least in flight first.
    ///
    /// A few at a time: what is due in them waits until another node has looked.
    pub fn shed(&mut self, share: usize) {
        let most = self.lanes.len().saturating_sub(share).min(self.lanes.len() / 8 + 1);
        let mut lanes: Vec<&mut Lane> = self.lanes.values_mut().collect();
        lanes.sort_by_key(|lane| lane.in_flight);
        lanes.into_iter().take(most).for_each(|lane| lane.leaving = true);
    }

    /// Lanes to write down; those without work for long, or marked to leave, are let go (`true`).
    pub fn to_save(&mut self, now: Millis) -> Vec<(LaneState, bool)> {
        let mut save = Vec::new();
        for (id, lane) in &mut self.lanes {
            let idle = lane.ready.is_empty() && !lane.more && now.since(lane.idle_since) > IDLE;
            let release = lane.in_flight == 0 && (idle || lane.leaving);
            if release || lane.dirty {
                lane.dirty = false;
                save.push((lane.state(*id), release));
            }
        }
        for (state, _) in save.iter().filter(|(_, release)| *release) {
            let Some(lane) = self.lanes.remove(&state.id) else { continue };
            for due in &lane.ready {
                self.known.remove(&due.id);
            }
            if lane.leaving {
                self.foreign.insert(state.id, now.plus(FOREIGN));
            }
        }
        self.turns.retain(|id| self.lanes.contains_key(id));
        save
    }

    /// When the first held lane with work opens again.
    pub fn opens_at(&self, now: Millis) -> Option<Millis> {
        let waiting = self.lanes.values().filter(|l| l.more || !l.ready.is_empty());
        waiting.filter_map(|l| l.held_until.filter(|u| *u > now)).min()
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Lanes owned.
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Whether no lane is owned.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}
