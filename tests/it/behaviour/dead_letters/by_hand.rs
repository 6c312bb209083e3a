//! Sending one delivery again by hand, and taking one back.

use serde_json::{Value, json};

use super::{died, letters};
use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, instant};
use crate::support::ask::Ask;
use crate::support::probe::Probe;
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    a_delivered_one_is_sent_again,
    a_waiting_one_is_sent_now_in_a_new_round,
    a_dead_one_is_sent_again_and_leaves_the_list,
    a_waiting_one_is_taken_back,
    a_request_under_way_is_not_undone,
    what_has_ended_cannot_be_taken_back,
}

fn act(app: &TestApp, delivery: &Value, verb: &str) -> Ask {
    app.ask("POST", &format!("/v1/deliveries/{}/{verb}", id(delivery)))
}

/// Long enough that only a retry by hand comes in time.
fn rarely(attempts: u32) -> Value {
    json!({"retry": {"maxAttempts": attempts, "initialSeconds": 5000, "factor": 1, "maxSeconds": 5000}})
}

async fn a_delivered_one_is_sent_again(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(200), Answer::Status(500), Answer::Status(201)]);
    let job = app.called_back(&receiver.url("/x"), rarely(2)).await;
    let delivery = app.delivery_in(&job, "delivered").await["deliveryId"].clone();

    let answer = act(&app, &delivery, "retry").await.ok(202);

    assert_eq!((&answer["deliveryId"], &answer["jobId"]), (&delivery, &json!(job)));
    assert!(["pending", "inFlight"].contains(&answer["state"].as_str().unwrap()), "{answer}");
    assert!(answer.get("endedAt").is_none(), "{answer}");
    let waiting = app.delivery_after(&job, 2).await;
    assert_eq!(waiting["state"], "pending", "two more attempts, not one: {waiting}");
    assert_eq!(app.job(&job).await["callbackState"], "pending");
    app.pass_until(instant(&waiting["nextAttemptAt"]));
    let done = app.delivery_in(&job, "delivered").await;
    let statuses: Vec<_> = done["attempts"].as_array().unwrap().iter().map(|a| a["status"].clone()).collect();
    assert_eq!(statuses, [200, 500, 201]);
    let got = receiver.log();
    assert!(got.iter().all(|r| r.webhook_id() == delivery && r.body == got[0].body), "{got:?}");
    let numbers: Vec<_> = got.iter().map(|r| r.header("webhook-attempt")).collect();
    assert_eq!(numbers, ["1", "2", "3"]);
}

async fn a_waiting_one_is_sent_now_in_a_new_round(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500)]);
    let job = app.called_back(&receiver.url("/x"), rarely(2)).await;
    let delivery = app.delivery_after(&job, 1).await["deliveryId"].clone();

    act(&app, &delivery, "retry").await.ok(202);

    let waiting = app.delivery_after(&job, 2).await;
    assert_eq!(waiting["state"], "pending", "a new round has two attempts: {waiting}");
    assert_eq!(instant(&waiting["attempts"][1]["startedAt"]), app.clock.now(), "at once");
    app.pass_until(instant(&waiting["nextAttemptAt"]));
    let dead = app.delivery_in(&job, "dead").await;
    assert_eq!((&dead["attempt"], receiver.log().len()), (&json!(3), 3));
}

async fn a_dead_one_is_sent_again_and_leaves_the_list(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500), Answer::Status(500), Answer::Status(200)]);
    let (job, dead) = died(&app, &receiver.url("/x")).await;
    let delivery = json!(dead);

    act(&app, &delivery, "retry").await.ok(202);
    app.delivery_after(&job, 2).await;
    assert_eq!(letters(&app).await, [(dead, 2)], "it died again: one letter");
    act(&app, &delivery, "retry").await.ok(202);

    assert_eq!(app.delivery_in(&job, "delivered").await["attempt"], 3);
    assert_eq!(letters(&app).await, []);
    assert_eq!(app.job(&job).await["callbackState"], "delivered");
}

async fn a_waiting_one_is_taken_back(site: &Site) {
    let app = site.start_still().await;
    let probe = Probe::start(&app).await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500), Answer::Status(200)]);
    let job = app.called_back(&receiver.url("/x"), rarely(9)).await;
    let waiting = app.delivery_after(&job, 1).await;
    let delivery = &waiting["deliveryId"];

    let answer = act(&app, delivery, "cancel").await.ok(200);

    assert_eq!((&answer["state"], instant(&answer["endedAt"])), (&json!("cancelled"), app.clock.now()));
    assert!(answer.get("nextAttemptAt").is_none(), "{answer}");
    assert_eq!(app.job(&job).await["callbackState"], "cancelled");
    app.pass_until(instant(&waiting["nextAttemptAt"]));
    probe.looked(&app).await;
    assert_eq!(app.delivery_in(&job, "cancelled").await, answer, "nothing is sent any more");
    assert_eq!((receiver.log().len(), letters(&app).await), (1, vec![]));

    act(&app, delivery, "retry").await.ok(202);
    assert_eq!(app.delivery_in(&job, "delivered").await["attempt"], 2);
}

async fn a_request_under_way_is_not_undone(site: &Site) {
    let app = site.start_still().await;
    let probe = Probe::start(&app).await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Hang]);
    let job = app.called_back(&receiver.url("/x"), json!({})).await;
    receiver.wait("/x", 1, LIMIT).await;
    let delivery = app.delivery_of(&job).await["deliveryId"].clone();

    let answer = act(&app, &delivery, "cancel").await.ok(200);
    receiver.let_go();
    app.pass(3_600);
    probe.looked(&app).await;

    assert_eq!((&answer["state"], &answer["attempt"]), (&json!("cancelled"), &json!(1)));
    assert_eq!(app.delivery_in(&job, "cancelled").await, answer, "what came back changes nothing");
    assert_eq!(receiver.log().len(), 1);
}

async fn what_has_ended_cannot_be_taken_back(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/dead", vec![Answer::Status(410)]);
    for (path, state) in [("/ok", "delivered"), ("/dead", "dead")] {
        let job = app.called_back(&receiver.url(path), json!({})).await;
        let delivery = app.delivery_after(&job, 1).await["deliveryId"].clone();
        let before = app.delivery_in(&job, state).await;

        let problem = act(&app, &delivery, "cancel").await.refused(409, "job-already-finished", "");

        assert!(problem["detail"].as_str().unwrap().contains("delivery"), "{problem}");
        assert_eq!(app.delivery_in(&job, state).await, before);
    }
    receiver.script("/back", vec![Answer::Status(500)]);
    let job = app.called_back(&receiver.url("/back"), json!({})).await;
    let delivery = app.delivery_after(&job, 1).await["deliveryId"].clone();
    let cancelled = act(&app, &delivery, "cancel").await.ok(200);
    assert_eq!(act(&app, &delivery, "cancel").await.ok(200), cancelled, "again is no error");
}
