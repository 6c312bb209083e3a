//! When a lane may send: its breaker, its rate, and what is set for it.
//!
//! Pure: a node keeps one of each for every lane it owns and asks before each request.

use std::time::Duration;

use super::Millis;
use super::delivery::{Fault, Outcome};

/// Requests under way at once in a lane for which nothing is set.
pub const MOST_IN_FLIGHT: u32 = 64;
/// Infrastructure failures in a row that open the breaker.
pub const BREAKS_AT: u32 = 10;
/// The first time it stays open, and the longest.
const OPEN: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// What is set for a lane; ad-hoc lanes have none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Requests under way at once; [`MOST_IN_FLIGHT`] when left out.
    pub max_in_flight: Option<u32>,
    /// Requests begun in a second, over all nodes.
    pub rate_per_second: Option<u32>,
    /// One after the other, in the order of their numbers.
    pub ordered: bool,
}

impl Limits {
    /// The most requests under way at once.
    pub fn ceiling(&self) -> u32 {
        if self.ordered { 1 } else { self.max_in_flight.unwrap_or(MOST_IN_FLIGHT).max(1) }
    }
}

/// What an outcome says of the receiver's machine and network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Someone answered, whatever the answer was.
    Well,
    /// No answer, or one that says that the service is away.
    Down,
    /// Nothing: the fault is ours, or nothing was sent.
    None,
}

impl Sign {
    /// Reads it from an outcome.
    pub fn of(outcome: &Outcome) -> Sign {
        match outcome {
            Outcome::Answered { status: 503, .. } => Sign::Down,
            Outcome::Answered { .. } => Sign::Well,
            Outcome::Failed(fault) if fault.infrastructure() => Sign::Down,
            Outcome::Failed(Fault::BadResponse | Fault::ResponseTooLarge) => Sign::Well,
            Outcome::Failed(
                Fault::Dns
                | Fault::Connect
                | Fault::Tls(_)
                | Fault::Timeout(_)
                | Fault::Reset
                | Fault::Refused(_)
                | Fault::LeaseRanOut
                | Fault::NoSocket
                | Fault::Unknown,
            ) => Sign::None,
        }
    }
}

/// Whether a lane's breaker lets a request go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// As many as the lane's slots allow.
    Freely,
    /// One, to see how the receiver is.
    Probe,
    /// None before this instant.
    At(Millis),
    /// None until the probe under way has come back.
    AfterProbe,
}

/// Keeps a lane from asking a dead receiver again and again. Time spent open costs no attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Sends.
    Closed {
        /// Infrastructure failures in a row.
        failures: u32,
    },
    /// Sends nothing until an instant, and then one probe.
    Open {
        /// When the probe may go.
        until: Millis,
        /// Infrastructure failures in a row.
        failures: u32,
        /// How often it has opened in a row.
        opened: u32,
    },
    /// The probe is under way.
    Probing {
        /// Infrastructure failures in a row.
        failures: u32,
        /// How often it has opened in a row.
        opened: u32,
    },
}

impl Breaker {
    /// As it was written down; a probe that was under way then is forgotten and made again.
    pub fn restore(failures: u32, opened: u32, until: Option<Millis>) -> Breaker {
        match opened {
            0 => Breaker::Closed { failures },
            opened => Breaker::Open { until: until.unwrap_or_default(), failures, opened },
        }
    }

    /// Whether a request may go now.
    pub fn leave(self, now: Millis) -> Leave {
        match self {
            Breaker::Closed { .. } => Leave::Freely,
            Breaker::Open { until, .. } if until <= now => Leave::Probe,
            Breaker::Open { until, .. } => Leave::At(until),
            Breaker::Probing { .. } => Leave::AfterProbe,
        }
    }

    /// A request went. Gives the breaker after it and whether that request is the probe.
    #[must_use]
    pub fn sent(self, now: Millis) -> (Breaker, bool) {
        match self {
            Breaker::Open { until, failures, opened } if until <= now => {
                (Breaker::Probing { failures, opened }, true)
            }
            Breaker::Closed { .. } | Breaker::Open { .. } | Breaker::Probing { .. } => (self, false),
        }
    }

    /// A request came back; `probe` says that it was the probe. Any answer closes, a late one too.
    #[must_use]
    pub fn heard(self, sign: Sign, probe: bool, now: Millis) -> Breaker {
        match (sign, self) {
            (Sign::Well, _) => Breaker::Closed { failures: 0 },
            (Sign::Down, Breaker::Closed { failures }) if failures + 1 >= BREAKS_AT => {
                Breaker::Open { until: now.plus(open_for(1)), failures: failures + 1, opened: 1 }
            }
            (Sign::Down, Breaker::Closed { failures }) => Breaker::Closed { failures: failures + 1 },
            // Begun before it opened: nothing new.
            (Sign::Down, Breaker::Open { until, failures, opened }) => {
                Breaker::Open { until, failures: failures.saturating_add(1), opened }
            }
            (Sign::Down, Breaker::Probing { failures, opened }) if probe => {
                let opened = opened.saturating_add(1);
                Breaker::Open {
                    until: now.plus(open_for(opened)),
                    failures: failures.saturating_add(1),
                    opened,
                }
            }
            (Sign::Down, Breaker::Probing { failures, opened }) => {
                Breaker::Probing { failures: failures.saturating_add(1), opened }
            }
            // A probe that tells nothing is made again.
            (Sign::None, Breaker::Probing { failures, opened }) if probe => {
                Breaker::Open { until: now, failures, opened }
            }
            (Sign::None, Breaker::Closed { .. } | Breaker::Open { .. } | Breaker::Probing { .. }) => self,
        }
    }

    /// Infrastructure failures in a row.
    pub fn failures(self) -> u32 {
        match self {
            Breaker::Closed { failures }
            | Breaker::Open { failures, .. }
            | Breaker::Probing { failures, .. } => failures,
        }
    }

    /// How often it has opened in a row; 0 when closed.
    pub fn opened(self) -> u32 {
        match self {
            Breaker::Closed { .. } => 0,
            Breaker::Open { opened, .. } | Breaker::Probing { opened, .. } => opened,
        }
    }
}

/// How long it stays open the `n`th time in a row: 30 s, doubling up to 10 min.
fn open_for(n: u32) -> Duration {
    let doubled = OPEN.0.saturating_mul(1 << n.saturating_sub(1).min(16));
    doubled.min(OPEN.1)
}

/// A token bucket that holds a tenth of a second's requests, and one at the least.
///
/// Kept as the one instant at which it is full again, so that it can be written down and handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    full_at_us: i64,
}

impl Bucket {
    /// As it was written down.
    pub fn restore(full_at: Option<Millis>) -> Bucket {
        Bucket { full_at_us: full_at.map_or(0, us) }
    }

    /// What is written down.
    pub fn full_at(self) -> Millis {
        Millis(self.full_at_us.div_euclid(1_000) + i64::from(self.full_at_us.rem_euclid(1_000) > 0))
    }

    /// When the next request may go; an instant that is not later than `now` means at once.
    pub fn opens_at(self, per_second: u32, now: Millis) -> Millis {
        let (step, spare) = pace(per_second);
        let at = self.full_by(step, spare, now) - spare;
        Millis(at.div_euclid(1_000) + i64::from(at.rem_euclid(1_000) > 0))
    }

    /// One request goes.
    #[must_use]
    pub fn take(self, per_second: u32, now: Millis) -> Bucket {
        let (step, spare) = pace(per_second);
        Bucket { full_at_us: self.full_by(step, spare, now).max(us(now)) + step }
    }

    /// One that was to go did not.
    #[must_use]
    pub fn give_back(self, per_second: u32) -> Bucket {
        Bucket { full_at_us: self.full_at_us - pace(per_second).0 }
    }

    /// When it is full. Further off than any request puts it a clock was set back, or the rate raised: what was taken
    /// before that does not count.
    fn full_by(self, step: i64, spare: i64, now: Millis) -> i64 {
        let there = self.full_at_us <= us(now) + step + spare;
        if there { self.full_at_us } else { us(now) + spare }
    }
}

fn us(at: Millis) -> i64 {
    at.0.saturating_mul(1_000)
}

/// Before when none goes at a rate that has so many `ahead` of it.
pub fn not_before(per_second: u32, ahead: u32, now: Millis) -> Millis {
    let (step, spare) = pace(per_second);
    let wait = (i64::from(ahead) * step - spare).max(0);
    Millis(now.0 + wait.div_euclid(1_000))
}

/// Microseconds between two requests, and those that may go ahead of their time.
fn pace(per_second: u32) -> (i64, i64) {
    let rate = i64::from(per_second.max(1));
    let step = 1_000_000 / rate + i64::from(1_000_000 % rate > 0);
    let burst = (rate / 10).max(1);
    (step, step * (burst - 1))
}

#[cfg(test)]
mod tests;
