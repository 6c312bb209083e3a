//! The rows of a job that is submitted, and how it stands then.

use crate::args;
use crate::store::db::{Row, Value};
use crate::store::emit::callback_text;
use crate::store::error::Result;
use crate::store::model::Submitted;
use crate::store::rows::{job, lease_random};
use crate::store::seconds;
use crate::types::Millis;
use crate::types::job::{CallbackState, Job, JobState, NewJob, WorkerKind};
use crate::types::key::LeaseToken;

pub(in crate::store) fn document_row(j: &NewJob, sealed: Option<Vec<u8>>) -> Result<Vec<Value>> {
    Ok(args![
        j.id,
        j.tenant,
        j.kind.as_str(),
        j.queue.as_str(),
        j.reference.clone(),
        i64::from(j.priority),
        j.worker.as_str(),
        j.input.as_str(),
        j.callback.as_ref().map(callback_text).transpose()?,
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

/// The lease with which a job comes into the store.
pub(in crate::store) struct FirstLease<'w> {
    pub(in crate::store) seed: Option<[u8; 16]>,
    pub(in crate::store) until: Millis,
    /// How long a heartbeat renews it for that does not say.
    pub(in crate::store) seconds: u32,
    pub(in crate::store) worker_id: Option<&'w str>,
}

/// That of an external job, which its submitter holds.
pub(in crate::store) fn own_lease(j: &NewJob, now: Millis) -> Option<FirstLease<'static>> {
    (j.worker == WorkerKind::External).then(|| FirstLease {
        seed: j.lease.map(|l| l.random),
        until: now.plus(seconds(j.lease_seconds)),
        seconds: j.lease_seconds,
        worker_id: None,
    })
}

pub(in crate::store) fn queue_row(
    j: &NewJob,
    wants: i64,
    lease: Option<&FirstLease<'_>>,
    now: Millis,
) -> Vec<Value> {
    let external = j.worker == WorkerKind::External;
    let (phase, attempt, sequence) = if lease.is_some() { ("leased", 1i64, 2i64) } else { ("ready", 0, 1) };
    let left = if external { 0 } else { i64::from(j.max_attempts) - attempt };
    let started = lease.map(|_| now);
    // An external job may run as long as its lease is renewed.
    let timeout_ms = if external { i64::MAX / 4 } else { i64::from(j.timeout_seconds) * 1000 };
    let watch_at = if lease.is_some() && !external { must_end(j, now) } else { j.deadline_at };
    args![
        j.id,
        j.tenant,
        j.queue.as_str(),
        level(j.priority),
        lease.map_or_else(|| due(j, now), |l| l.until),
        j.kind.as_str(),
        phase,
        attempt, // the fence rises with it
        lease.and_then(|l| l.seed).map(|seed| seed.to_vec()),
        attempt,
        left,
        sequence,
        0i64,
        wants,
        lease.map_or(j.lease_seconds, |l| l.seconds),
        timeout_ms,
        started,
        started.map(|_| sequence),
        j.deadline_at,
        watch_at,
        lease.and_then(|l| l.worker_id),
    ]
}

/// When an attempt that begins now has to end.
pub(in crate::store) fn must_end(j: &NewJob, now: Millis) -> Option<Millis> {
    [j.deadline_at, Some(now.plus(seconds(j.timeout_seconds)))].into_iter().flatten().min()
}

fn due(j: &NewJob, now: Millis) -> Millis {
    j.run_at.unwrap_or(now).max(now)
}

/// 0 is claimed first.
pub(in crate::store) fn level(priority: i8) -> i64 {
    2 - i64::from(priority)
}

/// The job as it stands right after its submission, with the lease that it came with.
pub(in crate::store) fn accepted(j: &NewJob, lease: Option<&FirstLease<'_>>, now: Millis) -> Submitted {
    let due = lease.map_or_else(|| due(j, now), |l| l.until);
    let state = match lease {
        Some(_) => JobState::Processing,
        None if due > now => JobState::Scheduled,
        None => JobState::Queued,
    };
    let job = Job {
        id: j.id,
        tenant: j.tenant,
        kind: j.kind.clone(),
        queue: j.queue.clone(),
        reference: j.reference.clone(),
        priority: j.priority,
        worker: j.worker,
        callback: j.callback.as_ref().and_then(|c| callback_text(c).ok()),
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
        attempt: u32::from(lease.is_some()),
        sequence: if lease.is_some() { 2 } else { 1 },
        version: 0,
        fence: i64::from(lease.is_some()),
        token: lease.and_then(|l| l.seed),
        started_at: lease.map(|_| now),
        started_sequence: lease.map(|_| 2),
        due_at: Some(due),
        lease_seconds: lease.map_or(j.lease_seconds, |l| l.seconds),
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
    Submitted { job, lease, replayed: false, taken: false }
}

pub(in crate::store) fn replay(row: &Row, now: Millis) -> Result<Submitted> {
    let job = job(row, now)?;
    let lease = first_lease(&job);
    Ok(Submitted { job, lease, replayed: true, taken: false })
}

/// The lease that an external job's submitter holds, while it is the first one.
fn first_lease(job: &Job) -> Option<(LeaseToken, Millis)> {
    let (WorkerKind::External, JobState::Processing, 1) = (job.worker, job.state, job.fence) else {
        return None;
    };
    Some((LeaseToken { fence: 1, random: lease_random(job.token?, job.id) }, job.due_at?))
}
