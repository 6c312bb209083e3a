//! `submit`: jobs, their queue rows and their idempotency keys, in one transaction.

mod rows;

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::Arc;

use super::Inner;
use super::batch::{Col, Sql};
use super::db::Value;
use super::emit::Outbox;
use super::error::{Error, Result};
use super::idempotency::{Claim, Claimed, claim_keys};
use super::lease::Taker;
use super::model::{Standing, Submitted};
use super::pool::Tx;
use super::rows::{callback_source, job_columns};
use super::seal::Aad;
use crate::args;
use crate::types::job::{Job, JobEvent, JobState, NewJob, WorkerKind};
use crate::types::{JobId, Millis};
pub(super) use rows::{FirstLease, accepted, document_row, level, must_end, own_lease, queue_row, replay};

/// The column for which a callback's secrets are sealed.
pub(super) const SEALED_COLUMN: &str = "jobs.sealed";

macro_rules! insert_jobs {
    ($then:literal) => {
        Sql::batch(
            concat!(
                "INSERT INTO jobs (id, tenant_id, kind, queue, reference, priority, worker, input, callback, sealed, run_at,
                                deadline_at, timeout_seconds, max_attempts, metadata, retain_seconds, traceparent,
                                estimated_seconds, created_at, state, attempt, sequence, version, fence)
              SELECT b.id, b.tenant_id, b.kind, b.queue, b.reference, b.priority, b.worker, b.input, b.callback, b.sealed, b.run_at,
                     b.deadline_at, b.timeout_seconds, b.max_attempts, b.metadata, b.retain_seconds, b.traceparent,
                     b.estimated_seconds, $1, 'owed', 0, 1, 0, 0
              FROM {b}",
                $then
            ),
            1,
            DOCUMENT,
        )
    };
}
const DOCUMENT: &[(&str, Col)] = &[
    ("id", Col::Uuid),
    ("tenant_id", Col::Uuid),
    ("kind", Col::Text),
    ("queue", Col::Text),
    ("reference", Col::Text),
    ("priority", Col::Int),
    ("worker", Col::Text),
    ("input", Col::Text),
    ("callback", Col::Text),
    ("sealed", Col::Bytes),
    ("run_at", Col::Int),
    ("deadline_at", Col::Int),
    ("timeout_seconds", Col::Int),
    ("max_attempts", Col::Int),
    ("metadata", Col::Text),
    ("retain_seconds", Col::Int),
    ("traceparent", Col::Text),
    ("estimated_seconds", Col::Int),
];
// One that is there already fails it, and with it the queue row that goes along.
pub(super) static INSERT_JOBS: Sql = insert_jobs!("");
// A repeated write after a lost answer must not make the job twice.
static INSERT_JOBS_AGAIN: Sql = insert_jobs!(" WHERE true ON CONFLICT (id) DO NOTHING RETURNING id");

pub(super) static INSERT_QUEUE: Sql = Sql::batch(
    "INSERT INTO job_queue (job_id, tenant_id, queue, level, due_at, kind, phase, fence, token, attempt, attempts_left,
                            sequence, version, wants, lease_seconds, timeout_ms, started_at, started_sequence,
                            deadline_at, watch_at, worker_id)
     SELECT b.job_id, b.tenant_id, b.queue, b.level, b.due_at, b.kind, b.phase, b.fence, b.token, b.attempt,
            b.attempts_left, b.sequence, b.version, b.wants, b.lease_seconds, b.timeout_ms, b.started_at,
            b.started_sequence, b.deadline_at, b.watch_at, b.worker_id
     FROM {b}",
    0,
    &[
        ("job_id", Col::Uuid),
        ("tenant_id", Col::Uuid),
        ("queue", Col::Text),
        ("level", Col::Int),
        ("due_at", Col::Int),
        ("kind", Col::Text),
        ("phase", Col::Text),
        ("fence", Col::Int),
        ("token", Col::Bytes),
        ("attempt", Col::Int),
        ("attempts_left", Col::Int),
        ("sequence", Col::Int),
        ("version", Col::Int),
        ("wants", Col::Int),
        ("lease_seconds", Col::Int),
        ("timeout_ms", Col::Int),
        ("started_at", Col::Int),
        ("started_sequence", Col::Int),
        ("deadline_at", Col::Int),
        ("watch_at", Col::Int),
        ("worker_id", Col::Text),
    ],
);

pub(super) static READ_JOBS: Sql = Sql::batch(
    concat!(
        "SELECT ",
        job_columns!(),
        " FROM {b} JOIN jobs j ON j.id = b.job_id LEFT JOIN job_queue q ON q.job_id {is j.id} ",
        callback_source!()
    ),
    0,
    &[("job_id", Col::Uuid)],
);

/// One submission: its jobs are stored together or not at all.
pub(super) type Many = Vec<NewJob>;

/// What became of one of its jobs.
pub(super) enum Stored {
    /// It was stored, and accepted then. A claim may have it already.
    Now { at: Millis, taken: bool },
    /// An earlier request had made it.
    Earlier(Box<Submitted>),
}

impl Stored {
    /// The answer to who submitted `job`. Made by the caller: the writer has others to write for.
    pub(super) fn answer(self, job: &NewJob) -> Submitted {
        match self {
            Stored::Now { at, taken } => {
                Submitted { taken, ..accepted(job, own_lease(job, at).as_ref(), at) }
            }
            Stored::Earlier(first) => *first,
        }
    }
}

/// One job of a submission.
#[derive(Clone, Copy)]
struct One<'m> {
    of: &'m Arc<Many>,
    n: usize,
}

impl Deref for One<'_> {
    type Target = NewJob;

    fn deref(&self) -> &NewJob {
        &self.of[self.n]
    }
}

/// Stores several submissions. One answer each, in order. Jobs that the claims beside them want are theirs at once.
///
/// `in_doubt` says that the same ones may have been committed before, and the answer lost.
pub(super) async fn submit(
    inner: &Inner,
    tx: &mut Tx,
    out: &mut Outbox<'_>,
    many: &[&Arc<Many>],
    (takers, in_doubt): (&mut [Taker<'_>], bool),
    now: Millis,
) -> Result<Vec<Result<Vec<Stored>>>> {
    let all = || many.iter().flat_map(|of| (0..of.len()).map(move |n| One { of, n }));
    let keyed: Vec<&NewJob> =
        many.iter().flat_map(|m| m.iter()).filter(|j| j.idempotency.is_some()).collect();
    let earlier = earlier(tx, &keyed, now).await?;
    let refused =
        |m: &&&Arc<Many>| m.len() > 1 && m.iter().any(|j| matches!(earlier.get(&j.id), Some(Err(()))));
    if many.iter().any(|m| refused(&m)) {
        // All or none: the flush is halved until that submission stands alone and takes nothing with it.
        return Err(Error::KeyReused);
    }
    let fresh: Vec<One<'_>> = all().filter(|j| !earlier.contains_key(&j.id)).collect();
    let taken = match in_doubt {
        false => insert(inner, tx, out, &fresh, takers, now).await?,
        true => insert_again(inner, tx, out, fresh, now).await.map(|()| HashSet::new())?,
    };
    let replayed: Vec<JobId> = earlier
        .values()
        .filter_map(|e| e.as_ref().ok().copied())
        .collect::<HashSet<_>>()
        .into_iter()
        .collect();
    let rows = tx.batch(&READ_JOBS, vec![], replayed.iter().map(|id| args![*id]).collect()).await?;
    let first = rows
        .iter()
        .map(|r| Ok((r.id(0)?, replay(r, now)?)))
        .collect::<Result<HashMap<JobId, Submitted>>>()?;
    let answer = |j: &NewJob| match earlier.get(&j.id) {
        None => Ok(Stored::Now { at: now, taken: taken.contains(&j.id) }),
        Some(Ok(id)) => first.get(id).cloned().map(|s| Stored::Earlier(Box::new(s))).ok_or(Error::Expired),
        Some(Err(())) => Err(Error::KeyReused),
    };
    Ok(many.iter().map(|m| m.iter().map(answer).collect()).collect())
}

/// Which of the jobs repeat an earlier request: `Ok` names its job, `Err` says it was another request.
async fn earlier(
    tx: &mut Tx,
    keyed: &[&NewJob],
    now: Millis,
) -> Result<HashMap<JobId, std::result::Result<JobId, ()>>> {
    let claims: Vec<Claim<'_>> = keyed
        .iter()
        .filter_map(|j| Some(Claim { tenant: j.tenant, key: j.idempotency.as_ref()?, makes: j.id.uuid() }))
        .collect();
    let answers = claim_keys(tx, &claims, now).await?;
    let found = claims.iter().zip(answers).filter_map(|(claim, answer)| {
        let first = match answer {
            Claimed::First => return None,
            Claimed::Repeats(first) => Ok(JobId::from_uuid(first)),
            Claimed::Refused => Err(()),
        };
        Some((JobId::from_uuid(claim.makes), first))
    });
    Ok(found.collect())
}

/// Gives those that a claim has taken.
async fn insert(
    inner: &Inner,
    tx: &mut Tx,
    out: &mut Outbox<'_>,
    jobs: &[One<'_>],
    takers: &mut [Taker<'_>],
    now: Millis,
) -> Result<HashSet<JobId>> {
    let mut leases: Vec<_> = jobs.iter().map(|one| own_lease(one, now)).collect();
    let mut taken = HashSet::new();
    // The more urgent first, as where they are claimed.
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|i| level(jobs[*i].priority));
    let mut left = takers;
    for i in order {
        while left.first().is_some_and(Taker::is_full) {
            left = &mut left[1..];
        }
        let one = &jobs[i];
        if let Some(lease) = left.iter_mut().find_map(|taker| taker.take(one.of, one.n, now)) {
            leases[i] = Some(lease);
            taken.insert(one.id);
            out.job_moved(Standing { id: one.id, sequence: 2, ended: false });
        }
    }
    tx.later(&INSERT_JOBS, args![now], documents(inner, jobs)?).await?;
    owe(inner, tx, out, jobs, &leases, now).await?;
    Ok(taken)
}

/// What an earlier try has made is there, and may have been done since: it must not be owed again.
async fn insert_again(
    inner: &Inner,
    tx: &mut Tx,
    out: &mut Outbox<'_>,
    mut jobs: Vec<One<'_>>,
    now: Millis,
) -> Result<()> {
    let rows = tx.batch(&INSERT_JOBS_AGAIN, args![now], documents(inner, &jobs)?).await?;
    let ids = rows.iter().map(|row| row.id(0)).collect::<Result<HashSet<JobId>>>()?;
    jobs.retain(|j| ids.contains(&j.id));
    let leases: Vec<_> = jobs.iter().map(|one| own_lease(one, now)).collect();
    owe(inner, tx, out, &jobs, &leases, now).await
}

fn documents(inner: &Inner, jobs: &[One<'_>]) -> Result<Vec<Vec<Value>>> {
    jobs.iter().map(|j| document_row(j, seal(inner, j)?)).collect()
}

/// The queue rows, with the leases that jobs come with, and the events of the beginning.
async fn owe(
    inner: &Inner,
    tx: &mut Tx,
    out: &mut Outbox<'_>,
    jobs: &[One<'_>],
    leases: &[Option<FirstLease<'_>>],
    now: Millis,
) -> Result<()> {
    out.know(tx, jobs.iter().map(|j| (j.tenant, String::new()))).await?;
    out.know_named(tx, jobs.iter().filter_map(|j| j.callback.as_ref()?.endpoint_id)).await?;
    let mut rows = Vec::with_capacity(jobs.len());
    for (new, lease) in jobs.iter().zip(leases) {
        let wants = out.wanted(new.tenant) | new.callback.as_ref().map_or(0, |c| c.wants);
        rows.push(queue_row(new, wants, lease.as_ref(), now));
        announce(inner, out, new, wants, lease.as_ref(), now)?;
    }
    tx.later(&INSERT_QUEUE, vec![], rows).await
}

// `job.queued` and `job.started` are rows only where a receiver asked for them.
fn announce(
    inner: &Inner,
    out: &mut Outbox<'_>,
    new: &NewJob,
    wants: i64,
    lease: Option<&FirstLease<'_>>,
    now: Millis,
) -> Result<()> {
    if wants & (JobEvent::Queued.bit() | JobEvent::Started.bit()) == 0 {
        return Ok(());
    }
    let sealed = seal(inner, new)?;
    let job = |lease| Job { sealed: sealed.clone(), ..accepted(new, lease, now).job };
    if wants & JobEvent::Queued.bit() != 0 {
        let queued = match new.worker {
            WorkerKind::Pull => job(None),
            WorkerKind::External => {
                Job { sequence: 1, state: JobState::Queued, attempt: 0, started_at: None, ..job(lease) }
            }
        };
        out.job_event(&queued, JobEvent::Queued, now, None)?;
    }
    if lease.is_some() && wants & JobEvent::Started.bit() != 0 {
        out.job_event(&job(lease), JobEvent::Started, now, None)?;
    }
    Ok(())
}

fn seal(inner: &Inner, new: &NewJob) -> Result<Option<Vec<u8>>> {
    if new.secrets.is_empty() {
        return Ok(None);
    }
    let plain = serde_json::to_vec(&new.secrets).map_err(|e| Error::Bug(e.to_string()))?;
    let aad = Aad { tenant: new.tenant.uuid(), row: new.id.uuid(), column: SEALED_COLUMN };
    Ok(Some(inner.keys.now().ring.seal(inner.dice.bytes(), &aad, &plain)))
}
