//! Learned estimates: how long a job of a type takes from submission to its end.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::types::TenantId;
use crate::types::job::{Job, JobState};

/// The last so many jobs of a type are remembered.
const SAMPLES: usize = 64;
/// The last so many types are remembered; forgetting one falls back to the default.
const TYPES: usize = 10_000;
/// Told before there is history, seconds.
pub(super) const DEFAULT_SECONDS: u32 = 30;

type Key = (TenantId, String);

/// The rolling median of wait plus run, per tenant and type.
#[derive(Default)]
pub(super) struct Estimates(Mutex<HashMap<Key, VecDeque<u32>>>);

impl Estimates {
    /// Takes an ended job into account. A schedule is no wait: `runAt` counts from its instant.
    pub(super) fn learn(&self, job: &Job) {
        let (JobState::Complete, Some(end)) = (job.state, job.ended_at) else { return };
        if !straight(job) {
            return;
        }
        let took = end.since(job.owed_from());
        let took = u32::try_from(took.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= TYPES {
            all.clear();
        }
        let samples = all.entry((job.tenant, job.kind.clone())).or_default();
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(took);
    }

    /// Whole seconds, at least 1.
    pub(super) fn get(&self, tenant: TenantId, kind: &str) -> u32 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(samples) = all.get(&(tenant, kind.to_owned())) else { return DEFAULT_SECONDS };
        let mut sorted: Vec<u32> = samples.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(DEFAULT_SECONDS)
    }
}

/// Whether the job surely went from its submission to its end without a retry by hand, which counts
/// the attempts anew and whose job may have lain for days: one event when it is queued, then two an attempt.
fn straight(job: &Job) -> bool {
    job.started_sequence == Some(2 * i64::from(job.attempt))
}
