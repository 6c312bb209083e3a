//! The frozen bytes of an event, one variant for each way in which a receiver may want them.

use serde::Serialize;

use crate::store::error::Result;
use crate::store::rows::json;
use crate::types::api::{self, Format, Payload};
use crate::types::endpoint::Endpoint;
use crate::types::job::{Job, JobEvent, Outcome};
use crate::types::key::{AccessToken, TokenKey};
use crate::types::{DeliveryId, EndpointId, EventId, JobId, Millis};

/// An event of a job on its way to its receivers.
pub(super) struct Told<'a> {
    pub(super) job: &'a Job,
    /// The job as it is told, an object.
    pub(super) data: &'a str,
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
    /// How an endpoint wants what it subscribes to.
    pub(super) fn of(endpoint: &Endpoint) -> Shape<'static> {
        Shape { format: endpoint.settings.format, payload: endpoint.settings.payload, context: None }
    }

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
        let more = json(&ForReceiver {
            access_token: AccessToken::mint(self.token_key, self.job.tenant, self.job.id),
            result: self.outcome.and_then(|o| inline(o, shape.payload)),
            context: shape.context,
        })?;
        let members = &more[1..more.len() - 1];
        let data = with(self.data, &[members]);
        match shape.format {
            Format::Standard => {
                let (kind, sequence) = (self.event.as_str(), Some(self.job.sequence));
                Envelope { kind, timestamp: self.at, event_id: self.event_id, sequence, account: None }
                    .around(&data)
            }
            Format::Cloudevents => Ok(data),
        }
    }
}

/// What Ringback's own format has around an event's data.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Envelope<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
    pub(super) timestamp: Millis,
    pub(super) event_id: EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sequence: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) account: Option<&'a str>,
}

impl Envelope<'_> {
    /// The whole, around JSON.
    pub(super) fn around(&self, data: &str) -> Result<String> {
        Ok(with(&json(self)?, &["\"data\":", data]))
    }
}

/// An object that has a member, with more of them at its end. What is written already need not be written anew.
fn with(object: &str, members: &[&str]) -> String {
    let mut all = String::with_capacity(object.len() + members.iter().map(|m| m.len()).sum::<usize>() + 1);
    all.push_str(&object[..object.len() - 1]);
    all.push(',');
    members.iter().for_each(|m| all.push_str(m));
    all.push('}');
    all
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ForReceiver<'a> {
    access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<api::Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a api::Json>,
}

/// The result, where the receiver wants it inline and it may stand there.
fn inline(outcome: &Outcome, payload: Payload) -> Option<api::Json> {
    match (outcome, payload) {
        (Outcome::Bytes { bytes, inline: true, .. }, Payload::Full) => serde_json::from_slice(bytes).ok(),
        (Outcome::Bytes { .. } | Outcome::Elsewhere(_), _) => None,
    }
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
