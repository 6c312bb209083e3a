//! Deliveries, dead letters and redrives.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use utoipa::ToSchema;

use super::{object_or_default, or_default};
use crate::types::delivery::{DeliveryState, HeldReason, Phases};
use crate::types::{DeliveryId, EndpointId, EventId, JobId, Millis, RedriveId};

/// One event on its way to one receiver.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Names the delivery; the `webhook-id` of every attempt.
    pub delivery_id: DeliveryId,
    /// The event.
    pub event_id: EventId,
    /// The event's type.
    pub event_type: String,
    /// The job it speaks of.
    pub job_id: Option<JobId>,
    /// The account it belongs to.
    pub account: Option<String>,
    /// The standing endpoint it goes to.
    pub endpoint_id: Option<EndpointId>,
    /// Where it is POSTed.
    pub url: String,
    /// Where it stands.
    pub state: DeliveryState,
    /// Why it is held.
    pub held_reason: Option<HeldReason>,
    /// Requests begun.
    pub attempt: u32,
    /// Attempts the policy allows in a round.
    pub max_attempts: u32,
    /// When it is tried next.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<Millis>,
    /// The status of the last answer.
    pub last_status: Option<u16>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Millis,
    /// When it was delivered, dead or cancelled.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Millis>,
    /// Every request, oldest first; only when one delivery is asked for.
    pub attempts: Option<Vec<Attempt>>,
}

/// One request to a receiver.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// From 1, over all rounds.
    pub number: u32,
    /// When it was committed to, before the first byte.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Millis,
    /// How long it took; absent if the outcome is unknown.
    pub duration_ms: Option<u32>,
    /// Where the time went.
    pub phases: Option<Phases>,
    /// The address that was dialled last; never shown if it was refused.
    pub address: Option<String>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// What went wrong: `dns`, `connect`, `tls`, `timeout`, `reset`, `bad-response`, `response-too-large`, `refused`, `unknown`.
    pub error: Option<String>,
    /// The answer's headers.
    pub response_headers: Option<Vec<(String, String)>>,
    /// The first 16 KiB of the answer as text; bytes that are not UTF-8 are replaced.
    pub response_body: Option<String>,
    /// When the next attempt was set for.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<Millis>,
}

/// A delivery that was given up.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// The delivery's id.
    pub delivery_id: DeliveryId,
    /// The event's type.
    pub event_type: String,
    /// The job it speaks of.
    pub job_id: Option<JobId>,
    /// The account it belongs to.
    pub account: Option<String>,
    /// The standing endpoint it went to.
    pub endpoint_id: Option<EndpointId>,
    /// Where it was POSTed.
    pub url: String,
    /// `exhausted`, `gone`, `aborted`, `expired`, `refused`, `poison`, `unsignable`.
    pub reason: String,
    /// Requests made.
    pub attempts: u32,
    /// What went wrong first.
    pub first_error: Option<String>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When it was given up.
    #[schema(value_type = String, format = DateTime)]
    pub died_at: Millis,
}

/// Which deliveries to send again.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplayFilter {
    /// These; at most 1,000.
    #[schema(max_items = 1000)]
    pub ids: Option<Vec<DeliveryId>>,
    /// Of this job.
    pub job_id: Option<JobId>,
    /// To this endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// `true`: to no standing endpoint. `false`: to any of them.
    pub ad_hoc: Option<bool>,
    /// Of this account.
    pub account: Option<String>,
    /// To this host.
    pub host: Option<String>,
    /// Of this event type.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Given up for this reason, or with this last error such as `timeout` or `status 503`.
    pub reason: Option<String>,
    /// In this state: `delivered`, `dead` (when left out) or `cancelled`; only where deliveries are replayed.
    pub state: Option<DeliveryState>,
    /// Given up, or ended, at or after.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Millis>,
    /// Given up, or ended, before.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Millis>,
}

/// Sends dead letters or deliveries again.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Replay {
    /// All of the tenant's dead letters, or dead deliveries, when empty.
    #[serde(default, deserialize_with = "object_or_default")]
    pub filter: ReplayFilter,
    /// Only count.
    #[serde(default, deserialize_with = "or_default")]
    pub dry_run: bool,
    /// How many a second, 1..10000; as fast as the lanes allow when left out.
    #[schema(minimum = 1, maximum = 10000)]
    pub rate_per_second: Option<u32>,
}

/// What a replay found.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// Names the running redrive; absent in a dry run.
    pub redrive_id: Option<RedriveId>,
    /// How many matched at that moment.
    pub matched: u64,
    /// `matched` counts only the newest 100,000 that there were to look at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_least: bool,
}

/// A replay under way or done.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Redrive {
    /// Names it.
    pub redrive_id: RedriveId,
    /// What it takes: `deadLetters` or `deliveries`.
    pub of: String,
    /// Which of them.
    pub filter: Option<ReplayFilter>,
    /// How many a second; as fast as the lanes allow when absent.
    pub rate_per_second: Option<u32>,
    /// `running`, `done` or `cancelled`.
    pub state: String,
    /// How many matched at the start.
    pub matched: u64,
    /// `matched` counts only the newest 100,000 that there were to look at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_least: bool,
    /// How many have been queued again.
    pub redriven: u64,
    /// How many were not: their endpoint is deleted, or they were sent again or discarded meanwhile.
    #[serde(default)]
    pub skipped: u64,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Millis,
    /// When it was done or cancelled.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Millis>,
}

/// How many letters have one error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorCount {
    /// What went wrong last.
    pub error: String,
    /// How many.
    pub letters: u64,
}

/// Dead letters of one receiver that died close to each other.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Outage {
    /// The standing endpoint they went to.
    pub endpoint_id: Option<EndpointId>,
    /// The host they went to.
    pub host: String,
    /// How many letters.
    pub letters: u64,
    /// What went wrong, the most frequent first.
    pub errors: Vec<ErrorCount>,
    /// When the first of them died.
    #[schema(value_type = String, format = DateTime)]
    pub first_died_at: Millis,
    /// When the last of them died.
    #[schema(value_type = String, format = DateTime)]
    pub last_died_at: Millis,
    /// Replays exactly this outage.
    pub filter: ReplayFilter,
}
