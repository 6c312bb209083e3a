//! The workers' side: claim, stay alive, report. A lease token is right enough to report.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::de::DeserializeOwned;

use super::app::App;
use super::extract::{
    First, JsonBody, Key, NoQuery, PathId, Query, Raw, Waiting, Worker, is_json, need, sizes,
};
use super::jobs::{change, changed};
use super::json;
use super::problem::Problem;
use crate::store::{Changed, JobChange, LeaseRequest, LeasedJob, Right, What};
use crate::types::api::{
    self, Ack, AckOp, Acks, Alive, Claim, Claimed, Complete, Fail, Heartbeat, Items, OrProblem, Release,
};
use crate::types::content;
use crate::types::job::{Change, Failure, Outcome};
use crate::types::key::LeaseToken;
use crate::types::problem::{Invalid, ProblemCode};
use crate::types::submit as rules;
use crate::types::{JobId, TenantId, id};

const ACKS_MAX: usize = 1_000;
const LEASE_TOKEN: &str = "lease-token";

/// Claim jobs of a queue; with `waitSeconds` the answer waits for work.
#[utoipa::path(post, path = "/v1/queues/{queue}/claim", tag = "workers", operation_id = "claimJobs",
    security(("apiKey" = ["work"])), params(("queue" = String, Path, example = "default")),
    request_body = Claim, responses((status = 200, body = Claimed)))]
pub async fn claim(
    State(app): State<App>,
    key: Key<need::Work>,
    First(queue): First,
    _: Query<NoQuery>,
    waiting: Waiting,
    body: JsonBody<Claim>,
) -> Result<json::Long<Claimed>, Problem> {
    rules::name("/queue", &queue, 64).map_err(|_| Problem::new(ProblemCode::NotFound))?;
    key.for_queue(&queue)?;
    let patience = rules::range("/waitSeconds", body.value.wait_seconds, 0, 0..=30)?;
    let wish = wish(body.value, &key, queue)?;
    let leased = waiting.claim(&app, &wish, Duration::from_secs(patience.into())).await?;
    // A key that was revoked meanwhile gets no work.
    if patience > 0 && !leased.is_empty() && !key.is_let_in(&app).await {
        give_back(&app, key.tenant(), leased).await;
        return Err(Problem::unauthorized("the API key is no longer valid"));
    }
    let jobs: Vec<_> = leased.into_iter().map(|one| one.job).collect();
    let size =
        jobs.iter().map(|job| job.input.get().len() + job.metadata.get().len() + json::JOB_BYTES).sum();
    Ok(json::Long(size, Claimed { jobs }))
}

/// One that cannot be given back comes back by itself when its lease ends.
async fn give_back(app: &App, tenant: TenantId, leased: Vec<LeasedJob>) {
    for LeasedJob { job, .. } in leased {
        let (right, what) =
            (Right::Lease(job.lease_token), What::Change(Change::Release { delay_seconds: 0 }));
        if let Err(problem) = change(app, job.job_id, Some(tenant), right, what).await {
            tracing::warn!(job.id = %job.job_id, problem = problem.code().slug(), "a claimed job could not be given back");
        }
    }
}

fn wish(claim: Claim, key: &Key<need::Work>, queue: String) -> Result<LeaseRequest, Invalid> {
    rules::optional_text("/workerId", claim.worker_id.as_deref(), 255)?;
    let mut types = claim.types.unwrap_or_default();
    if types.len() > 50 {
        return Err(Invalid::member("/types", "must have at most 50 entries"));
    }
    for (i, kind) in types.iter().enumerate() {
        rules::name(&format!("/types/{i}"), kind, 128)?;
    }
    // Each is looked for by itself.
    types.sort_unstable();
    types.dedup();
    Ok(LeaseRequest {
        tenant: key.tenant(),
        queue,
        types,
        max: rules::range("/max", claim.max, 1, 1..=500)?,
        lease_seconds: rules::range("/leaseSeconds", claim.lease_seconds, 30, 1..=3_600)?,
        renew_seconds: None,
        worker_id: claim.worker_id,
    })
}

/// The body of a report. Without a right beside it a lease token must be there before anything is explained.
fn report<T: DeserializeOwned>(worker: &Worker, raw: &Raw<impl super::extract::Size>) -> Result<T, Problem> {
    let read = match is_json(&raw.headers) {
        true => json::object(&raw.bytes).map_err(Problem::from),
        false => {
            Err(Problem::new(ProblemCode::UnsupportedMediaType).detail("the body must be application/json"))
        }
    };
    if read.is_err() && !has_token(&raw.bytes) {
        worker.without_token()?;
    }
    read
}

fn has_token(bytes: &Bytes) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Only {
        #[serde(rename = "leaseToken")]
        _token: LeaseToken,
    }
    serde_json::from_slice::<Only>(bytes).is_ok()
}

/// Tell that the work goes on, and how far it is.
#[utoipa::path(post, path = "/v1/jobs/{jobId}/heartbeat", tag = "workers", operation_id = "heartbeat",
    security(("apiKey" = ["work"]), ("leaseToken" = [])), params(("jobId" = JobId, Path)), request_body = Heartbeat,
    responses((status = 200, body = Alive), (status = 409, description = "lease-lost")))]
pub async fn heartbeat(
    State(app): State<App>,
    worker: Worker,
    PathId(id): PathId<id::Job>,
    _: Query<NoQuery>,
    raw: Raw<sizes::Usual>,
) -> Result<Json<Alive>, Problem> {
    let Heartbeat { lease_token, progress, message, extend_seconds } = report(&worker, &raw)?;
    rules::range("/progress", progress, 0, 0..=100)?;
    let message = message.map(|text| rules::said("/message", &text, 1_000)).transpose()?;
    rules::range("/extendSeconds", extend_seconds, 1, 1..=86_400)?;
    let what = What::Heartbeat { progress, message, extend_seconds };
    let done = by_lease(&app, &worker, id, lease_token, what).await?;
    Ok(Json(Alive {
        lease_expires_at: done.lease_until.unwrap_or_else(|| app.now()),
        cancel_requested: done.job.cancel_at.is_some(),
        deadline_at: done.job.must_end_at(),
    }))
}

/// Report the result: JSON, or raw bytes with the token in `Lease-Token`.
#[utoipa::path(post, path = "/v1/jobs/{jobId}/complete", tag = "workers", operation_id = "completeJob",
    security(("apiKey" = ["work"]), ("leaseToken" = [])),
    params(("jobId" = JobId, Path), ("Lease-Token" = Option<String>, Header),
        ("Content-Digest" = Option<String>, Header)),
    request_body(content((Complete = "application/json"), (Vec<u8> = "application/octet-stream"))),
    responses((status = 200, body = api::Job), (status = 409, description = "lease-lost")))]
pub async fn complete(
    State(app): State<App>,
    worker: Worker,
    PathId(id): PathId<id::Job>,
    _: Query<NoQuery>,
    raw: Raw<sizes::Result>,
) -> Result<Response, Problem> {
    let (token, outcome) = match raw.headers.get(LEASE_TOKEN) {
        Some(_) => raw_outcome(&worker, &raw)?,
        None => {
            let body: Complete = report(&worker, &raw)?;
            (body.lease_token, outcome(body.result, body.result_url)?)
        }
    };
    fits(&app, &outcome)?;
    finish(&app, &worker, id, token, Change::Complete(outcome)).await
}

/// The body is the result; the token stands in the head.
fn raw_outcome(worker: &Worker, raw: &Raw<sizes::Result>) -> Result<(LeaseToken, Outcome), Problem> {
    let text = raw.headers.get(LEASE_TOKEN).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let Ok(token) = text.trim().parse::<LeaseToken>() else {
        worker.without_token()?;
        return Err(Problem::new(ProblemCode::ValidationFailed).at("Lease-Token", "is not a lease token"));
    };
    let content_type = content_type(&raw.headers)?;
    whole(&raw.headers, &raw.bytes)?;
    Ok((token, Outcome::raw(content_type, raw.bytes.clone())))
}

/// The worker's content type as it will be given out again.
fn content_type(headers: &HeaderMap) -> Result<String, Problem> {
    let fields: Vec<_> = headers.get_all(header::CONTENT_TYPE).iter().map(HeaderValue::to_str).collect();
    match fields[..] {
        [] => Ok(content::UNKNOWN_BYTES.to_owned()),
        [Ok(text)] if content::is_media_type(text) => Ok(text.to_owned()),
        _ => Err(Problem::new(ProblemCode::InvalidRequest).at("Content-Type", "is not a media type")),
    }
}

/// Refuses bytes that are not what their `Content-Digest` says: they were changed or cut on the way.
fn whole(headers: &HeaderMap, bytes: &[u8]) -> Result<(), Problem> {
    let fields = headers.get_all("content-digest").iter();
    let field = fields.map(|v| String::from_utf8_lossy(v.as_bytes())).collect::<Vec<_>>().join(",");
    match content::broken_digest(&field, bytes) {
        None => Ok(()),
        Some(algorithm) => {
            let rule = format!("its {algorithm} is not that of the bytes that came");
            Err(Problem::new(ProblemCode::InvalidRequest).at("Content-Digest", &rule))
        }
    }
}

/// What `result` and `resultUrl` say; neither is the JSON value `null`.
fn outcome(result: Option<api::Json>, url: Option<String>) -> Result<Outcome, Invalid> {
    match (result, url) {
        (Some(_), Some(_)) => Err(Invalid::member("/resultUrl", "cannot be given together with result")),
        (None, Some(url)) => rules::result_url("/resultUrl", &url).map(Outcome::Elsewhere),
        (result, None) => {
            Ok(Outcome::json(result.map_or(Bytes::from_static(b"null"), |json| json.get().to_owned().into())))
        }
    }
}

fn fits(app: &App, outcome: &Outcome) -> Result<(), Problem> {
    let limit = app.options.result_limit;
    match outcome {
        Outcome::Bytes { bytes, .. } if bytes.len() > limit => {
            Err(Problem::new(ProblemCode::ResultTooLarge).detail(format!("at most {limit} bytes")))
        }
        Outcome::Bytes { .. } | Outcome::Elsewhere(_) => Ok(()),
    }
}

async fn finish(
    app: &App,
    worker: &Worker,
    id: JobId,
    token: LeaseToken,
    what: Change,
) -> Result<Response, Problem> {
    let done = by_lease(app, worker, id, token, What::Change(what)).await?;
    Ok(changed(app, StatusCode::OK, &done.job))
}

/// One change by right of a lease. To who shows no key, a made-up token must not tell which jobs there are.
async fn by_lease(
    app: &App,
    worker: &Worker,
    id: JobId,
    token: LeaseToken,
    what: What,
) -> Result<Changed, Problem> {
    worker.may_touch(app, id).await?;
    let right = Right::Lease(token);
    if worker.0.is_some() {
        return change(app, id, worker.tenant(), right, what).await;
    }
    let lost = || Problem::new(ProblemCode::LeaseLost);
    let admitted = app.strangers.admit(app.real.now());
    if !admitted && !app.ask(app.store.knows(id, token)).await? {
        return Err(lost());
    }
    let done = change(app, id, None, right, what).await.map_err(|problem| match problem.code() {
        ProblemCode::JobNotFound | ProblemCode::JobExpired => lost(),
        _ => problem,
    });
    if admitted && !done.as_ref().is_err_and(|problem| problem.code() == ProblemCode::LeaseLost) {
        app.strangers.known(app.real.now());
    }
    done
}

/// Report that the attempt went wrong.
#[utoipa::path(post, path = "/v1/jobs/{jobId}/fail", tag = "workers", operation_id = "failJob",
    security(("apiKey" = ["work"]), ("leaseToken" = [])), params(("jobId" = JobId, Path)), request_body = Fail,
    responses((status = 200, body = api::Job), (status = 409, description = "lease-lost")))]
pub async fn fail(
    State(app): State<App>,
    worker: Worker,
    PathId(id): PathId<id::Job>,
    _: Query<NoQuery>,
    raw: Raw<sizes::Usual>,
) -> Result<Response, Problem> {
    let Fail { lease_token, error, error_code, retryable, retry_after_seconds } = report(&worker, &raw)?;
    let failure = failure(Some(error), error_code, retryable, retry_after_seconds)?;
    finish(&app, &worker, id, lease_token, Change::Fail(failure)).await
}

fn failure(
    error: Option<String>,
    code: Option<String>,
    retryable: Option<bool>,
    retry_after_seconds: Option<u32>,
) -> Result<Failure, Invalid> {
    let error = error.filter(|text| !text.trim().is_empty());
    let error = error.ok_or_else(|| Invalid::member("/error", "is required and must not be empty"))?;
    let error = rules::said("/error", &error, 4_000)?;
    rules::optional_text("/errorCode", code.as_deref(), 128)?;
    rules::range("/retryAfterSeconds", retry_after_seconds, 0, 0..=86_400)?;
    Ok(Failure { error, code, retryable: retryable.unwrap_or(true), retry_after_seconds })
}

/// Give the job back; no attempt is used.
#[utoipa::path(post, path = "/v1/jobs/{jobId}/release", tag = "workers", operation_id = "releaseJob",
    security(("apiKey" = ["work"]), ("leaseToken" = [])), params(("jobId" = JobId, Path)), request_body = Release,
    responses((status = 200, body = api::Job), (status = 409, description = "lease-lost")))]
pub async fn release(
    State(app): State<App>,
    worker: Worker,
    PathId(id): PathId<id::Job>,
    _: Query<NoQuery>,
    raw: Raw<sizes::Usual>,
) -> Result<Response, Problem> {
    let Release { lease_token, delay_seconds } = report(&worker, &raw)?;
    let delay_seconds = rules::range("/delaySeconds", delay_seconds, 0, 0..=86_400)?;
    finish(&app, &worker, id, lease_token, Change::Release { delay_seconds }).await
}

/// Report many outcomes at once; each is answered for itself.
#[utoipa::path(post, path = "/v1/leases/ack", tag = "workers", operation_id = "ackJobs",
    security(("apiKey" = ["work"])), request_body = Acks,
    responses((status = 200, body = Items<OrProblem<api::Job>>)))]
pub async fn ack(
    State(app): State<App>,
    key: Key<need::Work>,
    _: Query<NoQuery>,
    waiting: Waiting,
    body: JsonBody<Acks, sizes::Batch>,
) -> Result<Response, Problem> {
    let raws = body.value.items;
    if raws.is_empty() || raws.len() > ACKS_MAX {
        return Err(Invalid::member("/items", format!("must have 1 to {ACKS_MAX} entries")).into());
    }
    let mut good = Vec::with_capacity(raws.len());
    let mut places = Vec::with_capacity(raws.len());
    for (i, raw) in raws.iter().enumerate() {
        let one = acked(&app, &key, raw).await.map_err(|p| p.below(&format!("/items/{i}")));
        // A silent store answers for all of them, once.
        if let Err(down) = one.as_ref().map_err(Clone::clone)
            && down.code() == ProblemCode::StorageUnavailable
        {
            return Err(down);
        }
        places.push(one.map(|change| good.push(change)));
    }
    let done = match good.is_empty() {
        true => Vec::new(),
        false => app.ask(app.store.change(good, app.now())).await?,
    };
    app.wake.jobs.nudge();
    app.wake.deliveries.nudge();
    let mut done = done.into_iter();
    let items = places.into_iter().map(|place| {
        let one = place.and_then(|()| match done.next() {
            Some(one) => one.map_err(Problem::of_job),
            None => Err(Problem::new(ProblemCode::Internal)),
        });
        told(&app, &waiting, one)
    });
    let items: Vec<_> = items.collect();
    Ok(json::Long(items.len() * json::JOB_BYTES, Items { items }).into_response())
}

fn told(app: &App, waiting: &Waiting, one: Result<Changed, Problem>) -> OrProblem<api::Job> {
    match one {
        Ok(one) => OrProblem::Done(one.job.view(app.store.urls())),
        Err(problem) => OrProblem::Problem(problem.body(waiting.request_id())),
    }
}

async fn acked(app: &App, key: &Key<need::Work>, raw: &api::Json) -> Result<JobChange, Problem> {
    let ack: Ack = json::read_object(raw.get())?;
    let what = match ack.op {
        AckOp::Complete => Change::Complete(outcome(ack.result, ack.result_url)?),
        AckOp::Fail => {
            Change::Fail(failure(ack.error, ack.error_code, ack.retryable, ack.retry_after_seconds)?)
        }
    };
    if let Change::Complete(outcome) = &what {
        fits(app, outcome)?;
    }
    key.may_touch(app, ack.job_id).await?;
    let right = Right::Lease(ack.lease_token);
    Ok(JobChange { id: ack.job_id, tenant: Some(key.tenant()), right, what: What::Change(what) })
}
