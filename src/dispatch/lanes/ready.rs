//! What a lane has in mind to send: a bounded queue for each of its turns.

use std::collections::{HashMap, VecDeque};

use crate::store::DueDelivery;
use crate::types::DeliveryId;

/// Due deliveries of one lane that are kept in mind; the rest stays in the store.
pub(super) const IN_MIND: usize = 64;
/// Half of them may be first attempts that retries have made room for.
pub(super) const FIRSTS: usize = IN_MIND / 2;

/// What became of a delivery that was offered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Kept,
    /// Kept in the place of this one, of the turn that had most, or the last retry.
    Instead(DueDelivery),
    /// There is no room for it.
    Full,
}

/// Due deliveries, turn by turn.
#[derive(Debug, Default)]
pub(super) struct Ready {
    queues: HashMap<i64, VecDeque<DueDelivery>>,
    /// Who waits longest for a turn comes first.
    order: VecDeque<i64>,
    len: usize,
    /// How many of them are first attempts.
    firsts: usize,
}

impl Ready {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn has_retries(&self) -> bool {
        self.firsts < self.len
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = DeliveryId> + '_ {
        self.queues.values().flatten().map(|due| due.id)
    }

    /// Keeps it among `most`. When there is no room, the turn that has most gives up its last for one that has less,
    /// and retries leave first attempts half of the room.
    pub(super) fn push(&mut self, due: DueDelivery, most: usize) -> Pushed {
        let mut pushed = Pushed::Kept;
        if self.len >= most {
            let Some(gone) = self.make_room(&due, most) else { return Pushed::Full };
            self.forget(&gone);
            pushed = Pushed::Instead(gone);
        }
        let queue = self.queues.entry(due.turn).or_default();
        if queue.is_empty() {
            self.order.push_back(due.turn);
        }
        queue.push_back(due);
        self.len += 1;
        self.firsts += usize::from(due.attempt == 0);
        pushed
    }

    fn make_room(&mut self, due: &DueDelivery, room: usize) -> Option<DueDelivery> {
        let own = self.queues.get(&due.turn).map_or(0, VecDeque::len);
        let most = self.queues.values_mut().max_by_key(|queue| queue.len())?;
        if most.len() > own + 1 {
            return most.pop_back();
        }
        if due.attempt > 0 || self.firsts >= room / 2 {
            return None;
        }
        // Of its own turn if it has a retry: the turns keep what they have.
        let turn = [due.turn].into_iter().chain(self.order.iter().copied());
        let retry = |turn: i64| Some((turn, self.queues.get(&turn)?.iter().rposition(|d| d.attempt > 0)?));
        let (turn, at) = turn.filter_map(retry).next()?;
        let queue = self.queues.get_mut(&turn)?;
        let gone = queue.remove(at);
        if queue.is_empty() {
            self.queues.remove(&turn);
            self.order.retain(|t| *t != turn);
        }
        gone
    }

    fn forget(&mut self, gone: &DueDelivery) {
        self.len -= 1;
        self.firsts -= usize::from(gone.attempt == 0);
    }

    /// Takes the next delivery of the turn that has least under way, and among equals of the one that waits longest.
    ///
    /// `under_way` gives how many requests a turn has under way, None if it has no room for one more.
    /// Also says whether that turn has nothing left.
    pub(super) fn take(
        &mut self,
        under_way: impl Fn(i64) -> Option<usize>,
        first_attempts_only: bool,
    ) -> Option<(DueDelivery, bool)> {
        let fits = |due: &DueDelivery| !first_attempts_only || due.attempt == 0;
        let candidates = self.order.iter().enumerate().filter_map(|(at, turn)| {
            let busy = under_way(*turn)?;
            self.queues.get(turn)?.iter().any(fits).then_some((busy, at))
        });
        let (_, at) = candidates.min()?;
        let turn = self.order.remove(at)?;
        let queue = self.queues.get_mut(&turn)?;
        let due = queue.iter().position(fits).and_then(|n| queue.remove(n))?;
        let dry = queue.is_empty();
        self.forget(&due);
        if dry {
            self.queues.remove(&turn);
        } else {
            self.order.push_back(turn);
        }
        Some((due, dry))
    }
}
