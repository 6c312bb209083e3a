//! Random lives of jobs: whatever happens, the history has no gap and no repeat, and the invariants hold.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use ringback::store::What;
use ringback::types::api::ClaimedJob;
use ringback::types::job::JobEvent;
use ringback::types::{JobId, Millis};

use crate::support::store::{Bed, both_stores, callback, cancel, complete, failure, heartbeat, release};

both_stores! { random_lives_leave_whole_histories }

#[derive(Debug, Clone)]
enum Step {
    Submit { wants: i64, deadline: Option<u8>, attempts: u32 },
    Lease(u32),
    Report { which: usize, report: u8 },
    Cancel(usize),
    Retry(usize),
    Pass(u8),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..256i64, proptest::option::of(1..200u8), 1..4u32)
            .prop_map(|(wants, deadline, attempts)| Step::Submit { wants, deadline, attempts }),
        4 => (1..4u32).prop_map(Step::Lease),
        6 => (0..8usize, 0..6u8).prop_map(|(which, report)| Step::Report { which, report }),
        1 => (0..8usize).prop_map(Step::Cancel),
        2 => (0..8usize).prop_map(Step::Retry),
        4 => (0..120u8).prop_map(Step::Pass),
        2 => Just(Step::Sweep),
    ]
}

/// What a test remembers: every job and every lease ever given, the dead ones too.
#[derive(Default)]
struct Life {
    jobs: Vec<JobId>,
    leases: Vec<ClaimedJob>,
    seen: HashMap<(JobId, i64), String>,
}

impl Life {
    async fn take(&mut self, bed: &Bed, step: Step) {
        match step {
            Step::Submit { wants, deadline, attempts } => {
                let new = bed.job_with(|j| {
                    j.max_attempts = attempts;
                    j.deadline_at = deadline.map(|s| Millis(bed.now().0 + i64::from(s) * 1_000));
                    j.callback = Some(callback("https://hooks.example.com/a"));
                    j.callback.as_mut().unwrap().wants = wants;
                });
                self.jobs.push(bed.submit(new).await.job.id);
            }
            Step::Lease(max) => self.leases.extend(bed.lease(max).await),
            Step::Report { which, report } => {
                let what = match report {
                    0 => complete(),
                    1 => failure(true),
                    2 => failure(false),
                    3 => release(u32::from(report)),
                    n => heartbeat(Some(n + u8::try_from(which).unwrap())),
                };
                if let Some(lease) = self.leases.iter().rev().nth(which) {
                    let _ = bed.held(lease, what).await;
                }
            }
            Step::Cancel(which) => self.owner(bed, which, cancel()).await,
            Step::Retry(which) => self.owner(bed, which, What::Retry).await,
            Step::Pass(seconds) => bed.pass_seconds(u64::from(seconds)),
            Step::Sweep => drop(bed.store.end_overdue(bed.now()).await.unwrap()),
        }
    }

    async fn owner(&self, bed: &Bed, which: usize, what: What) {
        if let Some(id) = self.jobs.iter().rev().nth(which) {
            let _ = bed.owner(*id, what).await;
        }
    }

    /// What was told once is told the same for ever, and nothing appears behind it.
    async fn look(&mut self, bed: &Bed) {
        for id in self.jobs.iter().rev().take(3) {
            let job = bed.get(*id).await;
            for event in bed.store.job_events(bed.tenant, *id, 0, 500, bed.now()).await.unwrap() {
                let told = format!("{} at {}", event.kind, event.timestamp);
                let before = self.seen.entry((*id, event.sequence)).or_insert_with(|| told.clone());
                assert_eq!(*before, told, "{job:?}");
            }
        }
    }
}

async fn random_lives_leave_whole_histories(bed: &Bed) {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[11; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    for _ in 0..12 {
        let steps = proptest::collection::vec(step(), 40).new_tree(&mut runner).unwrap().current();
        let mut life = Life::default();
        for (i, step) in steps.into_iter().enumerate() {
            life.take(bed, step).await;
            if i % 8 == 7 {
                life.look(bed).await;
            }
        }
        pages_agree(bed, &life).await;
        receivers_agree(bed, &life).await;
    }
    // `sound` now reads every history from its first event to its last.
}

/// Read in pages of two, the history is the same.
async fn pages_agree(bed: &Bed, life: &Life) {
    for id in &life.jobs {
        let (whole, mut paged) = (bed.events(*id).await, Vec::new());
        loop {
            let after = paged.last().map_or(0, |(sequence, _): &(i64, String)| *sequence);
            let page = bed.store.job_events(bed.tenant, *id, after, 2, bed.now()).await.unwrap();
            if page.is_empty() {
                break;
            }
            paged.extend(page.into_iter().map(|e| (e.sequence, e.kind)));
        }
        assert_eq!(paged, whole);
    }
}

/// Each event that the callback asked for, and no other, has a delivery with a frozen body.
async fn receivers_agree(bed: &Bed, life: &Life) {
    let told = "SELECT d.job_id, b.body FROM deliveries d
                JOIN bodies b ON b.event_id = d.event_id AND b.variant = d.variant";
    let mut sent: HashMap<JobId, Vec<(i64, String)>> = HashMap::new();
    for row in bed.rows(told).await {
        let body: serde_json::Value = serde_json::from_str(&row.text(1).unwrap()).unwrap();
        let event = (body["sequence"].as_i64().unwrap(), body["type"].as_str().unwrap().to_owned());
        assert_eq!(body["data"]["sequence"], body["sequence"]);
        sent.entry(row.id(0).unwrap()).or_default().push(event);
    }
    for id in &life.jobs {
        let wants = bed.get(*id).await.callback().unwrap().unwrap().wants;
        let asked = |kind: &str| wants & JobEvent::from_word(kind).unwrap().bit() != 0;
        let wanted: Vec<_> = bed.events(*id).await.into_iter().filter(|(_, k)| asked(k)).collect();
        let mut sent = sent.remove(id).unwrap_or_default();
        sent.sort();
        assert_eq!(sent, wanted, "{id}");
    }
}
