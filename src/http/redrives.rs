//! Replays of dead letters and deliveries.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri, header};

use super::app::App;
use super::deliveries::OnlyPage;
use super::extract::{JsonBody, Key, NoQuery, PathId, Query, need, page_of, paged};
use super::jobs::page;
use super::problem::Problem;
use crate::store::ReplayOf;
use crate::types::api::{Page, Redrive, Replay, ReplayFilter, Replayed};
use crate::types::delivery::DeliveryState;
use crate::types::problem::{Invalid, ProblemCode};
use crate::types::submit as rules;
use crate::types::{RedriveId, id};

/// Send dead letters again: all that the filter matches, durably, or only count them.
#[utoipa::path(post, path = "/v1/dead-letters/replay", tag = "dead letters",
    operation_id = "replayDeadLetters", security(("apiKey" = ["deadletters:replay"])),
    request_body = Replay,
    responses((status = 200, body = Replayed), (status = 202, body = Replayed),
        (status = 429, description = "rate-limited")))]
pub async fn replay(
    State(app): State<App>,
    key: Key<need::DeadlettersReplay>,
    _: Query<NoQuery>,
    body: JsonBody<Replay>,
) -> Result<Response, Problem> {
    if body.value.filter.state.is_some() {
        return Err(Invalid::member("/filter/state", "belongs to POST /v1/deliveries/replay").into());
    }
    start(&app, &key, ReplayOf::Letters, body.value).await
}

/// Send deliveries again that have ended: dead ones, or with `filter.state` those delivered or cancelled.
#[utoipa::path(post, path = "/v1/deliveries/replay", tag = "deliveries",
    operation_id = "replayDeliveries", security(("apiKey" = ["deadletters:replay"])),
    request_body = Replay,
    responses((status = 200, body = Replayed), (status = 202, body = Replayed),
        (status = 429, description = "rate-limited")))]
pub async fn replay_deliveries(
    State(app): State<App>,
    key: Key<need::DeadlettersReplay>,
    _: Query<NoQuery>,
    body: JsonBody<Replay>,
) -> Result<Response, Problem> {
    match body.value.filter.state {
        None | Some(DeliveryState::Delivered | DeliveryState::Dead | DeliveryState::Cancelled) => {
            start(&app, &key, ReplayOf::Deliveries, body.value).await
        }
        Some(DeliveryState::Pending | DeliveryState::InFlight | DeliveryState::Held) => {
            Err(Invalid::member("/filter/state", "must be delivered, dead or cancelled").into())
        }
    }
}

async fn start(
    app: &App,
    key: &Key<need::DeadlettersReplay>,
    of: ReplayOf,
    replay: Replay,
) -> Result<Response, Problem> {
    let Replay { filter, dry_run, rate_per_second } = replay;
    rules::range("/ratePerSecond", rate_per_second, 1, 1..=10_000)?;
    let filter = checked(key, filter)?;
    if dry_run {
        let matched = app.ask(app.store.count_matching(key.tenant(), of, &filter)).await?;
        let (matched, at_least) = (matched.count, matched.at_least);
        return Ok(Json(Replayed { redrive_id: None, matched, at_least }).into_response());
    }
    let verb = app.store.start_redrive(key.tenant(), (of, &filter), rate_per_second, app.now());
    let started = app.ask(verb).await?;
    app.wake.deliveries.nudge();
    let at = app.store.urls().path(&format!("/v1/redrives/{}", started.redrive_id));
    let (matched, at_least) = (started.matched, started.at_least);
    let body = Replayed { redrive_id: Some(started.redrive_id), matched, at_least };
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
    without_queues(key)?;
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
    without_queues(&key)?;
    let accounts = key.record.accounts.as_deref();
    let rows = app.ask(app.store.redrives(key.tenant(), accounts, page_of(&asked))).await?;
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
    seen(&app, &key, id).await.map(Json)
}

/// The redrive, unless the key must not see it.
async fn seen<N>(app: &App, key: &Key<N>, id: RedriveId) -> Result<Redrive, Problem> {
    without_queues(key)?;
    let redrive = app.ask(app.store.redrive(key.tenant(), id)).await?;
    let account = redrive.filter.as_ref().and_then(|filter| filter.account.as_deref());
    if key.in_accounts(account) { Ok(redrive) } else { Err(Problem::new(ProblemCode::NotFound)) }
}

/// The store cannot narrow a redrive by queue, so such a key has none.
fn without_queues<N>(key: &Key<N>) -> Result<(), Problem> {
    if key.record.queues.is_some() {
        return Err(Problem::new(ProblemCode::Forbidden).detail("a key narrowed to queues cannot replay"));
    }
    Ok(())
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
    seen(&app, &key, id).await?;
    app.ask(app.store.cancel_redrive(key.tenant(), id, app.now())).await.map(Json)
}
