//! The tenant's default webhook secret, which signs callbacks that bring none.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

use super::app::App;
use super::extract::{Key, MaybeJson, NoQuery, Query, need};
use super::problem::Problem;
use crate::store::LiveSecret;
use crate::types::Millis;
use crate::types::api::{RotateSecret, WebhookSecret};
use crate::types::problem::ProblemCode;
use crate::types::submit as rules;

/// Show the default secret. For one's own receivers only: whoever can verify could forge.
#[utoipa::path(get, path = "/v1/tenants/self/webhook-secret", tag = "keys", operation_id = "getWebhookSecret",
    security(("apiKey" = ["admin"])), responses((status = 200, body = WebhookSecret)))]
pub async fn get_secret(
    State(app): State<App>,
    key: Key<need::Admin>,
    _: Query<NoQuery>,
) -> Result<Response, Problem> {
    key.whole()?;
    show(&app.ask(app.store.default_secrets(key.tenant(), app.now())).await?, None)
}

/// Make a new default secret; the one before signs beside it for `overlapSeconds` more.
///
/// At most three sign: the fourth ends at once, and the answer has its `cutOffExpiresAt`.
#[utoipa::path(post, path = "/v1/tenants/self/rotate-secret", tag = "keys",
    operation_id = "rotateWebhookSecret", security(("apiKey" = ["admin"])),
    request_body = Option<RotateSecret>, responses((status = 200, body = WebhookSecret)))]
pub async fn rotate(
    State(app): State<App>,
    key: Key<need::Admin>,
    _: Query<NoQuery>,
    MaybeJson(body): MaybeJson<RotateSecret>,
) -> Result<Response, Problem> {
    key.whole()?;
    let seconds = rules::range("/overlapSeconds", body.overlap_seconds, 86_400, 0..=604_800)?;
    let overlap = Duration::from_secs(seconds.into());
    let rotated = app.ask(app.store.rotate_default_secret(key.tenant(), overlap, app.now())).await?;
    show(&rotated.live, rotated.cut_off)
}

/// The newest secret, until when the one before signs too, and what a rotation cut off.
pub(super) fn show(secrets: &[LiveSecret], cut_off: Option<Millis>) -> Result<Response, Problem> {
    let (newest, _) = secrets.first().ok_or_else(|| Problem::new(ProblemCode::Internal))?;
    let previous_expires_at = secrets.get(1).and_then(|(_, until)| *until);
    let body = WebhookSecret { secret: newest.reveal(), previous_expires_at, cut_off_expires_at: cut_off };
    let no_store = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(([no_store], Json(body)).into_response())
}
