//! The events of many jobs over one WebSocket (RFC 6455), subprotocol `ringback.v1`.

mod ends;
mod session;

use std::convert::Infallible;

use axum::extract::ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{Extension, FromRequestParts, State};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};

use super::app::App;
use super::extract::{FromQuery, Params, Query, Viewer, Waiting};
use super::problem::Problem;
use super::server::Seat;
use crate::types::api::SUBPROTOCOL;
use crate::types::problem::ProblemCode;
use ends::turn_away;
use session::Session;

/// The most bytes of a client's message: room for 1,000 ids, each with an `after`.
const MESSAGE_MAX: usize = 128 * 1024;
/// Read at once; a larger message gets more while it comes. Each socket holds it from its opening on.
const READ_BUFFER: usize = 2 * 1024;
/// What is gathered before it is written, and the most that is held beside a message under way.
const BUFFER: usize = 16 * 1024;

/// How the socket is asked for.
pub struct OpenQuery;

impl FromQuery for OpenQuery {
    const NAMES: &'static [&'static str] = &["access_token"];
    fn from_params(_: &Params) -> Result<Self, Problem> {
        Ok(OpenQuery)
    }
}

/// A request that may become a WebSocket of ours.
pub struct Upgrade(WebSocketUpgrade);

impl FromRequestParts<App> for Upgrade {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let upgrade = WebSocketUpgrade::from_request_parts(parts, app).await.map_err(refused)?;
        if speaks(&parts.headers) {
            return Ok(Upgrade(ours(upgrade)));
        }
        Err(Problem::new(ProblemCode::InvalidRequest)
            .at("Sec-WebSocket-Protocol", &format!("must offer `{SUBPROTOCOL}`")))
    }
}

/// RFC 6455, 4.4 and RFC 9110, 15.5.22: who speaks another version is told ours.
fn refused(e: WebSocketUpgradeRejection) -> Problem {
    let other = matches!(e, WebSocketUpgradeRejection::InvalidWebSocketVersionHeader(_));
    let code = if other { ProblemCode::UpgradeRequired } else { ProblemCode::InvalidRequest };
    let problem = Problem::new(code)
        .detail(format!("a WebSocket is opened here: {}", e.body_text()))
        .header(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    if !other {
        return problem;
    }
    problem
        .header(header::UPGRADE, HeaderValue::from_static("websocket"))
        .header(header::CONNECTION, HeaderValue::from_static("upgrade"))
}

/// Who asks, and whether a refusal is of a key or token that was given.
pub struct Guest {
    viewer: Result<Viewer, Problem>,
    given: bool,
}

impl FromRequestParts<App> for Guest {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        let in_query = url::form_urlencoded::parse(query).any(|(name, _)| name == "access_token");
        let given = in_query || parts.headers.contains_key(header::AUTHORIZATION);
        Ok(Guest { viewer: Viewer::from_request_parts(parts, app).await, given })
    }
}

impl Guest {
    /// Who may come in. None is to be told by a close: a browser shows a script no status of an opening that
    /// failed. The refusal goes before what else is wrong with the request, but it takes a sound one to close it.
    fn welcome(self, sound: bool) -> Result<Option<Viewer>, Problem> {
        match self.viewer {
            Err(refusal) if refusal.code() == ProblemCode::Unauthorized && self.given && sound => Ok(None),
            viewer => viewer.map(Some),
        }
    }
}

fn ours(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .protocols([SUBPROTOCOL])
        .read_buffer_size(READ_BUFFER)
        .max_message_size(MESSAGE_MAX)
        .max_frame_size(MESSAGE_MAX)
        .write_buffer_size(BUFFER)
}

fn speaks(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    fields.flat_map(|field| field.split(',')).any(|protocol| protocol.trim() == SUBPROTOCOL)
}

/// Follow many jobs over one WebSocket with the subprotocol `ringback.v1`.
///
/// The client sends SocketRequest and the node SocketMessage, each as one text message. The events of a job come
/// in order, from `after` on and up to its end; one that cannot be watched is told with `error`, and the rest
/// goes on. The node closes with 4401 when the key or the access token does not count (also at once, if the opening is
/// sound but for that) or the token's job is gone, with 4429
/// when the client does not take what it is sent, with 1000 when it followed no job for 60 s, and with 1001 when
/// it stops. An access token whose job is gone already opens none: 404, or 410 after its retention. 429 to who has too
/// many open, or opens them too often.
#[utoipa::path(get, path = "/v1/ws", tag = "jobs", operation_id = "openSocket",
    security(("apiKey" = ["jobs:read"]), ("accessToken" = []), ("accessTokenQuery" = [])),
    params(("Sec-WebSocket-Protocol" = String, Header, example = "ringback.v1")),
    responses((status = 101, description = "The connection speaks WebSocket from here on"),
        (status = 404, description = "job-not-found"), (status = 410, description = "job-expired"),
        (status = 426, description = "upgrade-required"), (status = 429, description = "rate-limited")))]
pub async fn open(
    State(app): State<App>,
    guest: Guest,
    query: Result<Query<OpenQuery>, Problem>,
    upgrade: Result<Upgrade, Problem>,
    waiting: Waiting,
    seat: Option<Extension<Seat>>,
) -> Result<Response, Problem> {
    let viewer = guest.welcome(query.is_ok() && upgrade.is_ok())?;
    let Upgrade(upgrade) = query.and(upgrade)?;
    let Some(viewer) = viewer else {
        return Ok(upgrade.on_upgrade(async move |socket| turn_away(socket, seat).await));
    };
    viewer.may_open(&app).await?;
    let places = viewer.places(&app)?;
    // Its name alone: with the request itself a socket would keep the request's place.
    let request_id = waiting.request_id().map(Box::from);
    Ok(upgrade.on_upgrade(async move |socket| {
        Session::new(app, viewer, places, socket, request_id).run().await;
        // The connection's place is free only now.
        drop(seat);
    }))
}
