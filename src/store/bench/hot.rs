//! What the store computes for each job without a database, for `benches/hot_paths.rs`.

use crate::args;
use crate::store::db::Value;
use crate::store::emit::usual_body;
use crate::store::error::Result;
use crate::store::submit::{INSERT_JOBS, INSERT_QUEUE, accepted, document_row, queue_row};
use crate::types::Millis;
use crate::types::api::Urls;
use crate::types::job::{Job, JobEvent, JobState, NewJob, Outcome};
use crate::types::key::TokenKey;

/// The body of the callback of a job that was completed.
pub fn reply(new: &NewJob, outcome: &Outcome, urls: &Urls, key: &TokenKey, now: Millis) -> Result<String> {
    let job = Job {
        state: JobState::Complete,
        attempt: 1,
        sequence: 3,
        started_at: Some(now),
        ended_at: Some(now),
        ..accepted(new, None, now).job
    };
    usual_body(&job, &job.view(urls), JobEvent::Completed, Some(outcome), key)
}

/// The rows of the two statements that submit jobs.
pub fn rows(jobs: &[NewJob], now: Millis) -> Result<[Vec<Vec<Value>>; 2]> {
    let documents = jobs.iter().map(|job| document_row(job, None)).collect::<Result<_>>()?;
    Ok([documents, jobs.iter().map(|job| queue_row(job, 0, None, now)).collect()])
}

/// Their parameters on PostgreSQL, which takes an array for each column.
pub fn arrays(jobs: &[NewJob], now: Millis) -> Result<[Vec<Value>; 2]> {
    let [documents, queued] = rows(jobs, now)?;
    Ok([INSERT_JOBS.arrays(args![now], documents)?, INSERT_QUEUE.arrays(args![], queued)?])
}
