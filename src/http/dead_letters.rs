//! Dead letters: look, discard, send again.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri, header};

use super::app::App;
use super::deliveries::OnlyPage;
use super::extract::{FromQuery, JsonBody, Key, NoQuery, Params, PathId, Query, need, page_of, paged};
use super::jobs::page;
use super::problem::Problem;
use crate::store::PageOf;
use crate::types::api::{DeadLetter, Page, Redrive, Replay, ReplayFilter, Replayed};
use crate::types::problem::{Invalid, ProblemCode};
use crate::types::submit as rules;
use crate::types::{DeliveryId, EndpointId, JobId, RedriveId, id};

/// How dead letters are listed.
pub struct ListQuery {
    filter: ReplayFilter,
    page: PageOf<id::Delivery>,
}

impl FromQuery for ListQuery {
    const NAMES: &'static [&'static str] =
        &["jobId", "endpointId", "account", "host", "type", "reason", "since", "until", "cursor", "limit"];

    fn from_params(params: &Params) -> Result<Self, Problem> {
        let filter = ReplayFilter {
            ids: None,
            job_id: params.parse("jobId")?,
            endpoint_id: params.parse("endpointId")?,
            account: params.short("account", 255)?,
            host: params.short("host", 255)?.map(|host| host.to_ascii_lowercase()),
            kind: params.short("type", 128)?,
            reason: params.short("reason", 64)?,
            since: params.time("since")?,
            until: params.time("until")?,
        };
        Ok(ListQuery { filter, page: params.page()? })
    }
}

/// List dead letters, newest first.
#[utoipa::path(get, path = "/v1/dead-letters", tag = "dead letters", operation_id = "listDeadLetters",
    security(("apiKey" = ["deliveries:read"])),
    params(("jobId" = Option<JobId>, Query), ("endpointId" = Option<EndpointId>, Query),
        ("account" = Option<String>, Query), ("host" = Option<String>, Query),
        ("type" = Option<String>, Query), ("reason" = Option<String>, Query),
        ("since" = Option<String>, Query, format = DateTime),
        ("until" = Option<String>, Query, format = DateTime), ("cursor" = Option<String>, Query),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Page<DeadLetter>)))]
pub async fn list(
    State(app): State<App>,
    key: Key<need::DeliveriesRead>,
    Query(query): Query<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    let only = key.record.narrow();
    let verb = app.store.dead_letters(key.tenant(), &query.filter, &only, page_of(&query.page));
    let rows = app.ask(verb).await?;
    Ok(page(paged(rows, query.page.limit, |d| d.delivery_id, &uri, app.store.urls())))
}

/// Read a dead letter.
#[utoipa::path(get, path = "/v1/dead-letters/{deliveryId}", tag = "dead letters",
    operation_id = "getDeadLetter", security(("apiKey" = ["deliveries:read"])),
    params(("deliveryId" = DeliveryId, Path)), responses((status = 200, body = DeadLetter)))]
pub async fn get_letter(
    State(app): State<App>,
    key: Key<need::DeliveriesRead>,
    PathId(id): PathId<id::Delivery>,
    _: Query<NoQuery>,
) -> Result<Json<DeadLetter>, Problem> {
    seen(&app, &key, id).await.map(Json)
}

async fn seen<N>(app: &App, key: &Key<N>, id: DeliveryId) -> Result<DeadLetter, Problem> {
    let letter = app.ask(app.store.dead_letter(key.tenant(), id)).await?;
    key.may_see(app, letter.account.as_deref(), letter.job_id).await?;
    Ok(letter)
}

/// Discard a dead letter; its delivery stays dead.
#[utoipa::path(delete, path = "/v1/dead-letters/{deliveryId}", tag = "dead letters",
    operation_id = "discardDeadLetter", security(("apiKey" = ["deadletters:replay"])),
    params(("deliveryId" = DeliveryId, Path)), responses((status = 204, description = "Discarded")))]
pub async fn discard(
    State(app): State<App>,
    key: Key<need::DeadlettersReplay>,
    PathId(id): PathId<id::Delivery>,
    _: Query<NoQuery>,
) -> Result<StatusCode, Problem> {
    seen(&app, &key, id).await?;
    app.ask(app.store.discard(key.tenant(), id, app.now())).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Send dead letters again: all that the filter matches, durably, or only count them.
#[utoipa::path(post, path = "/v1/dead-letters/replay", tag = "dead letters",
    operation_id = "replayDeadLetters", security(("apiKey" = ["deadletters:replay"])),
    request_body = Replay,
    responses((status = 200, body = Replayed), (status = 202, body = Replayed)))]
pub async fn replay(
    State(app): State<App>,
    key: Key<need::DeadlettersReplay>,
    _: Query<NoQuery>,
    body: JsonBody<Replay>,
) -> Result<Response, Problem> {
    let Replay { filter, dry_run, rate_per_second } = body.value;
    rules::range("/ratePerSecond", rate_per_second, 1, 1..=10_000)?;
    let filter = checked(&key, filter)?;
    if dry_run {
        let matched = app.ask(app.store.count_dead_letters(key.tenant(), &filter)).await?;
        return Ok(Json(Replayed { redrive_id: None, matched }).into_response());
    }
    let started = app.ask(app.store.start_redrive(key.tenant(), &filter, rate_per_second, app.now())).await?;
    app.wake.deliveries.nudge();
    let at = app.store.urls().path(&format!("/v1/redrives/{}", started.redrive_id));
    let body = Replayed { redrive_id: Some(started.redrive_id), matched: started.matched };
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, at)], Json(body)).into_response())
}

fn checked(key: &Key<need::DeadlettersReplay>, filter: ReplayFilter) -> Result<ReplayFilter, Problem> {
    if filter.ids.as_ref().is_some_and(|ids| ids.len() > 1_000) {
        return Err(Invalid::member("/filter/ids", "must have at most 1000 entries").into());
    }
    for (pointer, text, max) in [
        ("/filter/account", &filter.account, 255),
        ("/filter/host", &filter.host, 255),
        ("/filter/type", &filter.kind, 128),
        ("/filter/reason", &filter.reason, 64),
    ] {
        rules::optional_text(pointer, text.as_deref(), max)?;
    }
    // The store cannot narrow a redrive by queue, so such a key must not start one.
    if key.record.queues.is_some() {
        return Err(Problem::new(ProblemCode::Forbidden).detail("a key narrowed to queues cannot replay"));
    }
    if !key.in_accounts(filter.account.as_deref()) {
        return Err(Problem::new(ProblemCode::Forbidden)
            .detail("the key is narrowed to accounts: filter.account must name one of them"));
    }
    let host = filter.host.map(|host| host.to_ascii_lowercase());
    Ok(ReplayFilter { host, ..filter })
}

/// List replays, newest first.
#[utoipa::path(get, path = "/v1/redrives", tag = "dead letters", operation_id = "listRedrives",
    security(("apiKey" = ["deliveries:read"])),
    params(("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Page<Redrive>)))]
pub async fn redrives(
    State(app): State<App>,
    key: Key<need::DeliveriesRead>,
    Query(OnlyPage(asked)): Query<OnlyPage<id::Redrive>>,
    uri: Uri,
) -> Result<Response, Problem> {
    key.whole()?;
    let rows = app.ask(app.store.redrives(key.tenant(), page_of(&asked))).await?;
    Ok(page(paged(rows, asked.limit, |r| r.redrive_id, &uri, app.store.urls())))
}

/// Read how far a replay is.
#[utoipa::path(get, path = "/v1/redrives/{redriveId}", tag = "dead letters", operation_id = "getRedrive",
    security(("apiKey" = ["deliveries:read"])), params(("redriveId" = RedriveId, Path)),
    responses((status = 200, body = Redrive)))]
pub async fn get_redrive(
    State(app): State<App>,
    key: Key<need::DeliveriesRead>,
    PathId(id): PathId<id::Redrive>,
    _: Query<NoQuery>,
) -> Result<Json<Redrive>, Problem> {
    key.whole()?;
    app.ask(app.store.redrive(key.tenant(), id)).await.map(Json)
}

/// Stop a replay; what it has queued already is sent.
#[utoipa::path(delete, path = "/v1/redrives/{redriveId}", tag = "dead letters",
    operation_id = "cancelRedrive", security(("apiKey" = ["deadletters:replay"])),
    params(("redriveId" = RedriveId, Path)), responses((status = 200, body = Redrive)))]
pub async fn cancel_redrive(
    State(app): State<App>,
    key: Key<need::DeadlettersReplay>,
    PathId(id): PathId<id::Redrive>,
    _: Query<NoQuery>,
) -> Result<Json<Redrive>, Problem> {
    key.whole()?;
    app.ask(app.store.cancel_redrive(key.tenant(), id, app.now())).await.map(Json)
}
