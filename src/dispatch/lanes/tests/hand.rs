//! What waits in memory for a slot of its lane.

use super::super::hand::HAND_BYTES;
use super::*;

/// A lane that has answered, and whose slots are all taken.
fn full(set: LaneSettings) -> Lanes {
    let mut book = owning_with(&[1], set);
    let first = due(1, 1).id;
    assert_eq!(reserve(&mut book), Some(Place::Slot));
    book.learn((lane_id(1), 0, first), &GOOD, SOON, NOW);
    for _ in 0..9 {
        assert_eq!(reserve(&mut book), Some(Place::Slot));
    }
    book
}

fn reserve(book: &mut Lanes) -> Option<Place> {
    book.reserve(lane_id(1), 0, HAND_BYTES, NOW)
}

#[test]
fn a_lane_that_answers_keeps_what_it_has_no_slot_for_and_sends_it_in_turn() {
    let mut book = full(LaneSettings::default());
    assert_eq!((reserve(&mut book), reserve(&mut book)), (Some(Place::Hand), Some(Place::Hand)));
    assert_eq!((book.in_flight(), book.in_hand()), (10, 2));
    assert_eq!(book.serve_hand(lane_id(1), 0, NOW), FromHand::Later);

    book.done(lane_id(1), 0, None, NOW);
    assert_eq!(reserve(&mut book), Some(Place::Hand), "what is made now does not overtake");
    assert_eq!(book.serve_hand(lane_id(1), 0, NOW), FromHand::Now);
    assert_eq!(book.serve_hand(lane_id(1), 0, NOW), FromHand::Later);
    assert_eq!((book.in_flight(), book.in_hand()), (10, 2));
}

#[test]
fn a_hand_is_bounded_and_nothing_is_kept_while_the_store_holds_something_older() {
    let mut book = full(LaneSettings::default());
    let kept = std::iter::from_fn(|| reserve(&mut book)).take(1_000).count();
    assert_eq!((kept, book.in_hand()), (80, 80), "eight times its ten slots");
    book.out_of_hand(lane_id(1), 80);
    assert_eq!((reserve(&mut book), book.in_hand()), (None, 0), "the store has them again");
}

#[test]
fn large_bodies_paced_lanes_and_lanes_not_known_to_answer_keep_nothing() {
    assert_eq!(full(LaneSettings::default()).reserve(lane_id(1), 0, HAND_BYTES + 1, NOW), None);
    let limits = Limits { rate_per_second: Some(1_000), ..Limits::default() };
    assert_eq!(reserve(&mut full(limited(limits))), None);
    let mut unheard = owning(&[1]);
    let given: Vec<_> = std::iter::from_fn(|| reserve(&mut unheard)).take(100).collect();
    assert_eq!(given, [Place::Slot; 10]);
    let mut shared = full(LaneSettings::default());
    shared.offer(vec![DueDelivery { turn: 7, ..due(1, 2) }], NOW);
    assert_eq!(reserve(&mut shared), None, "its URLs take turns");
}

#[test]
fn a_lane_that_may_not_send_any_more_gives_back_what_it_keeps() {
    let mut book = full(LaneSettings::default());
    assert_eq!(reserve(&mut book), Some(Place::Hand));
    let busy = Outcome::Answered { status: 503, retry_after: Some(Duration::from_secs(60)), abort: false };
    book.learn((lane_id(1), 0, due(1, 1).id), &busy, SOON, NOW);
    assert_eq!(book.serve_hand(lane_id(1), 0, NOW), FromHand::Never);
    book.out_of_hand(lane_id(1), 1);
    assert_eq!(book.in_hand(), 0);
    assert_eq!(book.serve_hand(lane_id(2), 0, NOW), FromHand::Never, "nor does one of another node");
}
