//! `jobs`: list, get, result, cancel, retry, events.

use std::process::ExitCode;

use super::exit::Exit;
use super::print::{self, Out, or_dash, time};
use super::{PageArgs, Remote};
use crate::client::{Client, JobQuery, JobResult};
use crate::types::job::{JobState, Status};
use crate::types::{JobId, Millis, api};

/// Look at jobs and change their course.
#[derive(Debug, clap::Args)]
pub struct JobsArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List jobs, newest first.
    List(Box<ListArgs>),
    /// Show one job.
    Get {
        /// The job.
        job_id: JobId,
    },
    /// Write the result of a complete job to standard output, byte for byte.
    Result {
        /// The job.
        job_id: JobId,
    },
    /// End a job.
    Cancel {
        /// The job.
        job_id: JobId,
        /// Why; stands in the job's error.
        #[arg(long, env = "RINGBACK_REASON")]
        reason: Option<String>,
    },
    /// Queue a job again that has ended without a result.
    Retry {
        /// The job.
        job_id: JobId,
    },
    /// List what has happened to a job, oldest first.
    Events {
        /// The job.
        job_id: JobId,
        /// Only events above this sequence number.
        #[arg(long, env = "RINGBACK_AFTER", default_value_t = 0)]
        after: i64,
    },
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// queued, processing, complete or failed.
    #[arg(long, env = "RINGBACK_STATUS", value_parser = Status::ALL.iter().map(|s| s.as_str()).collect::<Vec<_>>())]
    status: Option<String>,
    /// The finer word: scheduled, retrying, cancelled ...
    #[arg(long, env = "RINGBACK_STATE", value_parser = JobState::ALL.iter().map(|s| s.as_str()).collect::<Vec<_>>())]
    state: Option<String>,
    /// Of this type.
    #[arg(long = "type", env = "RINGBACK_TYPE", value_name = "TYPE")]
    kind: Option<String>,
    /// In this queue.
    #[arg(long, env = "RINGBACK_QUEUE")]
    queue: Option<String>,
    /// With this name of yours.
    #[arg(long = "ref", env = "RINGBACK_REF", value_name = "REF")]
    reference: Option<String>,
    /// Accepted at or after this instant.
    #[arg(long, env = "RINGBACK_CREATED_AFTER", value_name = "INSTANT")]
    created_after: Option<Millis>,
    /// Accepted before this instant.
    #[arg(long, env = "RINGBACK_CREATED_BEFORE", value_name = "INSTANT")]
    created_before: Option<Millis>,
    #[command(flatten)]
    page: PageArgs,
}

/// Runs `ringback jobs`.
pub async fn run(args: JobsArgs, out: Out) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    match args.what {
        What::List(list) => self::list(&client, *list, out).await?,
        What::Get { job_id } => show(&client.job(job_id).await?, out)?,
        What::Result { job_id } => result(client.result(job_id).await?, out)?,
        What::Cancel { job_id, reason } => show(&client.cancel(job_id, reason.as_deref()).await?, out)?,
        What::Retry { job_id } => {
            let answer = client.retry(job_id).await?;
            if out.json {
                out.value(&answer)?;
            }
            out.say(&format!("{job_id} is queued again"))?;
        }
        What::Events { job_id, after } => events(&client.events(job_id, after).await?, out)?,
    }
    Ok(Exit::Done.into())
}

async fn list(client: &Client, args: ListArgs, out: Out) -> anyhow::Result<()> {
    let query = JobQuery {
        status: args.status,
        state: args.state,
        kind: args.kind,
        queue: args.queue,
        reference: args.reference,
        created_after: args.created_after,
        created_before: args.created_before,
        page: args.page.into(),
    };
    let page = client.jobs(&query).await?;
    out.page(&page, &["JOB", "TYPE", "QUEUE", "STATE", "ATTEMPT", "CALLBACK", "CREATED", "REF"], |job| {
        vec![
            job.job_id.to_string(),
            job.kind.clone(),
            job.queue.clone(),
            job.state.as_str().to_owned(),
            format!("{}/{}", job.attempt, job.max_attempts),
            or_dash(job.callback_state.map(|state| state.as_str())),
            time(job.created_at),
            or_dash(job.reference.as_ref()),
        ]
    })
}

/// Shows one job.
pub fn show(job: &api::Job, out: Out) -> anyhow::Result<()> {
    let progress = job.progress.map(|percent| format!("{percent} %"));
    out.one(
        job,
        &[
            ("job", Some(job.job_id.to_string())),
            ("type", Some(job.kind.clone())),
            ("queue", Some(job.queue.clone())),
            ("ref", job.reference.clone()),
            ("status", Some(job.status.as_str().to_owned())),
            ("state", Some(job.state.as_str().to_owned())),
            ("progress", progress),
            ("message", job.message.clone()),
            ("attempt", Some(format!("{}/{}", job.attempt, job.max_attempts))),
            ("error", job.error.clone().or_else(|| job.error_info.as_ref()?.message.clone())),
            ("error code", job.error_info.as_ref().and_then(|info| info.code.clone())),
            ("result", job.result_url.clone()),
            ("callback", job.callback_state.map(|state| state.as_str().to_owned())),
            ("cancel", job.cancel_requested.map(|_| "asked for".to_owned())),
            ("created", Some(time(job.created_at))),
            ("started", job.started_at.map(time)),
            ("ended", job.completed_at.map(time)),
            ("next run", job.run_at.map(time)),
            ("kept until", job.expires_at.map(time)),
        ],
    )
}

/// The exit code of a wait: done only if the job is complete.
pub fn exit(job: &api::Job) -> Exit {
    match job.status {
        Status::Complete => Exit::Done,
        Status::Queued | Status::Processing | Status::Failed => Exit::Failed,
    }
}

/// In JSON a result that is JSON is embedded, text is a string, and other bytes are only told of.
fn result(result: JobResult, out: Out) -> anyhow::Result<()> {
    match result {
        JobResult::Elsewhere(url) if out.json => out.value(&serde_json::json!({"resultUrl": url})),
        JobResult::Elsewhere(url) => Ok(print::raw(&format!("{url}\n"))?),
        JobResult::Bytes { bytes, .. } if !out.json => Ok(print::bytes(&bytes)?),
        JobResult::Bytes { content_type, bytes } => {
            let json = content_type.split(';').next().is_some_and(|essence| essence.ends_with("json"));
            let value =
                match (json.then(|| serde_json::from_slice(&bytes).ok()).flatten(), str::from_utf8(&bytes)) {
                    (Some(value), _) => value,
                    (None, Ok(text)) => serde_json::Value::from(text),
                    (None, Err(_)) => serde_json::Value::Null,
                };
            let length = bytes.len();
            out.value(&serde_json::json!({"contentType": content_type, "bytes": length, "result": value}))
        }
    }
}

fn events(events: &[api::Event], out: Out) -> anyhow::Result<()> {
    if out.json {
        return out.value(&serde_json::json!({"items": events}));
    }
    let row = |event: &api::Event| {
        vec![event.sequence.to_string(), event.kind.clone(), event.timestamp.to_string()]
    };
    out.rows(&["SEQUENCE", "EVENT", "WHEN"], events.iter().map(row))
}
