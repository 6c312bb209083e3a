//! Breaker, pauses, rates, limits, turns and order.

use std::collections::VecDeque;

use super::*;

fn after(seconds: u64) -> Millis {
    NOW.plus(Duration::from_secs(seconds))
}

#[test]
fn a_broken_lane_sends_one_probe_and_goes_on_when_it_is_answered() {
    let mut book = owning(&[1, 2]);
    for _ in 0..10 {
        learn(&mut book, 1, &DOWN);
    }
    book.offer((0..20).map(|n| due(1, n)).chain([due(2, 1)]).collect(), NOW);
    assert_eq!(book.pick(NOW), vec![due(2, 1)], "its neighbour sends");
    assert_eq!(book.opens_at(), Some(after(30)));
    let state = book.to_save(NOW).into_iter().find(|(s, _)| s.id == lane_id(1)).unwrap().0;
    assert_eq!((state.opened, state.held_reason.as_deref()), (1, Some("breaker")));
    assert_eq!(state.held_until, Some(after(30)));

    assert_eq!(book.reserve(lane_id(1), 0, 1, after(30)), None, "what is made now is no probe");
    let probe = book.pick(after(30)).remove(0);
    assert!(book.pick(after(99)).is_empty(), "exactly one");
    back(&mut book, probe, &DOWN, after(30));
    assert!(book.pick(after(89)).is_empty());
    let probe = book.pick(after(90)).remove(0);
    back(&mut book, probe, &GOOD, after(90));
    assert_eq!(book.pick(after(90)).len(), 2, "it starts anew with few at a time");
}

#[test]
fn a_probe_that_is_never_sent_is_made_again() {
    let mut book = owning(&[1]);
    (0..10).for_each(|_| learn(&mut book, 1, &DOWN));
    book.offer(vec![due(1, 1), due(1, 2)], NOW);
    let lost = book.pick(after(30)).remove(0);
    book.done(lane_id(1), 0, None, after(30));
    assert!(book.pick(after(30)).is_empty(), "another request's end says nothing of the probe");
    done(&mut book, lost, after(30));
    assert_eq!(book.pick(after(30)).len(), 1);
}

#[test]
fn a_lane_stands_as_it_was_written_down() {
    let state = LaneState {
        failures: 12,
        opened: 3,
        held_until: Some(after(120)),
        held_reason: Some("breaker".to_owned()),
        ..fresh(1)
    };
    let mut book = Lanes::default();
    book.own(&[], vec![owned(state, LaneSettings::default())], NOW);
    book.offer(vec![due(1, 1), due(1, 2)], NOW);
    assert!(book.pick(after(119)).is_empty());
    let probe = book.pick(after(120));
    assert_eq!(probe.len(), 1);
    back(&mut book, probe[0], &DOWN, after(120));
    assert_eq!(book.to_save(after(120))[0].0.held_until, Some(after(360)), "the fourth time in a row");
}

#[test]
fn a_paused_lane_waits_and_begins_with_one() {
    let mut book = owning(&[1, 2]);
    book.offer((0..9).map(|n| due(1 + n % 2, n)).collect(), NOW);
    let paused = LaneSettings { paused_until: Some(Millis::MAX), ..LaneSettings::default() };
    book.set(lane_id(1), paused, NOW);
    assert!(book.pick(NOW).iter().all(|d| d.lane == lane_id(2)));
    assert_eq!(book.opens_at(), Some(Millis::MAX));
    book.set(lane_id(1), LaneSettings::default(), NOW);
    assert_eq!(book.pick(NOW).len(), 1, "a ramp");
}

#[test]
fn what_was_found_out_ends_where_someone_puts_an_end_to_it() {
    let mut book = owning(&[1, 2]);
    (0..10).for_each(|_| learn(&mut book, 1, &DOWN));
    learn(
        &mut book,
        2,
        &Outcome::Answered { status: 429, retry_after: Some(Duration::from_secs(60)), abort: false },
    );
    book.offer((0..8).map(|n| due(1 + n % 2, n)).collect(), NOW);
    assert!(book.pick(NOW).is_empty());

    let cleared = LaneSettings { cleared_at: Some(NOW), ..LaneSettings::default() };
    [1, 2].into_iter().for_each(|lane| book.set(lane_id(lane), cleared, NOW));

    let picked = book.pick(NOW);
    assert_eq!(picked.len(), 2, "one at a time");
    let saved: Vec<_> =
        book.to_save(NOW).into_iter().map(|(l, _)| (l.failures, l.opened, l.held_until)).collect();
    assert_eq!(saved, [(0, 0, None); 2]);
    (0..10).for_each(|_| learn(&mut book, 1, &DOWN));
    book.set(lane_id(1), LaneSettings { paused_until: Some(NOW), ..cleared }, NOW);
    assert!(book.pick(NOW).iter().all(|d| d.lane == lane_id(2)) && book.opens_at().is_some(), "once");
}

#[test]
fn an_endpoint_that_answers_429_without_more_is_asked_less_and_less_often() {
    const BUSY: Outcome = Outcome::Answered { status: 429, retry_after: None, abort: false };
    let mut book = owning(&[1]);
    let mut now = NOW;
    book.offer((0..60).map(|n| due(1, n)).collect(), now);
    for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
        let sent = book.pick(now);
        assert!(!sent.is_empty());
        // Those under way together count once.
        sent.iter().for_each(|d| back(&mut book, *d, &BUSY, now));
        now = now.plus(Duration::from_secs(wait));
        assert!(book.pick(Millis(now.0 - 1)).is_empty());
        assert_eq!(book.opens_at(), Some(now));
    }
    let sent = book.pick(now);
    back(&mut book, sent[0], &GOOD, now);
    let sent = book.pick(now);
    back(&mut book, sent[0], &BUSY, now);
    assert!(book.pick(now).is_empty());
    assert_eq!(book.opens_at(), Some(now.plus(Duration::from_secs(1))), "an answer begins anew");

    let mut ad_hoc = owning(&[1]);
    ad_hoc.offer(vec![to(7, due(1, 1)), to(7, due(1, 2))], NOW);
    let sent = ad_hoc.pick(NOW);
    back(&mut ad_hoc, sent[0], &BUSY, NOW);
    ad_hoc.offer(vec![to(8, due(1, 3))], NOW);
    assert_eq!(ad_hoc.pick(NOW).len(), 1, "of an origin only one URL said so");
}

#[test]
fn what_holds_a_lane_for_long_is_written_down_at_once() {
    let asks = |seconds| Outcome::Answered {
        status: 429,
        retry_after: Some(Duration::from_secs(seconds)),
        abort: false,
    };
    let mut book = owning(&[1, 2, 3]);
    (0..9).for_each(|_| learn(&mut book, 1, &DOWN));
    learn(&mut book, 2, &asks(5));
    learn(&mut book, 3, &GOOD);
    assert!(book.to_save_now().is_empty(), "nothing of it outlasts the next beat");

    learn(&mut book, 1, &DOWN);
    learn(&mut book, 2, &asks(60));

    let mut saved: Vec<_> = book.to_save_now().into_iter().map(|(l, _)| (l.id, l.held_until)).collect();
    saved.sort_unstable();
    assert_eq!(saved, [(lane_id(1), Some(after(30))), (lane_id(2), Some(after(60)))]);
    assert!(book.to_save_now().is_empty(), "once");
}

#[test]
fn a_rate_is_kept_and_its_bucket_handed_on() {
    let limits = Limits { rate_per_second: Some(5), ..Limits::default() };
    let mut book = owning_with(&[1], limited(limits));
    book.offer((0..9).map(|n| due(1, n)).collect(), NOW);
    assert_eq!(book.pick(NOW).len(), 1);
    assert_eq!(book.opens_at(), Some(Millis(NOW.0 + 200)));
    assert!(book.pick(Millis(NOW.0 + 199)).is_empty());
    assert_eq!(book.reserve(lane_id(1), 0, 1, Millis(NOW.0 + 199)), None);
    assert_eq!(book.pick(Millis(NOW.0 + 200)).len(), 1);
    let state = book.to_save(NOW).remove(0).0;
    let mut heir = Lanes::default();
    heir.own(&[], vec![owned(state, limited(limits))], NOW);
    heir.offer(vec![due(1, 20)], NOW);
    assert!(heir.pick(Millis(NOW.0 + 399)).is_empty());
    assert_eq!(heir.pick(Millis(NOW.0 + 400)).len(), 1);
}

#[test]
fn a_limit_bounds_what_is_under_way() {
    let mut book = owning_with(&[1], limited(Limits { max_in_flight: Some(3), ..Limits::default() }));
    (0..100).for_each(|_| learn(&mut book, 1, &GOOD));
    book.offer((0..9).map(|n| due(1, n)).collect(), NOW);
    assert_eq!(book.pick(NOW).len(), 3);
    book.set(lane_id(1), limited(Limits { max_in_flight: Some(5), ..Limits::default() }), NOW);
    (0..100).for_each(|_| learn(&mut book, 1, &GOOD));
    assert_eq!(book.pick(NOW).len(), 2);
}

#[test]
fn retries_of_a_lane_leave_its_last_quarter_to_first_attempts() {
    let mut book = owning(&[1]);
    book.offer((0..20).map(|n| DueDelivery { attempt: 1, ..due(1, n) }).collect(), NOW);
    assert_eq!(book.pick(NOW).len(), 8, "of ten");
    book.offer((30..40).map(|n| due(1, n)).collect(), NOW);
    assert!(book.pick(NOW).iter().all(|d| d.attempt == 0));
    assert_eq!(book.in_flight(), 10);
}

#[test]
fn first_attempts_leave_retries_a_quarter_of_the_slots() {
    let lanes: Vec<u128> = (1..=99).collect();
    let mut book = owning(&lanes);
    for lane in &lanes {
        (0..900).for_each(|_| learn(&mut book, *lane, &GOOD));
    }
    book.offer(lanes[..40].iter().flat_map(|lane| (0..11).map(|n| due(*lane, n))).collect(), NOW);
    assert!(book.pick(NOW).len() > RETRY_SLOTS);
    book.offer(lanes[40..].iter().map(|lane| DueDelivery { attempt: 1, ..due(*lane, 1) }).collect(), NOW);
    assert_eq!(book.pick(NOW).len(), 59, "one of each lane, though first attempts have more than their part");
}

#[test]
fn first_attempts_of_a_lane_leave_retries_a_quarter() {
    let mut book = owning(&[1]);
    book.offer((0..10).map(|n| due(1, n)).collect(), NOW);
    let mut sent = book.pick(NOW);
    assert_eq!(sent.len(), 10);
    book.offer((40..45).map(retry).collect(), NOW);
    book.offer((50..80).map(|n| due(1, n)).collect(), NOW);
    for _ in 0..8 {
        done(&mut book, sent.remove(0), NOW);
        sent.extend(book.pick(NOW));
    }
    assert_eq!((sent.len(), sent.iter().filter(|d| d.attempt > 0).count()), (10, 2), "of ten");
}

#[test]
fn urls_of_a_lane_take_turns() {
    let mut book = owning(&[1]);
    book.offer((0..1_000).map(|n| to(7, due(1, n))).collect(), NOW);
    book.offer((2_000..2_003).map(|n| to(8, due(1, n))).collect(), NOW);
    let turns: Vec<i64> = book.pick(NOW).iter().map(|d| d.turn).collect();
    assert_eq!(turns[..6], [7, 8, 7, 8, 7, 8], "{turns:?}");
    assert_eq!(turns.iter().filter(|turn| **turn == 7).count(), 7, "what is left goes to who has most");
}

#[test]
fn a_url_that_hangs_keeps_no_slot_from_another() {
    let mut book = owning(&[1]);
    let hang = Outcome::Failed(Fault::Timeout(crate::types::delivery::Phase::Head));
    book.offer((0..64).map(|n| to(7, due(1, n))).collect(), NOW);
    book.offer(vec![to(8, due(1, 900))], NOW);
    let mut under_way = book.pick(NOW);
    for round in 0..6 {
        let healthy = under_way.iter().filter(|d| d.turn == 8).count();
        assert_eq!(healthy, 1, "in round {round} the other has its place");
        for d in under_way.drain(..) {
            back(&mut book, d, if d.turn == 8 { &GOOD } else { &hang }, NOW);
        }
        book.offer(vec![to(8, due(1, 901 + round))], NOW);
        under_way = book.pick(NOW);
    }
    assert_eq!(under_way.iter().filter(|d| d.turn == 7).count(), 1, "the hanging one is down to one slot");
}

#[test]
fn an_ordered_lane_sends_one_at_a_time_and_asks_which() {
    let limits = Limits { ordered: true, ..Limits::default() };
    let mut book = owning_with(&[1], limited(limits));
    let hungry = vec![Hungry { lane: lane_id(1), turn: None, ordered: true, size: 64 }];
    book.offer(vec![to(2, due(1, 2)), to(1, due(1, 1))], NOW);
    assert!(book.pick(NOW).is_empty() && book.reserve(lane_id(1), 3, 1, NOW).is_none());
    assert_eq!(book.hungry(NOW, 9), hungry);
    book.refill(lane_id(1), InLane { oldest: vec![to(1, due(1, 1))], ..InLane::default() }, NOW);
    let first = book.pick(NOW).remove(0);
    assert_eq!(first.turn, 1);
    book.offer(vec![to(2, due(1, 2))], NOW);
    assert!(book.hungry(NOW, 9).is_empty() && book.pick(NOW).is_empty(), "the first is under way");
    done(&mut book, first, NOW);
    assert_eq!(book.hungry(NOW, 9), hungry);
}

#[test]
fn blocked_lanes_do_not_keep_others_from_being_read() {
    let limits = Limits { ordered: true, ..Limits::default() };
    let lanes: Vec<u128> = (1..=200).collect();
    let mut book = owning_with(&lanes, limited(limits));
    let all: Vec<_> = lanes.iter().map(|n| (lane_id(*n), due(*n, 1).id)).collect();
    let mut reads: HashMap<LaneId, usize> = HashMap::new();
    for _ in 0..40 {
        book.stir(&all, NOW);
        for hungry in book.hungry(NOW, 10) {
            *reads.entry(hungry.lane).or_default() += 1;
            book.refill(hungry.lane, InLane::default(), NOW);
        }
    }
    assert!(lanes.iter().all(|n| reads[&lane_id(*n)] == 2), "each in its turn: {reads:?}");
}

#[test]
fn an_ordered_lane_that_waits_for_its_next_is_not_read_before() {
    let limits = Limits { ordered: true, ..Limits::default() };
    let mut book = owning_with(&[1], limited(limits));
    let behind = [(lane_id(1), due(1, 2).id)];
    let first = |at| Some(DueDelivery { due_at: at, ..to(1, due(1, 1)) });
    let waits = |until| InLane { waits: first(until), ..InLane::default() };
    book.stir(&behind, NOW);
    assert_eq!(book.hungry(NOW, 9).len(), 1);
    book.refill(lane_id(1), waits(after(9)), NOW);

    book.stir(&behind, NOW);
    book.offer(vec![to(2, due(1, 2))], NOW);

    assert!(book.hungry(after(8), 9).is_empty());
    assert_eq!(book.hungry(after(9), 9).len(), 1);
    book.refill(lane_id(1), waits(after(3_600)), after(9));
    book.stir(&behind, NOW);
    assert!(book.hungry(after(23), 9).is_empty());
    assert_eq!(book.hungry(after(24), 9).len(), 1, "someone may have taken it back");
    book.refill(lane_id(1), waits(after(3_600)), after(24));
    book.offer(vec![to(1, due(1, 1))], after(25));
    assert_eq!(book.hungry(after(25), 9).len(), 1, "someone has it sent at once");
}

#[test]
fn an_ordered_lane_whose_next_is_taken_back_is_read_at_once() {
    let limits = Limits { ordered: true, ..Limits::default() };
    let mut book = owning_with(&[1], limited(limits));
    let waits = || InLane {
        waits: Some(DueDelivery { due_at: after(3_600), ..to(1, due(1, 1)) }),
        ..InLane::default()
    };
    book.stir(&[(lane_id(1), due(1, 2).id)], NOW);
    assert_eq!(book.hungry(NOW, 9).len(), 1);
    book.refill(lane_id(1), waits(), NOW);
    assert!(book.pick(NOW).is_empty() && book.hungry(NOW, 9).is_empty());

    book.unblock(lane_id(1));

    assert_eq!(book.hungry(NOW, 9).len(), 1);
    book.unblock(lane_id(1));
    book.refill(lane_id(1), waits(), NOW);
    assert_eq!(book.hungry(NOW, 9).len(), 1, "what was read before it was taken back is not believed");
}

fn retry(n: u128) -> DueDelivery {
    DueDelivery { attempt: 1, ..due(1, n) }
}

#[test]
fn due_retries_keep_no_first_attempt_out_of_mind() {
    let mut book = owning(&[1]);
    book.offer((0..200).map(retry).collect(), NOW);
    assert_eq!(book.pick(NOW).len(), 8, "of ten");

    book.offer((1_000..1_100).map(|n| due(1, n)).collect(), NOW);

    let picked = book.pick(NOW);
    assert_eq!(picked, [due(1, 1_000), due(1, 1_001)], "the last quarter, in their order");
}

#[test]
fn a_lane_with_many_due_retries_is_read_for_its_first_attempts() {
    let mut book = owning(&[1]);
    book.offer((0..200).map(retry).collect(), NOW);
    let mut retries = VecDeque::from(book.pick(NOW));
    let mut waiting: VecDeque<DueDelivery> = (1_000..1_200).map(|n| due(1, n)).collect();
    book.offer(waiting.iter().copied().collect(), NOW);
    let (mut reads, mut firsts, mut of_retries) = (0, Vec::new(), 0);
    for _ in 0..300 {
        for d in book.pick(NOW) {
            match d.attempt {
                0 => {
                    waiting.retain(|w| w.id != d.id);
                    firsts.push(d.id);
                    done(&mut book, d, NOW);
                }
                _ => retries.push_back(d),
            }
        }
        // The receiver answers retries slowly.
        if let Some(d) = retries.pop_front() {
            of_retries += 1;
            done(&mut book, d, NOW);
        }
        for hungry in book.hungry(NOW, 9) {
            reads += 1;
            let oldest = (10_000 * reads..).take(IN_MIND).map(retry).collect();
            let read = waiting.iter().take(FIRSTS).copied().collect();
            let read = InLane { oldest, firsts: read, more: true, ..InLane::default() };
            book.refill(hungry.lane, read, NOW);
        }
    }
    assert_eq!(firsts.len(), 200, "all of them went, though the retries never end");
    assert!(firsts.is_sorted(), "none overtook another");
    assert!(of_retries >= 290 && reads < 40, "{of_retries} retries went, {reads} reads");
}
