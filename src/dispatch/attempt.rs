//! One attempt: sign, send, judge.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::hide::hide;
use crate::egress::{Answer, BootTime, Limits, Sender};
use crate::store::{Attempted, ClaimedDelivery, Error, LiveSecret, Store};
use crate::types::Millis;
use crate::types::cloudevents::header_value;
use crate::types::delivery::{DeadReason, Fault, Outcome, Verdict, judge, roll};
use crate::types::job::CallbackSecrets;
use crate::types::signature::Secret;
use crate::types::signature::schemes::{Message, SigningKey};
use crate::types::target::{CallbackUrl, UrlPolicy};

/// Attempts in a row whose end nobody saw; then the delivery kills its senders and is laid down.
const POISON: u32 = 5;
/// So long what found no socket keeps its slot.
const FULL: Duration = Duration::from_secs(1);
/// When a delivery that could not be prepared is looked at again.
const NOT_NOW: Duration = Duration::from_secs(5);

/// What an attempt needs beside the delivery.
pub(super) struct Tools<'a> {
    pub(super) store: &'a Store,
    pub(super) sender: &'a Sender,
    pub(super) policy: &'a UrlPolicy,
    /// The whole attempt, body included.
    pub(super) deadline: Duration,
    /// Nothing is written to a socket after this instant.
    pub(super) not_after: BootTime,
}

/// Makes the attempt. `clock` is asked again after the answer.
pub(super) async fn attempt(tools: &Tools<'_>, d: &ClaimedDelivery, clock: impl Fn() -> Millis) -> Attempted {
    let now = clock();
    let (url, headers, extra) = match prepare(tools, d, now).await {
        Ok(ready) => ready,
        Err(unready) => return Attempted { counts: unready.counts, ..not_sent(d, unready.verdict) },
    };
    let limits = Limits { deadline: tools.deadline, not_after: tools.not_after, answer: Answer::Glance };
    let mut exchange = tools.sender.post(&url, headers, d.body.clone(), limits, now).await;
    hide(&mut exchange, &extra);
    if matches!(exchange.outcome, Outcome::Failed(Fault::NoSocket)) {
        // With its slot: the next one would find no more.
        tokio::time::sleep(FULL).await;
    }
    let unsent = matches!(exchange.outcome, Outcome::Failed(fault) if fault.unsent());
    let counts = match exchange.outcome {
        Outcome::Answered { .. } => true,
        Outcome::Failed(fault) => fault.counts(),
    };
    let verdict =
        judge(&exchange.outcome, d.used + 1, &d.policy, d.expires_at, clock(), roll(d.id, d.number));
    let exchange = (!unsent).then_some(exchange);
    Attempted { exchange, verdict, counts, ..not_sent(d, verdict) }
}

/// Nothing left the house: no attempt is spent and none is shown.
pub(super) fn not_sent(d: &ClaimedDelivery, verdict: Verdict) -> Attempted {
    Attempted {
        id: d.id,
        tenant: d.tenant,
        fence: d.fence,
        number: d.number,
        started_at: d.started_at,
        exchange: None,
        verdict,
        counts: false,
        endpoint: d.endpoint.as_ref().map(|to| (to.id, d.url.clone())),
    }
}

/// Why nothing is sent, and whether that spends an attempt of the policy.
struct Unready {
    verdict: Verdict,
    counts: bool,
}

impl From<Verdict> for Unready {
    fn from(verdict: Verdict) -> Unready {
        Unready { verdict, counts: false }
    }
}

/// Tried again by the policy, as if the receiver had failed: it may be this node's key ring that is wrong.
fn unsignable(d: &ClaimedDelivery, now: Millis) -> Unready {
    let again = d.policy.delay(d.used + 1, roll(d.id, d.number));
    let verdict =
        again.map_or(Verdict::Dead(DeadReason::Unsignable), |wait| Verdict::RetryAt(now.plus(wait)));
    Unready { verdict, counts: true }
}

async fn prepare(
    tools: &Tools<'_>,
    d: &ClaimedDelivery,
    now: Millis,
) -> Result<(CallbackUrl, HeaderMap, Extra), Unready> {
    if d.unknowns >= POISON {
        return Err(Verdict::Dead(DeadReason::Poison).into());
    }
    if d.expires_at.is_some_and(|at| at <= now) {
        return Err(Verdict::Dead(DeadReason::Expired).into());
    }
    // The policy may have become stricter since the URL was registered.
    let url = CallbackUrl::check(&d.url, tools.policy).map_err(|e| {
        tracing::warn!(delivery.id = %d.id, tenant = %d.tenant, refused = %e, "callbacks may no longer go to this URL");
        Verdict::Dead(DeadReason::Refused)
    })?;
    let (keys, extra) = keys(tools.store, d, now).await.map_err(|e| match e {
        Error::Seal(_) | Error::Bug(_) => {
            tracing::error!(delivery.id = %d.id, error = %e, "a delivery cannot be signed");
            unsignable(d, now)
        }
        _ => Verdict::RetryAt(now.plus(NOT_NOW)).into(),
    })?;
    let headers =
        headers(d, &keys, &extra, now, tools.store.urls().base()).ok_or_else(|| unsignable(d, now))?;
    Ok((url, headers, extra))
}

type Extra = Vec<(String, String)>;

async fn keys(store: &Store, d: &ClaimedDelivery, now: Millis) -> Result<(Vec<SigningKey>, Extra), Error> {
    let own = match &d.sealed {
        Some(sealed) => store.open_sealed(d.tenant, sealed)?,
        None => CallbackSecrets::default(),
    };
    let keys = match (&own.secret, d.signer) {
        (Some(text), _) => vec![Secret::parse(text).map_err(|e| Error::Bug(e.to_string()))?.into()],
        (None, Some(endpoint)) => live(store.endpoint_secrets(d.tenant, endpoint, now).await?),
        (None, None) => live(store.default_secrets(d.tenant, now).await?),
    };
    if keys.is_empty() {
        return Err(Error::Bug("the endpoint whose secret signs is gone".to_owned()));
    }
    let mut headers = match &d.endpoint {
        Some(to) => store.open_endpoint_headers(d.tenant, to.id, to.sealed.as_deref())?,
        None => Vec::new(),
    };
    // The callback's headers may be credentials for its own host; its failureUrl is another one.
    if d.event_kind != "delivery.dead" {
        headers.retain(|(name, _)| own.headers.iter().all(|(given, _)| given != name));
        headers.extend(own.headers);
    }
    Ok((keys, headers))
}

fn live(secrets: Vec<LiveSecret>) -> Vec<SigningKey> {
    secrets.into_iter().map(|(key, _)| key).collect()
}

/// The headers of one attempt: the signatures, ours, the trace, and what the callback or the endpoint brought.
fn headers(
    d: &ClaimedDelivery,
    keys: &[SigningKey],
    extra: &Extra,
    now: Millis,
    source: &str,
) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(12 + extra.len());
    let value = |text: &str| HeaderValue::from_str(text).ok();
    for (name, text) in extra {
        map.append(HeaderName::from_bytes(name.as_bytes()).ok()?, value(text)?);
    }
    let id = d.id.to_string();
    let seconds = now.seconds();
    map.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    map.insert(
        http::header::USER_AGENT,
        HeaderValue::from_static(concat!("Ringback/", env!("CARGO_PKG_VERSION"))),
    );
    let schemes = d.endpoint.as_ref().map_or(&[][..], |to| &to.schemes);
    map.extend(Message { id: &id, seconds, body: &d.body }.headers(schemes, keys));
    map.insert("webhook-timestamp", HeaderValue::from(seconds));
    map.insert("webhook-attempt", HeaderValue::from(d.number));
    map.insert("idempotency-key", value(&format!("\"{id}\""))?);
    map.insert("webhook-id", value(&id)?);
    if let Some(trace) = d.traceparent.as_deref().and_then(value) {
        map.insert("traceparent", trace);
    }
    if d.variant.starts_with("cloudevents") {
        // CloudEvents 1.0, HTTP binding, binary content mode (3.1).
        map.insert("ce-specversion", HeaderValue::from_static("1.0"));
        map.insert("ce-id", value(&d.event_id.to_string())?);
        map.insert("ce-type", value(&header_value(&d.event_kind))?);
        map.insert("ce-source", value(&header_value(source))?);
        map.insert("ce-time", value(&d.event_at.to_string())?);
        if let Some(job) = d.job_id {
            map.insert("ce-subject", value(&job.to_string())?);
        }
        // An extension attribute: the body is the event's data alone.
        if let Some(account) = &d.account {
            map.insert("ce-account", value(&header_value(account))?);
        }
    }
    Some(map)
}

/// The verdict in one word, for logs and metrics.
pub(super) fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Delivered => "delivered",
        Verdict::RetryAt(_) => "retry",
        Verdict::Dead(reason) => reason.as_str(),
    }
}

/// One line per attempt that tells it all.
pub(super) fn log(d: &ClaimedDelivery, a: &Attempted) {
    let (status, error, ms) = match &a.exchange {
        Some(e) => {
            let ms = u64::try_from(e.duration.as_millis()).unwrap_or(u64::MAX);
            match e.outcome {
                Outcome::Answered { status, .. } => (Some(status), None, Some(ms)),
                Outcome::Failed(fault) => (None, Some(fault.kind()), Some(ms)),
            }
        }
        None => (None, Some(a.unsignable().map_or("not-sent", DeadReason::as_str)), None),
    };
    let fault = a.exchange.as_ref().and_then(|e| e.outcome.fault());
    let verdict = word(&a.verdict);
    let next = match a.verdict {
        Verdict::RetryAt(at) => Some(at),
        Verdict::Delivered | Verdict::Dead(_) => None,
    };
    tracing::info!(
        delivery.id = %d.id,
        event.type = %d.event_kind,
        tenant = %d.tenant,
        lane = %d.lane,
        attempt = d.number,
        status,
        error,
        refused = fault.and_then(Fault::refused),
        duration_ms = ms,
        verdict,
        next = next.map(tracing::field::display),
        "delivery.attempted"
    );
}
