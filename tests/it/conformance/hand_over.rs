//! Deliveries born in the hands of the dispatcher.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringback::store::{ClaimedDelivery, Error, HandOver, Place, Reserved};
use ringback::types::delivery::Verdict;
use ringback::types::id::NodeId;
use ringback::types::{LaneId, Millis};

use crate::support::store::{Bed, attempted, both_stores, callback, complete};

both_stores! {
    a_reserved_delivery_is_born_leased,
    without_a_slot_it_waits_in_the_queue,
    a_failed_transaction_gives_the_slot_back,
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
}

impl Desk {
    fn at(bed: &Bed, slots: usize) -> Arc<Desk> {
        let state = Mutex::new(State { slots, ..State::default() });
        let desk = Arc::new(Desk { node: bed.node, state });
        bed.store.hand_over_to(desk.clone());
        desk
    }
}

impl HandOver for Desk {
    fn reserve(&self, _: LaneId, _: i64, _: usize) -> Option<Reserved> {
        let mut state = self.state.lock().unwrap();
        if state.slots == 0 {
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

async fn a_failed_transaction_gives_the_slot_back(bed: &Bed) {
    let desk = Desk::at(bed, 5);
    bed.submit(bed.called_back()).await;
    let held = bed.lease_one().await;
    bed.rows("ALTER TABLE bodies RENAME TO hidden").await;
    let failed = bed.store.change(
        vec![ringback::store::JobChange {
            id: held.job_id,
            tenant: None,
            right: ringback::store::Right::Lease(held.lease_token),
            what: complete(),
        }],
        bed.now(),
    );
    let failed = failed.await;
    assert!(matches!(failed, Err(Error::Bug(_))), "{failed:?}");
    bed.rows("ALTER TABLE hidden RENAME TO bodies").await;
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
