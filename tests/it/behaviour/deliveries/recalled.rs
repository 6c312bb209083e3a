//! Somebody changes what a delivery depends on while it waits for its slot or its time.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, until};
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    what_waits_in_hand_is_parked_with_its_endpoint,
    what_waits_in_hand_goes_where_its_endpoint_goes,
    what_waits_in_hand_ends_with_its_endpoint,
    what_waits_in_hand_is_held_when_its_endpoint_is_given_up,
    what_is_cancelled_is_not_sent_from_the_hand,
    the_next_in_order_goes_at_once_when_the_one_before_it_is_cancelled,
}

/// How many slots a lane begins with.
const SLOTS: usize = 10;
const MADE: usize = 40;

/// An endpoint whose slots are taken by requests that hang, and whose other deliveries are in hand.
async fn filled(app: &TestApp, receiver: &Receiver) -> String {
    let endpoint = filled_with(app, receiver, vec![Answer::Hang; SLOTS]).await;
    assert_eq!(app.items("/v1/deliveries?state=inFlight").await.len(), MADE, "the others are in hand");
    endpoint
}

/// An endpoint all of whose slots are taken, where these are the answers to what takes them and what comes then.
async fn filled_with(app: &TestApp, receiver: &Receiver, then: Vec<Answer>) -> String {
    let mut answers = vec![Answer::Status(200)];
    answers.extend(then);
    answers.push(Answer::Status(200));
    receiver.script("/x", answers);
    let wish = json!({"url": receiver.url("/x"), "events": []});
    let endpoint =
        format!("/v1/endpoints/{}", id(&app.post("/v1/endpoints", &wish).await.ok(201)["endpointId"]));
    let job = json!({"type": "t", "callback": {"endpointId": endpoint.rsplit('/').next()}});
    // Only one that is known to answer has a hand.
    let first = app.completed(job.clone()).await;
    app.delivery_in(&first, "delivered").await;
    for _ in 0..MADE {
        app.submit(job.clone()).await;
    }
    let claimed = app.claim(u32::try_from(MADE).unwrap()).await;
    let complete =
        |job: &Value| json!({"op": "complete", "jobId": job["jobId"], "leaseToken": job["leaseToken"]});
    let items: Vec<_> = claimed.iter().map(complete).collect();
    app.post("/v1/leases/ack", &json!({"items": items})).await.ok(200);
    receiver.wait("/x", 1 + SLOTS, LIMIT).await;
    endpoint
}

/// Waits until so many stand so.
async fn stand(app: &TestApp, state: &str, n: usize) {
    until(&format!("{n} are {state}"), async || {
        let found = app.items(&format!("/v1/deliveries?state={state}")).await.len();
        if found == n { Ok(()) } else { Err((found, app.items("/v1/deliveries").await)) }
    })
    .await;
}

async fn what_waits_in_hand_is_parked_with_its_endpoint(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let endpoint = filled(&app, &receiver).await;

    app.post(&format!("{endpoint}/pause"), &json!({})).await.ok(200);
    receiver.let_go();

    stand(&app, "delivered", 1 + SLOTS).await;
    stand(&app, "held", MADE - SLOTS).await;
    assert_eq!(receiver.log().len(), 1 + SLOTS);
}

async fn what_waits_in_hand_goes_where_its_endpoint_goes(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let endpoint = filled(&app, &receiver).await;

    app.ask("PATCH", &endpoint).json(&json!({"url": receiver.url("/y")})).await.ok(200);
    receiver.let_go();

    receiver.wait("/y", MADE - SLOTS, LIMIT).await;
    stand(&app, "delivered", 1 + MADE).await;
    assert_eq!((receiver.at("/x").len(), receiver.at("/y").len()), (1 + SLOTS, MADE - SLOTS));
}

async fn what_waits_in_hand_ends_with_its_endpoint(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let endpoint = filled(&app, &receiver).await;

    app.delete(&endpoint).await.ok(204);
    receiver.let_go();

    stand(&app, "inFlight", 0).await;
    stand(&app, "pending", 0).await;
    assert_eq!(receiver.log().len(), 1 + SLOTS);
}

async fn what_waits_in_hand_is_held_when_its_endpoint_is_given_up(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    // The slot of what is gone is free with the answer: one may go before the answer is recorded.
    let mut answers = vec![Answer::Hang; SLOTS - 1];
    answers.extend([Answer::Status(410), Answer::Hang]);
    let endpoint = filled_with(&app, &receiver, answers).await;

    until("what was in hand is held", async || {
        let (held, sent) = (app.items("/v1/deliveries?state=held").await.len(), receiver.log().len());
        if held == 1 + MADE - sent { Ok(()) } else { Err((held, sent)) }
    })
    .await;
    assert_eq!(app.get(&endpoint).await.ok(200)["state"], "disabled");
    let sent = receiver.log().len();
    receiver.let_go();

    stand(&app, "inFlight", 0).await;
    assert_eq!(receiver.log().len(), sent);
    assert!(sent <= 2 + SLOTS, "{sent}");
}

async fn what_is_cancelled_is_not_sent_from_the_hand(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    filled(&app, &receiver).await;
    let begun: BTreeSet<String> = receiver.log().iter().map(|r| r.webhook_id().to_owned()).collect();
    let made = app.items("/v1/deliveries?state=inFlight").await;
    let in_hand: Vec<&Value> = made.iter().filter(|d| !begun.contains(&id(&d["deliveryId"]))).collect();
    assert_eq!(in_hand.len(), MADE - SLOTS);

    let cancelled: Vec<String> = in_hand[..3].iter().map(|d| id(&d["deliveryId"])).collect();
    for delivery in &cancelled {
        app.post(&format!("/v1/deliveries/{delivery}/cancel"), &json!({})).await.ok(200);
    }
    receiver.let_go();

    stand(&app, "delivered", 1 + MADE - 3).await;
    let came: Vec<String> = receiver.log().iter().map(|r| r.webhook_id().to_owned()).collect();
    assert_eq!(came.len(), 1 + MADE - 3);
    assert!(cancelled.iter().all(|delivery| !came.contains(delivery)));
}

#[tokio::test]
async fn what_another_node_has_in_hand_is_parked_within_a_second() {
    let site = Site::postgres().await;
    let (app, receiver) = (site.start_still().await, Receiver::start().await);
    let endpoint = filled(&app, &receiver).await;
    let another = site.start_still().await;

    another.post(&format!("{endpoint}/pause"), &json!({})).await.ok(200);
    app.pass(1);

    stand(&app, "held", MADE - SLOTS).await;
    receiver.let_go();
    stand(&app, "delivered", 1 + SLOTS).await;
    assert_eq!(receiver.log().len(), 1 + SLOTS);
    site.finish().await;
}

async fn the_next_in_order_goes_at_once_when_the_one_before_it_is_cancelled(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500), Answer::Status(200)]);
    let wish = json!({"url": receiver.url("/x"), "events": ["job.completed"], "ordered": true});
    app.post("/v1/endpoints", &wish).await.ok(201);
    let stuck = app.completed(json!({"type": "t"})).await;
    let stuck = id(&app.delivery_after(&stuck, 1).await["deliveryId"]);
    let next = app.completed(json!({"type": "t"})).await;
    // Long enough for the lane to be read, and to be found waiting.
    app.pass(1);
    assert_eq!(app.delivery_in(&next, "pending").await["attempt"], 0);

    app.post(&format!("/v1/deliveries/{stuck}/cancel"), &json!({})).await.ok(200);

    app.delivery_in(&next, "delivered").await;
    assert_eq!(receiver.log().len(), 2);
}
