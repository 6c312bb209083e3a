//! What a lane owes, read so that one URL hides no other, and in order; and what people set for a lane.

use std::collections::BTreeSet;

use ringback::store::db::Engine;
use ringback::store::{DeliveryFilter, Error, LaneSettings, NewEndpoint, Store};
use ringback::types::delivery::{DeadReason, Verdict};
use ringback::types::endpoint::{Endpoint, Settings, check};
use ringback::types::explain::{AHEAD, Hands};
use ringback::types::lane::Limits;
use ringback::types::target::UrlPolicy;
use ringback::types::{DeliveryId, LaneId, Millis};

use crate::support::store::{Bed, attempted, both_stores, callback, complete, page};

both_stores! {
    a_hundred_thousand_deliveries_to_one_url_hide_no_other,
    retries_of_one_url_hide_no_first_attempt,
    many_urls_are_read_in_turn,
    a_short_lane_is_read_whole,
    an_ordered_lane_gives_the_first_and_holds_the_rest_behind_it,
    what_was_owed_before_the_order_goes_first,
    an_ordered_lane_tells_until_when_its_next_one_waits,
    what_is_ahead_of_a_delivery_is_counted_up_to_a_bound,
    a_pause_is_seen_by_the_owner_and_outlives_it,
    limits_of_an_endpoint_reach_the_owner_of_its_lane,
    deliveries_of_an_ordered_endpoint_are_numbered_as_they_are_committed,
    another_tenants_lane_is_not_there,
    a_paused_lane_is_never_forgotten,
}

/// Completes a job whose callback goes to that path of one origin; gives its lane and delivery.
async fn told(bed: &Bed, path: &str) -> (LaneId, DeliveryId) {
    let to = Some(callback(&format!("https://hooks.example.com{path}")));
    let id = bed.submit(bed.job_with(|j| j.callback = to)).await.job.id;
    let held = bed.lease_one().await;
    assert_eq!(held.job_id, id);
    bed.held(&held, complete()).await.unwrap();
    let own = DeliveryFilter { job_id: Some(id), ..DeliveryFilter::default() };
    let delivery = bed.store.deliveries(bed.tenant, &own, page(1), bed.now()).await.unwrap().rows.remove(0);
    // All of them share one lane.
    let lane = bed.rows("SELECT lane_id FROM deliveries LIMIT 1").await[0].id(0).unwrap();
    (lane, delivery.delivery_id)
}

/// Queues `n` further deliveries of the lane behind the store's back, due long since; `turn` is SQL over `n.i`.
async fn flood(bed: &Bed, lane: LaneId, n: usize, turn: &str) {
    bed.spoil();
    let id = match bed.engine() {
        Engine::Sqlite => "randomblob(16)",
        Engine::Postgres => "gen_random_uuid()",
    };
    let (lane, tenant) = (bed.literal(lane.uuid()), bed.literal(bed.tenant.uuid()));
    let due = bed.now().0 - 1_000_000;
    bed.rows(&format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n})
         INSERT INTO delivery_queue (delivery_id, tenant_id, lane_id, turn, due_at, phase, fence, attempt, used, unknowns)
         SELECT {id}, {tenant}, {lane}, {turn}, {due} + n.i, 'ready', 0, 0, 0, 0 FROM n"
    ))
    .await;
}

async fn a_hundred_thousand_deliveries_to_one_url_hide_no_other(bed: &Bed) {
    let (lane, dead) = told(bed, "/dead").await;
    let turn = bed.store.due(Millis(0), bed.now(), 9).await.unwrap()[0].turn;
    flood(bed, lane, 100_000, &turn.to_string()).await;
    let (_, well) = told(bed, "/well").await;

    let read = bed.store.due_in_lane(lane, bed.now(), 64, None).await.unwrap();

    assert_eq!((read.oldest.len(), read.more, read.turn), (64, true, None));
    assert!(read.oldest.iter().all(|d| d.turn == turn && d.id != dead && d.id != well));
    assert_eq!(read.others.len(), 2, "the oldest of each URL");
    assert!(read.others.iter().any(|d| d.id == well), "{:?}", read.others);
}

async fn retries_of_one_url_hide_no_first_attempt(bed: &Bed) {
    let (lane, _) = told(bed, "/a").await;
    let turn = bed.store.due(Millis(0), bed.now(), 9).await.unwrap()[0].turn;
    flood(bed, lane, 200, &turn.to_string()).await;
    bed.rows("UPDATE delivery_queue SET attempt = 1").await;
    bed.pass_seconds(1);
    let mut firsts = Vec::new();
    for _ in 0..2 {
        firsts.push(told(bed, "/a").await.1);
        bed.pass_seconds(1);
    }

    let read = bed.store.due_in_lane(lane, bed.now(), 64, None).await.unwrap();

    assert!(read.oldest.len() == 64 && read.oldest.iter().all(|d| d.attempt == 1));
    assert_eq!(read.firsts.iter().map(|d| d.id).collect::<Vec<_>>(), firsts);
    bed.spoil();
}

async fn many_urls_are_read_in_turn(bed: &Bed) {
    let (lane, _) = told(bed, "/a").await;
    flood(bed, lane, 400, "n.i % 200 + 1").await;
    let (mut turn, mut seen) = (None, BTreeSet::new());
    for _ in 0..4 {
        let read = bed.store.due_in_lane(lane, bed.now(), 64, turn).await.unwrap();
        seen.extend(read.others.iter().map(|d| d.turn));
        turn = read.turn;
    }
    assert_eq!((seen.len(), turn), (201, None), "every URL once, and then from the first again");
}

async fn a_short_lane_is_read_whole(bed: &Bed) {
    let (lane, first) = told(bed, "/a").await;
    let (_, second) = told(bed, "/b").await;
    let read = bed.store.due_in_lane(lane, bed.now(), 64, None).await.unwrap();
    let ids: BTreeSet<_> = read.oldest.iter().map(|d| d.id).collect();
    assert_eq!(ids, BTreeSet::from([first, second]));
    assert!(read.others.is_empty() && !read.more);
    let turns: BTreeSet<_> = read.oldest.iter().map(|d| d.turn).collect();
    assert_eq!(turns.len(), 2, "each URL has its own turn");
    let before = Millis(bed.now().0 - 1);
    assert!(bed.store.due_in_lane(lane, before, 64, None).await.unwrap().oldest.is_empty());
}

async fn an_ordered_lane_gives_the_first_and_holds_the_rest_behind_it(bed: &Bed) {
    let mut ids = Vec::new();
    let mut lane = None;
    for n in 1..=3 {
        let (its, id) = told(bed, &format!("/{n}")).await;
        for table in ["delivery_queue", "deliveries"] {
            let key = if table == "deliveries" { "id" } else { "delivery_id" };
            bed.rows(&format!("UPDATE {table} SET turn = {n} WHERE {key} = {}", bed.literal(id.uuid())))
                .await;
        }
        (lane, ids) = (Some(its), [ids, vec![id]].concat());
    }
    let lane = lane.unwrap();
    let next = async || {
        let read = bed.store.next_in_order(lane, bed.now()).await.unwrap();
        read.oldest
    };
    let send = async |status, verdict| {
        let claimed = bed.store.claim(next().await, bed.node, std::time::Duration::from_secs(30), bed.now());
        let claimed = claimed.await.unwrap().remove(0);
        assert!(next().await.is_empty(), "one at a time");
        assert!(bed.record(attempted(&claimed, status, verdict)).await);
        claimed.id
    };
    let retry = Verdict::RetryAt(Millis(bed.now().0 + 5_000));
    assert_eq!(send(500, retry).await, ids[0]);
    assert!(next().await.is_empty(), "a retry holds back what comes after it");
    bed.pass_seconds(5);
    assert_eq!(send(410, Verdict::Dead(DeadReason::Gone)).await, ids[0]);
    assert_eq!(send(200, Verdict::Delivered).await, ids[1], "what is dead is passed over");
    bed.store.retry_delivery(bed.tenant, ids[0], bed.now()).await.unwrap();
    assert_eq!(next().await[0].id, ids[0], "sent again it has its number");
}

async fn what_was_owed_before_the_order_goes_first(bed: &Bed) {
    let to = endpoint(bed, serde_json::json!({})).await;
    let mut made = completed(bed, &to, 3).await;
    // The first is to be sent again later; the third is older than the second by then.
    let due = bed.store.due(Millis(0), bed.now(), 9).await.unwrap();
    let first = due.into_iter().find(|d| d.id == made[0]).unwrap();
    let first =
        bed.store.claim(vec![first], bed.node, std::time::Duration::from_secs(30), bed.now()).await.unwrap();
    let retry = Verdict::RetryAt(Millis(bed.now().0 + 5_000));
    assert!(bed.record(attempted(&first[0], 500, retry)).await);
    let second = bed.literal(made[1].uuid());
    bed.rows(&format!("UPDATE delivery_queue SET due_at = due_at + 1 WHERE delivery_id = {second}")).await;
    let change = serde_json::from_value(serde_json::json!({"ordered": true})).unwrap();
    let edit = |settings: Settings| settings.changed(change, &UrlPolicy::default());
    bed.store.change_endpoint(bed.tenant, to.id, edit, 50, bed.now()).await.unwrap();
    made.extend(completed(bed, &to, 1).await);
    bed.pass_seconds(1);
    let ahead = async |n: usize| {
        owned(bed, (to.lane(), made[n])).await;
        bed.store.delivery_facts(bed.tenant, made[n], bed.now()).await.unwrap().ahead
    };
    assert_eq!((ahead(3).await, ahead(1).await), (3, 0));
    let mut sent = Vec::new();
    for _ in 0..4 {
        let next = bed.store.next_in_order(to.lane(), bed.now()).await.unwrap();
        let Some(next) = next.oldest.first() else {
            assert_eq!(
                next.waits.map(|w| w.id),
                Some(made[0]),
                "what is to be sent again holds the others back"
            );
            bed.pass_seconds(5);
            sent.push(bed.store.next_in_order(to.lane(), bed.now()).await.unwrap().oldest[0].id);
            break;
        };
        sent.push(next.id);
        bed.store.cancel_delivery(bed.tenant, next.id, bed.now()).await.unwrap();
    }
    assert_eq!(sent, [made[2], made[1], made[0]]);
}

async fn what_is_ahead_of_a_delivery_is_counted_up_to_a_bound(bed: &Bed) {
    let (lane, id) = told(bed, "/a").await;
    let facts = async || bed.store.delivery_facts(bed.tenant, id, bed.now()).await.unwrap();
    let fresh = facts().await;
    assert_eq!((fresh.ahead, fresh.used, fresh.due_at, fresh.lane.is_some()), (0, 0, Some(bed.now()), false));
    owned(bed, (lane, id)).await;
    flood(bed, lane, 30, "n.i").await;
    assert_eq!(facts().await.ahead, 30);
    flood(bed, lane, 5_000, "n.i").await;
    assert_eq!(facts().await.ahead, AHEAD);
    let sent = bed.store.due(Millis(0), bed.now(), 9_999).await.unwrap().into_iter().find(|d| d.id == id);
    let sent = bed.store.claim(vec![sent.unwrap()], bed.node, std::time::Duration::from_secs(30), bed.now());
    let sent = sent.await.unwrap().remove(0);
    assert!(bed.record(attempted(&sent, 410, Verdict::Dead(DeadReason::Gone))).await);
    assert_eq!(facts().await.hands, Hands::Nobody);
    bed.store.keep_alive(bed.node, Millis(bed.now().0 + 10_000)).await.unwrap();
    assert_eq!(facts().await.hands, Hands::Owned);
    bed.store.keep_alive(bed.dice.id(bed.now()), Millis(bed.now().0 + 20_000)).await.unwrap();
    bed.pass_seconds(10);
    assert_eq!(facts().await.hands, Hands::Free, "its owner is dead");
    let ended = facts().await;
    assert_eq!((ended.ahead, ended.due_at, ended.dead), (0, None, Some(DeadReason::Gone)));
    let to = endpoint(bed, serde_json::json!({"ordered": true})).await;
    let made = completed(bed, &to, 3).await;
    owned(bed, (to.lane(), made[0])).await;
    let third = bed.store.delivery_facts(bed.tenant, made[2], bed.now()).await.unwrap();
    assert_eq!(third.ahead, 2, "by number, though all are due at once");
}

async fn owned(bed: &Bed, lane: (LaneId, DeliveryId)) -> LaneSettings {
    bed.store.own_lanes(bed.node, &[lane], bed.now()).await.unwrap()[0].set
}

async fn a_pause_is_seen_by_the_owner_and_outlives_it(bed: &Bed) {
    let lane = told(bed, "/a").await;
    assert_eq!(owned(bed, lane).await, LaneSettings::default());
    let set = async |since| bed.store.lanes_set(bed.node, since).await.unwrap();
    assert_eq!(set(bed.now()).await, []);

    let shown = bed.store.pause_lane(bed.tenant, lane.0, Some(Millis::MAX), bed.now()).await.unwrap();

    assert_eq!((shown.state.as_str(), shown.held_reason.as_deref()), ("paused", Some("paused")));
    assert_eq!(shown.held_until, None, "until someone resumes it");
    let paused = LaneSettings { paused_until: Some(Millis::MAX), ..LaneSettings::default() };
    assert_eq!(set(bed.now()).await, [(lane.0, paused, bed.now())]);
    assert_eq!(set(Millis(bed.now().0 + 1)).await, []);
    let held = bed.store.delivery(bed.tenant, lane.1, bed.now()).await.unwrap();
    assert_eq!((held.state.as_str(), held.held_reason.unwrap().as_str()), ("held", "paused"));
    assert_eq!(held.next_attempt_at, None);
    bed.store.leave(bed.node).await.unwrap();
    assert_eq!(owned(bed, lane).await, paused);

    bed.pass_seconds(1);
    let shown = bed.store.pause_lane(bed.tenant, lane.0, None, bed.now()).await.unwrap();
    assert_eq!((shown.state.as_str(), shown.held_reason, shown.max_in_flight), ("open", None, 1), "a ramp");
    let resumed = LaneSettings { cleared_at: Some(bed.now()), ..LaneSettings::default() };
    assert_eq!(set(bed.now()).await, [(lane.0, resumed, bed.now())]);
    let until = Millis(bed.now().0 + 5_000);
    let shown = bed.store.pause_lane(bed.tenant, lane.0, Some(until), bed.now()).await.unwrap();
    assert_eq!(shown.held_until, Some(until));
    bed.pass_seconds(5);
    assert_eq!(bed.store.lane(bed.tenant, lane.0, bed.now()).await.unwrap().state.as_str(), "open");
}

/// An endpoint with these members beside its URL.
async fn endpoint(bed: &Bed, more: serde_json::Value) -> Endpoint {
    let mut wish = serde_json::json!({"url": "https://standing.example.com/in", "events": ["job.completed"]});
    wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let settings = check(serde_json::from_value(wish).unwrap(), &UrlPolicy::default()).unwrap();
    let new = NewEndpoint { tenant: bed.tenant, settings, idempotency: None };
    let (id, _) = bed.store.put_endpoint(new, 50, bed.now()).await.unwrap();
    bed.store.endpoint(bed.tenant, id).await.unwrap()
}

/// Completes `n` jobs one by one; gives the deliveries to the endpoint in that order.
async fn completed(bed: &Bed, to: &Endpoint, n: usize) -> Vec<DeliveryId> {
    let mut made = Vec::new();
    for _ in 0..n {
        let id = bed.submit(bed.job()).await.job.id;
        let held = bed.lease_one().await;
        bed.held(&held, complete()).await.unwrap();
        let own = DeliveryFilter { job_id: Some(id), endpoint_id: Some(to.id), ..DeliveryFilter::default() };
        let made_one = bed.store.deliveries(bed.tenant, &own, page(9), bed.now()).await.unwrap().rows;
        assert_eq!(made_one.len(), 1);
        made.push(made_one[0].delivery_id);
    }
    made
}

async fn limits_of_an_endpoint_reach_the_owner_of_its_lane(bed: &Bed) {
    let limits = serde_json::json!({"maxInFlight": 3, "rateLimitPerSecond": 7, "ordered": true});
    let to = endpoint(bed, limits).await;
    let first = completed(bed, &to, 1).await.remove(0);
    let set = |paused_until, limits| LaneSettings { paused_until, cleared_at: None, limits };
    let limits = Limits { max_in_flight: Some(3), rate_per_second: Some(7), ordered: true };
    assert_eq!(owned(bed, (to.lane(), first)).await, set(None, limits));
    let shown = bed.store.lane(bed.tenant, to.lane(), bed.now()).await.unwrap();
    assert_eq!((shown.max_in_flight, shown.rate_per_second, shown.ordered), (3, Some(7), true));
    assert_eq!((shown.kind.as_str(), shown.endpoint_id), ("endpoint", Some(to.id)));

    bed.pass_seconds(10);
    let change = serde_json::from_value(serde_json::json!({"rateLimitPerSecond": 9})).unwrap();
    let edit = |settings: Settings| settings.changed(change, &UrlPolicy::default());
    bed.store.change_endpoint(bed.tenant, to.id, edit, 50, bed.now()).await.unwrap();
    let limits = Limits { rate_per_second: Some(9), ..limits };
    let told = async || bed.store.lanes_set(bed.node, bed.now()).await.unwrap();
    assert_eq!(told().await, [(to.lane(), set(None, limits), bed.now())]);
    for paused in [true, false] {
        bed.pass_seconds(1);
        bed.store.set_endpoint_paused(bed.tenant, to.id, paused, bed.now()).await.unwrap();
        assert_eq!(told().await.len(), 1, "what it has in hand it puts back");
    }
    bed.store.set_endpoint_paused(bed.tenant, to.id, true, bed.now()).await.unwrap();
    let shown = bed.store.lane(bed.tenant, to.lane(), bed.now()).await.unwrap();
    assert_eq!((shown.state.as_str(), shown.held_reason.as_deref()), ("paused", Some("paused")));
    bed.pass_seconds(1);
    bed.store.delete_endpoint(bed.tenant, to.id, bed.now()).await.unwrap();
    assert_eq!(told().await.len(), 1);
}

async fn deliveries_of_an_ordered_endpoint_are_numbered_as_they_are_committed(bed: &Bed) {
    let to = endpoint(bed, serde_json::json!({"ordered": true})).await;
    let other = endpoint(bed, serde_json::json!({"ordered": true})).await;
    let made = completed(bed, &to, 3).await;
    for (n, id) in made.iter().enumerate() {
        let read = bed.store.next_in_order(to.lane(), bed.now()).await.unwrap().oldest;
        assert_eq!((read[0].id, read[0].turn), (*id, n as i64 + 1));
        let claimed = bed.store.claim(read, bed.node, std::time::Duration::from_secs(30), bed.now());
        let claimed = claimed.await.unwrap().remove(0);
        assert!(bed.store.next_in_order(to.lane(), bed.now()).await.unwrap().oldest.is_empty());
        assert!(bed.record(attempted(&claimed, 200, Verdict::Delivered)).await);
    }
    assert!(bed.store.next_in_order(to.lane(), bed.now()).await.unwrap().oldest.is_empty());
    assert_eq!(
        bed.store.next_in_order(other.lane(), bed.now()).await.unwrap().oldest[0].turn,
        1,
        "its own numbers"
    );
    assert_eq!(completed(bed, &to, 1).await.len(), 1);
    assert_eq!(bed.store.next_in_order(to.lane(), bed.now()).await.unwrap().oldest[0].turn, 4);
}

async fn an_ordered_lane_tells_until_when_its_next_one_waits(bed: &Bed) {
    let to = endpoint(bed, serde_json::json!({"ordered": true})).await;
    let made = completed(bed, &to, 2).await;
    let next = async || bed.store.next_in_order(to.lane(), bed.now()).await.unwrap();
    let read = next().await;
    assert!(read.oldest[0].id == made[0] && read.waits.is_none());
    let claimed = bed.store.claim(read.oldest, bed.node, std::time::Duration::from_secs(30), bed.now());
    let claimed = claimed.await.unwrap().remove(0);
    let read = next().await;
    assert!(read.oldest.is_empty() && read.waits.is_none(), "it is under way: nobody knows");

    let again = Millis(bed.now().0 + 60_000);
    assert!(bed.record(attempted(&claimed, 500, Verdict::RetryAt(again))).await);

    let waits = next().await.waits.unwrap();
    assert_eq!((waits.id, waits.due_at), (made[0], again));
}

async fn another_tenants_lane_is_not_there(bed: &Bed) {
    let lane = told(bed, "/a").await;
    owned(bed, lane).await;
    let other = bed.store.tenant("two", bed.now()).await.unwrap();
    let pause = bed.store.pause_lane(other, lane.0, Some(Millis::MAX), bed.now()).await;
    assert!(matches!(pause, Err(Error::NotFound)), "{pause:?}");
    assert_eq!(owned(bed, lane).await.paused_until, None);
}

async fn a_paused_lane_is_never_forgotten(bed: &Bed) {
    let lane = told(bed, "/a").await;
    owned(bed, lane).await;
    bed.deliver(200, Verdict::Delivered).await;
    bed.store.pause_lane(bed.tenant, lane.0, Some(Millis::MAX), bed.now()).await.unwrap();
    bed.store.leave(bed.node).await.unwrap();
    bed.pass_seconds(30 * 86_400);
    while bed.retain(Store::BITE).await.unwrap() > 0 {}
    assert_eq!(bed.count("lanes").await, 1);
    bed.store.pause_lane(bed.tenant, lane.0, None, bed.now()).await.unwrap();
    bed.pass_seconds(7 * 86_400);
    while bed.retain(Store::BITE).await.unwrap() > 0 {}
    assert_eq!(bed.count("lanes").await, 0);
}
