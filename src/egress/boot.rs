//! A clock that also runs while the machine sleeps.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since boot, suspension included: a lease keeps running out while a laptop or a virtual machine sleeps,
/// and `Instant` does not show it on Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
// macOS counts sleep on its monotonic clock; elsewhere it is the best there is.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

impl BootTime {
    /// The present.
    pub fn now() -> BootTime {
        let t = clock_gettime(CLOCK);
        let nanos = u32::try_from(t.tv_nsec).unwrap_or(0);
        BootTime(Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), nanos))
    }

    /// This instant plus `d`.
    #[must_use]
    pub fn plus(self, d: Duration) -> BootTime {
        BootTime(self.0.saturating_add(d))
    }

    /// The time from `earlier` to here; zero if `earlier` is later.
    pub fn since(self, earlier: BootTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
