//! What workers send and get.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use utoipa::ToSchema;

use super::Json;
use crate::types::key::LeaseToken;
use crate::types::{JobId, Millis};

/// The most bytes of a result that is kept here; a larger one is kept elsewhere.
pub const RESULT_MAX: usize = 1 << 20;

/// A worker asks for jobs.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Claim {
    /// Who asks, for people who look; at most 255 characters.
    #[schema(max_length = 255)]
    pub worker_id: Option<String>,
    /// How many at the most, 1..500; 1 when left out.
    #[schema(minimum = 1, maximum = 500)]
    pub max: Option<u32>,
    /// Only these types; all when empty or left out. At most 50.
    #[schema(max_items = 50)]
    pub types: Option<Vec<String>>,
    /// How long the lease holds without a heartbeat, 1..3600 seconds; 30 when left out.
    #[schema(minimum = 1, maximum = 3600)]
    pub lease_seconds: Option<u32>,
    /// How long to wait for work, 0..30 seconds; 0 when left out.
    #[schema(minimum = 0, maximum = 30)]
    pub wait_seconds: Option<u32>,
}

/// The jobs a worker got.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Claimed {
    /// Empty when there was nothing in time.
    pub jobs: Vec<ClaimedJob>,
}

/// One job in a worker's hands.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimedJob {
    /// Names the job.
    pub job_id: JobId,
    /// What kind of work it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// As submitted, byte for byte.
    #[schema(value_type = serde_json::Value)]
    pub input: Json,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Proves that this worker holds the job.
    #[schema(value_type = String)]
    pub lease_token: LeaseToken,
    /// When the lease runs out without a heartbeat.
    #[schema(value_type = String, format = DateTime)]
    pub lease_expires_at: Millis,
    /// When the work must be done: the job's deadline or this attempt's time-out, the earlier one.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline_at: Option<Millis>,
    /// The client's own name for the work.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// The client's own object.
    #[schema(value_type = Object)]
    pub metadata: Json,
    /// The trace of the submission (W3C Trace Context).
    pub traceparent: Option<String>,
}

/// A worker is alive and tells how far it is.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Heartbeat {
    /// From the claim.
    #[schema(value_type = String)]
    pub lease_token: LeaseToken,
    /// 0-100.
    #[schema(minimum = 0, maximum = 100)]
    pub progress: Option<u8>,
    /// At most 1,000 characters.
    #[schema(max_length = 1000)]
    pub message: Option<String>,
    /// The new lease from now on, 1..86400 seconds; as long as the claim's when left out.
    #[schema(minimum = 1, maximum = 86400)]
    pub extend_seconds: Option<u32>,
}

/// What a worker learns from its heartbeat.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alive {
    /// When the lease runs out now.
    #[schema(value_type = String, format = DateTime)]
    pub lease_expires_at: Millis,
    /// The client wants the job to end.
    pub cancel_requested: bool,
    /// When the work must be done.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline_at: Option<Millis>,
}

/// The work is done.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Complete {
    /// From the claim.
    #[schema(value_type = String)]
    pub lease_token: LeaseToken,
    /// Any JSON value up to 1 MiB. Excludes `resultUrl`.
    #[schema(value_type = Option<serde_json::Value>)]
    pub result: Option<Json>,
    /// Where the result is kept elsewhere. Excludes `result`.
    #[schema(max_length = 2048)]
    pub result_url: Option<String>,
}

/// The work went wrong.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fail {
    /// From the claim.
    #[schema(value_type = String)]
    pub lease_token: LeaseToken,
    /// What went wrong, for people; 1-4,000 characters.
    #[schema(min_length = 1, max_length = 4000)]
    pub error: String,
    /// What went wrong, for programs; at most 128 characters.
    #[schema(max_length = 128)]
    pub error_code: Option<String>,
    /// Whether another attempt may help; true when left out.
    pub retryable: Option<bool>,
    /// Not again before this many seconds, 0..86400.
    #[schema(minimum = 0, maximum = 86400)]
    pub retry_after_seconds: Option<u32>,
}

/// A worker gives a job back; no attempt is used.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Release {
    /// From the claim.
    #[schema(value_type = String)]
    pub lease_token: LeaseToken,
    /// Not again before this many seconds, 0..86400.
    #[schema(minimum = 0, maximum = 86400)]
    pub delay_seconds: Option<u32>,
}

/// Many outcomes in one request, at most 1,000.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Acks {
    /// The outcomes.
    #[schema(value_type = Vec<Ack>, min_items = 1, max_items = 1000)]
    pub items: Vec<Json>,
}

/// One outcome of many.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ack {
    /// What happened.
    pub op: AckOp,
    /// Names the job.
    pub job_id: JobId,
    /// From the claim.
    #[schema(value_type = String)]
    pub lease_token: LeaseToken,
    /// As for complete.
    #[schema(value_type = Option<serde_json::Value>)]
    pub result: Option<Json>,
    /// As for complete.
    #[schema(max_length = 2048)]
    pub result_url: Option<String>,
    /// As for fail; required there.
    #[schema(max_length = 4000)]
    pub error: Option<String>,
    /// As for fail.
    #[schema(max_length = 128)]
    pub error_code: Option<String>,
    /// As for fail.
    pub retryable: Option<bool>,
    /// As for fail.
    pub retry_after_seconds: Option<u32>,
}

/// What an ack reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AckOp {
    /// The work is done.
    Complete,
    /// The work went wrong.
    Fail,
}
