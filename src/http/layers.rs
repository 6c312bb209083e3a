//! What happens around every handler: request id, log line, figures, panics, limits.

use std::any::Any;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, header};
use tokio::sync::OwnedSemaphorePermit;

use super::app::App;
use super::problem::Problem;
use super::unread;
use crate::types::TenantId;
use crate::types::problem::{ProblemBody, ProblemCode};

/// Names one request in answers and logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// What is known of the request under way.
#[derive(Debug)]
pub struct Ctx {
    /// The `Request-Id` of the answer.
    pub id: String,
    tenant: OnceLock<TenantId>,
    slot: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Ctx {
    /// The context of a request, if it came through [`edge`].
    pub fn of(parts: &Parts) -> Option<&Ctx> {
        parts.extensions.get::<Arc<Ctx>>().map(|ctx| &**ctx)
    }

    /// Remembers whose request it is, for the log.
    pub fn tenant(&self, tenant: TenantId) {
        let _ = self.tenant.set(tenant);
    }

    /// Takes a place among the requests at work.
    pub fn take_place(&self, app: &App) -> Result<(), Problem> {
        let place = app.slots.clone().try_acquire_owned();
        let place = place.map_err(|_| Problem::new(ProblemCode::ServiceOverloaded))?;
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
        Ok(())
    }

    /// Gives the request's place away: who only waits must not keep others out.
    pub fn rest(&self) {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// What surrounds every handler: names the request, writes its log line and its figures; within, panics are caught,
/// a body that nobody read is heard out, and what is too large or too much is refused.
///
/// One layer, as each costs every request a copy of all that is inside it.
pub async fn edge(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let began = app.real.now();
    let ctx = Arc::new(Ctx { id: request_id(&app), tenant: OnceLock::new(), slot: Mutex::default() });
    request.extensions_mut().insert(ctx.clone());
    let method = method_word(request.method());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let answer = unread::hear_out(request, async |request| gate(&app, request, next).await);
    let mut response = AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(panicked);
    sign(&mut response, &ctx.id);
    let took = app.real.now().since(began);
    let (route, status) = (route.as_deref().unwrap_or("none"), response.status().as_u16());
    app.metrics.http(route, method, status, took);
    let tenant = ctx.tenant.get().map(ToString::to_string).unwrap_or_default();
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(method, route, status, tenant, ms, request_id = %ctx.id, "request");
    response
}

fn request_id(app: &App) -> String {
    let bytes: [u8; 12] = app.dice.bytes();
    bytes.iter().fold("req_".to_owned(), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    })
}

/// Puts the request id into the head, and into the document if it is a problem.
fn sign(response: &mut Response, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if let Some(body) = response.extensions_mut().remove::<Arc<ProblemBody>>() {
        let body = ProblemBody { request_id: Some(id.to_owned()), ..(*body).clone() };
        let text = serde_json::to_vec(&body).unwrap_or_default();
        response.headers_mut().insert(header::CONTENT_LENGTH, text.len().into());
        *response.body_mut() = Body::from(text);
    }
}

/// A closed set, for figures and logs.
fn method_word(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|word| method.as_str() == *word).unwrap_or("other")
}

/// Refuses what is too large or too much, before anything is read.
async fn gate(app: &App, request: Request, next: Next) -> Response {
    let (limit, fields) = app.options.head_limit;
    let size = request.uri().path_and_query().map_or(0, |p| p.as_str().len())
        + request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>();
    if size > limit || request.headers().len() > fields {
        Problem::new(ProblemCode::HeaderTooLarge)
            .detail(format!("at most {limit} bytes in {fields} fields"))
            .into_response()
    } else if let Err(full) = admit(app, &request) {
        full.into_response()
    } else {
        next.run(request).await
    }
}

/// Liveness needs no place: a busy node must not be taken for a dead one.
fn admit(app: &App, request: &Request) -> Result<(), Problem> {
    match request.extensions().get::<Arc<Ctx>>() {
        Some(ctx) if request.uri().path() != "/livez" => ctx.take_place(app),
        Some(_) | None => Ok(()),
    }
}

/// A panic is a defect of ours; its text goes to the log and not to the client.
fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("no text");
    tracing::error!(panic = text, "a handler panicked");
    Problem::new(ProblemCode::Internal).into_response()
}

/// No route has this path.
pub async fn no_route() -> Problem {
    Problem::new(ProblemCode::NotFound)
}

/// The route does not have this method; the router adds `Allow`.
pub async fn no_method() -> Problem {
    Problem::new(ProblemCode::MethodNotAllowed)
}

/// Opens what one job's access token reads to every web page: the token is the secret, not the origin.
pub async fn cors(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(
            "ETag, Retry-After, Location, Link, Request-Id, Preference-Applied, Repr-Digest, Content-Digest, \
             Content-Range, Content-Disposition",
        ),
    );
    response
}

/// Answers the question a browser asks before it reads (Fetch, CORS-preflight).
pub async fn preflight() -> Response {
    let answer = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "Authorization, If-None-Match, If-Range, Last-Event-ID, Prefer, Range, traceparent",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "7200"),
    ];
    (http::StatusCode::NO_CONTENT, answer).into_response()
}
