//! The worker of a benchmark: claims as much as it gets and completes it at once.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::ensure;
use http::Method;
use serde::Deserialize;
use tokio::task::JoinSet;

use super::super::exit::Exit;
use super::super::{Remote, print, stop};
use super::figures::micros;
use super::wire::Wire;

/// A worker that does nothing but complete what it claims, until SIGTERM.
///
/// Each result says when it was sent, so that `bench receiver` can tell how long its callback took.
#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    remote: Remote,
    /// The queue to claim from.
    #[arg(long, env = "RINGBACK_QUEUE", default_value = "default")]
    queue: String,
    /// How many claims run at a time.
    #[arg(long, env = "RINGBACK_CONCURRENCY", value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    concurrency: u32,
    /// How many jobs one claim asks for.
    #[arg(long, env = "RINGBACK_BATCH", value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=500))]
    batch: u32,
}

/// The answer to a claim.
#[derive(Deserialize)]
pub struct Claimed<'a> {
    /// At most as many as were asked for.
    #[serde(borrow)]
    pub jobs: Vec<Job<'a>>,
}

/// A claimed job, as far as it takes to complete it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job<'a> {
    job_id: &'a str,
    lease_token: &'a str,
}

/// Runs `ringback bench worker`.
pub async fn run(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    let stop = stop::on_signal()?;
    let mut claimers = JoinSet::new();
    for _ in 0..args.concurrency {
        let key = args.remote.api_key.as_ref().and_then(super::super::sign::SecretText::given);
        let wire = Wire::open(&args.remote.url, key).await?;
        claimers.spawn(claim_and_complete(wire, args.queue.clone(), args.batch));
    }
    print::raw("{\"ready\":true}\n")?;
    tokio::select! {
        () = stop.cancelled() => Ok(Exit::Done.into()),
        Some(ended) = claimers.join_next() => { ended??; Ok(Exit::Failed.into()) }
    }
}

async fn claim_and_complete(mut wire: Wire, queue: String, batch: u32) -> anyhow::Result<()> {
    let path = format!("/v1/queues/{queue}/claim");
    let wish = format!(r#"{{"workerId":"bench","max":{batch},"leaseSeconds":60,"waitSeconds":10}}"#);
    loop {
        let answer = wire.must(Method::POST, &path, wish.clone()).await?;
        let claimed: Claimed<'_> = serde_json::from_slice(&answer)?;
        if claimed.jobs.is_empty() {
            continue;
        }
        let acks = acks(&claimed.jobs);
        let answer = wire.must(Method::POST, "/v1/leases/ack", acks).await?;
        let text = str::from_utf8(&answer)?;
        let done = text.matches(r#""status":"complete""#).count();
        ensure!(done == claimed.jobs.len(), "{done} of {} completed: {text}", claimed.jobs.len());
    }
}

/// The report that completes them all.
pub fn acks(jobs: &[Job<'_>]) -> String {
    let mut body = String::with_capacity(jobs.len() * 160);
    body.push_str(r#"{"items":["#);
    for (n, job) in jobs.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(
            body,
            r#"{comma}{{"op":"complete","jobId":"{}","leaseToken":"{}","result":{{"doneAtMicros":{}}}}}"#,
            job.job_id,
            job.lease_token,
            micros()
        );
    }
    body.push_str("]}");
    body
}
