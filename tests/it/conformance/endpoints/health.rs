//! What attempts say of an endpoint: written down, told to others, and one day enough.

use std::time::Duration;

use ringback::store::db::Engine;
use ringback::store::{Attempted, ClaimedDelivery};
use ringback::types::Millis;
use ringback::types::delivery::{DeadReason, DeliveryState, Verdict};
use ringback::types::endpoint::{Endpoint, EndpointState};
use serde_json::{Value, json};

use super::{endpoint, events, submit_to};
use crate::support::store::{Bed, attempted, both_stores, complete, page};

both_stores! {
    each_step_is_told_once_and_parks_what_is_owed_at_the_last,
    what_was_told_to_fail_is_told_to_have_recovered,
    a_short_failure_is_forgotten_untold,
    gone_disables_at_once_beside_a_success,
    what_comes_after_a_disabling_changes_nothing_until_it_is_resumed,
    an_accounts_endpoint_is_told_of_to_those_of_none,
    a_death_is_told_and_that_is_the_end_of_it,
    a_success_of_one_that_is_well_writes_nothing,
    what_befalls_an_endpoint_stands_in_the_feed_whoever_subscribes,
}

const EXHAUSTED: Verdict = Verdict::Dead(DeadReason::Exhausted);
const GONE: Verdict = Verdict::Dead(DeadReason::Gone);

/// One that is sent something for each job, and one that is told how it fares.
async fn pair(bed: &Bed) -> (Endpoint, Endpoint) {
    let there = endpoint(bed, events(&["job.queued"])).await;
    (there, endpoint(bed, events(&["endpoint.*"])).await)
}

fn of(there: &Endpoint, claimed: &ClaimedDelivery, status: u16, verdict: Verdict) -> Attempted {
    let endpoint = Some((there.id, there.settings.url.clone()));
    Attempted { endpoint, ..attempted(claimed, status, verdict) }
}

/// Claims what is due to the endpoint, which comes to that; gives how many that were.
async fn all_come_to(bed: &Bed, there: &Endpoint, status: u16, verdict: Verdict) -> usize {
    let claimed = bed.claim().await;
    let outcomes: Vec<_> = claimed.iter().map(|d| of(there, d, status, verdict)).collect();
    bed.store.record(outcomes, bed.now()).await.unwrap();
    claimed.len()
}

async fn again_in(bed: &Bed, there: &Endpoint, hours: u64) {
    all_come_to(bed, there, 500, Verdict::RetryAt(bed.now().plus(Duration::from_secs(hours * 3_600)))).await;
}

fn hours(bed: &Bed, hours: u64) {
    bed.pass_seconds(hours * 3_600);
}

/// Claims and delivers what is due to others, in the order of its making: type and data.
async fn news(bed: &Bed, to: &Endpoint) -> Vec<(String, Value)> {
    let claimed = bed.claim().await;
    let mut told = Vec::new();
    for one in &claimed {
        assert_eq!((one.lane, one.signer), (to.lane(), Some(to.id)), "{}", one.event_kind);
        assert!(bed.record(of(to, one, 200, Verdict::Delivered)).await);
        let body: Value = serde_json::from_slice(&one.body).unwrap();
        assert_eq!(body["type"], one.event_kind.as_str());
        told.push((one.event_kind.clone(), body["data"].clone()));
    }
    told
}

async fn now(bed: &Bed, there: &Endpoint) -> Endpoint {
    bed.store.endpoint(bed.tenant, there.id).await.unwrap()
}

fn data(there: &Endpoint, since: Millis, failed: u32) -> Value {
    json!({"endpointId": there.id, "url": there.settings.url, "since": since, "failed": failed})
}

async fn what_befalls_an_endpoint_stands_in_the_feed_whoever_subscribes(bed: &Bed) {
    let there = endpoint(bed, events(&["job.queued"])).await;
    bed.submit_n(1).await;
    assert_eq!(all_come_to(bed, &there, 410, GONE).await, 1);
    let disabled = bed.rows("SELECT data FROM events WHERE kind = 'endpoint.disabled'").await;
    let told: Value = serde_json::from_str(&disabled[0].text(0).unwrap()).unwrap();
    assert_eq!((disabled.len(), &told["endpointId"], &told["reason"]), (1, &json!(there.id), &json!("gone")));
    assert_eq!(bed.count("events WHERE kind = 'delivery.dead'").await, 0, "its letter tells of that");
}

async fn each_step_is_told_once_and_parks_what_is_owed_at_the_last(bed: &Bed) {
    let (there, other) = pair(bed).await;
    let start = bed.now();
    bed.submit_n(20).await;
    again_in(bed, &there, 24).await;
    assert!(news(bed, &other).await.is_empty(), "it has only begun");
    assert_eq!(now(bed, &there).await.failing_since, Some(start));
    for wait in [24, 48] {
        hours(bed, wait);
        again_in(bed, &there, 48).await;
        let told = news(bed, &other).await;
        assert_eq!(told, [("endpoint.failing".to_owned(), data(&there, start, 20))], "once for all twenty");
    }
    hours(bed, 48);
    bed.submit(bed.job()).await;
    again_in(bed, &there, 1).await;

    let told = news(bed, &other).await;

    assert_eq!(told.len(), 1);
    assert_eq!((told[0].0.as_str(), &told[0].1["reason"]), ("endpoint.disabled", &json!("failing")));
    let seen = now(bed, &there).await;
    assert_eq!((seen.state, seen.reason.as_deref()), (EndpointState::Disabled, Some("failing")));
    assert_eq!(seen.since, bed.now());
    hours(bed, 1);
    assert!(bed.claim().await.is_empty(), "they are parked");
    let filter = ringback::store::DeliveryFilter {
        state: Some(DeliveryState::Held),
        ..ringback::store::DeliveryFilter::default()
    };
    assert_eq!(bed.store.deliveries(bed.tenant, &filter, page(50), bed.now()).await.unwrap().rows.len(), 21);
}

async fn what_was_told_to_fail_is_told_to_have_recovered(bed: &Bed) {
    let (there, other) = pair(bed).await;
    let start = bed.now();
    bed.submit_n(2).await;
    again_in(bed, &there, 24).await;
    hours(bed, 24);
    again_in(bed, &there, 1).await;
    assert_eq!(news(bed, &other).await.len(), 1);
    hours(bed, 1);
    assert_eq!(all_come_to(bed, &there, 200, Verdict::Delivered).await, 2);

    let told = news(bed, &other).await;

    assert_eq!(told, [("endpoint.recovered".to_owned(), data(&there, start, 2))], "once for both");
    let seen = now(bed, &there).await;
    assert_eq!((seen.state, seen.failing_since, seen.failed), (EndpointState::Enabled, None, 0));
    // The next failure is the first of another time.
    bed.submit(bed.job()).await;
    again_in(bed, &there, 23).await;
    hours(bed, 23);
    again_in(bed, &there, 1).await;
    assert!(news(bed, &other).await.is_empty());
}

async fn a_short_failure_is_forgotten_untold(bed: &Bed) {
    let (there, other) = pair(bed).await;
    bed.submit(bed.job()).await;
    again_in(bed, &there, 1).await;
    hours(bed, 1);
    all_come_to(bed, &there, 200, Verdict::Delivered).await;
    assert_eq!(now(bed, &there).await.failing_since, None);
    assert!(news(bed, &other).await.is_empty());
}

async fn gone_disables_at_once_beside_a_success(bed: &Bed) {
    let (there, other) = pair(bed).await;
    bed.submit_n(2).await;
    let claimed = bed.claim().await;
    let outcomes = vec![of(&there, &claimed[0], 410, GONE), of(&there, &claimed[1], 200, Verdict::Delivered)];
    bed.store.record(outcomes, bed.now()).await.unwrap();

    let told = news(bed, &other).await;

    assert_eq!(told.len(), 1);
    let mut wanted = data(&there, bed.now(), 1);
    wanted["reason"] = json!("gone");
    assert_eq!(told[0], ("endpoint.disabled".to_owned(), wanted));
    let seen = now(bed, &there).await;
    assert_eq!((seen.state, seen.reason.as_deref()), (EndpointState::Disabled, Some("gone")));
}

async fn what_comes_after_a_disabling_changes_nothing_until_it_is_resumed(bed: &Bed) {
    let (there, other) = pair(bed).await;
    bed.submit_n(3).await;
    let claimed = bed.claim().await;
    bed.record(of(&there, &claimed[0], 410, GONE)).await;
    assert_eq!(news(bed, &other).await.len(), 1);
    bed.record(of(&there, &claimed[1], 200, Verdict::Delivered)).await;
    bed.record(of(&there, &claimed[2], 410, GONE)).await;
    assert!(news(bed, &other).await.is_empty(), "these were under way");
    assert_eq!(now(bed, &there).await.state, EndpointState::Disabled);

    hours(bed, 200);
    let resumed = bed.store.set_endpoint_paused(bed.tenant, there.id, false, bed.now()).await.unwrap();

    assert_eq!((resumed.state, resumed.failing_since, resumed.failed), (EndpointState::Enabled, None, 0));
    bed.submit(bed.job()).await;
    again_in(bed, &there, 24).await;
    assert_eq!(now(bed, &there).await.failing_since, Some(bed.now()), "it begins anew");
    assert!(news(bed, &other).await.is_empty());
    hours(bed, 24);
    again_in(bed, &there, 1).await;
    let told = news(bed, &other).await;
    assert_eq!((told.len(), told[0].0.as_str()), (1, "endpoint.failing"));
}

async fn an_accounts_endpoint_is_told_of_to_those_of_none(bed: &Bed) {
    let other = endpoint(bed, events(&["endpoint.*"])).await;
    endpoint(bed, json!({"account": "acme", "events": ["*"]})).await;
    let there = endpoint(bed, json!({"account": "acme", "events": []})).await;
    submit_to(bed, &there).await;
    let job = bed.lease_one().await;
    bed.held(&job, complete()).await.unwrap();
    all_come_to(bed, &there, 410, GONE).await;

    let told = news(bed, &other).await;

    assert_eq!((told.len(), &told[0].1["account"]), (1, &json!("acme")));
}

async fn a_death_is_told_and_that_is_the_end_of_it(bed: &Bed) {
    let there = endpoint(bed, events(&["job.queued", "delivery.*"])).await;
    let thin = json!({"events": ["delivery.dead"], "format": "cloudevents"});
    let others = [endpoint(bed, events(&["delivery.*"])).await, endpoint(bed, thin).await];
    let job = bed.submit(bed.job()).await.job.id;
    let died = bed.claim_one().await;
    assert!(bed.record(of(&there, &died, 500, EXHAUSTED)).await);

    let told = bed.claim().await;

    let mut to: Vec<_> = told.iter().map(|d| d.lane).collect();
    to.sort_unstable();
    assert_eq!(to, others.each_ref().map(|e| e.lane()), "the endpoint is not told of itself");
    assert_eq!(told[0].event_id, told[1].event_id, "one event");
    let body = |variant: &str| {
        let one = told.iter().find(|d| d.variant == variant).unwrap();
        serde_json::from_slice::<Value>(&one.body).unwrap()
    };
    let data = json!({"deliveryId": died.id, "eventType": "job.queued", "jobId": job, "endpointId": there.id,
        "url": there.settings.url, "reason": "exhausted", "attempts": 1, "lastError": "status 500"});
    assert_eq!((&body("standard")["data"], &body("standard")["type"]), (&data, &json!("delivery.dead")));
    assert_eq!(body("cloudevents"), data);
    let outcomes = told.iter().map(|d| attempted(d, 500, EXHAUSTED)).collect();
    bed.store.record(outcomes, bed.now()).await.unwrap();
    assert!(bed.claim().await.is_empty(), "or two dead receivers would speak of each other for ever");
    assert_eq!(bed.count("dead_letters").await, 3);
}

async fn a_success_of_one_that_is_well_writes_nothing(bed: &Bed) {
    let (there, _) = pair(bed).await;
    bed.submit(bed.job()).await;
    let claimed = bed.claim_one().await;
    // Whoever writes or locks the row fails, or leaves a trace.
    let trace = async || match bed.engine() {
        Engine::Sqlite => String::new(),
        Engine::Postgres => {
            let rows =
                bed.rows("SELECT string_agg(ctid::text || xmax::text, ' ' ORDER BY id) FROM endpoints");
            rows.await[0].text(0).unwrap()
        }
    };
    if bed.engine() == Engine::Sqlite {
        bed.rows("CREATE TRIGGER none BEFORE UPDATE ON endpoints BEGIN SELECT RAISE(ABORT, 'written'); END")
            .await;
    }
    let before = trace().await;
    assert!(bed.record(of(&there, &claimed, 200, Verdict::Delivered)).await);
    assert_eq!(trace().await, before);
}
