//! Deliveries that someone sends again or cancels.

use ringback::store::Error;
use ringback::types::Millis;
use ringback::types::delivery::{DeadReason, DeliveryState, Verdict};

use super::in_five;
use crate::support::store::{Bed, attempted, both_stores};

both_stores! {
    a_delivery_may_be_retried_from_any_state,
    a_new_round_that_is_asked_for_under_way_begins_after_it,
    a_delivery_may_be_cancelled_while_it_is_owed,
}

async fn a_delivery_may_be_retried_from_any_state(bed: &Bed) {
    let id = {
        bed.completed().await;
        bed.deliver(503, in_five(bed)).await.id
    };
    let retry = async || bed.store.retry_delivery(bed.tenant, id, bed.now()).await.unwrap();
    assert_eq!(retry().await.next_attempt_at, Some(bed.now()), "pending: due now");
    let sent = bed.claim_one().await;
    assert_eq!((sent.id, sent.number, sent.used), (id, 2, 0), "a new round of attempts");
    assert!(bed.record(attempted(&sent, 410, Verdict::Dead(DeadReason::Gone))).await);
    assert_eq!(bed.count("dead_letters").await, 1);
    assert_eq!(retry().await.state, DeliveryState::Pending);
    assert_eq!(bed.count("dead_letters").await, 0, "a replayed letter leaves the list");
    let sent = bed.deliver(200, Verdict::Delivered).await;
    assert_eq!((sent.id, sent.number), (id, 3));
    assert_eq!(retry().await.state, DeliveryState::Pending, "delivered ones too");
    let sent = bed.deliver(200, Verdict::Delivered).await;
    assert_eq!((sent.number, sent.fence), (4, 6), "four claims, and two rounds begun anew");
    let told = bed.store.delivery(bed.tenant, id, bed.now()).await.unwrap();
    assert_eq!((told.state, told.attempts.unwrap().len()), (DeliveryState::Delivered, 4), "history stays");
}

async fn a_new_round_that_is_asked_for_under_way_begins_after_it(bed: &Bed) {
    bed.completed().await;
    let id = bed.deliver(503, in_five(bed)).await.id;
    bed.pass_seconds(5);
    let retry = async || bed.store.retry_delivery(bed.tenant, id, bed.now()).await.unwrap();
    for verdict in [Verdict::Dead(DeadReason::Exhausted), in_five(bed)] {
        let sent = bed.claim_one().await;
        assert_eq!(retry().await.state, DeliveryState::InFlight);
        assert!(bed.record(attempted(&sent, 500, verdict)).await);
        let told = bed.store.delivery(bed.tenant, id, bed.now()).await.unwrap();
        assert_eq!((told.state, told.next_attempt_at), (DeliveryState::Pending, Some(bed.now())));
        assert_eq!(bed.count("dead_letters").await, 0);
    }
    let sent = bed.claim_one().await;
    assert_eq!((sent.number, sent.used), (4, 0), "a round of its own");
    retry().await;
    assert!(bed.record(attempted(&sent, 200, Verdict::Delivered)).await);
    let told = bed.store.delivery(bed.tenant, id, bed.now()).await.unwrap();
    assert_eq!(
        (told.state, told.attempts.unwrap().len()),
        (DeliveryState::Delivered, 4),
        "what was wished came"
    );
    assert!(bed.store.due(Millis(0), bed.now(), 9).await.unwrap().is_empty());
}

async fn a_delivery_may_be_cancelled_while_it_is_owed(bed: &Bed) {
    bed.completed().await;
    let sent = bed.claim_one().await;
    let cancel = || bed.store.cancel_delivery(bed.tenant, sent.id, bed.now());
    assert_eq!(cancel().await.unwrap().state, DeliveryState::Cancelled);
    assert_eq!(cancel().await.unwrap().state, DeliveryState::Cancelled, "again is no error");
    assert!(!bed.record(attempted(&sent, 200, Verdict::Delivered)).await, "too late");
    assert_eq!(bed.get(sent.job_id.unwrap()).await.callback_state.as_str(), "cancelled");
    bed.pass_seconds(60);
    assert!(bed.claim().await.is_empty());
    bed.store.retry_delivery(bed.tenant, sent.id, bed.now()).await.unwrap();
    bed.deliver(200, Verdict::Delivered).await;
    assert!(matches!(cancel().await, Err(Error::AlreadyFinished)));
}
