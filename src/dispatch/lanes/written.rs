//! How lanes stand, as it is written down for who has them next.

use std::collections::HashSet;

use super::{FOREIGN, IDLE, Lanes, is_left};
use crate::store::LaneState;
use crate::types::{LaneId, Millis};

impl Lanes {
    /// Lanes to write down at once: a node that is killed must not forget that a receiver asked for a pause, or is away.
    pub fn to_save_now(&mut self) -> Vec<(LaneState, bool)> {
        let mut save = Vec::new();
        for id in self.urgent.drain() {
            if let Some(lane) = self.lanes.get_mut(&id).filter(|lane| lane.urgent) {
                (lane.dirty, lane.urgent) = (false, false);
                save.push((lane.state(id), false));
            }
        }
        save
    }

    /// What became of what was to be written down: all of it is but for `left`, which is tried again with the next beat;
    /// None: nothing is.
    pub fn saved(&mut self, save: Vec<(LaneState, bool)>, left: Option<&HashSet<LaneId>>) {
        for (LaneState { id, .. }, _) in save {
            if left.is_some_and(|left| !left.contains(&id)) {
                self.parting.remove(&id);
            } else if let Some(lane) = self.lanes.get_mut(&id) {
                lane.dirty = true;
                lane.urgent |= left.is_none();
                self.urgent.extend(lane.urgent.then_some(id));
            }
        }
    }

    /// Lanes to write down; those without work for long, or marked to leave, are let go (`true`).
    pub fn to_save(&mut self, now: Millis) -> Vec<(LaneState, bool)> {
        self.foreign.retain(|_, again| is_left(*again, now, FOREIGN));
        self.avoided.retain(|_, again| is_left(*again, now, FOREIGN));
        // Those that could not be written down when they were let go.
        let mut save: Vec<_> = self.parting.values().map(|state| (state.clone(), true)).collect();
        for (id, lane) in &mut self.lanes {
            let idle = lane.ready.is_empty() && !lane.more && now.since(lane.idle_since) > IDLE;
            let release = lane.in_flight + lane.in_hand == 0 && (idle || lane.leaving);
            if release || lane.dirty {
                (lane.dirty, lane.urgent) = (false, false);
                save.push((lane.state(*id), release));
            }
        }
        for (state, _) in save.iter().filter(|(_, release)| *release) {
            if self.let_go(state.id).is_some_and(|lane| lane.leaving) {
                self.foreign.insert(state.id, now.plus(FOREIGN));
            }
            self.parting.insert(state.id, state.clone());
        }
        self.turns.retain(|id| self.lanes.contains_key(id));
        save
    }
}
