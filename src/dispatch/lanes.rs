//! The lanes that this node owns: who is due, who may send, who must wait.
//!
//! A lane is a standing endpoint or one tenant's ad-hoc URLs of one origin. What a receiver does
//! to its lane harms no other: each has its own slots, and turns are taken lane by lane. Within a
//! lane turns are taken URL by URL, so that one dead path starves no other. And as a receiver that
//! hangs keeps what it has for a whole time-out, the node's slots are for those that answer
//! (see [`trust`]).

mod hand;
mod lane;
mod ready;
#[cfg(test)]
mod tests;
mod trust;
mod turns;
mod written;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::store::{DueDelivery, InLane, LaneSettings, LaneState, OwnedLane};
use crate::types::delivery::Outcome;
use crate::types::{DeliveryId, LaneId, Millis, TenantId};
pub use hand::{FromHand, LONGEST};
use lane::Lane;
use ready::{FIRSTS, Pushed};
use trust::{Held, Standing};
use turns::Turns;

/// Requests under way at once on this node, over all lanes.
pub const NODE_SLOTS: usize = 512;
/// Beyond so many only first attempts are sent: a storm of retries leaves them a quarter. And they leave retries as many.
const RETRY_SLOTS: usize = NODE_SLOTS / 4 * 3;
/// A receiver that takes longer to answer is not one whose slots are soon free again.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// A lane without work is let go after this long.
const IDLE: Duration = Duration::from_secs(60);
/// Turns of one lane that are known to have more in the store; one that is not known may overtake its own.
const BEHIND: usize = 1_000;
/// What holds an ordered lane is looked at again after this long: it may have been taken back, or sent anew.
const BLOCKED: Duration = Duration::from_secs(15);
/// A lane of another node is looked at again after this long.
const FOREIGN: Duration = Duration::from_secs(5);

/// A lane that is to be read from the store, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hungry {
    /// Names it.
    pub lane: LaneId,
    /// Behind which turn to look for others.
    pub turn: Option<i64>,
    /// Only the next in order.
    pub ordered: bool,
    /// How many at the most.
    pub size: u32,
}

/// Whether there is time left until `again`, which was set no more than `wait` ahead: if it is further, the clock was set back.
fn is_left(again: Millis, now: Millis, wait: Duration) -> bool {
    again > now && again <= now.plus(wait)
}

/// All lanes of this node.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: HashMap<LaneId, Lane>,
    turns: Turns,
    /// Deliveries in mind, so that one seen twice is kept once.
    known: HashSet<DeliveryId>,
    /// Lanes that other nodes own, and when to look again.
    foreign: HashMap<LaneId, Millis>,
    /// Lanes whose rows others held, and until when only a look asks for them.
    avoided: HashMap<LaneId, Millis>,
    /// How lanes stood that are let go and, in the store, are still this node's: owned by a commit, they would be let go with
    /// the rest.
    parting: HashMap<LaneId, LaneState>,
    in_flight: usize,
    in_hand: usize,
    /// Those of them in lanes that are not known to answer.
    held: Held,
    /// These have become fewer: who was shut out may have a slot.
    eased: bool,
    /// Whose lanes of which standing found no slot at the last pick: none of those that come may go before them.
    shut_out: HashSet<(TenantId, Standing)>,
    /// A lane got less than it could take, for want of slots that are free: any of them helps.
    squeezed: bool,
    /// Retries wait for [`Lanes::lets_retries`].
    held_back: bool,
    /// What is under way for another time.
    retries: HashSet<DeliveryId>,
    /// Reads of lanes so far.
    fed: u64,
    /// Lanes that are to be written down at once.
    urgent: HashSet<LaneId>,
}

impl Lanes {
    /// Takes note of due deliveries. Gives one per lane that nobody here owns yet.
    pub fn offer(&mut self, due: Vec<DueDelivery>, now: Millis) -> Vec<(LaneId, DeliveryId)> {
        let mut unowned: HashMap<LaneId, DeliveryId> = HashMap::new();
        for d in due {
            match self.lanes.get_mut(&d.lane) {
                None => {
                    if !self.is_foreign(d.lane, now) {
                        unowned.entry(d.lane).or_insert(d.id);
                    }
                }
                // Which one is the next in order only the store knows.
                Some(lane) if lane.set.limits.ordered => {
                    lane.waits = lane.waits.filter(|(turn, _)| d.turn > *turn);
                    self.stirred(d.lane);
                }
                // The store holds older ones: kept in mind, this one would overtake them for as long as more come.
                Some(lane) if lane.holds_older(&d) => {}
                Some(_) => self.keep(d),
            }
        }
        unowned.into_iter().collect()
    }

    /// The store may hold something for a lane.
    fn stirred(&mut self, id: LaneId) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.more = true;
            self.call_up(id);
        }
    }

    /// Something of a lane is not owed any more: if it was next in order, the others need not wait for its time.
    pub fn unblock(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id).filter(|lane| lane.set.limits.ordered) else { return };
        lane.waits = None;
        self.stirred(id);
        self.rouse(id);
    }

    fn keep(&mut self, due: DueDelivery) {
        self.call_up(due.lane);
        let Some(lane) = self.lanes.get_mut(&due.lane) else { return };
        if !self.known.insert(due.id) {
            return;
        }
        lane.seen(due.turn);
        let gone = match lane.ready.push(due, lane.in_mind()) {
            Pushed::Kept => return,
            Pushed::Instead(other) => other,
            Pushed::Full => due,
        };
        lane.more = true;
        lane.firsts |= gone.attempt == 0;
        if lane.behind.len() < BEHIND {
            lane.behind.insert(gone.turn);
        }
        self.known.remove(&gone.id);
    }

    /// These lanes have something due, seen without a floor: read them again. Gives those not owned here.
    pub fn stir(&mut self, due: &[(LaneId, DeliveryId)], now: Millis) -> Vec<(LaneId, DeliveryId)> {
        let mut unowned = Vec::new();
        for (id, first) in due {
            match self.lanes.contains_key(id) {
                true => self.stirred(*id),
                false if self.is_foreign(*id, now) => {}
                false => unowned.push((*id, *first)),
            }
        }
        unowned
    }

    /// Whether another node had it, or has just been given it.
    fn is_foreign(&self, id: LaneId, now: Millis) -> bool {
        self.foreign.get(&id).is_some_and(|again| is_left(*again, now, FOREIGN))
    }

    /// What had a slot was not sent.
    pub fn unsent(&mut self, id: LaneId) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.unsent();
        }
    }

    /// Gives up every lane. What is in flight stays counted until it ends.
    pub fn forget(&mut self) {
        let retries = std::mem::take(&mut self.retries);
        *self = Lanes { in_flight: self.in_flight, in_hand: self.in_hand, retries, ..Lanes::default() };
    }

    /// Whether this node would own the lane, and has slots to spare for what is sent to it.
    pub fn lacks(&self, id: LaneId, now: Millis) -> bool {
        let not_now = [&self.foreign, &self.avoided]
            .into_iter()
            .any(|lanes| lanes.get(&id).is_some_and(|again| is_left(*again, now, FOREIGN)));
        let here = self.lanes.contains_key(&id) || self.parting.contains_key(&id);
        !not_now && !here && !self.crowded()
    }

    /// The answer to a try to own `asked`: those not in `owned` belong to another node. One without
    /// `more` need not be read: what is due in it is offered or handed over next. Gives those that are new here.
    pub fn own(&mut self, asked: &[LaneId], owned: Vec<OwnedLane>, now: Millis) -> Vec<LaneId> {
        let mut new = Vec::with_capacity(owned.len());
        for OwnedLane { state, tenant, set, more } in owned {
            let id = state.id;
            self.foreign.remove(&id);
            if let std::collections::hash_map::Entry::Vacant(place) = self.lanes.entry(id) {
                let parted = self.parting.remove(&id).filter(|one| one.cleared_at == set.cleared_at);
                let dirty = parted.is_some();
                let lane = place.insert(Lane::new(parted.unwrap_or(state), tenant, set, now));
                (lane.more, lane.dirty) = (more, dirty);
                self.call_up(id);
                new.push(id);
            } else if more {
                // Who owned it meanwhile did not see that.
                self.stirred(id);
            }
        }
        for id in asked {
            if !self.lanes.contains_key(id) {
                self.foreign.insert(*id, now.plus(FOREIGN));
            }
        }
        new
    }

    /// Leaves them to looks for a while.
    pub fn avoid(&mut self, ids: &[LaneId], now: Millis) {
        self.avoided.extend(ids.iter().map(|id| (*id, now.plus(FOREIGN))));
    }

    /// They are not owned after all. One that something is under way of goes as soon as that has ended.
    pub fn disown(&mut self, ids: &[LaneId]) {
        for id in ids {
            match self.lanes.get_mut(id) {
                Some(lane) if lane.in_flight + lane.in_hand > 0 => lane.leaving = true,
                Some(_) | None => drop(self.let_go(*id)),
            }
        }
        self.turns.retain(|id| self.lanes.contains_key(id));
    }

    fn let_go(&mut self, id: LaneId) -> Option<Lane> {
        let mut lane = self.lanes.remove(&id)?;
        for id in std::mem::take(&mut lane.ready).ids() {
            self.known.remove(&id);
        }
        Some(lane)
    }

    /// Takes over what someone set for a lane.
    pub fn set(&mut self, id: LaneId, set: LaneSettings, now: Millis) {
        let Some(lane) = self.lanes.get_mut(&id).filter(|lane| lane.set != set) else { return };
        if lane.set.limits.ordered != set.limits.ordered {
            // What is in mind was chosen by the other rule.
            for id in std::mem::take(&mut lane.ready).ids() {
                self.known.remove(&id);
            }
        }
        lane.set(set, now);
        if lane.urgent {
            self.urgent.insert(id);
        }
        self.stirred(id);
        self.rouse(id);
    }

    /// Lanes that could send but have nothing in mind, or nothing of some URL, while the store may hold more: those
    /// first that were not read for longest.
    pub fn hungry(&mut self, now: Millis, most: usize) -> Vec<Hungry> {
        self.rouse_rested(now);
        let lanes = &self.lanes;
        let hungry = |id: &LaneId| lanes.get(id).filter(|lane| lane.hungry(now)).map(|lane| (lane.fed, *id));
        let mut hungry: Vec<(u64, LaneId)> = self.turns.iter().filter_map(hungry).collect();
        if hungry.len() > most {
            hungry.sort_by_key(|(fed, _)| *fed);
        }
        self.fed += 1;
        let mut read = Vec::with_capacity(hungry.len().min(most));
        for (_, id) in hungry.into_iter().take(most) {
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            (lane.more, lane.dry, lane.fed) = (false, false, self.fed);
            let size = u32::try_from(lane.in_mind()).unwrap_or(u32::MAX);
            read.push(Hungry { lane: id, turn: lane.turn, ordered: lane.set.limits.ordered, size });
        }
        read
    }

    /// Notes what was read of one lane.
    pub fn refill(&mut self, lane: LaneId, read: InLane, now: Millis) {
        self.call_up(lane);
        let Some(lane) = self.lanes.get_mut(&lane) else { return };
        lane.behind.clear();
        // Stirred while it was read, it is read again.
        let next = read.waits.filter(|_| !lane.more);
        lane.waits = next.map(|next| (next.turn, next.due_at.min(now.plus(BLOCKED))));
        if read.more {
            lane.more = true;
            lane.behind.extend(read.others.iter().chain(&read.oldest).map(|due| due.turn));
        }
        // Those that were not asked for, or are too many.
        let unread = read.firsts.len() >= FIRSTS || read.oldest.iter().all(|due| due.attempt == 0);
        lane.firsts = read.more && unread;
        lane.turn = read.turn;
        // Those of other URLs first: they are the few. Then those that retries would hide.
        for due in read.others.into_iter().chain(read.firsts).chain(read.oldest) {
            self.keep(due);
        }
    }

    /// Gives a slot back; `delivery` is what had it, if it was sent or was to be. True if the dispatcher has to know,
    /// because someone may wait for that. What is in the lane's own hand does not count: who gives the slot back serves it.
    pub fn done(&mut self, id: LaneId, turn: i64, delivery: Option<DeliveryId>, now: Millis) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        let retry = delivery.is_some_and(|delivery| self.retries.remove(&delivery));
        self.change(id, |lane| lane.end(turn, (delivery, retry), now));
        self.rouse(id);
        let mut awaited = std::mem::take(&mut self.eased) | std::mem::take(&mut self.squeezed);
        awaited |= self.lets_retries() && std::mem::take(&mut self.held_back);
        let wanted = self.lanes.get(&id).is_some_and(|lane| lane.has_work() || lane.leaving);
        wanted || awaited || !self.urgent.is_empty() || self.in_flight + self.in_hand == 0
    }

    /// What a receiver did after `took` shapes its lane.
    pub fn learn(&mut self, of: (LaneId, i64, DeliveryId), outcome: &Outcome, took: Duration, now: Millis) {
        let (id, turn, delivery) = of;
        self.change(id, |lane| {
            lane.learn(turn, delivery, outcome, now);
            lane.answered(outcome, took);
        });
        self.rouse(id);
        if self.lanes.get(&id).is_some_and(|lane| lane.urgent) {
            self.urgent.insert(id);
        }
    }

    /// Whether what goes to this lane goes one after the other.
    pub fn in_order(&self, id: LaneId) -> bool {
        self.lanes.get(&id).is_some_and(|lane| lane.set.limits.ordered)
    }

    /// A request of this lane has been under way for [`PATIENCE`].
    pub fn waits(&mut self, id: LaneId) {
        self.change(id, |lane| lane.standing = lane.standing.waiting());
    }

    /// Changes a lane, and keeps count of what is held by lanes of its standing.
    fn change<R>(&mut self, id: LaneId, change: impl FnOnce(&mut Lane) -> R) -> Option<R> {
        let lane = self.lanes.get_mut(&id)?;
        let before = self.held.all();
        self.held.give_back(lane.tenant, lane.standing, lane.in_flight);
        let changed = change(lane);
        self.held.take(lane.tenant, lane.standing, lane.in_flight);
        self.eased |= self.held.all().eases(before);
        if lane.has_work() {
            self.call_up(id);
        }
        Some(changed)
    }

    /// Whether this node soon has no slot left for its lanes.
    pub fn crowded(&self) -> bool {
        self.in_flight >= RETRY_SLOTS
    }

    /// Whether retries may have a slot. First attempts without end would keep them for as long from what fails now and then.
    fn lets_retries(&self) -> bool {
        !self.crowded() || self.retries.len() < NODE_SLOTS - RETRY_SLOTS
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

    /// Marks every lane to be let go once nothing of it is in flight.
    pub fn leave(&mut self) {
        self.lanes.values_mut().for_each(|lane| lane.leaving = true);
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether there are more deliveries in mind or more lanes that take turns afterwards: what is new, or may go.
    pub fn grown_by<R>(&mut self, change: impl FnOnce(&mut Lanes) -> R) -> (R, bool) {
        let before = self.known.len() + self.turns.len();
        let changed = change(self);
        (changed, self.known.len() + self.turns.len() > before)
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
