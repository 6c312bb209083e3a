//! Published events and the tenant's feed.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use utoipa::ToSchema;

use super::{Json, or_default};
use crate::types::{EventId, JobId, Millis};

/// An event to publish.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PublishEvent {
    /// What happened; `job.*`, `endpoint.*`, `delivery.*` and `webhook.*` are the service's own.
    #[serde(rename = "type")]
    #[schema(example = "invoice.paid", pattern = "^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
    pub kind: String,
    /// Any JSON but `null`; receivers get it byte for byte.
    #[schema(value_type = serde_json::Value, required)]
    pub data: Option<Json>,
    /// Only this account's endpoints are told; when left out only those that have no account.
    #[schema(min_length = 1, max_length = 255)]
    pub account: Option<String>,
    /// The publisher's own name for the event: published again within 24 hours it is the same event.
    #[schema(min_length = 1, max_length = 255)]
    pub id: Option<String>,
}

/// Many events in one request: at most 1,000 and 4 MiB.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PublishBatch {
    /// All or none.
    #[serde(default, deserialize_with = "or_default")]
    pub atomic: bool,
    /// The events.
    #[schema(value_type = Vec<PublishEvent>, min_items = 1, max_items = 1000)]
    pub events: Vec<Json>,
}

/// An event that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventAccepted {
    /// Names it.
    pub event_id: EventId,
    /// To how many endpoints it goes.
    pub deliveries: u64,
}

/// An event of the tenant's feed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeedEvent {
    /// `job.completed`, `invoice.paid` ...
    #[serde(rename = "type")]
    pub kind: String,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Millis,
    /// Names the event, here and in its webhooks.
    pub event_id: EventId,
    /// The job it belongs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Its number among the events of its job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// The account it belongs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What was published, byte for byte, or the job as it stood; `{}` once the job is past its retention.
    #[schema(value_type = serde_json::Value)]
    pub data: Json,
}
