//! Reports under lease tokens that are none, from who shows no key.
//!
//! A lease token is right enough, so nothing else is asked of who has one, and whether it is one the writer finds out beside the
//! change. While many are none the readers look first: whoever makes tokens up is not to take the writer's time.

use std::sync::{Mutex, PoisonError};

use crate::types::Millis;

/// So many at once are no flood: workers whose leases were lost come together, too.
const AT_ONCE: f64 = 20.0;
/// ... and so many a second after that.
const PER_SECOND: f64 = 1.0;

/// How many more may be refused by the writer, and when that was so. In memory, per node.
pub struct Strangers(Mutex<(f64, Millis)>);

impl Default for Strangers {
    fn default() -> Strangers {
        Strangers(Mutex::new((AT_ONCE, Millis(0))))
    }
}

impl Strangers {
    /// One more was refused.
    pub fn refused(&self, now: Millis) {
        self.with(now, |left| *left = (*left - 1.0).max(0.0));
    }

    /// Whether there are so many that one is looked at first.
    pub fn are_many(&self, now: Millis) -> bool {
        self.with(now, |left| *left < 1.0)
    }

    fn with<T>(&self, now: Millis, act: impl FnOnce(&mut f64) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, at) = &mut *state;
        *left = (*left + now.since(*at).as_secs_f64() * PER_SECOND).min(AT_ONCE);
        *at = now;
        act(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_burst_they_are_many_until_it_is_quiet() {
        let strangers = Strangers::default();
        let at = |ms: i64| Millis(1_000_000 + ms);
        for _ in 0..20 {
            assert!(!strangers.are_many(at(0)));
            strangers.refused(at(0));
        }
        assert!(strangers.are_many(at(0)) && strangers.are_many(at(999)));
        assert!(!strangers.are_many(at(1_000)));
        (0..100).for_each(|_| strangers.refused(at(1_000)));
        assert!(strangers.are_many(at(1_999)) && !strangers.are_many(at(2_000)), "no debt is kept");
    }
}
