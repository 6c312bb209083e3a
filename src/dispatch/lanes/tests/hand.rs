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

/// As many places in the hand as there are, for what waits in the store.
fn claimed_ahead(book: &mut Lanes) -> Vec<DueDelivery> {
    book.offer((100..200).map(|n| due(1, n)).collect(), NOW);
    assert_eq!(book.pick(NOW), [], "all slots are taken");
    book.pick_for_hand(1_000, NOW)
}

#[test]
fn what_waits_in_the_store_is_taken_in_hand_ahead_of_its_slot() {
    let mut book = full(LaneSettings::default());
    let ahead = claimed_ahead(&mut book);
    assert_eq!((ahead.len(), ahead[0], book.in_hand()), (80, due(1, 100), 80), "the oldest first");
    assert_eq!((book.pick_for_hand(1_000, NOW), book.in_flight()), (vec![], 10));
    assert_eq!(reserve(&mut book), None, "others wait before what is made now");
    book.done(lane_id(1), 0, None, NOW);
    assert_eq!(book.serve_hand(lane_id(1), 0, NOW), FromHand::Now);
    assert_eq!(book.pick_for_hand(1_000, NOW), [due(1, 180)]);
    book.out_of_hand(lane_id(1), 1);
    assert_eq!(book.in_hand(), 79, "what another node has claimed meanwhile gives its place back");
}

#[test]
fn retries_and_what_may_not_wait_in_memory_are_not_claimed_ahead() {
    let mut book = full(LaneSettings::default());
    let retries = (100..200).map(|n| DueDelivery { attempt: 1, ..due(1, n) });
    book.offer(retries.collect(), NOW);
    assert_eq!(book.pick_for_hand(1_000, NOW), []);
    let limits = Limits { rate_per_second: Some(1_000), ..Limits::default() };
    assert_eq!(claimed_ahead(&mut full(limited(limits))), []);
    let mut unheard = owning(&[1]);
    while reserve(&mut unheard).is_some() {}
    assert_eq!(claimed_ahead(&mut unheard), []);
}

#[test]
fn a_slow_receivers_hand_holds_no_more_than_it_takes_in_time() {
    let kept = |took| {
        let mut book = full(LaneSettings::default());
        for _ in 0..100 {
            book.learn((lane_id(1), 0, due(1, 1).id), &GOOD, took, NOW);
        }
        while book.reserve(lane_id(1), 0, 1, NOW).is_some() {}
        assert_eq!(book.in_hand() % book.in_flight(), 0);
        book.in_hand() / book.in_flight()
    };
    assert_eq!((kept(SOON), kept(Duration::from_millis(600)), kept(Duration::from_millis(1_900))), (8, 4, 1));
}
