//! The hot verbs as their callers see them; [`super::commit`] writes them together.

use std::sync::Arc;
use std::time::Duration;

use super::Store;
use super::commit::{Op, Reply};
use super::error::{Error, Result};
use super::lease::LeasedRow;
use super::model::{
    Attempted, Changed, ClaimedDelivery, DueDelivery, JobChange, LeaseRequest, LeasedJob, Submitted,
};
use crate::types::Millis;
use crate::types::delivery::Verdict;
use crate::types::id::NodeId;
use crate::types::job::NewJob;

/// A verb got the answer of another verb: a defect of `transaction`.
fn mixed_up<T>() -> Result<T> {
    Err(Error::Bug("the answer belongs to another verb".to_owned()))
}

/// The jobs of a claim.
pub(super) fn leased(answer: Reply) -> Result<Vec<LeasedJob>> {
    match answer {
        Reply::Lease(rows) => rows.iter().map(LeasedRow::job).collect(),
        _ => mixed_up(),
    }
}

impl Store {
    /// Stores jobs that were checked, all or none. One answer per job, in order.
    ///
    /// `KeyReused` or `KeyInFlight` if an idempotency key says so.
    pub async fn submit(&self, mut jobs: Vec<NewJob>, now: Millis) -> Result<Vec<Submitted>> {
        use crate::types::{job::WorkerKind, key::LeaseToken};
        for job in jobs.iter_mut().filter(|j| j.worker == WorkerKind::External && j.lease.is_none()) {
            job.lease = Some(LeaseToken { fence: 1, random: self.0.dice.bytes() });
        }
        let jobs = Arc::new(jobs);
        match self.0.committer.call(Op::Submit(jobs.clone()), now).await? {
            Reply::Submit(stored) => {
                Ok(jobs.iter().zip(stored).map(|(job, stored)| stored.answer(job)).collect())
            }
            _ => mixed_up(),
        }
    }

    /// Changes jobs: complete, fail, release, heartbeat, cancel, retry. One answer per change, in order.
    pub async fn change(&self, changes: Vec<JobChange>, now: Millis) -> Result<Vec<Result<Changed>>> {
        match self.0.committer.call(Op::Change(changes), now).await? {
            Reply::Change(answer) => Ok(answer),
            _ => mixed_up(),
        }
    }

    /// Claims due jobs for a worker. Empty if there are none.
    pub async fn lease(&self, request: LeaseRequest, now: Millis) -> Result<Vec<LeasedJob>> {
        leased(self.0.committer.call(Op::Lease { want: request, look: true }, now).await?)
    }

    /// Claims deliveries that are still as they were seen. Commits the intent of each attempt.
    pub async fn claim(
        &self,
        due: Vec<DueDelivery>,
        node: NodeId,
        lease: Duration,
        now: Millis,
    ) -> Result<Vec<ClaimedDelivery>> {
        match self.0.committer.call(Op::Claim { due, node, lease }, now).await? {
            Reply::Claim(answer) => Ok(answer),
            _ => mixed_up(),
        }
    }

    /// Writes the outcomes of attempts; gives the verdicts as written. None where the lease was lost and
    /// nothing changed.
    pub async fn record(&self, attempted: Vec<Attempted>, now: Millis) -> Result<Vec<Option<Verdict>>> {
        match self.0.committer.call(Op::Record(attempted), now).await? {
            Reply::Record(answer) => Ok(answer),
            _ => mixed_up(),
        }
    }
}
