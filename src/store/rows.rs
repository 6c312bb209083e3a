//! Reading a job from its document, its queue row and its callback's delivery; documents that stand in a column.

use super::db::Row;
use super::error::{Error, Result};
use crate::types::api::ErrorInfo;
use crate::types::delivery::DeliveryState;
use crate::types::job::{CallbackState, Job, JobState, WorkerKind};
use crate::types::retry::RetryPolicy;
use crate::types::{Id, Millis};

/// The columns of [`job`], in order, over `jobs j`, `job_queue q` and [`callback_source!`].
macro_rules! job_columns {
    () => {
        $crate::store::rows::job_columns!(
            "d.state, d.version, \
             CASE WHEN COALESCE(l.paused_until, 0) > COALESCE(l.held_until, 0) THEN l.paused_until ELSE l.held_until END, \
             ep.state"
        )
    };
    // Of a job that is owed: no delivery of its end is there to join.
    (owed) => {
        $crate::store::rows::job_columns!("NULL, NULL, NULL, NULL")
    };
    ($callback:expr) => {
        concat!(
            "j.id, j.tenant_id, j.kind, j.queue, j.reference, j.priority, j.worker, j.callback, j.sealed, j.run_at, \
             j.deadline_at, j.timeout_seconds, j.max_attempts, j.metadata, j.retain_seconds, j.traceparent, \
             j.estimated_seconds, j.created_at, j.state, j.attempt, j.sequence, j.version, j.fence, j.token, \
             j.started_at, j.started_sequence, j.ended_at, j.error, j.error_code, j.error_retryable, j.result_type, \
             j.result_url, j.expires_at, j.purged_at, j.remove_at, \
             q.phase, q.fence, q.token, q.attempt, q.sequence, q.version, q.started_at, q.started_sequence, q.due_at, \
             q.lease_seconds, q.progress, q.message, q.cancel_at, q.cancel_reason, q.error, q.error_code, \
             q.attempts_left, q.wants, q.progress_at, q.progress_due, ",
            $callback
        )
    };
}

/// What a callback's state is read from.
macro_rules! callback_source {
    () => {
        "LEFT JOIN deliveries d ON d.id = j.delivery_id LEFT JOIN lanes l ON l.id = d.lane_id AND d.state = 'owed' \
         LEFT JOIN endpoints ep ON ep.id = d.endpoint_id AND d.state = 'owed'"
    };
}

pub(super) use {callback_source, job_columns};

/// How the queue row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Claimable when due.
    Ready,
    /// In a worker's hands until due.
    Leased,
    /// Claimable when due, after a failed attempt.
    Retry,
}

impl Phase {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Phase::Ready => "ready",
            Phase::Leased => "leased",
            Phase::Retry => "retry",
        }
    }
}

/// A job with what only its queue row knows.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) job: Job,
    /// None once nothing is owed.
    pub(super) phase: Option<Phase>,
    pub(super) attempts_left: i64,
    pub(super) wants: i64,
    pub(super) progress_at: Option<Millis>,
    /// When progress that is not told yet has to be.
    pub(super) progress_due: Option<Millis>,
}

/// Reads a row of [`job_columns!`] as it stands at `now`.
pub(super) fn held(row: &Row, now: Millis) -> Result<Held> {
    let phase = match row.text_opt(35)?.as_deref() {
        None => None,
        Some("ready") => Some(Phase::Ready),
        Some("leased") => Some(Phase::Leased),
        Some("retry") => Some(Phase::Retry),
        Some(other) => return Err(Error::Bug(format!("phase {other}"))),
    };
    let mut job = document(row)?;
    if let Some(phase) = phase {
        from_queue(&mut job, row, phase, now)?;
    }
    // The sweep comes once a minute; what it would remove is gone at its time.
    job.purged |= row.time_opt(34)?.is_some_and(|at| at <= now);
    job.callback_state = callback_state(row, &job, now)?;
    job.callback_version = row.int_opt(56)?.unwrap_or(0);
    Ok(Held {
        phase,
        attempts_left: row.int_opt(51)?.unwrap_or(0),
        wants: row.int_opt(52)?.unwrap_or(0),
        progress_at: row.time_opt(53)?,
        progress_due: row.time_opt(54)?,
        job,
    })
}

/// Reads the job alone.
pub(super) fn job(row: &Row, now: Millis) -> Result<Job> {
    held(row, now).map(|h| h.job)
}

fn document(row: &Row) -> Result<Job> {
    let state = row.text(18)?;
    let attempt = row.count(19)?;
    let error_code = row.text_opt(28)?;
    let error_info = row.int_opt(29)?.map(|retryable| ErrorInfo {
        code: error_code,
        message: None,
        retryable: retryable == 1,
        attempt,
    });
    let word = |w: &str| Error::Bug(format!("unknown word {w}"));
    Ok(Job {
        id: row.id(0)?,
        tenant: row.id(1)?,
        kind: row.text(2)?,
        queue: row.text(3)?,
        reference: row.text_opt(4)?,
        priority: i8::try_from(row.int(5)?).map_err(|_| word("priority"))?,
        worker: row.text(6).and_then(|w| WorkerKind::from_word(&w).ok_or_else(|| word(&w)))?,
        callback: row.text_opt(7)?,
        sealed: row.bytes_opt(8)?,
        run_at: row.time_opt(9)?,
        deadline_at: row.time_opt(10)?,
        timeout_seconds: row.count(11)?,
        max_attempts: row.count(12)?,
        metadata: row.text(13)?,
        retain_seconds: row.count(14)?,
        traceparent: row.text_opt(15)?,
        estimated_seconds: row.count(16)?,
        created_at: row.time(17)?,
        // 'owed' is told by the queue row; a claim that ended it meanwhile is seen at the next read.
        state: JobState::from_word(&state).unwrap_or(JobState::Queued),
        attempt,
        sequence: row.int(20)?,
        version: row.int(21)?,
        fence: row.int(22)?,
        token: token(row, 23)?,
        started_at: row.time_opt(24)?,
        started_sequence: row.int_opt(25)?,
        due_at: None,
        lease_seconds: 0,
        progress: None,
        message: None,
        cancel_at: None,
        cancel_reason: None,
        ended_at: row.time_opt(26)?,
        error: row.text_opt(27)?,
        error_info,
        result_type: row.text_opt(30)?,
        result_url: row.text_opt(31)?,
        expires_at: row.time_opt(32)?,
        purged: row.int_opt(33)?.is_some(),
        callback_state: CallbackState::None,
        callback_version: 0,
    })
}

fn from_queue(job: &mut Job, row: &Row, phase: Phase, now: Millis) -> Result<()> {
    let due = row.time(43)?;
    job.state = match phase {
        Phase::Leased => JobState::Processing,
        Phase::Retry => JobState::Retrying,
        Phase::Ready if due > now => JobState::Scheduled,
        Phase::Ready => JobState::Queued,
    };
    job.fence = row.int(36)?;
    job.token = token(row, 37)?;
    job.attempt = row.count(38)?;
    job.sequence = row.int(39)?;
    job.version = row.int(40)?;
    job.started_at = row.time_opt(41)?;
    job.started_sequence = row.int_opt(42)?;
    job.due_at = Some(due);
    job.lease_seconds = row.count(44)?;
    job.progress = row.int_opt(45)?.and_then(|p| u8::try_from(p).ok());
    job.message = row.text_opt(46)?;
    job.cancel_at = row.time_opt(47)?;
    job.cancel_reason = row.text_opt(48)?;
    // The error of the attempt before; `error` itself is only for jobs that have ended.
    let code = row.text_opt(50)?;
    job.error_info = row.text_opt(49)?.filter(|_| phase == Phase::Retry).map(|text| ErrorInfo {
        code,
        message: Some(text),
        retryable: true,
        attempt: job.attempt,
    });
    Ok(())
}

fn token(row: &Row, i: usize) -> Result<Option<[u8; 16]>> {
    let bytes = row.bytes_opt(i)?;
    bytes.map(|b| b.try_into().map_err(|_| Error::Bug("a token has 16 bytes".to_owned()))).transpose()
}

fn callback_state(row: &Row, job: &Job, now: Millis) -> Result<CallbackState> {
    let delivery = row.text_opt(55)?;
    let Some(state) = delivery else {
        return Ok(if job.state.ended() { CallbackState::None } else { callback_awaited(job) });
    };
    let parked = row.text_opt(58)?.is_some_and(|endpoint| endpoint != "enabled");
    let held = parked || row.time_opt(57)?.is_some_and(|until| until > now);
    Ok(CallbackState::of(match state.as_str() {
        "delivered" => DeliveryState::Delivered,
        "dead" => DeliveryState::Dead,
        "cancelled" => DeliveryState::Cancelled,
        _ if held => DeliveryState::Held,
        _ => DeliveryState::Pending,
    }))
}

/// The callback of a job that has not ended.
pub(super) fn callback_awaited(job: &Job) -> CallbackState {
    CallbackState::awaited(job.callback_wants())
}

/// The random part of the lease token of one job of a claim.
///
/// One claim writes one seed for all its jobs; mixing in the job keeps the token of one from
/// telling the token of another.
pub(super) fn lease_random<K>(seed: [u8; 16], job: Id<K>) -> [u8; 16] {
    use sha2::{Digest, Sha256};
    let hash =
        Sha256::new().chain_update(b"ringback lease").chain_update(seed).chain_update(job.uuid()).finalize();
    let mut out = [0; 16];
    out.copy_from_slice(&hash[..16]);
    out
}

/// A document as it is stored or sent.
pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Bug(e.to_string()))
}

/// The policy of a delivery, as [`policy_text`] stored it.
pub(super) fn policy(row: &Row, column: usize) -> Result<RetryPolicy> {
    let text = row.text_opt(column)?;
    let policy = text.as_deref().map_or(Ok(RetryPolicy::default()), serde_json::from_str);
    policy.map_err(|e| Error::Bug(format!("stored policy: {e}")))
}

/// The stored form of a policy: none of the contract's own, which nearly all have.
pub(super) fn policy_text(policy: &RetryPolicy) -> Result<Option<String>> {
    (!policy.is_usual()).then(|| json(policy)).transpose()
}
