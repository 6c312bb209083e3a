//! When a slot that comes free wakes the dispatcher.

use super::*;

/// The first so many lanes, all of which are known to answer.
fn answering(lanes: u128) -> Lanes {
    let mut book = owning(&(1..=lanes).collect::<Vec<_>>());
    (1..=lanes).for_each(|lane| learn(&mut book, lane, &GOOD));
    book
}

#[test]
fn a_slot_that_nobody_waits_for_wakes_nobody() {
    let mut book = answering(2);
    book.offer(vec![due(1, 1), due(1, 2), due(2, 1)], NOW);
    let sent = book.pick(NOW);
    assert!(book.pick(NOW).is_empty());
    assert!(!done(&mut book, sent[0], NOW) && !done(&mut book, sent[1], NOW));
    assert!(done(&mut book, sent[2], NOW), "silence may be waited for");
    // What an unknown lane gives back is the others' of its kind.
    let mut book = owning(&[1, 2]);
    book.offer(vec![due(1, 1), due(2, 1)], NOW);
    let sent = book.pick(NOW);
    assert!(done(&mut book, sent[0], NOW));
    // A pause that is to be written down at once is a reason, too.
    let mut book = answering(1);
    book.offer(vec![due(1, 1), due(1, 2)], NOW);
    let sent = book.pick(NOW);
    let busy = Outcome::Answered { status: 429, retry_after: Some(Duration::from_secs(60)), abort: false };
    learn(&mut book, 1, &busy);
    assert!(done(&mut book, sent[0], NOW));
}

#[test]
fn lanes_that_could_send_more_if_the_node_had_more_slots_free_hear_of_each() {
    let wide = |n| owned(LaneState { concurrency: 64, ..fresh(n) }, LaneSettings::default());
    let mut book = Lanes::default();
    book.own(&[], (1..=7).map(wide).collect(), NOW);
    for hungry in book.hungry(NOW, 9) {
        book.refill(hungry.lane, InLane::default(), NOW);
    }
    (1..=7).for_each(|lane| learn(&mut book, lane, &GOOD));
    book.offer((0..9).map(|n| due(7, n)).collect(), NOW);
    let mut others = book.pick(NOW).into_iter();
    let first = others.next().unwrap();
    assert!(!done(&mut book, first, NOW), "nobody wants more");
    book.offer((1..=6).flat_map(|lane| (0..64).map(move |n| due(lane, n))).collect(), NOW);
    let sent = book.pick(NOW);
    assert!(sent.len() < 6 * 64 && book.in_flight() < RETRY_SLOTS, "a quarter of what is free for each");
    let heard = others.filter(|d| done(&mut book, *d, NOW)).count();
    assert_eq!(heard, 1, "until they have looked");
    assert!(!book.pick(NOW).is_empty());
}

#[test]
fn a_node_that_is_full_wakes_the_dispatcher_once_for_a_slot_that_is_free() {
    let lanes = NODE_SLOTS as u128 + 9;
    let mut book = answering(lanes);
    book.offer((1..=lanes).map(|lane| due(lane, 1)).collect(), NOW);
    let sent = book.pick(NOW);
    assert_eq!(sent.len(), NODE_SLOTS);
    let heard = sent[..20].iter().filter(|d| done(&mut book, **d, NOW)).count();
    assert_eq!(heard, 1, "others wait, until they have looked");
    assert_eq!(book.pick(NOW).len(), 9);
    assert!(!done(&mut book, sent[20], NOW), "nobody waits");
}

/// A node where first attempts have most slots and retries more than their quarter; gives the first attempts.
fn full_of_both(lanes: u128) -> (Lanes, Vec<DueDelivery>) {
    let mut book = answering(lanes + 1);
    let many =
        |lanes: std::ops::RangeInclusive<u128>| lanes.flat_map(|lane| (0..7).map(move |n| due(lane, n)));
    book.offer(many(1..=19).map(|d| DueDelivery { attempt: 1, ..d }).collect(), NOW);
    assert!(book.pick(NOW).len() > NODE_SLOTS / 4);
    book.offer(many(20..=lanes).collect(), NOW);
    let firsts = book.pick(NOW);
    assert!(book.crowded());
    (book, firsts)
}

#[test]
fn retries_that_are_held_back_wake_the_dispatcher_once_they_may_go() {
    let (mut book, sent) = full_of_both(59);
    book.offer(vec![DueDelivery { attempt: 1, ..due(60, 1) }], NOW);
    assert!(book.pick(NOW).is_empty());
    let over = book.in_flight() - RETRY_SLOTS;
    assert!(!sent[..over].iter().any(|d| done(&mut book, *d, NOW)), "it could not go yet");
    assert!(done(&mut book, sent[over], NOW));
    assert_eq!(book.pick(NOW).len(), 1);
}

#[test]
fn what_is_in_a_hand_at_a_full_node_is_served_with_any_slot_that_comes_free() {
    for standing in [trust::Standing::Answers, trust::Standing::Unknown] {
        let mut book = answering(2);
        book.offer(vec![due(2, 1)], NOW);
        let other = book.pick(NOW)[0];
        let slots = (0..10).map(|_| book.reserve(lane_id(1), 0, 1, NOW));
        assert!(slots.eq([Some(Place::Slot); 10]));
        assert_eq!(book.reserve(lane_id(1), 0, 1, NOW), Some(Place::Hand));
        assert_eq!((0..10).filter(|_| book.done(lane_id(1), 0, None, NOW)).count(), 0);
        book.change(lane_id(1), |lane| lane.standing = standing);
        // Others have all that is left.
        book.in_flight = NODE_SLOTS;
        assert_eq!(book.serve_hand(lane_id(1), 0, NOW), FromHand::Later);
        assert!(done(&mut book, other, NOW), "{standing:?}");
        assert_eq!(book.serve_hand(lane_id(1), 0, NOW), FromHand::Now);
    }
}

#[test]
fn a_lane_that_finds_its_first_attempts_unread_is_read_with_the_next_answer() {
    let (mut book, sent) = full_of_both(60);
    // The store holds first attempts beside these.
    let oldest = (0..IN_MIND as u128).map(|n| DueDelivery { attempt: 1, ..due(61, n) }).collect();
    book.stir(&[(lane_id(61), due(61, 0).id)], NOW);
    assert_eq!(book.hungry(NOW, 9).len(), 1);
    book.refill(lane_id(61), InLane { oldest, firsts: vec![], more: true, ..InLane::default() }, NOW);
    book.change(lane_id(61), |lane| lane.firsts = true);
    assert!(book.hungry(NOW, 9).is_empty() && book.pick(NOW).is_empty(), "only retries are in mind");
    assert!(done(&mut book, sent[0], NOW));
    assert_eq!(book.hungry(NOW, 9).len(), 1);
}

/// What the store gives of a lane.
fn read_lane(store: &[DueDelivery], hungry: Hungry) -> InLane {
    read(&store.iter().filter(|d| d.lane == hungry.lane).copied().collect::<Vec<_>>(), hungry.turn)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// While nobody is woken there is nothing that could be sent, and all is sent.
    #[test]
    fn who_is_not_woken_has_nothing_to_do(
        lanes in 20..200u128,
        owed in prop::collection::vec((0..200u128, 0..3u32), 1..1_200),
        answers in prop::collection::vec(0..9u8, 1..50),
        glance in 1..9usize,
    ) {
        let mut book = owning(&(0..lanes).collect::<Vec<_>>());
        let owed = (0..).zip(&owed).map(|(n, (lane, attempt))| DueDelivery { attempt: *attempt, ..due(*lane % lanes, n) });
        let mut store: Vec<_> = owed.collect();
        book.offer(store.clone(), NOW);
        let (mut now, mut under_way, mut step) = (NOW, VecDeque::new(), 0);
        let mut pass = |book: &mut Lanes, now| {
            for hungry in book.hungry(now, 64) {
                book.refill(hungry.lane, read_lane(&store, hungry), now);
            }
            let picked = book.pick(now);
            let sent: HashSet<_> = picked.iter().map(|d| d.id).collect();
            store.retain(|d| !sent.contains(&d.id));
            (picked, store.len())
        };
        loop {
            step += 1;
            prop_assert!(step < 50_000, "some are never sent");
            let (picked, left) = pass(&mut book, now);
            // There may be more to do at once, as the dispatcher finds.
            let again = !picked.is_empty() || book.turns.iter().any(|id| book.lanes[id].hungry(now));
            under_way.extend(picked);
            if under_way.is_empty() && left == 0 {
                break;
            }
            if again {
                continue;
            }
            if under_way.is_empty() {
                now = book.opens_at().unwrap_or(now);
            }
            while let Some(d) = under_way.pop_front() {
                step += 1;
                let (outcome, took) = match answers[step % answers.len()] {
                    0 => (&DOWN, SOON),
                    1 => (&GOOD, PATIENCE),
                    _ => (&GOOD, SOON),
                };
                book.learn((d.lane, d.turn, d.id), outcome, took, now);
                if done(&mut book, d, now) {
                    break;
                }
                if step % glance == 0 {
                    prop_assert_eq!(pass(&mut book, now).0, vec![], "nobody was told");
                }
            }
        }
    }
}

#[test]
fn what_a_transaction_owned_and_undid_is_as_if_it_had_never_been() {
    let mut book = Lanes::default();
    assert!(book.lacks(lane_id(1), NOW));
    let first = |n| OwnedLane { more: false, ..owned(fresh(n), LaneSettings::default()) };
    let asked = [lane_id(1), lane_id(2), lane_id(3)];
    assert_eq!(book.own(&asked, vec![first(1), first(2)], NOW), [lane_id(1), lane_id(2)]);
    assert!(asked.iter().all(|id| !book.lacks(*id, NOW)), "owned, or another node's");
    assert!(book.own(&[], vec![first(1)], NOW).is_empty(), "nothing new");
    assert_eq!(book.reserve(lane_id(2), 0, 1, NOW), Some(Place::Slot));

    book.disown(&[lane_id(1), lane_id(2)]);
    assert!(book.lacks(lane_id(1), NOW) && book.len() == 1);
    assert_eq!(book.reserve(lane_id(2), 0, 1, NOW), None, "nothing new is sent");
    book.done(lane_id(2), 0, None, NOW);
    assert_eq!((book.to_save(NOW).len(), book.len(), book.in_flight()), (1, 0, 0));
    assert!(book.lacks(lane_id(3), NOW.plus(FOREIGN)));

    book.avoid(&[lane_id(4)], NOW);
    assert!(!book.lacks(lane_id(4), NOW) && book.lacks(lane_id(4), NOW.plus(FOREIGN)));
    assert_eq!(book.offer(vec![due(4, 1)], NOW).len(), 1, "a look asks for it");
}

#[test]
fn a_lane_that_is_let_go_is_not_owned_anew_before_that_is_written() {
    let mut book = owning(&[1]);
    let later = NOW.plus(IDLE + SOON);
    let save = book.to_save(later);
    assert!(save[0].1 && book.is_empty() && !book.lacks(lane_id(1), later));
    book.saved(save, Some(&HashSet::new()));
    assert!(book.lacks(lane_id(1), later));
}

#[test]
fn what_could_not_be_written_down_is_written_with_the_next() {
    let mut book = owning(&[1]);
    assert_eq!(book.reserve(lane_id(1), 0, 1, NOW), Some(Place::Slot));
    book.learn((lane_id(1), 0, due(1, 1).id), &Outcome::Failed(Fault::Connect), SOON, NOW);
    let save = book.to_save(NOW);
    assert_eq!((save.len(), book.to_save(NOW).len()), (1, 0));
    book.saved(save.clone(), None);
    assert_eq!(book.to_save_now(), save, "at once where the store was away");
    book.saved(save.clone(), Some(&HashSet::from([lane_id(1)])));
    assert!(book.to_save_now().is_empty());
    assert_eq!(book.to_save(NOW), save, "with the next beat where another transaction held it");
    book.saved(save, Some(&HashSet::new()));
    assert!(book.to_save(NOW).is_empty());
    assert!(book.lacks(lane_id(2), NOW));
}

#[test]
fn how_a_lane_stood_that_is_let_go_is_not_lost_with_the_write() {
    let mut book = owning(&[1, 2]);
    for lane in [1, 2] {
        assert_eq!(book.reserve(lane_id(lane), 0, 1, NOW), Some(Place::Slot));
        let failed = Outcome::Failed(Fault::Connect);
        book.learn((lane_id(lane), 0, due(lane, 1).id), &failed, SOON, NOW);
        book.done(lane_id(lane), 0, None, NOW);
    }
    let later = NOW.plus(IDLE + SOON);
    let mut save = book.to_save(later);
    save.sort_by_key(|(state, _)| state.id);
    assert!(book.is_empty() && save.iter().all(|(state, release)| *release && state.failures == 1));
    book.saved(save.clone(), None);
    assert!(!book.lacks(lane_id(1), later), "it would be let go with the next write");
    // The store still has them as they were before.
    let stale = |n: usize, set| owned(LaneState { failures: 0, ..save[n].0.clone() }, set);
    book.own(&[lane_id(1)], vec![stale(0, LaneSettings::default())], later);
    let again = book.to_save(later);
    assert_eq!(again.len(), 2);
    assert!(again.contains(&(save[0].0.clone(), false)), "owned anew: {again:?}");
    assert!(again.contains(&save[1]), "let go: {again:?}");

    // Until someone puts an end to what was found out before.
    book.saved(again, None);
    let resumed = LaneSettings { cleared_at: Some(later), ..LaneSettings::default() };
    book.own(&[lane_id(2)], vec![stale(1, resumed)], later);
    assert!(book.to_save(later).iter().all(|(state, _)| state.id == lane_id(1)), "as the store has it");
}

#[test]
fn a_lane_that_another_node_is_to_have_is_not_owned_again_in_the_same_beat() {
    let mut book = owning(&[1]);
    book.disown(&[lane_id(1)]);
    let behind = [(lane_id(1), due(1, 1).id), (lane_id(2), due(2, 1).id)];
    book.own(&[lane_id(1)], vec![], NOW);
    assert_eq!(book.stir(&behind, NOW), behind[1..]);
    assert_eq!(book.stir(&behind, NOW.plus(FOREIGN)).len(), 2);
}

#[test]
fn an_answer_as_it_was_expected_is_not_worth_a_write() {
    let mut book = owning(&[1]);
    let good = Outcome::Answered { status: 200, retry_after: None, abort: false };
    let bad = Outcome::Answered { status: 503, retry_after: None, abort: false };
    let mut answer = |outcome: &Outcome| {
        assert_eq!(book.reserve(lane_id(1), 0, 1, NOW), Some(Place::Slot));
        book.learn((lane_id(1), 0, due(1, 1).id), outcome, SOON, NOW);
        book.done(lane_id(1), 0, None, NOW);
        book.to_save(NOW)
            .into_iter()
            .map(|(state, _)| (state.concurrency, state.failures))
            .collect::<Vec<_>>()
    };
    assert!((0..9).all(|_| answer(&good).is_empty()));
    assert!((0..9).any(|_| answer(&good) == [(11, 0)]), "until it gets a slot more");
    assert_eq!(answer(&bad), [(5, 1)]);
}
