//! Claims that wait: what is submitted for one is taken in its own transaction, without being looked for.
//!
//! Only what this node's submissions bring comes that way, and only of queues that nothing holds back. A claim that
//! waits has to look for all else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::QueueKey;
use super::taker::{LeasedRow, claimable};
use crate::store::commit::Reply;
use crate::store::error::{Error, Result};
use crate::store::limits::Limits;
use crate::store::model::{Changed, LeaseRequest, LeasedJob};
use crate::store::submit::Many;
use crate::store::{Store, verbs};
use crate::types::{Millis, TenantId};

/// The claims of this node that wait.
#[derive(Default)]
pub(in crate::store) struct Offers(Mutex<Open>);

#[derive(Default)]
struct Open {
    /// By ticket: who came first has the lowest.
    waiting: BTreeMap<u64, Waiting>,
    /// The tickets of those who want a type of a queue, or any.
    wanted: HashMap<QueueKey, BTreeSet<u64>>,
    last: u64,
}

/// A claim that waits, and where its answer goes.
pub(in crate::store) struct Waiting {
    pub(in crate::store) want: LeaseRequest,
    pub(in crate::store) reply: oneshot::Sender<Result<Reply>>,
}

impl Open {
    fn remove(&mut self, ticket: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&ticket)?;
        for kind in waiting.want.kinds() {
            let key = waiting.want.key(kind.as_deref());
            let Some(tickets) = self.wanted.get_mut(&key) else { continue };
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.wanted.remove(&key);
            }
        }
        Some(waiting)
    }

    /// Who has waited longest for a job of that queue and type.
    fn first(&self, tenant: TenantId, queue: &str, kind: &str) -> Option<u64> {
        let of_kind = |kind| {
            let key = (tenant, queue.to_owned(), kind);
            self.wanted.get(&key).and_then(BTreeSet::first).copied()
        };
        [of_kind(Some(kind.to_owned())), of_kind(None)].into_iter().flatten().min()
    }
}

impl Offers {
    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, waiting: Waiting) -> u64 {
        let mut open = self.open();
        open.last += 1;
        let ticket = open.last;
        for kind in waiting.want.kinds() {
            open.wanted.entry(waiting.want.key(kind.as_deref())).or_default().insert(ticket);
        }
        open.waiting.insert(ticket, waiting);
        ticket
    }

    /// Whether it was still there.
    fn remove(&self, ticket: u64) -> bool {
        self.open().remove(ticket).is_some()
    }

    /// Takes the claims out that are to be made beside these submissions, those that have waited longest first: as many as
    /// these have jobs for.
    pub(in crate::store) fn beside<'m>(
        &self,
        submissions: impl Iterator<Item = &'m Arc<Many>>,
        limits: &Limits,
        now: Millis,
    ) -> Vec<Waiting> {
        let mut open = self.open();
        let mut taken: Vec<(Waiting, u32)> = Vec::new();
        // Before it none has room.
        let mut full = 0;
        for job in submissions.flat_map(|many| many.iter()).filter(|job| claimable(job, now)) {
            while taken.get(full).is_some_and(|(_, room)| *room == 0) {
                full += 1;
            }
            let fits = |(one, room): &&mut (Waiting, u32)| *room > 0 && one.want.fits(job);
            if let Some((_, room)) = taken[full..].iter_mut().find(fits) {
                *room -= 1;
                continue;
            }
            if open.waiting.is_empty() {
                continue;
            }
            let first = open.first(job.tenant, &job.queue, &job.kind);
            let first = first.filter(|_| limits.has_none(&(job.tenant, job.queue.clone()), now));
            if let Some(waiting) = first.and_then(|ticket| open.remove(ticket)) {
                let room = waiting.want.max.saturating_sub(1);
                taken.push((waiting, room));
            }
        }
        taken.into_iter().map(|(waiting, _)| waiting).collect()
    }

    /// For each of these that was given back, the claim that has waited longest for such a one is told to look for it.
    pub(in crate::store) fn given_back(&self, jobs: Vec<Result<Changed>>) {
        let mut open = self.open();
        for job in jobs.into_iter().flatten().map(|done| done.job) {
            let first = open.first(job.tenant, &job.queue, &job.kind);
            if let Some(waiting) = first.and_then(|ticket| open.remove(ticket)) {
                let _ = waiting.reply.send(Ok(Reply::Lease(Vec::new())));
            }
        }
    }
}

/// A claim that waits for what will be submitted. Dropped, it does no more, and what it has taken waits for another one.
pub struct Offer {
    store: Store,
    ticket: u64,
    answer: oneshot::Receiver<Result<Reply>>,
}

impl Offer {
    /// What it has taken: nothing if others took what there was. Once; for as long as nothing is submitted for it it
    /// does not end. Waiting may be broken off.
    pub async fn answered(&mut self) -> Result<Vec<LeasedJob>> {
        let answer = (&mut self.answer).await.map_err(|_| Error::Down("closed".to_owned()))?;
        verbs::leased(answer?)
    }

    /// Ends it, with what it is taking.
    pub async fn withdraw(mut self) -> Result<Vec<LeasedJob>> {
        match self.store.0.offers.remove(self.ticket) {
            true => Ok(Vec::new()),
            false => self.answered().await,
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.store.0.offers.remove(self.ticket);
        // From here on the committer sees that nobody listens; before, it took this one for someone who does.
        self.answer.close();
        let Ok(Ok(Reply::Lease(jobs))) = self.answer.try_recv() else { return };
        let (Some(first), Ok(handle)) = (jobs.first(), Handle::try_current()) else { return };
        let (store, now) = (self.store.clone(), first.since());
        handle.spawn(async move {
            // Where the store is away they come back by their lease.
            if let Ok(done) = store.change(jobs.iter().map(LeasedRow::release).collect(), now).await {
                store.0.offers.given_back(done);
            }
        });
    }
}

impl Store {
    /// Lets a claim wait for what will be submitted at this node.
    pub fn offer(&self, want: &LeaseRequest) -> Offer {
        let (reply, answer) = oneshot::channel();
        let ticket = self.0.offers.put(Waiting { want: want.clone(), reply });
        Offer { store: self.clone(), ticket, answer }
    }
}
