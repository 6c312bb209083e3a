use super::*;
use crate::dice::Dice;
use crate::egress;
use crate::store::seal::KeyRing;
use crate::store::{self, ClaimedDelivery, HandOver as _, NewEndpoint, Place};
use crate::types::DeliveryId;
use crate::types::api::{self, Urls};
use crate::types::delivery::Outcome;
use crate::types::endpoint;

const NOW: Millis = Millis(1_767_225_600_000);

#[test]
fn a_look_goes_on_where_the_last_one_ended_and_never_stands_still() {
    let now = Millis(10_000);
    let mut looked = Looked { beat: Some(now), ..Looked::default() };
    looked.after(Millis(0), None, now);
    assert_eq!(looked.floor, now.minus(LONGEST_COMMIT), "all was seen: late commits are found again");
    looked.after(Millis(0), Some(Millis(5_000)), now);
    assert_eq!((looked.floor, looked.anew), (Millis(4_999), false), "the same instant may hold more");
    looked.after(Millis(4_999), Some(Millis(5_000)), now);
    assert_eq!((looked.floor, looked.anew), (Millis(5_000), true), "it does: the lanes are looked through");
}

/// A dispatcher over a store of its own, and where that is.
async fn dispatcher() -> (Dispatcher, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(store::Options {
        url: format!("sqlite://{}", dir.path().join("store.db").display()),
        urls: Urls::new("https://api.example.com"),
        ring: KeyRing::generate([7; 32]),
        dice: Dice::seeded(1),
        metrics: Metrics::default(),
    });
    let (sender, clock) = (Sender::new(egress::Options::default()).unwrap(), Clock::manual(NOW));
    let (wake, metrics, node) = (Wake::default(), Metrics::default(), Dice::seeded(2).id(NOW));
    let store = store.await.unwrap();
    (Dispatcher::new(store, sender, clock, wake, metrics, node, Options::default()), dir)
}

/// A delivery that is claimed, and has a place in the hand of its lane.
async fn on_its_way_to_the_hand(dispatcher: &Dispatcher) -> ClaimedDelivery {
    let (inner, store) = (&dispatcher.0, &dispatcher.0.store);
    let wish = api::NewEndpoint { url: "https://hooks.example.com/".to_owned(), ..Default::default() };
    let settings = endpoint::check(wish, &UrlPolicy::default()).unwrap();
    let tenant = store.tenant("one", NOW).await.unwrap();
    let new = NewEndpoint { tenant, settings, idempotency: None };
    let (id, _) = store.put_endpoint(new, 1, NOW).await.unwrap();
    let there = store.endpoint(tenant, id).await.unwrap();
    let claimed = store.begin_probe(&there, store::TEST, &"x", NOW).await.unwrap();
    let (lane, id) = (claimed.lane, claimed.id);
    dispatcher.own(vec![(lane, id)], false, NOW).await.unwrap();
    dispatcher.feed(NOW).await.unwrap();
    let good = Outcome::Answered { status: 200, retry_after: None, abort: false };
    inner.lanes().learn((lane, 0, id), &good, Duration::ZERO, NOW);
    let desk = Desk(Arc::downgrade(inner));
    while desk.reserve(lane, 0, 1).unwrap().place != Place::Hand {}
    claimed
}

/// It went back, and costs no attempt.
async fn is_back(dispatcher: &Dispatcher, id: DeliveryId) {
    let inner = &dispatcher.0;
    inner.sends.close();
    inner.sends.wait().await;
    let due = inner.store.due(Millis(0), NOW, 9).await.unwrap();
    assert_eq!(due.iter().map(|d| (d.id, d.attempt)).collect::<Vec<_>>(), [(id, 0)]);
    assert_eq!(inner.lanes().in_hand(), 0);
}

#[tokio::test]
async fn what_comes_to_hand_after_a_stop_has_emptied_it_goes_back_at_once() {
    let (dispatcher, _dir) = dispatcher().await;
    let claimed = on_its_way_to_the_hand(&dispatcher).await;
    let (inner, id) = (&dispatcher.0, claimed.id);

    inner.stopping.cancel();
    inner.empty_hands();
    Desk(Arc::downgrade(inner)).take(claimed, Place::Hand);

    is_back(&dispatcher, id).await;
}

#[tokio::test]
async fn what_was_claimed_before_its_endpoint_was_changed_does_not_come_to_hand() {
    let (dispatcher, _dir) = dispatcher().await;
    let claimed = on_its_way_to_the_hand(&dispatcher).await;
    let (desk, id) = (Desk(Arc::downgrade(&dispatcher.0)), claimed.id);

    dispatcher
        .0
        .store
        .set_endpoint_paused(claimed.tenant, claimed.endpoint.as_ref().unwrap().id, true, NOW)
        .await
        .unwrap();
    assert!(desk.reserve(claimed.lane, 0, 1).is_none(), "it would go back at once");
    desk.take(claimed, Place::Hand);

    is_back(&dispatcher, id).await;
}

#[tokio::test]
async fn what_a_thread_with_a_runtime_of_its_own_hands_over_outlives_it() {
    let (dispatcher, _dir) = dispatcher().await;
    let claimed = on_its_way_to_the_hand(&dispatcher).await;
    let (inner, id) = (&dispatcher.0, claimed.id);
    inner.stopping.cancel();
    inner.empty_hands();

    let desk = Desk(Arc::downgrade(inner));
    let writer = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { desk.take(claimed, Place::Hand) });
    });
    writer.join().unwrap();

    is_back(&dispatcher, id).await;
}
