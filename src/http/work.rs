//! Claims that wait for work: of all at a node that wait for the same, one at a time asks the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::time::{Instant, sleep, sleep_until};

use super::app::{App, LOOK_AGAIN, LOOK_GAP};
use super::problem::Problem;
use crate::store::{LeaseRequest, LeasedJob, Offer, Submitted};
use crate::types::TenantId;
use crate::types::job::JobState;
use crate::wake::Listener;

/// The shortest time between two looks where something came meanwhile that the second one may find.
const NEWS_GAP: Duration = Duration::from_millis(1);

/// A queue of a tenant.
type QueueKey = (TenantId, String);
/// What is waited for of a queue: by the types, in order.
type ByTypes = HashMap<Vec<String>, Arc<Shared>>;

/// What those who wait know of the work that they wait for.
#[derive(Default)]
pub(super) struct Looks(Lock<HashMap<QueueKey, ByTypes>>);

impl Looks {
    fn join(&self, wish: &LeaseRequest) -> Waiter<'_> {
        let mut types = wish.types.clone();
        types.sort_unstable();
        let queue = (wish.tenant, wish.queue.clone());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = all.entry(queue.clone()).or_default().entry(types.clone()).or_default().clone();
        Waiter { looks: self, queue, types, shared }
    }

    /// Jobs of these tenants, queues and types can be claimed: who waits for one is not to find it only after a gap.
    fn news<'s>(&self, came: impl IntoIterator<Item = (TenantId, &'s str, &'s str)>) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return;
        }
        for (tenant, queue, kind) in came {
            let waits = all.get(&(tenant, queue.to_owned())).into_iter().flatten();
            let fit = waits.filter(|(types, _)| types.is_empty() || types.iter().any(|one| one == kind));
            fit.for_each(|(_, shared)| shared.news.notify_one());
        }
    }
}

/// One who waits. The last one to leave takes what is known along.
struct Waiter<'l> {
    looks: &'l Looks,
    queue: QueueKey,
    types: Vec<String>,
    shared: Arc<Shared>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut all = self.looks.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Let go under the lock: of two who leave at a time each would take the other for one who stays.
        drop(std::mem::take(&mut self.shared));
        let Some(waits) = all.get_mut(&self.queue) else { return };
        if waits.get(&self.types).is_some_and(|shared| Arc::strong_count(shared) == 1) {
            waits.remove(&self.types);
        }
        if waits.is_empty() {
            all.remove(&self.queue);
        }
    }
}

#[derive(Default)]
struct Shared {
    /// The last look, if it is an answer for others too. Held by who is about to look.
    last: Mutex<Option<Look>>,
    /// Something came since that is what they wait for, as far as its queue tells.
    news: Notify,
}

enum Look {
    /// It began then, and nothing was due.
    Nothing(Instant),
    /// The same of one that came early: the queue lets nothing through, or others were faster.
    Vain(Instant),
    /// It came to an end then without an answer. Who waited for it meanwhile does not ask again, or each would wait for a store
    /// that is silent, one after the other.
    Failed(Instant, Problem),
}

enum Turn<'s> {
    /// Nothing was due when that look began.
    Nothing(Instant),
    /// It could not be found out.
    Failed(Problem),
    /// To find out; early, because there is news.
    Look(MutexGuard<'s, Option<Look>>, bool),
}

impl Shared {
    /// What a look found that began after `known`, what one came to that was waited for, or the right to look.
    async fn turn(&self, known: Instant) -> Turn<'_> {
        let called = Instant::now();
        let last = self.last.lock().await;
        match &*last {
            Some(Look::Nothing(began) | Look::Vain(began)) if *began > known => return Turn::Nothing(*began),
            Some(Look::Failed(ended, problem)) if *ended > called => return Turn::Failed(problem.clone()),
            Some(Look::Nothing(at)) => tokio::select! {
                () = sleep_until(*at + LOOK_GAP) => {}
                () = self.news.notified() => {
                    sleep_until(*at + NEWS_GAP).await;
                    return Turn::Look(last, true);
                }
            },
            Some(Look::Vain(at) | Look::Failed(at, _)) => sleep_until(*at + LOOK_GAP).await,
            None => {}
        }
        Turn::Look(last, false)
    }
}

impl App {
    /// Wakes who waits for what was submitted.
    pub(super) fn tell_of(&self, submitted: &[Submitted]) {
        let waits = |one: &&Submitted| !one.replayed && !one.taken && one.job.state == JobState::Queued;
        let claimable = submitted.iter().filter(waits);
        self.looks.news(claimable.map(|one| (one.job.tenant, one.job.queue.as_str(), one.job.kind.as_str())));
        if submitted.iter().any(|one| !one.taken) {
            self.wake.jobs.nudge();
        }
    }

    /// Claims what is wished, and waits for it for as long as `patience` and the service last.
    pub(super) async fn claim(
        &self,
        wish: &LeaseRequest,
        patience: Duration,
    ) -> Result<Vec<LeasedJob>, Problem> {
        let mut nudge = Some(self.wake.jobs.listen());
        let mut known = Instant::now();
        // Each type costs the writer a look: where they are many, one that finds nothing is not for it.
        let look = wish.types.len() <= 1 || self.ask(self.store.any_due(wish, self.now())).await?;
        let leased = if look { self.lease(wish).await? } else { Vec::new() };
        if !leased.is_empty() || patience.is_zero() {
            return Ok(leased);
        }
        // What is submitted from here on comes by itself; all else is looked for.
        let mut offer = self.store.offer(wish);
        let waiter = self.looks.join(wish);
        let end = async {
            tokio::select! {
                () = sleep(patience) => {}
                () = self.draining.cancelled() => {}
            }
        };
        tokio::pin!(end);
        loop {
            // Only waits are broken off, no look: that would cost its connection.
            let turn = tokio::select! {
                biased;
                taken = offer.answered() => {
                    match taken {
                        Ok(taken) if !taken.is_empty() => return Ok(taken),
                        // Others were faster, or their submission failed: if the store is down a look will tell. What came
                        // meanwhile it was not told, or has forgotten.
                        Ok(_) | Err(_) => {}
                    }
                    (offer, nudge) = (self.store.offer(wish), None);
                    continue;
                }
                () = &mut end => return Ok(self.ask(offer.withdraw()).await.unwrap_or_default()),
                turn = self.woken(&mut nudge, known, &waiter.shared) => turn,
            };
            known = match turn {
                Turn::Nothing(since) => since,
                Turn::Failed(problem) => return taken_by(&mut offer).ok_or(problem),
                Turn::Look(mut last, early) => {
                    let began = Instant::now();
                    // Asks without writing: a thousand idle workers must not fill the writer's queue.
                    let due = self.ask(self.store.any_due(wish, self.now())).await;
                    *last = match &due {
                        Ok(true) => None,
                        Ok(false) if early => Some(Look::Vain(began)),
                        Ok(false) => Some(Look::Nothing(began)),
                        Err(problem) => Some(Look::Failed(Instant::now(), problem.clone())),
                    };
                    drop(last);
                    let due = match due {
                        Ok(due) => due,
                        Err(problem) => return taken_by(&mut offer).ok_or(problem),
                    };
                    if due {
                        let taken = self.ask(offer.withdraw()).await.unwrap_or_default();
                        let leased = if taken.is_empty() { self.lease(wish).await? } else { taken };
                        if !leased.is_empty() {
                            return Ok(leased);
                        }
                        offer = self.store.offer(wish);
                    }
                    began
                }
            };
        }
    }

    /// Waits for a nudge, or until what is known is too old; then takes the next one to wait for, and tells who looks.
    /// Without one it is woken already.
    async fn woken<'s>(&self, nudge: &mut Option<Listener>, known: Instant, shared: &'s Shared) -> Turn<'s> {
        let rest = (known + LOOK_AGAIN).saturating_duration_since(Instant::now());
        let nudged = match nudge.take() {
            Some(nudge) => nudge.wait(rest).await,
            None => true,
        };
        // Before the look that counts, so that what comes in meanwhile is not missed. What comes in just now, between the two, is
        // seen once what is known is too old.
        *nudge = Some(self.wake.jobs.listen());
        let known = if nudged { Instant::now() } else { known };
        shared.turn(known).await
    }

    async fn lease(&self, wish: &LeaseRequest) -> Result<Vec<LeasedJob>, Problem> {
        self.ask(self.store.lease(wish.clone(), self.now())).await
    }
}

/// What it has taken by now, of which it was not told yet.
fn taken_by(offer: &mut Offer) -> Option<Vec<LeasedJob>> {
    offer.answered().now_or_never()?.ok().filter(|taken| !taken.is_empty())
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::types::problem::ProblemCode;

    fn wish(types: [&str; 2]) -> LeaseRequest {
        LeaseRequest {
            tenant: TenantId::from_uuid(uuid::Uuid::nil()),
            queue: "default".to_owned(),
            types: types.map(str::to_owned).to_vec(),
            max: 1,
            lease_seconds: 30,
            renew_seconds: None,
            worker_id: None,
        }
    }

    fn found_nothing(turn: Turn<'_>) {
        let Turn::Look(mut last, _) = turn else { panic!("somebody has looked") };
        *last = Some(Look::Nothing(Instant::now()));
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
        assert!(
            matches!(turn, Turn::Look(_, false)) && looked.elapsed() > LOOK_GAP - Duration::from_millis(1)
        );
    }

    #[tokio::test]
    async fn what_comes_into_the_queue_is_looked_for_without_that_gap() {
        let looks = Looks::default();
        let waiter = looks.join(&wish(["a", "b"]));
        let shared = &waiter.shared;
        found_nothing(shared.turn(Instant::now()).await);
        let tenant = waiter.queue.0;
        looks.news([(tenant, "default", "c"), (tenant, "another", "a")]);
        tokio::select! {
            biased;
            () = sleep(LOOK_GAP / 2) => {}
            _ = shared.turn(Instant::now()) => panic!("that is not what it waits for"),
        }
        found_nothing(shared.turn(Instant::now()).await);
        let gap = sleep(LOOK_GAP);
        looks.news([(tenant, "default", "b")]);
        let turn = tokio::select! {
            biased;
            turn = shared.turn(Instant::now()) => turn,
            () = gap => panic!("it was told that there is something"),
        };
        let Turn::Look(mut last, true) = turn else { panic!("it comes early") };
        *last = Some(Look::Vain(Instant::now()));
        drop(last);
        looks.news([(tenant, "default", "b")]);
        assert!(
            matches!(shared.turn(Instant::now()).await, Turn::Look(_, false)),
            "once in vain, the next waits"
        );
    }

    #[tokio::test]
    async fn what_was_found_is_nobody_elses_answer() {
        let shared = Shared::default();
        let known = Instant::now();
        found_nothing(shared.turn(known).await);
        // Something was due.
        let Turn::Look(mut last, _) = shared.turn(Instant::now()).await else { panic!("it is too old") };
        *last = None;
        drop(last);
        assert!(
            matches!(shared.turn(known).now_or_never(), Some(Turn::Look(..))),
            "and there may be more at once"
        );
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_waited_for_once() {
        let shared = Shared::default();
        let known = Instant::now();
        let Turn::Look(mut last, _) = shared.turn(known).await else { panic!("nobody has looked") };
        let mut other = Box::pin(shared.turn(known));
        assert!(other.as_mut().now_or_never().is_none());
        *last = Some(Look::Failed(Instant::now(), Problem::new(ProblemCode::StorageUnavailable)));
        drop(last);
        assert!(matches!(other.await, Turn::Failed(_)));
        assert!(matches!(shared.turn(known).await, Turn::Look(..)), "who comes later asks again");
    }

    #[test]
    fn nothing_is_remembered_of_work_that_nobody_waits_for() {
        let looks = Looks::default();
        let one = looks.join(&wish(["a", "b"]));
        let two = looks.join(&wish(["b", "a"]));
        assert!(Arc::ptr_eq(&one.shared, &two.shared), "in whatever order");
        drop(one);
        assert_eq!(looks.0.lock().unwrap().len(), 1);
        drop(two);
        assert!(looks.0.lock().unwrap().is_empty());
    }
}
