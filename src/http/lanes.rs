//! The rows of deliveries, one for each endpoint or ad-hoc origin.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::Uri;

use super::app::App;
use super::extract::{
    FromQuery, Key, MaybeJson, NoBody, NoQuery, Params, PathId, Query, need, page_of, paged,
};
use super::jobs::page;
use super::problem::Problem;
use super::queues::coming;
use crate::store::{LaneFilter, PageOf};
use crate::types::api::{Lane, LaneState, Page, PauseLane};
use crate::types::{LaneId, Millis, id};

/// How lanes are listed.
pub struct ListQuery {
    filter: LaneFilter,
    page: PageOf<id::Lane>,
}

impl FromQuery for ListQuery {
    const NAMES: &'static [&'static str] = &["state", "sort", "cursor", "limit"];

    fn from_params(params: &Params) -> Result<Self, Problem> {
        let state = params.word("state", LaneState::from_word)?;
        let sort = params.word("sort", |word| (word == "oldestDue").then_some(()))?;
        let filter = LaneFilter { state, oldest_first: sort.is_some() };
        Ok(ListQuery { filter, page: params.page()? })
    }
}

/// List lanes, or with `sort=oldestDue` those first whose oldest delivery waits longest.
#[utoipa::path(get, path = "/v1/lanes", tag = "deliveries", operation_id = "listLanes",
    security(("apiKey" = ["deliveries:read"])),
    params(("state" = Option<LaneState>, Query), ("sort" = Option<String>, Query, example = "oldestDue"),
        ("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Page<Lane>)))]
pub async fn list(
    State(app): State<App>,
    key: Key<need::DeliveriesRead>,
    Query(query): Query<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    key.whole()?;
    let verb = app.store.lanes(key.tenant(), &query.filter, page_of(&query.page), app.now());
    let rows = app.ask(verb).await?;
    Ok(page(paged(rows, query.page.limit, |lane| lane.lane_id, &uri, app.store.urls())))
}

/// Pause a lane: nothing more is sent, and its deliveries are held, which costs no attempt.
///
/// Requests under way end as they do. The node that has the lane goes by it within a second.
#[utoipa::path(post, path = "/v1/lanes/{laneId}/pause", tag = "deliveries", operation_id = "pauseLane",
    security(("apiKey" = ["endpoints:write"])), params(("laneId" = LaneId, Path)),
    request_body = Option<PauseLane>, responses((status = 200, body = Lane)))]
pub async fn pause(
    State(app): State<App>,
    key: Key<need::EndpointsWrite>,
    PathId(id): PathId<id::Lane>,
    _: Query<NoQuery>,
    MaybeJson(body): MaybeJson<PauseLane>,
) -> Result<Json<Lane>, Problem> {
    let until = body.until.map(|until| coming(until, app.now())).transpose()?.unwrap_or(Millis::MAX);
    set(&app, &key, id, Some(until)).await
}

/// Let a held lane send again: one request at a time at first, more with every good answer.
///
/// Ends a pause, also one that the receiver asked for, and closes an open breaker.
#[utoipa::path(post, path = "/v1/lanes/{laneId}/resume", tag = "deliveries", operation_id = "resumeLane",
    security(("apiKey" = ["endpoints:write"])), params(("laneId" = LaneId, Path)),
    responses((status = 200, body = Lane)))]
pub async fn resume(
    State(app): State<App>,
    key: Key<need::EndpointsWrite>,
    PathId(id): PathId<id::Lane>,
    _: Query<NoQuery>,
    _: NoBody,
) -> Result<Json<Lane>, Problem> {
    set(&app, &key, id, None).await
}

async fn set(
    app: &App,
    key: &Key<need::EndpointsWrite>,
    id: LaneId,
    until: Option<Millis>,
) -> Result<Json<Lane>, Problem> {
    key.whole()?;
    let lane = app.ask(app.store.pause_lane(key.tenant(), id, until, app.now())).await?;
    app.wake.deliveries.nudge();
    Ok(Json(lane))
}
