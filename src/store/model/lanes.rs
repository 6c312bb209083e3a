//! What the verbs about lanes and replays take and give.

use super::DueDelivery;
use crate::types::api::LanePlace;
use crate::types::lane::Limits;
use crate::types::{EndpointId, LaneId, Millis, TenantId, api};

/// How many a replay's filter finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matched {
    /// So many.
    pub count: u64,
    /// There are more to look at than were looked at.
    pub at_least: bool,
}

/// What a replay sends again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayOf {
    /// Dead letters.
    Letters,
    /// Deliveries in the state that the filter names, dead ones if it names none.
    Deliveries,
}

/// Which dead letters are looked at for outages.
#[derive(Debug, Clone, Default)]
pub struct OutageFilter {
    /// To this endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// To this host.
    pub host: Option<String>,
    /// Died at or after.
    pub since: Option<Millis>,
    /// Died before.
    pub until: Option<Millis>,
}

/// Which lanes a list shows, and in which order.
#[derive(Debug, Clone, Copy, Default)]
pub struct LaneFilter {
    /// In this state.
    pub state: Option<api::LaneState>,
    /// In which order, and from where on.
    pub order: LaneOrder,
}

/// The order of a list of lanes, and behind which one of the page before it goes on.
#[derive(Debug, Clone, Copy)]
pub enum LaneOrder {
    /// The youngest first.
    Youngest(Option<LaneId>),
    /// Those first whose oldest delivery waits longest.
    OldestDue(Option<LanePlace>),
}

impl Default for LaneOrder {
    fn default() -> LaneOrder {
        LaneOrder::Youngest(None)
    }
}

/// What is kept of a lane between owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneState {
    /// Names it.
    pub id: LaneId,
    /// How many requests may be under way.
    pub concurrency: u32,
    /// Infrastructure failures in a row.
    pub failures: u32,
    /// How often the breaker has opened in a row.
    pub opened: u32,
    /// Nothing is sent until then.
    pub held_until: Option<Millis>,
    /// `retry-after` or `breaker`.
    pub held_reason: Option<String>,
    /// When the bucket of its rate is full again.
    pub rate_at: Option<Millis>,
    /// When someone last put an end to what had been found out of its receiver.
    pub cleared_at: Option<Millis>,
}

/// What someone set for a lane, which its owner goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneSettings {
    /// Nothing is sent until then; [`Millis::MAX`] until someone resumes it.
    pub paused_until: Option<Millis>,
    /// When someone last put an end to what the owner had found out: an open breaker, a receiver's pause.
    pub cleared_at: Option<Millis>,
    /// How much is sent.
    pub limits: Limits,
}

/// A lane that a node has come to own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedLane {
    /// How its owner before left it.
    pub state: LaneState,
    /// Whose it is.
    pub tenant: TenantId,
    /// What is set for it.
    pub set: LaneSettings,
    /// The store may hold something due in it that no look shows any more. Else only what was committed late may lie behind
    /// their floor, for the pass without one.
    pub more: bool,
}

/// What is due in one lane.
#[derive(Debug, Default)]
pub struct InLane {
    /// The oldest, whatever their turn.
    pub oldest: Vec<DueDelivery>,
    /// The oldest of some of the turns, where `oldest` did not show all.
    pub others: Vec<DueDelivery>,
    /// The oldest first attempts, where `oldest` did not show all and had retries among them.
    pub firsts: Vec<DueDelivery>,
    /// There may be more.
    pub more: bool,
    /// Behind which turn the next read is to look; None: from the first.
    pub turn: Option<i64>,
    /// In an ordered lane: the next one, where it is not due yet; all others wait for it.
    pub waits: Option<DueDelivery>,
}
