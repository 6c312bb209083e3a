//! Submitting jobs and seeing them.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use utoipa::ToSchema;

use super::{Json, object, or_default};
use crate::types::job::{CallbackState, JobState, Status, WorkerKind};
use crate::types::key::LeaseToken;
use crate::types::retry::RetryPolicy;
use crate::types::{EndpointId, EventId, JobId, Millis};

/// A request to do one job. Only `type` is required.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubmitJob {
    /// What kind of work it is: 1-128 characters of `A-Za-z0-9._:-`.
    #[serde(rename = "type")]
    #[schema(example = "report.generate", pattern = "^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
    pub kind: String,
    /// Anything; the worker gets it byte for byte. `null` when left out.
    #[schema(value_type = Option<serde_json::Value>)]
    pub input: Option<Json>,
    /// Where the reply is POSTed, with the default policy. Excludes `callback`.
    #[schema(example = "https://hooks.example.com/reports", max_length = 2048)]
    pub callback_url: Option<String>,
    /// Where and how the reply is POSTed. Excludes `callbackUrl`.
    #[serde(default, deserialize_with = "object")]
    pub callback: Option<Callback>,
    /// The queue that workers claim from; `default` when left out.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]
    pub queue: Option<String>,
    /// The client's own name for the work, at most 255 characters.
    #[serde(rename = "ref")]
    #[schema(max_length = 255)]
    pub reference: Option<String>,
    /// -2..2, higher first; 0 when left out.
    #[schema(minimum = -2, maximum = 2)]
    pub priority: Option<i8>,
    /// Not before this instant.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub run_at: Option<Millis>,
    /// The job expires if it is not complete by then.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline_at: Option<Millis>,
    /// The longest one attempt may run, 1..86400 seconds; 600 when left out.
    #[schema(minimum = 1, maximum = 86400)]
    pub timeout_seconds: Option<u32>,
    /// How often the work is tried, 1..100; 3 when left out.
    #[schema(minimum = 1, maximum = 100)]
    pub max_attempts: Option<u32>,
    /// An object for the client's own use, at most 16 KiB; shown in the Job and the webhook as it was written.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Json>,
    /// How long the ended job is kept, 60..2592000 seconds; 604800 when left out.
    #[schema(minimum = 60, maximum = 2592000)]
    pub retain_seconds: Option<u32>,
    /// Who does the work; `pull` when left out.
    pub worker: Option<WorkerKind>,
    /// The first lease of an external job, 1..86400 seconds; 3600 when left out. Only with `worker: "external"`.
    #[schema(minimum = 1, maximum = 86400)]
    pub lease_seconds: Option<u32>,
}

/// Where and how a reply is POSTed.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Callback {
    /// An `https` URL. Required unless `endpointId` is given.
    #[schema(max_length = 2048)]
    pub url: Option<String>,
    /// A standing endpoint; takes the place of `url`, `secret` and `retry`.
    pub endpoint_id: Option<EndpointId>,
    /// `whsec_` + base64 of 24..64 bytes; the tenant's default secret signs when left out.
    pub secret: Option<String>,
    /// The events to send; the four terminal ones when left out.
    pub events: Option<Vec<String>>,
    /// Headers to add, at most 20; names that Ringback or HTTP itself uses are refused.
    #[serde(default, deserialize_with = "super::map")]
    pub headers: Option<std::collections::BTreeMap<String, String>>,
    /// `full` inlines a JSON result up to 64 KiB, `thin` never; `full` when left out.
    pub payload: Option<Payload>,
    /// `standard` when left out.
    pub format: Option<Format>,
    /// Anything, at most 16 KiB; comes back in the webhook's `data`.
    #[schema(value_type = Option<serde_json::Value>)]
    pub context: Option<Json>,
    /// Nothing is sent after this instant.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Millis>,
    /// Told when this callback is dead.
    #[schema(max_length = 2048)]
    pub failure_url: Option<String>,
    /// When a failed attempt is repeated.
    #[serde(default, deserialize_with = "object")]
    pub retry: Option<RetryPolicy>,
}

/// How much of the reply a webhook carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// The job and a JSON result up to 64 KiB.
    #[default]
    Full,
    /// The job alone.
    Thin,
}

/// The shape of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Ringback's envelope as Standard Webhooks draws it.
    #[default]
    Standard,
    /// CloudEvents 1.0, binary content mode.
    Cloudevents,
}

/// The answer to a submission (202): the seed's four members always.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobAccepted {
    /// Names the job.
    pub job_id: JobId,
    /// `queued`, or `processing` for an external job.
    pub status: Status,
    /// Where to poll; absolute.
    pub status_url: String,
    /// Wait plus run as learned for this type, whole seconds, at least 1.
    pub estimated_seconds: u32,
    /// The finer word.
    pub state: JobState,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Millis,
    /// Reads this one job without an API key.
    pub access_token: String,
    /// Holds the lease of an external job.
    #[schema(value_type = Option<String>)]
    pub lease_token: Option<LeaseToken>,
    /// When the lease of an external job runs out.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub lease_expires_at: Option<Millis>,
}

/// A job as it stands. The seed's JobStatus, and more.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Names the job.
    pub job_id: JobId,
    /// One of the seed's four words.
    pub status: Status,
    /// 0-100, while processing and known.
    #[schema(minimum = 0, maximum = 100)]
    pub progress: Option<u8>,
    /// The worker's last message, while processing.
    pub message: Option<String>,
    /// Where the result is, once complete.
    pub result_url: Option<String>,
    /// Why it failed, was cancelled or expired.
    pub error: Option<String>,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Millis,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub completed_at: Option<Millis>,
    /// The finer word.
    pub state: JobState,
    /// The error for programs.
    pub error_info: Option<ErrorInfo>,
    /// What kind of work it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The queue.
    pub queue: String,
    /// The client's own name for the work.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// -2..2, higher first.
    pub priority: i8,
    /// Who does the work.
    pub worker: WorkerKind,
    /// Attempts begun.
    pub attempt: u32,
    /// Attempts allowed.
    pub max_attempts: u32,
    /// The number of the job's last event.
    pub sequence: i64,
    /// Not before this instant, while scheduled or retrying.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub run_at: Option<Millis>,
    /// Expires if not complete by then.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline_at: Option<Millis>,
    /// When the current or last attempt began.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Millis>,
    /// When the ended job is removed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Millis>,
    /// A cancel was asked for and the worker is being told.
    pub cancel_requested: Option<bool>,
    /// The client's own object.
    #[schema(value_type = Object)]
    pub metadata: Json,
    /// Where the terminal event's delivery stands; not in webhooks.
    pub callback_state: Option<CallbackState>,
    /// As told at submission.
    pub estimated_seconds: Option<u32>,
}

/// Why a job failed, for programs.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorInfo {
    /// The worker's word, or `worker-lost`, `timeout`, `cancelled`, `deadline-passed`, `released`; with a push worker also
    /// `worker-unreachable`, `http-` and its status, `result-too-large`, `content-type`, `content-encoding`.
    pub code: Option<String>,
    /// What was said of it, while the job is to be tried again; at its end that stands in `error`.
    pub message: Option<String>,
    /// Whether the worker said that another attempt may help.
    pub retryable: bool,
    /// The attempt that ended so.
    pub attempt: u32,
}

/// Many jobs in one request: at most 1,000 and 4 MiB.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubmitBatch {
    /// All or none.
    #[serde(default, deserialize_with = "or_default")]
    pub atomic: bool,
    /// The jobs.
    #[schema(value_type = Vec<SubmitJob>, min_items = 1, max_items = 1000)]
    pub jobs: Vec<Json>,
}

/// Why a job is cancelled.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cancel {
    /// At most 1,000 characters; stands in the job's `error`.
    #[schema(max_length = 1000)]
    pub reason: Option<String>,
}

/// One event of a job.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// `job.queued`, `job.started` ...
    #[serde(rename = "type")]
    pub kind: String,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Millis,
    /// Names the event.
    pub event_id: EventId,
    /// Whose event it is; a webhook's body tells it in `data` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Gap-free per job.
    pub sequence: i64,
    /// The job as it stood at the event.
    #[schema(value_type = Object)]
    pub data: Json,
}
