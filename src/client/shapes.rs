//! What the client takes and gives beside the bodies of the API.

use bytes::Bytes;
use serde::Serialize;
use serde_with::skip_serializing_none;

use crate::types::problem::ProblemBody;
use crate::types::{Millis, api};

/// How a submission is sent.
#[derive(Debug, Clone, Default)]
pub struct SubmitOptions<'a> {
    /// Recognises a repeated request.
    pub idempotency_key: Option<&'a str>,
}

/// A submission that was taken.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The answer.
    pub job: api::JobAccepted,
    /// When to poll first, in seconds.
    pub retry_after: Option<u32>,
    /// An earlier request with the same idempotency key made this job.
    pub replayed: bool,
}

/// What a poll brought.
#[derive(Debug, Clone)]
pub enum Polled {
    /// The job as it stands.
    Job {
        /// The job.
        job: Box<api::Job>,
        /// Give it back at the next poll.
        etag: Option<String>,
        /// When to poll again, in seconds; none once it has ended.
        retry_after: Option<u32>,
    },
    /// Nothing has changed since the `ETag` that was sent (304).
    Unchanged {
        /// When to poll again, in seconds.
        retry_after: Option<u32>,
    },
    /// The service asks for patience (429, 503).
    Busy {
        /// When to poll again, in seconds.
        retry_after: Option<u32>,
    },
}

/// The result of a complete job.
#[derive(Debug, Clone)]
pub enum JobResult {
    /// The worker's bytes.
    Bytes {
        /// As the worker gave it.
        content_type: String,
        /// The bytes.
        bytes: Bytes,
    },
    /// It is kept elsewhere; never followed.
    Elsewhere(String),
}

/// One answer of a request that asked for many.
pub type Answer<T> = std::result::Result<T, Box<ProblemBody>>;

/// Which part of a list.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PageQuery {
    /// 1..200.
    pub limit: Option<u32>,
    /// The `nextCursor` of the page before.
    pub cursor: Option<String>,
}

/// Which jobs a list shows.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobQuery {
    /// One of the seed's four words.
    pub status: Option<String>,
    /// One of the finer words.
    pub state: Option<String>,
    /// Of this type.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// In this queue.
    pub queue: Option<String>,
    /// With this client name.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// Accepted at or after.
    pub created_after: Option<Millis>,
    /// Accepted before.
    pub created_before: Option<Millis>,
    /// Which part.
    #[serde(flatten)]
    pub page: PageQuery,
}

/// Which deliveries a list shows.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryQuery {
    /// Of this job.
    pub job_id: Option<String>,
    /// To this endpoint.
    pub endpoint_id: Option<String>,
    /// Of this account.
    pub account: Option<String>,
    /// In this state.
    pub state: Option<String>,
    /// To this host.
    pub host: Option<String>,
    /// Which part.
    #[serde(flatten)]
    pub page: PageQuery,
}

/// Which dead letters a list shows.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DeadLetterQuery {
    /// The same members as for a replay.
    #[serde(flatten)]
    pub filter: api::ReplayFilter,
    /// Which part.
    #[serde(flatten)]
    pub page: PageQuery,
}

/// Which lanes a list shows.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LaneQuery {
    /// `open`, `paused` or `broken`.
    pub state: Option<String>,
    /// `oldestDue`: those first whose oldest delivery waits longest.
    pub sort: Option<String>,
    /// Which part.
    #[serde(flatten)]
    pub page: PageQuery,
}

/// Which outages a list shows.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutageQuery {
    /// To this endpoint.
    pub endpoint_id: Option<String>,
    /// To this host.
    pub host: Option<String>,
    /// Whose letters died at or after.
    pub since: Option<Millis>,
    /// Whose letters died before.
    pub until: Option<Millis>,
    /// 1..200.
    pub limit: Option<u32>,
}
