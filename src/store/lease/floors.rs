//! How far the claims of each queue have come, so that none walks what those before it have left.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::QueueKey;
use crate::store::model::LeaseRequest;
use crate::types::{Millis, TenantId};

/// How far each queue's claims have come: below its floor there is nothing to find but stragglers.
#[derive(Default)]
pub(in crate::store) struct Floors(Mutex<Known>);

#[derive(Default)]
struct Known {
    floors: HashMap<QueueKey, Floor>,
    /// Passes without a floor that have begun.
    passes: u64,
}

/// Of one queue.
#[derive(Clone, Copy, Default)]
pub(super) struct Floor {
    /// Of each level; 0 is none.
    pub(super) levels: [i64; 5],
    /// Which pass without a floor it comes from: of two the clock may say the same.
    pass: u64,
    /// When that began.
    full_at: i64,
    /// When it is to be again.
    next_full: i64,
}

/// What is committed later than this after its instant is found by the pass without a floor.
const LONGEST_COMMIT: i64 = 1_000;
/// The pass without a floor comes this often. It goes through all that is dead and cannot be removed yet, so claims spend a
/// fiftieth of the time on it as long as they can.
const FULL_PASS_EVERY: std::ops::RangeInclusive<i64> = 1_000..=3_000;
/// Queues whose floors are remembered; forgetting one costs a pass without a floor.
const QUEUES_REMEMBERED: usize = 10_000;
/// Of so many of one tenant that are forgotten, looking who has most costs each little.
const HAS_MANY: usize = 100;

impl Floors {
    /// The floors to claim with. Without one when it is time for it, or when the clock stepped back.
    pub(super) fn get(&self, key: &QueueKey, now: Millis) -> Floor {
        let mut known = self.lock();
        if known.floors.len() > QUEUES_REMEMBERED {
            make_room(&mut known.floors);
        }
        let Known { floors, passes } = &mut *known;
        let floor = floors.entry(key.clone()).or_default();
        // Who waited for the commit before has an earlier instant than who looked meanwhile.
        let stepped_back = floor.levels.iter().any(|f| *f > now.0) || now.0 + LONGEST_COMMIT < floor.full_at;
        if floor.pass == 0 || stepped_back || now.0 >= floor.next_full {
            *passes += 1;
            let next_full = now.0 + FULL_PASS_EVERY.end();
            // Until it has told what it found all others begin without a floor, too.
            *floor = Floor { levels: [0; 5], pass: *passes, full_at: now.0, next_full };
        }
        *floor
    }

    /// A look that began with `floor` found these to be the first of their levels that are due, and took so long.
    pub(super) fn found(
        &self,
        key: &QueueKey,
        floor: &Floor,
        firsts: &[(usize, i64)],
        took: Duration,
        now: Millis,
    ) {
        let mut known = self.lock();
        // Another look may have begun without a floor since; what it finds is not to be hidden.
        let Some(known) = known.floors.get_mut(key).filter(|known| known.pass == floor.pass) else { return };
        known.levels = [now.0 - LONGEST_COMMIT; 5];
        for (level, due_at) in firsts {
            known.levels[*level] = known.levels[*level].min(due_at - 1);
        }
        if floor.levels == [0; 5] {
            let rest = i64::try_from(took.as_millis()).unwrap_or(i64::MAX).saturating_mul(50);
            known.next_full = now.0 + rest.clamp(*FULL_PASS_EVERY.start(), *FULL_PASS_EVERY.end());
        }
    }

    /// Claims of a transaction that was undone: what one of them had taken was behind the floor of the next.
    pub(in crate::store) fn forget<'w>(&self, undone: impl Iterator<Item = &'w LeaseRequest>) {
        let mut known = self.lock();
        for want in undone {
            for kind in want.kinds() {
                known.floors.remove(&want.key(kind.as_deref()));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the queues of the tenant that has most: one that asks for ever new names costs no other its floors.
fn make_room(floors: &mut HashMap<QueueKey, Floor>) {
    let mut each: HashMap<TenantId, usize> = HashMap::new();
    floors.keys().for_each(|(tenant, ..)| *each.entry(*tenant).or_default() += 1);
    let Some((most, queues)) = each.into_iter().max_by_key(|(_, queues)| *queues) else { return };
    if queues < HAS_MANY {
        // It is no one tenant that fills it: then all at once, not a few keys at a time.
        return floors.clear();
    }
    floors.retain(|(tenant, ..), _| *tenant != most);
}
