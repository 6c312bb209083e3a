//! The worker of a benchmark: claims as much as it gets and completes it at once.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::ensure;
use http::Method;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::ChildStdin;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::exit::Exit;
use super::super::{Remote, print, stop};
use super::figures::micros;
use super::wire::Wire;

/// How often a paced worker is told how far it may go.
const PACE_EVERY: Duration = Duration::from_millis(1);

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
    /// Claims no more jobs than standard input allows, which gives the number of all so far, line by line.
    #[arg(long, env = "RINGBACK_PACED")]
    paced: bool,
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
    let (allow, allowed) = watch::channel(if args.paced { 0 } else { u64::MAX });
    let quota = Quota { allowed, taken: Arc::default() };
    let mut claimers = JoinSet::new();
    for _ in 0..args.concurrency {
        let key = args.remote.api_key.as_ref().and_then(super::super::sign::SecretText::given);
        let wire = Wire::open(&args.remote.url, key).await?;
        claimers.spawn(claim_and_complete(wire, args.queue.clone(), args.batch, quota.clone()));
    }
    print::raw("{\"ready\":true}\n")?;
    tokio::select! {
        () = stop.cancelled() => Ok(Exit::Done.into()),
        Some(ended) = claimers.join_next() => { ended??; Ok(Exit::Failed.into()) }
        Err(e) = listen(allow), if args.paced => Err(e),
    }
}

/// Takes what standard input allows, until it ends.
async fn listen(allow: watch::Sender<u64>) -> anyhow::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        allow.send_replace(line.parse()?);
    }
    std::future::pending().await
}

/// Tells a paced worker how many jobs it may have claimed so far, until it has ended.
pub async fn pace(mut input: ChildStdin, mut accepted: watch::Receiver<u64>) {
    while accepted.changed().await.is_ok() {
        let so_far = *accepted.borrow_and_update();
        if input.write_all(format!("{so_far}\n").as_bytes()).await.is_err() {
            return;
        }
        // Under load one line tells of many.
        tokio::time::sleep(PACE_EVERY).await;
    }
}

/// How many jobs all claims together may have.
#[derive(Clone)]
struct Quota {
    allowed: watch::Receiver<u64>,
    taken: Arc<AtomicU64>,
}

impl Quota {
    /// Waits until there is some, and takes up to `most` of it.
    async fn take(&mut self, most: u64) -> anyhow::Result<u64> {
        loop {
            let allowed = *self.allowed.borrow_and_update();
            let more = |taken: u64| (taken < allowed).then(|| taken.saturating_add(most).min(allowed));
            if let Ok(before) = self.taken.fetch_update(Relaxed, Relaxed, more) {
                return Ok(most.min(allowed - before));
            }
            self.allowed.changed().await?;
        }
    }

    fn give_back(&self, unused: u64) {
        self.taken.fetch_sub(unused, Relaxed);
    }
}

async fn claim_and_complete(
    mut wire: Wire,
    queue: String,
    batch: u32,
    mut quota: Quota,
) -> anyhow::Result<()> {
    let path = format!("/v1/queues/{queue}/claim");
    loop {
        let max = quota.take(batch.into()).await?;
        let wish = format!(r#"{{"workerId":"bench","max":{max},"leaseSeconds":60,"waitSeconds":10}}"#);
        let answer = wire.must(Method::POST, &path, wish).await?;
        let claimed: Claimed<'_> = serde_json::from_slice(&answer)?;
        quota.give_back(max.saturating_sub(claimed.jobs.len() as u64));
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
