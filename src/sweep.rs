//! What any node does now and then: ends what is overdue, works off redrives, removes what is old,
//! and keeps the clock in step with the store's.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::store::{Result, Store};
use crate::types::Millis;
use crate::wake::Wake;

/// Between two looks for what is overdue.
const TICK: Duration = Duration::from_secs(1);
/// Between two bites of retention when there was nothing to remove.
const RETAIN_EVERY: Duration = Duration::from_secs(60);
/// Between two measurements of the clock.
const FOLLOW_EVERY: Duration = Duration::from_secs(5);
/// Redrive steps and bites of one tick.
const STEPS: usize = 10;
/// A node that has been dead for so long is forgotten.
const FORGET_NODES: Duration = Duration::from_secs(3600);

/// The sweep of one node.
pub struct Sweep {
    store: Store,
    clock: Clock,
    wake: Wake,
    retained: Option<Millis>,
}

impl Sweep {
    /// A sweep that has not looked yet.
    pub fn new(store: Store, clock: Clock, wake: Wake) -> Sweep {
        Sweep { store, clock, wake, retained: None }
    }

    /// Repeats `tick` every second until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if let Err(e) = self.tick().await {
                tracing::warn!(error = %e, "the sweep cannot use the store");
            }
            let _ = tokio::time::timeout(TICK, shutdown.cancelled()).await;
        }
    }

    /// One look.
    pub async fn tick(&mut self) -> Result<()> {
        let now = self.clock.now();
        if self.store.end_overdue(now).await? > 0 {
            self.wake.jobs.nudge();
            self.wake.deliveries.nudge();
        }
        for _ in 0..STEPS {
            if !self.store.step_redrive(now).await? {
                break;
            }
            self.wake.deliveries.nudge();
        }
        if self.retained.is_none_or(|at| now < at || now.since(at) >= RETAIN_EVERY) {
            self.retain(now).await?;
        }
        Ok(())
    }

    async fn retain(&mut self, now: Millis) -> Result<()> {
        self.store.forget_nodes(now.minus(FORGET_NODES)).await?;
        for _ in 0..STEPS {
            if self.store.retain(now).await? == 0 {
                self.retained = Some(now);
                break;
            }
        }
        Ok(())
    }
}

/// Keeps `clock` in step with the database's, or with the machine's on SQLite.
pub async fn follow_clock(store: Store, clock: Clock, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        if let Some(reference) = reference(&store, &clock).await {
            clock.follow(reference);
        }
        let _ = tokio::time::timeout(FOLLOW_EVERY, shutdown.cancelled()).await;
    }
}

/// The instant it is now by the reference; a slow answer tells too little and is not used.
async fn reference(store: &Store, clock: &Clock) -> Option<Millis> {
    let asked = clock.now();
    let answer = store.server_time().await.ok()?;
    let took = clock.now().since(asked);
    match answer {
        None => Some(Clock::wall()),
        Some(time) if took < Duration::from_millis(500) => Some(time.plus(took / 2)),
        Some(_) => None,
    }
}
