//! Standing endpoints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use utoipa::ToSchema;

use super::{Format, Payload, given, given_object, object};
use crate::types::endpoint::{EndpointState, Scheme};
use crate::types::retry::RetryPolicy;
use crate::types::{DeliveryId, EndpointId, Millis};

/// A standing endpoint as it stands.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Names it.
    pub endpoint_id: EndpointId,
    /// Where its deliveries are POSTed.
    pub url: String,
    /// It is sent only this account's events; when absent only those that have no account.
    pub account: Option<String>,
    /// The event types it is sent: `*`, `invoice.paid`, or `invoice.*` for all below.
    pub events: Vec<String>,
    /// For people.
    pub description: Option<String>,
    /// The names of the headers that are added; the values are not shown.
    pub headers: Option<BTreeMap<String, String>>,
    /// The most requests a second.
    pub rate_limit_per_second: Option<u32>,
    /// The most requests under way at once.
    pub max_in_flight: Option<u32>,
    /// How long one attempt may take.
    pub timeout_seconds: u32,
    /// When a failed attempt is repeated.
    pub retry: RetryPolicy,
    /// Whether a JSON result is inlined.
    pub payload: Payload,
    /// The shape of a webhook.
    pub format: Format,
    /// The signatures of a webhook.
    pub schemes: Vec<Scheme>,
    /// Whether its deliveries are sent one after the other, in the order of their events.
    pub ordered: bool,
    /// Whether it is sent anything.
    pub state: EndpointState,
    /// Why it is paused or disabled: `requested`, `failing` (days without a success), `gone` (it answered 410).
    pub state_reason: Option<String>,
    /// Since when it stands so.
    #[schema(value_type = String, format = DateTime)]
    pub state_since: Millis,
    /// Whether it has echoed a challenge from its present URL.
    pub verified: bool,
    /// When that was.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub verified_at: Option<Millis>,
    /// The first failed attempt since its last success.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub failing_since: Option<Millis>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Millis,
    /// When something was last set.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Millis,
    /// The `whsec_` secret that signs; only in the answer to its creation, and in a repeated one until it is rotated.
    pub secret: Option<String>,
    /// The `whpk_` keys that verify `v1a`, the newest first; with that scheme only, and not in lists.
    pub public_keys: Option<Vec<String>>,
}

/// A request for a standing endpoint. Only `url` is required.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewEndpoint {
    /// An `https` URL.
    #[schema(example = "https://hooks.example.com/events", max_length = 2048)]
    pub url: String,
    /// Only this account's events; only those without an account when left out.
    #[schema(min_length = 1, max_length = 255)]
    pub account: Option<String>,
    /// The event types to send, all when left out; none at all when empty: then only what names it.
    #[schema(max_items = 100, example = json!(["invoice.*"]))]
    pub events: Option<Vec<String>>,
    /// For people; at most 1,000 characters.
    #[schema(max_length = 1000)]
    pub description: Option<String>,
    /// Headers to add, at most 20; names that Ringback or HTTP itself uses are refused.
    #[serde(default, deserialize_with = "super::map")]
    pub headers: Option<BTreeMap<String, String>>,
    /// 1..10000; no limit when left out.
    #[schema(minimum = 1, maximum = 10000)]
    pub rate_limit_per_second: Option<u32>,
    /// 1..512; what the lane adapts to when left out.
    #[schema(minimum = 1, maximum = 512)]
    pub max_in_flight: Option<u32>,
    /// 1..30; 15 when left out.
    #[schema(minimum = 1, maximum = 30)]
    pub timeout_seconds: Option<u32>,
    /// When a failed attempt is repeated.
    #[serde(default, deserialize_with = "object")]
    pub retry: Option<RetryPolicy>,
    /// `full` when left out.
    pub payload: Option<Payload>,
    /// `standard` when left out.
    pub format: Option<Format>,
    /// Signatures beside `v1`, which is always there.
    pub schemes: Option<Vec<Scheme>>,
    /// `false` when left out.
    pub ordered: Option<bool>,
}

/// Changes an endpoint: what is left out stays, `null` takes a member back to its default.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeEndpoint {
    /// Pending deliveries go to the new one too; it is not verified yet.
    #[schema(max_length = 2048)]
    pub url: Option<String>,
    /// Only this account's events.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255)]
    pub account: Option<Option<String>>,
    /// The event types to send.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>, max_items = 100)]
    pub events: Option<Option<Vec<String>>>,
    /// For people.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, max_length = 1000)]
    pub description: Option<Option<String>>,
    /// All headers to add, in place of those before; the value `redacted` keeps that of a header that is there.
    #[serde(default, deserialize_with = "super::given_map")]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    pub headers: Option<Option<BTreeMap<String, String>>>,
    /// 1..10000.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10000)]
    pub rate_limit_per_second: Option<Option<u32>>,
    /// 1..512.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 512)]
    pub max_in_flight: Option<Option<u32>>,
    /// 1..30.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 30)]
    pub timeout_seconds: Option<Option<u32>>,
    /// When a failed attempt of a delivery made from now on is repeated.
    #[serde(default, deserialize_with = "given_object")]
    #[schema(value_type = Option<RetryPolicy>)]
    pub retry: Option<Option<RetryPolicy>>,
    /// For events from now on.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Payload>)]
    pub payload: Option<Option<Payload>>,
    /// For events from now on.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Format>)]
    pub format: Option<Option<Format>>,
    /// Signatures beside `v1`.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<Scheme>>)]
    pub schemes: Option<Option<Vec<Scheme>>>,
    /// One after the other.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<bool>)]
    pub ordered: Option<Option<bool>>,
}

impl From<NewEndpoint> for ChangeEndpoint {
    fn from(new: NewEndpoint) -> ChangeEndpoint {
        ChangeEndpoint {
            url: Some(new.url),
            account: Some(new.account),
            events: Some(new.events),
            description: Some(new.description),
            headers: Some(new.headers),
            rate_limit_per_second: Some(new.rate_limit_per_second),
            max_in_flight: Some(new.max_in_flight),
            timeout_seconds: Some(new.timeout_seconds),
            retry: Some(new.retry),
            payload: Some(new.payload),
            format: Some(new.format),
            schemes: Some(new.schemes),
            ordered: Some(new.ordered),
        }
    }
}

/// What came of a request that was sent to an endpoint at once.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointProbe {
    /// Whether the endpoint answered with a 2xx; to a challenge, whether it echoed it.
    pub ok: bool,
    /// The delivery that was made for it.
    pub delivery_id: DeliveryId,
    /// The status of the answer.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
    /// How long it took.
    pub duration_ms: u32,
    /// The first 16 KiB of the answer as text.
    pub response_body: Option<String>,
}
