//! The worker SDK: handlers by type; claims, leases, heartbeats and reports are taken care of.
//!
//! ```no_run
//! use ringback::client::Client;
//! use ringback::worker::{CancellationToken, Failure, Options, Reply, Task, Worker};
//!
//! #[derive(serde::Deserialize)]
//! struct Wanted {
//!     year: u16,
//! }
//!
//! async fn generate(task: Task) -> Result<Reply, Failure> {
//!     let wanted: Wanted = task.input()?;
//!     for chapter in 1..=4 {
//!         // The client has cancelled, the lease is lost, or the worker is being stopped.
//!         if task.stop.is_cancelled() {
//!             return Err(Failure::new("stopped half-way"));
//!         }
//!         write(chapter).await.map_err(|e| Failure::new(e.to_string()).with_code("disk"))?;
//!         task.progress.report(chapter * 25, Some("writing"));
//!     }
//!     Reply::json(&serde_json::json!({"year": wanted.year, "chapters": 4}))
//! }
//!
//! # async fn write(_: u8) -> std::io::Result<()> { Ok(()) }
//! # async fn example(shutdown: CancellationToken) -> Result<(), ringback::client::Error> {
//! let client = Client::new("http://127.0.0.1:8080", Some("rbk_..."))?;
//! Worker::new(client, Options { concurrency: 4, ..Options::new("default") })
//!     .on("report.generate", generate)
//!     .on("mail.send", async |_: Task| Ok(Reply::text("sent")))
//!     .run(shutdown)
//!     .await
//! # }
//! ```
//!
//! [`Worker`] claims only the types that it has a handler for; [`run`] gives every job to one handler. `docs/examples/worker.rs`
//! is a whole program. [`Hold`] is for who holds a job without a claim: an external one.
//!
//! ```text
//! run:  claim (long poll, as many as there are free slots)
//!         -> per job: handler(Task)      beside it a heartbeat every third of the lease, every 20 s at least
//!         -> complete | fail | release   repeated until it is answered, for as long as a lease and a minute at least
//! ```
//!
//! * The service may hand a job out again once its lease has run out, so a handler should be idempotent.
//! * [`Task::stop`] fires when the client cancels the job, when the lease is lost, or when the worker is
//!   being stopped and its grace is over. A handler that does not listen is dropped at its next `await`
//!   once nobody wants its result any more.
//! * A worker that cannot reach the service keeps its jobs running and tries again with growing pauses.

mod handlers;
mod hold;
mod lease;
mod report;
mod task;
#[cfg(all(test, feature = "server"))]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
pub use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::client::{Client, Error};
use crate::dice::Dice;
use crate::types::api;
pub use crate::types::job::Failure;
use crate::types::problem::ProblemCode;
pub use handlers::Worker;
pub use hold::Hold;
pub use task::{Progress, Reply, Task};

/// How a worker works. [`Options::new`] gives the usual values.
#[derive(Debug, Clone)]
pub struct Options {
    /// The queue to claim from.
    pub queue: String,
    /// Only jobs of these types; all when empty.
    pub types: Vec<String>,
    /// How many jobs run at a time.
    pub concurrency: usize,
    /// How long the service waits for a sign of life, 1..3600 s. Defaults to 30 s.
    pub lease: Duration,
    /// How long running jobs may go on after a stop was asked for. Defaults to 20 s.
    pub grace: Duration,
    /// Who asks, for people who look.
    pub worker_id: Option<String>,
}

impl Options {
    /// One job at a time of any type.
    pub fn new(queue: impl Into<String>) -> Options {
        Options {
            queue: queue.into(),
            types: Vec::new(),
            concurrency: 1,
            lease: Duration::from_secs(30),
            grace: Duration::from_secs(20),
            worker_id: None,
        }
    }
}

/// The longest a claim waits for work. Stopping cuts it short.
const WAIT_SECONDS: u32 = 20;
/// How long handlers have to end, and what they come to to be reported, once the grace of a stop is over. With the
/// usual grace a stop is then done before orchestrators kill, after 30 s.
const LAST_WORDS: Duration = Duration::from_secs(9);
/// Answers in a row that cannot be read.
const UNREADABLE: u32 = 4;
/// The most that one claim may ask for.
const CLAIM_MAX: usize = 500;

/// Works until `shutdown` fires, then finishes or releases what is running: within the grace and 10 s, even if the
/// service cannot be reached.
///
/// Returns early only when the service refuses to hand out jobs at all, such as for a revoked key, and once those that it
/// has have ended.
pub async fn run<H, F>(
    client: Client,
    options: Options,
    handler: H,
    shutdown: CancellationToken,
) -> Result<(), Error>
where
    H: Fn(Task) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    let shared = Arc::new(Shared { client, options, handler, hurry: CancellationToken::new() });
    let mut running = JoinSet::new();
    let ended = claim_and_start(&shared, &mut running, &shutdown).await;
    // Where it was refused more jobs, nobody has asked those that it has to hurry: their leases are still good.
    if let Err(error) = &ended {
        tracing::error!(jobs = running.len(), "gets no more jobs, and ends with those that it has: {error}");
    }
    shutdown.run_until_cancelled(drain(&mut running)).await;
    let grace = tokio::time::timeout(shared.options.grace, drain(&mut running)).await;
    if grace.is_err() {
        // From here on handlers are told to stop.
        shared.hurry.cancel();
        if tokio::time::timeout(LAST_WORDS, drain(&mut running)).await.is_err() {
            tracing::error!(jobs = running.len(), "stopped, and could not report what became of these jobs");
        }
    }
    ended
}

/// What all jobs of one worker share.
struct Shared<H> {
    client: Client,
    options: Options,
    handler: H,
    /// Fires when the grace of a stop is over.
    hurry: CancellationToken,
}

async fn claim_and_start<H, F>(
    shared: &Arc<Shared<H>>,
    running: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) -> Result<(), Error>
where
    H: Fn(Task) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    let (mut failures, mut reached) = (0, false);
    let mut most = CLAIM_MAX;
    while !shutdown.is_cancelled() {
        while running.try_join_next().is_some() {}
        let free = shared.options.concurrency.max(1).saturating_sub(running.len());
        if free == 0 {
            shutdown.run_until_cancelled(running.join_next()).await;
            continue;
        }
        // Dropping the claim hangs up. Should the service hand out jobs in that very moment, their
        // leases run out and other workers get them.
        let asked = free.min(most);
        let Some(claimed) = shutdown.run_until_cancelled(claim(shared, asked)).await else { break };
        match claimed {
            Ok(jobs) => {
                (failures, reached) = (0, true);
                for job in jobs {
                    running.spawn(work(Arc::clone(shared), job));
                }
            }
            Err(error) if passing(&error) || (reached && may_be_of_another(&error, failures)) => {
                failures += 1;
                tracing::warn!(failures, "no claim, will try again: {error}");
                let pause = pause(failures, Dice::Os.bytes());
                shutdown.run_until_cancelled(tokio::time::sleep(pause)).await;
            }
            // Those jobs come back when their leases run out. What was too much once may be so again.
            Err(error @ Error::TooLarge(_)) if asked > 1 => {
                most = asked / 2;
                tracing::warn!(most, "will claim fewer jobs at a time: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn claim<H>(shared: &Shared<H>, asked: usize) -> Result<Vec<api::ClaimedJob>, Error> {
    let options = &shared.options;
    let claim = api::Claim {
        worker_id: options.worker_id.clone(),
        max: u32::try_from(asked).ok(),
        types: (!options.types.is_empty()).then(|| options.types.clone()),
        lease_seconds: Some(whole_seconds(options.lease)),
        wait_seconds: Some(WAIT_SECONDS),
    };
    shared.client.claim(&options.queue, &claim).await
}

/// One job from claim to report.
async fn work<H, F>(shared: Arc<Shared<H>>, job: api::ClaimedJob)
where
    H: Fn(Task) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    let (id, token, attempt) = (job.job_id, job.lease_token, job.attempt);
    tracing::info!(job.id = %id, job.type = %job.kind, attempt, "claimed job {id}");
    let hold = Hold::new(&shared.client, id, token, shared.options.lease);
    let task = Task { job, progress: hold.progress(), stop: hold.stop().clone() };
    let handled = handle(Arc::clone(&shared), task);
    let ended = lease::watch(&shared.hurry, hold.stop(), hold.lost(), handled).await;
    if hold.lost().is_cancelled() {
        tracing::warn!(job.id = %id, attempt, "lost the lease of job {id}; its outcome is dropped");
        return;
    }
    // Whatever became of the report has been logged, and there is nobody else to tell.
    let _ = hold.tell(report::Outcome::of(ended, shared.hurry.is_cancelled()), &shared.hurry).await;
}

/// In a task of its own, so that a handler that panics fails its job and nothing else.
async fn handle<H, F>(shared: Arc<Shared<H>>, task: Task) -> Result<Reply, Failure>
where
    H: Fn(Task) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    let handling = tokio::spawn(async move { (shared.handler)(task).await });
    AbortOnDropHandle::new(handling)
        .await
        .unwrap_or_else(|_| Err(Failure::new("the worker's handler panicked").with_code("panic")))
}

async fn drain(running: &mut JoinSet<()>) {
    while running.join_next().await.is_some() {}
}

/// Whether the same call may be answered better a little later.
pub(crate) fn passing(error: &Error) -> bool {
    match error {
        Error::Unreachable(_) => true,
        Error::Problem(problem) => matches!(problem.status, 408 | 429 | 500..),
        Error::Foreign(_) | Error::BadReply(_) | Error::TooLarge(_) => false,
    }
}

/// Whether it may be what stands before the service that says so, after so many `failures` in a row. Of a service that has
/// answered before that passes: a deployment, a proxy that is being set up. What cannot be read may also be the service's own, a
/// newer one's; and then each further claim would take jobs that nobody works on.
pub(crate) fn may_be_of_another(error: &Error, failures: u32) -> bool {
    match error {
        Error::Foreign(_) => true,
        Error::BadReply(_) => failures < UNREADABLE,
        Error::Unreachable(_) | Error::Problem(_) | Error::TooLarge(_) => false,
    }
}

/// Whether the service says that the job is this worker's no more.
fn over(error: &Error) -> bool {
    match error {
        Error::Problem(problem) => {
            matches!(problem.status, 401 | 403 | 404 | 410) || problem.code == ProblemCode::LeaseLost
        }
        Error::Unreachable(_) | Error::Foreign(_) | Error::BadReply(_) | Error::TooLarge(_) => false,
    }
}

/// Half a second, doubling up to 30 s, of which `random` takes away up to a half: workers that lost the
/// service together must not come back together.
fn pause(failures: u32, random: [u8; 1]) -> Duration {
    let longest =
        Duration::from_millis(500 << failures.saturating_sub(1).min(6)).min(Duration::from_secs(30));
    longest - longest / 2 * u32::from(random[0]) / 255
}

fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).max(1)
}
