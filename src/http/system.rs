//! How this node is, its figures, and the description of the API.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use axum::extract::{Extension, FromRequestParts, State};
use axum::response::{Html, IntoResponse, Response};
use axum::{Json, body::Body};
use bytes::Bytes;
use http::header;
use http::request::Parts;
use tokio::task::spawn_blocking;

use super::app::{App, Mode};
use super::extract::{Key, need};
use super::problem::Problem;
use crate::metrics;
use crate::types::api::Health;
use crate::types::problem::ProblemCode;

fn health(status: &str, checks: &[(&str, &str)]) -> Health {
    let checks: BTreeMap<_, _> = checks.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Health { status: status.to_owned(), checks }
}

/// Whether the process runs. Asks nobody.
#[utoipa::path(get, path = "/livez", tag = "system", operation_id = "livez",
    responses((status = 200, body = Health)))]
pub async fn livez() -> Json<Health> {
    Json(health("ok", &[]))
}

/// Whether this node can do its part: its store answers and it is not stopping. No role needs more, and what
/// other nodes do or fail to do is told by `/healthz`.
#[utoipa::path(get, path = "/readyz", tag = "system", operation_id = "readyz",
    responses((status = 200, body = Health)))]
pub async fn readyz(State(app): State<App>) -> Result<Json<Health>, Problem> {
    if app.draining.is_cancelled() {
        return Err(Problem::new(ProblemCode::ServiceOverloaded).detail("this node is stopping"));
    }
    app.ask(app.store.ping())
        .await
        .map_err(|_| Problem::new(ProblemCode::StorageUnavailable).detail("the store does not answer"))?;
    Ok(Json(health("ok", &[("store", "ok"), ("shutdown", "no")])))
}

/// A due delivery that waits longer is a stall, and so is one that is still to be made, seconds.
const STALL: i64 = 60;

/// `degraded` when deliveries stall, or when nobody is there to send the next one.
fn fleet(figures: &[(&'static str, i64)]) -> &'static str {
    let figure = |name| figures.iter().find(|(known, _)| *known == name).map(|(_, n)| *n);
    let late = |name| figure(name).is_some_and(|seconds| seconds > STALL);
    let stalled = late("deliveries_oldest_due_seconds") || late("fan_outs_oldest_seconds");
    let deserted = figure("nodes_alive") == Some(0);
    if stalled || deserted { "degraded" } else { "ok" }
}

/// How the fleet is: `ok`, `degraded` or `unavailable`. Always 200: a stalled dispatch must not take submission down.
#[utoipa::path(get, path = "/healthz", tag = "system", operation_id = "healthz",
    responses((status = 200, body = Health)))]
pub async fn healthz(State(app): State<App>) -> Json<Health> {
    match app.ask(app.store.figures(app.now())).await {
        Err(_) => Json(health("unavailable", &[("store", "does not answer")])),
        Ok(figures) => {
            let mut answer = health(fleet(&figures), &[("store", "ok")]);
            answer.checks.extend(figures.iter().map(|(name, n)| ((*name).to_owned(), n.to_string())));
            Json(answer)
        }
    }
}

/// Lets in whom `/metrics` is open to: everyone, or a key with `metrics:read` or `operator`.
pub struct Scraper;

impl FromRequestParts<App> for Scraper {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if app.options.metrics_open || app.options.mode == Mode::Dev {
            return Ok(Scraper);
        }
        Key::<need::MetricsRead>::from_request_parts(parts, app).await.map(|_| Scraper)
    }
}

/// The figures of this node as OpenMetrics text. In dev mode no key is needed.
#[utoipa::path(get, path = "/metrics", tag = "system", operation_id = "metrics",
    security((), ("apiKey" = ["metrics:read"]), ("apiKey" = ["operator"])),
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub async fn show_metrics(State(app): State<App>, _: Scraper) -> Response {
    // Without the store the node's own figures are still worth showing.
    let figures = app.ask(app.store.figures(app.now())).await.unwrap_or_default();
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], app.metrics.render_with(&figures)).into_response()
}

/// The description, made for the first who asks: that takes 7 MiB, and most nodes are never asked.
pub type Described = Arc<LazyLock<Description, Box<dyn FnOnce() -> Description + Send>>>;

/// The description of the API.
pub struct Description {
    /// `openapi.json`.
    pub json: Bytes,
    /// The page that lists it.
    pub html: String,
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "system", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
pub async fn openapi_json(Extension(description): Extension<Described>) -> Result<Response, Problem> {
    let json = made(description).await?.json.clone();
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from(json)).into_response())
}

/// A page that lists every operation.
#[utoipa::path(get, path = "/docs", tag = "system", operation_id = "docs",
    responses((status = 200, description = "HTML", content_type = "text/html")))]
pub async fn docs(Extension(description): Extension<Described>) -> Result<Response, Problem> {
    let html = made(description).await?.html.clone();
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
    Ok(([(header::CONTENT_SECURITY_POLICY, policy)], Html(html)).into_response())
}

/// Where it takes the time of nobody else: the first time that is 30 ms.
async fn made(description: Described) -> Result<Described, Problem> {
    let make = move || {
        LazyLock::force(&description);
        description
    };
    spawn_blocking(make).await.map_err(|e| {
        tracing::error!(error = %e, "the description of the API cannot be made");
        Problem::new(ProblemCode::Internal)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_description_is_made_while_others_are_served() {
        let (serve, served) = mpsc::channel();
        let describe = move || {
            served.recv_timeout(Duration::from_secs(10)).expect("someone else is served meanwhile");
            Description { json: Bytes::from_static(b"{}"), html: String::new() }
        };
        let described: Described = Arc::new(LazyLock::new(Box::new(describe)));
        let (answer, ()) =
            tokio::join!(openapi_json(Extension(described)), async { serve.send(()).unwrap() });
        assert_eq!(answer.unwrap().status(), 200);
    }

    #[test]
    fn a_fleet_that_stalls_or_sleeps_is_degraded() {
        let with = |late, untold, nodes| {
            let waits = [("deliveries_oldest_due_seconds", late), ("fan_outs_oldest_seconds", untold)];
            fleet(&[waits[0], waits[1], ("nodes_alive", nodes)])
        };
        assert_eq!([with(0, 0, 1), with(60, 60, 3)], ["ok", "ok"]);
        assert_eq!([with(61, 0, 3), with(0, 61, 3), with(0, 0, 0)], ["degraded"; 3]);
    }
}
