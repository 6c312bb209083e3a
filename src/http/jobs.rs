//! Jobs as their clients see them: one, many, their events, and what may be done to them.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};

use super::app::{App, Awaited};
use super::extract::{
    Form, FromQuery, Key, MaybeJson, NoBody, NoQuery, Params, PathId, Prefer, Query, Reader, Waiting,
    etag_matches, is_conditional, need::JobsRead, need::JobsWrite, negotiate, next_link, page_of, paged_to,
};
use super::problem::Problem;
use super::stream;
use crate::store::{Changed, Found, JobChange, JobFilter, PageOf, Right, What};
use crate::types::api::{Cancel, Event, Job as JobView, Page};
use crate::types::id;
use crate::types::job::{Change, Job, JobState, Status};
use crate::types::problem::ProblemCode;
use crate::types::submit as rules;
use crate::types::{JobId, TenantId};

/// How a job is asked for.
pub struct GetQuery {
    redirect: bool,
}

impl FromQuery for GetQuery {
    const NAMES: &'static [&'static str] = &["redirect", "access_token"];
    fn from_params(params: &Params) -> Result<Self, Problem> {
        let yes = |word: &str| match word {
            "1" | "true" => Some(true),
            "0" | "false" => Some(false),
            _ => None,
        };
        Ok(GetQuery { redirect: params.word("redirect", yes)?.unwrap_or(false) })
    }
}

/// Read a job.
///
/// With `Prefer: wait=N` the answer comes when the job has ended, or with `If-None-Match` when it has
/// changed, or after N seconds.
#[utoipa::path(get, path = "/v1/jobs/{jobId}", tag = "jobs", operation_id = "getJob",
    security(("apiKey" = ["jobs:read"]), ("accessToken" = []), ("accessTokenQuery" = [])),
    params(("jobId" = JobId, Path), ("redirect" = Option<String>, Query, example = "1"),
        ("If-None-Match" = Option<String>, Header), ("Prefer" = Option<String>, Header, example = "wait=30")),
    responses((status = 200, body = JobView), (status = 303, description = "To the result"),
        (status = 304, description = "Not changed")))]
pub async fn get_job(
    State(app): State<App>,
    reader: Reader,
    Query(query): Query<GetQuery>,
    prefer: Prefer,
    waiting: Waiting,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    reader.pace(&app)?;
    let known = |job: &Job| etag_matches(&headers, header::IF_NONE_MATCH, &job.etag());
    let conditional = is_conditional(&headers);
    let changed = conditional.then_some(|job: &Job| !known(job));
    let job = waiting.for_reader(&app, prefer, &reader, changed).await?;
    let unchanged = conditional && known(&job);
    let target = if query.redirect { target(&app, &job, &reader) } else { None };
    Ok(answer(&app, &job, prefer, target, unchanged))
}

/// Where `?redirect=1` leads. A browser that came by the capability in the query has nothing else to show
/// there; it never goes to a result kept elsewhere.
fn target(app: &App, job: &Job, reader: &Reader) -> Option<HeaderValue> {
    let url = job.view(app.store.urls()).result_url?;
    let url = match reader.query_token().filter(|_| job.result_url.is_none()) {
        Some(token) => format!("{url}?access_token={token}"),
        None => url,
    };
    HeaderValue::from_str(&url).ok()
}

fn answer(app: &App, job: &Job, prefer: Prefer, target: Option<HeaderValue>, unchanged: bool) -> Response {
    let mut response = match target {
        Some(location) => (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response(),
        None if unchanged => StatusCode::NOT_MODIFIED.into_response(),
        None => Json(job.view(app.store.urls())).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("Authorization, Prefer"));
    if let Ok(etag) = HeaderValue::from_str(&job.etag()) {
        headers.insert(header::ETAG, etag);
    }
    if !job.state.ended() {
        headers.insert(header::RETRY_AFTER, job.poll_after(app.now()).into());
    }
    if let Some(applied) = prefer.wait.and_then(|_| prefer.applied(false)) {
        headers.insert(HeaderName::from_static("preference-applied"), applied);
    }
    response
}

/// How jobs are listed.
pub struct ListQuery {
    filter: JobFilter,
    page: PageOf<id::Job>,
    /// `status` and `state` have nothing in common.
    nothing: bool,
}

impl FromQuery for ListQuery {
    const NAMES: &'static [&'static str] =
        &["status", "state", "type", "queue", "ref", "createdAfter", "createdBefore", "cursor", "limit"];

    fn from_params(params: &Params) -> Result<Self, Problem> {
        let status = params.word("status", Status::from_word)?;
        let state = params.word("state", JobState::from_word)?;
        let fits = |s: &JobState| status.is_none_or(|w| s.status() == w) && state.is_none_or(|w| *s == w);
        let asked = status.is_some() || state.is_some();
        let states: Vec<JobState> = JobState::ALL.iter().copied().filter(|s| asked && fits(s)).collect();
        let filter = JobFilter {
            kind: params.short("type", 128)?,
            queue: params.short("queue", 64)?,
            reference: params.short("ref", 255)?,
            created_after: params.time("createdAfter")?,
            created_before: params.time("createdBefore")?,
            only_queues: None,
            states,
        };
        Ok(ListQuery { nothing: asked && filter.states.is_empty(), filter, page: params.page()? })
    }
}

/// List jobs, newest first, without input and result.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", operation_id = "listJobs",
    security(("apiKey" = ["jobs:read"])),
    params(("status" = Option<Status>, Query), ("state" = Option<JobState>, Query),
        ("type" = Option<String>, Query), ("queue" = Option<String>, Query), ("ref" = Option<String>, Query),
        ("createdAfter" = Option<String>, Query, format = DateTime),
        ("createdBefore" = Option<String>, Query, format = DateTime),
        ("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Page<JobView>)))]
pub async fn list(
    State(app): State<App>,
    key: Key<JobsRead>,
    Query(query): Query<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    let filter = JobFilter { only_queues: key.record.queues.clone(), ..query.filter };
    let found = match query.nothing {
        true => Found { rows: Vec::new(), looked_to: None },
        false => app.ask(app.store.jobs(key.tenant(), &filter, page_of(&query.page), app.now())).await?,
    };
    let views = found.rows.iter().map(|job| job.view(app.store.urls())).collect();
    let found = Found { rows: views, looked_to: found.looked_to };
    Ok(page(paged_to(found, query.page.limit, |job: &JobView| job.job_id, &uri, app.store.urls())))
}

/// A page with its `Link`.
pub fn page<T: serde::Serialize>((link, page): (Option<HeaderValue>, Page<T>)) -> Response {
    let mut response = Json(page).into_response();
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

/// Cancel a job.
///
/// 200 if it has ended by that; 202 while its worker is being told.
#[utoipa::path(post, path = "/v1/jobs/{jobId}/cancel", tag = "jobs", operation_id = "cancelJob",
    security(("apiKey" = ["jobs:write"])), params(("jobId" = JobId, Path)),
    request_body = Option<Cancel>,
    responses((status = 200, body = JobView), (status = 202, body = JobView),
        (status = 409, description = "job-already-finished")))]
pub async fn cancel(
    State(app): State<App>,
    key: Key<JobsWrite>,
    PathId(id): PathId<id::Job>,
    _: Query<NoQuery>,
    MaybeJson(body): MaybeJson<Cancel>,
) -> Result<Response, Problem> {
    rules::optional_text("/reason", body.reason.as_deref(), 1_000)?;
    key.may_touch(&app, id).await?;
    let what = What::Change(Change::Cancel { reason: body.reason });
    let job = change(&app, id, Some(key.tenant()), Right::Owner, what).await?.job;
    let status = if job.state.ended() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(changed(&app, status, &job))
}

/// Cancel a job: the same as POST to its `cancel`.
#[utoipa::path(delete, path = "/v1/jobs/{jobId}", tag = "jobs", operation_id = "deleteJob",
    security(("apiKey" = ["jobs:write"])), params(("jobId" = JobId, Path)), request_body = Option<Cancel>,
    responses((status = 200, body = JobView), (status = 202, body = JobView),
        (status = 409, description = "job-already-finished")))]
pub async fn delete_job(
    app: State<App>,
    key: Key<JobsWrite>,
    id: PathId<id::Job>,
    query: Query<NoQuery>,
    body: MaybeJson<Cancel>,
) -> Result<Response, Problem> {
    cancel(app, key, id, query, body).await
}

/// Queue a failed, cancelled or expired job again.
#[utoipa::path(post, path = "/v1/jobs/{jobId}/retry", tag = "jobs", operation_id = "retryJob",
    security(("apiKey" = ["jobs:write"])), params(("jobId" = JobId, Path)),
    responses((status = 202, body = JobView), (status = 409, description = "job-not-retryable")))]
pub async fn retry(
    State(app): State<App>,
    key: Key<JobsWrite>,
    PathId(id): PathId<id::Job>,
    _: Query<NoQuery>,
    _: NoBody,
) -> Result<Response, Problem> {
    key.may_touch(&app, id).await?;
    let job = change(&app, id, Some(key.tenant()), Right::Owner, What::Retry).await?.job;
    let mut response = changed(&app, StatusCode::ACCEPTED, &job);
    let path = app.store.urls().status_path(id, super::submit::STATUS_PATH);
    if let Ok(location) = HeaderValue::from_str(&path) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Changes one job, and wakes whoever waits for it or for what follows from it.
pub async fn change(
    app: &App,
    id: JobId,
    tenant: Option<TenantId>,
    right: Right,
    what: What,
) -> Result<Changed, Problem> {
    let wish = JobChange { id, tenant, right, what };
    let mut done = app.ask_job(app.store.change(vec![wish], app.now())).await?;
    let one = done.pop().ok_or_else(|| Problem::new(ProblemCode::Internal))?.map_err(Problem::of_job)?;
    app.wake.jobs.nudge();
    app.wake.deliveries.nudge();
    Ok(one)
}

/// The answer to a change.
pub fn changed(app: &App, status: StatusCode, job: &Job) -> Response {
    let mut response = (status, Json(job.view(app.store.urls()))).into_response();
    if let Ok(etag) = HeaderValue::from_str(&job.etag()) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    if !job.state.ended() {
        response.headers_mut().insert(header::RETRY_AFTER, job.poll_after(app.now()).into());
    }
    response
}

/// From where events are read.
pub struct EventsQuery {
    after: i64,
    /// What `after` was called, for the link to the next page.
    name: &'static str,
    limit: u32,
}

impl FromQuery for EventsQuery {
    const NAMES: &'static [&'static str] = &["after", "cursor", "limit", "access_token"];
    fn from_params(params: &Params) -> Result<Self, Problem> {
        let (name, after) = params.either::<u64>(["after", "cursor"])?;
        let after = after.map_or(0, |after| i64::try_from(after).unwrap_or(i64::MAX));
        Ok(EventsQuery { after, name, limit: params.limit()? })
    }
}

/// Read a job's events above `after` (`cursor` is another name for it), oldest first.
///
/// As JSON one page of them; with `Prefer: wait=N` an empty answer comes only after N seconds or the end of
/// the job. As an event stream each of them as it comes, up to the job's end: `id` is its sequence, `event` its
/// type, `data` the same as in JSON. A client that was cut off says in `Last-Event-ID` how far it was; 204 tells
/// it that nothing follows.
#[utoipa::path(get, path = "/v1/jobs/{jobId}/events", tag = "jobs", operation_id = "listJobEvents",
    security(("apiKey" = ["jobs:read"]), ("accessToken" = []), ("accessTokenQuery" = [])),
    params(("jobId" = JobId, Path), ("after" = Option<u64>, Query), ("cursor" = Option<u64>, Query),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200), ("Prefer" = Option<String>, Header),
        ("Last-Event-ID" = Option<u64>, Header)),
    responses((status = 200, content(
            (Page<Event> = "application/json"), (String = "text/event-stream"))),
        (status = 204, description = "The job has ended, and no event follows"),
        (status = 406, description = "not-acceptable")))]
pub async fn events(
    State(app): State<App>,
    reader: Reader,
    Query(mut query): Query<EventsQuery>,
    prefer: Prefer,
    waiting: Waiting,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let form = negotiate(&headers).ok_or_else(|| {
        Problem::new(ProblemCode::NotAcceptable)
            .detail("events are served as application/json and as text/event-stream")
    })?;
    reader.pace(&app)?;
    if form == Form::Stream {
        let resumed = stream::last_event_id(&headers, "must be given once, as the sequence of an event")?;
        let after = resumed.map_or(query.after, |sequence: u64| i64::try_from(sequence).unwrap_or(i64::MAX));
        return stream::open(&app, reader, after, &waiting).await;
    }
    if prefer.wait.is_some() && query.after > 0 {
        // A client that says it is further than the job waits for what is still to come.
        query.after = query.after.min(reader.job(&app).await?.sequence);
    }
    let look = || look_for_events(&app, &reader, &query);
    let waited = (reader.id, prefer.patience());
    let (_, items) = waiting.watch(&app, waited, look, nothing_yet).await?;
    reader.viewer.is_let_in_after(&app, waited.1).await?;
    let full = items.len() >= query.limit as usize;
    let next_cursor = items.last().filter(|_| full).map(|event| event.sequence.to_string());
    let link = next_cursor.as_deref().and_then(|after| next_link(&uri, app.store.urls(), query.name, after));
    let mut answer = page((link, Page { items, next_cursor }));
    answer.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept, Authorization, Prefer"));
    // With its token in the query it would be anybody's to keep, and an empty page would be told again and again.
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if let Some(applied) = prefer.wait.and_then(|_| prefer.applied(false)) {
        answer.headers_mut().insert("preference-applied", applied);
    }
    Ok(answer)
}

/// The job's next event, if it goes on and has none to show.
fn nothing_yet((job, items): &(Job, Vec<Event>)) -> Option<Awaited> {
    Awaited::event_of(job).filter(|_| items.is_empty())
}

/// The job as it stood before, and its events: in this order the last one is never missed.
async fn look_for_events(
    app: &App,
    reader: &Reader,
    query: &EventsQuery,
) -> Result<(Job, Vec<Event>), Problem> {
    let job = reader.job(app).await?;
    let events = app.store.job_events(reader.tenant(), reader.id, query.after, query.limit, app.now());
    Ok((job, app.ask_job(events).await?))
}
