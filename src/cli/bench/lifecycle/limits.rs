//! What the machine can do at best: the same rows written by the database alone, the same requests answered by
//! nobody in particular.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::Method;
use serde::Serialize;
use tokio::task::JoinSet;

use super::super::figures::{micros, moment};
use super::super::part::{self, Cpu, Part};
use super::super::receiver::Ready;
use super::super::wire::Wire;
use super::super::worker::{Claimed, acks};
use super::Pace;
use super::report::said;
use super::stage::{Stage, scratch_name};
use crate::app;
use crate::cli::print::Out;
use crate::store::bench::{Raw, Sample, Scratch};

/// The queue of the one job whose requests are measured; no worker claims from it.
const PROBE: &str = "probe";
/// Connections that claim, as `bench worker` has them.
const CLAIMERS: u32 = 2;

/// One of the two limits.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Limit {
    jobs_per_second: f64,
    cpu_micros_per_job: Cpu,
}

/// The limits as they were measured, and what a figure is of them.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// Before and after the run.
    store: Vec<Limit>,
    http: Vec<Limit>,
    /// If the machine did one after the other.
    sum_of_parts_jobs_per_second: f64,
    /// The figure by it.
    share: f64,
}

/// Measures them as often as it is asked.
pub struct Limits<'a> {
    stage: &'a Stage,
    pace: &'a Pace,
    jobs: u64,
    store: Vec<Limit>,
    http: Vec<Limit>,
}

/// A request and its answer.
struct Exchange {
    ask: Bytes,
    answer: usize,
    /// How many jobs one of them serves.
    jobs: f64,
    connections: u32,
}

impl<'a> Limits<'a> {
    /// With `jobs` jobs each time; 0 measures nothing.
    pub fn new(stage: &'a Stage, pace: &'a Pace, jobs: u64) -> Limits<'a> {
        Limits { stage, pace, jobs, store: Vec::new(), http: Vec::new() }
    }

    /// Measures both, while servers and workers rest.
    pub async fn measure(&mut self, jobs_per_claim: f64) -> anyhow::Result<()> {
        if self.jobs == 0 {
            return Ok(());
        }
        let sample = Sample::last(self.stage.store(), self.stage.whole()).await?;
        let exchanges = self.exchanges(sample.body_bytes(), jobs_per_claim.max(1.0)).await?;
        self.store.push(self.database(sample).await?);
        self.http.push(self.requests(exchanges).await?);
        Ok(())
    }

    /// What `jobs_per_second` is of the limits seen so far.
    pub fn share_of(self, jobs_per_second: f64) -> Option<Share> {
        let mean = |limits: &[Limit]| {
            let seconds: f64 = limits.iter().map(|limit| 1.0 / limit.jobs_per_second).sum();
            (!limits.is_empty()).then(|| limits.len() as f64 / seconds)
        };
        let (store, http) = (mean(&self.store)?, mean(&self.http)?);
        let sum = 1.0 / (1.0 / store + 1.0 / http);
        Some(Share {
            store: self.store,
            http: self.http,
            sum_of_parts_jobs_per_second: sum,
            share: jobs_per_second / sum,
        })
    }

    async fn database(&self, sample: Sample) -> anyhow::Result<Limit> {
        let scratch = Scratch::beside(self.stage.store(), &scratch_name()).await?;
        let raw = Raw::open(&scratch.url, sample).await?;
        let server = app::server_counts(self.stage.store()).await?.map(|counts| counts.pid);
        let cpu = || part::cpu(&[("driver", std::process::id())], server);
        // Caches and files grow first, and what SQLite has prepared.
        raw.write(usize::try_from(self.jobs / 10)?).await?;
        let (before, start) = (cpu()?, moment());
        raw.write(usize::try_from(self.jobs)?).await?;
        let limit = self.limit(&before, start, &cpu()?);
        drop(raw);
        scratch.remove().await?;
        Ok(limit)
    }

    async fn requests(&self, exchanges: Vec<Exchange>) -> anyhow::Result<Limit> {
        let (stub, ready): (Part, Ready) =
            Part::start("stub", &["bench", "stub"], &[], self.stage.dir()).await?;
        let pids = [("driver", std::process::id()), ("stub", stub.pid()?)];
        let mut connections = JoinSet::new();
        let (before, start) = (part::cpu(&pids, None)?, moment());
        for exchange in exchanges {
            let left = Arc::new(AtomicU64::new((self.jobs as f64 / exchange.jobs).ceil() as u64));
            for _ in 0..exchange.connections {
                let wire = Wire::open(&ready.listening, None).await?;
                let path = format!("/{}", exchange.answer);
                connections.spawn(repeat(wire, path, exchange.ask.clone(), Arc::clone(&left)));
            }
        }
        while let Some(ended) = connections.join_next().await {
            ended??;
        }
        let limit = self.limit(&before, start, &part::cpu(&pids, None)?);
        stub.stop().await?;
        Ok(limit)
    }

    fn limit(&self, before: &Cpu, start: Duration, after: &Cpu) -> Limit {
        let (jobs, took) = (self.jobs as f64, moment().saturating_sub(start));
        let cpu = part::used(before, after).into_iter().map(|(name, s)| (name, s * 1e6 / jobs));
        Limit { jobs_per_second: jobs / took.as_secs_f64(), cpu_micros_per_job: cpu.collect() }
    }

    /// The exchanges of a job, as one job makes them by hand.
    async fn exchanges(&self, callback: usize, per_claim: f64) -> anyhow::Result<Vec<Exchange>> {
        let before = self.stage.read().await?;
        let mut wire = self.stage.wire().await?;
        let posts = self.stage.jobs(usize::try_from(self.pace.payload_bytes)?);
        let submit = (posts.body)(0, micros());
        let probe = submit.replacen('{', &format!(r#"{{"queue":"{PROBE}","#), 1);
        let accepted = wire.must(Method::POST, posts.path, probe).await?;
        let connections = self.pace.connections;
        let submit = Exchange { ask: submit.into(), answer: accepted.len(), jobs: 1.0, connections };
        if !self.stage.whole() {
            return Ok(vec![submit]);
        }
        let wish = r#"{"workerId":"bench","max":1,"leaseSeconds":60,"waitSeconds":10}"#;
        let claimed = wire.must(Method::POST, &format!("/v1/queues/{PROBE}/claim"), wish).await?;
        let work: Claimed<'_> = serde_json::from_slice(&claimed).context("the probe was not claimed")?;
        let report = acks(&work.jobs);
        let acked = wire.must(Method::POST, "/v1/leases/ack", report.clone()).await?;
        self.stage.recorded(&before, 1, super::DRAIN).await?;
        let many = |bytes: usize| (bytes as f64 * per_claim) as usize;
        let of_claim = |ask: Bytes, answer| Exchange { ask, answer, jobs: per_claim, connections: CLAIMERS };
        Ok(vec![
            submit,
            of_claim(wish.into(), many(claimed.len())),
            of_claim(vec![b' '; many(report.len())].into(), many(acked.len())),
            Exchange { ask: vec![b' '; callback].into(), answer: 0, jobs: 1.0, connections },
        ])
    }
}

async fn repeat(mut wire: Wire, path: String, ask: Bytes, left: Arc<AtomicU64>) -> anyhow::Result<()> {
    while left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok() {
        wire.must(Method::POST, &path, ask.clone()).await?;
    }
    Ok(())
}

impl Share {
    /// For people.
    pub fn tell(&self, out: Out) -> anyhow::Result<()> {
        for (what, limits) in [("database alone", &self.store), ("HTTP alone", &self.http)] {
            for limit in limits {
                let cpu = said(&limit.cpu_micros_per_job);
                out.say(&format!("{what}: {:.0} a second; CPU {cpu}", limit.jobs_per_second))?;
            }
        }
        let (share, sum) = (100.0 * self.share, self.sum_of_parts_jobs_per_second);
        out.say(&format!("{share:.0} % of the sum of parts, {sum:.0} a second"))?;
        Ok(())
    }
}
