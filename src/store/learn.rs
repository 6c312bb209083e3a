//! What the last jobs told: how long a type takes, and how long a queue's jobs wait and run.
//!
//! Each node remembers what it saw and adds it to the store every few seconds, so that neither a restart nor
//! a second node loses it. The window is a number of jobs, never a time: a rare type keeps its history.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Store;
use super::batch::{Col, Sql};
use super::error::Result;
use crate::args;
use crate::metrics::Metrics;
use crate::types::job::{Job, JobState, WorkerKind};
use crate::types::{Millis, TenantId, submit};

/// The last so many jobs of a type are remembered.
const OF_TYPE: usize = 64;
/// The last so many jobs of a queue.
const OF_QUEUE: usize = 256;
/// Types and queues remembered at once; beyond them nothing new is learned until what is known was saved.
const REMEMBERED: usize = 10_000;
/// Told before there is history, seconds.
const DEFAULT_SECONDS: u32 = 30;
/// So long a node goes by what it read; what other nodes learned reaches it then.
const BELIEVED: Duration = Duration::from_secs(10);
/// An estimate is not worth a longer wait for the store.
const READ_WITHIN: Duration = Duration::from_millis(250);
/// Rows of one save.
const BITE: usize = 500;

/// What a number tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum What {
    /// Of a type: seconds from being owed to the end.
    Type,
    /// Of a queue: milliseconds from being owed to the beginning.
    Wait,
    /// Of a queue: milliseconds of an attempt that ended the job.
    Run,
}

impl What {
    const fn as_str(self) -> &'static str {
        match self {
            What::Type => "type",
            What::Wait => "wait",
            What::Run => "run",
        }
    }

    const fn window(self) -> usize {
        match self {
            What::Type => OF_TYPE,
            What::Wait | What::Run => OF_QUEUE,
        }
    }
}

type Key = (TenantId, What, String);

#[derive(Default)]
struct Entry {
    /// As the store had it, and what this node has added since.
    known: Vec<u32>,
    read_at: Option<Millis>,
    /// Not in the store yet.
    fresh: Vec<u32>,
}

/// What this node saw and has not saved, and what it lately read. Bounded.
#[derive(Default)]
pub(super) struct Learned(Mutex<HashMap<Key, Entry>>);

/// What there is to learn from a job that has ended. A schedule is no wait: `runAt` counts from its instant.
pub(super) struct Ended {
    tenant: TenantId,
    queue: String,
    kind: String,
    state: JobState,
    ran: Option<Duration>,
    waited: Option<Duration>,
    took: Option<Duration>,
}

impl Ended {
    pub(super) fn of(job: &Job) -> Ended {
        let did = matches!(job.state, JobState::Complete | JobState::Failed);
        let times = job.started_at.zip(job.ended_at).filter(|_| did);
        let at_once = times.filter(|_| straight(job));
        let first = at_once.filter(|_| job.attempt == 1 && job.worker == WorkerKind::Pull);
        let complete = at_once.filter(|_| job.state == JobState::Complete);
        Ended {
            tenant: job.tenant,
            queue: job.queue.clone(),
            kind: job.kind.clone(),
            state: job.state,
            ran: times.map(|(start, end)| end.since(start)),
            waited: first.map(|(start, _)| start.since(job.owed_from())),
            took: complete.map(|(_, end)| end.since(job.owed_from())),
        }
    }
}

impl Learned {
    /// Counts an ended job and takes it into account.
    pub(super) fn learn(&self, job: &Ended, metrics: &Metrics) {
        metrics.ended(job.state.as_str());
        if let Some(ran) = job.ran {
            self.add(job.tenant, What::Run, &job.queue, millis(ran));
            metrics.ran(ran);
        }
        if let Some(waited) = job.waited {
            self.add(job.tenant, What::Wait, &job.queue, millis(waited));
            metrics.waited(waited);
        }
        if let Some(took) = job.took {
            let seconds = took.as_millis().div_ceil(1000);
            self.add(job.tenant, What::Type, &job.kind, u32::try_from(seconds).unwrap_or(u32::MAX).max(1));
        }
    }

    fn add(&self, tenant: TenantId, what: What, name: &str, sample: u32) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED {
            all.retain(|_, entry| !entry.fresh.is_empty());
        }
        let key = (tenant, what, name.to_owned());
        if all.len() < REMEMBERED || all.contains_key(&key) {
            append(&mut all.entry(key).or_default().fresh, &[sample], what.window());
        }
    }

    /// Whether it is time to ask the store again; true for one caller at a time.
    fn stale(&self, key: &Key, now: Millis) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED {
            all.retain(|_, entry| !entry.fresh.is_empty());
        }
        if all.len() >= REMEMBERED && !all.contains_key(key) {
            return false;
        }
        let entry = all.entry(key.clone()).or_default();
        let stale = entry.read_at.is_none_or(|at| now < at || now.since(at) >= BELIEVED);
        if stale {
            entry.read_at = Some(now);
        }
        stale
    }

    fn was_read(&self, key: &Key, known: Vec<u32>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = all.get_mut(key) {
            entry.known = known;
        }
    }

    /// The newest of `known` with what this node has not saved yet.
    fn with_fresh(&self, key: &Key, mut known: Vec<u32>) -> Vec<u32> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = all.get(key) {
            append(&mut known, &entry.fresh, key.1.window());
        }
        known
    }

    /// The tenant's queues with something that is not saved yet.
    pub(super) fn queues(&self, tenant: TenantId) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unsaved = all.iter().filter(|(_, entry)| !entry.fresh.is_empty());
        let of_tenant = unsaved.filter(|((of, what, _), _)| *of == tenant && *what == What::Run);
        of_tenant.map(|((_, _, name), _)| name.clone()).collect()
    }

    /// Whole seconds, at least 1.
    fn estimate(&self, key: &Key) -> u32 {
        let known = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(key).map(|entry| entry.known.clone()).unwrap_or_default()
        };
        let mut samples = self.with_fresh(key, known);
        samples.sort_unstable();
        samples.get(samples.len() / 2).copied().unwrap_or(DEFAULT_SECONDS)
    }

    /// What is to be saved; from now on it counts as known.
    fn take(&self) -> Vec<(Key, Vec<u32>)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unsaved = all.iter_mut().filter(|(_, entry)| !entry.fresh.is_empty()).take(BITE);
        let mut taken: Vec<_> = unsaved
            .map(|(key, entry)| {
                let fresh = std::mem::take(&mut entry.fresh);
                append(&mut entry.known, &fresh, key.1.window());
                (key.clone(), fresh)
            })
            .collect();
        taken.sort();
        taken
    }

    /// It was not saved.
    fn give_back(&self, taken: Vec<(Key, Vec<u32>)>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, mut older) in taken {
            let window = key.1.window();
            let entry = all.entry(key).or_default();
            append(&mut older, &entry.fresh, window);
            entry.fresh = older;
            entry.read_at = None;
        }
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// Whether the job surely went from its submission to its end without a retry by hand, which counts
/// the attempts anew and whose job may have lain for days: one event when it is queued, then two an attempt.
fn straight(job: &Job) -> bool {
    job.started_sequence == Some(2 * i64::from(job.attempt))
}

/// Adds what is newer, and forgets the oldest beyond the window.
fn append(samples: &mut Vec<u32>, newer: &[u32], window: usize) {
    samples.extend_from_slice(newer);
    samples.drain(..samples.len().saturating_sub(window));
}

fn parse(text: &str) -> Vec<u32> {
    text.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
}

fn text(samples: &[u32]) -> String {
    samples.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

/// The value below which `percent` of the samples lie (nearest rank).
fn percentile(sorted: &[u32], percent: usize) -> Option<u32> {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

const ONE: &str = "SELECT samples FROM learned WHERE tenant_id = $1 AND what = 'type' AND name = $2";

static PREPARE: Sql = Sql::batch(
    "INSERT INTO learned (tenant_id, what, name, samples, updated_at)
     SELECT b.tenant_id, b.what, b.name, '', $1 FROM {b}
     WHERE true  -- in one order, so that two nodes cannot deadlock
     ORDER BY b.tenant_id, b.what, b.name
     ON CONFLICT (tenant_id, what, name) DO NOTHING",
    1,
    &[("tenant_id", Col::Uuid), ("what", Col::Text), ("name", Col::Text)],
);
static LOCK: Sql = Sql::batch(
    "SELECT q.tenant_id, q.what, q.name, q.samples
     FROM {b} JOIN learned q ON q.tenant_id = b.tenant_id AND q.what = b.what AND q.name = b.name
     ORDER BY q.tenant_id, q.what, q.name {wait}",
    0,
    &[("tenant_id", Col::Uuid), ("what", Col::Text), ("name", Col::Text)],
);
static SAVE: Sql = Sql::batch(
    "UPDATE learned SET samples = b.samples, updated_at = $1
     FROM {b} WHERE learned.tenant_id = b.tenant_id AND learned.what = b.what AND learned.name = b.name",
    1,
    &[("tenant_id", Col::Uuid), ("what", Col::Text), ("name", Col::Text), ("samples", Col::Text)],
);

impl Store {
    /// As [`Store::estimate`], of what this node remembers: for who cannot wait for the store.
    pub fn remembered_estimate(&self, tenant: TenantId, kind: &str) -> u32 {
        self.0.learned.estimate(&(tenant, What::Type, kind.to_owned()))
    }

    /// Learned wait plus run of a type, seconds; 30 before there is history, and where the store is silent.
    pub async fn estimate(&self, tenant: TenantId, kind: &str, now: Millis) -> u32 {
        // What is no type has no jobs, and is not kept in mind: a client may write it at any length.
        if submit::kind(kind).is_err() {
            return DEFAULT_SECONDS;
        }
        let key = (tenant, What::Type, kind.to_owned());
        if self.0.learned.stale(&key, now) {
            let read = self.read(ONE, args![tenant, kind]);
            if let Ok(Ok(rows)) = tokio::time::timeout(READ_WITHIN, read).await {
                let known = rows.first().and_then(|row| row.text(0).ok()).unwrap_or_default();
                self.0.learned.was_read(&key, parse(&known));
            }
        }
        self.0.learned.estimate(&key)
    }

    /// Adds what this node has learned to what the store knows; gives how many rows that were.
    pub async fn save_learned(&self, now: Millis) -> Result<usize> {
        let taken = self.0.learned.take();
        let saved = self.add_learned(&taken, now).await;
        if saved.is_err() {
            self.0.learned.give_back(taken);
            return saved.map(|()| 0);
        }
        Ok(taken.len())
    }

    async fn add_learned(&self, taken: &[(Key, Vec<u32>)], now: Millis) -> Result<()> {
        if taken.is_empty() {
            return Ok(());
        }
        let keys =
            || taken.iter().map(|((t, what, name), _)| args![*t, what.as_str(), name.as_str()]).collect();
        let mut tx = self.0.writers.begin().await?;
        tx.batch(&PREPARE, args![now], keys()).await?;
        let mut before = HashMap::new();
        for row in tx.batch(&LOCK, vec![], keys()).await? {
            before.insert((row.id(0)?, row.text(1)?, row.text(2)?), parse(&row.text(3)?));
        }
        let merged = |((tenant, what, name), fresh): &(Key, Vec<u32>)| {
            let place = (*tenant, what.as_str().to_owned(), name.clone());
            let mut samples = before.remove(&place).unwrap_or_default();
            append(&mut samples, fresh, what.window());
            args![*tenant, what.as_str(), name.as_str(), text(&samples)]
        };
        let rows = taken.iter().map(merged).collect();
        tx.batch(&SAVE, args![now], rows).await?;
        tx.commit().await
    }

    /// p50 and p95 of wait and of run, milliseconds: what the store has of a queue and what this node adds to it.
    pub(super) fn percentiles(&self, tenant: TenantId, queue: &str, stored: [&str; 2]) -> [Option<u32>; 4] {
        let of = |what, stored| {
            let mut samples = self.0.learned.with_fresh(&(tenant, what, queue.to_owned()), parse(stored));
            samples.sort_unstable();
            [50, 95].map(|percent| percentile(&samples, percent))
        };
        let ([w50, w95], [r50, r95]) = (of(What::Wait, stored[0]), of(What::Run, stored[1]));
        [w50, w95, r50, r95]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_keeps_the_newest_and_percentiles_are_of_what_happened() {
        let mut samples = Vec::new();
        append(&mut samples, &(0..300).collect::<Vec<_>>(), OF_QUEUE);
        assert_eq!((samples.len(), samples[0], samples[255]), (256, 44, 299));
        assert_eq!(parse(&text(&samples)), samples);
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 95)), (Some(50), Some(95)));
        assert_eq!(
            (percentile(&[7], 50), percentile(&[7], 95), percentile(&[], 50)),
            (Some(7), Some(7), None)
        );
    }
}
