//! Tenants and their keys, for who runs the deployment.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri, header};

use super::app::App;
use super::deliveries::OnlyPage;
use super::extract::{JsonBody, Key, NoQuery, PathId, PathIds, Query, need::Operator, page_of, paged};
use super::jobs::page;
use super::keys;
use super::problem::Problem;
use crate::types::api::{ApiKey, NewApiKey, NewTenant, Page, Tenant};
use crate::types::key::check_wish;
use crate::types::submit as rules;
use crate::types::{KeyId, TenantId, id};

/// List the deployment's tenants, newest first.
#[utoipa::path(get, path = "/v1/tenants", tag = "tenants", operation_id = "listTenants",
    security(("apiKey" = ["operator"])),
    params(("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Page<Tenant>)))]
pub async fn list(
    State(app): State<App>,
    key: Key<Operator>,
    Query(OnlyPage(asked)): Query<OnlyPage<id::Tenant>>,
    uri: Uri,
) -> Result<Response, Problem> {
    key.whole()?;
    let rows = app.ask(app.store.tenants(page_of(&asked))).await?;
    Ok(page(paged(rows, asked.limit, |tenant| tenant.tenant_id, &uri, app.store.urls())))
}

/// Make a tenant; 200 with the one that is there if the name is taken.
#[utoipa::path(post, path = "/v1/tenants", tag = "tenants", operation_id = "createTenant",
    security(("apiKey" = ["operator"])), request_body = NewTenant,
    responses((status = 201, body = Tenant), (status = 200, body = Tenant)))]
pub async fn create(
    State(app): State<App>,
    key: Key<Operator>,
    _: Query<NoQuery>,
    body: JsonBody<NewTenant>,
) -> Result<Response, Problem> {
    key.whole()?;
    rules::name("/name", &body.value.name, 128)?;
    let (tenant, made) = app.ask(app.store.put_tenant(&body.value.name, app.now())).await?;
    if !made {
        return Ok(Json(tenant).into_response());
    }
    let at = app.store.urls().path(&format!("/v1/tenants/{}", tenant.tenant_id));
    Ok((StatusCode::CREATED, [(header::LOCATION, at)], Json(tenant)).into_response())
}

/// Read a tenant.
#[utoipa::path(get, path = "/v1/tenants/{tenantId}", tag = "tenants", operation_id = "getTenant",
    security(("apiKey" = ["operator"])), params(("tenantId" = TenantId, Path)),
    responses((status = 200, body = Tenant)))]
pub async fn get_tenant(
    State(app): State<App>,
    key: Key<Operator>,
    PathId(id): PathId<id::Tenant>,
    _: Query<NoQuery>,
) -> Result<Json<Tenant>, Problem> {
    key.whole()?;
    app.ask(app.store.get_tenant(id)).await.map(Json)
}

/// List the keys of a tenant without their secrets, newest first.
#[utoipa::path(get, path = "/v1/tenants/{tenantId}/keys", tag = "tenants", operation_id = "listTenantKeys",
    security(("apiKey" = ["operator"])),
    params(("tenantId" = TenantId, Path), ("cursor" = Option<String>, Query),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200)),
    responses((status = 200, body = Page<ApiKey>)))]
pub async fn list_keys(
    State(app): State<App>,
    key: Key<Operator>,
    PathId(id): PathId<id::Tenant>,
    Query(OnlyPage(asked)): Query<OnlyPage<id::Key>>,
    uri: Uri,
) -> Result<Response, Problem> {
    key.whole()?;
    app.ask(app.store.get_tenant(id)).await?;
    let rows = app.ask(app.store.keys(id, page_of(&asked))).await?;
    let views = rows.iter().map(keys::view).collect();
    Ok(page(paged(views, asked.limit, |key: &ApiKey| key.key_id, &uri, app.store.urls())))
}

/// Create a key of a tenant with any scopes; the answer shows its secret once.
#[utoipa::path(post, path = "/v1/tenants/{tenantId}/keys", tag = "tenants", operation_id = "createTenantKey",
    security(("apiKey" = ["operator"])), params(("tenantId" = TenantId, Path)), request_body = NewApiKey,
    responses((status = 201, body = ApiKey)))]
pub async fn create_key(
    State(app): State<App>,
    key: Key<Operator>,
    PathId(id): PathId<id::Tenant>,
    _: Query<NoQuery>,
    body: JsonBody<NewApiKey>,
) -> Result<Response, Problem> {
    key.whole()?;
    let scopes = check_wish(&body.value, app.now())?;
    keys::within_time(&key.record, &body.value)?;
    app.ask(app.store.get_tenant(id)).await?;
    keys::make(&app, id, body.value, scopes, &format!("/v1/tenants/{id}/keys")).await
}

/// Read a key of a tenant without its secret.
#[utoipa::path(get, path = "/v1/tenants/{tenantId}/keys/{keyId}", tag = "tenants",
    operation_id = "getTenantKey", security(("apiKey" = ["operator"])),
    params(("tenantId" = TenantId, Path), ("keyId" = KeyId, Path)),
    responses((status = 200, body = ApiKey)))]
pub async fn get_key(
    State(app): State<App>,
    key: Key<Operator>,
    PathIds(tenant, id): PathIds<id::Tenant, id::Key>,
    _: Query<NoQuery>,
) -> Result<Json<ApiKey>, Problem> {
    key.whole()?;
    app.ask(app.store.get_key(tenant, id)).await.map(|record| Json(keys::view(&record)))
}

/// Revoke a key of a tenant; every node refuses it within a second.
#[utoipa::path(delete, path = "/v1/tenants/{tenantId}/keys/{keyId}", tag = "tenants",
    operation_id = "revokeTenantKey", security(("apiKey" = ["operator"])),
    params(("tenantId" = TenantId, Path), ("keyId" = KeyId, Path)),
    responses((status = 204, description = "Revoked")))]
pub async fn revoke_key(
    State(app): State<App>,
    key: Key<Operator>,
    PathIds(tenant, id): PathIds<id::Tenant, id::Key>,
    _: Query<NoQuery>,
) -> Result<StatusCode, Problem> {
    key.whole()?;
    keys::end(&app, tenant, id).await
}
