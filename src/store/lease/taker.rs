//! A claim in its transaction: the jobs that it found, and those that are submitted beside it and need no second claim.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::args;
use crate::store::batch::{Col, Sql};
use crate::store::db::Row;
use crate::store::error::{Error, Result};
use crate::store::model::{JobChange, LeaseRequest, LeasedJob, Right, What};
use crate::store::pool::Tx;
use crate::store::rows::lease_random;
use crate::store::seconds;
use crate::store::submit::{FirstLease, Many, must_end};
use crate::types::job::{Change, NewJob, WorkerKind};
use crate::types::key::LeaseToken;
use crate::types::{JobId, Millis, api};

/// What a claim reads of the job `j` that may be large; of one that is gone, nothing.
macro_rules! document_bytes {
    () => {
        "COALESCE(octet_length(j.input), 4) + COALESCE(octet_length(j.metadata), 0)"
    };
}
pub(super) use document_bytes;

static PAYLOADS: Sql = Sql::batch(
    concat!(
        "SELECT j.id, j.kind, j.input, j.reference, j.metadata, j.traceparent, CAST(",
        document_bytes!(),
        " AS BIGINT) FROM {b} JOIN jobs j ON j.id = b.job_id"
    ),
    0,
    &[("job_id", Col::Uuid)],
);

/// Jobs, and the bytes of their documents: what a claim may take, has taken or has left.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) jobs: usize,
    pub(super) bytes: i64,
}

impl Room {
    /// The part of one of so many.
    pub(super) fn share(self, of: usize) -> Room {
        let part = i64::try_from(of).unwrap_or(i64::MAX);
        Room { jobs: self.jobs.div_ceil(of), bytes: (self.bytes + part - 1) / part }
    }

    /// Without what was taken of it; the last job may go beyond its bytes.
    pub(super) fn less(self, taken: Room) -> Room {
        Room { jobs: self.jobs.saturating_sub(taken.jobs), bytes: self.bytes - taken.bytes }
    }

    /// Whether nothing more can be taken.
    pub(super) fn is_none(self) -> bool {
        self.jobs == 0 || self.bytes <= 0
    }
}

/// A claim, what it has got so far, and what it may take of what is submitted.
pub(in crate::store) struct Taker<'w> {
    pub(super) want: &'w LeaseRequest,
    /// Of the tokens of its jobs.
    pub(super) seed: [u8; 16],
    until: Millis,
    room: Room,
    jobs: Vec<LeasedRow>,
    /// That were read for it.
    bytes: i64,
}

impl<'w> Taker<'w> {
    pub(super) fn new(want: &'w LeaseRequest, seed: [u8; 16], now: Millis) -> Taker<'w> {
        let room = Room { jobs: 0, bytes: 0 };
        Taker { want, seed, until: now.plus(seconds(want.lease_seconds)), room, jobs: Vec::new(), bytes: 0 }
    }

    /// It has `room` left, and may use it for what is submitted `beside` it.
    pub(super) fn has(&mut self, room: Room, beside: bool) {
        if beside {
            self.room = room;
        }
    }

    /// It has claimed these rows of the queue. Gives what they are.
    pub(super) async fn found(&mut self, tx: &mut Tx, rows: Vec<Row>, now: Millis) -> Result<Room> {
        let ids = rows.iter().map(|r| Ok(args![r.uuid(0)?])).collect::<Result<_>>()?;
        let payloads = tx.batch(&PAYLOADS, vec![], ids).await?;
        let mut payloads: HashMap<JobId, Row> =
            payloads.into_iter().map(|r| Ok((r.id(0)?, r))).collect::<Result<_>>()?;
        let bytes = payloads.values().map(|row| row.int(6)).sum::<Result<i64>>()?;
        let found = Room { jobs: rows.len(), bytes };
        // A document that is gone leaves its queue row to `check`; the worker gets the others.
        self.bytes += bytes;
        for claimed in rows {
            let Some(payload) = payloads.remove(&claimed.id(0)?) else { continue };
            let timeout = Duration::from_millis(u64::try_from(claimed.int(6)?).unwrap_or(0));
            self.jobs.push(LeasedRow {
                id: claimed.id(0)?,
                fence: claimed.int(1)?,
                seed: self.seed,
                attempt: claimed.count(2)?,
                since: now,
                until: self.until,
                deadline_at: [claimed.time_opt(7)?, Some(now.plus(timeout))].into_iter().flatten().min(),
                document: Document::Read(payload),
            });
        }
        Ok(found)
    }

    /// Bytes that were read for it.
    pub(in crate::store) fn bytes(&self) -> i64 {
        self.bytes
    }

    /// Takes the `n`th of these jobs as it is submitted, if it has room for it and it is what the claim wants. Gives the
    /// lease with which it comes into the store.
    pub(in crate::store) fn take(
        &mut self,
        jobs: &Arc<Many>,
        n: usize,
        now: Millis,
    ) -> Option<FirstLease<'w>> {
        let job = jobs.get(n).filter(|job| !self.is_full() && self.want.fits(job) && claimable(job, now))?;
        let bytes = i64::try_from(job.input.len() + job.metadata.len()).unwrap_or(i64::MAX);
        self.room = self.room.less(Room { jobs: 1, bytes });
        self.jobs.push(LeasedRow {
            id: job.id,
            fence: 1,
            seed: self.seed,
            attempt: 1,
            since: now,
            until: self.until,
            deadline_at: must_end(job, now),
            document: Document::New(jobs.clone(), n),
        });
        Some(FirstLease {
            seed: Some(self.seed),
            until: self.until,
            seconds: self.want.renew_seconds.unwrap_or(self.want.lease_seconds),
            worker_id: self.want.worker_id.as_deref(),
        })
    }

    /// Whether it takes no more.
    pub(in crate::store) fn is_full(&self) -> bool {
        self.room.is_none()
    }

    /// What it has got.
    pub(in crate::store) fn into_jobs(self) -> Vec<LeasedRow> {
        self.jobs
    }
}

impl LeaseRequest {
    /// Whether it asks for jobs of this queue and type.
    pub(super) fn fits(&self, job: &NewJob) -> bool {
        let typed = || self.types.is_empty() || self.types.contains(&job.kind);
        self.tenant == job.tenant && self.queue == job.queue && typed()
    }
}

/// Whether a worker may have it in the moment it is submitted.
pub(super) fn claimable(job: &NewJob, now: Millis) -> bool {
    job.worker == WorkerKind::Pull
        && job.run_at.is_none_or(|at| at <= now)
        && job.deadline_at.is_none_or(|at| at > now)
}

/// A job that was claimed. Its document is still as it was read, or submitted.
pub(in crate::store) struct LeasedRow {
    id: JobId,
    fence: i64,
    seed: [u8; 16],
    attempt: u32,
    since: Millis,
    until: Millis,
    deadline_at: Option<Millis>,
    document: Document,
}

enum Document {
    Read(Row),
    New(Arc<Many>, usize),
}

impl LeasedRow {
    /// The answer to its worker. Made by the caller: the writer has others to write for.
    pub(in crate::store) fn job(&self) -> Result<LeasedJob> {
        let (kind, input, reference, metadata, traceparent) = match &self.document {
            Document::Read(row) => {
                let input = row.text_opt(2)?.unwrap_or_else(|| "null".to_owned());
                (row.text(1)?, input, row.text_opt(3)?, row.text(4)?, row.text_opt(5)?)
            }
            Document::New(jobs, n) => {
                let NewJob { kind, input, reference, metadata, traceparent, .. } =
                    jobs.get(*n).ok_or_else(|| Error::Bug("no such job".to_owned()))?;
                (kind.clone(), input.clone(), reference.clone(), metadata.clone(), traceparent.clone())
            }
        };
        Ok(LeasedJob {
            job: api::ClaimedJob {
                job_id: self.id,
                kind,
                input: api::raw(input),
                attempt: self.attempt,
                lease_token: self.token(),
                lease_expires_at: self.until,
                deadline_at: self.deadline_at,
                reference,
                metadata: api::raw(metadata),
                traceparent,
            },
        })
    }

    fn token(&self) -> LeaseToken {
        LeaseToken { fence: self.fence, random: lease_random(self.seed, self.id) }
    }

    /// When it was leased.
    pub(in crate::store) fn since(&self) -> Millis {
        self.since
    }

    /// Gives it back: it waits for another claim at once, and no attempt is used.
    pub(in crate::store) fn release(&self) -> JobChange {
        JobChange {
            id: self.id,
            tenant: None,
            right: Right::Lease(self.token()),
            what: What::Change(Change::Release { delay_seconds: 0 }),
        }
    }
}
