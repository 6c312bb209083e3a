//! Deliveries, dead letters, redrives and lanes.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use utoipa::ToSchema;

use super::{object_or_default, or_default};
use crate::types::delivery::{DeliveryState, HeldReason, Phases};
use crate::types::{DeliveryId, EndpointId, EventId, JobId, LaneId, Millis, RedriveId};

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
    /// The status of the answer.
    pub status: Option<u16>,
    /// What went wrong: `dns`, `connect`, `tls`, `timeout`, `reset`, `bad-response`, `response-too-large`, `refused`, `lease-ran-out`, `unknown`.
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
    /// Of this account.
    pub account: Option<String>,
    /// To this host.
    pub host: Option<String>,
    /// Of this event type.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Given up for this reason.
    pub reason: Option<String>,
    /// Given up at or after.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Millis>,
    /// Given up before.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Millis>,
}

/// Sends dead letters again.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Replay {
    /// All of the tenant's dead letters when empty.
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
    /// How many letters matched at that moment.
    pub matched: u64,
}

/// A replay under way or done.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Redrive {
    /// Names it.
    pub redrive_id: RedriveId,
    /// `running`, `done` or `cancelled`.
    pub state: String,
    /// How many letters matched at the start.
    pub matched: u64,
    /// How many have been queued again.
    pub redriven: u64,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Millis,
    /// When it was done or cancelled.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Millis>,
}

/// Whether a lane sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum LaneState {
    /// It sends.
    Open,
    /// It waits as a `Retry-After` asked, or as someone wished.
    Paused,
    /// The breaker is open.
    Broken,
}

impl LaneState {
    /// The text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            LaneState::Open => "open",
            LaneState::Paused => "paused",
            LaneState::Broken => "broken",
        }
    }

    /// Reads the text form.
    pub fn from_word(word: &str) -> Option<LaneState> {
        [LaneState::Open, LaneState::Paused, LaneState::Broken].into_iter().find(|s| s.as_str() == word)
    }
}

/// The row of deliveries to one endpoint or one ad-hoc origin.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lane {
    /// Names the lane.
    pub lane_id: LaneId,
    /// `endpoint` or `origin`.
    pub kind: String,
    /// The standing endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// The origin of ad-hoc URLs.
    pub origin: Option<String>,
    /// Whether anything is sent now.
    pub state: LaneState,
    /// Why nothing is sent now.
    pub held_reason: Option<String>,
    /// Until when nothing is sent.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub held_until: Option<Millis>,
    /// Deliveries owed; counted up to 10,001.
    pub depth: u64,
    /// When the oldest one was due.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest_due: Option<Millis>,
    /// Requests under way.
    pub in_flight: u64,
    /// How many requests may be under way now.
    pub max_in_flight: u32,
    /// Infrastructure failures in a row.
    pub failures: u32,
}
