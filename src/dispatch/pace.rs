//! How often the store is looked through: in a small part of the time, however much is due.

use std::time::Duration;

use tokio::time::Instant;

use super::POLL;
use crate::types::Millis;

/// After a look so many times its duration passes without one. What is made meanwhile by this node is handed over,
/// or its lane is read again by itself.
const REST: u32 = 9;

/// When the next look may be.
#[derive(Debug, Default)]
pub(super) struct Pace {
    rest_until: Option<Instant>,
    left_out: bool,
    /// What falls due next, as the last look saw it.
    pub(super) next_due: Option<Millis>,
}

impl Pace {
    /// Whether it is time for a look. One that is left out is made up for after [`Pace::rest`].
    pub(super) fn is_time(&mut self) -> bool {
        self.left_out = self.rest_until.is_some_and(|until| Instant::now() < until);
        !self.left_out
    }

    /// Notes that a look began then and has ended, and what it saw of the time to come.
    pub(super) fn looked(&mut self, began: Instant, next_due: Option<Millis>) {
        self.next_due = next_due;
        self.rest_until = Some(Instant::now() + (began.elapsed() * REST).min(POLL));
    }

    /// How long the look that was left out has to wait; None if none was.
    pub(super) fn rest(&self) -> Option<Duration> {
        let until = self.rest_until.filter(|_| self.left_out)?;
        Some(until.saturating_duration_since(Instant::now()))
    }
}
