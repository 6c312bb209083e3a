//! Submitting jobs: one, many, or with the body as the input.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{MatchedPath, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::app::App;
use super::extract::{
    BareHead, Bytes256, First, Head, JsonBody, Key, NoQuery, Prefer, Query, Waiting, is_json, need::JobsWrite,
};
use super::json;
use super::problem::Problem;
use super::routes::Route;
use crate::store::Submitted;
use crate::types::api::{JobAccepted, Json as Raw, SubmitJob};
use crate::types::job::{Idempotency, Job, JobState, NewJob, WorkerKind};
use crate::types::key::LeaseToken;
use crate::types::problem::ProblemCode;
use crate::types::submit::{self as rules, Rules, Stamp};
use crate::types::{EndpointId, TenantId};

/// Where a job is polled unless its route names another place.
pub const STATUS_PATH: &str = "/v1/jobs/{jobId}";
/// The seed's own spelling of both.
pub const SEED_PATH: &str = "/api/jobs";
/// Where a job submitted at [`SEED_PATH`] is polled.
pub const SEED_STATUS_PATH: &str = "/api/jobs/{jobId}";
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Submit a job.
///
/// Answers 202 as soon as the job is stored. With `Prefer: wait=N` the answer is the ended job (200) if it
/// ends within N seconds.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", operation_id = "submitJob",
    security(("apiKey" = ["jobs:write"])),
    params(("Idempotency-Key" = Option<String>, Header, max_length = 257),
        ("Prefer" = Option<String>, Header, example = "respond-async, wait=10"),
        ("traceparent" = Option<String>, Header)),
    request_body = SubmitJob,
    responses((status = 202, body = JobAccepted), (status = 200, body = crate::types::api::Job),
        (status = 409, description = "idempotency-in-flight")))]
pub async fn submit(
    State(app): State<App>,
    key: Key<JobsWrite>,
    path: MatchedPath,
    _: Query<NoQuery>,
    BareHead(head): BareHead,
    waiting: Waiting,
    body: JsonBody<SubmitJob>,
) -> Result<Response, Problem> {
    let idempotency = head.idempotency("POST /v1/jobs", &body.raw);
    let status_path = if path.as_str() == SEED_PATH { SEED_STATUS_PATH } else { STATUS_PATH };
    // Boxed: what is awaited in there takes kilobytes, and a handler's future is moved from layer to layer.
    Box::pin(accept(&app, &key, Order { wish: body.value, idempotency, head, waiting, status_path })).await
}

/// Submit a job of the type in the path; the body is its input.
#[utoipa::path(post, path = "/v1/operations/{type}", tag = "jobs", operation_id = "submitOperation",
    security(("apiKey" = ["jobs:write"])),
    params(("type" = String, Path, example = "report.generate"),
        ("Callback-Url" = Option<String>, Header), ("Callback-Events" = Option<String>, Header),
        ("Queue" = Option<String>, Header, max_length = 64, example = "reports"),
        ("Idempotency-Key" = Option<String>, Header, max_length = 257),
        ("Prefer" = Option<String>, Header), ("traceparent" = Option<String>, Header)),
    request_body(content = Option<serde_json::Value>, content_type = "application/json"),
    responses((status = 202, body = JobAccepted), (status = 200, body = crate::types::api::Job),
        (status = 409, description = "idempotency-in-flight")))]
pub async fn operation(
    State(app): State<App>,
    key: Key<JobsWrite>,
    _: Query<NoQuery>,
    First(kind): First,
    head: Head,
    waiting: Waiting,
    body: Bytes256,
) -> Result<Response, Problem> {
    let route = Route { path: String::new(), kind, queue: None, status_path: None };
    operate(&app, &key, &route, (head, waiting), body).await
}

/// The operation of a configured path; found by the path, so that one handler serves them all.
pub async fn configured(
    State(app): State<App>,
    key: Key<JobsWrite>,
    path: MatchedPath,
    _: Query<NoQuery>,
    head: Head,
    waiting: Waiting,
    body: Bytes256,
) -> Result<Response, Problem> {
    let route: &Route = app
        .options
        .routes
        .iter()
        .find(|route| route.path == path.as_str())
        .ok_or_else(|| Problem::new(ProblemCode::NotFound))?;
    operate(&app, &key, route, (head, waiting), body).await
}

async fn operate(
    app: &App,
    key: &Key<JobsWrite>,
    route: &Route,
    (mut head, waiting): (Head, Waiting),
    body: Bytes256,
) -> Result<Response, Problem> {
    let (kind, status_path) = (route.kind.clone(), route.polled_at());
    rules::name("/type", &kind, 128).map_err(|_| Problem::new(ProblemCode::NotFound))?;
    head.queue = queue(route, &head)?;
    // Configured paths are aliases of the operation, so a key counts for both.
    let idempotency = head.idempotency(&format!("POST /v1/operations/{kind}"), &body.bytes);
    let mut wish =
        SubmitJob { kind, input: input(&body)?, queue: head.queue.clone(), ..SubmitJob::default() };
    match (&head.callback_url, &head.callback_events) {
        (None, None) => {}
        (Some(url), None) => wish.callback_url = Some(url.clone()),
        (url, events) => {
            let callback = crate::types::api::Callback {
                url: url.clone(),
                events: events.clone(),
                ..Default::default()
            };
            wish.callback = Some(callback);
        }
    }
    Box::pin(accept(app, key, Order { wish, idempotency, head, waiting, status_path }))
        .await
        .map_err(Problem::in_option_headers)
}

/// The route's own queue, or the one that the client names.
fn queue(route: &Route, head: &Head) -> Result<Option<String>, Problem> {
    match (&route.queue, &head.queue) {
        (Some(fixed), Some(wish)) if fixed != wish => Err(Problem::new(ProblemCode::ValidationFailed)
            .at("Queue", &format!("jobs of this path go to `{fixed}`"))),
        (Some(name), _) | (None, Some(name)) => Ok(Some(name.clone())),
        (None, None) => Ok(None),
    }
}

/// The body as it stands; none at all is `null`.
fn input(body: &Bytes256) -> Result<Option<Raw>, Problem> {
    if body.bytes.is_empty() {
        return Ok(None);
    }
    if !is_json(&body.headers) {
        return Err(
            Problem::new(ProblemCode::UnsupportedMediaType).detail("the body must be application/json")
        );
    }
    Ok(Some(json::verbatim(&body.bytes)?))
}

/// One submission, whichever door it came through.
struct Order<'a> {
    wish: SubmitJob,
    idempotency: Option<Idempotency>,
    head: Head,
    waiting: Waiting,
    status_path: &'a str,
}

async fn accept(app: &App, key: &Key<JobsWrite>, order: Order<'_>) -> Result<Response, Problem> {
    let estimate = app.store.estimate(key.tenant(), &order.wish.kind, app.now()).await;
    let stamp = stamp(app, key.tenant(), estimate, &order.head, order.idempotency.clone());
    let endpoints = endpoints(app, key, [&order.wish]).await?;
    let submitted = match check(app, key, order.wish, &endpoints, stamp) {
        Ok(job) => store(app, job).await?,
        // What was sound when it first came is answered as it was then, though the rules or the time have moved on.
        Err(refusal) => Box::pin(first(app, key, order.idempotency.as_ref())).await?.ok_or(refusal)?,
    };
    app.tell_of(std::slice::from_ref(&submitted));
    // An external job ends by the lease that stands in the answer: holding it back would wait for itself.
    let prefer = match submitted.job.worker {
        WorkerKind::External => Prefer { wait: None, ..order.head.prefer },
        WorkerKind::Pull => order.head.prefer,
    };
    // Boxed, as it is in `first`: room for the wait that few ask for would be moved about with every request.
    let ended = match prefer.wait {
        None => None,
        Some(_) => Some(Box::pin(order.waiting.for_end(app, prefer, submitted.job.clone())).await),
    };
    let ended = ended.filter(|job| job.state.ended());
    let mut response = match &ended {
        None => accepted(app, &submitted, order.status_path),
        Some(job) => {
            (StatusCode::OK, [(header::ETAG, job.etag())], Json(job.view(app.store.urls()))).into_response()
        }
    };
    if let Some(applied) = prefer.applied(ended.is_none()) {
        response.headers_mut().insert("preference-applied", applied);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Authorization, Prefer"));
    if submitted.replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

async fn store(app: &App, job: NewJob) -> Result<Submitted, Problem> {
    let mut stored = app.ask(app.store.submit(vec![job], app.now())).await?;
    stored.pop().ok_or_else(|| Problem::new(ProblemCode::Internal))
}

async fn first(
    app: &App,
    key: &Key<JobsWrite>,
    idempotency: Option<&Idempotency>,
) -> Result<Option<Submitted>, Problem> {
    match idempotency {
        Some(idempotency) => first_of(app, key, idempotency).await,
        None => Ok(None),
    }
}

/// What the first request with that idempotency key made, if this key may have it: the answer holds tokens.
pub(super) async fn first_of(
    app: &App,
    key: &Key<JobsWrite>,
    idempotency: &Idempotency,
) -> Result<Option<Submitted>, Problem> {
    let found = app.ask(app.store.first_request(key.tenant(), idempotency, app.now())).await?;
    if let Some(found) = &found {
        key.for_queue(&found.job.queue)?;
    }
    Ok(found)
}

pub(super) fn stamp(
    app: &App,
    tenant: TenantId,
    estimated_seconds: u32,
    head: &Head,
    idempotency: Option<Idempotency>,
) -> Stamp {
    Stamp {
        id: app.store.mint_job_id(app.now()),
        tenant,
        traceparent: head.traceparent.clone(),
        estimated_seconds,
        // The first claim has the first fence.
        lease: LeaseToken { fence: 1, random: app.dice.bytes() },
        idempotency,
    }
}

/// The URLs of the standing endpoints that these submissions name, of those that the key may use.
pub(super) async fn endpoints<'w>(
    app: &App,
    key: &Key<JobsWrite>,
    wishes: impl IntoIterator<Item = &'w SubmitJob>,
) -> Result<BTreeMap<EndpointId, String>, Problem> {
    let named = wishes.into_iter().filter_map(|wish| wish.callback.as_ref()?.endpoint_id);
    let named: BTreeSet<EndpointId> = named.collect();
    if named.is_empty() {
        return Ok(BTreeMap::new());
    }
    let found = app.ask(app.store.named_endpoints(key.tenant(), named, app.now())).await?;
    let visible = found.into_iter().filter(|e| key.in_accounts(e.settings.account.as_deref()));
    Ok(visible.map(|e| (e.id, e.settings.url.clone())).collect())
}

pub(super) fn check(
    app: &App,
    key: &Key<JobsWrite>,
    wish: SubmitJob,
    endpoints: &BTreeMap<EndpointId, String>,
    stamp: Stamp,
) -> Result<NewJob, Problem> {
    let job = rules::check(wish, &Rules { now: app.now(), policy: &app.policy, endpoints }, stamp)?;
    key.for_queue(&job.queue)?;
    Ok(job)
}

/// The 202 of a stored job.
fn accepted(app: &App, submitted: &Submitted, status_path: &str) -> Response {
    let body = view(app, submitted, status_path);
    let head = [
        (
            header::LOCATION,
            HeaderValue::from_str(&app.store.urls().status_path(body.job_id, status_path)).ok(),
        ),
        (header::RETRY_AFTER, Some(submitted.job.poll_after(submitted.job.created_at).into())),
    ];
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    for (name, value) in head {
        if let Some(value) = value {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// The job as it was when it was accepted: a repeated request gets the first answer again.
pub(super) fn view(app: &App, submitted: &Submitted, status_path: &str) -> JobAccepted {
    let job = &submitted.job;
    let state = first_state(job);
    JobAccepted {
        job_id: job.id,
        status: state.status(),
        status_url: app.store.urls().status(job.id, status_path),
        estimated_seconds: job.estimate(),
        state,
        created_at: job.created_at,
        access_token: app.store.access_token(job.tenant, job.id),
        lease_token: submitted.lease.map(|(token, _)| token),
        lease_expires_at: submitted.lease.map(|(_, until)| until),
    }
}

fn first_state(job: &Job) -> JobState {
    match job.worker {
        WorkerKind::External => JobState::Processing,
        WorkerKind::Pull if job.run_at.is_some_and(|at| at > job.created_at) => JobState::Scheduled,
        WorkerKind::Pull => JobState::Queued,
    }
}
