//! What becomes of a claimed delivery: it is sent, and its outcome is written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::desk::Slot;
use super::lanes::PATIENCE;
use super::{Inner, attempt};
use crate::store::{Attempted, ClaimedDelivery, Error};

/// With so many outcomes still to be written an attempt keeps its slot until its own is: a store that is away holds
/// up new requests.
const MANY: usize = 1_024;

/// So long after its lease an outcome is still offered to a store that was away: until someone claims the delivery, it is
/// taken, and the receiver need not get it again.
const OFFERED: Duration = Duration::from_secs(120);

/// An outcome that is still to be written.
struct Unwritten(Arc<Inner>);

impl Unwritten {
    fn begin(inner: &Arc<Inner>) -> Unwritten {
        inner.unwritten.fetch_add(1, Ordering::Relaxed);
        Unwritten(inner.clone())
    }

    fn are_many(&self) -> bool {
        self.0.unwritten.load(Ordering::Relaxed) > MANY
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        if self.0.unwritten.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Someone may wait for silence.
            self.0.wake.deliveries.nudge();
        }
    }
}

impl Inner {
    /// Runs it on the runtime of the dispatcher, whoever begins it: the store does so on its writers' threads, which are to write, with
    /// runtimes of their own.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.sends.spawn_on(task, &self.runtime);
    }

    /// Sends what a slot is taken for.
    pub(super) fn begin(self: &Arc<Self>, d: ClaimedDelivery) {
        let slot = Slot { inner: self.clone(), lane: d.lane, turn: d.turn, delivery: Some(d.id) };
        self.start(d, slot);
    }

    /// Sends what has that slot.
    pub(super) fn start(self: &Arc<Self>, d: ClaimedDelivery, slot: Slot) {
        let inner = self.clone();
        self.spawn(async move {
            // Boxed: a task is moved about on its way to its thread, with all the room that it may need.
            let mut attempt = Box::pin(inner.courier.attempt(&d));
            let attempted = match timeout(PATIENCE, &mut attempt).await {
                Ok(attempted) => attempted,
                Err(_) => {
                    inner.lanes().waits(d.lane);
                    attempt.await
                }
            };
            if let Some(exchange) = &attempted.exchange {
                let of = (d.lane, d.turn, d.id);
                inner.lanes().learn(of, &exchange.outcome, exchange.duration, inner.clock.now());
            } else {
                inner.lanes().unsent(d.lane);
            }
            let unwritten = Unwritten::begin(&inner);
            // The receiver has answered: the next one need not wait for the disk. Only in order it must, for the store
            // tells of the next one when this one is written.
            if unwritten.are_many() || inner.lanes().in_order(d.lane) {
                inner.record(&d, attempted).await;
                slot.free();
            } else {
                slot.free();
                inner.record(&d, attempted).await;
            }
        });
    }

    /// Writes the outcome. Once the lease has run out it is only offered to a store that was away.
    async fn record(&self, d: &ClaimedDelivery, attempted: Attempted) {
        let until = |e: &Error| match e {
            Error::Down(_) | Error::Overloaded => d.lease_until.plus(OFFERED),
            _ => d.lease_until,
        };
        loop {
            match self.store.record(vec![attempted.clone()], self.clock.now()).await {
                Ok(written) => {
                    let verdict = written.into_iter().flatten().next();
                    if verdict.is_none() {
                        tracing::warn!(delivery.id = %d.id, attempt = d.number, "the lease was lost; the outcome changes nothing");
                    }
                    // A new round that was asked for meanwhile goes on where this one would have ended.
                    let attempted = Attempted { verdict: verdict.unwrap_or(attempted.verdict), ..attempted };
                    if let Some(exchange) = &attempted.exchange {
                        self.metrics.attempted(attempt::word(&attempted.verdict), exchange.duration);
                    }
                    attempt::log(d, &attempted);
                    return;
                }
                // Whatever it is, it may be another call's fault; without its record the attempt is repeated.
                Err(e) if self.clock.now() < until(&e) => {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                Err(e) => {
                    tracing::error!(delivery.id = %d.id, error = %e, "an outcome could not be recorded");
                    return;
                }
            }
        }
    }
}
