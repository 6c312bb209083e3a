//! Why a delivery stands where it stands.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, instant, until};
use crate::support::probe::Probe;
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    what_waits_and_what_has_ended_is_explained,
    what_is_held_is_explained,
    what_is_under_way_is_explained,
    a_narrowed_key_is_told_of_its_delivery_alone,
}

async fn explained(app: &TestApp, job: &str) -> Value {
    let delivery = id(&app.delivery_of(job).await["deliveryId"]);
    let told = app.get(&format!("/v1/deliveries/{delivery}/explain")).await.ok(200);
    assert_eq!(told["deliveryId"], delivery.as_str());
    assert!(!told["why"].as_str().unwrap().is_empty() && !told["next"].as_str().unwrap().is_empty());
    told
}

async fn what_waits_and_what_has_ended_is_explained(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500)]);
    let retry = json!({"retry": {"maxAttempts": 2, "initialSeconds": 60}});
    let job = app.called_back(&receiver.url("/x"), retry).await;
    let waiting = app.delivery_after(&job, 1).await;

    let told = explained(&app, &job).await;

    assert_eq!((&told["state"], &told["nextStep"]), (&json!("pending"), &json!("attempt")), "{told}");
    assert_eq!(told["nextAt"], waiting["nextAttemptAt"]);
    assert_eq!((&told["attempt"], &told["attemptsLeft"], &told["ahead"]), (&json!(1), &json!(1), &json!(0)));
    assert!(told["why"].as_str().unwrap().contains("status 500"), "{told}");
    assert_eq!(told["lane"]["origin"], receiver.url("").as_str());
    app.pass_until(instant(&told["nextAt"]));
    app.delivery_in(&job, "dead").await;
    let told = explained(&app, &job).await;
    assert_eq!((&told["state"], &told["nextStep"]), (&json!("dead"), &json!("nothing")), "{told}");
    assert!(told.get("nextAt").is_none() && told.get("attemptsLeft").is_none(), "{told}");
    assert!(told["why"].as_str().unwrap().contains("all attempts"), "{told}");
    let fine = app.called_back(&receiver.url("/ok"), json!({})).await;
    app.delivery_in(&fine, "delivered").await;
    assert_eq!(explained(&app, &fine).await["why"], "the receiver answered 200");
    let nothing = "/v1/deliveries/dlv_01H455VB4PEX5VSKNK084SN02Q/explain";
    app.get(nothing).await.refused(404, "not-found", "");
}

async fn what_is_held_is_explained(site: &Site) {
    let app = site.start_still().await;
    let (probe, receiver) = (Probe::start(&app).await, Receiver::start().await);
    let first = app.called_back(&receiver.url("/ok"), json!({})).await;
    app.delivery_in(&first, "delivered").await;
    let lanes = app.items("/v1/lanes").await;
    let lane = lanes.iter().find(|lane| lane["origin"] == receiver.url("").as_str()).unwrap();
    let lane = id(&lane["laneId"]);
    app.ask("POST", &format!("/v1/lanes/{lane}/pause")).await.ok(200);
    app.pass(1);
    probe.looked(&app).await;
    let job = app.called_back(&receiver.url("/ok"), json!({})).await;
    app.delivery_in(&job, "held").await;
    let told = explained(&app, &job).await;
    assert_eq!((&told["heldReason"], &told["nextStep"]), (&json!("paused"), &json!("resume")), "{told}");
    assert!(told.get("nextAt").is_none(), "nobody knows when: {told}");

    let until = app.clock.now().plus(Duration::from_secs(90));
    app.post(&format!("/v1/lanes/{lane}/pause"), &json!({"until": until})).await.ok(200);
    let told = explained(&app, &job).await;
    assert_eq!((&told["nextStep"], instant(&told["nextAt"])), (&json!("attempt"), until), "{told}");
    assert_eq!((&told["lane"]["state"], &told["attemptsLeft"]), (&json!("paused"), &json!(14)));
}

async fn what_is_under_way_is_explained(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/slow", vec![Answer::Hang]);
    let job = app.called_back(&receiver.url("/slow"), json!({})).await;
    receiver.wait("/slow", 1, LIMIT).await;
    let told = explained(&app, &job).await;
    assert_eq!((&told["state"], &told["nextStep"]), (&json!("inFlight"), &json!("outcome")), "{told}");
    assert_eq!(instant(&told["nextAt"]).since(app.clock.now()), Duration::from_secs(30), "its lease");
    receiver.let_go();
    app.delivery_in(&job, "delivered").await;
}

async fn a_narrowed_key_is_told_of_its_delivery_alone(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let job = app.called_back(&receiver.url("/ok"), json!({})).await;
    app.delivery_in(&job, "delivered").await;
    let path = format!("/v1/deliveries/{}/explain", id(&app.delivery_of(&job).await["deliveryId"]));
    let narrow = async |queue: &str| {
        let wish = json!({"scopes": ["deliveries:read"], "queues": [queue]});
        id(&app.post("/v1/keys", &wish).await.ok(201)["key"])
    };
    let told = app.get(&path).key(&narrow("default").await).await.ok(200);
    assert!(told.get("lane").is_none() && told["state"] == "delivered", "{told}");
    app.get(&path).key(&narrow("other").await).await.refused(404, "not-found", "");
    let whole = until("the owner sees the lane", async || {
        let told = explained(&app, &job).await;
        if told.get("lane").is_some() { Ok(told) } else { Err(told) }
    });
    assert_eq!(whole.await["lane"]["kind"], "origin");
}
