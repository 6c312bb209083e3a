//! What a paused, disabled or deleted endpoint is owed.

use ringback::store::{DeliveryFilter, NewEndpoint};
use ringback::types::Millis;
use ringback::types::api::Delivery;
use ringback::types::delivery::{DeliveryState, HeldReason, Verdict};
use ringback::types::endpoint::{Endpoint, PARKED};
use ringback::types::job::CallbackState;

use super::{endpoint, events, submit_to};
use crate::support::store::{Bed, attempted, both_stores, complete, page};

both_stores! {
    what_is_made_for_a_paused_endpoint_waits_out_of_sight,
    what_was_pending_when_it_was_paused_is_parked_at_its_next_look,
    a_resumed_endpoint_is_let_go_at_a_ramp_in_order,
    what_is_let_go_is_found_by_the_next_look,
    a_crowd_of_resumed_endpoints_is_stepped_in_one_go,
    what_a_node_parks_that_stood_still_is_let_go,
    an_endpoint_paused_again_keeps_the_rest_parked,
    what_a_deleted_endpoint_is_owed_ends_cancelled,
    a_parked_deliverys_schedule_is_kept,
    a_resumed_endpoints_lane_begins_slowly,
    what_nobody_would_let_go_is_found,
}

async fn pause(bed: &Bed, endpoint: &Endpoint, paused: bool) {
    bed.store.set_endpoint_paused(bed.tenant, endpoint.id, paused, bed.now()).await.unwrap();
}

async fn deliveries(bed: &Bed, state: Option<DeliveryState>) -> Vec<Delivery> {
    let filter = DeliveryFilter { state, ..DeliveryFilter::default() };
    bed.store.deliveries(bed.tenant, &filter, page(200), bed.now()).await.unwrap().rows
}

async fn what_is_made_for_a_paused_endpoint_waits_out_of_sight(bed: &Bed) {
    let there = endpoint(bed, events(&["job.queued"])).await;
    pause(bed, &there, true).await;
    bed.submit_n(40).await;
    assert!(bed.store.due(Millis(0), bed.now(), 100).await.unwrap().is_empty());
    assert!(bed.store.lanes_due(bed.node, bed.now(), None, 10).await.unwrap().0.is_empty());
    let held = deliveries(bed, Some(DeliveryState::Held)).await;
    assert_eq!(held.len(), 40);
    assert_eq!((held[0].held_reason, held[0].attempt), (Some(HeldReason::Paused), 0));
    assert_eq!(held[0].next_attempt_at, None, "nobody knows");
    assert!(deliveries(bed, Some(DeliveryState::Pending)).await.is_empty());
}

async fn what_was_pending_when_it_was_paused_is_parked_at_its_next_look(bed: &Bed) {
    let there = endpoint(bed, events(&[])).await;
    let id = submit_to(bed, &there).await;
    let job = bed.lease_one().await;
    bed.held(&job, complete()).await.unwrap();
    pause(bed, &there, true).await;
    assert_eq!(bed.get(id).await.callback_state, CallbackState::Held, "at once");
    assert_eq!(bed.store.due(Millis(0), bed.now(), 9).await.unwrap().len(), 1);
    assert!(bed.claim().await.is_empty(), "it is parked instead");
    assert!(bed.store.due(Millis(0), bed.now(), 9).await.unwrap().is_empty(), "and not looked at again");
    let held = deliveries(bed, Some(DeliveryState::Held)).await.remove(0);
    assert_eq!((held.attempt, held.held_reason), (0, Some(HeldReason::Paused)));
    pause(bed, &there, false).await;
    assert_eq!(bed.get(id).await.callback_state, CallbackState::Pending);
    assert_eq!(bed.store.step_drains(bed.now()).await.unwrap(), 1);
    let claimed = bed.claim_one().await;
    assert_eq!((claimed.number, claimed.used, claimed.unknowns), (1, 0, 0), "it has cost no attempt");
}

async fn a_resumed_endpoint_is_let_go_at_a_ramp_in_order(bed: &Bed) {
    let there = endpoint(bed, events(&["job.queued"])).await;
    pause(bed, &there, true).await;
    for _ in 0..50 {
        bed.submit(bed.job()).await;
        bed.pass(std::time::Duration::from_millis(10));
    }
    pause(bed, &there, false).await;
    let pending = deliveries(bed, Some(DeliveryState::Pending)).await;
    assert_eq!(pending.len(), 50, "the hold has ended");
    let mut made: Vec<_> = pending.iter().map(|d| d.delivery_id).collect();
    made.reverse();
    let mut let_go = Vec::new();
    for (step, soon) in [(10, 5), (20, 10), (20, 20)] {
        assert_eq!(bed.store.step_drains(bed.now()).await.unwrap(), step);
        assert_eq!(bed.store.step_drains(bed.now()).await.unwrap(), 0, "the next step has its time");
        let due = async |at| bed.store.due_in_lane(there.lane(), at, 100, None).await.unwrap().oldest;
        let began = bed.now();
        bed.pass(std::time::Duration::from_millis(499));
        let there_now = due(bed.now()).await.len() - let_go.len();
        assert_eq!(there_now, soon, "evenly over the time until the next");
        bed.pass(std::time::Duration::from_millis(501));
        let all = due(bed.now()).await;
        assert!(all[let_go.len()..].iter().all(|d| d.due_at >= began), "where the next look finds it");
        let_go.extend(all.iter().skip(let_go.len()).map(|d| d.id));
    }
    assert_eq!(let_go, made, "the oldest first");
    // A transaction that read it as paused may still park something: it is looked after for a day.
    let drains = "endpoints WHERE drain_at IS NOT NULL";
    assert_eq!(bed.count(drains).await, 1);
    bed.pass_seconds(86_400);
    bed.store.step_drains(bed.now()).await.unwrap();
    assert_eq!(bed.count(drains).await, 0);
}

async fn what_is_let_go_is_found_by_the_next_look(bed: &Bed) {
    let there = endpoint(bed, events(&["job.queued"])).await;
    pause(bed, &there, true).await;
    bed.submit_n(25).await;
    bed.pass_seconds(86_400);
    pause(bed, &there, false).await;
    for n in [10, 15] {
        let begun = bed.now();
        assert_eq!(bed.store.step_drains(begun).await.unwrap(), n);
        // Spread over a second; and a look begins a second behind the last one.
        bed.pass_seconds(1);
        let seen = bed.store.due(Millis(begun.0 - 1_000), bed.now(), 100).await.unwrap();
        assert_eq!(seen.len() as u64, n);
        assert_eq!(bed.claim().await.len() as u64, n);
    }
}

async fn a_crowd_of_resumed_endpoints_is_stepped_in_one_go(bed: &Bed) {
    let mut there = Vec::new();
    for _ in 0..49 {
        there.push(endpoint(bed, events(&["job.completed"])).await);
    }
    for _ in 0..3 {
        there.push(endpoint(bed, events(&["job.queued"])).await);
    }
    for endpoint in &there {
        pause(bed, endpoint, true).await;
    }
    bed.submit_n(1).await;
    for endpoint in &there {
        pause(bed, endpoint, false).await;
    }
    assert_eq!(bed.store.step_drains(bed.now()).await.unwrap(), 3, "nobody waits for the next second");

    // Where nothing is parked each look comes later than the one before.
    let began = bed.now();
    let mut looks = 0;
    while next_look(bed).await {
        looks += 1;
        bed.store.step_drains(bed.now()).await.unwrap();
    }
    assert!(looks <= 20, "{looks} looks");
    assert_eq!(bed.now().since(began).as_secs() / 3_600, 24, "in a day");
}

/// Lets the time pass until parked deliveries are looked for again, if they ever are.
async fn next_look(bed: &Bed) -> bool {
    let at =
        bed.rows("SELECT drain_at FROM endpoints WHERE drain_at IS NOT NULL ORDER BY drain_at LIMIT 1").await;
    let at = at.first().map(|row| row.time(0).unwrap());
    at.into_iter().for_each(|at| bed.set_now(at.max(bed.now())));
    at.is_some()
}

async fn what_a_node_parks_that_stood_still_is_let_go(bed: &Bed) {
    let resumed = endpoint(bed, events(&["job.queued"])).await;
    let deleted = endpoint(bed, events(&["job.queued"])).await;
    for there in [&resumed, &deleted] {
        pause(bed, there, true).await;
    }
    bed.submit(bed.job()).await;
    // As by another node: this one goes on by what it has read.
    let read = bed.now();
    for (set, of) in [("state = 'enabled', state_since", &resumed), ("deleted_at", &deleted)] {
        let id = bed.literal(of.id.uuid());
        let set = format!("{set} = {}, drain_at = {}, drain_step = 0", read.0, read.0);
        bed.rows(&format!("UPDATE endpoints SET {set} WHERE id = {id}")).await;
    }
    while bed.now().since(read).as_secs() < 600 && next_look(bed).await {
        bed.store.step_drains(bed.now()).await.unwrap();
    }
    bed.deliver(200, Verdict::Delivered).await;
    assert_eq!(bed.count("delivery_queue").await, 0);

    let went_on = bed.now();
    bed.set_now(read);
    bed.submit(bed.job()).await;
    bed.set_now(went_on);
    let parked = format!("delivery_queue WHERE due_at >= {PARKED}");
    assert_eq!(bed.count(&parked).await, 2, "the node was suspended before it wrote");
    while bed.count(&parked).await > 0 && next_look(bed).await {
        bed.store.step_drains(bed.now()).await.unwrap();
    }

    assert!(bed.now().since(went_on).as_secs() <= 1_200);
    assert_eq!(bed.count("deliveries WHERE state = 'cancelled'").await, 2, "of the deleted one");
    assert_eq!(bed.store.due(went_on, bed.now(), 9).await.unwrap().len(), 1, "of the resumed one");
}

async fn an_endpoint_paused_again_keeps_the_rest_parked(bed: &Bed) {
    let there = endpoint(bed, events(&["job.queued"])).await;
    pause(bed, &there, true).await;
    bed.submit_n(30).await;
    pause(bed, &there, false).await;
    assert_eq!(bed.store.step_drains(bed.now()).await.unwrap(), 10);
    bed.pass_seconds(1);
    pause(bed, &there, true).await;
    assert_eq!(bed.store.step_drains(bed.now()).await.unwrap(), 0);
    assert!(bed.claim().await.is_empty(), "those let go are parked again");
    pause(bed, &there, false).await;
    for _ in 0..3 {
        bed.store.step_drains(bed.now()).await.unwrap();
        bed.pass_seconds(1);
    }
    assert_eq!(bed.claim().await.len(), 30);
}

async fn what_a_deleted_endpoint_is_owed_ends_cancelled(bed: &Bed) {
    let there = endpoint(bed, events(&["job.queued"])).await;
    let other = endpoint(bed, events(&["job.queued"])).await;
    let job = submit_to(bed, &other).await;
    let held = bed.lease_one().await;
    let in_flight = bed.claim().await;
    assert_eq!(in_flight.len(), 2);
    pause(bed, &there, true).await;
    bed.submit_n(1_200).await;
    for id in [there.id, other.id] {
        bed.store.delete_endpoint(bed.tenant, id, bed.now()).await.unwrap();
    }
    // The rest is done by the sweep, a thousand at a time.
    assert!(bed.store.step_drains(Millis(bed.now().0 + 1_000)).await.unwrap() > 0);
    assert_eq!(bed.count("delivery_queue").await, 0);
    assert_eq!(bed.count("deliveries WHERE state = 'cancelled'").await, 2_402);
    for claimed in &in_flight {
        assert!(!bed.record(attempted(claimed, 200, Verdict::Delivered)).await, "it was taken back");
    }
    // A callback that names it has nowhere to go.
    bed.held(&held, complete()).await.unwrap();
    assert_eq!(bed.get(job).await.callback_state, CallbackState::Cancelled);
    bed.pass_seconds(61);
    bed.store.step_drains(bed.now()).await.unwrap();
    let left = [bed.count("secrets").await, bed.count("lanes").await];
    assert_eq!(left, [0; 2], "nothing of them is of use to anyone");
    bed.pass_seconds(86_400);
    bed.store.step_drains(bed.now()).await.unwrap();
    assert_eq!(bed.count("endpoints").await, 0, "nothing is left of them");
    let settings = there.settings;
    let new = NewEndpoint { tenant: bed.tenant, settings, idempotency: None };
    bed.store.put_endpoint(new, 1, bed.now()).await.unwrap();
}

async fn a_parked_deliverys_schedule_is_kept(bed: &Bed) {
    let there = endpoint(bed, events(&["job.queued"])).await;
    bed.submit(bed.job()).await;
    let later = Millis(bed.now().0 + 3_600_000);
    bed.deliver(500, Verdict::RetryAt(later)).await;
    pause(bed, &there, true).await;
    bed.pass_seconds(3_600);
    assert!(bed.claim().await.is_empty());
    pause(bed, &there, false).await;
    let pending = deliveries(bed, Some(DeliveryState::Pending)).await.remove(0);
    assert_eq!((pending.next_attempt_at, pending.attempt), (Some(later), 1));
    bed.store.step_drains(bed.now()).await.unwrap();
    let claimed = bed.claim_one().await;
    assert_eq!((claimed.number, claimed.used), (2, 1));
}

async fn a_resumed_endpoints_lane_begins_slowly(bed: &Bed) {
    let there = endpoint(bed, events(&["job.queued"])).await;
    bed.submit(bed.job()).await;
    let first = bed.store.due(Millis(0), bed.now(), 1).await.unwrap()[0];
    let own = async || bed.store.own_lanes(bed.node, &[(first.lane, first.id)], bed.now()).await.unwrap();
    assert_eq!((own().await[0].state.concurrency, first.lane), (10, there.lane()));
    bed.store.leave(bed.node).await.unwrap();
    pause(bed, &there, true).await;
    assert_eq!(own().await[0].state.concurrency, 10);
    bed.store.leave(bed.node).await.unwrap();
    pause(bed, &there, false).await;
    assert_eq!(own().await[0].state.concurrency, 1);
}

async fn what_nobody_would_let_go_is_found(bed: &Bed) {
    let there = endpoint(bed, events(&["job.queued"])).await;
    pause(bed, &there, true).await;
    bed.submit(bed.job()).await;
    bed.sound().await;
    bed.rows("UPDATE endpoints SET state = 'enabled'").await;
    bed.spoil();
    let findings = ringback::store::check(&bed.url).await.unwrap();
    let broken: Vec<_> = findings.iter().filter(|f| !f.broken.is_empty()).collect();
    assert!(broken.len() == 1 && broken[0].invariant.contains("parked"), "{broken:?}");
}
