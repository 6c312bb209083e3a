//! What is set for a standing endpoint, as its receiver sees it: order, rate, and how much is under way at once.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, instant, until};
use crate::support::probe::Probe;
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    an_ordered_endpoint_is_told_one_after_the_other_and_a_retry_holds_the_rest,
    a_rate_is_kept_to_the_millisecond,
    a_limit_bounds_what_is_under_way_and_may_be_raised,
}

/// An endpoint at `/x` that is told of completed jobs; gives its id.
async fn endpoint(app: &TestApp, receiver: &Receiver, more: Value) -> String {
    let mut wish = json!({"url": receiver.url("/x"), "events": ["job.completed"]});
    wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    id(&app.post("/v1/endpoints", &wish).await.ok(201)["endpointId"])
}

/// Completes so many jobs, one after the other; gives the deliveries in that order.
async fn completed(app: &TestApp, n: usize) -> Vec<String> {
    let mut made = Vec::new();
    for _ in 0..n {
        let job = app.completed(json!({"type": "t"})).await;
        made.push(id(&app.delivery_of(&job).await["deliveryId"]));
    }
    made
}

async fn delivered(app: &TestApp, n: usize) {
    until(&format!("{n} are delivered"), async || {
        let found = app.items("/v1/deliveries?state=delivered&limit=200").await.len();
        if found >= n { Ok(()) } else { Err(found) }
    })
    .await
}

async fn an_ordered_endpoint_is_told_one_after_the_other_and_a_retry_holds_the_rest(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let retry = json!({"maxAttempts": 2, "initialSeconds": 60});
    endpoint(&app, &receiver, json!({"ordered": true, "retry": retry})).await;
    receiver.script(
        "/x",
        vec![Answer::Status(200), Answer::Status(500), Answer::Status(500), Answer::Status(200)],
    );

    let made = completed(&app, 5).await;

    let path = format!("/v1/deliveries/{}", made[1]);
    let second = until("the second has failed once", async || {
        let seen = app.get(&path).await.ok(200);
        if seen["attempt"] == 1 && seen["state"] == "pending" { Ok(seen) } else { Err(seen) }
    })
    .await;
    let told = app.get(&format!("/v1/deliveries/{}/explain", made[4])).await.ok(200);
    assert_eq!((&told["ahead"], &told["lane"]["ordered"]), (&json!(3), &json!(true)), "{told}");
    assert_eq!(receiver.log().len(), 2, "the others wait behind it");
    app.pass_until(instant(&second["nextAttemptAt"]));
    // It dies at its second attempt, and is passed over.
    let got = receiver.wait("/x", 6, LIMIT).await;
    let order: Vec<_> = got.iter().map(|r| r.webhook_id().to_owned()).collect();
    let [a, b, c, d, e] = <[String; 5]>::try_from(made).unwrap();
    assert_eq!(order, [a, b.clone(), b.clone(), c, d, e]);
    delivered(&app, 4).await;
    assert_eq!(app.items("/v1/dead-letters").await[0]["deliveryId"], b.as_str());
}

async fn a_rate_is_kept_to_the_millisecond(site: &Site) {
    let app = site.start_still().await;
    let (probe, receiver) = (Probe::start(&app).await, Receiver::start().await);
    endpoint(&app, &receiver, json!({"rateLimitPerSecond": 2})).await;
    completed(&app, 4).await;
    receiver.wait("/x", 1, LIMIT).await;
    for sent in 1..4 {
        delivered(&app, sent).await;
        app.clock.advance(Duration::from_millis(499));
        probe.looked(&app).await;
        assert_eq!(receiver.at("/x").len(), sent, "not a millisecond early");
        app.clock.advance(Duration::from_millis(1));
        receiver.wait("/x", sent + 1, LIMIT).await;
    }
    delivered(&app, 4).await;
}

async fn a_limit_bounds_what_is_under_way_and_may_be_raised(site: &Site) {
    let app = site.start_still().await;
    let (probe, receiver) = (Probe::start(&app).await, Receiver::start().await);
    let standing = endpoint(&app, &receiver, json!({"maxInFlight": 2})).await;
    receiver.script("/x", vec![Answer::Hang]);
    completed(&app, 5).await;
    receiver.wait("/x", 2, LIMIT).await;
    probe.looked(&app).await;
    assert_eq!(receiver.at("/x").len(), 2);

    app.ask("PATCH", &format!("/v1/endpoints/{standing}")).json(&json!({"maxInFlight": 1})).await.ok(200);
    // The owner of the lane goes by it within a second.
    app.pass(1);
    probe.looked(&app).await;
    receiver.script("/x", vec![Answer::Status(200)]);
    receiver.let_go();
    delivered(&app, 5).await;
    let lane = app.items("/v1/lanes").await.into_iter().find(|l| l["endpointId"] == standing.as_str());
    assert_eq!(lane.unwrap()["maxInFlight"], 1);
}
