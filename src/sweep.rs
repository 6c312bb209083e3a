//! What any node does now and then: ends what is overdue, works off redrives, removes what is old,
//! and keeps the clock in step with the store's.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::store::{Result, Retained, Store};
use crate::types::Millis;
use crate::wake::Wake;

/// Between two looks for what is overdue.
const TICK: Duration = Duration::from_secs(1);
/// Between two bites of retention when there was nothing to remove, or it could not be removed.
const RETAIN_EVERY: Duration = Duration::from_secs(60);
/// Between two looks at the nodes that are gone, and at what is about to be past its retention and still needed.
const KEEP_EVERY: Duration = Duration::from_secs(60);
/// Between two saves of what was learned from ended jobs.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Between two measurements of the clock.
const FOLLOW_EVERY: Duration = Duration::from_secs(5);
/// Steps and bites of one tick.
const STEPS: usize = 10;
/// A bite that failed is made smaller down to so many rows; then it is tried again as if nothing were left.
const BITE_MIN: u32 = 50;
/// What redrives get of a tick: many at once, each at its rate, need many steps.
const REDRIVE_FOR: Duration = Duration::from_millis(500);
/// A node that has been dead for so long is forgotten.
const FORGET_NODES: Duration = Duration::from_secs(3600);

/// The sweep of one node.
pub struct Sweep {
    store: Store,
    clock: Clock,
    wake: Wake,
    retained: [Bite; Retained::ALL.len()],
    kept: Option<Millis>,
    saved: Option<Millis>,
}

impl Sweep {
    /// A sweep that has not looked yet.
    pub fn new(store: Store, clock: Clock, wake: Wake) -> Sweep {
        let retained = Retained::ALL.map(|what| Bite { what, rows: Store::BITE, done: None });
        Sweep { store, clock, wake, retained, kept: None, saved: None }
    }

    /// Repeats `tick` every second until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if let Err(e) = self.tick().await {
                tracing::warn!(error = %e, "the sweep cannot use the store");
            }
            let _ = tokio::time::timeout(TICK, shutdown.cancelled()).await;
        }
        if let Err(e) = self.save(self.clock.now()).await {
            tracing::warn!(error = %e, "what the last jobs told is lost");
        }
    }

    /// One look. A part that fails does not keep the others from their turn.
    pub async fn tick(&mut self) -> Result<()> {
        let now = self.clock.now();
        let worked = match self.store.anything_overdue(now).await {
            Ok(true) => self.work_off(now).await,
            nothing => nothing.map(drop),
        };
        let kept = match is_time(self.kept, KEEP_EVERY, now) {
            true => self.keep_needed(now).await,
            false => Ok(()),
        };
        let mut retained = Ok(());
        for bite in self.retained.iter_mut().filter(|bite| is_time(bite.done, RETAIN_EVERY, now)) {
            retained = retained.and(bite.take(&self.store, now).await);
        }
        let saved = match is_time(self.saved, SAVE_EVERY, now) {
            true => self.save(now).await,
            false => Ok(()),
        };
        worked.and(kept).and(retained).and(saved)
    }

    async fn work_off(&self, now: Millis) -> Result<()> {
        let ended = self.end_overdue(now).await;
        let expired = self.end_expired(now).await;
        let redriven = self.redrive().await;
        let drained = self.drain(now).await;
        let told = self.fan_out(now).await;
        ended.and(expired).and(redriven).and(drained).and(told)
    }

    async fn end_overdue(&self, now: Millis) -> Result<()> {
        for _ in 0..STEPS {
            let found = self.store.end_overdue(now).await?;
            if found > 0 {
                self.wake.jobs.nudge();
                self.wake.deliveries.nudge();
            }
            if found < Store::BITE as usize {
                break;
            }
        }
        Ok(())
    }

    async fn end_expired(&self, now: Millis) -> Result<()> {
        for _ in 0..STEPS {
            let found = self.store.end_expired(now).await?;
            if found > 0 {
                self.wake.deliveries.nudge();
            }
            if found < Store::BITE as usize {
                break;
            }
        }
        Ok(())
    }

    async fn redrive(&self) -> Result<()> {
        let until = Instant::now() + REDRIVE_FOR;
        // By the instant of each step, so that all of a tenant's get on.
        while Instant::now() < until && self.store.step_redrive(self.clock.now()).await? {
            self.wake.deliveries.nudge();
        }
        Ok(())
    }

    /// What endpoints were resumed or deleted leave behind.
    async fn drain(&self, now: Millis) -> Result<()> {
        if self.store.step_drains(now).await? > 0 {
            self.wake.deliveries.nudge();
        }
        Ok(())
    }

    /// The endpoints that are still to be told of an event.
    async fn fan_out(&self, now: Millis) -> Result<()> {
        for _ in 0..STEPS {
            if self.store.step_fan_outs(now).await? == 0 {
                break;
            }
            self.wake.deliveries.nudge();
        }
        Ok(())
    }

    async fn save(&mut self, now: Millis) -> Result<()> {
        for _ in 0..STEPS {
            if self.store.save_learned(now).await? == 0 {
                break;
            }
        }
        self.saved = Some(now);
        Ok(())
    }

    async fn keep_needed(&mut self, now: Millis) -> Result<()> {
        let forgotten = self.store.forget_nodes(now.minus(FORGET_NODES)).await;
        self.store.keep_needed(now).await?;
        self.kept = Some(now);
        forgotten.map(drop)
    }
}

/// How retention gets on with one kind of row; what cannot be removed keeps nothing of another kind.
struct Bite {
    what: Retained,
    rows: u32,
    /// When nothing was left, or could be removed.
    done: Option<Millis>,
}

impl Bite {
    async fn take(&mut self, store: &Store, now: Millis) -> Result<()> {
        for _ in 0..STEPS {
            match store.retain(self.what, now, self.rows).await {
                Ok(0) => {
                    self.done = Some(now);
                    break;
                }
                Ok(_) => self.rows = (self.rows * 2).min(Store::BITE),
                Err(e) => {
                    tracing::warn!(what = ?self.what, rows = self.rows, error = %e, "a bite of retention failed");
                    // It may have been too much at a time.
                    match self.rows > BITE_MIN {
                        true => self.rows = (self.rows / 4).max(BITE_MIN),
                        false => self.done = Some(now),
                    }
                    return Err(e);
                }
            }
        }
        Ok(())
    }
}

/// Whether what was last done then is to be done again; a clock that stepped back says nothing of it.
fn is_time(last: Option<Millis>, every: Duration, now: Millis) -> bool {
    last.is_none_or(|at| now < at || now.since(at) >= every)
}

/// How often a wall clock must be far off before it is believed: someone may only have set it wrong.
const WALL_BELIEVED_AFTER: i64 = 12;
/// The same for a database's clock, by which all nodes go: a second answer rules out a slow one.
const SERVER_BELIEVED_AFTER: i64 = 2;

/// Keeps `clock` in step with the database's, or with the machine's on SQLite.
pub async fn follow_clock(store: Store, clock: Clock, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        let back = match reference(&store, &clock).await {
            Some(server) => clock.follow(server, SERVER_BELIEVED_AFTER),
            None if !store.has_clock() => clock.follow(Clock::wall(), WALL_BELIEVED_AFTER),
            None => Duration::ZERO,
        };
        if !back.is_zero() {
            // Nothing stored is moved: what was written before the clock went wrong, or is due when someone said, is right.
            tracing::warn!(
                seconds = back.as_secs(),
                "the clock was set back; what was stored by the time before is due so much later"
            );
        }
        let _ = tokio::time::timeout(FOLLOW_EVERY, shutdown.cancelled()).await;
    }
}

/// The instant it is now by the store's own clock; a slow answer tells too little and is not used.
pub async fn reference(store: &Store, clock: &Clock) -> Option<Millis> {
    let asked = clock.now();
    let time = store.server_time().await.ok()??;
    let took = clock.now().since(asked);
    (took < Duration::from_millis(500)).then(|| time.plus(took / 2))
}
