//! What is measured, and what is told of many measured times.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// Half of them took no longer.
    pub p50_ms: f64,
    /// The same of 99 in a hundred.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Spread {
    /// Of at least one time.
    pub fn of(mut times: Vec<Duration>) -> Option<Spread> {
        times.sort_unstable();
        // The nearest rank: a time that was measured, and the longest of few.
        let rank = |percent: usize| times.get((times.len() * percent).div_ceil(100).max(1) - 1).map(ms);
        Some(Spread { p50_ms: rank(50)?, p99_ms: rank(99)?, max_ms: rank(100)? })
    }

    /// In words.
    pub fn said(&self) -> String {
        format!("p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", self.p50_ms, self.p99_ms, self.max_ms)
    }
}

/// Since a moment that all processes of this machine share.
pub fn moment() -> Duration {
    let t = clock_gettime(ClockId::Monotonic);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// The same in microseconds, as bodies carry it.
pub fn micros() -> u64 {
    u64::try_from(moment().as_micros()).unwrap_or(u64::MAX)
}

/// The value of a counter in OpenMetrics text; 0 if it is not there yet.
pub fn counter(metrics: &str, name: &str) -> f64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    metrics.lines().find_map(value).unwrap_or(0.0)
}

/// How many attempts came to that verdict, in OpenMetrics text.
pub fn verdicts(metrics: &str, word: &str) -> f64 {
    counter(metrics, &format!("ringback_delivery_verdicts_total{{word=\"{word}\"}}"))
}

/// All counters together whose name begins so and whose labels hold `part`.
pub fn sum(metrics: &str, begin: &str, part: &str) -> f64 {
    let ours = metrics.lines().filter(|line| line.starts_with(begin) && line.contains(part));
    ours.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Bytes as people read them.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// With two places behind the point.
fn ms(time: &Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_whole_name() {
        let text = "a_total_more 9\na_total{x=\"y\"} 3\na_total 2\n";
        assert_eq!(counter(text, "a_total{x=\"y\"}"), 3.0);
        assert_eq!(counter(text, "a_total"), 2.0);
        assert_eq!(counter(text, "b_total"), 0.0);
    }

    #[test]
    fn counters_are_added_up_by_a_part_of_their_labels() {
        let text = "a_total{r=\"/x/claim\",s=\"200\"} 3\na_total{r=\"/x/claim\",s=\"429\"} 2\na_total{r=\"/y\"} 9\nb_total{r=\"/x/claim\"} 1\n";
        assert_eq!(sum(text, "a_total{", "/claim"), 5.0);
    }

    #[test]
    fn a_spread_is_made_of_times_that_were_measured() {
        let of = |times: &[u64]| Spread::of(times.iter().copied().map(Duration::from_millis).collect());
        let spread = |p50_ms, p99_ms, max_ms| Some(Spread { p50_ms, p99_ms, max_ms });
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7]), spread(7.0, 7.0, 7.0));
        assert_eq!(of(&[3, 1, 2]), spread(2.0, 3.0, 3.0));
        assert_eq!(of(&(1..=200).collect::<Vec<_>>()), spread(100.0, 198.0, 200.0));
    }
}
