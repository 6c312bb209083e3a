//! When to try again: the retry policy and what a receiver's `Retry-After` says.

use std::time::{Duration, Instant, SystemTime};

use backoff::backoff::Backoff;
use backoff::exponential::ExponentialBackoff;
use serde::{Deserialize, Serialize};

use super::Millis;

/// The most attempts a policy may ask for.
const ATTEMPTS_MAX: u32 = 100;
/// The longest a single delay may be, in seconds (one day).
const SECONDS_MAX: u32 = 86_400;
/// Jitter adds up to this part of a delay ...
const JITTER: f64 = 0.25;
/// ... and never more than this.
const JITTER_MAX: Duration = Duration::from_secs(15 * 60);

/// Exponential retries: `initialSeconds * factor^(n-1)` after the n-th attempt, at most `maxSeconds`.
///
/// The default takes 14 attempts in about 80 hours: it outlives a weekend.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", from = "Draft", deny_unknown_fields)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included.
    #[schema(required = false, default = 14, minimum = 1, maximum = 100)]
    pub max_attempts: u32,
    /// Seconds before the second attempt.
    #[schema(required = false, default = 5, minimum = 1, maximum = 86_400)]
    pub initial_seconds: u32,
    /// By how much each delay is longer than the one before.
    #[schema(required = false, default = 4.0, minimum = 1, maximum = 10)]
    pub factor: f64,
    /// The longest delay, in seconds, before jitter.
    #[schema(required = false, default = 43_200, minimum = 1, maximum = 86_400)]
    pub max_seconds: u32,
}

/// The JSON form: a member that is left out or `null` takes its default.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Draft {
    max_attempts: Option<u32>,
    initial_seconds: Option<u32>,
    factor: Option<f64>,
    max_seconds: Option<u32>,
}

impl From<Draft> for RetryPolicy {
    fn from(draft: Draft) -> Self {
        let usual = RetryPolicy::default();
        let max_seconds = draft.max_seconds.unwrap_or(usual.max_seconds);
        RetryPolicy {
            max_attempts: draft.max_attempts.unwrap_or(usual.max_attempts),
            // A short maxSeconds alone is a whole wish: the usual first delay must not contradict it.
            initial_seconds: draft.initial_seconds.unwrap_or(usual.initial_seconds.min(max_seconds)),
            factor: draft.factor.unwrap_or(usual.factor),
            max_seconds,
        }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy { max_attempts: 14, initial_seconds: 5, factor: 4.0, max_seconds: 43_200 }
    }
}

/// A clock that stands still: only the series is wanted, elapsed time is the store's business.
struct Frozen(Instant);

impl backoff::Clock for Frozen {
    fn now(&self) -> Instant {
        self.0
    }
}

impl RetryPolicy {
    /// The contract's own, of which nothing need be kept: no setting changes it. A release that did would have to write the old
    /// one into what is stored.
    pub fn is_usual(&self) -> bool {
        *self == RetryPolicy::default()
    }

    /// Checks the ranges; the error names the JSON member and says what it must be.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let initial = self.initial_seconds;
        if !(1..=ATTEMPTS_MAX).contains(&self.max_attempts) {
            Err(("maxAttempts", format!("must be between 1 and {ATTEMPTS_MAX}")))
        } else if !(1..=SECONDS_MAX).contains(&initial) {
            Err(("initialSeconds", format!("must be between 1 and {SECONDS_MAX}")))
        } else if !(1.0..=10.0).contains(&self.factor) {
            Err(("factor", "must be between 1 and 10".to_owned()))
        } else if !(initial..=SECONDS_MAX).contains(&self.max_seconds) {
            Err(("maxSeconds", format!("must be between initialSeconds ({initial}) and {SECONDS_MAX}")))
        } else {
            Ok(())
        }
    }

    /// The time to wait after `attempt` attempts that count (1..); `None` once they are spent.
    ///
    /// `roll` in `[0, 1)` places the delay in its jitter band, which only ever adds.
    pub fn delay(&self, attempt: u32, roll: f64) -> Option<Duration> {
        (1..self.max_attempts).contains(&attempt).then(|| self.interval(attempt, roll))
    }

    /// Like [`RetryPolicy::delay`], for outcomes that spend no attempt: never exhausted.
    pub(super) fn interval(&self, attempt: u32, roll: f64) -> Duration {
        let base = self.base(attempt);
        base + base.mul_f64(JITTER * roll.clamp(0.0, 1.0)).min(JITTER_MAX)
    }

    /// The delay before jitter, in whole milliseconds.
    fn base(&self, attempt: u32) -> Duration {
        let initial = Duration::from_secs(self.initial_seconds.into());
        let cap = Duration::from_secs(self.max_seconds.into());
        #[allow(clippy::disallowed_methods, reason = "the type wants an instant; it is never compared")]
        let still = Instant::now();
        let mut series = ExponentialBackoff {
            current_interval: initial,
            initial_interval: initial,
            // The crate's own dice cannot be handed in, so its jitter stays off.
            randomization_factor: 0.0,
            multiplier: self.factor,
            max_interval: cap,
            max_elapsed_time: None,
            start_time: still,
            clock: Frozen(still),
        };
        let mut delay = initial;
        for _ in 0..attempt.min(ATTEMPTS_MAX) {
            delay = series.next_backoff().unwrap_or(cap);
            if delay >= cap {
                break;
            }
        }
        // Even without jitter the crate adds up to a nanosecond of its dice; whole milliseconds hide it.
        Duration::from_millis(u64::try_from(delay.min(cap).as_millis()).unwrap_or(u64::MAX))
    }
}

/// The `Retry-After` response header (RFC 9110, 10.2.3).
pub struct RetryAfter;

impl RetryAfter {
    /// The longest pause a receiver may ask for.
    pub const MAX: Duration = Duration::from_secs(24 * 3_600);

    /// Seconds or an HTTP date, counted from `now` and held at [`RetryAfter::MAX`]; `None` for anything else.
    pub fn parse(value: &[u8], now: Millis) -> Option<Duration> {
        let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
        if text.is_empty() || text.len() > 64 {
            return None;
        }
        let wait = if text.bytes().all(|b| b.is_ascii_digit()) {
            // More digits than u64 holds still mean "very long".
            Duration::from_secs(text.parse().unwrap_or(u64::MAX))
        } else {
            let at = httpdate::parse_http_date(text).ok()?;
            let now = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(now.0).ok()?);
            at.duration_since(now).unwrap_or(Duration::ZERO)
        };
        Some(wait.min(Self::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Millis = Millis(1_767_225_600_000);

    fn series(policy: &RetryPolicy) -> Vec<u64> {
        (1..).map_while(|n| policy.delay(n, 0.0)).map(|d| d.as_secs()).collect()
    }

    #[test]
    fn the_default_takes_fourteen_attempts_in_eighty_hours() {
        let delays = series(&RetryPolicy::default());
        assert_eq!(delays[..8], [5, 20, 80, 320, 1_280, 5_120, 20_480, 43_200]);
        assert_eq!(delays.len(), 13);
        assert_eq!(delays.iter().sum::<u64>() / 3_600, 79);
    }

    #[test]
    fn other_policies() {
        let flat = RetryPolicy { max_attempts: 4, initial_seconds: 7, factor: 1.0, max_seconds: 7 };
        assert_eq!(series(&flat), [7, 7, 7]);
        let once = RetryPolicy { max_attempts: 1, ..flat };
        assert_eq!(series(&once), [0; 0]);
        assert_eq!(flat.delay(0, 0.0), None);
        assert_eq!(flat.delay(u32::MAX, 0.0), None);
    }

    #[test]
    fn jitter_only_adds_and_is_capped() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.delay(1, 0.5), Some(Duration::from_millis(5_625)));
        assert_eq!(policy.delay(13, 0.999_999), Some(Duration::from_secs(43_200 + 900)));
    }

    #[test]
    fn members_left_out_or_null_take_their_default() {
        let read = |s| serde_json::from_str::<RetryPolicy>(s);
        assert_eq!(read("{}").unwrap(), RetryPolicy::default());
        assert_eq!(read(r#"{"maxAttempts":3,"factor":null}"#).unwrap().max_attempts, 3);
        assert!(read(r#"{"attempts":3}"#).is_err());
        assert!(read(r#"{"maxAttempts":-3}"#).is_err());
        let text = serde_json::to_string(&RetryPolicy::default()).unwrap();
        assert_eq!(read(&text).unwrap(), RetryPolicy::default());
    }

    #[test]
    fn the_schema_says_what_is_optional() {
        use utoipa::PartialSchema;
        let schema = serde_json::to_value(RetryPolicy::schema()).unwrap();
        assert_eq!(schema["required"], serde_json::Value::Null, "{schema}");
        assert_eq!(schema["additionalProperties"], false, "{schema}");
        assert_eq!(schema["properties"]["maxAttempts"]["default"], 14, "{schema}");
        assert_eq!(schema["properties"]["maxSeconds"]["maximum"], 86_400, "{schema}");
    }

    #[test]
    fn ranges() {
        let ok = RetryPolicy::default();
        assert_eq!(ok.check(), Ok(()));
        for (policy, member) in [
            (RetryPolicy { max_attempts: 0, ..ok }, "maxAttempts"),
            (RetryPolicy { max_attempts: 101, ..ok }, "maxAttempts"),
            (RetryPolicy { initial_seconds: 0, ..ok }, "initialSeconds"),
            (RetryPolicy { initial_seconds: 86_401, ..ok }, "initialSeconds"),
            (RetryPolicy { factor: 0.99, ..ok }, "factor"),
            (RetryPolicy { factor: 10.1, ..ok }, "factor"),
            (RetryPolicy { factor: f64::NAN, ..ok }, "factor"),
            (RetryPolicy { max_seconds: 4, ..ok }, "maxSeconds"),
            (RetryPolicy { max_seconds: 86_401, ..ok }, "maxSeconds"),
        ] {
            assert_eq!(policy.check().unwrap_err().0, member);
        }
    }

    #[test]
    fn retry_after_in_seconds_and_all_three_date_forms() {
        let secs = |v: &str| RetryAfter::parse(v.as_bytes(), NOW).map(|d| d.as_secs());
        for (value, want) in [
            ("0", 0),
            ("120", 120),
            (" 7\t", 7),
            ("007", 7),
            ("86400", 86_400),
            ("86401", 86_400),
            ("18446744073709551615", 86_400),
            ("99999999999999999999999999", 86_400),
            ("Thu, 01 Jan 2026 00:01:00 GMT", 60),
            ("Thursday, 01-Jan-26 00:01:00 GMT", 60),
            ("Thu Jan  1 00:01:00 2026", 60),
            ("Wed, 31 Dec 2025 23:59:59 GMT", 0),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
        ] {
            assert_eq!(secs(value), Some(want), "{value}");
        }
    }

    #[test]
    fn odd_retry_after_values_are_ignored() {
        let long = "9".repeat(10_240);
        let odd: [&[u8]; 50] = [
            b"",
            b" ",
            b"\t",
            b"inf",
            b"Infinity",
            b"-inf",
            b"NaN",
            b"nan",
            b"-5",
            b"+5",
            b"-0",
            b"1e300",
            b"1e3",
            b"9e15",
            b"1.5",
            b".5",
            b"5.",
            b"0x10",
            b"1_000",
            b"1,000",
            b"1 000",
            b"5s",
            b"5 seconds",
            b"PT5S",
            b"soon",
            b"never",
            b"null",
            b"true",
            b"[5]",
            b"{}",
            b"\"5\"",
            b"5;",
            b"5, 6",
            b"\xff\xfe",
            b"\xe2\x88\x9e",
            "٥".as_bytes(),
            b"5\0",
            b"\r\n5",
            b"2026-01-01T00:00:00Z",
            b"Thu, 01 Jan 2026",
            b"Thu, 01 Jan 2026 00:00:00",
            b"Thu, 01 Jan 2026 00:00:00 CET",
            b"Thu, 32 Jan 2026 00:00:00 GMT",
            b"Thu, 01 Foo 2026 00:00:00 GMT",
            b"Thu, 01 Jan 2026 25:00:00 GMT",
            b"Thu, 01 Jan 99999 00:00:00 GMT",
            b"Thu, 01 Jan 0000 00:00:00 GMT",
            b"Thu, 30 Feb 2026 00:00:00 GMT",
            b"00000000000000000000000000000000000000000000000000000000000000000005",
            long.as_bytes(),
        ];
        for value in odd {
            assert_eq!(RetryAfter::parse(value, NOW), None, "{:?}", String::from_utf8_lossy(value));
        }
    }

    proptest! {
        #[test]
        fn delays_stay_in_their_band_and_never_shrink(
            max_attempts in 2u32..=100, initial in 1u32..=86_400, more in 0u32..=86_400,
            factor in 1.0f64..=10.0, n in 1u32..=99, roll in 0.0f64..1.0,
        ) {
            let max_seconds = initial.saturating_add(more).min(86_400);
            let policy = RetryPolicy { max_attempts, initial_seconds: initial, factor, max_seconds };
            prop_assert_eq!(policy.check(), Ok(()));
            prop_assert_eq!(policy.delay(n, roll).is_some(), n < max_attempts);
            let base = policy.base(n);
            let exact = f64::from(initial) * factor.powi(n as i32 - 1);
            prop_assert!((base.as_secs_f64() - exact.min(f64::from(max_seconds))).abs() <= 0.002 + exact.min(1e5) * 1e-9);
            let got = policy.interval(n, roll);
            prop_assert!(got >= base && got <= base + base.mul_f64(0.25).min(JITTER_MAX));
            prop_assert!(policy.base(n + 1) >= base);
            prop_assert_eq!(got, policy.interval(n, roll));
        }

        #[test]
        fn retry_after_never_panics(value: Vec<u8>, now: i64) {
            if let Some(wait) = RetryAfter::parse(&value, Millis(now)) {
                prop_assert!(wait <= RetryAfter::MAX);
            }
        }
    }
}
