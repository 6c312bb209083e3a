//! Writes what became of a batch of jobs: one statement per table.

use std::collections::HashMap;

use super::Work;
use crate::args;
use crate::store::batch::{Col, Sql};
use crate::store::db::Value;
use crate::store::error::Result;
use crate::store::pool::Tx;
use crate::store::rows::{Held, Phase};
use crate::store::submit::{INSERT_QUEUE, level};
use crate::types::job::{CANCEL_GRACE, Outcome};
use crate::types::{JobId, Millis};

pub(in crate::store) static END_QUEUE: Sql = Sql::batch(
    "DELETE FROM job_queue USING {b} WHERE job_queue.job_id {is b.job_id}",
    0,
    &[("job_id", Col::Uuid)],
);

pub(in crate::store) static END_JOBS: Sql = Sql::batch(
    "UPDATE jobs
     SET state = b.state, attempt = b.attempt, sequence = b.sequence, version = b.version, fence = b.fence, token = b.token,
         started_at = b.started_at, started_sequence = b.started_sequence, ended_at = b.ended_at, error = b.error,
         error_code = b.error_code, error_retryable = b.error_retryable, result = b.result, result_type = b.result_type,
         result_url = b.result_url, delivery_id = b.delivery_id, expires_at = b.expires_at,
         remove_at = b.expires_at
     FROM {b}
     WHERE jobs.id = b.id
       AND jobs.state || '' = 'owed'",
    0,
    &[
        ("id", Col::Uuid),
        ("state", Col::Text),
        ("attempt", Col::Int),
        ("sequence", Col::Int),
        ("version", Col::Int),
        ("fence", Col::Int),
        ("token", Col::Bytes),
        ("started_at", Col::Int),
        ("started_sequence", Col::Int),
        ("ended_at", Col::Int),
        ("error", Col::Text),
        ("error_code", Col::Text),
        ("error_retryable", Col::Int),
        ("result", Col::Bytes),
        ("result_type", Col::Text),
        ("result_url", Col::Text),
        ("delivery_id", Col::Uuid),
        ("expires_at", Col::Int),
    ],
);

static UPDATE_QUEUE: Sql = Sql::batch(
    "UPDATE job_queue
     SET due_at = b.due_at, phase = b.phase, attempt = b.attempt, attempts_left = b.attempts_left, sequence = b.sequence,
         version = b.version, fence = b.fence, progress = b.progress, progress_at = b.progress_at, progress_due = b.progress_due, message = b.message, error = b.error,
         error_code = b.error_code, cancel_at = b.cancel_at, cancel_reason = b.cancel_reason, watch_at = b.watch_at,
         started_sequence = b.started_sequence
     FROM {b} WHERE job_queue.job_id {is b.job_id}",
    0,
    &[
        ("job_id", Col::Uuid),
        ("due_at", Col::Int),
        ("phase", Col::Text),
        ("attempt", Col::Int),
        ("attempts_left", Col::Int),
        ("sequence", Col::Int),
        ("version", Col::Int),
        ("fence", Col::Int),
        ("progress", Col::Int),
        ("progress_at", Col::Int),
        ("progress_due", Col::Int),
        ("message", Col::Text),
        ("error", Col::Text),
        ("error_code", Col::Text),
        ("cancel_at", Col::Int),
        ("cancel_reason", Col::Text),
        ("watch_at", Col::Int),
        ("started_sequence", Col::Int),
    ],
);

static REOPEN_JOBS: Sql = Sql::batch(
    "UPDATE jobs
     SET state = 'owed', ended_at = NULL, error = NULL, error_code = NULL, error_retryable = NULL, delivery_id = NULL,
         expires_at = NULL, remove_at = NULL, deadline_at = b.deadline_at
     FROM {b} WHERE jobs.id = b.id AND jobs.state || '' IN ('failed', 'cancelled', 'expired')",
    0,
    &[("id", Col::Uuid), ("deadline_at", Col::Int)],
);

pub(super) async fn write(tx: &mut Tx, jobs: HashMap<JobId, Box<Work>>) -> Result<()> {
    let mut jobs: Vec<Box<Work>> = jobs.into_values().filter(|w| w.touched || w.reopened).collect();
    jobs.sort_unstable_by_key(|w| w.held.job.id);
    // Reopened first: one that is cancelled in the same transaction ends as an owed one.
    let reopened: Vec<&Work> = jobs.iter().map(Box::as_ref).filter(|w| w.reopened).collect();
    tx.later(&REOPEN_JOBS, vec![], reopened.iter().map(|w| reopen_row(w)).collect()).await?;
    let owed = reopened.iter().filter(|w| w.end.is_none());
    tx.later(&INSERT_QUEUE, vec![], owed.map(|w| reopened_row(w)).collect()).await?;
    let (ended, open): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|w| w.end.is_some());
    tx.later(&END_QUEUE, vec![], ended.iter().map(|w| args![w.held.job.id]).collect()).await?;
    tx.later(&END_JOBS, vec![], ended.into_iter().map(|w| end_row(*w)).collect()).await?;
    let open = open.iter().filter(|w| !w.reopened);
    tx.later(&UPDATE_QUEUE, vec![], open.map(|w| queue_row(w)).collect()).await?;
    Ok(())
}

fn end_row(w: Work) -> Vec<Value> {
    let j = w.held.job;
    let (outcome, delivery) = w.end.map_or((None, None), |e| (e.outcome, e.delivery));
    let bytes = match outcome {
        Some(Outcome::Bytes { bytes, .. }) => Some(bytes.to_vec()),
        Some(Outcome::Elsewhere(_)) | None => None,
    };
    args![
        j.id,
        j.state.as_str(),
        j.attempt,
        j.sequence,
        j.version,
        j.fence,
        j.token.map(|t| t.to_vec()),
        j.started_at,
        j.started_sequence,
        j.ended_at,
        j.error,
        j.error_info.as_ref().and_then(|i| i.code.clone()),
        j.error_info.as_ref().map(|i| i64::from(i.retryable)),
        bytes,
        j.result_type,
        j.result_url,
        delivery,
        j.expires_at,
    ]
}

fn queue_row(w: &Work) -> Vec<Value> {
    let (held, j) = (&w.held, &w.held.job);
    let phase = held.phase.unwrap_or(Phase::Ready);
    args![
        j.id,
        j.due_at,
        phase.as_str(),
        j.attempt,
        held.attempts_left,
        j.sequence,
        j.version,
        j.fence,
        j.progress.map(i64::from),
        held.progress_at,
        held.progress_due,
        j.message.clone(),
        w.error.as_ref().map(|(text, _)| text.clone()),
        j.error_info.as_ref().and_then(|i| i.code.clone()),
        j.cancel_at,
        j.cancel_reason.clone(),
        watch_at(held),
        j.started_sequence,
    ]
}

/// When the sweep must look at the row, whatever its lease says.
fn watch_at(held: &Held) -> Option<Millis> {
    let leased = held.phase == Some(Phase::Leased);
    let must_end = if leased { held.job.must_end_at() } else { held.job.deadline_at };
    let cancelled = held.job.cancel_at.map(|t| t.plus(CANCEL_GRACE));
    [must_end, cancelled, held.progress_due].into_iter().flatten().min()
}

fn reopen_row(w: &Work) -> Vec<Value> {
    args![w.held.job.id, w.held.job.deadline_at]
}

fn reopened_row(w: &Work) -> Vec<Value> {
    let (held, j) = (&w.held, &w.held.job);
    args![
        j.id,
        j.tenant,
        j.queue.as_str(),
        level(j.priority),
        j.due_at,
        j.kind.as_str(),
        "ready",
        j.fence,
        None::<Vec<u8>>,
        0i64,
        held.attempts_left,
        j.sequence,
        j.version,
        held.wants,
        30i64,
        i64::from(j.timeout_seconds) * 1000,
        None::<Millis>,
        None::<i64>,
        j.deadline_at,
        j.deadline_at,
        None::<String>,
    ]
}
