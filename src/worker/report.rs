//! Tells the service how a job ended, until it has heard it.

use std::time::Duration;

use bytes::Bytes;

use super::{Failure, Reply, passing, pause};
use crate::client::{Client, Error};
use crate::dice::Dice;
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

/// Reports `outcome`. Repeating is safe: the same token gets the same answer.
pub(super) async fn send(client: &Client, id: JobId, token: LeaseToken, outcome: Outcome, lease: Duration) {
    let mut outcome = outcome;
    let limit = tokio::time::sleep(lease.max(KEEP_TELLING));
    tokio::pin!(limit);
    let mut failures = 0;
    loop {
        let error = match once(client, id, token, &outcome).await {
            Ok(()) => return,
            Err(error) => error,
        };
        if passing(&error) {
            failures += 1;
            tracing::warn!(job.id = %id, failures, "the outcome could not be reported yet: {error}");
            tokio::select! {
                () = &mut limit => return tracing::error!(job.id = %id, "gave up reporting an outcome: {error}"),
                () = tokio::time::sleep(pause(failures, Dice::Os.bytes())) => {}
            }
            continue;
        }
        match instead(&outcome, &error) {
            Some(failure) => outcome = Outcome::Fail(failure),
            None => return tracing::warn!(job.id = %id, "the outcome was refused: {error}"),
        }
    }
}

async fn once(client: &Client, id: JobId, token: LeaseToken, outcome: &Outcome) -> Result<(), Error> {
    let (state, error) = match outcome {
        Outcome::Complete(Reply::Json(json)) => {
            let done = api::Complete { lease_token: token, result: Some(json.clone()), result_url: None };
            ("complete", client.complete(id, &done).await.err())
        }
        Outcome::Complete(Reply::Elsewhere(url)) => {
            let done = api::Complete { lease_token: token, result: None, result_url: Some(url.clone()) };
            ("complete", client.complete(id, &done).await.err())
        }
        Outcome::Complete(Reply::Bytes { content_type, bytes }) => {
            let sent = client.complete_bytes(id, token, content_type, Bytes::clone(bytes)).await;
            ("complete", sent.err())
        }
        Outcome::Fail(failure) => ("failed", client.fail(id, &fail(token, failure)).await.err()),
        Outcome::Release => {
            let release = api::Release { lease_token: token, delay_seconds: None };
            ("released", client.release(id, &release).await.err())
        }
    };
    match error {
        Some(error) => Err(error),
        None => {
            tracing::info!(job.id = %id, outcome = state, "reported job {id}: {state}");
            Ok(())
        }
    }
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

/// The failure to report for an outcome that the service does not take: its client has to learn of it.
fn instead(outcome: &Outcome, error: &Error) -> Option<Failure> {
    let Error::Problem(problem) = error else { return None };
    if !matches!(problem.status, 400 | 413 | 415 | 422) {
        return None;
    }
    match outcome {
        // Another attempt would meet the same refusal.
        Outcome::Complete(_) => Some(Failure {
            error: format!("the result was refused: {error}"),
            code: Some(problem.code.slug().to_owned()),
            retryable: false,
            retry_after_seconds: None,
        }),
        Outcome::Fail(failure) if failure.error != UNTOLD => Some(Failure {
            error: UNTOLD.to_owned(),
            code: None,
            retryable: failure.retryable,
            retry_after_seconds: None,
        }),
        Outcome::Fail(_) | Outcome::Release => None,
    }
}
