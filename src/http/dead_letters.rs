//! Dead letters: look, discard, and see which belong together.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::{StatusCode, Uri};

use super::app::App;
use super::extract::{FromQuery, Key, NoQuery, Params, PathId, Query, need, page_of, paged_to};
use super::jobs::page;
use super::problem::Problem;
use crate::store::{OutageFilter, PageOf};
use crate::types::api::{DeadLetter, Outage, Page, ReplayFilter};
use crate::types::outage::outages;
use crate::types::{DeliveryId, EndpointId, JobId, id};

/// How dead letters are listed.
pub struct ListQuery {
    filter: ReplayFilter,
    page: PageOf<id::Delivery>,
}

impl FromQuery for ListQuery {
    const NAMES: &'static [&'static str] = &[
        "jobId",
        "endpointId",
        "adHoc",
        "account",
        "host",
        "type",
        "reason",
        "since",
        "until",
        "cursor",
        "limit",
    ];

    fn from_params(params: &Params) -> Result<Self, Problem> {
        let filter = ReplayFilter {
            ids: None,
            job_id: params.parse("jobId")?,
            endpoint_id: params.parse("endpointId")?,
            ad_hoc: params.parse("adHoc")?,
            account: params.short("account", 255)?,
            host: params.short("host", 255)?.map(|host| host.to_ascii_lowercase()),
            kind: params.short("type", 128)?,
            reason: params.short("reason", 64)?,
            state: None,
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
        ("adHoc" = Option<bool>, Query), ("account" = Option<String>, Query), ("host" = Option<String>, Query),
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
    let found = app.ask(verb).await?;
    Ok(page(paged_to(found, query.page.limit, |d| d.delivery_id, &uri, app.store.urls())))
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

/// Which outages are listed.
pub struct OutageQuery {
    filter: OutageFilter,
    limit: u32,
}

impl FromQuery for OutageQuery {
    const NAMES: &'static [&'static str] = &["endpointId", "host", "since", "until", "limit"];

    fn from_params(params: &Params) -> Result<Self, Problem> {
        let filter = OutageFilter {
            endpoint_id: params.parse("endpointId")?,
            host: params.short("host", 255)?.map(|host| host.to_ascii_lowercase()),
            since: params.time("since")?,
            until: params.time("until")?,
        };
        Ok(OutageQuery { filter, limit: params.limit()? })
    }
}

/// List outages: dead letters of one receiver that died within half an hour of each other, each with the
/// filter that replays it. The one that ended last comes first.
#[utoipa::path(get, path = "/v1/dead-letters/outages", tag = "dead letters", operation_id = "listOutages",
    security(("apiKey" = ["deliveries:read"])),
    params(("endpointId" = Option<EndpointId>, Query), ("host" = Option<String>, Query),
        ("since" = Option<String>, Query, format = DateTime),
        ("until" = Option<String>, Query, format = DateTime),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Page<Outage>)))]
pub async fn list_outages(
    State(app): State<App>,
    key: Key<need::DeliveriesRead>,
    Query(query): Query<OutageQuery>,
) -> Result<Json<Page<Outage>>, Problem> {
    let only = key.record.narrow();
    let spans = app.ask(app.store.letter_spans(key.tenant(), &query.filter, &only)).await?;
    let items = outages(spans).into_iter().take(query.limit as usize).collect();
    Ok(Json(Page { items, next_cursor: None }))
}
