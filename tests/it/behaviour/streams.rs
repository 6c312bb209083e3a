//! A job's events as server-sent events.

use std::future::IntoFuture;
use std::time::Duration;

use ringback::store::seal::KeyRing;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::app::{Site, TestApp, both_engines, id, until};
use crate::support::stream::{Item, Socket, Sse};

both_engines! {
    a_stream_tells_what_json_tells_and_ends_with_the_job,
    a_stream_cut_twice_sees_every_event_once,
    nothing_follows_the_end,
    who_is_ahead_of_the_job_is_told_what_is_still_to_come,
    the_last_progress_of_a_burst_is_told,
    a_release_is_told,
    what_is_not_understood_is_refused,
    browsers_read_by_the_access_token,
    a_rested_stream_is_kept_alive,
    a_stop_ends_streams_at_once,
    a_revoked_key_ends_its_streams,
    a_ring_without_the_key_that_signed_a_token_ends_its_streams,
    every_change_is_told_to_who_waits_for_it,
    polls_wait_for_the_job_they_ask_for,
}

async fn a_stream_tells_what_json_tells_and_ends_with_the_job(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t", "metadata": {"a\nb": "c\r\nd"}})).await;
    let mut stream = Sse::open(&app, &job, None).await;
    assert_eq!(stream.status, 200);
    assert_eq!(stream.header("content-type"), "text/event-stream");
    assert_eq!(stream.header("cache-control"), "no-cache");
    assert_eq!(stream.header("x-accel-buffering"), "no");
    assert_eq!(stream.header("access-control-allow-origin"), "*");
    assert!(matches!(stream.next().await, Some(Item::Retry(ms)) if ms > 0));
    let mut seen = vec![stream.event().await.unwrap()];

    app.complete(&job).await;

    while let Some(event) = stream.event().await {
        seen.push(event);
    }
    let json = app.items(&format!("/v1/jobs/{job}/events")).await;
    assert_eq!(json.len(), 3);
    for ((sequence, kind, data), told) in seen.iter().zip(&json) {
        assert_eq!((told, &told["sequence"], &told["type"]), (data, &json!(sequence), &json!(kind)));
        assert_eq!(told["jobId"], job);
    }
    assert_eq!(seen.len(), json.len());
    until("the stream is counted no longer", async || open_streams(&app).await).await;
}

async fn open_streams(app: &TestApp) -> Result<(), String> {
    let text = String::from_utf8(app.get("/metrics").await.body.to_vec()).unwrap();
    let line = text.lines().find(|line| line.starts_with("ringback_event_streams ")).unwrap().to_owned();
    if line == "ringback_event_streams 0" { Ok(()) } else { Err(line) }
}

async fn a_stream_cut_twice_sees_every_event_once(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t", "maxAttempts": 1})).await;
    let mut first = Sse::open(&app, &job, None).await;
    let mut seen = first.sequences(1).await;
    drop(first);
    let claimed = app.claim_one().await;
    app.report(&claimed, "heartbeat", json!({"progress": 10})).await.ok(200);

    let mut second = Sse::open(&app, &job, seen.last().copied()).await;
    seen.extend(second.sequences(2).await);
    app.pass(5);
    app.report(&claimed, "heartbeat", json!({"progress": 20})).await.ok(200);
    seen.extend(second.sequences(1).await);
    drop(second);
    app.report(&claimed, "fail", json!({"error": "x", "retryable": false})).await.ok(200);
    app.ask("POST", &format!("/v1/jobs/{job}/retry")).await.ok(202);

    // `?after=` is where a new client begins; a browser repeats it and says in the head how far it is since.
    let path = format!("/v1/jobs/{job}/events?after=1");
    let last = ("last-event-id", seen.last().unwrap().to_string());
    let mut third = Sse::ask(&app, &path, Some(&app.key), [last]).await;
    seen.extend(third.sequences(2).await);
    app.complete(&job).await;
    seen.extend(third.rest().await);
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7, 8]);
    let mut later = Sse::ask(&app, &path, Some(&app.key), []).await;
    assert_eq!(later.rest().await, [2, 3, 4, 5, 6, 7, 8]);
}

async fn nothing_follows_the_end(site: &Site) {
    let app = site.start().await;
    let job = app.completed(json!({"type": "t"})).await;
    assert_eq!(Sse::open(&app, &job, Some(2)).await.rest().await, [3]);
    for last in [3, 4, 1_000] {
        let mut stream = Sse::open(&app, &job, Some(last)).await;
        assert_eq!((stream.status, stream.rest().await), (204, vec![]), "{last}");
    }
    let stream = Sse::ask(&app, &format!("/v1/jobs/{job}/events?after=3"), Some(&app.key), []).await;
    assert_eq!(stream.status, 204);
}

/// Such as one that mixed up two jobs, or remembers a store that was restored from a backup.
async fn who_is_ahead_of_the_job_is_told_what_is_still_to_come(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let far = i64::MAX;
    let mut streams = [Sse::open(&app, &job, Some(77)).await, Sse::open(&app, &job, Some(far)).await];
    let mut socket = Socket::open(&app).await;
    socket.subscribe(&[&job], json!({&job: 77})).await;
    for far in [far as u64, u64::MAX] {
        let page = app.get(&format!("/v1/jobs/{job}/events?after={far}")).await.ok(200);
        assert_eq!(page, json!({"items": [], "nextCursor": null}));
    }
    let poll = app.get(&format!("/v1/jobs/{job}/events?after=77")).header("prefer", "wait=20");
    let poll = tokio::spawn(poll.into_future());
    // Once the socket has answered something sent later, its subscription stands.
    socket.subscribe(&["nonsense"], Value::Null).await;
    socket.error().await;

    app.complete(&job).await;

    for stream in &mut streams {
        assert_eq!(stream.rest().await, [2, 3]);
    }
    assert_eq!([socket.event().await.1, socket.event().await.1], [2, 3]);
    assert!(poll.await.unwrap().ok(200)["items"][0]["sequence"].as_i64().unwrap() >= 2);
    socket.subscribe(&[&job], json!({&job: 3})).await;
    assert_eq!(socket.next().await.unwrap(), json!({"op": "ended", "jobId": job}), "nothing is to come");
}

async fn the_last_progress_of_a_burst_is_told(site: &Site) {
    let app = site.start_still().await;
    let [job, other] = [app.submit_id(json!({"type": "t"})).await, app.submit_id(json!({"type": "t"})).await];
    // Made in one millisecond, they are claimed in any order.
    let mut claimed = [app.claim_one().await, app.claim_one().await];
    claimed.sort_by_key(|claim| claim["jobId"] != job.as_str());
    let [first, second] = claimed;
    for progress in [10, 60, 99] {
        app.report(&first, "heartbeat", json!({"progress": progress})).await.ok(200);
        app.report(&second, "heartbeat", json!({"progress": progress})).await.ok(200);
    }
    let mut stream = Sse::open(&app, &job, Some(2)).await;
    let told = |event: Option<(i64, String, Value)>| {
        let (sequence, kind, event) = event.unwrap();
        (sequence, kind, event["data"]["progress"].clone())
    };
    assert_eq!(told(stream.event().await), (3, "job.progress".to_owned(), json!(10)));

    app.report(&second, "complete", json!({})).await.ok(200);
    app.pass(1);

    assert_eq!(told(stream.event().await), (4, "job.progress".to_owned(), json!(99)), "by the sweep");
    let items = app.items(&format!("/v1/jobs/{other}/events?after=2")).await;
    let seen: Vec<_> = items.iter().map(|e| (e["type"].as_str().unwrap(), &e["data"]["progress"])).collect();
    let wanted =
        [("job.progress", &json!(10)), ("job.progress", &json!(99)), ("job.completed", &Value::Null)];
    assert_eq!(seen, wanted, "before the end");
}

async fn a_release_is_told(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let mut stream = Sse::open(&app, &job, Some(1)).await;
    for delay in [0, 60] {
        let claimed = app.claim_one().await;
        app.report(&claimed, "release", json!({"delaySeconds": delay})).await.ok(200);
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (sequence, kind, event) = stream.event().await.unwrap();
        seen.push((sequence, kind, event["data"]["state"].as_str().unwrap().to_owned()));
    }
    let wanted = [
        (2, "started", "processing"),
        (3, "queued", "queued"),
        (4, "started", "processing"),
        (5, "queued", "scheduled"),
    ];
    assert_eq!(seen, wanted.map(|(n, kind, state)| (n, format!("job.{kind}"), state.to_owned())));
    assert_eq!(app.job(&job).await["state"], "scheduled");
}

async fn what_is_not_understood_is_refused(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let path = format!("/v1/jobs/{job}/events");
    let ask = |accept| app.get(&path).header("accept", accept);
    for accept in ["text/html", "text/event-stream;q=0", "application/json;q=0, image/*"] {
        ask(accept).await.refused(406, "not-acceptable", "");
    }
    for accept in ["*/*", "application/json, text/event-stream;q=0.9", "text/html, application/*;q=0.1"] {
        assert_eq!(ask(accept).await.ok(200)["items"].as_array().unwrap().len(), 1, "{accept}");
    }
    let bad = ask("text/event-stream").header("last-event-id", "evt_1").await;
    bad.refused(400, "invalid-request", "Last-Event-ID");
    let missing =
        app.get("/v1/jobs/job_01H455VB4PEX5VSKNK084SN02Q/events").header("accept", "text/event-stream");
    missing.await.refused(404, "job-not-found", "");
    ask("text/event-stream").nobody().await.refused(401, "unauthorized", "");
}

async fn browsers_read_by_the_access_token(site: &Site) {
    let app = site.start().await;
    let accepted = app.submit(json!({"type": "t"})).await;
    let (job, token) = (id(&accepted["jobId"]), id(&accepted["accessToken"]));
    let path = format!("/v1/jobs/{job}/events");
    let mut by_query = Sse::ask(&app, &format!("{path}?access_token={token}"), None, []).await;
    let mut by_head = Sse::ask(&app, &path, Some(&token), []).await;
    app.complete(&job).await;
    assert_eq!(by_query.header("access-control-allow-origin"), "*");
    assert_eq!((by_query.rest().await, by_head.rest().await), (vec![1, 2, 3], vec![1, 2, 3]));
    let other = app.submit_id(json!({"type": "t"})).await;
    let foreign = Sse::ask(&app, &format!("/v1/jobs/{other}/events?access_token={token}"), None, []).await;
    assert_eq!(foreign.status, 404);
}

async fn a_rested_stream_is_kept_alive(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let mut stream = Sse::open(&app, &job, Some(1)).await.patient();
    assert!(matches!(stream.next().await, Some(Item::Retry(_))));
    let began = Instant::now();
    assert_eq!(stream.next().await, Some(Item::Comment));
    assert!((10..20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    // Longer than any deadline of a silent connection.
    assert_eq!((stream.next().await, stream.next().await), (Some(Item::Comment), Some(Item::Comment)));
    app.complete(&job).await;
    assert_eq!(stream.rest().await, [2, 3]);
}

async fn a_stop_ends_streams_at_once(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let mut stream = Sse::open(&app, &job, None).await;
    stream.sequences(1).await;
    let began = Instant::now();
    site.stop().await;
    assert_eq!(stream.rest().await, [0; 0], "a clean end");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

async fn a_revoked_key_ends_its_streams(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let made = app.post("/v1/keys", &json!({"scopes": ["jobs:read"]})).await.ok(201);
    let path = format!("/v1/jobs/{job}/events");
    let mut stream = Sse::ask(&app, &path, Some(made["key"].as_str().unwrap()), []).await;
    stream.sequences(1).await;
    app.delete(&format!("/v1/keys/{}", id(&made["keyId"]))).await;
    assert_eq!(stream.rest().await, [0; 0]);
}

async fn a_ring_without_the_key_that_signed_a_token_ends_its_streams(site: &Site) {
    let app = site.start().await;
    let accepted = app.post("/v1/jobs", &json!({"type": "t"})).await.ok(202);
    let path = format!("/v1/jobs/{}/events", id(&accepted["jobId"]));
    let mut stream = Sse::ask(&app, &path, Some(accepted["accessToken"].as_str().unwrap()), []).await;
    stream.sequences(1).await;
    let both = KeyRing::generate([7; 32]).with([8; 32]);
    let [old, new] = [0, 1].map(|i| both.ids().nth(i).unwrap().to_owned());
    let both = both.promoting(&new).unwrap();
    site.reload(&both);
    site.reload(&both.without(&old).unwrap());
    assert_eq!(stream.rest().await, [0; 0]);
}

/// How fast is for `ringback bench streams` to say.
async fn every_change_is_told_to_who_waits_for_it(site: &Site) {
    let app = site.start().await;
    for _ in 0..20 {
        let job = app.submit_id(json!({"type": "t"})).await;
        let mut streams = Vec::new();
        for _ in 0..3 {
            let mut stream = Sse::open(&app, &job, None).await;
            stream.sequences(1).await;
            streams.push(stream);
        }
        app.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await.ok(200);
        for stream in &mut streams {
            assert_eq!(stream.rest().await, [2]);
        }
    }
}

async fn polls_wait_for_the_job_they_ask_for(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let path = format!("/v1/jobs/{job}");
    let ended = tokio::spawn(app.get(&path).header("prefer", "wait=20").into_future());
    let result = tokio::spawn(app.get(&format!("{path}/result")).header("prefer", "wait=20").into_future());
    let events = app.get(&format!("{path}/events?after=1")).header("prefer", "wait=20");
    let events = tokio::spawn(events.into_future());
    let began = Instant::now();
    app.complete(&job).await;
    assert_eq!(ended.await.unwrap().ok(200)["status"], "complete");
    assert_eq!(result.await.unwrap().ok(200)["ok"], true);
    assert_eq!(events.await.unwrap().ok(200)["items"][0]["sequence"], 2);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
