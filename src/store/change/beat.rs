//! Signs of life: a lease goes on, and progress is told.

use std::time::Duration;

use super::Work;
use crate::store::emit::Outbox;
use crate::store::error::Result;
use crate::store::seconds;
use crate::types::Millis;
use crate::types::job::{JobEvent, WorkerKind};
use crate::types::problem::Invalid;

/// Progress events of one job are at least this far apart.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// The longest lease of a job that others could do too, seconds.
const LEASE_MAX: u32 = 3_600;

/// Renews a lease without ever cutting it: a renewal may be written after another report that holds the job longer.
pub(super) fn keep(work: &mut Work, least: u32, now: Millis) {
    let job = &mut work.held.job;
    job.due_at = job.due_at.max(Some(now.plus(seconds(least))));
    work.touched = true;
}

/// Tells the progress that was held back.
pub(super) fn settle(work: &mut Work, out: &mut Outbox<'_>, now: Millis) -> Result<()> {
    let held = &mut work.held;
    if held.progress_due.take().is_none() {
        return Ok(());
    }
    work.touched = true;
    held.progress_at = Some(now);
    held.job.sequence += 1;
    out.job_event(&held.job, JobEvent::Progress, now, None).map(drop)
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
        // Only an external job is held for days: a worker that is gone must not keep what another could do.
        Some(wish) if wish > LEASE_MAX && work.held.job.worker != WorkerKind::External => {
            let rule = format!("must be between 1 and {LEASE_MAX}; more only with worker \"external\"");
            return Err(Invalid::member("/extendSeconds", rule).into());
        }
        Some(wish) => work.held.job.due_at = Some(now.plus(seconds(wish))),
        None => keep(work, work.held.job.lease_seconds, now),
    }
    let held = &mut work.held;
    let job = &mut held.job;
    let news = (progress.is_some() && progress != job.progress)
        || (message.is_some() && message != job.message.as_deref());
    work.touched = true;
    if news {
        job.progress = progress.or(job.progress);
        job.message = message.map(str::to_owned).or(job.message.take());
        held.progress_due = Some(held.progress_at.map_or(now, |at| at.plus(PROGRESS_EVERY)));
    }
    match held.progress_due {
        Some(due) if due <= now => settle(work, out, now),
        // A poller sees it at once; who is told hears of it when it is due, from the sweep at the latest.
        Some(_) if news => {
            job.version += 1;
            Ok(())
        }
        Some(_) | None => Ok(()),
    }
}
