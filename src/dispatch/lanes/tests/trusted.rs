//! Many lanes that hang beside some that answer: who gets the slots of the node.

use super::*;
use crate::types::delivery::Phase;

const HUNG: Outcome = Outcome::Failed(Fault::Timeout(Phase::Head));
/// A time-out.
const LONG: Duration = Duration::from_secs(15);

/// Every one of `lanes` is flooded.
fn flood(book: &mut Lanes, lanes: std::ops::RangeInclusive<u128>) {
    book.offer(lanes.flat_map(|lane| (0..20).map(move |n| due(lane, n))).collect(), NOW);
}

fn sees(book: &mut Lanes, lane: u128, outcome: &Outcome, took: Duration) {
    book.learn((lane_id(lane), 0, due(lane, 0).id), outcome, took, NOW);
}

fn lanes_of(picked: &[DueDelivery]) -> HashSet<LaneId> {
    picked.iter().map(|d| d.lane).collect()
}

fn all(lanes: std::ops::RangeInclusive<u128>) -> Vec<u128> {
    lanes.collect()
}

#[test]
fn a_few_lanes_that_nothing_is_known_of_have_all_their_slots() {
    let mut book = owning(&all(1..=6));
    flood(&mut book, 1..=6);
    assert_eq!(book.pick(NOW).len(), 60);
}

#[test]
fn a_hundred_new_lanes_take_one_slot_each() {
    let mut book = owning(&all(1..=100));
    flood(&mut book, 1..=100);
    let picked = book.pick(NOW);
    assert_eq!(lanes_of(&picked).len(), 100);
    assert_eq!(picked.len(), 100);
}

/// A book of these lanes, each of a tenant that `of` tells.
fn owning_of(lanes: std::ops::RangeInclusive<u128>, of: impl Fn(u128) -> u128) -> Lanes {
    let mut book = Lanes::default();
    let lane = |n| OwnedLane { more: false, ..owned_by(tenant(of(n)), fresh(n), LaneSettings::default()) };
    book.own(&[], lanes.map(lane).collect(), NOW);
    book
}

/// How many of the lanes up to 500 and of those beyond, which fail, have a slot; one each.
fn taken(mut book: Lanes) -> (usize, usize) {
    (501..=1_000).for_each(|lane| sees(&mut book, lane, &HUNG, LONG));
    flood(&mut book, 1..=1_000);
    let picked = book.pick(NOW);
    assert_eq!(lanes_of(&picked).len(), picked.len(), "one each");
    let failing = picked.iter().filter(|d| d.lane > lane_id(500)).count();
    (picked.len() - failing, failing)
}

#[test]
fn new_lanes_of_many_tenants_fill_half_of_the_node_and_failing_ones_an_eighth() {
    assert_eq!(taken(owning_of(1..=1_000, |lane| lane)), (NODE_SLOTS / 2, NODE_SLOTS / 8));
}

#[test]
fn one_tenant_leaves_others_a_quarter_of_these_parts() {
    assert_eq!(taken(owning(&all(1..=1_000))), (NODE_SLOTS / 8 * 3, NODE_SLOTS / 32 * 3));
    assert_eq!(taken(owning_of(1..=1_000, |lane| lane % 2)), (220, 55), "two have three sevenths each");
}

#[test]
fn a_new_lane_waits_for_none_that_hangs_of_another_tenant() {
    let mut book = owning_of(1..=1_010, |lane| u128::from(lane > 1_000));
    flood(&mut book, 1..=1_000);
    book.pick(NOW);
    flood(&mut book, 1_001..=1_010);
    let picked = book.pick(NOW);
    assert_eq!(lanes_of(&picked), (1_001..=1_010).map(lane_id).collect(), "each of the other's, and no more");
}

/// Else those that come while the dispatcher reads the store would take what comes free, and those that wait nothing.
#[test]
fn a_lane_that_comes_takes_no_slot_for_which_others_of_its_tenant_wait() {
    let mut book = owning_of(1..=302, |lane| u128::from(lane == 302));
    flood(&mut book, 1..=300);
    let picked = book.pick(NOW);
    done(&mut book, picked[0], NOW);
    assert_eq!(book.reserve(lane_id(301), 0, 10, NOW), None);
    assert_eq!(book.reserve(lane_id(302), 0, 10, NOW), Some(Place::Slot), "another's");
    let next = book.pick(NOW);
    assert_eq!((next.len(), next[0].lane), (1, lane_id(picked.len() as u128 + 1)), "who waited longest");
}

#[test]
fn the_last_quarter_is_left_to_lanes_that_answer() {
    let mut book = owning(&all(1..=1_001));
    (501..=1_000).for_each(|lane| sees(&mut book, lane, &HUNG, LONG));
    sees(&mut book, 1_001, &GOOD, SOON);
    flood(&mut book, 1..=1_000);
    book.pick(NOW);
    flood(&mut book, 1_001..=1_001);
    assert_eq!(lanes_of(&book.pick(NOW)), HashSet::from([lane_id(1_001)]));
}

#[test]
fn the_first_delivery_of_a_new_lane_waits_for_no_failing_one() {
    let mut book = owning(&all(1..=400));
    (1..=399).for_each(|lane| sees(&mut book, lane, &HUNG, LONG));
    flood(&mut book, 1..=399);
    assert_eq!(book.pick(NOW).len(), NODE_SLOTS / 32 * 3);
    book.offer(vec![due(400, 0)], NOW);
    assert_eq!(book.pick(NOW), vec![due(400, 0)]);
}

#[test]
fn every_failing_lane_has_its_turn_whatever_the_others_do() {
    let mut book = owning(&all(1..=1_300));
    (1..=300).for_each(|lane| sees(&mut book, lane, &HUNG, LONG));
    (301..=1_300).for_each(|lane| sees(&mut book, lane, &GOOD, SOON));
    flood(&mut book, 1..=1_300);
    let (mut tried, mut under_way) = (HashSet::new(), Vec::new());
    for _ in 0..7 {
        // Those that answer are many enough to fill the node, and are done before any of these times out.
        for _ in 0..20 {
            under_way.extend(book.pick(NOW));
            assert!(book.in_flight() <= NODE_SLOTS);
            let answered: Vec<_> = under_way.extract_if(.., |d| d.lane > lane_id(300)).collect();
            answered.into_iter().for_each(|d| back(&mut book, d, &GOOD, NOW));
            book.offer((301..=1_300).map(|lane| due(lane, 0)).collect(), NOW);
        }
        tried.extend(lanes_of(&under_way));
        for d in under_way.drain(..) {
            book.learn((d.lane, d.turn, d.id), &HUNG, LONG, NOW);
            done(&mut book, d, NOW);
        }
    }
    assert_eq!(tried.len(), 300, "after as many time-outs as they fill their part of the node");
}

#[test]
fn lanes_that_fall_silent_at_once_leave_slots_and_take_no_more() {
    let mut book = owning(&all(1..=41));
    (1..=41).for_each(|lane| (0..900).for_each(|_| sees(&mut book, lane, &GOOD, SOON)));
    flood(&mut book, 1..=40);
    let held = book.pick(NOW).len();
    assert!(held < NODE_SLOTS - 30, "{held} slots are taken");

    (1..=40).for_each(|lane| book.waits(lane_id(lane)));

    flood(&mut book, 41..=41);
    let picked = book.pick(NOW);
    assert!(picked.len() > 5 && lanes_of(&picked) == HashSet::from([lane_id(41)]), "{picked:?}");
}

#[test]
fn one_answer_that_comes_soon_shows_that_a_lane_is_well_and_a_late_one_does_not() {
    let mut book = owning(&all(1..=302));
    (1..=302).for_each(|lane| sees(&mut book, lane, &HUNG, LONG));
    flood(&mut book, 1..=300);
    book.pick(NOW);
    sees(&mut book, 301, &GOOD, SOON);
    flood(&mut book, 301..=302);
    assert!(lanes_of(&book.pick(NOW)) == HashSet::from([lane_id(301)]));
    sees(&mut book, 302, &GOOD, PATIENCE);
    assert_eq!(lanes_of(&book.pick(NOW)), HashSet::from([lane_id(302)]), "a lane of which nothing is known");
}

#[test]
fn nothing_is_counted_as_held_once_all_is_over() {
    let mut book = owning(&all(1..=9));
    flood(&mut book, 1..=9);
    let mut step = 0;
    loop {
        let picked = book.pick(NOW);
        if picked.is_empty() {
            break;
        }
        for d in picked {
            step += 1;
            match step % 4 {
                0 => back(&mut book, d, &HUNG, NOW),
                1 => back(&mut book, d, &GOOD, NOW),
                2 => {
                    book.waits(d.lane);
                    back(&mut book, d, &GOOD, NOW);
                }
                _ => drop(done(&mut book, d, NOW)),
            }
        }
    }
    assert_eq!((book.in_flight(), book.held), (0, trust::Held::default()));
}

/// How long healthy deliveries wait for a slot, in steps of 5 ms over 20 s: 50 times a second twenty of
/// a hundred healthy lanes are owed one each, answered after 10 ms, and two of `hanging` others, which never answer.
fn waits_beside(hanging: u128) -> Vec<i64> {
    let mut book = owning(&all(1..=100 + hanging));
    let mut under_way: Vec<(Millis, DueDelivery)> = Vec::new();
    let mut waits = Vec::new();
    for step in 0..4_000 {
        let now = Millis(NOW.0 + 5 * step);
        for (_, d) in under_way.extract_if(.., |(ends, _)| *ends <= now) {
            let healthy = d.lane <= lane_id(100);
            let (outcome, took) = if healthy { (&GOOD, SOON) } else { (&HUNG, LONG) };
            book.learn((d.lane, d.turn, d.id), outcome, took, now);
            done(&mut book, d, now);
        }
        if step % 4 == 0 {
            let n = u128::from(step.unsigned_abs() / 4);
            let healthy = (0..20).map(|i| 1 + (20 * n + i) % 100);
            let others = (0..2).map(|i| 101 + (2 * n + i) % hanging.max(1)).filter(|_| hanging > 0);
            let owed = healthy.chain(others).map(|lane| DueDelivery { due_at: now, ..due(lane, n) });
            book.offer(owed.collect(), now);
        }
        for d in book.pick(now) {
            let healthy = d.lane <= lane_id(100);
            waits.extend(healthy.then(|| now.0 - d.due_at.0));
            let takes = if healthy { Duration::from_millis(10) } else { LONG };
            under_way.push((now.plus(takes), d));
        }
    }
    waits.sort_unstable();
    waits
}

#[test]
fn healthy_deliveries_wait_no_longer_beside_a_hundred_that_hang() {
    let (alone, beside) = (waits_beside(0), waits_beside(100));
    assert_eq!((alone.len(), beside.len()), (20_000, 20_000), "all are sent");
    assert_eq!((alone.last(), beside.last()), (Some(&0), Some(&0)), "and none waits for a slot");
}
