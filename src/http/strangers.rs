//! Reports under lease tokens that are none, from who shows no key.
//!
//! A lease token is right enough, so nothing else is asked of who has one, and whether it is one the writer finds out beside the
//! change. While many are none the readers look first: whoever makes tokens up is not to take the writer's time.

use std::sync::{Mutex, PoisonError};

use crate::types::Millis;

/// So many at once may come to the writer, those it has not answered yet included: workers whose leases were lost come together.
const AT_ONCE: f64 = 64.0;
/// ... and so many a second may be refused by it after that.
const PER_SECOND: f64 = 1.0;

/// How many more may come, and when that was so. In memory, per node.
pub struct Strangers(Mutex<(f64, Millis)>);

impl Default for Strangers {
    fn default() -> Strangers {
        Strangers(Mutex::new((AT_ONCE, Millis(0))))
    }
}

impl Strangers {
    /// Whether one more may come to the writer as it is; otherwise it is looked at first.
    pub fn admit(&self, now: Millis) -> bool {
        self.with(now, |left| {
            let admitted = *left >= 1.0;
            *left -= f64::from(u8::from(admitted));
            admitted
        })
    }

    /// One that was admitted was none of them.
    pub fn known(&self, now: Millis) {
        self.with(now, |left| *left = (*left + 1.0).min(AT_ONCE));
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
        assert_eq!((0..100).filter(|_| strangers.admit(at(0))).count(), 64);
        assert!(!strangers.admit(at(999)) && strangers.admit(at(1_000)));
        assert!(!strangers.admit(at(1_000)), "it was refused");
        strangers.known(at(1_000));
        assert!(strangers.admit(at(1_000)), "another one was not");
        assert_eq!((0..100).filter(|_| strangers.admit(at(999_000))).count(), 64);
    }
}
