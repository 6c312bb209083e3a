//! The rows of deliveries, one for each endpoint or ad-hoc origin.

use axum::extract::State;
use axum::response::Response;
use http::Uri;

use super::app::App;
use super::extract::{FromQuery, Key, Params, Query, need, page_of, paged};
use super::jobs::page;
use super::problem::Problem;
use crate::store::{LaneFilter, PageOf};
use crate::types::api::{Lane, LaneState, Page};
use crate::types::id;

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
