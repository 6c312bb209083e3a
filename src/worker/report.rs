//! Tells the service how a job ended, until it has heard it.

use std::time::Duration;

use bytes::Bytes;

use super::{CancellationToken, Failure, ProblemCode, Reply, passing, pause};
use crate::client::{Client, Error};
use crate::dice::Dice;
use crate::types::content::is_media_type;
use crate::types::key::LeaseToken;
use crate::types::{JobId, api};

/// The longest error text that the API takes.
const ERROR_CHARS: usize = 4_000;
const CODE_CHARS: usize = 128;
/// Told in place of a reason that the service does not take.
const UNTOLD: &str = "the attempt failed, and the service refused the reason";
/// An outcome is worth repeating for at least so long, although the lease may be over: nobody else
/// can have claimed the job while the service was away.
const KEEP_TELLING: Duration = Duration::from_secs(60);

/// How a job ended in the worker's hands.
pub(super) enum Outcome {
    Complete(Reply),
    Fail(Failure),
    /// The worker stops; another one starts anew, and no attempt is used.
    Release,
}

impl Outcome {
    /// `hurried` is whether the worker was out of grace when the handler ended, or was dropped.
    pub(super) fn of(ended: Option<Result<Reply, Failure>>, hurried: bool) -> Outcome {
        match ended {
            Some(Ok(reply)) => Outcome::Complete(reply),
            Some(Err(_)) if hurried => Outcome::Release,
            Some(Err(failure)) => Outcome::Fail(failure),
            None => Outcome::Release,
        }
    }
}

/// Reports `outcome`, and gives the job as it stands then. Repeating is safe: the same token gets the same answer.
///
/// When `hurry` fires its next try is not put off any longer, and the pauses begin anew: the worker has not long to live.
pub(super) async fn send(
    client: &Client,
    id: JobId,
    token: LeaseToken,
    outcome: Outcome,
    lease: Duration,
    hurry: &CancellationToken,
) -> Result<Option<api::Job>, Error> {
    let mut outcome = sendable(outcome);
    let mut hurried = hurry.is_cancelled();
    let limit = tokio::time::sleep(lease.max(KEEP_TELLING));
    tokio::pin!(limit);
    let mut failures = 0;
    loop {
        let error = match once(client, id, token, &outcome).await {
            Ok(job) => return Ok(job),
            Err(error) => error,
        };
        if again(&error) {
            failures += 1;
            tracing::warn!(job.id = %id, failures, "the outcome could not be reported yet: {error}");
            tokio::select! {
                () = &mut limit => {
                    tracing::error!(job.id = %id, "gave up reporting an outcome: {error}");
                    return Err(error);
                }
                () = hurry.cancelled(), if !hurried => (hurried, failures) = (true, 0),
                () = tokio::time::sleep(pause(failures, Dice::Os.bytes())) => {}
            }
            continue;
        }
        let Some(failure) = instead(&outcome, &error) else {
            tracing::warn!(job.id = %id, "the outcome was refused: {error}");
            return Err(error);
        };
        outcome = Outcome::Fail(failure);
    }
}

async fn once(
    client: &Client,
    id: JobId,
    token: LeaseToken,
    outcome: &Outcome,
) -> Result<Option<api::Job>, Error> {
    let done = |result, result_url| api::Complete { lease_token: token, result, result_url };
    let (said, job) = match outcome {
        Outcome::Complete(Reply::Json(json)) => {
            ("complete", Some(client.complete(id, &done(Some(json.clone()), None)).await?))
        }
        Outcome::Complete(Reply::Elsewhere(url)) => {
            ("complete", Some(client.complete(id, &done(None, Some(url.clone()))).await?))
        }
        Outcome::Complete(Reply::Bytes { content_type, bytes }) => {
            ("complete", Some(client.complete_bytes(id, token, content_type, Bytes::clone(bytes)).await?))
        }
        Outcome::Fail(failure) => ("failed", Some(client.fail(id, &fail(token, failure)).await?)),
        Outcome::Release => {
            client.release(id, &api::Release { lease_token: token, delay_seconds: None }).await?;
            ("released", None)
        }
    };
    tracing::info!(job.id = %id, outcome = said, "reported job {id}: {said}");
    Ok(job)
}

fn fail(token: LeaseToken, failure: &Failure) -> api::Fail {
    let cut = |text: &str, chars| text.chars().take(chars).collect::<String>();
    let error = if failure.error.is_empty() { "no reason given" } else { &failure.error };
    api::Fail {
        lease_token: token,
        error: cut(error, ERROR_CHARS),
        error_code: failure.code.as_deref().map(|code| cut(code, CODE_CHARS)),
        retryable: Some(failure.retryable),
        retry_after_seconds: failure.retry_after_seconds,
    }
}

/// `outcome`, or a failure in its place if the service could not even refuse it: a content type may break the
/// request's head, and while bytes without end are sent the connection may break.
fn sendable(outcome: Outcome) -> Outcome {
    let (named, length) = match &outcome {
        Outcome::Complete(Reply::Bytes { content_type, bytes }) => (is_media_type(content_type), bytes.len()),
        Outcome::Complete(Reply::Json(json)) => (true, json.get().len()),
        Outcome::Complete(Reply::Elsewhere(_)) | Outcome::Fail(_) | Outcome::Release => return outcome,
    };
    let refused = |why: String, code: ProblemCode| Outcome::Fail(Failure::fatal(why).with_code(code.slug()));
    if length > api::RESULT_MAX {
        let why = format!("the result is larger than {} bytes", api::RESULT_MAX);
        return refused(why, ProblemCode::ResultTooLarge);
    }
    if !named {
        return refused(
            "the result's content type is not a media type".to_owned(),
            ProblemCode::InvalidRequest,
        );
    }
    outcome
}

/// Whether another try may fare better: after all but a refusal that stands.
fn again(error: &Error) -> bool {
    match error {
        Error::Problem(_) => passing(error),
        // A gateway has no rule against one request but for how it is made; other pages go when the service is back.
        Error::Foreign(status) => !matches!(status.as_u16(), 400 | 413 | 415 | 422 | 431),
        Error::Unreachable(_) | Error::BadReply(_) | Error::TooLarge(_) => true,
    }
}

/// The failure to report for an outcome that the service, or what stands before it, does not take: its client has to
/// learn of it.
fn instead(outcome: &Outcome, error: &Error) -> Option<Failure> {
    let code = match error {
        Error::Problem(problem) if matches!(problem.status, 400 | 413 | 415 | 422) => problem.code.slug(),
        Error::Foreign(_) => "result-refused",
        Error::Problem(_) | Error::Unreachable(_) | Error::BadReply(_) | Error::TooLarge(_) => return None,
    };
    match outcome {
        // Another attempt would meet the same refusal.
        Outcome::Complete(_) => {
            Some(Failure::fatal(format!("the result was refused: {error}")).with_code(code))
        }
        Outcome::Fail(failure) if failure.error != UNTOLD => {
            Some(Failure { retryable: failure.retryable, ..Failure::new(UNTOLD) })
        }
        Outcome::Fail(_) | Outcome::Release => None,
    }
}
