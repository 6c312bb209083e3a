//! The frozen bytes of an event, one variant for each way in which a receiver may want them.

use serde::Serialize;
use serde_json::value::RawValue;

use super::published::Published;
use crate::store::error::{Error, Result};
use crate::types::api::{self, Format, Payload};
use crate::types::job::{Job, JobEvent, Outcome};
use crate::types::key::{AccessToken, TokenKey};
use crate::types::{DeliveryId, EndpointId, EventId, JobId, Millis};

/// A JSON result up to this size stands in the webhook itself, bytes.
const INLINE_RESULT: usize = 64 * 1024;

/// An event of a job on its way to its receivers.
pub(super) struct Told<'a> {
    pub(super) job: &'a Job,
    pub(super) view: &'a api::Job,
    pub(super) event: JobEvent,
    pub(super) event_id: EventId,
    pub(super) at: Millis,
    pub(super) outcome: Option<&'a Outcome>,
    pub(super) token_key: &'a TokenKey,
}

/// How a receiver wants an event.
#[derive(Clone, Copy)]
pub(super) struct Shape<'a> {
    pub(super) format: Format,
    pub(super) payload: Payload,
    pub(super) context: Option<&'a api::Json>,
}

impl Shape<'_> {
    /// What tells the bodies of one event apart.
    pub(super) fn variant(&self) -> &'static str {
        match (self.format, self.payload, self.context.is_some()) {
            (Format::Standard, Payload::Full, false) => "standard",
            (Format::Standard, Payload::Full, true) => "standard-context",
            (Format::Standard, Payload::Thin, false) => "standard-thin",
            (Format::Standard, Payload::Thin, true) => "standard-thin-context",
            (Format::Cloudevents, Payload::Full, false) => "cloudevents",
            (Format::Cloudevents, Payload::Full, true) => "cloudevents-context",
            (Format::Cloudevents, Payload::Thin, false) => "cloudevents-thin",
            (Format::Cloudevents, Payload::Thin, true) => "cloudevents-thin-context",
        }
    }
}

impl Told<'_> {
    /// The body in that shape.
    pub(super) fn body(&self, shape: Shape<'_>) -> Result<String> {
        let data = JobData {
            job: self.view,
            access_token: AccessToken::mint(self.token_key, self.job.tenant, self.job.id),
            result: self.outcome.and_then(|o| inline(o, shape.payload)),
            context: shape.context,
        };
        match shape.format {
            Format::Standard => {
                envelope(self.event.as_str(), self.at, self.event_id, Some(self.job.sequence), &data)
            }
            Format::Cloudevents => json(&data),
        }
    }
}

/// Ringback's envelope around `data`.
pub(super) fn envelope<D: Serialize>(
    kind: &str,
    timestamp: Millis,
    event_id: EventId,
    sequence: Option<i64>,
    data: &D,
) -> Result<String> {
    json(&Envelope { kind, timestamp, event_id, sequence, account: None, data })
}

/// The envelope of a published event.
pub(super) fn published(event: &Published<'_>) -> Result<String> {
    let data: &RawValue = serde_json::from_str(event.data).map_err(|e| Error::Bug(e.to_string()))?;
    json(&Envelope {
        kind: event.kind,
        timestamp: event.at,
        event_id: event.id,
        sequence: None,
        account: event.account,
        data,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a, D: ?Sized> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: Millis,
    event_id: EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<&'a str>,
    data: &'a D,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JobData<'a> {
    #[serde(flatten)]
    job: &'a api::Job,
    access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<api::Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a api::Json>,
}

/// The callback wants the result inline and it is JSON of a size that fits.
fn inline(outcome: &Outcome, payload: Payload) -> Option<api::Json> {
    let Outcome::Bytes { content_type, bytes } = outcome else { return None };
    let json = api::ending(content_type) == Some("json");
    if payload == Payload::Thin || !json || bytes.len() > INLINE_RESULT {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Bug(e.to_string()))
}

/// What is told of a dead letter.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::store) struct DeadNotice {
    pub(in crate::store) delivery_id: DeliveryId,
    pub(in crate::store) event_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::store) job_id: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::store) endpoint_id: Option<EndpointId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::store) account: Option<String>,
    pub(in crate::store) url: String,
    pub(in crate::store) reason: &'static str,
    pub(in crate::store) attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::store) last_error: Option<String>,
}

/// What is told of an endpoint.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::store) struct EndpointNotice {
    pub(in crate::store) endpoint_id: EndpointId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::store) account: Option<String>,
    pub(in crate::store) url: String,
    /// Why it is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::store) reason: Option<&'static str>,
    /// The first failed attempt since the last success.
    pub(in crate::store) since: Option<Millis>,
    /// Deliveries that have failed since then.
    pub(in crate::store) failed: u32,
}
