//! `submit`: jobs, their queue rows and their idempotency keys, in one transaction.

use std::collections::HashMap;

use super::batch::{Col, Sql};
use super::db::{Row, Value};
use super::emit::Outbox;
use super::error::{Error, Result};
use super::idempotency::{Claim, Claimed, claim_keys};
use super::model::Submitted;
use super::pool::Tx;
use super::rows::{callback_source, job, job_columns, lease_random};
use super::seal::Aad;
use super::{Inner, seconds};
use crate::args;
use crate::types::job::{CallbackState, Job, JobEvent, JobState, NewJob, WorkerKind};
use crate::types::key::LeaseToken;
use crate::types::{JobId, Millis};

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
                            deadline_at, watch_at)
     SELECT b.job_id, b.tenant_id, b.queue, b.level, b.due_at, b.kind, b.phase, b.fence, b.token, b.attempt,
            b.attempts_left, b.sequence, b.version, b.wants, b.lease_seconds, b.timeout_ms, b.started_at,
            b.started_sequence, b.deadline_at, b.deadline_at
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
    /// It was stored, and accepted then.
    Now(Millis),
    /// An earlier request had made it.
    Earlier(Box<Submitted>),
}

impl Stored {
    /// The answer to who submitted `job`. Made by the caller: the writer has others to write for.
    pub(super) fn answer(self, job: &NewJob) -> Submitted {
        match self {
            Stored::Now(at) => accepted(job, at),
            Stored::Earlier(first) => *first,
        }
    }
}

/// Stores several submissions. One answer each, in order.
///
/// `in_doubt` says that the same ones may have been committed before, and the answer lost.
pub(super) async fn submit(
    inner: &Inner,
    tx: &mut Tx,
    out: &mut Outbox<'_>,
    many: &[&Many],
    in_doubt: bool,
    now: Millis,
) -> Result<Vec<Result<Vec<Stored>>>> {
    let keyed: Vec<&NewJob> =
        many.iter().flat_map(|m| m.iter()).filter(|j| j.idempotency.is_some()).collect();
    let earlier = earlier(tx, &keyed, now).await?;
    let refused = |m: &&&Many| m.len() > 1 && m.iter().any(|j| matches!(earlier.get(&j.id), Some(Err(()))));
    if many.iter().any(|m| refused(&m)) {
        // All or none: the flush is halved until that submission stands alone and takes nothing with it.
        return Err(Error::KeyReused);
    }
    let fresh: Vec<&NewJob> =
        many.iter().flat_map(|m| m.iter()).filter(|j| !earlier.contains_key(&j.id)).collect();
    insert(inner, tx, out, &fresh, in_doubt, now).await?;
    let replayed: Vec<JobId> = earlier
        .values()
        .filter_map(|e| e.as_ref().ok().copied())
        .collect::<std::collections::HashSet<_>>()
        .into_iter()
        .collect();
    let rows = tx.batch(&READ_JOBS, vec![], replayed.iter().map(|id| args![*id]).collect()).await?;
    let first = rows
        .iter()
        .map(|r| Ok((r.id(0)?, replay(r, now)?)))
        .collect::<Result<HashMap<JobId, Submitted>>>()?;
    let answer = |j: &NewJob| match earlier.get(&j.id) {
        None => Ok(Stored::Now(now)),
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

async fn insert(
    inner: &Inner,
    tx: &mut Tx,
    out: &mut Outbox<'_>,
    jobs: &[&NewJob],
    in_doubt: bool,
    now: Millis,
) -> Result<()> {
    let rows = jobs.iter().map(|j| document_row(j, seal(inner, j)?)).collect::<Result<_>>()?;
    let mut made: Vec<&NewJob> = jobs.to_vec();
    if in_doubt {
        // What an earlier try has made is there, and may have been done since: it must not be owed again.
        let rows = tx.batch(&INSERT_JOBS_AGAIN, args![now], rows).await?;
        let ids = rows.iter().map(|row| row.id(0)).collect::<Result<std::collections::HashSet<JobId>>>()?;
        made.retain(|j| ids.contains(&j.id));
    } else {
        tx.later(&INSERT_JOBS, args![now], rows).await?;
    }
    out.know(tx, made.iter().map(|j| (j.tenant, String::new()))).await?;
    out.know_named(tx, made.iter().filter_map(|j| j.callback.as_ref()?.endpoint_id)).await?;
    let wants = |j: &NewJob| out.wanted(j.tenant) | j.callback.as_ref().map_or(0, |c| c.wants);
    tx.later(&INSERT_QUEUE, vec![], made.iter().map(|j| queue_row(j, wants(j), now)).collect()).await?;
    for new in made {
        let wants = out.wanted(new.tenant) | new.callback.as_ref().map_or(0, |c| c.wants);
        announce(inner, out, new, wants, now)?;
    }
    Ok(())
}

// `job.queued` and `job.started` are rows only where a receiver asked for them.
fn announce(inner: &Inner, out: &mut Outbox<'_>, new: &NewJob, wants: i64, now: Millis) -> Result<()> {
    if wants & (JobEvent::Queued.bit() | JobEvent::Started.bit()) == 0 {
        return Ok(());
    }
    let mut job = accepted(new, now).job;
    job.sealed = seal(inner, new)?;
    if wants & JobEvent::Queued.bit() != 0 {
        let mut queued = job.clone();
        queued.sequence = 1;
        if new.worker == WorkerKind::External {
            queued.state = JobState::Queued;
        }
        out.job_event(&queued, JobEvent::Queued, now, None)?;
    }
    if new.worker == WorkerKind::External && wants & JobEvent::Started.bit() != 0 {
        out.job_event(&job, JobEvent::Started, now, None)?;
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

pub(super) fn document_row(j: &NewJob, sealed: Option<Vec<u8>>) -> Result<Vec<Value>> {
    Ok(args![
        j.id,
        j.tenant,
        j.kind.as_str(),
        j.queue.as_str(),
        j.reference.clone(),
        i64::from(j.priority),
        j.worker.as_str(),
        j.input.as_str(),
        j.callback.as_ref().map(super::emit::callback_text).transpose()?,
        sealed,
        j.run_at,
        j.deadline_at,
        j.timeout_seconds,
        j.max_attempts,
        j.metadata.as_str(),
        j.retain_seconds,
        j.traceparent.clone(),
        j.estimated_seconds,
    ])
}

pub(super) fn queue_row(j: &NewJob, wants: i64, now: Millis) -> Vec<Value> {
    let external = j.worker == WorkerKind::External;
    let (phase, fence, attempt, left, sequence) = if external {
        ("leased", 1i64, 1i64, 0, 2i64)
    } else {
        ("ready", 0, 0, i64::from(j.max_attempts), 1)
    };
    let due = if external { now.plus(seconds(j.lease_seconds)) } else { j.run_at.unwrap_or(now).max(now) };
    let started = external.then_some(now);
    let seed = j.lease.as_ref().map(|l| l.random.to_vec());
    // An external job may run as long as its lease is renewed.
    let timeout_ms = if external { i64::MAX / 4 } else { i64::from(j.timeout_seconds) * 1000 };
    args![
        j.id,
        j.tenant,
        j.queue.as_str(),
        level(j.priority),
        due,
        j.kind.as_str(),
        phase,
        fence,
        seed,
        attempt,
        left,
        sequence,
        0i64,
        wants,
        j.lease_seconds,
        timeout_ms,
        started,
        started.map(|_| 2i64),
        j.deadline_at,
    ]
}

/// 0 is claimed first.
pub(super) fn level(priority: i8) -> i64 {
    2 - i64::from(priority)
}

/// The job as it stands right after its submission.
pub(super) fn accepted(j: &NewJob, now: Millis) -> Submitted {
    let external = j.worker == WorkerKind::External;
    let due = if external { now.plus(seconds(j.lease_seconds)) } else { j.run_at.unwrap_or(now).max(now) };
    let state = if external {
        JobState::Processing
    } else if due > now {
        JobState::Scheduled
    } else {
        JobState::Queued
    };
    let job = Job {
        id: j.id,
        tenant: j.tenant,
        kind: j.kind.clone(),
        queue: j.queue.clone(),
        reference: j.reference.clone(),
        priority: j.priority,
        worker: j.worker,
        callback: j.callback.as_ref().and_then(|c| super::emit::callback_text(c).ok()),
        sealed: None,
        run_at: j.run_at,
        deadline_at: j.deadline_at,
        timeout_seconds: j.timeout_seconds,
        max_attempts: j.max_attempts,
        metadata: j.metadata.clone(),
        retain_seconds: j.retain_seconds,
        traceparent: j.traceparent.clone(),
        estimated_seconds: j.estimated_seconds,
        created_at: now,
        state,
        attempt: u32::from(external),
        sequence: if external { 2 } else { 1 },
        version: 0,
        fence: i64::from(external),
        token: j.lease.as_ref().map(|l| l.random),
        started_at: external.then_some(now),
        started_sequence: external.then_some(2),
        due_at: Some(due),
        lease_seconds: j.lease_seconds,
        progress: None,
        message: None,
        cancel_at: None,
        cancel_reason: None,
        ended_at: None,
        error: None,
        error_info: None,
        result_type: None,
        result_url: None,
        expires_at: None,
        purged: false,
        callback_state: CallbackState::awaited(j.callback.as_ref().map(|c| c.wants)),
        callback_version: 0,
    };
    let lease = first_lease(&job);
    Submitted { job, lease, replayed: false }
}

pub(super) fn replay(row: &Row, now: Millis) -> Result<Submitted> {
    let job = job(row, now)?;
    let lease = first_lease(&job);
    Ok(Submitted { job, lease, replayed: true })
}

/// The lease that an external job's submitter holds, while it is the first one.
fn first_lease(job: &Job) -> Option<(LeaseToken, Millis)> {
    let (WorkerKind::External, JobState::Processing, 1) = (job.worker, job.state, job.fence) else {
        return None;
    };
    Some((LeaseToken { fence: 1, random: lease_random(job.token?, job.id) }, job.due_at?))
}
