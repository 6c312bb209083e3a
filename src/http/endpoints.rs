//! Standing endpoints.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, Uri, header};

use super::app::App;
use super::extract::{
    BareHead, FromQuery, JsonBody, Key, MaybeJson, NoBody, NoQuery, Params, PathId, Query, need, page_of,
    paged_to,
};
use super::jobs::page;
use super::problem::Problem;
use super::submit::REPLAYED;
use super::tenant::show;
use crate::store::{EndpointFilter, Found, NewEndpoint as Checked, PageOf};
use crate::types::api::{ChangeEndpoint, Endpoint as View, NewEndpoint, Page, RotateSecret, WebhookSecret};
use crate::types::endpoint::{Endpoint, EndpointState, HIDDEN, Scheme, check};
use crate::types::problem::ProblemCode;
use crate::types::submit as rules;
use crate::types::{EndpointId, id};

/// How endpoints are listed.
pub struct ListQuery {
    filter: EndpointFilter,
    page: PageOf<id::Endpoint>,
}

impl FromQuery for ListQuery {
    const NAMES: &'static [&'static str] = &["account", "state", "cursor", "limit"];

    fn from_params(params: &Params) -> Result<Self, Problem> {
        let filter = EndpointFilter {
            account: params.short("account", 255)?,
            state: params.word("state", EndpointState::from_word)?,
            only_accounts: None,
        };
        Ok(ListQuery { filter, page: params.page()? })
    }
}

/// A key narrowed to queues has no endpoints: they would tell it of jobs in the others.
fn of_all_queues<N>(key: &Key<N>) -> Result<(), Problem> {
    match key.record.queues {
        None => Ok(()),
        Some(_) => {
            Err(Problem::new(ProblemCode::Forbidden).detail("a key narrowed to queues has no endpoints"))
        }
    }
}

/// The endpoint, unless the key must not see it.
pub(super) async fn seen<N>(app: &App, key: &Key<N>, id: EndpointId) -> Result<Endpoint, Problem> {
    of_all_queues(key)?;
    let endpoint = app.ask(app.store.endpoint(key.tenant(), id)).await?;
    match key.in_accounts(endpoint.settings.account.as_deref()) {
        true => Ok(endpoint),
        false => Err(Problem::new(ProblemCode::NotFound)),
    }
}

/// Refuses an account that the key is not for.
pub(super) fn for_account<N>(key: &Key<N>, account: Option<&str>) -> Result<(), Problem> {
    match key.in_accounts(account) {
        true => Ok(()),
        false => Err(Problem::new(ProblemCode::Forbidden).detail("the key is narrowed to other accounts")),
    }
}

fn view(app: &App, endpoint: Endpoint) -> Result<View, Problem> {
    let headers = app.store.endpoint_headers(&endpoint)?;
    // They may be credentials.
    let hidden = headers.into_iter().map(|(name, _)| (name, HIDDEN.to_owned()));
    let settings = endpoint.settings;
    Ok(View {
        endpoint_id: endpoint.id,
        url: settings.url,
        account: settings.account,
        events: settings.patterns.iter().map(ToString::to_string).collect(),
        description: settings.description,
        headers: Some(hidden.collect()).filter(|all: &std::collections::BTreeMap<_, _>| !all.is_empty()),
        rate_limit_per_second: settings.limits.rate_per_second,
        max_in_flight: settings.limits.max_in_flight,
        timeout_seconds: settings.limits.timeout_seconds,
        retry: settings.retry,
        payload: settings.payload,
        format: settings.format,
        schemes: settings.schemes,
        ordered: settings.limits.ordered,
        state: endpoint.state,
        state_reason: endpoint.reason,
        state_since: endpoint.since,
        verified: endpoint.verified_at.is_some(),
        verified_at: endpoint.verified_at,
        failing_since: endpoint.failing_since,
        created_at: endpoint.created_at,
        updated_at: endpoint.updated_at,
        secret: None,
        public_keys: None,
    })
}

/// The endpoint with what verifies its `v1a` signatures.
async fn whole(app: &App, endpoint: Endpoint) -> Result<View, Problem> {
    let public_keys = if endpoint.settings.schemes.contains(&Scheme::V1a) {
        let live = app.ask(app.store.endpoint_secrets(endpoint.tenant, endpoint.id, app.now())).await?;
        Some(live.iter().filter_map(|(key, _)| Some(key.public()?.to_string())).collect())
    } else {
        None
    };
    Ok(View { public_keys, ..view(app, endpoint)? })
}

/// List standing endpoints, newest first, without their secrets.
#[utoipa::path(get, path = "/v1/endpoints", tag = "endpoints", operation_id = "listEndpoints",
    security(("apiKey" = ["endpoints:read"])),
    params(("account" = Option<String>, Query), ("state" = Option<EndpointState>, Query),
        ("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Page<View>)))]
pub async fn list(
    State(app): State<App>,
    key: Key<need::EndpointsRead>,
    Query(query): Query<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    of_all_queues(&key)?;
    let filter = EndpointFilter { only_accounts: key.record.accounts.clone(), ..query.filter };
    let found = app.ask(app.store.endpoints(key.tenant(), &filter, page_of(&query.page))).await?;
    let views = found.rows.into_iter().map(|one| view(&app, one)).collect::<Result<Vec<_>, _>>()?;
    let found = Found { rows: views, looked_to: found.looked_to };
    Ok(page(paged_to(found, query.page.limit, |e: &View| e.endpoint_id, &uri, app.store.urls())))
}

/// Create a standing endpoint; the answer shows its secret once.
///
/// Repeated with its `Idempotency-Key` it is answered with the endpoint as it stands, and with its secret unless that was
/// rotated since; 404 once it is deleted.
#[utoipa::path(post, path = "/v1/endpoints", tag = "endpoints", operation_id = "createEndpoint",
    security(("apiKey" = ["endpoints:write"])),
    params(("Idempotency-Key" = Option<String>, Header, max_length = 257)), request_body = NewEndpoint,
    responses((status = 201, body = View), (status = 403, description = "quota-exceeded"),
        (status = 404, description = "not-found"), (status = 409, description = "idempotency-in-flight")))]
pub async fn create(
    State(app): State<App>,
    key: Key<need::EndpointsWrite>,
    _: Query<NoQuery>,
    BareHead(head): BareHead,
    body: JsonBody<NewEndpoint>,
) -> Result<Response, Problem> {
    of_all_queues(&key)?;
    let idempotency = head.idempotency("POST /v1/endpoints", &body.raw);
    let settings = check(body.value, &app.policy)?;
    for_account(&key, settings.account.as_deref())?;
    let new = Checked { tenant: key.tenant(), settings, idempotency };
    let quota = app.options.endpoints_per_account;
    let (id, replayed) = app.ask(app.store.put_endpoint(new, quota, app.now())).await?;
    created(&app, &key, id, replayed).await
}

/// The answer to a creation, and to its repeat.
async fn created(
    app: &App,
    key: &Key<need::EndpointsWrite>,
    id: EndpointId,
    replayed: bool,
) -> Result<Response, Problem> {
    let endpoint = seen(app, key, id).await?;
    // Whoever may repeat a creation must not be shown what another has rotated since.
    let secret = app.ask(app.store.first_endpoint_secret(key.tenant(), id)).await?;
    let secret = secret.map(|secret| secret.reveal());
    let shown = View { secret, ..whole(app, endpoint).await? };
    let at = app.store.urls().path(&format!("/v1/endpoints/{id}"));
    let head = [(header::CACHE_CONTROL, "no-store".to_owned()), (header::LOCATION, at)];
    let mut response = (StatusCode::CREATED, head, Json(shown)).into_response();
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Read a standing endpoint without its secret.
#[utoipa::path(get, path = "/v1/endpoints/{endpointId}", tag = "endpoints", operation_id = "getEndpoint",
    security(("apiKey" = ["endpoints:read"])), params(("endpointId" = EndpointId, Path)),
    responses((status = 200, body = View)))]
pub async fn get_endpoint(
    State(app): State<App>,
    key: Key<need::EndpointsRead>,
    PathId(id): PathId<id::Endpoint>,
    _: Query<NoQuery>,
) -> Result<Json<View>, Problem> {
    whole(&app, seen(&app, &key, id).await?).await.map(Json)
}

/// Change a standing endpoint: what is given; `null` takes a member back to its default.
///
/// Pending deliveries use its new URL, headers, secrets and time-out.
#[utoipa::path(patch, path = "/v1/endpoints/{endpointId}", tag = "endpoints", operation_id = "changeEndpoint",
    security(("apiKey" = ["endpoints:write"])), params(("endpointId" = EndpointId, Path)),
    request_body = ChangeEndpoint,
    responses((status = 200, body = View), (status = 403, description = "quota-exceeded")))]
pub async fn change(
    State(app): State<App>,
    key: Key<need::EndpointsWrite>,
    PathId(id): PathId<id::Endpoint>,
    _: Query<NoQuery>,
    body: JsonBody<ChangeEndpoint>,
) -> Result<Json<View>, Problem> {
    seen(&app, &key, id).await?;
    if let Some(account) = &body.value.account {
        for_account(&key, account.as_deref())?;
    }
    let (quota, policy) = (app.options.endpoints_per_account, &app.policy);
    let edit = |settings: crate::types::endpoint::Settings| settings.changed(body.value, policy);
    let changed = app.ask(app.store.change_endpoint(key.tenant(), id, edit, quota, app.now())).await?;
    whole(&app, changed).await.map(Json)
}

/// Delete a standing endpoint; its deliveries that have not ended end `cancelled`.
#[utoipa::path(delete, path = "/v1/endpoints/{endpointId}", tag = "endpoints", operation_id = "deleteEndpoint",
    security(("apiKey" = ["endpoints:write"])), params(("endpointId" = EndpointId, Path)),
    responses((status = 204, description = "Deleted")))]
pub async fn delete(
    State(app): State<App>,
    key: Key<need::EndpointsWrite>,
    PathId(id): PathId<id::Endpoint>,
    _: Query<NoQuery>,
) -> Result<StatusCode, Problem> {
    seen(&app, &key, id).await?;
    app.ask(app.store.delete_endpoint(key.tenant(), id, app.now())).await?;
    app.wake.jobs.nudge();
    Ok(StatusCode::NO_CONTENT)
}

/// Make a new secret for an endpoint; the one before signs beside it for `overlapSeconds` more.
///
/// At most three sign: the fourth ends at once, and the answer has its `cutOffExpiresAt`.
#[utoipa::path(post, path = "/v1/endpoints/{endpointId}/rotate-secret", tag = "endpoints",
    operation_id = "rotateEndpointSecret", security(("apiKey" = ["endpoints:write"])),
    params(("endpointId" = EndpointId, Path)), request_body = Option<RotateSecret>,
    responses((status = 200, body = WebhookSecret)))]
pub async fn rotate(
    State(app): State<App>,
    key: Key<need::EndpointsWrite>,
    PathId(id): PathId<id::Endpoint>,
    _: Query<NoQuery>,
    MaybeJson(body): MaybeJson<RotateSecret>,
) -> Result<Response, Problem> {
    seen(&app, &key, id).await?;
    let seconds = rules::range("/overlapSeconds", body.overlap_seconds, 86_400, 0..=604_800)?;
    let overlap = Duration::from_secs(seconds.into());
    let rotated = app.ask(app.store.rotate_endpoint_secret(key.tenant(), id, overlap, app.now())).await?;
    show(&rotated.live, rotated.cut_off)
}

/// Pause an endpoint: its deliveries are made and parked, and cost no attempt.
#[utoipa::path(post, path = "/v1/endpoints/{endpointId}/pause", tag = "endpoints",
    operation_id = "pauseEndpoint", security(("apiKey" = ["endpoints:write"])),
    params(("endpointId" = EndpointId, Path)), responses((status = 200, body = View)))]
pub async fn pause(
    State(app): State<App>,
    key: Key<need::EndpointsWrite>,
    PathId(id): PathId<id::Endpoint>,
    _: Query<NoQuery>,
    _: NoBody,
) -> Result<Json<View>, Problem> {
    set_paused(&app, &key, id, true).await
}

/// Resume a paused or disabled endpoint: what was parked is let go, slowly at first.
#[utoipa::path(post, path = "/v1/endpoints/{endpointId}/resume", tag = "endpoints",
    operation_id = "resumeEndpoint", security(("apiKey" = ["endpoints:write"])),
    params(("endpointId" = EndpointId, Path)), responses((status = 200, body = View)))]
pub async fn resume(
    State(app): State<App>,
    key: Key<need::EndpointsWrite>,
    PathId(id): PathId<id::Endpoint>,
    _: Query<NoQuery>,
    _: NoBody,
) -> Result<Json<View>, Problem> {
    set_paused(&app, &key, id, false).await
}

async fn set_paused(
    app: &App,
    key: &Key<need::EndpointsWrite>,
    id: EndpointId,
    paused: bool,
) -> Result<Json<View>, Problem> {
    seen(app, key, id).await?;
    let verb = app.store.set_endpoint_paused(key.tenant(), id, paused, app.now());
    let endpoint = app.ask(verb).await?;
    app.wake.deliveries.nudge();
    whole(app, endpoint).await.map(Json)
}
