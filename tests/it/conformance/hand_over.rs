//! Deliveries born in the hands of the dispatcher.

mod adopted;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringback::store::{ClaimedDelivery, Error, HandOver, JobChange, OwnedLane, Place, Reserved, Right};
use ringback::types::api::ClaimedJob;
use ringback::types::delivery::Verdict;
use ringback::types::id::NodeId;
use ringback::types::{DeliveryId, LaneId, Millis};
use serde_json::json;

use super::endpoints::endpoint_of;
use super::events::damage::damage;
use super::events::{paid, publish};
use crate::support::store::{Bed, attempted, beside, both_stores, callback, complete};

both_stores! {
    a_reserved_delivery_is_born_leased,
    without_a_slot_it_waits_in_the_queue,
    a_failed_transaction_gives_the_slot_back,
    a_lane_that_nobody_owns_is_owned_by_who_makes_something_for_it,
    a_lane_of_another_living_node_stays_its_own,
    who_owns_a_lane_is_told_if_something_waits_in_it,
    what_is_set_for_a_lane_comes_with_it,
    a_failed_transaction_owns_no_lane,
    what_goes_to_an_endpoint_that_cannot_be_read_is_handed_over_to_nobody,
    what_is_claimed_and_cancelled_may_be_on_its_way_to_the_hand,
}

/// A dispatcher with a few slots that writes down what it is given.
struct Desk {
    node: NodeId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: usize,
    reserved: usize,
    given_back: usize,
    taken: Vec<ClaimedDelivery>,
    /// The lanes that it owns; None where it owns all that there are.
    lanes: Option<HashSet<LaneId>>,
    /// What it was told of them.
    owned: Vec<OwnedLane>,
    foreign: Vec<LaneId>,
    avoided: Vec<LaneId>,
    /// Whose hand it was to empty.
    emptied: Vec<LaneId>,
    /// What it was told is cancelled.
    cancelled: Vec<DeliveryId>,
}

impl Desk {
    fn at(bed: &Bed, slots: usize) -> Arc<Desk> {
        Desk::with(bed, State { slots, ..State::default() })
    }

    /// One that owns no lane yet.
    fn bare(bed: &Bed) -> Arc<Desk> {
        Desk::with(bed, State { slots: 5, lanes: Some(HashSet::new()), ..State::default() })
    }

    fn with(bed: &Bed, state: State) -> Arc<Desk> {
        let desk = Arc::new(Desk { node: bed.node, state: Mutex::new(state) });
        bed.store.hand_over_to(desk.clone());
        desk
    }
}

impl State {
    fn owns(&self, lane: LaneId) -> bool {
        self.lanes.as_ref().is_none_or(|lanes| lanes.contains(&lane))
    }
}

impl HandOver for Desk {
    fn reserve(&self, lane: LaneId, _: i64, _: usize) -> Option<Reserved> {
        let mut state = self.state.lock().unwrap();
        if state.slots == 0 || !state.owns(lane) {
            return None;
        }
        (state.slots, state.reserved) = (state.slots - 1, state.reserved + 1);
        Some(Reserved { lease: Duration::from_secs(30), place: Place::Slot })
    }

    fn give_back(&self, _: LaneId, _: i64, _: Place) {
        let mut state = self.state.lock().unwrap();
        (state.slots, state.given_back) = (state.slots + 1, state.given_back + 1);
    }

    fn take(&self, claimed: ClaimedDelivery, _: Place) {
        self.state.lock().unwrap().taken.push(claimed);
    }

    fn node(&self) -> NodeId {
        self.node
    }

    fn lacks(&self, lane: LaneId) -> bool {
        !self.state.lock().unwrap().owns(lane)
    }

    fn own(&self, asked: &[LaneId], owned: Vec<OwnedLane>) -> Vec<LaneId> {
        let mut state = self.state.lock().unwrap();
        let ids: Vec<LaneId> = owned.iter().map(|lane| lane.state.id).collect();
        state.foreign.extend(asked.iter().filter(|id| !ids.contains(id)));
        state.lanes.as_mut().unwrap().extend(&ids);
        state.owned.extend(owned);
        ids
    }

    fn avoid(&self, lanes: &[LaneId]) {
        self.state.lock().unwrap().avoided.extend(lanes);
    }

    fn disown(&self, lanes: &[LaneId]) {
        let mut state = self.state.lock().unwrap();
        state.lanes.as_mut().unwrap().retain(|lane| !lanes.contains(lane));
    }

    fn empty_hand(&self, lane: LaneId) {
        self.state.lock().unwrap().emptied.push(lane);
    }

    fn cancelled(&self, _: LaneId, delivery: DeliveryId) -> bool {
        self.state.lock().unwrap().cancelled.push(delivery);
        false
    }
}

async fn a_reserved_delivery_is_born_leased(bed: &Bed) {
    let desk = Desk::at(bed, 5);
    let id = bed.completed().await.id;
    let taken = std::mem::take(&mut desk.state.lock().unwrap().taken).remove(0);
    assert_eq!((taken.job_id, taken.number, taken.fence, taken.used), (Some(id), 1, 1, 0));
    assert_eq!(taken.lease_until, Millis(bed.now().0 + 30_000));
    assert_eq!(
        bed.count("delivery_queue WHERE phase = 'leased' AND attempt = 1").await,
        1,
        "intent is committed"
    );
    assert!(bed.claim().await.is_empty());
    // Nobody reports: the lease runs out, and another claims what is byte for byte the same.
    bed.pass_seconds(30);
    let again = bed.claim_one().await;
    assert_eq!((again.number, again.fence, again.unknowns), (2, 2, 1));
    let same = |c: &ClaimedDelivery| {
        format!("{:?} {:?} {} {:?} {:?}", c.id, c.event_id, c.url, c.body, (c.event_at, &c.variant, c.lane))
    };
    assert_eq!(same(&again), same(&taken));
    assert!(!bed.record(attempted(&taken, 200, Verdict::Delivered)).await);
    assert!(bed.record(attempted(&again, 200, Verdict::Delivered)).await);
    assert_eq!(bed.count("attempts").await, 2);
}

async fn without_a_slot_it_waits_in_the_queue(bed: &Bed) {
    let desk = Desk::at(bed, 1);
    bed.completed().await;
    bed.completed().await;
    assert_eq!(desk.state.lock().unwrap().taken.len(), 1);
    let waiting = bed.claim_one().await;
    assert_eq!((waiting.number, waiting.fence), (1, 1));
}

/// Tries to complete a job where no body can be written.
async fn fail_to_complete(bed: &Bed, held: &ClaimedJob) {
    bed.rows("ALTER TABLE bodies RENAME TO hidden").await;
    let change =
        JobChange { id: held.job_id, tenant: None, right: Right::Lease(held.lease_token), what: complete() };
    let failed = bed.store.change(vec![change], bed.now()).await;
    assert!(matches!(failed, Err(Error::Bug(_))), "{failed:?}");
    bed.rows("ALTER TABLE hidden RENAME TO bodies").await;
}

async fn a_failed_transaction_gives_the_slot_back(bed: &Bed) {
    let desk = Desk::at(bed, 5);
    bed.submit(bed.called_back()).await;
    let held = bed.lease_one().await;
    fail_to_complete(bed, &held).await;
    {
        let state = desk.state.lock().unwrap();
        assert!(state.reserved > 0 && state.reserved == state.given_back);
        assert_eq!((state.slots, state.taken.len()), (5, 0), "taken only after the commit");
    }
    assert_eq!(bed.count("deliveries").await, 0);
    bed.held(&held, complete()).await.unwrap();
    let state = desk.state.lock().unwrap();
    assert_eq!((state.slots, state.taken.len()), (4, 1));
    assert_eq!(state.taken[0].url, callback("https://hooks.example.com/a").url);
}

async fn a_lane_that_nobody_owns_is_owned_by_who_makes_something_for_it(bed: &Bed) {
    let desk = Desk::bare(bed);
    let id = bed.completed().await.id;
    bed.completed().await;
    {
        let state = desk.state.lock().unwrap();
        assert_eq!(state.taken.iter().map(|d| d.fence).collect::<Vec<_>>(), [1, 1]);
        assert_eq!((state.taken[0].job_id, state.taken[0].lane), (Some(id), state.owned[0].state.id));
        assert_eq!(state.taken[0].lease_until, Millis(bed.now().0 + 30_000));
        assert!(state.owned.len() == 1 && !state.owned[0].more, "asked for once");
    }
    let owned = format!("lanes WHERE owner_id = {} AND owners = 1", bed.literal(bed.node.uuid()));
    assert_eq!(bed.count(&owned).await, 1);
    assert_eq!(bed.count("lanes WHERE origin = 'https://hooks.example.com'").await, 1);
    assert_eq!(bed.count("delivery_queue WHERE phase = 'leased' AND attempt = 1").await, 2);
    assert!(bed.claim().await.is_empty());
}

async fn a_lane_of_another_living_node_stays_its_own(bed: &Bed) {
    bed.completed().await;
    let due = bed.store.due(Millis(0), bed.now(), 9).await.unwrap().remove(0);
    let another = NodeId::from_uuid(uuid::Uuid::from_u128(7));
    bed.store.keep_alive(another, Millis(bed.now().0 + 15_000)).await.unwrap();
    assert_eq!(bed.store.own_lanes(another, &[(due.lane, due.id)], bed.now()).await.unwrap().len(), 1);
    let desk = Desk::bare(bed);
    bed.completed().await;
    {
        let state = desk.state.lock().unwrap();
        assert_eq!((state.foreign.as_slice(), state.owned.len(), state.taken.len()), (&[due.lane][..], 0, 0));
    }
    assert_eq!(bed.count("delivery_queue WHERE phase = 'ready'").await, 2);
    // Dead, it owns nothing.
    bed.pass_seconds(16);
    bed.completed().await;
    let state = desk.state.lock().unwrap();
    assert_eq!(
        state.owned.iter().map(|lane| (lane.state.id, lane.more)).collect::<Vec<_>>(),
        [(due.lane, true)]
    );
}

async fn who_owns_a_lane_is_told_if_something_waits_in_it(bed: &Bed) {
    let desk = Desk::bare(bed);
    let made = async || {
        bed.completed().await;
        let mut state = desk.state.lock().unwrap();
        (state.owned.remove(0), state.taken.pop().unwrap())
    };
    let let_go = async |lane: OwnedLane| {
        desk.disown(&[lane.state.id]);
        bed.store.save_lanes(bed.node, &[(lane.state, true)]).await.unwrap();
    };
    let (lane, taken) = made().await;
    assert!(bed.record(attempted(&taken, 200, Verdict::Delivered)).await);
    let_go(lane).await;
    let (lane, taken) = made().await;
    assert!(!lane.more, "all that it had is delivered");
    assert!(bed.record(attempted(&taken, 503, Verdict::RetryAt(bed.now()))).await);
    let_go(lane).await;
    let (lane, _) = made().await;
    assert!(lane.more, "that waits for its next attempt");
    // Nor does it pass what was made before anybody owned the lane.
    bed.rows("DELETE FROM lanes").await;
    desk.disown(&[lane.state.id]);
    assert!(made().await.0.more);
}

async fn what_is_set_for_a_lane_comes_with_it(bed: &Bed) {
    bed.completed().await;
    let lane = bed.store.due(Millis(0), bed.now(), 9).await.unwrap().remove(0).lane;
    bed.store.own_lanes(bed.node, &[(lane, bed.claim_one().await.id)], bed.now()).await.unwrap();
    let until = Millis(bed.now().0 + 60_000);
    bed.store.pause_lane(bed.tenant, lane, Some(until), bed.now()).await.unwrap();
    let desk = Desk::bare(bed);
    bed.completed().await;
    let state = desk.state.lock().unwrap();
    assert_eq!(state.owned[0].set.paused_until, Some(until));
}

async fn a_failed_transaction_owns_no_lane(bed: &Bed) {
    let desk = Desk::bare(bed);
    bed.submit(bed.called_back()).await;
    let held = bed.lease_one().await;
    fail_to_complete(bed, &held).await;
    {
        let state = desk.state.lock().unwrap();
        assert!(!state.owned.is_empty() && state.lanes.as_ref().unwrap().is_empty());
        assert_eq!((state.slots, state.taken.len()), (5, 0));
    }
    assert_eq!(bed.count("lanes").await, 0);
    bed.held(&held, complete()).await.unwrap();
    assert_eq!(desk.state.lock().unwrap().taken.len(), 1);
}

async fn what_is_claimed_and_cancelled_may_be_on_its_way_to_the_hand(bed: &Bed) {
    let desk = Desk::at(bed, 1);
    bed.completed().await;
    bed.completed().await;
    let claimed = desk.state.lock().unwrap().taken.remove(0);
    let waiting = bed.store.due(Millis(0), bed.now(), 9).await.unwrap().remove(0).id;
    for id in [waiting, claimed.id] {
        bed.store.cancel_delivery(bed.tenant, id, bed.now()).await.unwrap();
    }
    let state = desk.state.lock().unwrap();
    assert_eq!((&state.cancelled[..], &state.emptied[..]), (&[waiting, claimed.id][..], &[claimed.lane][..]));
}

async fn what_goes_to_an_endpoint_that_cannot_be_read_is_handed_over_to_nobody(bed: &Bed) {
    let of = async || endpoint_of(bed, bed.tenant, json!({"events": ["invoice.paid"]})).await;
    let (good, bad) = (of().await, of().await);
    damage(bed, bad.id).await;
    // A lane that it owns, and one that it could.
    let desk = Desk::at(bed, 5);
    publish(bed, paid(bed)).await;
    desk.state.lock().unwrap().lanes = Some(HashSet::new());
    publish(bed, paid(bed)).await;
    {
        let state = desk.state.lock().unwrap();
        let taken = state.taken.iter().map(|d| d.endpoint.as_ref().unwrap().id);
        assert_eq!(taken.collect::<Vec<_>>(), [good.id, good.id]);
        let owned = state.owned.iter().map(|lane| lane.state.id);
        assert_eq!(owned.collect::<Vec<_>>(), [good.lane()]);
    }
    let owed = format!("deliveries WHERE state = 'owed' AND endpoint_id = {}", bed.literal(bad.id.uuid()));
    assert_eq!(bed.count(&owed).await, 2);
    assert!(bed.claim().await.is_empty(), "put off");
}

#[tokio::test]
async fn whose_rows_others_hold_are_left_to_a_later_look() {
    let bed = Bed::postgres().await;
    bed.completed().await;
    let due = bed.store.due(Millis(0), bed.now(), 9).await.unwrap().remove(0);
    bed.store.own_lanes(bed.node, &[(due.lane, due.id)], bed.now()).await.unwrap();
    let mut other = beside(&bed.url).await;
    other.run("BEGIN", vec![]).await.unwrap();
    assert_eq!(other.all("SELECT id FROM lanes FOR UPDATE", vec![]).await.unwrap().len(), 1);
    let desk = Desk::bare(&bed);
    bed.completed().await;
    {
        let state = desk.state.lock().unwrap();
        assert!(state.taken.is_empty() && state.avoided == [due.lane], "left alone for a while");
    }
    assert_eq!(bed.count("delivery_queue WHERE phase = 'ready'").await, 2, "made all the same");
    other.run("ROLLBACK", vec![]).await.unwrap();
    bed.completed().await;
    assert_eq!(desk.state.lock().unwrap().taken.len(), 1);
    bed.sound().await;
}
