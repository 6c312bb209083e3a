//! What an endpoint is sent while someone waits for its answer: a test, and a challenge.

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::app::App;
use super::endpoints::seen;
use super::extract::{Key, NoBody, NoQuery, PathId, Query, Waiting, need};
use super::problem::Problem;
use crate::store::{Attempted, TEST, VERIFY};
use crate::types::api::EndpointProbe;
use crate::types::delivery::Outcome;
use crate::types::endpoint::Endpoint;
use crate::types::problem::ProblemCode;
use crate::types::{EndpointId, id};

/// Send `webhook.test` to an endpoint now and tell what came of it.
///
/// The request is made like any other, from the signature to the address guard, also while the endpoint is paused.
/// It is tried once. A tenant has four tests and challenges under way at once.
#[utoipa::path(post, path = "/v1/endpoints/{endpointId}/test", tag = "endpoints", operation_id = "testEndpoint",
    security(("apiKey" = ["endpoints:write"])), params(("endpointId" = EndpointId, Path)),
    responses((status = 200, body = EndpointProbe), (status = 429, description = "rate-limited")))]
pub async fn test(
    State(app): State<App>,
    key: Key<need::EndpointsWrite>,
    PathId(id): PathId<id::Endpoint>,
    _: Query<NoQuery>,
    waiting: Waiting,
    _: NoBody,
) -> Result<Json<EndpointProbe>, Problem> {
    let endpoint = seen(&app, &key, id).await?;
    let data = json!({ "endpointId": id, "message": "This is a test." });
    send(&app, &endpoint, (TEST, data), &waiting).await.map(|sent| Json(told(&sent, ok(&sent))))
}

/// Send a challenge to an endpoint's URL; it is verified if the answer echoes it.
///
/// `webhook.verify` carries `data.challenge`. The answer is a 2xx whose body is the challenge itself, or a JSON
/// object with the member `challenge`.
#[utoipa::path(post, path = "/v1/endpoints/{endpointId}/verify", tag = "endpoints",
    operation_id = "verifyEndpoint", security(("apiKey" = ["endpoints:write"])),
    params(("endpointId" = EndpointId, Path)),
    responses((status = 200, body = EndpointProbe), (status = 429, description = "rate-limited")))]
pub async fn verify(
    State(app): State<App>,
    key: Key<need::EndpointsWrite>,
    PathId(id): PathId<id::Endpoint>,
    _: Query<NoQuery>,
    waiting: Waiting,
    _: NoBody,
) -> Result<Json<EndpointProbe>, Problem> {
    let endpoint = seen(&app, &key, id).await?;
    let challenge = URL_SAFE_NO_PAD.encode(app.dice.bytes::<32>());
    let data = json!({ "endpointId": id, "challenge": challenge });
    let sent = send(&app, &endpoint, (VERIFY, data), &waiting).await?;
    let body = sent.exchange.as_ref().map_or(&b""[..], |e| &e.body);
    let echoed = ok(&sent) && echoes(body, &challenge);
    if echoed {
        let url = &endpoint.settings.url;
        app.ask(app.store.set_endpoint_verified(key.tenant(), id, url, app.now())).await?;
    }
    let why = (ok(&sent) && !echoed).then(|| "the answer does not echo the challenge".to_owned());
    let told = told(&sent, echoed);
    Ok(Json(EndpointProbe { error: why.or(told.error), ..told }))
}

/// Makes the attempt and records it, also if nobody waits any more.
async fn send(
    app: &App,
    endpoint: &Endpoint,
    (kind, data): (&'static str, Value),
    waiting: &Waiting,
) -> Result<Attempted, Problem> {
    // Held until the answer is recorded: who leaves early has it sent all the same.
    let places = app.followers.probe(endpoint.tenant)?;
    let claimed = app.ask(app.store.begin_probe(endpoint, kind, &data, app.now())).await?;
    let own = app.clone();
    waiting.rest();
    let sending = tokio::spawn(async move {
        let _places = places;
        // A test says nothing of how the endpoint fares with its own events.
        let attempted = Attempted { endpoint: None, ..(own.courier)(claimed).await };
        let recorded = own.ask(own.store.record(vec![attempted.clone()], own.now())).await;
        recorded.map(|_| attempted)
    });
    sending.await.map_err(|_| Problem::new(ProblemCode::Internal))?
}

fn ok(sent: &Attempted) -> bool {
    let outcome = sent.exchange.as_ref().map(|e| e.outcome);
    matches!(outcome, Some(Outcome::Answered { status: 200..=299, .. }))
}

fn told(sent: &Attempted, ok: bool) -> EndpointProbe {
    let exchange = sent.exchange.as_ref();
    let (status, error) = match exchange.map(|e| e.outcome) {
        Some(Outcome::Answered { status, .. }) => (Some(status), None),
        Some(Outcome::Failed(fault)) => (None, Some(fault.to_string())),
        None => (None, Some("nothing could be sent".to_owned())),
    };
    let text = |body: &bytes::Bytes| String::from_utf8_lossy(body).into_owned();
    EndpointProbe {
        ok,
        delivery_id: sent.id,
        status,
        error,
        duration_ms: exchange.map_or(0, |e| u32::try_from(e.duration.as_millis()).unwrap_or(u32::MAX)),
        response_body: exchange.map(|e| text(&e.body)).filter(|text| !text.is_empty()),
    }
}

/// Whether an answer is the challenge, or a JSON object that holds it as `challenge`.
fn echoes(body: &[u8], challenge: &str) -> bool {
    let told = |json: Value| json.get("challenge").and_then(Value::as_str) == Some(challenge);
    body.trim_ascii() == challenge.as_bytes() || serde_json::from_slice(body).is_ok_and(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_answers_on_purpose_echoes() {
        for (body, echoed) in [
            ("c-1", true),
            (" c-1\r\n", true),
            (r#"{"challenge": "c-1"}"#, true),
            (r#"{"challenge": "c-1", "more": 1}"#, true),
            (r#""c-1""#, false),
            ("xc-1", false),
            (r#"{"data": {"challenge": "c-1"}}"#, false),
            (r#"{"challenge": "c-2"}"#, false),
            ("", false),
        ] {
            assert_eq!(echoes(body.as_bytes(), "c-1"), echoed, "{body}");
        }
    }
}
