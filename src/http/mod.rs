//! The HTTP floor: every route on one page, and what surrounds them.
//!
//! A handler is extract, one store verb, view. The OpenAPI document is made from the handlers, so what is
//! served and what is described cannot drift apart.

mod app;
mod dead_letters;
mod deliveries;
mod extract;
mod jobs;
mod json;
mod keys;
mod lanes;
mod layers;
mod leases;
mod openapi;
mod pace;
mod problem;
mod results;
pub mod server;
mod submit;
mod system;
mod tenant;
mod tenants;
#[cfg(test)]
mod tests;
mod unread;

use std::sync::Arc;

use axum::Router;
use axum::extract::Extension;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

pub use app::{App, Mode, Options, Parts, Route};
pub use problem::Problem;
pub use server::serve;

/// What one job's access token reads: open to every origin, preflight included.
fn open(routes: UtoipaMethodRouter<App>) -> UtoipaMethodRouter<App> {
    routes.map(|methods| methods.options(layers::preflight).route_layer(from_fn(layers::cors)))
}

/// Every route of the contract.
fn described() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::skeleton())
        .routes(routes!(submit::submit, jobs::list))
        .routes(routes!(submit::batch))
        .routes(routes!(submit::operation))
        .routes(open(routes!(jobs::get_job)))
        .routes(routes!(jobs::delete_job))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(open(routes!(jobs::events)))
        .routes(open(routes!(results::get_result)))
        .routes(open(routes!(results::get_file)))
        .routes(routes!(deliveries::of_job))
        .routes(routes!(leases::claim))
        .routes(routes!(leases::heartbeat))
        .routes(routes!(leases::complete))
        .routes(routes!(leases::fail))
        .routes(routes!(leases::release))
        .routes(routes!(leases::ack))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::get_delivery))
        .routes(routes!(deliveries::retry))
        .routes(routes!(deliveries::cancel))
        .routes(routes!(lanes::list))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::get_letter, dead_letters::discard))
        .routes(routes!(dead_letters::replay))
        .routes(routes!(dead_letters::redrives))
        .routes(routes!(dead_letters::get_redrive, dead_letters::cancel_redrive))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::get_key, keys::revoke))
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::get_tenant))
        .routes(routes!(tenants::list_keys, tenants::create_key))
        .routes(routes!(tenants::get_key, tenants::revoke_key))
        .routes(routes!(tenant::get_secret))
        .routes(routes!(tenant::rotate))
        .routes(routes!(system::livez))
        .routes(routes!(system::readyz))
        .routes(routes!(system::healthz))
        .routes(routes!(system::show_metrics))
        .routes(routes!(system::openapi_json))
        .routes(routes!(system::docs))
}

/// The seed's paths and the operator's own, which lead to the same handlers.
fn aliases(mut router: Router<App>, routes: &[Route]) -> Router<App> {
    let reads = || get(jobs::get_job).options(layers::preflight).route_layer(from_fn(layers::cors));
    router = router
        .route(submit::SEED_PATH, post(submit::submit).get(jobs::list))
        .route(submit::SEED_STATUS_PATH, reads().delete(jobs::delete_job))
        .route("/v1/tenants/self/webhook-secret/rotate-secret", post(tenant::rotate));
    let mut polled = std::collections::BTreeSet::from([submit::STATUS_PATH, submit::SEED_STATUS_PATH]);
    for route in routes {
        router = router.route(&route.path, post(submit::configured));
        if polled.insert(&route.status_path) {
            router = router.route(&route.status_path, reads());
        }
    }
    router
}

/// The whole service as one router. The error says which configured route cannot be.
pub fn router(app: App) -> Result<Router, BadRoute> {
    let (router, document) = described().split_for_parts();
    check(&app.options.routes, &document)?;
    let description = Arc::new(openapi::describe(&document, &app.options.routes, app.store.urls()));
    let router = aliases(router, &app.options.routes).layer(Extension(description));
    Ok(surrounded(router, app))
}

/// What stands around every route: request id and log line outermost, then panics, the unread body, limits.
fn surrounded(router: Router<App>, app: App) -> Router {
    router
        .fallback(layers::no_route)
        .method_not_allowed_fallback(layers::no_method)
        .layer(from_fn_with_state(app.clone(), layers::gate))
        .layer(from_fn(unread::hear_out))
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(from_fn_with_state(app.clone(), layers::edge))
        .with_state(app)
}

/// `/metrics` alone and without a key, for a listener of its own.
pub fn metrics_router(app: App) -> Router {
    let open = get(|state| system::show_metrics(state, system::Scraper));
    surrounded(Router::new().route("/metrics", open), app)
}

/// A configured route that cannot be served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("route {path}: {rule}")]
pub struct BadRoute {
    /// Its path.
    pub path: String,
    /// What is wrong with it.
    pub rule: &'static str,
}

fn check(routes: &[Route], document: &utoipa::openapi::OpenApi) -> Result<(), BadRoute> {
    let own = |path: &str| {
        let first = |p: &str| p.split('/').nth(1).map(str::to_owned);
        // A configured path below one of ours could shadow it one day.
        document.paths.paths.keys().any(|ours| {
            ours == path
                || (first(ours) == first(path) && matches!(first(path).as_deref(), Some("v1" | "results")))
        })
    };
    let plain = |p: &str| p.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._~-".contains(&b));
    let mut seen = std::collections::BTreeSet::from([submit::SEED_PATH.to_owned()]);
    for route in routes {
        let bad = |rule| Err(BadRoute { path: route.path.clone(), rule });
        let status = route.status_path.replacen("{jobId}", "", 1);
        if !route.path.starts_with('/') || route.path.len() < 2 || !plain(&route.path) {
            return bad("path must start with / and hold letters, digits and /._~- only");
        }
        if !submit::status_path_ok(&route.status_path) || !plain(&status) {
            return bad("status_path must start with / and hold {jobId} once");
        }
        if own(&route.path) || !seen.insert(route.path.clone()) {
            return bad("path is taken");
        }
        if own(&route.status_path) && route.status_path != submit::STATUS_PATH {
            return bad("status_path is taken");
        }
        if crate::types::submit::name("", &route.kind, 128).is_err() {
            return bad("type is no job type");
        }
        if !route.status_path.split('/').any(|part| part == "{jobId}") {
            return bad("{jobId} must be a whole part of status_path");
        }
    }
    Ok(())
}
