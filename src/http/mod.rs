//! The HTTP floor: every route on one page, and what surrounds them.
//!
//! A handler is extract, one store verb, view. The OpenAPI document is made from the handlers, so what is
//! served and what is described cannot drift apart.

mod app;
mod batch;
mod dead_letters;
mod deliveries;
mod endpoints;
mod events;
mod extract;
mod feed;
mod followers;
mod jobs;
pub mod json;
mod keys;
mod lanes;
mod layers;
mod leases;
mod openapi;
mod pace;
mod probes;
mod problem;
mod queues;
mod redrives;
mod results;
mod routes;
pub mod server;
mod socket;
mod strangers;
mod stream;
mod submit;
mod system;
mod tenant;
mod tenants;
#[cfg(test)]
mod tests;
mod unread;
mod watch;
mod work;

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Extension;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

pub use app::{App, Courier, Mode, Options, Parts};
pub use problem::Problem;
pub use routes::{BadRoute, Route, check_routes};
pub use server::serve;
pub use watch::watch;

/// What one job's access token reads: open to every origin, preflight included.
fn open(routes: UtoipaMethodRouter<App>) -> UtoipaMethodRouter<App> {
    routes.map(|methods| methods.options(layers::preflight).route_layer(from_fn(layers::cors)))
}

/// Every route of the contract.
///
/// Its parts are not inlined: as one function of 700 KB of machine code it takes the compiler ten seconds.
fn described() -> OpenApiRouter<App> {
    let parts = [of_jobs, of_work, of_deliveries, of_endpoints, of_dead_letters, of_tenants];
    let empty = OpenApiRouter::with_openapi(openapi::skeleton());
    parts.into_iter().fold(empty, |router, more| more(router)).merge(system())
}

/// Jobs, as their clients see them.
#[inline(never)]
fn of_jobs(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    router
        .routes(routes!(submit::submit, jobs::list))
        .routes(routes!(batch::batch))
        .routes(routes!(submit::operation))
        .routes(open(routes!(jobs::get_job)))
        .routes(routes!(jobs::delete_job))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(open(routes!(jobs::events)))
        .routes(routes!(socket::open))
        .routes(open(routes!(results::get_result)))
        .routes(open(routes!(results::get_file)))
        .routes(routes!(deliveries::of_job))
}

/// Queues and those who work them off.
#[inline(never)]
fn of_work(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    router
        .routes(routes!(queues::list))
        .routes(routes!(queues::get_queue, queues::change))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(leases::claim))
        .routes(routes!(leases::heartbeat))
        .routes(routes!(leases::complete))
        .routes(routes!(leases::fail))
        .routes(routes!(leases::release))
        .routes(routes!(leases::ack))
}

/// Deliveries and their lanes.
#[inline(never)]
fn of_deliveries(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    router
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::get_delivery))
        .routes(routes!(deliveries::explain))
        .routes(routes!(deliveries::retry))
        .routes(routes!(deliveries::cancel))
        .routes(routes!(lanes::list))
        .routes(routes!(lanes::pause))
        .routes(routes!(lanes::resume))
}

/// Standing endpoints and published events.
#[inline(never)]
fn of_endpoints(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    router
        .routes(routes!(endpoints::list, endpoints::create))
        .routes(routes!(endpoints::get_endpoint, endpoints::change, endpoints::delete))
        .routes(routes!(endpoints::rotate))
        .routes(routes!(endpoints::pause))
        .routes(routes!(endpoints::resume))
        .routes(routes!(probes::test))
        .routes(routes!(probes::verify))
        .routes(routes!(events::publish, feed::read))
        .routes(routes!(events::batch))
}

/// What was given up.
#[inline(never)]
fn of_dead_letters(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    router
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::get_letter, dead_letters::discard))
        .routes(routes!(dead_letters::list_outages))
        .routes(routes!(redrives::replay))
        .routes(routes!(redrives::replay_deliveries))
        .routes(routes!(redrives::redrives))
        .routes(routes!(redrives::get_redrive, redrives::cancel_redrive))
}

/// Keys, tenants and their secrets.
#[inline(never)]
fn of_tenants(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    router
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::get_key, keys::revoke))
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::get_tenant))
        .routes(routes!(tenants::list_keys, tenants::create_key))
        .routes(routes!(tenants::get_key, tenants::revoke_key))
        .routes(routes!(tenant::get_secret))
        .routes(routes!(tenant::rotate))
}

/// What every node serves, whatever its roles.
fn system() -> OpenApiRouter<App> {
    OpenApiRouter::new()
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
        if polled.insert(route.polled_at()) {
            router = router.route(route.polled_at(), reads());
        }
    }
    router
}

/// The whole service as one router. The error says which configured route cannot be.
pub fn router(app: App) -> Result<Router, BadRoute> {
    let router = described().split_for_parts().0;
    check_routes(&app.options.routes)?;
    let router = aliases(router, &app.options.routes).layer(description(&app));
    Ok(surrounded(router, app))
}

/// What a node without the role `api` serves: how it is, its figures, and the description of the API.
pub fn node_router(app: App) -> Router {
    let router = system().split_for_parts().0.layer(description(&app));
    surrounded(router, app)
}

fn description(app: &App) -> Extension<system::Described> {
    let (routes, urls) = (app.options.routes.clone(), app.store.urls().clone());
    let describe = move || openapi::describe(&described().split_for_parts().1, &routes, &urls);
    Extension(Arc::new(LazyLock::new(Box::new(describe))))
}

/// What stands around every route.
fn surrounded(router: Router<App>, app: App) -> Router {
    router
        .fallback(layers::no_route)
        .method_not_allowed_fallback(layers::no_method)
        .layer(from_fn_with_state(app.clone(), layers::edge))
        .with_state(app)
}

/// `/metrics` alone and without a key, for a listener of its own.
pub fn metrics_router(app: App) -> Router {
    let open = get(|state| system::show_metrics(state, system::Scraper));
    surrounded(Router::new().route("/metrics", open), app)
}
