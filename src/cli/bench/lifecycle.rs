//! `bench lifecycle`: submit, claim, complete, signed POST, recorded; as many a second as this machine can do.

mod stage;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;

use super::super::exit::Exit;
use super::super::print::Out;
use super::figures::{Spread, moment};
use super::load::{Load, Until};
use super::part::Cpu;
use super::receiver::Seen;
use stage::Stage;

/// The whole way of a job, measured: server, worker, receiver and load driver are processes of this machine.
#[derive(Debug, Clone, clap::Args)]
pub struct LifecycleArgs {
    /// Where everything is kept: `sqlite://PATH` or `postgres://...`; a new SQLite file by default.
    #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<String>,
    /// How many jobs are measured.
    #[arg(long, env = "RINGBACK_JOBS", value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    jobs: u64,
    /// How many go before them, unmeasured.
    #[arg(long, env = "RINGBACK_WARM_UP", value_name = "N", default_value_t = 5_000)]
    warm_up: u64,
    /// Connections that submit.
    #[arg(long, env = "RINGBACK_CONNECTIONS", value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Bytes of each job's input.
    #[arg(long, env = "RINGBACK_PAYLOAD_BYTES", value_name = "N", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(0..=200_000))]
    payload_bytes: u32,
    /// Jobs a second, sent whatever the answers (open loop); as many as go by default (closed loop).
    #[arg(long, env = "RINGBACK_RATE", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// How many jobs may be under way in the closed loop.
    #[arg(long, env = "RINGBACK_WINDOW", value_name = "N", default_value_t = 4_000)]
    window: u64,
    /// Only submit: no worker, no callbacks.
    #[arg(long, env = "RINGBACK_SUBMIT_ONLY")]
    submit_only: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    engine: &'static str,
    jobs: u64,
    seconds: f64,
    jobs_per_second: f64,
    /// From the moment the schedule wanted the request sent to its answer.
    submit: Option<Spread>,
    done_to_seen: Option<Spread>,
    submitted_to_seen: Option<Spread>,
    repeats: usize,
    bad_signatures: usize,
    /// CPU microseconds per job, by process.
    cpu_micros_per_job: Cpu,
    commits_per_job: f64,
    calls_per_commit: f64,
    wal_bytes_per_job: Option<f64>,
    dead_rows_per_job: Option<f64>,
    server_mib: f64,
}

/// The longest that jobs may be under way after the last was submitted.
const DRAIN: Duration = Duration::from_secs(120);

/// Runs `ringback bench lifecycle`.
pub async fn run(args: LifecycleArgs, out: Out) -> anyhow::Result<ExitCode> {
    let stage = Stage::set(args.store.clone(), !args.submit_only).await?;
    if args.warm_up > 0 {
        once(&stage, &args, args.warm_up).await?;
    }
    let report = once(&stage, &args, args.jobs).await?;
    stage.strike().await?;
    tell(&report, out)?;
    Ok(Exit::Done.into())
}

/// `jobs` jobs from the first submission to the last record.
async fn once(stage: &Stage, args: &LifecycleArgs, jobs: u64) -> anyhow::Result<Report> {
    let load = Load { connections: args.connections, rate: args.rate, window: args.window };
    let posts = stage.jobs(usize::try_from(args.payload_bytes)?);
    stage.reset().await?;
    let before = stage.read().await?;
    let start = moment();
    let submit = load.drive(posts, Until::Posted(jobs)).await?.times;
    stage.recorded(&before, jobs, DRAIN).await?;
    let took = moment().saturating_sub(start);
    let after = stage.read().await?;
    let seen = stage.seen().await?;
    if stage.whole() {
        ensure!(seen.deliveries as u64 == jobs, "{} of {jobs} callbacks came", seen.deliveries);
        ensure!(seen.bad_signatures == 0, "{} signatures do not hold", seen.bad_signatures);
    }
    let per_job = |n: f64| n / jobs as f64;
    let commits = after.commits - before.commits;
    let Seen { repeats, bad_signatures, done_to_seen, submitted_to_seen, .. } = seen;
    Ok(Report {
        engine: stage.engine(),
        jobs,
        seconds: took.as_secs_f64(),
        jobs_per_second: jobs as f64 / took.as_secs_f64(),
        submit,
        done_to_seen,
        submitted_to_seen,
        repeats,
        bad_signatures,
        cpu_micros_per_job: super::part::used(&before.cpu, &after.cpu)
            .into_iter()
            .map(|(name, seconds)| (name, per_job(seconds * 1e6)))
            .collect(),
        commits_per_job: per_job(commits),
        calls_per_commit: (after.calls - before.calls) / commits.max(1.0),
        wal_bytes_per_job: after.wal_bytes.zip(before.wal_bytes).map(|(a, b)| per_job(a - b)),
        dead_rows_per_job: after.dead_rows.zip(before.dead_rows).map(|(a, b)| per_job(a - b)),
        server_mib: after.server_mib,
    })
}

fn tell(report: &Report, out: Out) -> anyhow::Result<()> {
    if out.json {
        return out.value(report);
    }
    let cpu: Vec<String> =
        report.cpu_micros_per_job.iter().map(|(name, micros)| format!("{name} {micros:.0}")).collect();
    let total: f64 = report.cpu_micros_per_job.values().sum();
    out.say(&format!(
        "{} jobs on {} in {:.2} s: {:.0} a second",
        report.jobs, report.engine, report.seconds, report.jobs_per_second
    ))?;
    let times = [
        ("submit", report.submit),
        ("complete to receiver", report.done_to_seen),
        ("submit to receiver", report.submitted_to_seen),
    ];
    for (what, spread) in times.into_iter().filter_map(|(what, spread)| Some((what, spread?))) {
        out.say(&format!("{what}: {}", spread.said()))?;
    }
    out.say(&format!("CPU, microseconds a job: {total:.0} ({})", cpu.join(", ")))?;
    out.say(&format!(
        "{:.3} commits a job, {:.1} calls in each; server {:.1} MiB",
        report.commits_per_job, report.calls_per_commit, report.server_mib
    ))?;
    if let (Some(wal), Some(dead)) = (report.wal_bytes_per_job, report.dead_rows_per_job) {
        out.say(&format!("{wal:.0} bytes of write-ahead log a job, {dead:.2} dead rows"))?;
    }
    Ok(())
}
