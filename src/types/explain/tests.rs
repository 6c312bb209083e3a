use super::*;
use crate::types::api::LaneState;
use crate::types::{DeliveryId, EventId, LaneId};
use uuid::Uuid;

const NOW: Millis = Millis(1_767_225_600_000);
const LATER: Millis = Millis(1_767_225_660_000);

fn lane() -> Lane {
    Lane {
        lane_id: LaneId::from_uuid(Uuid::nil()),
        kind: "origin".to_owned(),
        endpoint_id: None,
        origin: Some("https://a.example.com".to_owned()),
        state: LaneState::Open,
        held_reason: None,
        held_until: None,
        depth: 1,
        oldest_due: None,
        in_flight: 0,
        max_in_flight: 10,
        rate_per_second: None,
        ordered: false,
        failures: 0,
    }
}

fn facts(state: DeliveryState) -> Facts {
    let delivery = Delivery {
        delivery_id: DeliveryId::from_uuid(Uuid::nil()),
        event_id: EventId::from_uuid(Uuid::nil()),
        event_type: "job.completed".to_owned(),
        job_id: None,
        account: None,
        endpoint_id: None,
        url: "https://a.example.com/".to_owned(),
        state,
        held_reason: None,
        attempt: 2,
        max_attempts: 14,
        next_attempt_at: None,
        last_status: None,
        last_error: Some("timeout".to_owned()),
        created_at: NOW,
        ended_at: None,
        attempts: None,
    };
    let due_at = Some(NOW);
    Facts {
        now: NOW,
        delivery,
        due_at,
        used: 2,
        expires_at: None,
        dead: None,
        lane: Some(lane()),
        hands: Hands::Owned,
        state_reason: None,
        endpoint_gone: false,
        ahead: 0,
    }
}

/// The machine-readable half, and a word that the texts must have.
#[track_caller]
fn told(facts: Facts, step: NextStep, at: Option<Millis>, word: &str) -> Explanation {
    let said = explain(facts);
    assert_eq!((said.next_step, said.next_at), (step, at), "{said:?}");
    assert!(said.why.contains(word), "{}", said.why);
    said
}

#[test]
fn what_waits_says_until_when_and_after_what() {
    let retry = Facts { due_at: Some(LATER), ..facts(DeliveryState::Pending) };
    let said = told(retry.clone(), NextStep::Attempt, Some(LATER), "request 2 failed (timeout)");
    assert_eq!((said.attempts_left, said.ahead), (Some(12), 0));
    let expiring = Facts { expires_at: Some(NOW), ..retry };
    assert!(told(expiring, NextStep::Attempt, Some(LATER), "failed").next.contains("expiresAt"));
    told(facts(DeliveryState::Pending), NextStep::Attempt, Some(NOW), "it is due");
    let fresh = Facts { lane: None, hands: Hands::Free, ..facts(DeliveryState::Pending) };
    told(fresh.clone(), NextStep::Attempt, Some(NOW), "no node has its lane");
    let given_up = Facts { lane: Some(lane()), ..fresh.clone() };
    told(given_up, NextStep::Attempt, Some(NOW), "no node has its lane");
    told(Facts { hands: Hands::Nobody, ..fresh }, NextStep::Attempt, None, "no node that delivers is alive");
    let long = Facts { due_at: Some(Millis(NOW.0 - 15_001)), ..facts(DeliveryState::Pending) };
    told(long, NextStep::Attempt, None, "no slot free");
}

#[test]
fn what_is_due_says_what_it_waits_for() {
    let with = |ahead, lane| Facts { ahead, lane: Some(lane), ..facts(DeliveryState::Pending) };
    let ordered = Lane { ordered: true, ..lane() };
    told(with(3, ordered.clone()), NextStep::Attempt, None, "ordered, and 3 are to be sent before it");
    told(with(AHEAD, ordered.clone()), NextStep::Attempt, None, "1000 or more");
    told(with(0, ordered), NextStep::Attempt, Some(NOW), "it is due");
    told(with(3, Lane { in_flight: 10, ..lane() }), NextStep::Attempt, None, "all 10 slots");
    let slow = Lane { rate_per_second: Some(5), ..lane() };
    told(with(3, slow), NextStep::Attempt, Some(Millis(NOW.0 + 600)), "at most 5 a second");
    told(with(3, Lane { failures: 10, ..lane() }), NextStep::Probe, None, "being sent as a probe");
}

#[test]
fn what_is_held_says_who_lets_it_go() {
    let held = |reason, word: &str, until| {
        let mut facts = facts(DeliveryState::Held);
        facts.delivery.held_reason = Some(reason);
        let lane = Lane { held_reason: Some(word.to_owned()), held_until: until, failures: 12, ..lane() };
        Facts { lane: Some(lane), ..facts }
    };
    let until = Some(LATER);
    told(held(HeldReason::Breaker, "breaker", until), NextStep::Probe, until, "12 requests in a row");
    told(held(HeldReason::Paused, "retry-after", until), NextStep::Attempt, until, "Retry-After");
    told(held(HeldReason::Paused, "paused", until), NextStep::Attempt, until, "until a set time");
    told(held(HeldReason::Paused, "paused", None), NextStep::Resume, None, "its lane is paused");
    let disabled = held(HeldReason::Disabled, "disabled", None);
    told(disabled.clone(), NextStep::Resume, None, "days without a success");
    let gone = Facts { state_reason: Some("gone".to_owned()), ..disabled };
    told(gone, NextStep::Resume, None, "410");
    let retry = Facts { due_at: Some(Millis(LATER.0 + 9)), ..held(HeldReason::Paused, "retry-after", until) };
    told(retry, NextStep::Attempt, Some(Millis(LATER.0 + 9)), "Retry-After");
}

#[test]
fn what_could_not_be_signed_says_so() {
    let mut waits = Facts { due_at: Some(LATER), ..facts(DeliveryState::Pending) };
    waits.delivery.last_error = Some("unsignable".to_owned());
    told(waits, NextStep::Attempt, Some(LATER), "no usable key to sign it with");
}

#[test]
fn what_has_ended_says_why() {
    let ended = |state| Facts { due_at: None, ..facts(state) };
    let delivered = {
        let mut facts = ended(DeliveryState::Delivered);
        facts.delivery.last_status = Some(204);
        facts
    };
    assert_eq!(told(delivered, NextStep::Nothing, None, "answered 204").attempts_left, None);
    told(ended(DeliveryState::Cancelled), NextStep::Nothing, None, "taken back");
    told(ended(DeliveryState::Dead), NextStep::Nothing, None, "discarded");
    for (reason, word) in [
        (DeadReason::Exhausted, "all attempts"),
        (DeadReason::Gone, "410"),
        (DeadReason::Aborted, "abort"),
        (DeadReason::Expired, "expiresAt"),
        (DeadReason::Refused, "address"),
        (DeadReason::Poison, "five attempts"),
        (DeadReason::Unsignable, "key to sign"),
    ] {
        let dead = Facts { dead: Some(reason), ..ended(DeliveryState::Dead) };
        assert!(told(dead, NextStep::Nothing, None, word).why.ends_with("last error: timeout"));
    }
    let flying = Facts { due_at: Some(LATER), ..facts(DeliveryState::InFlight) };
    told(flying, NextStep::Outcome, Some(LATER), "request 2 is under way");
}

#[test]
fn what_has_ended_for_a_deleted_endpoint_promises_nothing() {
    for state in [DeliveryState::Delivered, DeliveryState::Dead, DeliveryState::Cancelled] {
        let ended = Facts { due_at: None, ..facts(state) };
        assert!(explain(ended.clone()).next.contains("would send it again"));
        let gone = explain(Facts { endpoint_gone: true, ..ended });
        assert_eq!((gone.next_step, &*gone.next), (NextStep::Nothing, "nothing; its endpoint is deleted"));
    }
}
