//! What may happen to a job that is owed, and the pure decision what becomes of it.

use bytes::Bytes;

use super::{Job, JobState, WorkerKind};
use crate::types::{Millis, api, strict};

/// A JSON result up to this size stands in the webhook itself, bytes.
const INLINE_MAX: usize = 64 * 1024;

/// What a worker, a client or the sweep wants to happen to a job that is still owed.
#[derive(Debug, Clone)]
pub enum Change {
    /// The work is done.
    Complete(Outcome),
    /// The attempt went wrong.
    Fail(Failure),
    /// The worker gives it back; no attempt is used.
    Release {
        /// Seconds before it may be claimed again.
        delay_seconds: u32,
    },
    /// The client takes it back.
    Cancel {
        /// Stands in `error`.
        reason: Option<String>,
    },
    /// The lease ran out and no attempt is left.
    WorkerLost,
    /// The attempt ran longer than it may.
    TimedOut,
    /// The holder did not react to a cancel in time.
    CancelOverdue,
    /// `deadlineAt` passed.
    Expire,
}

/// The result of the work.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Bytes with their content type.
    Bytes {
        /// The content type as the worker gave it.
        content_type: String,
        /// At most 1 MiB.
        bytes: Bytes,
        /// Whether a webhook may hold it.
        inline: bool,
    },
    /// Kept elsewhere.
    Elsewhere(String),
}

impl Outcome {
    /// JSON that [`strict::scan`] let through.
    pub fn json(bytes: Bytes) -> Outcome {
        let inline = bytes.len() <= INLINE_MAX;
        Outcome::Bytes { content_type: "application/json".to_owned(), bytes, inline }
    }

    /// Bytes that nobody has looked at, of whatever type. They are the result in any case, but what not every receiver
    /// reads alike would spoil all that stands around it in a webhook.
    pub fn raw(content_type: String, bytes: Bytes) -> Outcome {
        let fits = bytes.len() <= INLINE_MAX && api::ending(&content_type) == Some("json");
        let inline = fits && strict::scan(&bytes).is_ok();
        Outcome::Bytes { content_type, bytes, inline }
    }
}

/// Why an attempt went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For people.
    pub error: String,
    /// For programs.
    pub code: Option<String>,
    /// Whether another attempt may help.
    pub retryable: bool,
    /// Not again before, seconds.
    pub retry_after_seconds: Option<u32>,
}

impl Failure {
    /// An attempt that went wrong; another one may help.
    pub fn new(error: impl Into<String>) -> Failure {
        Failure { error: error.into(), code: None, retryable: true, retry_after_seconds: None }
    }

    /// Work that no other attempt can do.
    pub fn fatal(error: impl Into<String>) -> Failure {
        Failure { retryable: false, ..Failure::new(error) }
    }

    /// The same with a word for programs.
    pub fn with_code(self, code: impl Into<String>) -> Failure {
        Failure { code: Some(code.into()), ..self }
    }

    /// The same, not tried again before `seconds` have passed.
    pub fn retry_after(self, seconds: u32) -> Failure {
        Failure { retry_after_seconds: Some(seconds), ..self }
    }
}

/// What becomes of the job.
#[derive(Debug, Clone)]
pub enum Next {
    /// It has ended.
    End {
        /// A terminal state.
        state: JobState,
        /// Why it ended without a result.
        error: Option<String>,
        /// The same for programs.
        info: Option<api::ErrorInfo>,
        /// The result.
        outcome: Option<Outcome>,
    },
    /// It waits for its next attempt.
    Again {
        /// When.
        due_at: Millis,
        /// Whether the attempt is given back.
        refund: bool,
        /// Why the attempt ended; None for a release.
        error: Option<(String, api::ErrorInfo)>,
    },
    /// The holder is told at its next heartbeat.
    TellHolder {
        /// Stands in `error` later.
        reason: Option<String>,
    },
}

/// How long the holder of a cancelled job has to react.
pub const CANCEL_GRACE: std::time::Duration = std::time::Duration::from_secs(30);
/// The error code of an external job that its holder gave back.
pub const RELEASED: &str = "released";
/// Why an attempt ended whose holder was not heard of in time.
pub const LOST: &str = "the worker was lost: its lease ran out";

/// Seconds before attempt `n + 1` of a job: 5, 20, 80, 320, then every 10 minutes.
pub fn job_backoff_seconds(attempt: u32) -> u32 {
    5u32.saturating_mul(4u32.saturating_pow(attempt.saturating_sub(1).min(8))).min(600)
}

/// Decides what `change` makes of `job`. Pure; the caller has checked lease and state.
pub fn decide(job: &Job, change: Change, now: Millis) -> Next {
    let cancelled = |reason: Option<String>| {
        let text = reason.map_or("cancelled by the client".to_owned(), |r| format!("cancelled: {r}"));
        end(job, JobState::Cancelled, text, "cancelled", false)
    };
    match change {
        Change::Complete(outcome) => {
            Next::End { state: JobState::Complete, error: None, info: None, outcome: Some(outcome) }
        }
        Change::Fail(_) | Change::Release { .. } if job.cancel_at.is_some() => {
            cancelled(job.cancel_reason.clone())
        }
        Change::Fail(failure) => fail(job, failure, now),
        // Nobody else does an external job: without its holder it would be owed for ever.
        Change::Release { .. } if job.worker == WorkerKind::External => {
            end(job, JobState::Failed, "released by its holder".to_owned(), RELEASED, false)
        }
        Change::Release { delay_seconds } => {
            Next::Again { due_at: after(now, delay_seconds), refund: true, error: None }
        }
        Change::Cancel { reason } if job.state == JobState::Processing => Next::TellHolder { reason },
        Change::Cancel { reason } => cancelled(reason),
        Change::CancelOverdue => cancelled(job.cancel_reason.clone()),
        Change::WorkerLost => {
            end(job, JobState::Failed, LOST.to_owned(), "worker-lost", job.worker != WorkerKind::External)
        }
        Change::TimedOut => {
            let error = format!("the attempt ran longer than {} s", job.timeout_seconds);
            let failure = Failure {
                error,
                code: Some("timeout".to_owned()),
                retryable: true,
                retry_after_seconds: None,
            };
            fail(job, failure, now)
        }
        Change::Expire => {
            end(job, JobState::Expired, "the deadline passed".to_owned(), "deadline-passed", false)
        }
    }
}

fn fail(job: &Job, failure: Failure, now: Millis) -> Next {
    // An external job has one attempt and no queue to go back to.
    let retryable = failure.retryable && job.worker != WorkerKind::External;
    let info = api::ErrorInfo { code: failure.code, message: None, retryable, attempt: job.attempt };
    if !failure.retryable || job.attempt >= job.max_attempts || job.worker == WorkerKind::External {
        let error = Some(failure.error);
        return Next::End { state: JobState::Failed, error, info: Some(info), outcome: None };
    }
    let wait = job_backoff_seconds(job.attempt).max(failure.retry_after_seconds.unwrap_or(0));
    Next::Again { due_at: after(now, wait), refund: false, error: Some((failure.error, info)) }
}

fn end(job: &Job, state: JobState, error: String, code: &str, retryable: bool) -> Next {
    let info = api::ErrorInfo { code: Some(code.to_owned()), message: None, retryable, attempt: job.attempt };
    Next::End { state, error: Some(error), info: Some(info), outcome: None }
}

fn after(now: Millis, seconds: u32) -> Millis {
    now.plus(std::time::Duration::from_secs(seconds.into()))
}
