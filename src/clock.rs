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
    /// How far it has moved towards a reference that is far off.
    walked: AtomicI64,
    /// The latest instant that was told: small corrections make the clock stand still, not step back.
    told: AtomicI64,
}

/// The largest correction that is taken over at once.
const STEP_MS: i64 = 1_000;

impl Clock {
    /// The machine's clock.
    pub fn system() -> Clock {
        Clock::System(Arc::new(Steady {
            offset: AtomicI64::new(wall_ms() - boot_ms()),
            far_off: AtomicI64::new(0),
            walked: AtomicI64::new(0),
            told: AtomicI64::new(0),
        }))
    }

    /// A clock that stands at `start`.
    pub fn manual(start: Millis) -> Clock {
        Clock::Manual(Arc::new(AtomicI64::new(start.0)))
    }

    /// The present instant.
    pub fn now(&self) -> Millis {
        match self {
            Clock::System(s) => {
                let now = boot_ms() + s.offset.load(Ordering::Relaxed);
                Millis(now.max(s.told.fetch_max(now, Ordering::Relaxed)))
            }
            Clock::Manual(at) => Millis(at.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock forward; a system clock does not listen.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(at) = self {
            at.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }

    /// Follows `reference` (the database's clock, or the wall clock on SQLite), read just now. One that is
    /// far off is believed once it has been so `believe_after` times in a row. Gives by how much it was set back in all, when
    /// it has come to a reference that was far behind.
    pub fn follow(&self, reference: Millis, believe_after: i64) -> Duration {
        let Clock::System(s) = self else { return Duration::ZERO };
        let off_by = reference.0 - boot_ms() - s.offset.load(Ordering::Relaxed);
        s.unfreeze();
        let moved = s.walked.load(Ordering::Relaxed) + off_by;
        if off_by.abs() <= STEP_MS {
            s.offset.fetch_add(off_by, Ordering::Relaxed);
            s.arrived();
        } else if s.far_off.fetch_add(1, Ordering::Relaxed) + 1 >= believe_after {
            self.adopt(reference);
        } else {
            let step = off_by.signum() * STEP_MS;
            s.offset.fetch_add(step, Ordering::Relaxed);
            s.walked.fetch_add(step, Ordering::Relaxed);
            return Duration::ZERO;
        }
        if moved < -STEP_MS { Duration::from_millis(moved.unsigned_abs()) } else { Duration::ZERO }
    }

    /// Takes `reference` over as it is, even if that is a step back.
    pub fn adopt(&self, reference: Millis) {
        let Clock::System(s) = self else { return };
        s.offset.store(reference.0 - boot_ms(), Ordering::Relaxed);
        s.told.store(0, Ordering::Relaxed);
        s.arrived();
    }

    /// What the machine's wall clock says, for [`Clock::follow`] where the store has no clock of its own.
    pub fn wall() -> Millis {
        Millis(wall_ms())
    }
}

impl Steady {
    fn arrived(&self) {
        self.far_off.store(0, Ordering::Relaxed);
        self.walked.store(0, Ordering::Relaxed);
    }

    /// Who read the clock while a step back was adopted may have told an instant of before it; the clock
    /// would stand still until that comes again.
    fn unfreeze(&self) {
        let now = boot_ms() + self.offset.load(Ordering::Relaxed);
        if self.told.load(Ordering::Relaxed) > now + STEP_MS {
            self.told.store(now, Ordering::Relaxed);
        }
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
        clock.follow(near, 12);
        assert!(clock.now() >= near);

        let before = clock.now();
        clock.follow(before.plus(Duration::from_secs(86_400)), 12);
        assert!(clock.now().since(before) < Duration::from_secs(10), "a day's jump moves it by a second");
    }

    #[test]
    fn a_lasting_difference_is_believed_in_the_end() {
        let clock = Clock::system();
        let target = clock.now().plus(Duration::from_secs(86_400));
        clock.follow(target, 3);
        clock.follow(target, 3);
        assert!(clock.now() < target);
        assert_eq!(clock.follow(target, 3), Duration::ZERO, "a step forward");
        assert!(clock.now() >= target);
    }

    #[test]
    fn by_how_much_it_stepped_back_is_told_once() {
        let clock = Clock::system();
        let hour = Duration::from_secs(3_600);
        let target = clock.now().minus(hour);
        assert_eq!(clock.follow(target, 2), Duration::ZERO, "not believed yet");
        let back = clock.follow(target, 2);
        assert!(back.abs_diff(hour) < Duration::from_millis(500), "{back:?}");
        assert_eq!(clock.follow(target, 2), Duration::ZERO);
    }

    #[test]
    fn a_step_back_that_was_walked_is_told_when_it_is_done_and_one_that_was_taken_back_is_not() {
        let clock = Clock::system();
        let Clock::System(steady) = &clock else { unreachable!() };
        let before = steady.offset.load(Ordering::Relaxed);
        // What the reference says if it was set back by so much.
        let reference = |ms: i64| Millis(boot_ms() + before - ms);
        for _ in 0..4 {
            assert_eq!(clock.follow(reference(4_500), 12), Duration::ZERO);
        }
        let back = clock.follow(reference(4_500), 12);
        assert!(back.abs_diff(Duration::from_millis(4_500)) < Duration::from_millis(500), "{back:?}");
        assert_eq!(clock.follow(reference(4_500), 12), Duration::ZERO);

        assert_eq!(clock.follow(reference(9_000), 12), Duration::ZERO);
        assert_eq!(clock.follow(reference(4_500), 12), Duration::ZERO, "it was set right again");
        assert_eq!(clock.follow(reference(5_300), 12), Duration::ZERO, "a small difference");
    }

    #[test]
    fn a_small_correction_back_makes_it_stand_still_and_an_adopted_clock_steps_back() {
        let clock = Clock::system();
        let before = clock.now();
        clock.follow(before.minus(Duration::from_millis(900)), 12);
        assert!(clock.now() >= before);

        let behind = before.minus(Duration::from_secs(60));
        clock.adopt(behind);
        assert!(clock.now().since(behind) < Duration::from_secs(10));

        // As by a reader that had read the offset before.
        let Clock::System(steady) = &clock else { unreachable!() };
        steady.told.fetch_max(before.0, Ordering::Relaxed);
        clock.follow(behind, 12);
        assert!(clock.now().since(behind) < Duration::from_secs(10), "a late reader freezes nothing");
    }
}
