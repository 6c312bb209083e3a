//! Queues over HTTP: how they stand, pauses and limits.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::app::{Site, TestApp, both_engines, id, until};

both_engines! {
    a_queue_is_shown_with_its_figures,
    queues_are_paged_by_name,
    a_paused_queue_takes_jobs_and_hands_out_none,
    a_pause_ends_by_itself,
    a_limit_is_set_and_taken_away,
    what_breaks_a_rule_is_refused_by_name,
    a_narrowed_key_sees_its_queues_and_no_other,
    what_was_learned_outlives_the_node,
}

async fn shown(app: &TestApp, queue: &str) -> Value {
    app.get(&format!("/v1/queues/{queue}")).await.ok(200)
}

async fn a_queue_is_shown_with_its_figures(site: &Site) {
    let app = site.start_still().await;
    assert_eq!(
        shown(&app, "default").await,
        json!({"queue": "default", "state": "open", "depth": 0, "scheduled": 0, "processing": 0}),
        "a name is enough"
    );
    app.submit(json!({"type": "t"})).await;
    app.submit(json!({"type": "t", "runAt": app.clock.now().plus(Duration::from_secs(60))})).await;
    let due = app.clock.now();
    app.pass(4);
    let waiting = shown(&app, "default").await;
    assert_eq!((&waiting["depth"], &waiting["scheduled"]), (&json!(1), &json!(1)));
    assert_eq!((&waiting["oldestDue"], &waiting["oldestAgeSeconds"]), (&json!(due), &json!(4)));

    let claimed = app.claim_one().await;
    app.pass(2);
    assert_eq!(shown(&app, "default").await["processing"], 1);
    app.report(&claimed, "complete", json!({"result": 1})).await.ok(200);

    // What was learned is for a moment in nobody's view, on its way from memory to the store.
    let done = until("the figures", async || {
        let queue = shown(&app, "default").await;
        if queue["waitP50Ms"].is_null() { Err(queue) } else { Ok(queue) }
    })
    .await;
    assert_eq!((&done["waitP50Ms"], &done["waitP95Ms"]), (&json!(4_000), &json!(4_000)));
    assert_eq!((&done["runP50Ms"], &done["runP95Ms"]), (&json!(2_000), &json!(2_000)));
    // The moment may be this one.
    until("the same in the list", async || {
        let listed = app.items("/v1/queues").await;
        if listed == [done.clone()] { Ok(()) } else { Err(listed) }
    })
    .await;
}

async fn queues_are_paged_by_name(site: &Site) {
    let app = site.start().await;
    for queue in ["b", "a", "c", "a", "e", "d"] {
        app.submit(json!({"type": "t", "queue": queue})).await;
    }

    let pages = app.pages("/v1/queues?limit=2").await;

    let names: Vec<Vec<String>> =
        pages.iter().map(|page| page.iter().map(|q| id(&q["queue"])).collect()).collect();
    assert_eq!(names, [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);
    for cursor in ["x", "%00", "YSBi", "LQ"] {
        app.get(&format!("/v1/queues?cursor={cursor}")).await.refused(400, "invalid-request", "?cursor");
    }
}

async fn a_paused_queue_takes_jobs_and_hands_out_none(site: &Site) {
    let app = site.start().await;
    app.submit(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;

    let paused = app.ask("POST", "/v1/queues/default/pause").await.ok(200);

    assert_eq!((&paused["state"], paused.get("pausedUntil")), (&json!("paused"), None));
    let job = app.submit_id(json!({"type": "t"})).await;
    assert!(app.claim(9).await.is_empty());
    let began = Instant::now();
    let wish = json!({"waitSeconds": 1});
    assert_eq!(app.post("/v1/queues/default/claim", &wish).await.ok(200), json!({"jobs": []}));
    assert!(began.elapsed() >= Duration::from_secs(1));
    app.report(&claimed, "heartbeat", json!({"progress": 5})).await.ok(200);
    app.report(&claimed, "complete", json!({"result": 1})).await.ok(200);

    let waiting = app.post("/v1/queues/default/claim", &json!({"waitSeconds": 20})).into_future();
    let (got, resumed) = tokio::join!(waiting, app.ask("POST", "/v1/queues/default/resume").into_future());
    assert_eq!(resumed.ok(200)["state"], "open");
    assert_eq!(got.ok(200)["jobs"][0]["jobId"], job, "who waits is woken");
}

async fn a_pause_ends_by_itself(site: &Site) {
    let app = site.start_still().await;
    let until = app.clock.now().plus(Duration::from_secs(60));
    let paused = app.post("/v1/queues/default/pause", &json!({"until": until})).await.ok(200);
    assert_eq!(paused["pausedUntil"], json!(until));
    app.submit(json!({"type": "t"})).await;
    app.pass(59);
    assert!(app.claim(1).await.is_empty());
    app.pass(1);
    assert_eq!(shown(&app, "default").await["state"], "open");
    app.claim_one().await;
}

async fn a_limit_is_set_and_taken_away(site: &Site) {
    let app = site.start_still().await;
    let set = |limit: Value| app.ask("PATCH", "/v1/queues/default").json(&json!({"maxInFlight": limit}));
    assert_eq!(set(json!(2)).await.ok(200)["maxInFlight"], 2);
    for _ in 0..4 {
        app.submit(json!({"type": "t"})).await;
    }
    let held = app.claim(9).await;
    assert_eq!((held.len(), app.claim(9).await.len()), (2, 0));
    app.report(&held[0], "fail", json!({"error": "x", "retryable": false})).await.ok(200);
    assert_eq!(app.claim(9).await.len(), 1);
    let untouched = app.ask("PATCH", "/v1/queues/default").json(&json!({})).await.ok(200);
    assert_eq!(untouched["maxInFlight"], 2, "what is left out stays");
    assert!(set(Value::Null).await.ok(200).get("maxInFlight").is_none());
    assert_eq!(app.claim(9).await.len(), 1);
}

async fn what_breaks_a_rule_is_refused_by_name(site: &Site) {
    let app = site.start_still().await;
    for (body, pointer) in [
        (json!({"maxInFlight": 0}), "/maxInFlight"),
        (json!({"maxInFlight": 100_001}), "/maxInFlight"),
        (json!({"maxInFlight": "2"}), "/maxInFlight"),
        (json!({"max": 2}), "/max"),
    ] {
        let reply = app.ask("PATCH", "/v1/queues/default").json(&body).await;
        reply.refused(422, "validation-failed", pointer);
    }
    let now = app.clock.now();
    for until in [now, now.plus(Duration::from_secs(366 * 86_400))] {
        let reply = app.post("/v1/queues/default/pause", &json!({"until": until})).await;
        reply.refused(422, "validation-failed", "/until");
    }
    for name in ["-a", "a%20b", &"a".repeat(65)] {
        app.get(&format!("/v1/queues/{name}")).await.refused(404, "not-found", "");
        app.ask("POST", &format!("/v1/queues/{name}/pause")).await.refused(404, "not-found", "");
    }
    assert!(app.items("/v1/queues").await.is_empty(), "nothing was set");
}

async fn a_narrowed_key_sees_its_queues_and_no_other(site: &Site) {
    let app = site.start().await;
    for queue in ["a", "b", "c"] {
        app.submit(json!({"type": "t", "queue": queue})).await;
    }
    let wish = json!({"scopes": ["admin"], "queues": ["c", "a"]});
    let key = id(&app.post("/v1/keys", &wish).await.ok(201)["key"]);

    let list = app.get("/v1/queues").key(&key).await.ok(200);

    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|q| id(&q["queue"])).collect();
    assert_eq!(names, ["a", "c"]);
    app.get("/v1/queues/a").key(&key).await.ok(200);
    app.ask("POST", "/v1/queues/a/pause").key(&key).await.ok(200);
    for (method, path) in
        [("GET", "/v1/queues/b"), ("POST", "/v1/queues/b/pause"), ("POST", "/v1/queues/b/resume")]
    {
        app.ask(method, path).key(&key).await.refused(403, "forbidden", "");
    }
    let patch = app.ask("PATCH", "/v1/queues/b").json(&json!({"maxInFlight": 1})).key(&key).await;
    patch.refused(403, "forbidden", "");
    assert_eq!(shown(&app, "b").await["state"], "open");
}

async fn what_was_learned_outlives_the_node(site: &Site) {
    let app = site.start_still().await;
    app.submit(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;
    app.pass(9);
    app.report(&claimed, "complete", json!({"result": 1})).await.ok(200);
    assert_eq!(app.submit(json!({"type": "t"})).await["estimatedSeconds"], 9);
    app.ask("POST", "/v1/queues/default/pause").await.ok(200);
    site.stop().await;

    let app = site.start().await;

    let accepted = app.post("/v1/jobs", &json!({"type": "t"})).await;
    assert_eq!((accepted.header("retry-after"), &accepted.ok(202)["estimatedSeconds"]), ("2", &json!(9)));
    let queue = shown(&app, "default").await;
    assert_eq!((&queue["state"], &queue["runP50Ms"]), (&json!("paused"), &json!(9_000)));
}
