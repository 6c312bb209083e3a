//! The rows of deliveries, one for each endpoint or ad-hoc origin.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::Uri;

use super::app::App;
use super::extract::{
    FromQuery, Key, MaybeJson, NoBody, NoQuery, Params, PathId, Query, need, paged_by, paged_to,
};
use super::jobs::page;
use super::problem::Problem;
use super::queues::coming;
use crate::store::{LaneFilter, LaneOrder};
use crate::types::api::{Lane, LaneState, Page, PauseLane};
use crate::types::{LaneId, Millis, id};

/// How lanes are listed.
pub struct ListQuery {
    filter: LaneFilter,
    limit: u32,
}

impl FromQuery for ListQuery {
    const NAMES: &'static [&'static str] = &["state", "sort", "cursor", "limit"];

    fn from_params(params: &Params) -> Result<Self, Problem> {
        let state = params.word("state", LaneState::from_word)?;
        let sort = params.word("sort", |word| (word == "oldestDue").then_some(()))?;
        let order = match sort {
            None => LaneOrder::Youngest(params.cursor()?),
            Some(()) => LaneOrder::OldestDue(params.cursor()?),
        };
        Ok(ListQuery { filter: LaneFilter { state, order }, limit: params.limit()? })
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
    let ListQuery { filter, limit } = query;
    let found = app.ask(app.store.lanes(key.tenant(), &filter, limit + 1, app.now())).await?;
    let urls = app.store.urls();
    Ok(page(match filter.order {
        LaneOrder::Youngest(_) => paged_to(found, limit, |lane: &Lane| lane.lane_id, &uri, urls),
        LaneOrder::OldestDue(_) => {
            paged_by(found.rows, limit, |lane: &Lane| lane.place().to_string(), &uri, urls)
        }
    }))
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
