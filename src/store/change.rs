//! `change`: complete, fail, release, heartbeat, cancel, retry and whatever the clock brings.

mod beat;
pub(super) mod write;

use std::collections::{HashMap, HashSet};

use super::batch::{Col, Sql};
use super::emit::{Outbox, callback_of};
use super::error::{Error, Result};
use super::model::{Changed, JobChange, Right, Standing, What};
use super::pool::Tx;
use super::rows::{Held, Phase, callback_awaited, held, job_columns, lease_random};
use super::seconds;
use super::submit::READ_JOBS;
use crate::args;
use crate::types::api::ErrorInfo;
use crate::types::job::{
    CANCEL_GRACE, CallbackState, Change, Job, JobEvent, JobState, Next, Outcome, RELEASED, WorkerKind, decide,
};
use crate::types::{DeliveryId, JobId, Millis};

pub(super) static LOCK_JOBS: Sql = Sql::batch(
    concat!(
        "SELECT ",
        job_columns!(owed),
        " FROM {b} JOIN job_queue q ON q.job_id {is b.job_id} JOIN jobs j ON j.id {is b.job_id}",
        // One order for all nodes, so that two batches cannot deadlock. Not that of a key of `q`, by which PostgreSQL may
        // find it cheaper to walk that key than to sort.
        " ORDER BY b.job_id {wait}"
    ),
    0,
    &[("job_id", Col::Uuid)],
);

// Two retries of one job must not both queue it, and no sweep may purge it meanwhile.
static LOCK_DOCUMENTS: Sql = Sql::batch(
    "SELECT q.id FROM {b} JOIN jobs q ON q.id = b.job_id ORDER BY q.id {wait}",
    0,
    &[("job_id", Col::Uuid)],
);

/// A job on its way through a batch of changes. Some 800 bytes: it is boxed, as batches are sorted and parted.
struct Work {
    held: Held,
    error: Option<(String, ErrorInfo)>,
    end: Option<End>,
    touched: bool,
    reopened: bool,
}

struct End {
    outcome: Option<Outcome>,
    delivery: Option<DeliveryId>,
}

/// Applies the changes in order. One answer each.
///
/// `in_doubt` says that the same changes may have been committed before, and the answer lost.
pub(super) async fn change(
    tx: &mut Tx,
    out: &mut Outbox<'_>,
    changes: &[&JobChange],
    in_doubt: bool,
    now: Millis,
) -> Result<Vec<Result<Changed>>> {
    let mut jobs = load(tx, changes, now).await?;
    out.know_jobs(tx, jobs.values().map(|work| &work.held.job)).await?;
    let mut answers = Vec::with_capacity(changes.len());
    for change in changes {
        let answer = match jobs.get_mut(&change.id) {
            Some(work) if change.tenant.is_none_or(|t| t == work.held.job.tenant) => {
                match apply(work, out, change, now) {
                    Ok(()) => Ok(changed(&work.held)),
                    Err(_) if in_doubt && was_done(&work.held.job, change) => Ok(changed(&work.held)),
                    // What another change made of the job stands; only this one is refused.
                    Err(
                        e @ (Error::LeaseLost
                        | Error::AlreadyFinished
                        | Error::NotRetryable
                        | Error::Expired
                        | Error::Invalid(_)),
                    ) => Err(e),
                    Err(e) => return Err(e),
                }
            }
            Some(_) | None => Err(Error::NotFound),
        };
        answers.push(answer);
    }
    for work in jobs.values().filter(|work| work.touched || work.reopened) {
        let (job, ended) = (&work.held.job, work.held.phase.is_none());
        out.job_moved(Standing { id: job.id, sequence: job.sequence, ended });
    }
    write::write(tx, jobs).await?;
    Ok(answers)
}

/// What an owner wished stands as if this very change had made it so; a holder's report is known by its token.
fn was_done(job: &Job, change: &JobChange) -> bool {
    match (&change.right, &change.what, job.state) {
        (Right::Owner, What::Change(Change::Cancel { .. }), JobState::Cancelled) => true,
        (Right::Owner, What::Retry, JobState::Queued) => job.attempt == 0,
        _ => false,
    }
}

/// Locks the owed ones and reads the others; those that are to be retried under a lock of the document.
async fn load(tx: &mut Tx, changes: &[&JobChange], now: Millis) -> Result<HashMap<JobId, Box<Work>>> {
    let mut ids: Vec<JobId> = changes.iter().map(|c| c.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut jobs = HashMap::with_capacity(ids.len());
    let retried: HashSet<JobId> =
        changes.iter().filter(|c| matches!(c.what, What::Retry)).map(|c| c.id).collect();
    for (sql, locked) in [(&LOCK_JOBS, true), (&READ_JOBS, false)] {
        let missing: Vec<JobId> = ids.iter().copied().filter(|id| !jobs.contains_key(id)).collect();
        if !locked {
            let documents = missing.iter().filter(|id| retried.contains(id)).map(|id| args![*id]).collect();
            tx.batch(&LOCK_DOCUMENTS, vec![], documents).await?;
        }
        for row in tx.batch(sql, vec![], missing.iter().map(|id| args![*id]).collect()).await? {
            let held = held(&row, now)?;
            if !locked && held.phase.is_some() {
                // Queued again by another transaction since the first look: its row is not locked.
                return Err(Error::Again);
            }
            let work = Work { held, error: None, end: None, touched: false, reopened: false };
            jobs.insert(work.held.job.id, Box::new(work));
        }
    }
    Ok(jobs)
}

fn changed(held: &Held) -> Changed {
    let lease_until = held.job.due_at.filter(|_| held.phase == Some(Phase::Leased));
    Changed { job: Box::new(held.job.clone()), lease_until }
}

fn apply(work: &mut Work, out: &mut Outbox<'_>, change: &JobChange, now: Millis) -> Result<()> {
    if work.held.job.purged {
        return Err(Error::Expired);
    }
    if work.held.phase.is_none() {
        return ended(work, out, change, now);
    }
    match (&change.right, &change.what) {
        (Right::Lease(token), what) => {
            let job = &work.held.job;
            let random = job.token.map(|seed| lease_random(seed, job.id));
            if token.fence != job.fence || random != Some(token.random) {
                return Err(Error::LeaseLost);
            }
            if work.held.phase != Some(Phase::Leased) {
                return repeated(job, what);
            }
        }
        (Right::Sweep(fence), _) if *fence != work.held.job.fence => return Err(Error::LeaseLost),
        (Right::Sweep(_) | Right::Owner, _) => {}
    }
    match &change.what {
        What::Heartbeat { progress, message, extend_seconds } => {
            beat::heartbeat(work, out, *progress, message.as_deref(), *extend_seconds, now)
        }
        What::Keep { seconds } => {
            beat::keep(work, *seconds, now);
            Ok(())
        }
        What::Change(change) => transition(work, out, change.clone(), now),
        What::Overdue => match overdue(&work.held, now) {
            Some(change) => {
                // A new fence: whoever held it until now reports too late.
                work.held.job.fence += 1;
                transition(work, out, change, now)
            }
            None if work.held.progress_due.is_some_and(|due| due <= now) => beat::settle(work, out, now),
            None => Ok(()),
        },
        What::Retry => Err(Error::NotRetryable),
    }
}

/// The same report again, after a lost answer, changes nothing; another one comes too late.
fn repeated(job: &Job, what: &What) -> Result<()> {
    match (what, job.state) {
        (What::Change(Change::Fail(_)), JobState::Retrying)
        | (What::Change(Change::Release { .. }), JobState::Queued | JobState::Scheduled) => Ok(()),
        _ => Err(Error::LeaseLost),
    }
}

fn ended(work: &mut Work, out: &mut Outbox<'_>, change: &JobChange, now: Millis) -> Result<()> {
    let job = &work.held.job;
    match (&change.right, &change.what) {
        (Right::Lease(token), what) => {
            let random = job.token.map(|seed| lease_random(seed, job.id));
            let holder = token.fence == job.fence && random == Some(token.random);
            let given_back =
                || job.error_info.as_ref().and_then(|info| info.code.as_deref()) == Some(RELEASED);
            match (what, job.state) {
                (What::Change(Change::Complete(_)), JobState::Complete)
                | (What::Change(Change::Fail(_)), JobState::Failed | JobState::Cancelled)
                | (What::Change(Change::Release { .. }), JobState::Cancelled)
                    if holder =>
                {
                    Ok(())
                }
                // An external job ends when its holder gives it back.
                (What::Change(Change::Release { .. }), JobState::Failed) if holder && given_back() => Ok(()),
                _ => Err(Error::LeaseLost),
            }
        }
        (Right::Sweep(_), _) => Err(Error::LeaseLost),
        (Right::Owner, What::Retry) => retry(work, out, now),
        (Right::Owner, _) => Err(Error::AlreadyFinished),
    }
}

/// What is due by the clock, the final things first.
fn overdue(held: &Held, now: Millis) -> Option<Change> {
    let job = &held.job;
    let past = |t: Option<Millis>| t.is_some_and(|t| t <= now);
    let leased = held.phase == Some(Phase::Leased);
    if past(job.deadline_at) {
        Some(Change::Expire)
    } else if past(job.cancel_at.map(|t| t.plus(CANCEL_GRACE))) {
        Some(Change::CancelOverdue)
    } else if job.cancel_at.is_some() && leased && past(job.must_end_at()) {
        // Nobody wants another attempt: what the holder would report no longer matters.
        Some(Change::CancelOverdue)
    } else if job.cancel_at.is_some() {
        None
    } else if leased && held.attempts_left == 0 && past(job.due_at) {
        Some(Change::WorkerLost)
    } else if leased && past(job.must_end_at()) {
        Some(Change::TimedOut)
    } else {
        None
    }
}

fn transition(work: &mut Work, out: &mut Outbox<'_>, change: Change, now: Millis) -> Result<()> {
    work.touched = true;
    match decide(&work.held.job, change, now) {
        Next::End { state, error, info, outcome } => end(work, out, state, error, info, outcome, now),
        Next::Again { due_at, refund, error } => again(work, out, due_at, refund, error, now),
        Next::TellHolder { reason } => {
            let job = &mut work.held.job;
            if job.cancel_at.is_none() {
                job.cancel_at = Some(now);
                job.cancel_reason = reason;
                job.version += 1;
            }
            Ok(())
        }
    }
}

fn end(
    work: &mut Work,
    out: &mut Outbox<'_>,
    state: JobState,
    error: Option<String>,
    info: Option<ErrorInfo>,
    outcome: Option<Outcome>,
    now: Millis,
) -> Result<()> {
    let event = state.terminal_event().ok_or_else(|| Error::Bug(format!("{state:?} is no end")))?;
    beat::settle(work, out, now)?;
    let job = &mut work.held.job;
    job.state = state;
    job.sequence += 1;
    job.ended_at = Some(now);
    job.due_at = None;
    job.error = error;
    job.error_info = info;
    job.expires_at = Some(now.plus(seconds(job.retain_seconds)));
    match &outcome {
        Some(Outcome::Bytes { content_type, .. }) => job.result_type = Some(content_type.clone()),
        Some(Outcome::Elsewhere(url)) => job.result_url = Some(url.clone()),
        None => {}
    }
    out.job_ended(job);
    let delivery = out.job_event(job, event, now, outcome.as_ref())?;
    job.callback_state = if delivery.is_some() { CallbackState::Pending } else { CallbackState::None };
    work.held.phase = None;
    work.end = Some(End { outcome, delivery });
    Ok(())
}

fn again(
    work: &mut Work,
    out: &mut Outbox<'_>,
    due_at: Millis,
    refund: bool,
    error: Option<(String, ErrorInfo)>,
    now: Millis,
) -> Result<()> {
    beat::settle(work, out, now)?;
    let held = &mut work.held;
    started_row(held, out)?;
    let job = &mut held.job;
    // Its row is written: the column must not tell it a second time.
    job.started_sequence = None;
    job.due_at = Some(due_at);
    job.progress = None;
    job.message = None;
    if refund {
        job.attempt = job.attempt.saturating_sub(1);
        held.attempts_left += 1;
    }
    held.progress_at = None;
    held.phase = Some(if error.is_some() { Phase::Retry } else { Phase::Ready });
    job.state = match (&error, due_at > now) {
        (Some(_), _) => JobState::Retrying,
        (None, true) => JobState::Scheduled,
        (None, false) => JobState::Queued,
    };
    job.sequence += 1;
    let event = match error {
        Some((text, info)) => {
            job.error_info = Some(ErrorInfo { message: Some(text.clone()), ..info.clone() });
            work.error = Some((text, info));
            JobEvent::Retrying
        }
        None => JobEvent::Queued,
    };
    out.job_event(&held.job, event, now, None).map(drop)
}

/// The columns tell only of the last beginning: an attempt that is not the last gets its row now.
fn started_row(held: &Held, out: &mut Outbox<'_>) -> Result<()> {
    let told = held.wants & JobEvent::Started.bit() != 0;
    let (Some(sequence), Some(at), false) = (held.job.started_sequence, held.job.started_at, told) else {
        return Ok(());
    };
    out.history(&as_started(&held.job, sequence, at), JobEvent::Started, at)
}

/// The job as it stood when its attempt began.
pub(super) fn as_started(job: &Job, sequence: i64, at: Millis) -> Job {
    Job {
        state: JobState::Processing,
        sequence,
        started_at: Some(at),
        progress: None,
        message: None,
        cancel_at: None,
        ended_at: None,
        expires_at: None,
        error: None,
        error_info: None,
        result_type: None,
        result_url: None,
        ..job.clone()
    }
}

fn retry(work: &mut Work, out: &mut Outbox<'_>, now: Millis) -> Result<()> {
    if work.end.is_some() {
        // It ended in this very transaction, whose statements for an end and a beginning exclude each other:
        // the batch is halved until the two stand apart.
        return Err(Error::Data("ended and retried at once".to_owned()));
    }
    let held = &mut work.held;
    if !matches!(held.job.state, JobState::Failed | JobState::Cancelled | JobState::Expired) {
        return Err(Error::NotRetryable);
    }
    // An external job has no queue to go back to.
    if held.job.worker == WorkerKind::External {
        return Err(Error::NotRetryable);
    }
    held.wants = callback_of(&held.job)?.map_or(0, |c| c.wants);
    started_row(held, out)?;
    let job = &mut held.job;
    job.state = JobState::Queued;
    job.sequence += 1;
    job.attempt = 0;
    job.due_at = Some(now);
    (job.started_at, job.started_sequence) = (None, None);
    (job.token, job.progress, job.message) = (None, None, None);
    (job.ended_at, job.expires_at, job.error, job.error_info) = (None, None, None, None);
    (job.cancel_at, job.cancel_reason) = (None, None);
    // A deadline that has passed would end it again at once.
    job.deadline_at = job.deadline_at.filter(|d| *d > now);
    job.callback_version = 0;
    job.callback_state = callback_awaited(job);
    held.phase = Some(Phase::Ready);
    held.attempts_left = i64::from(job.max_attempts);
    (held.progress_at, held.progress_due) = (None, None);
    work.reopened = true;
    out.job_event(&held.job, JobEvent::Queued, now, None).map(drop)
}

/// The bytes that a change brings.
pub(super) fn result_bytes(change: &JobChange) -> usize {
    match &change.what {
        What::Change(Change::Complete(Outcome::Bytes { bytes, .. })) => bytes.len(),
        What::Change(_) | What::Heartbeat { .. } | What::Keep { .. } | What::Retry | What::Overdue => 0,
    }
}
