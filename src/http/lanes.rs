//! The rows of deliveries, one for each endpoint or ad-hoc origin.

use axum::extract::State;
use axum::response::Response;
use http::Uri;

use super::app::App;
use super::extract::{FromQuery, Key, Params, Query, need, page_of, paged};
use super::jobs::page;
use super::problem::Problem;
use crate::store::PageOf;
use crate::types::api::{Lane, Page};
use crate::types::id;

/// How lanes are listed.
pub struct ListQuery {
    state: Option<String>,
    oldest_first: bool,
    page: PageOf<id::Lane>,
}

impl FromQuery for ListQuery {
    const NAMES: &'static [&'static str] = &["state", "sort", "cursor", "limit"];

    fn from_params(params: &Params) -> Result<Self, Problem> {
        let known = |word: &str| ["open", "paused", "broken"].contains(&word).then(|| word.to_owned());
        let sort = params.word("sort", |word| (word == "oldestDue").then_some(()))?;
        Ok(ListQuery {
            state: params.word("state", known)?,
            oldest_first: sort.is_some(),
            page: params.page()?,
        })
    }
}

/// List lanes; `state` and `sort=oldestDue` apply to the page.
#[utoipa::path(get, path = "/v1/lanes", tag = "deliveries", operation_id = "listLanes",
    security(("apiKey" = ["deliveries:read"])),
    params(("state" = Option<String>, Query), ("sort" = Option<String>, Query, example = "oldestDue"),
        ("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Page<Lane>)))]
pub async fn list(
    State(app): State<App>,
    key: Key<need::DeliveriesRead>,
    Query(query): Query<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    let rows = app.ask(app.store.lanes(key.tenant(), page_of(&query.page), app.now())).await?;
    let (link, mut found) = paged(rows, query.page.limit, |lane| lane.lane_id, &uri, app.store.urls());
    found.items.retain(|lane| query.state.as_ref().is_none_or(|state| *state == lane.state));
    if query.oldest_first {
        found.items.sort_by_key(|lane| (lane.oldest_due.is_none(), lane.oldest_due));
    }
    Ok(page((link, found)))
}
