//! What a committer is asked, and how much it is.

use std::sync::Arc;
use std::time::Duration;

use crate::store::change;
use crate::store::error::Result;
use crate::store::lease::LeasedRow;
use crate::store::model::{Attempted, Changed, ClaimedDelivery, DueDelivery, JobChange, LeaseRequest, What};
use crate::store::publish::{Answer, Publication};
use crate::store::submit::{Many, Stored};
use crate::types::delivery::Verdict;
use crate::types::id::NodeId;

/// One call of a hot verb.
pub(in crate::store) enum Op {
    Submit(Arc<Many>),
    /// With about as many deliveries.
    Publish(Publication, usize),
    Change(Vec<JobChange>),
    Lease {
        want: LeaseRequest,
        /// Whether something may be due already.
        look: bool,
    },
    Claim {
        due: Vec<DueDelivery>,
        node: NodeId,
        lease: Duration,
    },
    Record(Vec<Attempted>),
}

/// The answer to an [`Op`] of the same name.
pub(in crate::store) enum Reply {
    Submit(Vec<Stored>),
    Publish(Vec<Answer>),
    Change(Vec<Result<Changed>>),
    Lease(Vec<LeasedRow>),
    Claim(Vec<ClaimedDelivery>),
    Record(Vec<Option<Verdict>>),
}

/// How much a call writes, roughly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

impl Op {
    pub(super) fn weight(&self) -> Weight {
        match self {
            Op::Submit(jobs) => {
                let bytes = jobs.iter().map(|j| j.input.len() + j.metadata.len()).sum();
                Weight { rows: jobs.len(), bytes }
            }
            Op::Publish(publication, rows) => Weight { rows: *rows, bytes: publication.bytes() },
            Op::Change(changes) => {
                Weight { rows: changes.len(), bytes: changes.iter().map(change::result_bytes).sum() }
            }
            // A type is looked for by itself, which costs as much as a few rows. What is read is bounded where it is known.
            Op::Lease { want, .. } => Weight { rows: want.max as usize + 4 * want.types.len(), bytes: 0 },
            Op::Claim { due, .. } => Weight { rows: due.len(), bytes: 0 },
            Op::Record(attempted) => {
                let kept = |a: &Attempted| a.exchange.as_ref().map_or(0, |e| e.body.len());
                Weight { rows: attempted.len(), bytes: attempted.iter().map(kept).sum() }
            }
        }
    }

    /// A claim that waits for what is submitted beside it.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Op::Lease { look: false, .. })
    }

    pub(super) fn retries(&self) -> bool {
        matches!(self, Op::Change(changes) if changes.iter().any(|c| matches!(c.what, What::Retry)))
    }

    /// Whether both change the same job.
    pub(super) fn meets(&self, other: &Op) -> bool {
        match (self, other) {
            (Op::Change(ours), Op::Change(theirs)) => {
                ours.iter().any(|one| theirs.iter().any(|two| one.id == two.id))
            }
            _ => false,
        }
    }
}
