//! Signs of life: a lease goes on, and progress is told.

use std::time::Duration;

use super::Work;
use crate::store::emit::Outbox;
use crate::store::error::Result;
use crate::store::seconds;
use crate::types::Millis;
use crate::types::job::JobEvent;

/// Progress events of one job are at least this far apart.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Renews a lease without ever cutting it: a renewal may be written after another report that holds the job longer.
pub(super) fn keep(work: &mut Work, least: u32, now: Millis) {
    let job = &mut work.held.job;
    job.due_at = job.due_at.max(Some(now.plus(seconds(least))));
    work.touched = true;
}

/// A sign of life, with what there is to tell.
pub(super) fn heartbeat(
    work: &mut Work,
    out: &mut Outbox<'_>,
    progress: Option<u8>,
    message: Option<&str>,
    extend_seconds: Option<u32>,
    now: Millis,
) -> Result<()> {
    match extend_seconds {
        Some(wish) => work.held.job.due_at = Some(now.plus(seconds(wish))),
        None => keep(work, work.held.job.lease_seconds, now),
    }
    let held = &mut work.held;
    let job = &mut held.job;
    let news = (progress.is_some() && progress != job.progress)
        || (message.is_some() && message != job.message.as_deref());
    work.touched = true;
    if !news {
        return Ok(());
    }
    job.progress = progress.or(job.progress);
    job.message = message.map(str::to_owned).or(job.message.take());
    // Within the half second the next event will tell it; a poller sees it at once.
    if held.progress_at.is_some_and(|at| now.since(at) < PROGRESS_EVERY) {
        job.version += 1;
        return Ok(());
    }
    held.progress_at = Some(now);
    job.sequence += 1;
    out.job_event(job, JobEvent::Progress, now, None).map(drop)
}
