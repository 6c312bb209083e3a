//! Claims that wait: what is submitted for one is handed over in its own transaction, without being looked for.
//!
//! Only what this node's submissions bring comes that way, and only of queues that nothing holds back. A claim that
//! waits has to look for all else.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::taker::claimable;
use crate::store::commit::Reply;
use crate::store::error::{Error, Result};
use crate::store::limits::Limits;
use crate::store::model::{LeaseRequest, LeasedJob};
use crate::store::submit::Many;
use crate::store::{Store, verbs};
use crate::types::{Millis, TenantId};

type QueueKey = (TenantId, String);

/// The claims of this node that wait, by queue.
#[derive(Default)]
pub(in crate::store) struct Offers(Mutex<Open>);

#[derive(Default)]
struct Open {
    queues: HashMap<QueueKey, BTreeMap<u64, Waiting>>,
    last: u64,
}

/// A claim that waits, and where its answer goes.
pub(in crate::store) struct Waiting {
    pub(in crate::store) want: LeaseRequest,
    pub(in crate::store) reply: oneshot::Sender<Result<Reply>>,
}

impl Offers {
    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, key: QueueKey, waiting: Waiting) -> u64 {
        let mut open = self.open();
        open.last += 1;
        let ticket = open.last;
        open.queues.entry(key).or_default().insert(ticket, waiting);
        ticket
    }

    /// Whether it was still there.
    fn remove(&self, key: &QueueKey, ticket: u64) -> bool {
        let mut open = self.open();
        let Some(queue) = open.queues.get_mut(key) else { return false };
        let there = queue.remove(&ticket).is_some();
        if queue.is_empty() {
            open.queues.remove(key);
        }
        there
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
        if open.queues.is_empty() {
            return Vec::new();
        }
        for job in submissions.flat_map(|many| many.iter()).filter(|job| claimable(job, now)) {
            if let Some((_, room)) = taken.iter_mut().find(|(one, room)| *room > 0 && one.want.fits(job)) {
                *room -= 1;
                continue;
            }
            let key = (job.tenant, job.queue.clone());
            let Some(queue) = open.queues.get_mut(&key).filter(|_| limits.has_none(&key, now)) else {
                continue;
            };
            let first = queue.iter().find(|(_, one)| one.want.fits(job)).map(|(ticket, _)| *ticket);
            if let Some(waiting) = first.and_then(|ticket| queue.remove(&ticket)) {
                let room = waiting.want.max.saturating_sub(1);
                taken.push((waiting, room));
            }
            if queue.is_empty() {
                open.queues.remove(&key);
            }
        }
        taken.into_iter().map(|(waiting, _)| waiting).collect()
    }
}

/// A claim that waits for what will be submitted. Dropped, it does no more.
pub struct Offer {
    store: Store,
    key: QueueKey,
    ticket: u64,
    answer: oneshot::Receiver<Result<Reply>>,
}

impl Offer {
    /// What is handed over to it: nothing if others took what there was. Once; for as long as nothing is submitted for it it
    /// does not end. Waiting may be broken off.
    pub async fn answered(&mut self) -> Result<Vec<LeasedJob>> {
        let answer = (&mut self.answer).await.map_err(|_| Error::Down("closed".to_owned()))?;
        verbs::leased(answer?)
    }

    /// Ends it, with what it is being handed over.
    pub async fn withdraw(mut self) -> Result<Vec<LeasedJob>> {
        match self.store.0.offers.remove(&self.key, self.ticket) {
            true => Ok(Vec::new()),
            false => self.answered().await,
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.store.0.offers.remove(&self.key, self.ticket);
    }
}

impl Store {
    /// Lets a claim wait for what will be submitted at this node.
    pub fn offer(&self, want: &LeaseRequest) -> Offer {
        let (reply, answer) = oneshot::channel();
        let key = (want.tenant, want.queue.clone());
        let ticket = self.0.offers.put(key.clone(), Waiting { want: want.clone(), reply });
        Offer { store: self.clone(), key, ticket, answer }
    }
}
