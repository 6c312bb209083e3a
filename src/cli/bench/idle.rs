//! `bench idle`: what a server costs that has nothing to do, and how soon it is ready over a full store.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde::Serialize;
use tokio::task::JoinSet;

use super::figures::{Spread, mib, moment};
use super::lifecycle::stage::{Stage, WHOLE};
use super::lifecycle::{Pace, once};
use crate::cli::exit::Exit;
use crate::cli::print::Out;
use crate::store::bench::{Filled, fill, transactions};

/// Measure a server at rest: alone, with a worker that waits, with a crowd that waits for a queue while jobs go to another
/// one, and over a store with a million finished jobs; and how long it takes to start over that.
#[derive(Debug, Clone, clap::Args)]
pub struct IdleArgs {
    /// Beside which store the one that is measured is made, `sqlite://PATH` or `postgres://...`; in a temporary directory by default.
    #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<String>,
    /// Jobs in the full store.
    #[arg(long, env = "RINGBACK_FINISHED", value_name = "N", default_value_t = 1_000_000)]
    finished: u64,
    /// Claims in the crowd.
    #[arg(long, env = "RINGBACK_WAITING", value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    waiting: u32,
    /// How long each rest lasts.
    #[arg(long, env = "RINGBACK_REST_SECONDS", value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=600))]
    rest_seconds: u32,
    /// How often it is started.
    #[arg(long, env = "RINGBACK_STARTS", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    starts: u32,
}

/// What a rest cost.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rest {
    /// Processor time over time: 1 is one core.
    cores: f64,
    /// All of PostgreSQL's, those that wrote of SQLite's.
    transactions_per_second: f64,
    server_mib: f64,
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    engine: &'static str,
    finished: u64,
    alone: Rest,
    with_worker: Rest,
    /// Claims in the crowd.
    waiting: u32,
    /// While jobs are submitted that nobody waits for, and the same beside the crowd.
    submitting: Rest,
    crowded: Rest,
    full: Rest,
    /// From the start of the process to the line that says that it is ready.
    ready: Option<Spread>,
}

/// Jobs that make the model of the copies.
const MODELS: u64 = 100;
/// Jobs a second beside the crowd.
const SUBMITTED: u32 = 50;
/// Until a rest begins.
const SETTLE: Duration = Duration::from_secs(3);

/// Runs `ringback bench idle`.
pub async fn run(args: IdleArgs, out: Out) -> anyhow::Result<ExitCode> {
    let mut stage = Stage::set(args.store.clone(), WHOLE).await?;
    let pace = Pace { connections: 4, payload_bytes: 1_024, rate: None, window: MODELS };
    once(&stage, &pace, MODELS).await?;
    let length = Duration::from_secs(args.rest_seconds.into());
    let with_worker = rest(&stage, length).await?;
    stage.rest().await?;
    let alone = rest(&stage, length).await?;
    stage.down().await?;
    fill(stage.store(), Filled { due: 0, finished: args.finished }).await?;
    let mut starts = Vec::new();
    for _ in 0..args.starts {
        let begun = moment();
        let node = stage.start_one().await?;
        starts.push(moment().saturating_sub(begun));
        node.stop().await?;
    }
    stage.serve().await?;
    let full = rest(&stage, length).await?;
    // Last, for what is submitted stays.
    let submitting = beside(&stage, 0, length).await?;
    let crowded = beside(&stage, args.waiting, length).await?;
    let (engine, finished) = (stage.engine().word(), args.finished);
    let (waiting, ready) = (args.waiting, Spread::of(starts));
    let report = Report { engine, finished, alone, with_worker, waiting, submitting, crowded, full, ready };
    stage.strike().await?;
    tell(&report, out)?;
    Ok(Exit::Done.into())
}

/// A rest in which jobs are submitted to a queue and so many claims wait for another one.
async fn beside(stage: &Stage, waiting: u32, length: Duration) -> anyhow::Result<Rest> {
    let mut crowd = JoinSet::new();
    for _ in 0..waiting {
        let mut wire = stage.wire().await?;
        crowd.spawn(async move {
            loop {
                if let Err(e) =
                    wire.must(Method::POST, "/v1/queues/crowd/claim", r#"{"waitSeconds":30}"#).await
                {
                    return e;
                }
            }
        });
    }
    let mut wire = stage.wire().await?;
    let mut turns = tokio::time::interval(Duration::from_secs(1) / SUBMITTED);
    crowd.spawn(async move {
        loop {
            turns.tick().await;
            if let Err(e) =
                wire.must(Method::POST, "/v1/jobs", r#"{"type":"bench","queue":"elsewhere"}"#).await
            {
                return e;
            }
        }
    });
    tokio::select! {
        Some(ended) = crowd.join_next() => Err(ended?),
        seen = rest(stage, length) => seen,
    }
}

async fn rest(stage: &Stage, length: Duration) -> anyhow::Result<Rest> {
    tokio::time::sleep(SETTLE).await;
    let seen =
        async || Ok::<_, anyhow::Error>((transactions(stage.store()).await?, stage.node().processor()?));
    let (begun, before) = (moment(), seen().await?);
    tokio::time::sleep(length).await;
    let (after, took) = (seen().await?, moment().saturating_sub(begun).as_secs_f64());
    Ok(Rest {
        cores: (after.1 - before.1).as_secs_f64() / took,
        transactions_per_second: after.0.saturating_sub(before.0) as f64 / took,
        server_mib: mib(stage.node().memory()?),
    })
}

fn tell(report: &Report, out: Out) -> anyhow::Result<()> {
    if out.json {
        return out.value(report);
    }
    let full = format!("alone over {} finished jobs", report.finished);
    let submitting = format!("while {SUBMITTED} jobs a second are submitted");
    let crowded = format!("{submitting} and {} claims wait for another queue", report.waiting);
    for (what, rest) in [
        ("alone", report.alone),
        ("with a worker that waits", report.with_worker),
        (&full, report.full),
        (&submitting, report.submitting),
        (&crowded, report.crowded),
    ] {
        out.say(&format!(
            "{} {what}: {:.2} % of a core, {:.1} transactions a second, {:.1} MiB",
            report.engine,
            100.0 * rest.cores,
            rest.transactions_per_second,
            rest.server_mib
        ))?;
    }
    if let Some(ready) = report.ready {
        out.say(&format!("ready over them: {}", ready.said()))?;
    }
    Ok(())
}
