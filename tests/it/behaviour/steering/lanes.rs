//! The breaker, pauses by hand, and turns between the URLs of one origin, with a real receiver.

use std::time::Duration;

use ringback::clock::Clock;
use ringback::types::Millis;
use serde_json::{Value, json};

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, instant, until};
use crate::support::probe::Probe;
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    a_dead_receiver_breaks_its_lane_and_one_probe_mends_it,
    a_broken_lane_is_broken_after_a_restart,
    a_broken_lane_sends_once_it_is_resumed,
    an_endpoint_that_moves_leaves_its_old_receivers_breaker_behind,
    a_paused_lane_sends_nothing_until_it_is_resumed,
    a_pause_outlives_its_node_and_ends_by_itself,
    a_pause_is_checked,
    an_endpoint_has_its_lane_before_anything_was_sent,
    a_hanging_path_leaves_room_for_its_neighbour,
}

/// The lane of a receiver, once it is so.
async fn lane(app: &TestApp, receiver: &Receiver, state: &str) -> Value {
    // Lanes are written down every five seconds.
    app.pass(5);
    let origin = receiver.url("");
    until(&format!("the lane of {origin} is {state}"), async || {
        let lanes = app.items(&format!("/v1/lanes?state={state}")).await;
        let found = lanes.iter().find(|lane| lane["origin"] == origin.as_str());
        found.cloned().ok_or(lanes)
    })
    .await
}

/// Ten callbacks that fail, so that the lane is broken; gives their jobs.
async fn broken(app: &TestApp, receiver: &Receiver) -> Vec<String> {
    receiver.script("/x", vec![Answer::Status(503)]);
    let mut jobs = Vec::new();
    for _ in 0..10 {
        let job = app.called_back(&receiver.url("/x"), json!({})).await;
        app.delivery_after(&job, 1).await;
        jobs.push(job);
    }
    jobs
}

async fn a_dead_receiver_breaks_its_lane_and_one_probe_mends_it(site: &Site) {
    let app = site.start_still().await;
    let (probe, receiver) = (Probe::start(&app).await, Receiver::start().await);
    let began = app.clock.now();
    let mut jobs = broken(&app, &receiver).await;

    let seen = lane(&app, &receiver, "broken").await;

    assert_eq!((&seen["heldReason"], &seen["failures"]), (&json!("breaker"), &json!(10)), "{seen}");
    let opens = instant(&seen["heldUntil"]);
    assert_eq!(opens.since(began), Duration::from_secs(30));
    jobs.push(app.called_back(&receiver.url("/x"), json!({})).await);
    let held = app.delivery_in(&jobs[10], "held").await;
    assert_eq!((&held["heldReason"], &held["attempt"]), (&json!("breaker"), &json!(0)), "{held}");
    assert_eq!(instant(&held["nextAttemptAt"]), opens);
    assert_eq!(app.job(&jobs[10]).await["callbackState"], "held");

    app.pass_until(Millis(opens.0 - 1));
    probe.looked(&app).await;
    assert_eq!(receiver.log().len(), 10, "nothing is sent a millisecond early");
    app.pass_until(opens);
    receiver.wait("/x", 11, LIMIT).await;
    until("the probe is recorded", async || {
        let seen = app.items("/v1/deliveries").await;
        let counted = seen.iter().filter(|d| d["url"] == receiver.url("/x").as_str());
        let sent: u64 = counted.map(|d| d["attempt"].as_u64().unwrap()).sum();
        let flying = seen.iter().any(|d| d["state"] == "inFlight");
        if sent == 11 && !flying { Ok(()) } else { Err(seen) }
    })
    .await;
    let again = lane(&app, &receiver, "broken").await;
    assert_eq!(instant(&again["heldUntil"]).since(opens), Duration::from_secs(60), "twice as long");
    probe.looked(&app).await;
    assert_eq!(receiver.log().len(), 11, "exactly one probe");

    receiver.script("/x", vec![Answer::Status(200)]);
    app.pass_until(instant(&again["heldUntil"]));
    // Whoever was the probe that failed has its own retry to wait for.
    for job in &jobs {
        let seen = app.delivery_of(job).await;
        if seen["attempt"] != 2 {
            app.delivery_in(job, "delivered").await;
        }
    }
    app.pass(60);
    for job in &jobs {
        app.delivery_in(job, "delivered").await;
    }
    assert_eq!(receiver.log().len(), 10 + 1 + 11, "open time costs no attempt");
    lane(&app, &receiver, "open").await;
}

async fn a_broken_lane_is_broken_after_a_restart(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let jobs = broken(&app, &receiver).await;
    let opens = instant(&lane(&app, &receiver, "broken").await["heldUntil"]);
    let now = app.clock.now();
    site.stop().await;

    let app = site.start_with(Clock::manual(now), |_| {}).await;
    let probe = Probe::start(&app).await;

    assert_eq!(instant(&lane(&app, &receiver, "broken").await["heldUntil"]), opens);
    probe.looked(&app).await;
    assert_eq!(receiver.log().len(), 10);
    receiver.script("/x", vec![Answer::Status(200)]);
    app.pass_until(opens);
    for job in &jobs {
        assert_eq!(app.delivery_in(job, "delivered").await["attempt"], 2);
    }
}

async fn a_broken_lane_sends_once_it_is_resumed(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    broken(&app, &receiver).await;
    let its = id(&lane(&app, &receiver, "broken").await["laneId"]);
    let job = app.called_back(&receiver.url("/y"), json!({})).await;
    app.delivery_in(&job, "held").await;

    let shown = set(&app, &its, "resume", &json!({})).await;

    assert_eq!((&shown["state"], &shown["failures"]), (&json!("open"), &json!(0)), "{shown}");
    assert_eq!(app.delivery_in(&job, "delivered").await["attempt"], 1);
}

async fn an_endpoint_that_moves_leaves_its_old_receivers_breaker_behind(site: &Site) {
    let app = site.start_still().await;
    let (down, well) = (Receiver::start().await, Receiver::start().await);
    down.script("/x", vec![Answer::With(503, vec![("retry-after", "600".to_owned())])]);
    let wish = json!({"url": down.url("/x"), "events": ["job.completed"]});
    let standing = id(&app.post("/v1/endpoints", &wish).await.ok(201)["endpointId"]);
    app.completed(json!({"type": "t"})).await;
    down.wait("/x", 1, LIMIT).await;
    app.pass(5);
    until("its lane waits", async || {
        let lanes = app.items("/v1/lanes?state=paused").await;
        if lanes.len() == 1 { Ok(()) } else { Err(lanes) }
    })
    .await;

    let path = format!("/v1/endpoints/{standing}");
    app.ask("PATCH", &path).json(&json!({"description": "the same receiver"})).await.ok(200);
    assert_eq!(app.items("/v1/lanes?state=paused").await.len(), 1, "it asked for the pause");
    app.ask("PATCH", &path).json(&json!({"url": well.url("/x")})).await.ok(200);

    assert_eq!(app.items("/v1/lanes?state=open").await.len(), 1);
    // The owner goes by it within a second.
    app.pass(1);
    app.completed(json!({"type": "t"})).await;
    well.wait("/x", 1, LIMIT).await;
}

/// A receiver with one delivered callback, so that it has a lane; gives its id.
async fn known(app: &TestApp, receiver: &Receiver) -> String {
    let job = app.called_back(&receiver.url("/first"), json!({})).await;
    app.delivery_in(&job, "delivered").await;
    id(&lane(app, receiver, "open").await["laneId"])
}

async fn set(app: &TestApp, lane: &str, verb: &str, body: &Value) -> Value {
    let shown = app.post(&format!("/v1/lanes/{lane}/{verb}"), body).await.ok(200);
    assert_eq!(shown["laneId"], lane);
    // The owner goes by it within a second.
    app.pass(1);
    shown
}

async fn a_paused_lane_sends_nothing_until_it_is_resumed(site: &Site) {
    let app = site.start_still().await;
    let (probe, receiver) = (Probe::start(&app).await, Receiver::start().await);
    let its = known(&app, &receiver).await;

    let shown = set(&app, &its, "pause", &json!({})).await;
    probe.looked(&app).await;

    assert_eq!((&shown["state"], &shown["heldReason"]), (&json!("paused"), &json!("paused")), "{shown}");
    assert!(shown.get("heldUntil").is_none(), "{shown}");
    let job = app.called_back(&receiver.url("/x"), json!({})).await;
    let held = app.delivery_in(&job, "held").await;
    assert_eq!((&held["heldReason"], held.get("nextAttemptAt")), (&json!("paused"), None), "{held}");
    app.pass(86_400);
    probe.looked(&app).await;
    assert_eq!(receiver.at("/x").len(), 0);

    let shown = set(&app, &its, "resume", &json!({})).await;

    assert_eq!((&shown["state"], &shown["maxInFlight"]), (&json!("open"), &json!(1)), "{shown}");
    assert_eq!(app.delivery_in(&job, "delivered").await["attempt"], 1, "waiting costs no attempt");
    assert_eq!(app.items("/v1/lanes?state=paused").await, Vec::<Value>::new());
}

async fn a_pause_outlives_its_node_and_ends_by_itself(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let its = known(&app, &receiver).await;
    let ends = app.clock.now().plus(Duration::from_secs(600));
    let shown = set(&app, &its, "pause", &json!({"until": ends})).await;
    assert_eq!(instant(&shown["heldUntil"]), ends);
    let now = app.clock.now();
    site.stop().await;

    let app = site.start_with(Clock::manual(now), |_| {}).await;
    let probe = Probe::start(&app).await;
    let job = app.called_back(&receiver.url("/x"), json!({})).await;

    let held = app.delivery_in(&job, "held").await;
    assert_eq!(instant(&held["nextAttemptAt"]), ends);
    app.pass_until(Millis(ends.0 - 1));
    probe.looked(&app).await;
    assert_eq!(receiver.at("/x").len(), 0);
    app.pass_until(ends);
    app.delivery_in(&job, "delivered").await;
}

async fn a_pause_is_checked(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let its = known(&app, &receiver).await;
    let pause = format!("/v1/lanes/{its}/pause");
    let past = json!({"until": app.clock.now()});
    app.post(&pause, &past).await.refused(422, "validation-failed", "/until");
    let far = json!({"until": "2999-01-01T00:00:00Z"});
    app.post(&pause, &far).await.refused(422, "validation-failed", "/until");
    app.post(&pause, &json!({"for": 5})).await.refused(422, "validation-failed", "/for");
    app.post("/v1/lanes/lane_0/pause", &json!({})).await.refused(404, "not-found", "");
    assert_eq!(app.items("/v1/lanes?state=paused").await, Vec::<Value>::new());
    // Without a body at all, and once more.
    app.ask("POST", &pause).await.ok(200);
    app.ask("POST", &pause).await.ok(200);
    app.ask("POST", &format!("/v1/lanes/{its}/resume")).await.ok(200);
    app.ask("POST", &format!("/v1/lanes/{its}/resume")).await.ok(200);
}

async fn an_endpoint_has_its_lane_before_anything_was_sent(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let wish = json!({"url": receiver.url("/x"), "events": ["a"]});
    let endpoint = id(&app.post("/v1/endpoints", &wish).await.ok(201)["endpointId"]);
    let lanes = app.items("/v1/lanes").await;
    assert_eq!((lanes.len(), &lanes[0]["endpointId"]), (1, &json!(endpoint)), "{lanes:?}");
    assert_eq!((&lanes[0]["state"], &lanes[0]["depth"]), (&json!("open"), &json!(0)), "{lanes:?}");

    app.ask("POST", &format!("/v1/endpoints/{endpoint}/pause")).await.ok(200);
    app.post("/v1/events", &json!({"type": "a", "data": 1})).await.ok(202);

    let held = app.items("/v1/deliveries?state=held").await.remove(0);
    let told = app.get(&format!("/v1/deliveries/{}/explain", id(&held["deliveryId"]))).await.ok(200);
    let lane = app.items("/v1/lanes?state=paused").await.remove(0);
    assert_eq!((&lane["depth"], &told["lane"]), (&json!(1), &lane), "{told}");
    let its = id(&lane["laneId"]);
    set(&app, &its, "pause", &json!({})).await;
    let probe = Probe::start(&app).await;
    app.ask("POST", &format!("/v1/endpoints/{endpoint}/resume")).await.ok(200);
    app.pass(60);
    probe.looked(&app).await;
    assert_eq!(receiver.at("/x").len(), 0, "its first owner goes by the pause");
    set(&app, &its, "resume", &json!({})).await;
    receiver.wait("/x", 1, LIMIT).await;
}

async fn a_hanging_path_leaves_room_for_its_neighbour(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    known(&app, &receiver).await;
    receiver.script("/hang", vec![Answer::Hang]);
    for _ in 0..30 {
        app.called_back(&receiver.url("/hang"), json!({})).await;
    }
    receiver.wait("/hang", 8, LIMIT).await;

    for n in 0..5 {
        let job = app.called_back(&receiver.url("/well"), json!({})).await;
        receiver.wait("/well", n + 1, Duration::from_secs(8)).await;
        app.delivery_in(&job, "delivered").await;
    }

    let hanging = receiver.at("/hang").len();
    assert!((8..30).contains(&hanging), "they wait for slots: {hanging}");
    receiver.script("/hang", vec![Answer::Status(200)]);
    receiver.let_go();
}
