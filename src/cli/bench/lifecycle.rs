//! `bench lifecycle`: submit, claim, complete, signed POST, recorded; as many a second as this machine can do.

mod limits;
mod model;
mod report;
pub mod stage;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;

use super::super::exit::Exit;
use super::super::print::Out;
use super::figures::moment;
use super::load::{Load, Posts, Until};
use crate::store::bench::committers;
use limits::Limits;
pub use report::Report;
use stage::{Stage, WHOLE, Wanted};

/// How jobs are submitted.
#[derive(Debug, Clone, clap::Args)]
pub struct Pace {
    /// Connections that submit.
    #[arg(long, env = "RINGBACK_CONNECTIONS", value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub connections: u32,
    /// Bytes of each job's input.
    #[arg(long, env = "RINGBACK_PAYLOAD_BYTES", value_name = "N", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(0..=200_000))]
    pub payload_bytes: u32,
    /// Jobs a second, sent whatever the answers (open loop); as many as go by default (closed loop).
    #[arg(long, env = "RINGBACK_RATE", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: Option<u32>,
    /// How many jobs may be under way in the closed loop.
    #[arg(long, env = "RINGBACK_WINDOW", value_name = "N", default_value_t = 4_000)]
    pub window: u64,
}

/// The durable 202 alone, measured: no worker and no callbacks.
#[derive(Debug, Clone, clap::Args)]
pub struct SubmitArgs {
    /// Beside which store a new one is made, `sqlite://PATH` or `postgres://...`; in a temporary directory by default.
    #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<String>,
    /// How many jobs are measured.
    #[arg(long, env = "RINGBACK_JOBS", value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    jobs: u64,
    /// How many go before them, unmeasured.
    #[arg(long, env = "RINGBACK_WARM_UP", value_name = "N", default_value_t = 5_000)]
    warm_up: u64,
    /// How many the raw limits are measured with, before and after; 0 leaves them out.
    #[arg(long, env = "RINGBACK_LIMIT_JOBS", value_name = "N", default_value_t = 20_000)]
    limit_jobs: u64,
    #[command(flatten)]
    pace: Pace,
}

/// The whole way of a job, measured: server, worker, receiver and load driver are processes of this machine.
#[derive(Debug, Clone, clap::Args)]
pub struct LifecycleArgs {
    #[command(flatten)]
    submit: SubmitArgs,
    /// With 2 two servers share the store, which has to be PostgreSQL.
    #[arg(long, env = "RINGBACK_NODES", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
    nodes: u32,
}

/// The longest that jobs may be under way after the last was submitted.
const DRAIN: Duration = Duration::from_secs(120);

/// Runs `ringback bench lifecycle`.
pub async fn run(args: LifecycleArgs, out: Out) -> anyhow::Result<ExitCode> {
    let wanted = Wanted { nodes: usize::try_from(args.nodes)?, ..WHOLE };
    measure(&args.submit, wanted, out).await
}

/// Runs `ringback bench submit`.
pub async fn submit(args: SubmitArgs, out: Out) -> anyhow::Result<ExitCode> {
    measure(&args, Wanted { whole: false, ..WHOLE }, out).await
}

async fn measure(args: &SubmitArgs, wanted: Wanted, out: Out) -> anyhow::Result<ExitCode> {
    let stage = Stage::set(args.store.clone(), wanted).await?;
    let mut limits = Limits::new(&stage, &args.pace, args.limit_jobs);
    if args.warm_up > 0 {
        let warm = once(&stage, &args.pace, args.warm_up).await?;
        limits.measure(warm.jobs_per_claim).await?;
    }
    let writers = committers(stage.engine()) * stage.nodes();
    let mut report = once(&stage, &args.pace, args.jobs).await?.with_model(writers);
    limits.measure(report.jobs_per_claim).await?;
    report.limits = limits.share_of(report.jobs_per_second);
    stage.strike().await?;
    report.tell(out)?;
    Ok(Exit::Done.into())
}

/// `jobs` jobs from the first submission to the last record.
pub async fn once(stage: &Stage, pace: &Pace, jobs: u64) -> anyhow::Result<Report> {
    stretch(stage, pace, stage.jobs(usize::try_from(pace.payload_bytes)?), Until::Posted(jobs)).await
}

/// Whatever is posted, from the first request to the last record. A callback counts as a job.
pub async fn stretch(stage: &Stage, pace: &Pace, posts: Posts, until: Until) -> anyhow::Result<Report> {
    let load = Load { connections: pace.connections, rate: pace.rate, window: pace.window };
    let callbacks = posts.callbacks;
    stage.reset().await?;
    let before = stage.read().await?;
    let start = moment();
    let mut driven = load.drive(posts, until).await?;
    driven.requests *= callbacks;
    stage.recorded(&before, driven.requests, DRAIN).await?;
    let took = moment().saturating_sub(start);
    let after = stage.read().await?;
    let seen = stage.seen().await?;
    if stage.whole() {
        // Where others waited before, the worker goes on with them.
        let jobs = driven.requests;
        ensure!(seen.deliveries as u64 >= jobs, "{} of {jobs} callbacks came", seen.deliveries);
        ensure!(seen.bad_signatures == 0, "{} signatures do not hold", seen.bad_signatures);
    }
    Ok(Report::of(stage, (&before, &after), (driven, took), seen))
}
