//! Delivers what is owed: `tick` = find what is due -> claim -> (sign -> send -> judge -> record) each.
//!
//! The intent of an attempt is committed by the claim, before the first byte leaves. What a
//! process does not record comes back by its lease, and its attempt is written as `unknown`.

mod attempt;
mod beat;
mod claim;
mod courier;
mod desk;
mod hand;
mod hide;
pub mod lanes;
mod pace;
mod send;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::egress::Sender;
use crate::metrics::Metrics;
use crate::store::{Result, Store};
use crate::types::Millis;
use crate::types::id::NodeId;
use crate::types::target::UrlPolicy;
use crate::wake::Wake;
use beat::Stir;
pub use courier::Courier;
use desk::Desk;
use lanes::Lanes;
use pace::{Pace, Seen};

/// How the dispatcher works.
#[derive(Debug, Clone)]
pub struct Options {
    /// The whole attempt, body included; 15 s.
    pub deadline: Duration,
    /// Added to the deadline for the lease; 15 s.
    pub margin: Duration,
    /// The URL policy under which stored URLs are checked again.
    pub policy: UrlPolicy,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            deadline: Duration::from_secs(15),
            margin: Duration::from_secs(15),
            policy: UrlPolicy::default(),
        }
    }
}

/// The longest wait between two looks; other nodes' commits bring no nudge.
const POLL: Duration = Duration::from_millis(500);
/// A look that found the store away is repeated after this long.
const STORE_AWAY: Duration = Duration::from_secs(1);
/// What someone set for a lane is taken over within this time.
const HEED: Duration = Duration::from_secs(1);
/// So much earlier than the last look at what is set the next one begins: clocks differ, commits take time.
const HEED_AGAIN: Duration = Duration::from_secs(5);
/// This node's sign of life, and the pass without a floor.
const BEAT: Duration = Duration::from_secs(5);
/// A node is dead so long after its last sign of life.
const ALIVE: Duration = Duration::from_secs(15);
/// A commit takes no longer than this, or the pass without a floor finds its rows.
const LONGEST_COMMIT: Duration = Duration::from_millis(1_000);
/// Due deliveries read in one look.
const LOOK: u32 = 2_000;
/// What is in flight at a stop may end within this time.
const GRACE: Duration = Duration::from_secs(20);

/// The dispatcher of one node. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher(Arc<Inner>);

struct Inner {
    store: Store,
    courier: Courier,
    clock: Clock,
    wake: Wake,
    metrics: Metrics,
    options: Options,
    node: NodeId,
    lanes: Mutex<Lanes>,
    sends: TaskTracker,
    runtime: Handle,
    /// Outcomes that are still to be written.
    unwritten: AtomicUsize,
    looked: Mutex<Looked>,
    hand: Mutex<hand::Hand>,
    /// Of the bodies in it.
    hand_bytes: AtomicUsize,
    largest_body: AtomicUsize,
    stopping: CancellationToken,
}

#[derive(Default)]
struct Looked {
    /// The next look begins behind it.
    floor: Millis,
    /// When the last beat was.
    beat: Option<Millis>,
    /// When the last look at what is set was.
    heeded: Option<Millis>,
    /// The last look saw nothing.
    at_rest: bool,
    /// The next beat must not wait for its time.
    anew: bool,
    /// The pass without a floor, if one is under way.
    stir: Option<Stir>,
}

impl Looked {
    /// Where the next look begins, after one that ended at `last`, or at `now` when it saw all.
    fn after(&mut self, floor: Millis, last: Option<Millis>, now: Millis) {
        let millisecond = Duration::from_millis(1);
        match last {
            None => self.floor = now.minus(LONGEST_COMMIT),
            // More may be due at that very instant.
            Some(last) if last.minus(millisecond) > floor => self.floor = last.minus(millisecond),
            // A whole look of one instant: to look there again would show the same for ever. The pass
            // without a floor finds the rest.
            Some(last) => {
                self.floor = last;
                self.anew = true;
            }
        }
    }
}

impl Dispatcher {
    /// A dispatcher that owns nothing yet. It sends on the runtime on which it is made.
    pub fn new(
        store: Store,
        sender: Sender,
        clock: Clock,
        wake: Wake,
        metrics: Metrics,
        node: NodeId,
        options: Options,
    ) -> Dispatcher {
        let courier = Courier::new(store.clone(), sender, clock.clone(), options.clone());
        let dispatcher = Dispatcher(Arc::new(Inner {
            store,
            courier,
            clock,
            wake,
            metrics,
            options,
            node,
            lanes: Mutex::default(),
            sends: TaskTracker::new(),
            runtime: Handle::current(),
            unwritten: AtomicUsize::new(0),
            looked: Mutex::default(),
            hand: Mutex::default(),
            hand_bytes: AtomicUsize::new(0),
            largest_body: AtomicUsize::new(claim::BODY_BYTES),
            stopping: CancellationToken::new(),
        }));
        dispatcher.0.store.hand_over_to(Arc::new(Desk(Arc::downgrade(&dispatcher.0))));
        dispatcher
    }

    /// The first sign of life: from here on the fleet counts this node.
    pub async fn arrive(&self) -> Result<()> {
        self.0.store.keep_alive(self.0.node, self.0.clock.now().plus(ALIVE)).await
    }

    /// Repeats `tick`, then waits for a nudge, the next due time or the poll.
    ///
    /// After `shutdown` nothing new is claimed; what is in flight may end within 20 s, and each
    /// lane is free for others once nothing of it is in flight.
    pub async fn run(&self, shutdown: CancellationToken) {
        let inner = &self.0;
        if let Err(e) = inner.store.void_old_leases(inner.node, inner.clock.now()).await {
            tracing::warn!(error = %e, "old leases stand until they run out");
        }
        let mut pace = Pace::default();
        while !shutdown.is_cancelled() {
            let nudge = inner.wake.deliveries.listen();
            let wait = match self.pass(&mut pace).await {
                Ok(true) => Duration::ZERO,
                Ok(false) => self.pause(&pace),
                Err(e) => {
                    tracing::warn!(error = %e, "the dispatcher cannot read the store");
                    // What was taken in hand and not claimed lies behind the floor by now.
                    inner.looked().anew = true;
                    STORE_AWAY
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = nudge.wait(wait) => {}
            }
        }
        inner.stopping.cancel();
        inner.empty_hands();
        inner.sends.close();
        let _ = timeout(GRACE, self.hand_on()).await;
        // How the lanes stand now, for who has them next.
        self.release().await;
        let _ = inner.store.leave(inner.node).await;
    }

    /// Waits for what is in flight, and lets each lane go once nothing of it is: none waits for another's receiver.
    async fn hand_on(&self) {
        let inner = &self.0;
        // The last sign of life: nobody takes over what is in flight.
        let _ = inner.store.keep_alive(inner.node, inner.clock.now().plus(GRACE)).await;
        inner.lanes().leave();
        loop {
            let nudge = inner.wake.deliveries.listen();
            self.release().await;
            tokio::select! {
                () = inner.sends.wait() => return,
                _ = nudge.wait(BEAT) => {}
            }
        }
    }

    async fn release(&self) {
        let save = self.0.lanes().to_save(self.0.clock.now());
        let _ = self.save(save).await;
    }

    /// One look at the store: claims what is due in this node's lanes and starts to send it.
    /// True if there is more to do at once.
    pub async fn tick(&self) -> Result<bool> {
        self.pass(&mut Pace::default()).await
    }

    /// The same, with a look only if it is time for one.
    async fn pass(&self, pace: &mut Pace) -> Result<bool> {
        let inner = &self.0;
        let now = inner.clock.now();
        // First: what is written down of a lane must not put back what someone has put an end to.
        self.heed(now).await?;
        self.beat(now).await?;
        self.stir(now).await?;
        self.save_urgent().await?;
        if pace.is_time_to_serve(inner.lanes().in_hand() > 0) {
            inner.serve_all();
        }
        let mut more = false;
        if pace.is_time() {
            let began = Instant::now();
            let seen = self.look(now).await?;
            more = seen.full;
            pace.looked(began, &seen);
        }
        more |= self.feed(now).await?;
        // What is claimed is leased from the claim on, and all of this may have taken its time.
        let now = inner.clock.now();
        let (slots, hand) = inner.pick(now);
        if slots.is_empty() && hand.is_empty() {
            return Ok(more);
        }
        self.claim(slots, hand, now).await?;
        Ok(true)
    }

    /// Waits until nothing is in flight. For tests, which then look at what came of it.
    pub async fn settle(&self) {
        loop {
            let nudge = self.0.wake.deliveries.listen();
            let resting = {
                let lanes = self.0.lanes();
                lanes.in_flight() + lanes.in_hand() == 0
            };
            if resting && self.0.unwritten.load(Ordering::Relaxed) == 0 {
                return;
            }
            nudge.wait(POLL).await;
        }
    }

    /// Takes note of what fell due since the last look.
    async fn look(&self, now: Millis) -> Result<Seen> {
        let inner = &self.0;
        let (floor, at_rest) = {
            let mut looked = inner.looked();
            if looked.floor > now {
                looked.floor = Millis(0);
            }
            (looked.floor, std::mem::replace(&mut looked.at_rest, false))
        };
        // At rest that is all there is to ask.
        if at_rest {
            let next = inner.store.next_due(floor, now.plus(POLL)).await?;
            if next.is_none_or(|at| at > now) {
                let mut looked = inner.looked();
                looked.after(floor, None, now);
                looked.at_rest = true;
                return Ok(Seen { next_due: next, ..Seen::default() });
            }
        }
        let due = inner.store.due(floor, now, LOOK).await?;
        let full = due.len() == LOOK as usize;
        let last = due.last().filter(|_| full).map(|d| d.due_at);
        {
            let mut looked = inner.looked();
            looked.after(floor, last, now);
            looked.at_rest = due.is_empty();
        }
        let (unowned, grown) = inner.lanes().grown_by(|lanes| lanes.offer(due.clone(), now));
        let stale = !full && !due.is_empty() && unowned.is_empty() && !grown;
        if !unowned.is_empty() {
            self.own(unowned, true, now).await?;
            inner.lanes().offer(due, now);
        }
        let next_due = if full { None } else { inner.store.next_due(now, now.plus(POLL)).await? };
        Ok(Seen { full, stale, next_due })
    }

    /// How long there is nothing to do as far as this node knows.
    fn pause(&self, pace: &Pace) -> Duration {
        let now = self.0.clock.now();
        let look = pace.rest().or(pace.next_due.map(|at| at.since(now)));
        let opens = self.0.lanes().opens_at().map(|at| at.since(now));
        let stir = self.0.looked().stir.map(Stir::rests);
        [look, opens, stir].into_iter().flatten().min().map_or(POLL, |wait| wait.min(POLL))
    }
}

impl Inner {
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looked(&self) -> MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
