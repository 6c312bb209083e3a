//! The only place that asks the world for the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::types::Millis;

/// Where the time comes from. Cheap to clone; all clones tell the same time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's clock, corrected towards the store's.
    System(Arc<Steady>),
    /// Stands still until a test moves it.
    Manual(Arc<AtomicI64>),
}

/// The suspension-proof clock plus an offset that makes it wall time.
///
/// A wall clock that is set back or forward must not fire or hold back a thousand
/// retries, so elapsed time comes from `CLOCK_BOOTTIME` and only the offset follows
/// the reference, a bounded step at a time.
#[derive(Debug)]
pub struct Steady {
    offset: AtomicI64,
    far_off: AtomicI64,
}

/// The largest correction that is taken over at once.
const STEP_MS: i64 = 1_000;
/// After so many measurements in a row that are further off, the reference is believed.
const BELIEVE_AFTER: i64 = 12;

impl Clock {
    /// The machine's clock.
    pub fn system() -> Clock {
        Clock::System(Arc::new(Steady {
            offset: AtomicI64::new(wall_ms() - boot_ms()),
            far_off: AtomicI64::new(0),
        }))
    }

    /// A clock that stands at `start`.
    pub fn manual(start: Millis) -> Clock {
        Clock::Manual(Arc::new(AtomicI64::new(start.0)))
    }

    /// The present instant.
    pub fn now(&self) -> Millis {
        match self {
            Clock::System(s) => Millis(boot_ms() + s.offset.load(Ordering::Relaxed)),
            Clock::Manual(at) => Millis(at.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock forward; a system clock does not listen.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(at) = self {
            at.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }

    /// Follows `reference` (the database's clock, or the wall clock on SQLite), read just now.
    pub fn follow(&self, reference: Millis) {
        let Clock::System(s) = self else { return };
        let off_by = reference.0 - self.now().0;
        if off_by.abs() <= STEP_MS || s.far_off.fetch_add(1, Ordering::Relaxed) >= BELIEVE_AFTER {
            s.offset.fetch_add(off_by, Ordering::Relaxed);
            s.far_off.store(0, Ordering::Relaxed);
        } else {
            s.offset.fetch_add(off_by.signum() * STEP_MS, Ordering::Relaxed);
        }
    }

    /// What the machine's wall clock says, for [`Clock::follow`] where the store has no clock of its own.
    pub fn wall() -> Millis {
        Millis(wall_ms())
    }
}

/// Milliseconds since boot, counting suspension (`CLOCK_BOOTTIME`).
fn boot_ms() -> i64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    t.tv_sec * 1_000 + t.tv_nsec / 1_000_000
}

#[expect(clippy::disallowed_methods, reason = "this file is where the time enters")]
fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_difference_is_taken_over_and_a_jump_only_step_by_step() {
        let clock = Clock::system();
        let near = clock.now().plus(Duration::from_millis(400));
        clock.follow(near);
        assert!(clock.now() >= near);

        let before = clock.now();
        clock.follow(before.plus(Duration::from_secs(86_400)));
        assert!(clock.now().since(before) < Duration::from_secs(10), "a day's jump moves it by a second");
    }

    #[test]
    fn a_lasting_difference_is_believed_in_the_end() {
        let clock = Clock::system();
        let day = Duration::from_secs(86_400);
        let target = clock.now().plus(day);
        for _ in 0..=BELIEVE_AFTER {
            clock.follow(target);
        }
        assert!(clock.now() >= target);
    }
}
