//! Why a delivery stands where it stands, and what happens next: from facts to words, without a store or a clock.

use std::time::Duration;

use super::Millis;
use super::api::{Delivery, Explanation, Lane, NextStep};
use super::delivery::{DeadReason, DeliveryState, HeldReason};
use super::lane::{BREAKS_AT, not_before};

/// Deliveries ahead of one are counted up to this.
pub const AHEAD: u32 = 1_001;

/// What is due and not sent after so long waits for a slot of its node: looking takes less.
const LONG_DUE: Duration = Duration::from_secs(15);

/// Who sends what a lane owes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hands {
    /// A living node has it.
    Owned,
    /// Nodes are alive, and none of them has it.
    Free,
    /// No node that delivers is alive.
    Nobody,
}

/// What the store knows of a delivery at one moment.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The moment.
    pub now: Millis,
    /// The delivery, without its attempts.
    pub delivery: Delivery,
    /// When it is due, or until when a node has it; None once it has ended.
    pub due_at: Option<Millis>,
    /// Attempts of this round that the policy has counted.
    pub used: u32,
    /// Nothing is sent after this.
    pub expires_at: Option<Millis>,
    /// Why it is a dead letter, if it is one.
    pub dead: Option<DeadReason>,
    /// Its lane, once a node has had it.
    pub lane: Option<Lane>,
    /// In whose hands that is.
    pub hands: Hands,
    /// Why its endpoint is not enabled, if so.
    pub state_reason: Option<String>,
    /// Its endpoint is deleted.
    pub endpoint_gone: bool,
    /// Deliveries that go before it in its lane, counted up to [`AHEAD`].
    pub ahead: u32,
}

/// What is said of a situation.
struct Said {
    why: String,
    step: NextStep,
    next: &'static str,
    at: Option<Millis>,
}

/// Explains one delivery.
pub fn explain(facts: Facts) -> Explanation {
    let said = expiring(&facts, say(&facts));
    let owed = facts.due_at.is_some();
    Explanation {
        delivery_id: facts.delivery.delivery_id,
        state: facts.delivery.state,
        held_reason: facts.delivery.held_reason,
        why: said.why,
        next_step: said.step,
        next: said.next.to_owned(),
        next_at: said.at,
        attempt: facts.delivery.attempt,
        attempts_left: owed.then(|| facts.delivery.max_attempts.saturating_sub(facts.used)),
        last_status: facts.delivery.last_status,
        last_error: facts.delivery.last_error,
        expires_at: facts.expires_at,
        ahead: facts.ahead,
        lane: facts.lane,
    }
}

fn say(facts: &Facts) -> Said {
    let nothing = |why: String, next| Said { why, step: NextStep::Nothing, next, at: None };
    let again = |next| if facts.endpoint_gone { "nothing; its endpoint is deleted" } else { next };
    match facts.delivery.state {
        DeliveryState::Delivered => {
            let status = facts.delivery.last_status.map_or("2xx".to_owned(), |status| status.to_string());
            let next = again("nothing; a retry or a replay would send it again");
            nothing(format!("the receiver answered {status}"), next)
        }
        DeliveryState::Cancelled => {
            let next = again("nothing; a retry or a replay would send it again");
            nothing("it was taken back".to_owned(), next)
        }
        DeliveryState::Dead => {
            let why = facts.dead.map_or("it was given up, and its dead letter was discarded", dead);
            let last = facts.delivery.last_error.as_deref().map(|e| format!("; last error: {e}"));
            let why = format!("{why}{}", last.unwrap_or_default());
            nothing(why, again("nothing; a replay of its dead letter or a retry would send it again"))
        }
        DeliveryState::InFlight => Said {
            why: format!("request {} is under way", facts.delivery.attempt),
            step: NextStep::Outcome,
            next: "its outcome is written down; if the node that sends it dies, it is due again at nextAt",
            at: facts.due_at,
        },
        DeliveryState::Held => held(facts),
        DeliveryState::Pending => pending(facts),
    }
}

fn dead(reason: DeadReason) -> &'static str {
    match reason {
        DeadReason::Exhausted => "it was given up: all attempts of its policy were used",
        DeadReason::Gone => "it was given up: the receiver answered 410",
        DeadReason::Aborted => "it was given up: the receiver answered with webhook-delivery: abort",
        DeadReason::Expired => "it was given up: it would have come after its expiresAt",
        DeadReason::Refused => "it was given up: callbacks may not go to that address",
        DeadReason::Poison => "it was given up: five attempts in a row ended with the sender",
        DeadReason::Unsignable => "it was given up: there is no usable key to sign with",
    }
}

fn held(facts: &Facts) -> Said {
    let lane = facts.lane.as_ref();
    let until = lane.and_then(|lane| lane.held_until);
    let asked = lane.and_then(|lane| lane.held_reason.as_deref()) == Some("retry-after");
    let at = until.max(facts.due_at).filter(|_| until.is_some());
    match facts.delivery.held_reason {
        Some(HeldReason::Breaker) => Said {
            why: format!(
                "its lane is broken: {} requests in a row found no working receiver",
                lane.map_or(BREAKS_AT, |lane| lane.failures.max(BREAKS_AT))
            ),
            step: NextStep::Probe,
            next: "one delivery of the lane is sent as a probe when it opens; an answer lets the others follow",
            at,
        },
        Some(HeldReason::Disabled) => Said {
            why: match facts.state_reason.as_deref() {
                Some("gone") => "its endpoint is disabled: it answered 410 Gone".to_owned(),
                Some(_) | None => "its endpoint is disabled after days without a success".to_owned(),
            },
            step: NextStep::Resume,
            next: "it is sent once someone resumes the endpoint",
            at,
        },
        Some(HeldReason::Paused) | None if asked => Said {
            why: "the receiver asked for a pause: Retry-After, or 429".to_owned(),
            step: NextStep::Attempt,
            next: "it is sent when the pause is over",
            at,
        },
        Some(HeldReason::Paused) | None if until.is_some() => Said {
            why: "its lane is paused until a set time".to_owned(),
            step: NextStep::Attempt,
            next: "it is sent when the pause is over",
            at,
        },
        Some(HeldReason::Paused) | None => Said {
            why: match facts.delivery.endpoint_id {
                Some(_) => "its endpoint, or the lane of it, is paused".to_owned(),
                None => "its lane is paused".to_owned(),
            },
            step: NextStep::Resume,
            next: "it is sent once someone resumes it",
            at: None,
        },
    }
}

fn pending(facts: &Facts) -> Said {
    let due = facts.due_at.unwrap_or(facts.now);
    let attempt = |why: String, next, at| Said { why, step: NextStep::Attempt, next, at };
    if due > facts.now {
        let why = match (facts.delivery.attempt, facts.delivery.last_error.as_deref()) {
            (_, Some(error)) if error == DeadReason::Unsignable.as_str() => {
                "a node had no usable key to sign it with, which its log tells; it is tried again in its time"
                    .to_owned()
            }
            (0, _) => "it is not due yet".to_owned(),
            (n, None) => format!("request {n} was not delivered; the next one waits its time"),
            (n, Some(error)) => format!("request {n} failed ({error}); the next one waits its time"),
        };
        return attempt(why, "the next attempt is made", Some(due));
    }
    let lane = match (facts.hands, &facts.lane) {
        (Hands::Nobody, _) => {
            let why = "it is due, and no node that delivers is alive".to_owned();
            return attempt(why, "it is sent once such a node runs", None);
        }
        (Hands::Free, _) | (Hands::Owned, None) => {
            return attempt("it is due, and no node has its lane yet".to_owned(), SOON, Some(due));
        }
        (Hands::Owned, Some(lane)) => lane,
    };
    if lane.ordered && facts.ahead > 0 {
        let why = format!("its lane is ordered, and {} are to be sent before it", count(facts.ahead));
        return attempt(why, "it is sent once those before it are delivered or dead", None);
    }
    if lane.failures >= BREAKS_AT {
        return Said {
            why: "its lane is broken, and one delivery is being sent as a probe".to_owned(),
            step: NextStep::Probe,
            next: "an answer to the probe lets the others follow",
            at: None,
        };
    }
    if lane.in_flight >= u64::from(lane.max_in_flight) {
        let why = format!("all {} slots of its lane are taken", lane.max_in_flight);
        return attempt(why, "it is sent when its turn for a free slot comes", None);
    }
    match lane.rate_per_second {
        Some(rate) if facts.ahead > 0 => {
            let why =
                format!("its lane sends at most {rate} a second, and {} wait before it", count(facts.ahead));
            let earliest = not_before(rate, facts.ahead, facts.now);
            attempt(why, "it is sent when its turn comes, not before nextAt", Some(earliest))
        }
        Some(_) | None if facts.now.since(due) > LONG_DUE => {
            let why =
                "it has been due for long, and the node that has its lane has no slot free for it".to_owned();
            attempt(why, "it is sent when its turn for a free slot comes", None)
        }
        Some(_) | None => attempt("it is due".to_owned(), SOON, Some(due)),
    }
}

const SOON: &str = "it is sent as soon as a node looks, which takes moments";

fn count(ahead: u32) -> String {
    if ahead >= AHEAD { format!("{} or more", AHEAD - 1) } else { ahead.to_string() }
}

/// What would be sent after its `expiresAt` is given up instead.
fn expiring(facts: &Facts, said: Said) -> Said {
    let next = said.at.unwrap_or(facts.now);
    let late = facts.due_at.is_some() && facts.expires_at.is_some_and(|end| next > end);
    match said.step {
        NextStep::Attempt | NextStep::Probe | NextStep::Resume if late => {
            Said { next: "it is given up instead of sent: its expiresAt comes first", ..said }
        }
        NextStep::Attempt | NextStep::Probe | NextStep::Resume | NextStep::Outcome | NextStep::Nothing => {
            said
        }
    }
}

#[cfg(test)]
mod tests;
