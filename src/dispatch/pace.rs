//! How often the store is looked through: in a small part of the time, however much is due.

use std::time::Duration;

use tokio::time::Instant;

use super::POLL;
use crate::types::Millis;

/// After a look so many times its duration passes without one. What is made meanwhile by this node is handed over,
/// or its lane is read again by itself.
const REST: u32 = 9;
/// The same after a look that was stale.
const LONG_REST: u32 = 99;
/// All hands are looked at so often at the most; an answer serves its own lane's at once.
const SERVE: Duration = Duration::from_millis(5);

/// What a look saw.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// There may be more that is due.
    pub(super) full: bool,
    /// Something, but nothing that was not known: all of it waits for lanes that cannot send it.
    pub(super) stale: bool,
    /// What falls due next, unless it was full.
    pub(super) next_due: Option<Millis>,
}

/// When the next look may be.
#[derive(Debug, Default)]
pub(super) struct Pace {
    rest_until: Option<Instant>,
    left_out: bool,
    served: Option<Instant>,
    unserved: bool,
    /// What falls due next, as the last look saw it.
    pub(super) next_due: Option<Millis>,
}

impl Pace {
    /// Whether it is time for a look. One that is left out is made up for after [`Pace::rest`].
    pub(super) fn is_time(&mut self) -> bool {
        self.left_out = self.rest_until.is_some_and(|until| Instant::now() < until);
        !self.left_out
    }

    /// Notes that a look began then and has ended, and what it saw.
    pub(super) fn looked(&mut self, began: Instant, seen: &Seen) {
        self.next_due = seen.next_due;
        let rest = if seen.stale { LONG_REST } else { REST };
        self.rest_until = Some(Instant::now() + (began.elapsed() * rest).min(POLL));
    }

    /// Whether it is time to look at all hands, if anything waits in one. What is left out is made up for after
    /// [`Pace::rest`].
    pub(super) fn is_time_to_serve(&mut self, waits: bool) -> bool {
        let time = self.served.is_none_or(|at| at.elapsed() >= SERVE);
        // Noted even where nothing waits any more: what is never made up for would end every rest at once.
        self.unserved = waits && !time;
        if waits && time {
            self.served = Some(Instant::now());
        }
        waits && time
    }

    /// How long what was left out has to wait; None if nothing was.
    pub(super) fn rest(&self) -> Option<Duration> {
        let look = self.rest_until.filter(|_| self.left_out);
        let serve = self.served.filter(|_| self.unserved).map(|at| at + SERVE);
        let until = [look, serve].into_iter().flatten().min()?;
        Some(until.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_the_hands_that_was_left_out_ends_no_rest_once_they_are_empty() {
        let mut pace = Pace::default();
        assert!(pace.is_time_to_serve(true) && pace.rest().is_none());
        // As if it had just been, however long this test takes.
        let soon = Instant::now() + Duration::from_secs(60);
        pace.served = Some(soon);
        assert!(!pace.is_time_to_serve(true) && pace.rest().is_some());
        assert!(!pace.is_time_to_serve(false));
        assert_eq!(pace.rest(), None, "nothing is left to be made up for");
    }
}
