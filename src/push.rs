//! Push workers: an HTTP endpoint does the work of a queue. `tick` = watch what is under way -> see who has due
//! jobs -> claim fairly -> (sign -> send -> judge -> report) each.
//!
//! One loop a queue with slots of its own: a slow or dead worker harms no other. A claim is a lease like any
//! worker's, short and renewed for as long as the request is under way: a node that dies gives its jobs back
//! within [`LEASE`], however long they may take. Nothing is kept here that the store does not know.

mod attempt;
mod desk;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::egress::Sender;
use crate::metrics::Metrics;
use crate::store::{Error, LeaseRequest, LeasedJob, Result, Store, Tour};
use crate::types::target::CallbackUrl;
use crate::types::{Millis, TenantId};
use crate::wake::{Nudge, Wake};
use attempt::Errand;
use desk::{Desk, Running};

/// One queue and the endpoint that does its work.
#[derive(Debug, Clone)]
pub struct Options {
    /// The queue, of every tenant.
    pub queue: String,
    /// Where its jobs are POSTed; checked under the worker's own policy.
    pub url: CallbackUrl,
    /// What is POSTed.
    pub body: Body,
    /// How many jobs it is given at a time.
    pub max_in_flight: usize,
}

/// What a worker is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// The input as it was submitted.
    Input,
    /// The job as a pull worker would claim it.
    Job,
}

/// How long a job stays with a node that died; renewed while the request is under way.
const LEASE: Duration = Duration::from_secs(30);
/// A lease is renewed when it is so old.
const RENEW: Duration = Duration::from_secs(10);
/// No request is written when less of the lease is left.
const SPARE: Duration = Duration::from_secs(5);
/// A heartbeat of a worker that completes later holds the lease for so long, unless it says otherwise.
const HEARTBEAT_SECONDS: u32 = 3_600;
/// Two looks at what is under way are at least so far apart ...
const WATCH: Duration = Duration::from_millis(250);
/// ... and two looks for work: submissions of other queues nudge too.
const SPACING: Duration = Duration::from_millis(10);
/// The longest wait between two looks; other nodes' commits bring no nudge.
const POLL: Duration = Duration::from_millis(500);
/// A look that found the store away is repeated after this long.
const STORE_AWAY: Duration = Duration::from_secs(1);
/// Tenants asked for work beyond the free slots.
const LOOK: usize = 64;
/// Tenants visited in one look for those that have work; the next look goes on from there.
const VISITS: u32 = 10_000;
/// What is in flight at a stop may end within this time.
const GRACE: Duration = Duration::from_secs(20);

/// The loop of one queue. Cheap to clone.
#[derive(Clone)]
pub struct Push(Arc<Inner>);

/// What every loop of a node shares.
#[derive(Clone)]
pub struct Tools {
    /// The truth.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Told when a job has changed.
    pub wake: Wake,
    /// The figures.
    pub metrics: Metrics,
}

struct Inner {
    tools: Tools,
    sender: Sender,
    options: Options,
    desk: Mutex<Desk>,
    /// When it was last looked how the jobs under way stand; by the process's own clock, for it only spares the store.
    watched: Mutex<Option<Instant>>,
    errands: TaskTracker,
    /// A slot is free again.
    freed: Nudge,
    /// No request is begun any more.
    stopping: CancellationToken,
    /// The grace is over: what is still under way is given back.
    over: CancellationToken,
}

impl Push {
    /// A loop that holds nothing yet. `sender` has the worker's own policy.
    pub fn new(tools: Tools, sender: Sender, options: Options) -> Push {
        tools.metrics.push_in_flight(&options.queue, 0);
        Push(Arc::new(Inner {
            tools,
            sender,
            options,
            desk: Mutex::default(),
            watched: Mutex::default(),
            errands: TaskTracker::new(),
            freed: Nudge::default(),
            stopping: CancellationToken::new(),
            over: CancellationToken::new(),
        }))
    }

    /// Repeats `tick`, then waits for a nudge or the poll.
    ///
    /// After `shutdown` nothing is claimed or begun; what is under way may end within 20 s.
    pub async fn run(&self, shutdown: CancellationToken) {
        let inner = &self.0;
        while !shutdown.is_cancelled() {
            let began = Instant::now();
            let (jobs, freed) = (inner.tools.wake.jobs.listen(), inner.freed.listen());
            let ticked = self.tick().await;
            // A look that is dear (many tenants, a slow store) comes more seldom.
            let next = began + SPACING.max(began.elapsed() * 3).min(POLL);
            let wait = match ticked {
                Ok(true) => Duration::ZERO,
                Ok(false) => POLL,
                Err(e) => {
                    tracing::warn!(queue = %inner.options.queue, error = %e, "a push queue cannot use the store");
                    STORE_AWAY
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = jobs.wait(wait) => {}
                _ = freed.wait(wait) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep_until(next) => {}
            }
        }
        inner.wind_up().await;
    }

    /// One look: drops what is to end, renews what goes on, claims what is due as far as slots reach. True if
    /// there may be more to do at once.
    pub async fn tick(&self) -> Result<bool> {
        let inner = &self.0;
        inner.watch().await?;
        let now = inner.tools.clock.now();
        let mut left = inner.desk().free(inner.options.max_in_flight, now);
        if left == 0 {
            return Ok(false);
        }
        let (queue, turn) = (inner.options.queue.as_str(), inner.desk().turn);
        // More than there are slots: some of them may have paused the queue, or filled it.
        let most = u32::try_from(left + LOOK).unwrap_or(u32::MAX);
        let tour = Tour { after: turn, most, visits: VISITS };
        let tenants = inner.tools.store.tenants_due(queue, tour, now).await?;
        let mut any = false;
        for (i, tenant) in tenants.iter().enumerate() {
            if left == 0 {
                break;
            }
            // Its turn is over whatever comes of it, so that no tenant's trouble keeps the others waiting.
            inner.desk().turn = Some(*tenant);
            // Its share; what one leaves, the next look gives to the others.
            let request = inner.request(*tenant, left.div_ceil(tenants.len() - i));
            let jobs = match inner.claim(request, now).await {
                Ok(jobs) => jobs,
                Err(e @ (Error::Down(_) | Error::Overloaded)) => return Err(e),
                Err(e) => {
                    tracing::warn!(queue, tenant = %tenant, error = %e, "a tenant's jobs cannot be claimed");
                    continue;
                }
            };
            left = left.saturating_sub(jobs.len());
            any |= !jobs.is_empty();
            jobs.into_iter().for_each(|job| inner.start(*tenant, job));
        }
        Ok(any)
    }
}

impl Inner {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watched(&self) -> MutexGuard<'_, Option<Instant>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, tenant: TenantId, most: usize) -> LeaseRequest {
        LeaseRequest {
            tenant,
            queue: self.options.queue.clone(),
            types: Vec::new(),
            max: u32::try_from(most).unwrap_or(u32::MAX),
            lease_seconds: whole_seconds(LEASE),
            renew_seconds: Some(HEARTBEAT_SECONDS),
            worker_id: Some("push".to_owned()),
        }
    }

    /// Looks before it claims: a queue that is paused or full costs no write.
    async fn claim(&self, request: LeaseRequest, now: Millis) -> Result<Vec<LeasedJob>> {
        if !self.tools.store.any_due(&request, now).await? {
            return Ok(Vec::new());
        }
        self.tools.store.lease(request, now).await
    }

    fn start(self: &Arc<Self>, tenant: TenantId, leased: LeasedJob) {
        let job = leased.job;
        let hold = (job.job_id, job.lease_token.fence);
        let drop = CancellationToken::new();
        let running = Running { tenant, token: job.lease_token, renewed: Instant::now(), drop: drop.clone() };
        let now = self.tools.clock.now();
        self.desk().start(hold, running, now);
        self.count();
        let errand =
            Errand { inner: self.clone(), slot: Slot { inner: self.clone(), hold }, tenant, job, drop };
        self.errands.spawn(errand.run());
    }

    /// Looks how the jobs under way stand: those that are to end are dropped, the leases of the others renewed.
    async fn watch(&self) -> Result<()> {
        let at = Instant::now();
        let lately = self.watched().is_some_and(|last| at.duration_since(last) < WATCH);
        let jobs = self.desk().jobs();
        if lately || jobs.is_empty() {
            return Ok(());
        }
        *self.watched() = Some(at);
        let found = self.tools.store.holdings(&jobs).await?;
        self.desk().compare(&jobs, &found);
        let renewals = self.desk().renewals(RENEW, whole_seconds(LEASE), at);
        if renewals.is_empty() {
            return Ok(());
        }
        let answers = self.tools.store.change(renewals.clone(), self.tools.clock.now()).await?;
        self.desk().renewed(&renewals, at);
        for (renewal, answer) in renewals.iter().zip(answers) {
            if let Err(e) = answer
                && !matches!(e, Error::LeaseLost | Error::NotFound | Error::Expired)
            {
                tracing::warn!(job.id = %renewal.id, error = %e, "a lease could not be renewed");
            }
        }
        Ok(())
    }

    /// The grace is over, and with it the time to say so.
    async fn over(&self) {
        self.over.cancelled().await;
        tokio::time::sleep(STORE_AWAY).await;
    }

    /// Lets what is under way end, its leases renewed, within the grace.
    async fn wind_up(&self) {
        self.stopping.cancel();
        self.errands.close();
        let until = Instant::now() + GRACE;
        while !self.errands.is_empty() && Instant::now() < until {
            if timeout(POLL, self.errands.wait()).await.is_err()
                && let Err(e) = self.watch().await
            {
                tracing::warn!(queue = %self.options.queue, error = %e, "leases are not renewed");
            }
        }
        self.over.cancel();
        let _ = timeout(STORE_AWAY, self.errands.wait()).await;
    }

    fn count(&self) {
        self.tools.metrics.push_in_flight(&self.options.queue, self.desk().in_flight());
    }

    fn learn(&self, outcome: &crate::types::delivery::Outcome) {
        let now: Millis = self.tools.clock.now();
        self.desk().learn(outcome, now);
    }
}

/// A slot of the queue; dropped it is free again.
struct Slot {
    inner: Arc<Inner>,
    hold: desk::Hold,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.inner.desk().done(self.hold);
        self.inner.count();
        self.inner.freed.nudge();
    }
}

fn whole_seconds(d: Duration) -> u32 {
    u32::try_from(d.as_secs()).unwrap_or(u32::MAX)
}
