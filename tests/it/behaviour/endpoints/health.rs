//! Endpoints that fail: told step by step, disabled, resumed.

use serde_json::{Value, json};

use super::{make, path};
use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, until};
use crate::support::receiver::{Answer, Received, Receiver};

both_engines! {
    an_endpoint_that_is_gone_is_disabled_and_that_is_told,
    five_days_of_failures_are_told_step_by_step,
    a_recovery_is_told,
    a_dead_callback_is_one_event_to_all_who_are_told,
}

async fn an_endpoint_that_is_gone_is_disabled_and_that_is_told(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    receiver.script("/in", vec![Answer::Status(410)]);
    let other = make(&app, &receiver.url("/news"), json!({"events": ["endpoint.*"]})).await;
    let there = make(&app, &receiver.url("/in"), json!({"events": ["job.completed"]})).await;

    let job = app.completed(json!({"type": "t"})).await;
    app.delivery_in(&job, "dead").await;
    let told = receiver.wait("/news", 1, LIMIT).await.remove(0);

    told.verify(other["secret"].as_str().unwrap());
    let news = told.json();
    assert_eq!((&news["type"], &news["data"]["reason"]), (&json!("endpoint.disabled"), &json!("gone")));
    assert_eq!(news["data"]["endpointId"], there["endpointId"]);
    assert!(news.get("sequence").is_none(), "{news}");
    let seen = app.get(&path(&there, "")).await.ok(200);
    assert_eq!((&seen["state"], &seen["stateReason"]), (&json!("disabled"), &json!("gone")));
    let next = app.completed(json!({"type": "t"})).await;
    let held = app.delivery_in(&next, "held").await;
    assert_eq!(held["heldReason"], "disabled");
}

/// Loses `n` deliveries of the endpoint, up to `all` since it was made.
async fn failing(app: &TestApp, there: &Value, n: usize, all: usize) {
    for _ in 0..n {
        app.submit(json!({"type": "t"})).await;
    }
    let of = format!("/v1/deliveries?state=dead&limit=200&endpointId={}", id(&there["endpointId"]));
    until("all are dead", async || {
        let dead = app.items(&of).await.len();
        if dead == all { Ok(()) } else { Err(dead) }
    })
    .await;
}

/// An endpoint at `/in` that fails each of its deliveries at once.
async fn at_in(app: &TestApp, receiver: &Receiver) -> Value {
    receiver.script("/in", vec![Answer::Status(500)]);
    let given = json!({"events": ["job.queued"], "retry": {"maxAttempts": 1}});
    make(app, &receiver.url("/in"), given).await
}

fn types(told: &[Received]) -> Vec<Value> {
    told.iter().map(|got| got.json()["type"].clone()).collect()
}

async fn five_days_of_failures_are_told_step_by_step(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let there = at_in(&app, &receiver).await;
    make(&app, &receiver.url("/news"), json!({"events": ["endpoint.*"], "ordered": true})).await;
    failing(&app, &there, 17, 17).await;
    let seen = async || app.get(&path(&there, "")).await.ok(200);
    let since = seen().await["failingSince"].clone();
    for (step, hours) in [24, 48, 48].into_iter().enumerate() {
        assert_eq!((receiver.at("/news").len(), &seen().await["state"]), (step, &json!("enabled")));
        app.pass(hours * 3_600);
        failing(&app, &there, 1, 18 + step).await;
        receiver.wait("/news", step + 1, LIMIT).await;
    }

    let told = receiver.at("/news");
    assert_eq!(types(&told), ["endpoint.failing", "endpoint.failing", "endpoint.disabled"]);
    for (got, failed) in told.iter().zip(18..) {
        let mut data = json!({"endpointId": there["endpointId"], "url": receiver.url("/in"), "since": since,
            "failed": failed});
        if failed == 20 {
            data["reason"] = json!("failing");
        }
        assert_eq!(got.json()["data"], data);
    }
    let disabled = seen().await;
    assert_eq!((&disabled["state"], &disabled["stateReason"]), (&json!("disabled"), &json!("failing")));
    receiver.script("/in", vec![Answer::Status(200)]);
    for _ in 0..3 {
        app.submit(json!({"type": "t"})).await;
    }
    let held = app.items("/v1/deliveries?state=held").await;
    assert_eq!((held.len(), &held[0]["heldReason"]), (3, &json!("disabled")));
    let resumed = app.ask("POST", &path(&there, "/resume")).await.ok(200);
    assert!(resumed["state"] == "enabled" && resumed.get("failingSince").is_none(), "a new start: {resumed}");
    // What is let go is spread over a second.
    let drained = async || {
        app.pass(1);
        let came = receiver.at("/in").len();
        if came == 23 { Ok(()) } else { Err(came) }
    };
    until("all that was parked has come", drained).await;
    assert_eq!(receiver.at("/news").len(), 3, "what was resumed has not recovered by itself");
}

async fn a_recovery_is_told(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let there = at_in(&app, &receiver).await;
    make(&app, &receiver.url("/news"), json!({"events": ["endpoint.*"], "ordered": true})).await;
    failing(&app, &there, 1, 1).await;
    app.pass(24 * 3_600);
    failing(&app, &there, 1, 2).await;
    receiver.wait("/news", 1, LIMIT).await;
    receiver.script("/in", vec![Answer::Status(200)]);

    app.submit(json!({"type": "t"})).await;
    let told = receiver.wait("/news", 2, LIMIT).await;

    assert_eq!(types(&told), ["endpoint.failing", "endpoint.recovered"]);
    assert_eq!((&told[1].json()["data"]["failed"], told[1].json()["data"].get("reason")), (&json!(2), None));
    assert!(app.get(&path(&there, "")).await.ok(200).get("failingSince").is_none());
}

async fn a_dead_callback_is_one_event_to_all_who_are_told(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    receiver.script("/gone", vec![Answer::Status(410)]);
    make(&app, &receiver.url("/news"), json!({"events": ["delivery.dead"]})).await;
    let more = json!({"failureUrl": receiver.url("/failed")});

    let job = app.called_back(&receiver.url("/gone"), more).await;
    let named = receiver.wait("/failed", 1, LIMIT).await.remove(0);
    let subscribed = receiver.wait("/news", 1, LIMIT).await.remove(0);

    assert_eq!(named.body, subscribed.body);
    let news = named.json();
    assert_eq!((&news["type"], &news["data"]["jobId"]), (&json!("delivery.dead"), &json!(job)));
    assert_eq!(news["data"]["reason"], "gone");
    assert_ne!(named.webhook_id(), subscribed.webhook_id());
}
