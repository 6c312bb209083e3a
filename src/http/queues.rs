//! Queues: how they stand, and what is set for them.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::Uri;

use super::app::App;
use super::extract::{
    First, FromQuery, JsonBody, Key, MaybeJson, NoBody, NoQuery, Params, Query, need, paged_by,
};
use super::jobs::page;
use super::problem::Problem;
use crate::store::QueueChange;
use crate::types::Millis;
use crate::types::api::{ChangeQueue, Page, PauseQueue, Queue};
use crate::types::problem::{Invalid, ProblemCode};
use crate::types::submit as rules;

/// The longest pause that ends by itself.
const LONGEST_PAUSE: Duration = Duration::from_secs(365 * 24 * 3600);
const NAME_MAX: usize = 64;

/// How queues are listed.
pub struct ListQuery {
    after: String,
    limit: u32,
}

impl FromQuery for ListQuery {
    const NAMES: &'static [&'static str] = &["cursor", "limit"];

    fn from_params(params: &Params) -> Result<Self, Problem> {
        let named = |name: &str| rules::name("", name, NAME_MAX).is_ok();
        Ok(ListQuery { after: params.after(named)?.unwrap_or_default(), limit: params.limit()? })
    }
}

/// List the queues that hold jobs, held some lately, or have settings, by name.
///
/// A key that is narrowed to queues sees these, used or not.
#[utoipa::path(get, path = "/v1/queues", tag = "queues", operation_id = "listQueues",
    security(("apiKey" = ["jobs:read"])),
    params(("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Page<Queue>)))]
pub async fn list(
    State(app): State<App>,
    key: Key<need::JobsRead>,
    Query(query): Query<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    let only = key.record.queues.as_deref();
    let rows =
        app.ask(app.store.queues(key.tenant(), only, &query.after, query.limit + 1, app.now())).await?;
    Ok(page(paged_by(rows, query.limit, |queue| queue.queue.clone(), &uri, app.store.urls())))
}

/// The queue that the path names; only what could be one is there.
fn named<N>(key: &Key<N>, queue: &str) -> Result<(), Problem> {
    rules::name("/queue", queue, NAME_MAX).map_err(|_| Problem::new(ProblemCode::NotFound))?;
    key.for_queue(queue)
}

/// Read how a queue stands. A queue is a name: one that nothing was put into is empty.
#[utoipa::path(get, path = "/v1/queues/{queue}", tag = "queues", operation_id = "getQueue",
    security(("apiKey" = ["jobs:read"])), params(("queue" = String, Path, example = "default")),
    responses((status = 200, body = Queue)))]
pub async fn get_queue(
    State(app): State<App>,
    key: Key<need::JobsRead>,
    First(queue): First,
    _: Query<NoQuery>,
) -> Result<Json<Queue>, Problem> {
    named(&key, &queue)?;
    app.ask(app.store.queue(key.tenant(), &queue, app.now())).await.map(Json)
}

/// Change what is set for a queue; every node goes by it within a second.
#[utoipa::path(patch, path = "/v1/queues/{queue}", tag = "queues", operation_id = "changeQueue",
    security(("apiKey" = ["admin"])), params(("queue" = String, Path, example = "default")),
    request_body = ChangeQueue, responses((status = 200, body = Queue)))]
pub async fn change(
    State(app): State<App>,
    key: Key<need::Admin>,
    First(queue): First,
    _: Query<NoQuery>,
    body: JsonBody<ChangeQueue>,
) -> Result<Json<Queue>, Problem> {
    named(&key, &queue)?;
    let max_in_flight = body.value.max_in_flight;
    rules::range("/maxInFlight", max_in_flight.flatten(), 1, 1..=100_000)?;
    set(&app, &key, &queue, QueueChange { max_in_flight, ..QueueChange::default() }).await
}

/// Pause a queue: it hands out no jobs. What runs goes on, what is submitted is taken.
#[utoipa::path(post, path = "/v1/queues/{queue}/pause", tag = "queues", operation_id = "pauseQueue",
    security(("apiKey" = ["admin"])), params(("queue" = String, Path, example = "default")),
    request_body = Option<PauseQueue>, responses((status = 200, body = Queue)))]
pub async fn pause(
    State(app): State<App>,
    key: Key<need::Admin>,
    First(queue): First,
    _: Query<NoQuery>,
    MaybeJson(body): MaybeJson<PauseQueue>,
) -> Result<Json<Queue>, Problem> {
    named(&key, &queue)?;
    let until = body.until.map(|until| coming(until, app.now())).transpose()?.unwrap_or(Millis::MAX);
    set(&app, &key, &queue, QueueChange { paused_until: Some(Some(until)), ..QueueChange::default() }).await
}

/// An instant at which a pause ends by itself.
pub(super) fn coming(until: Millis, now: Millis) -> Result<Millis, Invalid> {
    if until > now && until <= now.plus(LONGEST_PAUSE) {
        return Ok(until);
    }
    Err(Invalid::member("/until", "must lie in the future, within 365 days"))
}

/// Let a queue hand out jobs again.
#[utoipa::path(post, path = "/v1/queues/{queue}/resume", tag = "queues", operation_id = "resumeQueue",
    security(("apiKey" = ["admin"])), params(("queue" = String, Path, example = "default")),
    responses((status = 200, body = Queue)))]
pub async fn resume(
    State(app): State<App>,
    key: Key<need::Admin>,
    First(queue): First,
    _: Query<NoQuery>,
    _: NoBody,
) -> Result<Json<Queue>, Problem> {
    named(&key, &queue)?;
    set(&app, &key, &queue, QueueChange { paused_until: Some(None), ..QueueChange::default() }).await
}

async fn set(
    app: &App,
    key: &Key<need::Admin>,
    queue: &str,
    change: QueueChange,
) -> Result<Json<Queue>, Problem> {
    app.ask(app.store.set_queue(key.tenant(), queue, change)).await?;
    // Who waits for a job may have one now.
    app.wake.jobs.nudge();
    app.ask(app.store.queue(key.tenant(), queue, app.now())).await.map(Json)
}
