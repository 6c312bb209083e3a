//! Claims that wait for work: of all at a node that wait for the same, one at a time asks the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep, sleep_until};

use super::app::App;
use super::problem::Problem;
use crate::store::{LeaseRequest, LeasedJob};
use crate::types::TenantId;
use crate::wake::Listener;

/// The longest that work goes unseen: what falls due with time, or comes in at another node, brings no nudge.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// The shortest time between two looks that find nothing: under load every commit nudges.
const LOOK_GAP: Duration = Duration::from_millis(15);
/// Kinds of work that are kept in mind though nobody waits for them any more.
const REMEMBERED: usize = 1_000;

/// Tenant, queue, and the types in order.
type Kind = (TenantId, String, Vec<String>);

/// What those who wait know of the work that they wait for.
#[derive(Default)]
pub(super) struct Looks(Lock<HashMap<Kind, Arc<Shared>>>);

impl Looks {
    fn of(&self, wish: &LeaseRequest) -> Arc<Shared> {
        let mut types = wish.types.clone();
        types.sort_unstable();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED {
            all.retain(|_, shared| Arc::strong_count(shared) > 1);
        }
        all.entry((wish.tenant, wish.queue.clone(), types)).or_default().clone()
    }
}

/// When a look began that found nothing and was the last one. Held by who is about to look.
#[derive(Default)]
struct Shared(Mutex<Option<Instant>>);

enum Turn<'s> {
    /// Nothing was due when that look began.
    Nothing(Instant),
    /// To find out.
    Look(MutexGuard<'s, Option<Instant>>),
}

impl Shared {
    /// What a look found that began after `known`, or the right to look.
    async fn turn(&self, known: Instant) -> Turn<'_> {
        let last = self.0.lock().await;
        match *last {
            Some(nothing) if nothing > known => return Turn::Nothing(nothing),
            Some(nothing) => sleep_until(nothing + LOOK_GAP).await,
            None => {}
        }
        Turn::Look(last)
    }
}

impl App {
    /// Claims what is wished, and waits for it for as long as `patience` and the service last.
    pub(super) async fn claim(
        &self,
        wish: &LeaseRequest,
        patience: Duration,
    ) -> Result<Vec<LeasedJob>, Problem> {
        let mut nudge = self.wake.jobs.listen();
        let mut known = Instant::now();
        let mut leased = self.lease(wish).await?;
        if !leased.is_empty() || patience.is_zero() {
            return Ok(leased);
        }
        let shared = self.looks.of(wish);
        let end = async {
            tokio::select! {
                () = sleep(patience) => {}
                () = self.draining.cancelled() => {}
            }
        };
        tokio::pin!(end);
        while leased.is_empty() {
            // Only waits are broken off, no look: that would cost its connection.
            let (next, turn) = tokio::select! {
                biased;
                () = &mut end => break,
                woken = self.woken(nudge, known, &shared) => woken,
            };
            nudge = next;
            known = match turn {
                Turn::Nothing(since) => since,
                Turn::Look(mut last) => {
                    let began = Instant::now();
                    // Asks without writing: a thousand idle workers must not fill the writer's queue.
                    let due = self.ask(self.store.any_due(wish, self.now())).await;
                    *last = matches!(due, Ok(false)).then_some(began);
                    drop(last);
                    if due? {
                        leased = self.lease(wish).await?;
                    }
                    began
                }
            };
        }
        Ok(leased)
    }

    /// Waits for a nudge, or until what is known is too old; gives the next one to wait for, and who looks.
    async fn woken<'s>(&self, nudge: Listener, known: Instant, shared: &'s Shared) -> (Listener, Turn<'s>) {
        let rest = (known + LOOK_AGAIN).saturating_duration_since(Instant::now());
        let nudged = nudge.wait(rest).await;
        // Before any look that counts from here on, so that what comes in meanwhile is not missed.
        let next = self.wake.jobs.listen();
        let known = if nudged { Instant::now() } else { known };
        (next, shared.turn(known).await)
    }

    async fn lease(&self, wish: &LeaseRequest) -> Result<Vec<LeasedJob>, Problem> {
        self.ask(self.store.lease(wish.clone(), self.now())).await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;

    fn found_nothing(turn: Turn<'_>) {
        let Turn::Look(mut last) = turn else { panic!("somebody has looked") };
        *last = Some(Instant::now());
    }

    #[tokio::test]
    async fn of_a_hundred_who_are_woken_at_once_one_looks() {
        let shared = Shared::default();
        let known = Instant::now();
        let looking = shared.turn(known).await;
        let mut others: Vec<_> = (0..99).map(|_| Box::pin(shared.turn(known))).collect();
        assert!(others.iter_mut().all(|other| other.now_or_never().is_none()), "they wait for it");
        found_nothing(looking);
        let turns = join_all(others).await;
        assert!(turns.iter().all(|turn| matches!(turn, Turn::Nothing(since) if *since > known)));
    }

    #[tokio::test]
    async fn who_was_woken_later_looks_again_after_a_gap() {
        let shared = Shared::default();
        found_nothing(shared.turn(Instant::now()).await);
        let looked = Instant::now();
        let turn = shared.turn(looked).await;
        assert!(matches!(turn, Turn::Look(_)) && looked.elapsed() > LOOK_GAP - Duration::from_millis(1));
    }

    #[tokio::test]
    async fn what_was_found_is_nobody_elses_answer() {
        let shared = Shared::default();
        let known = Instant::now();
        found_nothing(shared.turn(known).await);
        // Something was due, or the look failed.
        let Turn::Look(mut last) = shared.turn(Instant::now()).await else { panic!("it is too old") };
        *last = None;
        drop(last);
        assert!(
            matches!(shared.turn(known).now_or_never(), Some(Turn::Look(_))),
            "and there may be more at once"
        );
    }
}
