mod hand;
mod steered;
mod trusted;
mod woken;

use std::collections::VecDeque;

use super::ready::IN_MIND;
use super::*;
use crate::store::Place;
use crate::types::TenantId;
use crate::types::delivery::Fault;
use crate::types::lane::Limits;
use proptest::prelude::*;
use uuid::Uuid;

const NOW: Millis = Millis(1_000_000);
/// How long a receiver takes to answer.
const SOON: Duration = Duration::from_millis(5);

fn tenant(n: u128) -> TenantId {
    TenantId::from_uuid(Uuid::from_u128(n))
}

fn lane_id(n: u128) -> LaneId {
    LaneId::from_uuid(Uuid::from_u128(n))
}

fn due(lane: u128, n: u128) -> DueDelivery {
    DueDelivery {
        id: DeliveryId::from_uuid(Uuid::from_u128(lane << 64 | n)),
        tenant: tenant(0),
        lane: lane_id(lane),
        turn: 0,
        fence: 0,
        due_at: NOW,
        attempt: 0,
        used: 0,
        unknowns: 0,
        lost_at: None,
    }
}

fn fresh(n: u128) -> LaneState {
    LaneState {
        id: lane_id(n),
        concurrency: 10,
        failures: 0,
        opened: 0,
        held_until: None,
        held_reason: None,
        rate_at: None,
        cleared_at: None,
    }
}

fn owned(state: LaneState, set: LaneSettings) -> OwnedLane {
    owned_by(tenant(0), state, set)
}

fn owned_by(tenant: TenantId, state: LaneState, set: LaneSettings) -> OwnedLane {
    OwnedLane { state, tenant, set, more: true }
}

fn limited(limits: Limits) -> LaneSettings {
    LaneSettings { limits, ..LaneSettings::default() }
}

fn owning_with(lanes: &[u128], set: LaneSettings) -> Lanes {
    let mut book = Lanes::default();
    book.own(&[], lanes.iter().map(|n| owned(fresh(*n), set)).collect(), NOW);
    for hungry in book.hungry(NOW, 1_000) {
        book.refill(hungry.lane, InLane::default(), NOW);
    }
    book
}

fn owning(lanes: &[u128]) -> Lanes {
    owning_with(lanes, LaneSettings::default())
}

/// The same delivery, to another URL.
fn to(turn: i64, due: DueDelivery) -> DueDelivery {
    DueDelivery { turn, ..due }
}

fn done(book: &mut Lanes, d: DueDelivery, now: Millis) -> bool {
    book.done(d.lane, d.turn, Some(d.id), now)
}

/// A request comes back with an outcome.
fn back(book: &mut Lanes, d: DueDelivery, outcome: &Outcome, now: Millis) {
    book.learn((d.lane, d.turn, d.id), outcome, SOON, now);
    done(book, d, now);
}

/// The outcome of some request of a lane whose deliveries go to one URL.
fn learn(book: &mut Lanes, lane: u128, outcome: &Outcome) {
    book.learn((lane_id(lane), 0, due(lane, 0).id), outcome, SOON, NOW);
}

const GOOD: Outcome = Outcome::Answered { status: 200, retry_after: None, abort: false };
const DOWN: Outcome = Outcome::Failed(Fault::Connect);

#[test]
fn a_lane_that_nobody_owned_before_is_read_only_for_what_has_no_room_or_has_an_order() {
    let first = |n, set| OwnedLane { more: false, ..owned(fresh(n), set) };
    let in_order = limited(Limits { ordered: true, ..Limits::default() });
    let mut book = Lanes::default();
    let lanes = vec![
        first(1, LaneSettings::default()),
        first(2, LaneSettings::default()),
        first(3, in_order),
        owned(fresh(4), LaneSettings::default()),
    ];
    book.own(&[], lanes, NOW);
    let read = |book: &mut Lanes| book.hungry(NOW, 9).iter().map(|h| h.lane).collect::<Vec<_>>();
    assert_eq!(read(&mut book), [lane_id(4)]);
    book.offer((0..=IN_MIND as u128).map(|n| due(1, n)).chain([due(2, 1_000), due(3, 2_000)]).collect(), NOW);
    assert_eq!(read(&mut book), [lane_id(3)]);
    let mut sent = 0;
    while read(&mut book).is_empty() {
        let picked = book.pick(NOW);
        assert!(!picked.is_empty());
        sent += picked.len();
        picked.into_iter().for_each(|one| back(&mut book, one, &GOOD, NOW));
    }
    assert_eq!(sent, IN_MIND + 1, "what did not fit is read once the others are sent");
}

#[test]
fn lanes_without_work_take_no_turns() {
    let mut book = owning(&(0..100).collect::<Vec<_>>());
    assert!(book.pick(NOW).is_empty());
    assert_eq!((book.turns.len(), book.opens_at()), (0, None));
    book.offer(vec![due(7, 1)], NOW);
    let picked = book.pick(NOW);
    assert_eq!((picked.len(), picked[0].lane), (1, lane_id(7)));
    book.pick(NOW);
    assert_eq!(book.turns.len(), 0);
    // What is found no place for is in the store, and the lane looks for it.
    book.out_of_hand(lane_id(8), 0);
    assert_eq!(book.hungry(NOW, 10).len(), 1);
}

#[test]
fn lanes_that_cannot_send_take_no_turns_until_they_can() {
    let mut book = owning(&[1, 2]);
    let busy = Outcome::Answered { status: 429, retry_after: Some(Duration::from_secs(60)), abort: false };
    learn(&mut book, 1, &busy);
    let slots = 10;
    book.offer((0..50).map(|n| due(1, n)).chain((0..slots + 1).map(|n| due(2, n))).collect(), NOW);
    let mut sent = book.pick(NOW);
    assert_eq!(sent.len() as u128, slots);
    book.pick(NOW);
    assert_eq!(book.turns.len(), 0, "one is paused, the other has no slot free");
    book.offer(vec![due(1, 99), due(2, 99)], NOW);
    assert_eq!(book.turns.len(), 0, "more work makes no difference");

    assert!(done(&mut book, sent.remove(0), NOW), "someone waits for the slot");
    assert_eq!(book.pick(NOW).iter().map(|d| d.lane).collect::<Vec<_>>(), [lane_id(2)]);
    let minute = NOW.plus(Duration::from_secs(60));
    assert_eq!(book.opens_at(), Some(minute));
    assert_eq!(book.pick(minute).iter().map(|d| d.lane).collect::<Vec<_>>(), vec![lane_id(1); 5]);
    assert_eq!(book.opens_at(), None);
}

#[test]
fn a_flooded_lane_takes_its_own_slots_and_no_more() {
    let mut book = owning(&[1, 2]);
    book.offer((0..1_000).map(|n| due(1, n)).chain([due(2, 1)]).collect(), NOW);

    let picked = book.pick(NOW);

    assert_eq!(picked.iter().filter(|d| d.lane == lane_id(1)).count(), 10);
    assert_eq!(picked.iter().filter(|d| d.lane == lane_id(2)).count(), 1);
    assert!(picked[0].lane != picked[1].lane, "turns are taken lane by lane");
    assert!(book.pick(NOW).is_empty());
}

#[test]
fn what_is_not_kept_in_mind_is_read_again_when_there_is_room() {
    let mut book = owning(&[1]);
    book.offer((0..1_000).map(|n| due(1, n)).collect(), NOW);
    let mut sent = 0;
    while sent < IN_MIND {
        for d in book.pick(NOW) {
            sent += 1;
            done(&mut book, d, NOW);
        }
    }
    assert_eq!(book.hungry(NOW, 10), vec![Hungry { lane: lane_id(1), turn: None, ordered: false, size: 64 }]);
    assert!(book.hungry(NOW, 10).is_empty(), "asked once");
}

#[test]
fn one_delivery_seen_twice_is_sent_once() {
    let mut book = owning(&[1]);
    book.offer(vec![due(1, 7), due(1, 7)], NOW);
    book.offer(vec![due(1, 7)], NOW);
    assert_eq!(book.pick(NOW).len(), 1);
}

#[test]
fn a_new_delivery_never_overtakes_those_that_wait() {
    let mut book = owning(&[1]);
    assert_eq!(book.reserve(lane_id(1), 0, 1, NOW), Some(Place::Slot));
    book.offer(vec![due(1, 1)], NOW);
    assert_eq!(book.reserve(lane_id(1), 0, 1, NOW), None);
    assert_eq!(book.reserve(lane_id(2), 0, 1, NOW), None, "a lane that is not owned hands nothing over");
}

#[test]
fn what_waits_in_the_store_goes_before_what_falls_due_later() {
    let mut book = owning(&[1]);
    let mut store: VecDeque<DueDelivery> = (64..200).map(|n| due(1, n)).collect();
    book.offer((0..65).map(|n| due(1, n)).collect(), NOW);
    let mut sent = Vec::new();
    while !store.is_empty() {
        for n in 0..20 {
            book.offer(vec![due(1, 1_000 + 100 * sent.len() as u128 + n)], NOW);
        }
        for hungry in book.hungry(NOW, 9) {
            let oldest: Vec<_> = store.drain(..store.len().min(64)).collect();
            book.refill(hungry.lane, InLane { more: !store.is_empty(), oldest, ..InLane::default() }, NOW);
        }
        for d in book.pick(NOW) {
            sent.push(d.id);
            done(&mut book, d, NOW);
        }
        assert!(sent.len() < 300, "{} of the oldest wait while newer ones are sent", store.len());
    }
    let later = sent.iter().filter(|id| **id >= due(1, 1_000).id).count();
    assert_eq!(later, 0, "newer ones overtook");
}

#[test]
fn retry_after_pauses_the_lane_and_not_its_neighbour() {
    let mut book = owning(&[1, 2]);
    let busy = Outcome::Answered { status: 429, retry_after: Some(Duration::from_secs(60)), abort: false };
    learn(&mut book, 1, &busy);
    book.offer(vec![due(1, 1), due(2, 1)], NOW);

    assert_eq!(book.pick(NOW).len(), 1);
    assert_eq!(book.opens_at(), Some(NOW.plus(Duration::from_secs(60))));
    assert_eq!(book.pick(NOW.plus(Duration::from_secs(60))).len(), 1);
}

#[test]
fn slots_adapt_within_their_bounds() {
    let mut book = owning(&[1]);
    for _ in 0..9 {
        learn(&mut book, 1, &DOWN);
    }
    book.offer((0..64).map(|n| due(1, n)).collect(), NOW);
    assert_eq!(book.pick(NOW).len(), 1, "a dead receiver keeps one slot");

    let mut book = owning(&[1]);
    for _ in 0..10_000 {
        learn(&mut book, 1, &GOOD);
    }
    book.offer((0..64).map(|n| due(1, n)).collect(), NOW);
    assert_eq!(book.pick(NOW).len(), 64, "a quick one is never held back");
}

#[test]
fn a_crowded_node_lets_lanes_go_once_nothing_is_in_flight() {
    let mut book = owning(&[1, 2, 3]);
    book.offer((0..9).map(|n| due(1 + n % 3, n)).collect(), NOW);
    assert_eq!(book.pick(NOW).len(), 9);
    book.done(lane_id(2), 0, None, NOW);
    book.offer(vec![due(2, 100)], NOW);

    book.shed(3);
    assert!(book.to_save(NOW).iter().all(|(_, release)| !release), "a fair share stays");
    book.shed(2);
    let picked = book.pick(NOW);
    assert!(picked.is_empty() && book.reserve(lane_id(2), 0, 1, NOW).is_none(), "{picked:?}");
    assert!(book.to_save(NOW).iter().all(|(_, release)| !release), "two requests are under way");
    book.done(lane_id(2), 0, None, NOW);
    book.done(lane_id(2), 0, None, NOW);

    let released: Vec<_> = book.to_save(NOW).into_iter().filter(|(_, r)| *r).map(|(l, _)| l.id).collect();
    assert_eq!(released, vec![lane_id(2)]);
    assert!(book.offer(vec![due(2, 100)], NOW).is_empty(), "others look first");
    let back = NOW.minus(Duration::from_secs(3_600));
    assert_eq!(book.offer(vec![due(2, 100)], back).len(), 1, "by a clock that was set back");
    assert_eq!(book.offer(vec![due(2, 100)], NOW.plus(FOREIGN)).len(), 1, "what waits is not forgotten");
}

#[test]
fn an_idle_lane_is_let_go_and_a_busy_one_kept() {
    let mut book = owning(&[1, 2]);
    book.offer(vec![due(2, 1)], NOW);
    let later = NOW.plus(Duration::from_secs(61));
    let released: Vec<_> = book.to_save(later).into_iter().filter(|(_, r)| *r).map(|(l, _)| l.id).collect();
    assert_eq!(released, vec![lane_id(1)]);
    assert_eq!(book.len(), 1);
}

#[test]
fn retries_leave_a_quarter_of_the_slots_to_first_attempts() {
    let lanes: Vec<u128> = (1..=40).collect();
    let mut book = owning(&lanes);
    let retry = |lane, n| DueDelivery { attempt: 1, ..due(lane, n) };
    for lane in &lanes {
        book.offer((0..20).map(|n| retry(*lane, n)).collect(), NOW);
        (0..900).for_each(|_| learn(&mut book, *lane, &GOOD));
    }
    assert_eq!(book.pick(NOW).len(), RETRY_SLOTS);

    book.offer(vec![due(7, 99)], NOW);

    assert_eq!(book.pick(NOW), vec![due(7, 99)], "a first attempt passes the retries before it");
    assert!(book.pick(NOW).is_empty());
}

#[test]
fn a_node_that_was_taken_for_dead_asks_anew_and_keeps_count() {
    let mut book = owning(&[1]);
    book.offer(vec![due(1, 1), due(1, 2)], NOW);
    assert_eq!(book.pick(NOW).len(), 2);

    book.forget();

    assert_eq!((book.len(), book.in_flight()), (0, 2));
    assert_eq!(book.offer(vec![due(1, 3)], NOW), vec![(lane_id(1), due(1, 3).id)]);
    book.done(lane_id(1), 0, None, NOW);
    assert_eq!(book.in_flight(), 1);
}

/// What a lane owes in the store, as the node would read it.
fn read(store: &[DueDelivery], turn: Option<i64>) -> InLane {
    let oldest: Vec<_> = store.iter().take(IN_MIND).copied().collect();
    if oldest.len() < IN_MIND {
        return InLane { oldest, ..InLane::default() };
    }
    let mut first: std::collections::BTreeMap<i64, DueDelivery> = std::collections::BTreeMap::new();
    for d in store {
        first.entry(d.turn).or_insert(*d);
    }
    let behind = first.into_values().filter(|d| turn.is_none_or(|t| d.turn > t));
    let others: Vec<_> = behind.take(IN_MIND).collect();
    let turn = others.last().map(|d| d.turn).filter(|_| others.len() == IN_MIND);
    InLane { oldest, others, more: true, turn, ..InLane::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the receiver does, everything is sent once, no slot is lost, and a lane keeps to its ceiling.
    #[test]
    fn nothing_is_lost_and_nothing_is_sent_twice(
        owed in prop::collection::vec(0..90i64, 1..400),
        outcomes in prop::collection::vec(0..5u8, 1..50),
        most in 1..80u32,
    ) {
        let mut book = owning_with(&[1], limited(Limits { max_in_flight: Some(most), ..Limits::default() }));
        let mut store: Vec<_> = (0..).zip(&owed).map(|(n, turn)| to(*turn, due(1, n))).collect();
        book.offer(store.clone(), NOW);
        let (mut now, mut sent, mut step) = (NOW, HashSet::new(), 0);
        while !store.is_empty() {
            prop_assert!(step < 50_000, "{} are never sent", store.len());
            for hungry in book.hungry(now, 9) {
                book.refill(hungry.lane, read(&store, hungry.turn), now);
            }
            let picked = book.pick(now);
            for lane in book.lanes.values() {
                let rests = matches!(lane.turn_taking, turns::TurnTaking::Rests(until) if until.is_none_or(|at| at > now));
                prop_assert!(!rests || lane.is_stuck(now), "it rests and could send");
            }
            prop_assert!(picked.len() <= most as usize);
            prop_assert_eq!(book.in_flight(), picked.len());
            for d in &picked {
                prop_assert!(sent.insert(d.id));
                store.retain(|s| s.id != d.id);
            }
            for d in picked {
                step += 1;
                match outcomes[step % outcomes.len()] {
                    0 => drop(done(&mut book, d, now)),
                    1 => back(&mut book, d, &DOWN, now),
                    2 => back(&mut book, d, &Outcome::Failed(Fault::Unknown), now),
                    _ => back(&mut book, d, &GOOD, now),
                }
            }
            now = book.opens_at().unwrap_or(now);
            step += 1;
        }
        prop_assert_eq!(sent.len(), owed.len());
        prop_assert_eq!(book.in_flight(), 0);
    }
}
