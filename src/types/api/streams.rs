//! What a client and the node say to each other on `GET /v1/ws`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Event, map_or_default};
use crate::types::JobId;
use crate::types::problem::ProblemBody;

/// The subprotocol.
pub const SUBPROTOCOL: &str = "ringback.v1";

/// What a client says.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SocketRequest {
    /// What to do.
    pub op: SocketOp,
    /// Of which jobs, at most 1,000.
    pub job_ids: Vec<String>,
    /// With `subscribe`: the last sequence that the client has of a job; all of its events otherwise.
    #[serde(default, deserialize_with = "map_or_default", skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, Option<u64>>>)]
    pub after: BTreeMap<String, u64>,
}

/// What a client may want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum SocketOp {
    /// Send the events of these jobs, up to their end.
    Subscribe,
    /// Send them no longer.
    Unsubscribe,
}

/// What the node says.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "op", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum SocketMessage {
    /// A job has an event.
    Event(Event),
    /// A job that was subscribed to has ended, and has no event above `after`.
    Ended {
        /// The job, which is not watched.
        job_id: JobId,
    },
    /// Something was not done; all else goes on.
    Error {
        /// The job that is not watched, or no longer.
        #[serde(skip_serializing_if = "Option::is_none")]
        job_id: Option<JobId>,
        /// Why.
        problem: ProblemBody,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{EventId, Millis, api};

    #[test]
    fn an_event_stands_beside_its_op() {
        let job = JobId::mint(Millis(0), [0; 10]);
        let event = Event {
            kind: "job.queued".to_owned(),
            timestamp: Millis(0),
            event_id: EventId::mint(Millis(0), [0; 10]),
            job_id: Some(job),
            sequence: 1,
            data: api::raw("{\"jobId\":\"x\"}".to_owned()),
        };
        let told = serde_json::to_value(SocketMessage::Event(event)).unwrap();
        assert_eq!(told["op"], "event");
        assert_eq!((&told["jobId"], &told["sequence"]), (&job.to_string().into(), &1.into()));
        assert_eq!((&told["type"], &told["data"]["jobId"]), (&"job.queued".into(), &"x".into()));
    }
}
