//! Holds back who polls one job far too often. In memory, per node, bounded.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::types::{JobId, Millis};

/// Entries kept; beyond them the past is forgotten, which only ever lets through.
const ENTRIES: usize = 16_384;

/// A bucket of one second's polls for each reader and job.
pub struct Pace {
    per_second: Option<u32>,
    buckets: Mutex<HashMap<(u64, JobId), (f64, Millis)>>,
}

impl Pace {
    /// `per_second` polls are taken, as a burst too. None takes all.
    pub fn new(per_second: Option<u32>) -> Pace {
        Pace { per_second, buckets: Mutex::default() }
    }

    /// Whether `reader` may ask for `job` now.
    pub fn allows(&self, reader: u64, job: JobId, now: Millis) -> bool {
        let Some(rate) = self.per_second.map(f64::from) else { return true };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= ENTRIES {
            buckets.clear();
        }
        let (left, at) = buckets.entry((reader, job)).or_insert((rate, now));
        *left = (*left + now.since(*at).as_secs_f64() * rate).min(rate);
        *at = now;
        let allowed = *left >= 1.0;
        if allowed {
            *left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_held_back_for_its_own_reader_and_job_alone() {
        let pace = Pace::new(Some(10));
        let job = |n| JobId::mint(Millis(0), [n; 10]);
        let at = Millis(1_000_000);
        assert_eq!((0..15).filter(|_| pace.allows(1, job(1), at)).count(), 10);
        assert!(pace.allows(2, job(1), at) && pace.allows(1, job(2), at));
        assert!(!pace.allows(1, job(1), at));
        assert!(pace.allows(1, job(1), Millis(at.0 + 100)), "a tenth of a second gives one back");
        assert!(Pace::new(None).allows(1, job(1), at));
    }
}
