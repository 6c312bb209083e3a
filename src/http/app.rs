//! What every handler can reach, and the two ways it waits: for the store, and on purpose.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::extract::KeyCache;
use super::feed::Heads;
use super::followers::Followers;
use super::pace::Pace;
use super::problem::{Problem, Seldom};
use super::routes::Route;
use super::strangers::Strangers;
use super::watch::Hub;
use super::work::Looks;
use crate::clock::Clock;
use crate::dice::Dice;
use crate::metrics::Metrics;
use crate::store::{self, Attempted, ClaimedDelivery, Store};
use crate::types::api::RESULT_MAX;
use crate::types::job::Job;
use crate::types::problem::ProblemCode;
use crate::types::target::UrlPolicy;
use crate::types::{JobId, Millis};
use crate::wake::Wake;

/// How long a handler waits for the store: the API answers 503 within 1.5 s instead of hanging.
const STORE_DEADLINE: Duration = Duration::from_millis(1_400);
/// The longest a deliberate wait goes without looking again, should a nudge be lost.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// The shortest time between two looks that a nudge alone calls for: under load every commit nudges.
pub(super) const LOOK_GAP: Duration = Duration::from_millis(15);
/// Between two looks at the state of a callback that someone waits for.
const CALLBACK_LOOK: Duration = Duration::from_secs(1);

/// A key may open so many WebSockets for each poll that it may make of one job.
const OPENS: u32 = 10;

/// How the service was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Loopback only, for trying out.
    Dev,
    /// Production.
    Serve,
}

/// Limits and doors of the HTTP floor.
#[derive(Debug, Clone)]
pub struct Options {
    /// How the service was started.
    pub mode: Mode,
    /// Paths of the operator's own.
    pub routes: Vec<Route>,
    /// `/metrics` needs no key; always so in dev mode.
    pub metrics_open: bool,
    /// The most bytes of a request body.
    pub body_limit: usize,
    /// The same for batches.
    pub batch_limit: usize,
    /// The same for a worker's result.
    pub result_limit: usize,
    /// How long a request body may take in all.
    pub body_deadline: Duration,
    /// The most bytes of a request head, and the most fields.
    pub head_limit: (usize, usize),
    /// Requests at work at once; deliberate waits do not count, nor does who is still sending the body.
    pub concurrency: usize,
    /// The most bytes of all bodies that are waited for.
    pub unread_bytes: usize,
    /// Polls a second for one key and job, above which a burst is answered 429. None: no limit.
    pub polls_per_second: Option<u32>,
    /// The most endpoints of one account, and of what belongs to none.
    pub endpoints_per_account: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            mode: Mode::Serve,
            routes: Vec::new(),
            metrics_open: false,
            body_limit: 256 * 1024,
            batch_limit: 4 * 1024 * 1024,
            result_limit: RESULT_MAX,
            body_deadline: Duration::from_secs(10),
            head_limit: (32 * 1024, 64),
            concurrency: 2_048,
            unread_bytes: 256 * 1024 * 1024,
            polls_per_second: Some(10),
            endpoints_per_account: 50,
        }
    }
}

/// Makes one attempt of a delivery that is in hand.
pub type Courier = Arc<dyn Fn(ClaimedDelivery) -> BoxFuture<'static, Attempted> + Send + Sync>;

/// The parts an [`App`] is made of.
pub struct Parts {
    /// The truth.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub dice: Dice,
    /// Nudges to and from the loops.
    pub wake: Wake,
    /// The figures.
    pub metrics: Metrics,
    /// Where callbacks may go.
    pub policy: UrlPolicy,
    /// Sends what is to be sent while someone waits for the outcome.
    pub courier: Courier,
    /// Limits and doors.
    pub options: Options,
    /// Cancelled when the service begins to stop; deliberate waits end with it.
    pub draining: CancellationToken,
}

/// What every handler can reach. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

/// See [`App`], which derefs to it.
pub struct Inner {
    /// What the app was made of.
    pub parts: Parts,
    /// Keys seen within the last second.
    pub(super) keys: KeyCache,
    /// Who polled how often.
    pub(super) pace: Pace,
    /// Who opened WebSockets how often.
    pub(super) opens: Pace,
    /// Who reports under tokens that are none.
    pub(super) strangers: Strangers,
    /// Who follows how much.
    pub(super) followers: Followers,
    /// Who follows which feed.
    pub(super) heads: Heads,
    /// Who watches which job.
    pub(super) hub: Hub,
    /// What is known of work that someone waits for.
    pub(super) looks: Looks,
    /// A place for each request at work.
    pub(super) slots: Arc<Semaphore>,
    /// KiB of request bodies that are waited for.
    pub(super) unread: Arc<Semaphore>,
    /// Counts real time for what lives in memory only, also where tests hold `clock` still.
    pub(super) real: Clock,
}

impl Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Deref for Inner {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl App {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> App {
        let slots = Arc::new(Semaphore::new(parts.options.concurrency));
        let unread = Arc::new(Semaphore::new(parts.options.unread_bytes / 1_024));
        let hub = Hub::default();
        parts.store.observed_by(Arc::new(hub.clone()));
        let polls = parts.options.polls_per_second;
        App(Arc::new(Inner {
            parts,
            keys: KeyCache::default(),
            pace: Pace::new(polls),
            opens: Pace::new(polls.map(|polls| polls.saturating_mul(OPENS))),
            strangers: Strangers::default(),
            followers: Followers::default(),
            heads: hub.feeds(),
            hub,
            looks: Looks::default(),
            slots,
            unread,
            real: Clock::system(),
        }))
    }

    /// The present instant, as the store will see it.
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// Waits for a store verb, never longer than the deadline.
    pub(super) async fn ask<T>(&self, verb: impl Future<Output = store::Result<T>>) -> Result<T, Problem> {
        Ok(in_time(verb).await??)
    }

    /// The same on a route that names a job, whose absence has a word of its own.
    pub(super) async fn ask_job<T>(
        &self,
        verb: impl Future<Output = store::Result<T>>,
    ) -> Result<T, Problem> {
        in_time(verb).await?.map_err(Problem::of_job)
    }

    /// Looks until nothing is `awaited`, or until `patience` runs out or the service stops; gives what was seen last.
    ///
    /// Told by the node's own look at all that is watched ([`Hub`]).
    pub(super) async fn watch<T, F: Future<Output = Result<T, Problem>>>(
        &self,
        (id, patience): (JobId, Duration),
        mut look: impl FnMut() -> F,
        awaited: impl Fn(&T) -> Option<Awaited>,
    ) -> Result<T, Problem> {
        let end = tokio::time::sleep(patience);
        tokio::pin!(end);
        let mut watcher = self.hub.watcher();
        if !patience.is_zero() {
            watcher.watch(id, 0)?;
        }
        loop {
            let seen = look().await?;
            let Some(Awaited { after, callback }) = awaited(&seen).filter(|_| !patience.is_zero()) else {
                return Ok(seen);
            };
            match after {
                Some(sequence) => watcher.watch(id, sequence)?,
                None => watcher.leave(id),
            }
            tokio::select! {
                biased;
                () = &mut end => return Ok(seen),
                () = self.draining.cancelled() => return Ok(seen),
                () = watcher.passed(after.unwrap_or_default()), if after.is_some() => {}
                () = tokio::time::sleep(CALLBACK_LOOK), if callback => {}
            }
        }
    }
}

/// What who waits for a job waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Awaited {
    /// An event of it beyond this sequence number. None of one that has ended: the hub would ring for it again and again.
    after: Option<i64>,
    /// ... or a change of its callback's state, which makes no event and is looked for.
    callback: bool,
}

impl Awaited {
    /// The next event of a job; None of one that has ended.
    pub(super) fn event_of(job: &Job) -> Option<Awaited> {
        (!job.state.ended()).then_some(Awaited { after: Some(job.sequence), callback: false })
    }

    /// The same, or a change of the callback's state, which one that has ended may see too.
    pub(super) fn change_of(job: &Job) -> Awaited {
        Awaited { after: (!job.state.ended()).then_some(job.sequence), callback: true }
    }
}

async fn in_time<T>(verb: impl Future<Output = T>) -> Result<T, Problem> {
    tokio::time::timeout(STORE_DEADLINE, verb).await.map_err(|_| {
        static SAID: Seldom = Seldom::new();
        if let Some(requests) = SAID.turn() {
            tracing::warn!(requests, "the store took longer than a request may wait");
        }
        Problem::new(ProblemCode::StorageUnavailable)
    })
}
