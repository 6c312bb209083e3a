//! What is told of a run.

use std::time::Duration;

use serde::Serialize;

use super::super::figures::Spread;
use super::super::load::Driven;
use super::super::part::{Cpu, used};
use super::super::receiver::Seen;
use super::limits::Share;
use super::model::Machine;
use super::stage::{Reading, Stage};
use crate::cli::print::Out;

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    engine: &'static str,
    nodes: usize,
    /// How many were submitted.
    pub jobs: u64,
    /// How long it took.
    pub seconds: f64,
    /// The one by the other.
    pub jobs_per_second: f64,
    /// From the moment the schedule wanted the request sent to its answer.
    pub submit: Option<Spread>,
    /// From the worker's report to the receiver.
    pub done_to_seen: Option<Spread>,
    submitted_to_seen: Option<Spread>,
    repeats: usize,
    bad_signatures: usize,
    /// CPU microseconds per job, by process.
    cpu_micros_per_job: Cpu,
    commits_per_job: f64,
    calls_per_commit: f64,
    /// Time in transactions, over all writers.
    commit_micros_per_job: f64,
    /// 0 where nothing claims.
    pub jobs_per_claim: f64,
    wal_bytes_per_job: Option<f64>,
    dead_rows_per_job: Option<f64>,
    hot_updates_per_job: Option<f64>,
    server_mib: f64,
    server_peak_mib: f64,
    /// What the machine could do.
    pub limits: Option<Share>,
    /// What larger ones would.
    model: Vec<Machine>,
}

impl Report {
    /// Of what was used between two readings.
    pub fn of(
        stage: &Stage,
        (before, after): (&Reading, &Reading),
        (driven, took): (Driven, Duration),
        seen: Seen,
    ) -> Report {
        let jobs = driven.requests;
        let per_job = |n: f64| n / jobs.max(1) as f64;
        let commits = after.commits - before.commits;
        let grown = |of: fn(&Reading) -> Option<f64>| of(after).zip(of(before)).map(|(a, b)| per_job(a - b));
        let cpu = used(&before.cpu, &after.cpu);
        let Seen { repeats, bad_signatures, done_to_seen, submitted_to_seen, .. } = seen;
        Report {
            engine: stage.engine().word(),
            nodes: stage.nodes(),
            jobs,
            seconds: took.as_secs_f64(),
            jobs_per_second: jobs as f64 / took.as_secs_f64(),
            submit: driven.times,
            done_to_seen,
            submitted_to_seen,
            repeats,
            bad_signatures,
            cpu_micros_per_job: cpu.into_iter().map(|(name, s)| (name, per_job(s * 1e6))).collect(),
            commits_per_job: per_job(commits),
            commit_micros_per_job: per_job(1e6 * (after.commit_seconds - before.commit_seconds)),
            calls_per_commit: (after.calls - before.calls) / commits.max(1.0),
            jobs_per_claim: if stage.whole() {
                jobs as f64 / (after.claims - before.claims).max(1.0)
            } else {
                0.0
            },
            wal_bytes_per_job: grown(|r| r.wal_bytes),
            dead_rows_per_job: grown(|r| r.dead_rows),
            hot_updates_per_job: grown(|r| r.hot_updates),
            server_mib: after.server_mib,
            server_peak_mib: after.server_peak_mib,
            limits: None,
            model: Vec::new(),
        }
    }

    /// Adds what larger machines would do, on which `writers` connections write.
    #[must_use]
    pub fn with_model(self, writers: usize) -> Report {
        let model = Machine::model(
            self.jobs_per_second,
            &self.cpu_micros_per_job,
            self.commit_micros_per_job / writers as f64,
        );
        Report { model, ..self }
    }

    /// For people, or for programs.
    pub fn tell(&self, out: Out) -> anyhow::Result<()> {
        if out.json {
            return out.value(self);
        }
        let nodes = if self.nodes == 1 { String::new() } else { format!(" and {} nodes", self.nodes) };
        out.say(&format!(
            "{} jobs on {}{nodes} in {:.2} s: {:.0} a second",
            self.jobs, self.engine, self.seconds, self.jobs_per_second
        ))?;
        let times = [
            ("submit", self.submit),
            ("complete to receiver", self.done_to_seen),
            ("submit to receiver", self.submitted_to_seen),
        ];
        for (what, spread) in times.into_iter().filter_map(|(what, spread)| Some((what, spread?))) {
            out.say(&format!("{what}: {}", spread.said()))?;
        }
        out.say(&format!("CPU, microseconds a job: {}", said(&self.cpu_micros_per_job)))?;
        let claims = match self.jobs_per_claim {
            0.0 => String::new(),
            jobs => format!(", {jobs:.1} jobs a claim"),
        };
        out.say(&format!(
            "{:.3} commits a job, {:.1} calls in each, {:.0} microseconds of them a job{claims}; server {:.1} MiB, at most {:.1}",
            self.commits_per_job, self.calls_per_commit, self.commit_micros_per_job, self.server_mib, self.server_peak_mib
        ))?;
        if let (Some(wal), Some(dead), Some(hot)) =
            (self.wal_bytes_per_job, self.dead_rows_per_job, self.hot_updates_per_job)
        {
            out.say(&format!(
                "{wal:.0} bytes of write-ahead log a job, {dead:.2} dead rows, {hot:.2} of them within their page"
            ))?;
        }
        if let Some(limits) = &self.limits {
            limits.tell(out)?;
        }
        let each: Vec<String> = self.model.iter().map(Machine::said).collect();
        out.say(&format!("model: {}", each.join("; ")))?;
        Ok(())
    }
}

/// All together, and each.
pub fn said(cpu: &Cpu) -> String {
    let each: Vec<String> = cpu.iter().map(|(name, micros)| format!("{name} {micros:.0}")).collect();
    format!("{:.0} ({})", cpu.values().sum::<f64>(), each.join(", "))
}
