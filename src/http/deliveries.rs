//! Deliveries: what was sent where, and sending or taking back by hand.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri};

use super::app::App;
use super::extract::{FromQuery, Key, NoBody, NoQuery, Params, PathId, Query, need, page_of, paged_to};
use super::jobs::page;
use super::problem::Problem;
use crate::store::{DeliveryFilter, Error, Narrow, PageOf};
use crate::types::api::{Delivery, Explanation, Page};
use crate::types::delivery::DeliveryState;
use crate::types::problem::ProblemCode;
use crate::types::{DeliveryId, JobId, explain, id};

/// How deliveries are listed.
pub struct ListQuery {
    filter: DeliveryFilter,
    page: PageOf<id::Delivery>,
}

impl FromQuery for ListQuery {
    const NAMES: &'static [&'static str] =
        &["jobId", "endpointId", "account", "state", "host", "cursor", "limit"];

    fn from_params(params: &Params) -> Result<Self, Problem> {
        let filter = DeliveryFilter {
            job_id: params.parse("jobId")?,
            endpoint_id: params.parse("endpointId")?,
            account: params.short("account", 255)?,
            host: params.short("host", 255)?.map(|host| host.to_ascii_lowercase()),
            state: params.word("state", |word| word.parse::<DeliveryState>().ok())?,
            only: Narrow::default(),
        };
        Ok(ListQuery { filter, page: params.page()? })
    }
}

/// List deliveries, newest first.
#[utoipa::path(get, path = "/v1/deliveries", tag = "deliveries", operation_id = "listDeliveries",
    security(("apiKey" = ["deliveries:read"])),
    params(("jobId" = Option<JobId>, Query), ("endpointId" = Option<crate::types::EndpointId>, Query),
        ("account" = Option<String>, Query), ("state" = Option<DeliveryState>, Query),
        ("host" = Option<String>, Query), ("cursor" = Option<String>, Query),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Page<Delivery>)))]
pub async fn list(
    State(app): State<App>,
    key: Key<need::DeliveriesRead>,
    Query(query): Query<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    listed(&app, &key, query, &uri).await
}

/// List the deliveries of one job.
#[utoipa::path(get, path = "/v1/jobs/{jobId}/deliveries", tag = "deliveries",
    operation_id = "listJobDeliveries", security(("apiKey" = ["deliveries:read"])),
    params(("jobId" = JobId, Path), ("cursor" = Option<String>, Query),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Page<Delivery>), (status = 429, description = "rate-limited")))]
pub async fn of_job(
    State(app): State<App>,
    key: Key<need::DeliveriesRead>,
    PathId(id): PathId<id::Job>,
    Query(OnlyPage(page)): Query<OnlyPage<id::Delivery>>,
    uri: Uri,
) -> Result<Response, Problem> {
    key.pace(&app, id)?;
    // An unknown job has no deliveries, but it must not look like one that is there.
    app.ask_job(app.store.job(key.tenant(), id, app.now())).await?;
    key.may_touch(&app, id).await?;
    let filter = DeliveryFilter { job_id: Some(id), ..DeliveryFilter::default() };
    listed(&app, &key, ListQuery { filter, page }, &uri).await
}

async fn listed(
    app: &App,
    key: &Key<need::DeliveriesRead>,
    query: ListQuery,
    uri: &Uri,
) -> Result<Response, Problem> {
    let filter = DeliveryFilter { only: key.record.narrow(), ..query.filter };
    let verb = app.store.deliveries(key.tenant(), &filter, page_of(&query.page), app.now());
    let found = app.ask(verb).await?;
    Ok(page(paged_to(found, query.page.limit, |d| d.delivery_id, uri, app.store.urls())))
}

/// Only `cursor` and `limit`.
pub struct OnlyPage<K>(pub PageOf<K>);

impl<K: id::Kind> FromQuery for OnlyPage<K> {
    const NAMES: &'static [&'static str] = &["cursor", "limit"];
    fn from_params(params: &Params) -> Result<Self, Problem> {
        params.page().map(OnlyPage)
    }
}

/// Read a delivery with all its attempts.
#[utoipa::path(get, path = "/v1/deliveries/{deliveryId}", tag = "deliveries", operation_id = "getDelivery",
    security(("apiKey" = ["deliveries:read"])), params(("deliveryId" = DeliveryId, Path)),
    responses((status = 200, body = Delivery)))]
pub async fn get_delivery(
    State(app): State<App>,
    key: Key<need::DeliveriesRead>,
    PathId(id): PathId<id::Delivery>,
    _: Query<NoQuery>,
) -> Result<Json<Delivery>, Problem> {
    seen(&app, &key, id).await.map(Json)
}

/// The delivery, unless the key must not see it.
async fn seen<N>(app: &App, key: &Key<N>, id: DeliveryId) -> Result<Delivery, Problem> {
    let delivery = app.ask(app.store.delivery(key.tenant(), id, app.now())).await?;
    key.may_see(app, delivery.account.as_deref(), delivery.job_id).await?;
    Ok(delivery)
}

/// Explain a delivery: why it stands where it stands, what happens next and when, what is ahead of it.
#[utoipa::path(get, path = "/v1/deliveries/{deliveryId}/explain", tag = "deliveries",
    operation_id = "explainDelivery", security(("apiKey" = ["deliveries:read"])),
    params(("deliveryId" = DeliveryId, Path)), responses((status = 200, body = Explanation)))]
pub async fn explain(
    State(app): State<App>,
    key: Key<need::DeliveriesRead>,
    PathId(id): PathId<id::Delivery>,
    _: Query<NoQuery>,
) -> Result<Json<Explanation>, Problem> {
    seen(&app, &key, id).await?;
    let facts = app.ask(app.store.delivery_facts(key.tenant(), id, app.now())).await?;
    let told = explain::explain(facts);
    // The lane shows what others have in it.
    Ok(Json(if key.whole().is_ok() { told } else { Explanation { lane: None, ..told } }))
}

/// Send again now: a new round of attempts with the same `webhook-id`.
#[utoipa::path(post, path = "/v1/deliveries/{deliveryId}/retry", tag = "deliveries",
    operation_id = "retryDelivery", security(("apiKey" = ["deadletters:replay"])),
    params(("deliveryId" = DeliveryId, Path)),
    responses((status = 202, body = Delivery), (status = 409, description = "job-not-retryable")))]
pub async fn retry(
    State(app): State<App>,
    key: Key<need::DeadlettersReplay>,
    PathId(id): PathId<id::Delivery>,
    _: Query<NoQuery>,
    _: NoBody,
) -> Result<Response, Problem> {
    seen(&app, &key, id).await?;
    let delivery = app.ask(ended(app.store.retry_delivery(key.tenant(), id, app.now()))).await?;
    app.wake.deliveries.nudge();
    Ok((StatusCode::ACCEPTED, Json(delivery)).into_response())
}

/// Take a delivery back that has not ended.
#[utoipa::path(post, path = "/v1/deliveries/{deliveryId}/cancel", tag = "deliveries",
    operation_id = "cancelDelivery", security(("apiKey" = ["deadletters:replay"])),
    params(("deliveryId" = DeliveryId, Path)),
    responses((status = 200, body = Delivery), (status = 409, description = "job-already-finished")))]
pub async fn cancel(
    State(app): State<App>,
    key: Key<need::DeadlettersReplay>,
    PathId(id): PathId<id::Delivery>,
    _: Query<NoQuery>,
    _: NoBody,
) -> Result<Json<Delivery>, Problem> {
    seen(&app, &key, id).await?;
    let delivery = app.ask(ended(app.store.cancel_delivery(key.tenant(), id, app.now()))).await?;
    app.wake.deliveries.nudge();
    app.wake.jobs.nudge();
    Ok(Json(delivery))
}

/// The contract has one code for "too late" and one for "not again"; the detail says that it is the delivery's fault.
async fn ended<T>(verb: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let done = verb.await;
    let (code, detail) = match done {
        Err(Error::AlreadyFinished) => (ProblemCode::JobAlreadyFinished, "the delivery has already ended"),
        Err(Error::NotRetryable) => {
            (ProblemCode::JobNotRetryable, "the endpoint that the delivery goes to is deleted")
        }
        done => return done,
    };
    Err(Error::Invalid(crate::types::problem::Invalid {
        code,
        detail: detail.to_owned(),
        errors: Vec::new(),
    }))
}
