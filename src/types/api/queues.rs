//! Queues and what is set for them.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use utoipa::ToSchema;

use super::given;
use crate::types::Millis;

/// Whether a queue hands out jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum QueueState {
    /// It does.
    Open,
    /// It does not; what is submitted waits.
    Paused,
}

impl QueueState {
    /// The text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            QueueState::Open => "open",
            QueueState::Paused => "paused",
        }
    }
}

/// A queue as it stands. Counts go up to 10,001, which means "more".
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// Its name.
    pub queue: String,
    /// Whether it hands out jobs.
    pub state: QueueState,
    /// When it hands out jobs again; absent while it is paused until someone resumes it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub paused_until: Option<Millis>,
    /// How many of its jobs may be leased at once, over all nodes; no limit when absent.
    pub max_in_flight: Option<u32>,
    /// Jobs that are due and wait for a worker, those whose lease ran out included.
    pub depth: u32,
    /// Jobs that wait for their time: scheduled, delayed, or before their next attempt.
    pub scheduled: u32,
    /// Jobs under a lease that holds.
    pub processing: u32,
    /// Since when the longest waiting job is due.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest_due: Option<Millis>,
    /// How long that is, whole seconds.
    pub oldest_age_seconds: Option<u64>,
    /// Half of the last jobs waited no longer for a worker; none before the first job has ended.
    pub wait_p50_ms: Option<u32>,
    /// The same for 95 of 100.
    pub wait_p95_ms: Option<u32>,
    /// Half of the last jobs ran no longer in their last attempt.
    pub run_p50_ms: Option<u32>,
    /// The same for 95 of 100.
    pub run_p95_ms: Option<u32>,
}

/// Changes what is set for a queue; what is left out stays.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeQueue {
    /// 1..100000; `null` takes the limit away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100000)]
    pub max_in_flight: Option<Option<u32>>,
}

/// Pauses a queue.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PauseQueue {
    /// When it goes on by itself, within 365 days; when someone resumes it if left out.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Millis>,
}
