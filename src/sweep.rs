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
/// Between two saves of what was learned from ended jobs.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Between two measurements of the clock.
const FOLLOW_EVERY: Duration = Duration::from_secs(5);
/// Steps and bites of one tick.
const STEPS: usize = 10;
/// What redrives get of a tick: many at once, each at its rate, need many steps.
const REDRIVE_FOR: Duration = Duration::from_millis(500);
/// A node that has been dead for so long is forgotten.
const FORGET_NODES: Duration = Duration::from_secs(3600);

/// The sweep of one node.
pub struct Sweep {
    store: Store,
    clock: Clock,
    wake: Wake,
    retained: Option<Millis>,
    bite: u32,
    kept: Option<Millis>,
    saved: Option<Millis>,
}

impl Sweep {
    /// A sweep that has not looked yet.
    pub fn new(store: Store, clock: Clock, wake: Wake) -> Sweep {
        Sweep { store, clock, wake, retained: None, bite: Store::BITE, kept: None, saved: None }
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
        let kept = match is_time(self.kept, RETAIN_EVERY, now) {
            true => self.keep_needed(now).await,
            false => Ok(()),
        };
        let retained = match is_time(self.retained, RETAIN_EVERY, now) {
            true => self.retain(now).await,
            false => Ok(()),
        };
        let saved = match is_time(self.saved, SAVE_EVERY, now) {
            true => self.save(now).await,
            false => Ok(()),
        };
        worked.and(kept).and(retained).and(saved)
    }

    async fn work_off(&self, now: Millis) -> Result<()> {
        let ended = self.end_overdue(now).await;
        let expired = self.end_expired(now).await;
        let redriven = self.redrive(now).await;
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

    async fn redrive(&self, now: Millis) -> Result<()> {
        let began = self.clock.now();
        while self.clock.now().since(began) < REDRIVE_FOR && self.store.step_redrive(now).await? {
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
        self.store.keep_needed(now).await?;
        self.kept = Some(now);
        Ok(())
    }

    async fn retain(&mut self, now: Millis) -> Result<()> {
        let forgotten = self.store.forget_nodes(now.minus(FORGET_NODES)).await;
        for _ in 0..STEPS {
            match self.store.retain(now, self.bite).await {
                Ok(0) => {
                    self.retained = Some(now);
                    break;
                }
                Ok(_) => self.bite = (self.bite * 2).min(Store::BITE),
                // It may have been too much at a time.
                Err(e) => {
                    self.bite = (self.bite / 4).max(1);
                    return Err(e);
                }
            }
        }
        forgotten.map(drop)
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
