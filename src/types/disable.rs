//! When a standing endpoint is told to be failing, and when it is disabled.

use std::time::Duration;

use super::Millis;

/// Without a success for so long it is told to be failing, and told once more.
pub const FAILING: [Duration; 2] = [Duration::from_secs(24 * 3600), Duration::from_secs(72 * 3600)];
/// Without a success for so long it is disabled ...
pub const DISABLED: Duration = Duration::from_secs(120 * 3600);
/// ... if so many of its deliveries have failed meanwhile.
pub const FAILED: u32 = 20;

/// What has been told of an endpoint since its last success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Told {
    /// Nothing.
    #[default]
    Nothing,
    /// That it has been failing for a day.
    Day,
    /// That it has been failing for three days.
    ThreeDays,
    /// That it is disabled.
    Disabled,
}

impl Told {
    const ALL: [Told; 4] = [Told::Nothing, Told::Day, Told::ThreeDays, Told::Disabled];

    /// The text form, as stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Told::Nothing => "nothing",
            Told::Day => "day",
            Told::ThreeDays => "three-days",
            Told::Disabled => "disabled",
        }
    }

    /// Reads the text form.
    pub fn from_word(word: &str) -> Option<Told> {
        Self::ALL.into_iter().find(|told| told.as_str() == word)
    }
}

/// How an endpoint fares; begins anew with every success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// The first failure since the last success.
    pub failing_since: Option<Millis>,
    /// Deliveries whose first attempt has failed since then: no delivery is counted twice, and none that was begun before.
    pub failed: u32,
    /// What has been told.
    pub told: Told,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// A 2xx.
    Delivered,
    /// Anything else.
    Failed {
        /// It was the delivery's first attempt.
        first: bool,
    },
    /// A 410: there is nobody any more.
    Gone {
        /// It was the delivery's first attempt.
        first: bool,
    },
}

/// What is to be told now, each as an event of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// `endpoint.failing`
    Failing,
    /// `endpoint.recovered`
    Recovered,
    /// `endpoint.disabled`: it is disabled in the same transaction.
    Disabled(Reason),
}

impl Notice {
    /// The event's type.
    pub const fn kind(self) -> &'static str {
        match self {
            Notice::Failing => "endpoint.failing",
            Notice::Recovered => "endpoint.recovered",
            Notice::Disabled(_) => "endpoint.disabled",
        }
    }
}

/// Why an endpoint is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Days without a success.
    Failing,
    /// It answered 410.
    Gone,
}

impl Reason {
    /// The text form, as stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Failing => "failing",
            Reason::Gone => "gone",
        }
    }
}

/// Takes an outcome into account. Steps are told one after the other and each once, however late the outcome comes.
pub fn weigh(health: Health, seen: Seen, now: Millis) -> (Health, Option<Notice>) {
    match seen {
        Seen::Delivered => {
            let notice = match health.told {
                Told::Nothing => None,
                Told::Day | Told::ThreeDays | Told::Disabled => Some(Notice::Recovered),
            };
            (Health::default(), notice)
        }
        Seen::Failed { first } => {
            let ill = failed(health, first, now);
            let (told, notice) = stage(ill, now);
            (Health { told, ..ill }, notice)
        }
        Seen::Gone { first } => {
            let notice = (health.told < Told::Disabled).then_some(Notice::Disabled(Reason::Gone));
            (Health { told: Told::Disabled, ..failed(health, first, now) }, notice)
        }
    }
}

fn failed(health: Health, first: bool, now: Millis) -> Health {
    Health {
        failing_since: health.failing_since.or(Some(now)),
        failed: health.failed.saturating_add(u32::from(first)),
        told: health.told,
    }
}

fn stage(Health { failing_since, failed, told }: Health, now: Millis) -> (Told, Option<Notice>) {
    let failing = failing_since.map_or(Duration::ZERO, |since| now.since(since));
    match told {
        Told::Disabled => (told, None),
        Told::Nothing | Told::Day | Told::ThreeDays if failing >= DISABLED && failed >= FAILED => {
            (Told::Disabled, Some(Notice::Disabled(Reason::Failing)))
        }
        Told::Nothing if failing >= FAILING[0] => (Told::Day, Some(Notice::Failing)),
        Told::Day if failing >= FAILING[1] => (Told::ThreeDays, Some(Notice::Failing)),
        Told::Nothing | Told::Day | Told::ThreeDays => (told, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Millis = Millis(1_767_225_600_000);

    fn hours(n: u64) -> Millis {
        START.plus(Duration::from_secs(n * 3600))
    }

    /// The health after `n` deliveries that failed at the start.
    fn failing(n: u32) -> Health {
        (0..n).fold(Health::default(), |health, _| weigh(health, Seen::Failed { first: true }, START).0)
    }

    #[test]
    fn every_step_is_told_once_and_at_its_time() {
        let mut health = failing(20);
        assert_eq!(health, Health { failing_since: Some(START), failed: 20, told: Told::Nothing });
        for (at, notice) in [
            (23, None),
            (24, Some(Notice::Failing)),
            (25, None),
            (71, None),
            (72, Some(Notice::Failing)),
            (119, None),
            (120, Some(Notice::Disabled(Reason::Failing))),
            (121, None),
        ] {
            let (next, told) = weigh(health, Seen::Failed { first: false }, hours(at));
            assert_eq!(told, notice, "after {at} hours");
            health = next;
        }
        assert_eq!(weigh(health, Seen::Delivered, hours(122)), (Health::default(), Some(Notice::Recovered)));
    }

    #[test]
    fn few_failures_disable_nothing_however_long_they_last() {
        let (health, _) = weigh(failing(18), Seen::Failed { first: true }, hours(500));
        assert_eq!((health.failed, health.told), (19, Told::Day));
        let (health, notice) = weigh(health, Seen::Failed { first: false }, hours(501));
        assert_eq!((health.told, notice), (Told::ThreeDays, Some(Notice::Failing)));
        let (_, notice) = weigh(health, Seen::Failed { first: true }, hours(502));
        assert_eq!(notice, Some(Notice::Disabled(Reason::Failing)), "the twentieth");
    }

    #[test]
    fn a_success_begins_anew() {
        assert_eq!(weigh(failing(99), Seen::Delivered, hours(1)), (Health::default(), None));
        assert_eq!(weigh(Health::default(), Seen::Delivered, hours(1)), (Health::default(), None));
    }

    #[test]
    fn gone_is_disabled_at_once_and_told_once() {
        let (health, notice) = weigh(Health::default(), Seen::Gone { first: true }, START);
        assert_eq!(health, Health { failing_since: Some(START), failed: 1, told: Told::Disabled });
        assert_eq!(notice, Some(Notice::Disabled(Reason::Gone)));
        let (health, notice) = weigh(health, Seen::Gone { first: true }, hours(1));
        assert_eq!((health.failing_since, health.failed, notice), (Some(START), 2, None));
    }

    #[test]
    fn what_is_stored_is_read_again() {
        for told in [Told::Nothing, Told::Day, Told::ThreeDays, Told::Disabled] {
            assert_eq!(Told::from_word(told.as_str()), Some(told));
        }
        assert_eq!(Told::from_word(""), None);
    }

    proptest! {
        /// Whatever happens, it is disabled only after 120 hours without a success and 20 failed deliveries.
        #[test]
        fn nothing_is_disabled_early(steps in prop::collection::vec((0..20u8, 0..30u64), 1..200)) {
            let (mut health, mut now, mut since, mut failed) = (Health::default(), START, None, 0);
            for (step, wait) in steps {
                now = now.plus(Duration::from_secs(wait * 3600));
                let seen = if step == 0 { Seen::Delivered } else { Seen::Failed { first: step % 2 == 1 } };
                let (next, notice) = weigh(health, seen, now);
                match seen {
                    Seen::Delivered => (since, failed) = (None, 0),
                    Seen::Failed { first } | Seen::Gone { first } => {
                        since = since.or(Some(now));
                        failed += u32::from(first);
                    }
                }
                let long = since.is_some_and(|s| now.since(s) >= DISABLED);
                let due = long && failed >= FAILED && health.told < Told::Disabled;
                prop_assert_eq!(notice == Some(Notice::Disabled(Reason::Failing)), due);
                health = next;
            }
        }
    }
}
