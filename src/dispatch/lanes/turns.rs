//! Turns: lanes that have work take them one after the other. One that cannot send now does not stand in their way.

use std::collections::{BTreeSet, VecDeque};

use super::trust::Standing;
use super::{Lanes, NODE_SLOTS};
use crate::store::DueDelivery;
use crate::types::{LaneId, Millis, TenantId};

/// How a lane takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TurnTaking {
    /// It has no work.
    None,
    /// Its turn comes.
    Queued,
    /// It has work and can do nothing, until then or until something about it changes.
    Rests(Option<Millis>),
}

/// Whose turn it is, of the lanes that have work in mind or may find some in the store. The others, and those that
/// cannot send now, may be very many: they cost nothing.
#[derive(Debug, Default)]
pub(super) struct Turns {
    queue: VecDeque<LaneId>,
    /// Those that rest until an instant, by that.
    rests: BTreeSet<(Millis, LaneId)>,
    /// When they were last looked at.
    looked: Millis,
}

impl Turns {
    pub(super) fn iter(&self) -> impl Iterator<Item = &LaneId> {
        self.queue.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Some lanes are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(&LaneId) -> bool) {
        self.queue.retain(&is_there);
        self.rests.retain(|(_, id)| is_there(id));
    }
}

impl Lanes {
    /// Gives a lane that has come to work its turns, for as long as it has some. One that rests goes on resting.
    pub(super) fn call_up(&mut self, id: LaneId) {
        if let Some(lane) = self.lanes.get_mut(&id).filter(|lane| lane.turn_taking == TurnTaking::None) {
            lane.turn_taking = TurnTaking::Queued;
            self.turns.queue.push_back(id);
        }
    }

    /// What kept a lane from sending may be over.
    pub(super) fn rouse(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if let TurnTaking::Rests(until) = lane.turn_taking {
            lane.turn_taking = TurnTaking::Queued;
            self.turns.queue.push_back(id);
            if let Some(until) = until {
                self.turns.rests.remove(&(until, id));
            }
        }
    }

    /// The same for those whose time has come.
    pub(super) fn rouse_rested(&mut self, now: Millis) {
        // By a clock that was set back they may have to wait for less.
        let set_back = now < std::mem::replace(&mut self.turns.looked, now);
        while self.opens_at().is_some_and(|until| set_back || until <= now) {
            if let Some((_, id)) = self.turns.rests.pop_first() {
                self.rouse(id);
            }
        }
    }

    /// How many of the node's slots a lane may have now.
    pub(super) fn share(&self, id: LaneId) -> usize {
        self.lanes.get(&id).map_or(0, |lane| self.held.share(lane.tenant, lane.standing, self.in_flight))
    }

    /// In which part of the node's slots a lane takes its turns, and whose.
    fn part_of(&self, id: LaneId) -> Option<(TenantId, Standing)> {
        self.lanes.get(&id).map(|lane| (lane.tenant, lane.standing))
    }

    /// Whether others of its tenant and standing wait for their turns.
    pub(super) fn has_to_wait(&self, id: LaneId) -> bool {
        self.part_of(id).is_some_and(|part| self.shut_out.contains(&part))
    }

    /// Whether a lane has all that it may have of them, and any that comes free may give it more.
    pub(super) fn is_squeezed(&self, id: LaneId) -> bool {
        let lane = self.lanes.get(&id).filter(|lane| lane.standing == Standing::Answers);
        self.in_flight >= NODE_SLOTS || lane.is_some_and(|lane| lane.in_flight >= self.share(id))
    }

    /// When the first of the lanes that rest may send again.
    pub fn opens_at(&self) -> Option<Millis> {
        self.turns.rests.first().map(|(until, _)| *until)
    }

    /// Picks what is to be claimed: one delivery per lane and turn, as far as slots reach.
    /// The slots are taken; [`Lanes::done`] gives them back.
    pub fn pick(&mut self, now: Millis) -> Vec<DueDelivery> {
        self.rouse_rested(now);
        self.shut_out.clear();
        let (mut picked, mut shut_out) = (Vec::new(), Vec::new());
        let mut passed = 0;
        while self.in_flight < NODE_SLOTS && passed < self.turns.len() {
            let Some(id) = self.turns.queue.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            lane.turn_taking = match lane.has_work() {
                false => TurnTaking::None,
                true if lane.is_stuck(now) => TurnTaking::Rests(lane.opens_at(now).filter(|at| *at > now)),
                true => TurnTaking::Queued,
            };
            match lane.turn_taking {
                TurnTaking::Queued => {}
                TurnTaking::Rests(Some(until)) => {
                    self.turns.rests.insert((until, id));
                    continue;
                }
                TurnTaking::Rests(None) | TurnTaking::None => continue,
            }
            let share = self.share(id);
            if share == 0 {
                self.shut_out.extend(self.part_of(id));
                shut_out.push(id);
                continue;
            }
            self.turns.queue.push_back(id);
            let retries = self.lets_retries();
            match self.change(id, |lane| lane.take(now, retries, share)).flatten() {
                None => {
                    passed += 1;
                    let Some(lane) = self.lanes.get(&id) else { continue };
                    self.held_back |= !retries && lane.ready.has_retries();
                    // It may have found that what could go is not in mind, after all others were read.
                    self.squeezed |= lane.hungry(now) || self.is_squeezed(id);
                }
                Some(due) => {
                    passed = 0;
                    self.known.remove(&due.id);
                    self.in_flight += 1;
                    if due.attempt > 0 {
                        self.retries.insert(due.id);
                    }
                    picked.push(due);
                }
            }
        }
        // Some have had no turn.
        self.squeezed |= self.in_flight >= NODE_SLOTS && self.turns.len() > 0;
        // They keep their places: were they sent to the end, those before them would take all that is ever free.
        shut_out.into_iter().rev().for_each(|id| self.turns.queue.push_front(id));
        picked
    }
}
