//! Lanes, and why a delivery stands where it stands.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use utoipa::ToSchema;

use crate::types::delivery::{DeliveryState, HeldReason};
use crate::types::{DeliveryId, EndpointId, LaneId, Millis};

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

/// Pauses a lane.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PauseLane {
    /// When it goes on by itself, within 365 days; when someone resumes it if left out.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Millis>,
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
    /// Why nothing is sent now: `paused`, `disabled`, `breaker` or `retry-after`.
    pub held_reason: Option<String>,
    /// Until when nothing is sent; with `breaker` one probe goes then. Absent if someone has to resume it.
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
    /// How many requests may begin in a second.
    pub rate_per_second: Option<u32>,
    /// One after the other, in order.
    pub ordered: bool,
    /// Infrastructure failures in a row.
    pub failures: u32,
}

impl Lane {
    /// Its place among lanes by what waits longest; where nothing waits it is one of the last.
    pub fn place(&self) -> LanePlace {
        LanePlace { oldest_due: self.oldest_due.unwrap_or(Millis::MAX), lane_id: self.lane_id }
    }
}

/// A place in a list of lanes by what waits longest. It stays where it is when its lane moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanePlace {
    /// When the oldest that waited in it was due.
    pub oldest_due: Millis,
    /// The lane that was there.
    pub lane_id: LaneId,
}

/// The text is no place in a list of lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPlace;

impl fmt::Display for LanePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.oldest_due, self.lane_id)
    }
}

impl FromStr for LanePlace {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<LanePlace, BadPlace> {
        let (due, lane) = text.split_once(' ').ok_or(BadPlace)?;
        let (oldest_due, lane_id) = (due.parse().map_err(|_| BadPlace)?, lane.parse().map_err(|_| BadPlace)?);
        Ok(LanePlace { oldest_due, lane_id })
    }
}

/// What happens to a delivery next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum NextStep {
    /// It is sent.
    Attempt,
    /// The outcome of the request under way is written down.
    Outcome,
    /// A probe shows whether its receiver is back.
    Probe,
    /// Someone resumes its lane or its endpoint.
    Resume,
    /// Nothing, unless someone asks for it.
    Nothing,
}

impl NextStep {
    /// The text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            NextStep::Attempt => "attempt",
            NextStep::Outcome => "outcome",
            NextStep::Probe => "probe",
            NextStep::Resume => "resume",
            NextStep::Nothing => "nothing",
        }
    }
}

/// Why a delivery stands where it stands, and what happens next: `why` and `next` for people, the rest for programs.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// Where it stands.
    pub state: DeliveryState,
    /// Why it is held.
    pub held_reason: Option<HeldReason>,
    /// Why, in words.
    pub why: String,
    /// What happens next.
    pub next_step: NextStep,
    /// The same in words.
    pub next: String,
    /// When exactly, where that is known.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_at: Option<Millis>,
    /// Requests begun.
    pub attempt: u32,
    /// Attempts that its policy still allows in this round; absent once it has ended.
    pub attempts_left: Option<u32>,
    /// The status of the last answer.
    pub last_status: Option<u16>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Nothing is sent after this.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Millis>,
    /// Deliveries of its lane that are sent before it; counted up to 1,001.
    pub ahead: u32,
    /// Its lane, for a key that is narrowed to nothing.
    pub lane: Option<Lane>,
}
