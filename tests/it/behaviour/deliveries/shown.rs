//! Deliveries, their attempts and their lanes as an operator sees them.

use serde_json::{Value, json};

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, instant, until};
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    a_delivery_shows_its_attempts,
    what_an_answer_repeats_of_its_credentials_is_not_shown,
    an_attempt_without_an_answer_says_why,
    deliveries_are_filtered,
    pages_show_every_delivery_once,
    lanes_show_who_waits_and_why,
    what_is_not_understood_is_refused,
}

/// Long enough that nothing is sent twice in these tests.
fn rarely() -> Value {
    json!({"maxAttempts": 3, "initialSeconds": 1000, "factor": 1, "maxSeconds": 1000})
}

async fn a_delivery_shows_its_attempts(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let headers = vec![("set-cookie", "session=abc".to_owned()), ("x-why", "busy".to_owned())];
    let long = Answer::Body(500, headers, "é".repeat(10_000).into());
    receiver.script("/x", vec![long, Answer::Body(202, vec![], "thanks".into())]);
    let (url, made) = (receiver.url("/x"), app.clock.now());
    let job = app.called_back(&url, json!({"retry": rarely()})).await;

    let waiting = app.delivery_after(&job, 1).await;

    let event = app.items(&format!("/v1/jobs/{job}/events")).await.pop().unwrap();
    let next = instant(&waiting["nextAttemptAt"]);
    let mut wanted = json!({"deliveryId": waiting["deliveryId"], "eventId": event["eventId"],
        "eventType": "job.completed", "jobId": job, "url": url, "state": "pending", "attempt": 1,
        "maxAttempts": 3, "nextAttemptAt": next, "lastStatus": 500, "lastError": "status 500",
        "createdAt": made});
    assert_eq!(app.delivery_of(&job).await, wanted, "a list leaves the attempts out");
    let first = waiting["attempts"][0].clone();
    assert_eq!((&first["number"], &first["status"]), (&json!(1), &json!(500)));
    assert_eq!((instant(&first["startedAt"]), instant(&first["nextAttemptAt"])), (made, next));
    assert!(first["durationMs"].as_u64().unwrap() < 15_000, "{first}");
    assert_eq!(first["address"], receiver.addr.to_string(), "{first}");
    assert!(first["phases"]["connectMs"].is_u64() && first["phases"]["firstByteMs"].is_u64(), "{first}");
    assert_eq!(first["responseBody"].as_str().unwrap(), "é".repeat(8_192), "16 KiB of it");
    let shown = first["responseHeaders"].as_array().unwrap();
    assert!(shown.contains(&json!(["x-why", "busy"])), "{first}");
    assert!(shown.contains(&json!(["set-cookie", "redacted"])), "{first}");
    assert_eq!(first.get("error"), None);
    app.pass_until(next);
    let done = app.delivery_in(&job, "delivered").await;
    assert_eq!((done["attempts"].as_array().unwrap().len(), &done["attempts"][0]), (2, &first));
    let second = &done["attempts"][1];
    assert_eq!((&second["number"], &second["status"]), (&json!(2), &json!(202)));
    assert_eq!((instant(&second["startedAt"]), &second["responseBody"]), (next, &json!("thanks")));
    assert!(second.get("nextAttemptAt").is_none(), "{second}");
    wanted.as_object_mut().unwrap().remove("nextAttemptAt");
    for (member, value) in [("state", json!("delivered")), ("attempt", json!(2)), ("lastStatus", json!(202))]
    {
        wanted[member] = value;
    }
    wanted["endedAt"] = json!(next);
    assert_eq!(app.delivery_of(&job).await, wanted);
}

async fn what_an_answer_repeats_of_its_credentials_is_not_shown(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let echo = vec![("x-you-sent", "Bearer canary-token".to_owned()), ("x-auth-token", "theirs".to_owned())];
    receiver.script("/x", vec![Answer::Body(200, echo, "{\"headers\": \"canary-token\"}".into())]);
    let headers = json!({"headers": {"Authorization": "Bearer canary-token"}});

    let job = app.called_back(&receiver.url("/x"), headers).await;

    let done = app.delivery_in(&job, "delivered").await;
    assert_eq!(receiver.log()[0].header("authorization"), "Bearer canary-token");
    let shown = done["attempts"][0].to_string();
    assert!(!shown.contains("canary") && !shown.contains("theirs"), "{shown}");
    assert_eq!(done["attempts"][0]["responseBody"], "{\"headers\": \"redacted\"}");
}

async fn an_attempt_without_an_answer_says_why(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    // Nobody listens there.
    let url = format!("http://127.0.0.2:{}/x", receiver.addr.port());

    let job = app.called_back(&url, json!({"retry": rarely()})).await;

    let waiting = app.delivery_after(&job, 1).await;
    assert_eq!((&waiting["state"], &waiting["lastError"]), (&json!("pending"), &json!("connect")));
    let attempt = &waiting["attempts"][0];
    assert_eq!((&attempt["number"], &attempt["error"]), (&json!(1), &json!("connect")));
    for absent in ["status", "responseHeaders", "responseBody"] {
        assert!(attempt.get(absent).is_none(), "{attempt}");
    }
    assert!(waiting.get("lastStatus").is_none(), "{waiting}");
}

/// One delivery in each state, newest last: state, job and delivery.
async fn one_of_each(app: &TestApp, here: &Receiver, there: &Receiver) -> Vec<(&'static str, String, Value)> {
    here.script("/again", vec![Answer::Status(500)]);
    here.script("/hang", vec![Answer::Hang]);
    there.script("/busy", vec![Answer::With(429, vec![("retry-after", "9999".to_owned())])]);
    let nobody = format!("http://127.0.0.2:{}/x", here.addr.port());
    let once = json!({"maxAttempts": 1});
    let mut made = Vec::new();
    for (state, url, retry) in [
        ("delivered", here.url("/ok"), rarely()),
        ("dead", nobody, once),
        ("pending", here.url("/again"), rarely()),
        ("cancelled", here.url("/again"), rarely()),
        ("held", there.url("/busy"), rarely()),
        ("inFlight", here.url("/hang"), rarely()),
    ] {
        let job = app.called_back(&url, json!({"retry": retry})).await;
        if state == "inFlight" {
            here.wait("/hang", 1, LIMIT).await;
        } else {
            app.delivery_after(&job, 1).await;
        }
        let delivery = app.delivery_of(&job).await["deliveryId"].clone();
        if state == "cancelled" {
            let cancel = format!("/v1/deliveries/{}/cancel", id(&delivery));
            app.ask("POST", &cancel).await.ok(200);
        }
        made.push((state, job, delivery));
        // Newest first needs different times; lanes are written down every five seconds.
        app.pass(6);
    }
    made
}

async fn deliveries_are_filtered(site: &Site) {
    let app = site.start_still().await;
    let (here, there) = (Receiver::start().await, Receiver::start().await);
    let made = one_of_each(&app, &here, &there).await;
    let list = async |query: &str| {
        let found = app.items(&format!("/v1/deliveries?{query}")).await;
        found.iter().map(|d| d["deliveryId"].clone()).collect::<Vec<_>>()
    };
    let only = |states: &[&str]| {
        let of = made.iter().rev().filter(|(state, _, _)| states.contains(state));
        of.map(|(_, _, delivery)| delivery.clone()).collect::<Vec<_>>()
    };

    let held = only(&["held"]);
    until("the lane is held", async || {
        let found = list("state=held").await;
        if found == held { Ok(()) } else { Err(found) }
    })
    .await;
    for (state, job, delivery) in &made {
        assert_eq!(list(&format!("state={state}")).await, only(&[state]), "{state}");
        assert_eq!(list(&format!("jobId={job}")).await, only(&[state]));
        assert_eq!(list(&format!("jobId={job}&state={state}")).await, only(&[state]));
        assert_eq!(app.get(&format!("/v1/deliveries/{}", id(delivery))).await.ok(200)["state"], *state);
    }
    assert_eq!(list("").await.len(), 6);
    let here_all = ["inFlight", "held", "cancelled", "pending", "delivered"];
    assert_eq!(list("host=127.0.0.1").await, only(&here_all), "newest first");
    assert_eq!(list("host=127.0.0.2").await, only(&["dead"]));
    assert_eq!(list("host=127.0.0.1&state=dead").await, Vec::<Value>::new());
    assert_eq!(list("host=127.0.0.3").await, Vec::<Value>::new());
    let shown = app.items("/v1/deliveries?state=held").await.remove(0);
    assert_eq!(shown["heldReason"], "paused");
    here.let_go();
}

async fn pages_show_every_delivery_once(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let events = json!(["job.queued", "job.started", "job.completed"]);
    let job = app.called_back(&receiver.url("/x"), json!({"events": events})).await;
    app.called_back(&receiver.url("/y"), json!({})).await;
    receiver.wait("/x", 3, LIMIT).await;
    receiver.wait("/y", 1, LIMIT).await;

    for (path, sizes) in [
        (format!("/v1/jobs/{job}/deliveries?limit=2"), vec![2, 1]),
        ("/v1/deliveries?limit=3".to_owned(), vec![3, 1]),
        ("/v1/deliveries?limit=2&host=127.0.0.1".to_owned(), vec![2, 2]),
        (format!("/v1/deliveries?limit=3&jobId={job}"), vec![3]),
    ] {
        let pages = app.pages(&path).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "{path}");
        let mut seen: Vec<_> = pages.concat().iter().map(|d| id(&d["deliveryId"])).collect();
        let total: usize = sizes.iter().sum();
        assert!(seen.is_sorted_by(|a, b| a > b), "newest first: {seen:?}");
        seen.dedup();
        assert_eq!(seen.len(), total, "{path}");
    }
}

async fn lanes_show_who_waits_and_why(site: &Site) {
    let app = site.start_still().await;
    let (here, there) = (Receiver::start().await, Receiver::start().await);
    one_of_each(&app, &here, &there).await;
    let lanes = async |query: &str| app.items(&format!("/v1/lanes?{query}")).await;
    until("the lane is held", async || {
        let found = lanes("state=paused").await;
        if found.len() == 1 { Ok(()) } else { Err(found) }
    })
    .await;

    let all = lanes("sort=oldestDue").await;

    let of = |origin: &str| {
        let found = all.iter().find(|lane| lane["origin"] == *origin);
        found.unwrap_or_else(|| panic!("no lane of {origin}: {all:?}"))
    };
    let (open, held) = (of(&format!("http://{}", here.addr)), of(&format!("http://{}", there.addr)));
    let idle = of(&format!("http://127.0.0.2:{}", here.addr.port()));
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!([&all[0], &all[1], &all[2]], [open, held, idle], "who waits longest, who waits, who does not");
    for (lane, state, depth, in_flight) in
        [(open, "open", 2, 1), (held, "paused", 1, 0), (idle, "open", 0, 0)]
    {
        assert_eq!((&lane["state"], &lane["depth"]), (&json!(state), &json!(depth)), "{lane}");
        assert_eq!((&lane["inFlight"], &lane["kind"]), (&json!(in_flight), &json!("origin")), "{lane}");
        assert!(id(&lane["laneId"]).starts_with("lane_"), "{lane}");
        assert!((1..=64).contains(&lane["maxInFlight"].as_u64().unwrap()), "{lane}");
        assert_eq!(lane.get("heldUntil").is_some(), state == "paused", "{lane}");
        assert_eq!(lane.get("heldReason").is_some(), state == "paused", "{lane}");
    }
    let due = &app.items("/v1/deliveries?state=pending").await[0]["nextAttemptAt"];
    assert_eq!((&open["oldestDue"], idle.get("oldestDue")), (due, None));
    let page = app.get("/v1/lanes?sort=oldestDue&limit=2").await.ok(200);
    let cursor = id(&page["nextCursor"]);
    let rest = app.get(&format!("/v1/lanes?sort=oldestDue&cursor={cursor}")).await.ok(200);
    assert_eq!((&rest["items"], &rest["nextCursor"]), (&json!([idle]), &Value::Null));
    let youngest = app.get("/v1/lanes?limit=1").await.ok(200);
    for foreign in
        [format!("cursor={cursor}"), format!("sort=oldestDue&cursor={}", id(&youngest["nextCursor"]))]
    {
        app.get(&format!("/v1/lanes?{foreign}")).await.refused(400, "invalid-request", "?cursor");
    }
    assert_eq!(lanes("state=paused").await, std::slice::from_ref(held));
    assert_eq!(lanes("state=open").await.len(), 2);
    assert_eq!(lanes("state=broken").await, Vec::<Value>::new());
    here.let_go();
}

async fn what_is_not_understood_is_refused(site: &Site) {
    let app = site.start().await;
    for (query, pointer) in [
        ("deliveries?state=owed", "?state"),
        ("deliveries?jobId=x", "?jobId"),
        ("deliveries?hosts=a", "?hosts"),
        ("deliveries?limit=0", "?limit"),
        ("deliveries?cursor=x", "?cursor"),
        ("lanes?state=held", "?state"),
        ("lanes?sort=depth", "?sort"),
        ("lanes?sort=oldestDue&cursor=x", "?cursor"),
        ("lanes?sort=oldestDue&cursor=MSBsYW5lXzE", "?cursor"),
    ] {
        app.get(&format!("/v1/{query}")).await.refused(400, "invalid-request", pointer);
    }
    let unknown = "01H455VB4PEX5VSKNK084SN02Q";
    app.get(&format!("/v1/deliveries/dlv_{unknown}")).await.refused(404, "not-found", "");
    app.get(&format!("/v1/jobs/job_{unknown}/deliveries")).await.refused(404, "job-not-found", "");
}
