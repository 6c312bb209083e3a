//! The events of many jobs over one WebSocket.

mod limits;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::support::app::{Site, TestApp, both_engines, id, until_in};
use crate::support::stream::Socket;

both_engines! {
    many_jobs_are_followed_to_their_end,
    a_client_goes_on_after_what_it_has,
    one_bad_job_is_told_and_the_rest_goes_on,
    what_is_no_request_is_told,
    what_is_not_text_is_closed_1007,
    an_unsubscribed_job_is_told_no_more,
    only_the_subprotocol_is_served,
    an_access_token_shows_its_one_job,
    credentials_that_do_not_count_are_closed_4401,
    a_revoked_key_is_closed_4401,
    a_slow_reader_is_closed_4429,
    a_stop_closes_1001,
}

/// `n` jobs that wait, each with a note of some kilobytes.
async fn heavy(app: &TestApp, n: usize) -> Vec<String> {
    let note = "x".repeat(3_500);
    let jobs = json!({"jobs": vec![json!({"type": "t", "metadata": {"note": note}}); n]});
    let made = app.post("/v1/jobs/batch", &jobs).await.ok(202);
    made["items"].as_array().unwrap().iter().map(|job| id(&job["jobId"])).collect()
}

async fn gauge(app: &TestApp, name: &str, wanted: u64) {
    until_in(Duration::from_secs(40), &format!("{name} is {wanted}"), async || {
        let text = String::from_utf8(app.get("/metrics").await.body.to_vec()).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap().to_owned();
        if line == format!("{name} {wanted}") { Ok(()) } else { Err(line) }
    })
    .await;
}

async fn many_jobs_are_followed_to_their_end(site: &Site) {
    let app = site.start().await;
    let done = app.completed(json!({"type": "t"})).await;
    let jobs = [app.submit_id(json!({"type": "t"})).await, done];
    let mut socket = Socket::open(&app).await;
    socket.subscribe(&[&jobs[0], &jobs[1]], Value::Null).await;
    let third = app.submit_id(json!({"type": "t"})).await;
    socket.subscribe(&[&third], Value::Null).await;
    app.post(&format!("/v1/jobs/{third}/cancel"), &json!({})).await.ok(200);
    app.post(&format!("/v1/jobs/{}/cancel", jobs[0]), &json!({})).await.ok(200);

    let mut seen = Vec::new();
    while seen.len() < 7 {
        seen.push(socket.event().await);
    }

    seen.sort();
    let of = |job: &String| -> Vec<i64> { seen.iter().filter(|(j, _)| j == job).map(|(_, s)| *s).collect() };
    assert_eq!((of(&jobs[0]), of(&jobs[1]), of(&third)), (vec![1, 2], vec![1, 2, 3], vec![1, 2]));
    gauge(&app, "ringback_websockets", 1).await;
    socket.leave().await;
    gauge(&app, "ringback_websockets", 0).await;
}

async fn a_client_goes_on_after_what_it_has(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let mut socket = Socket::open(&app).await;
    socket.subscribe(&[&job], json!({})).await;
    assert_eq!(socket.event().await.1, 1);
    drop(socket);
    let claimed = app.claim_one().await;
    app.report(&claimed, "heartbeat", json!({"progress": 10})).await.ok(200);

    let mut socket = Socket::open(&app).await;
    socket.subscribe(&[&job], json!({&job: 1})).await;
    assert_eq!([socket.event().await.1, socket.event().await.1], [2, 3]);
    // The same again changes nothing; with `after` it starts again there.
    socket.subscribe(&[&job], json!({})).await;
    socket.subscribe(&[&job], json!({&job: 2})).await;
    assert_eq!(socket.event().await.1, 3);
    app.report(&claimed, "complete", json!({})).await.ok(200);
    assert_eq!(socket.event().await.1, 4);
    // The end ended the subscription, so this is a new one.
    socket.subscribe(&[&job], json!({&job: 3})).await;
    assert_eq!(socket.event().await.1, 4);
}

async fn one_bad_job_is_told_and_the_rest_goes_on(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let mut socket = Socket::open(&app).await;
    let missing = "job_01H455VB4PEX5VSKNK084SN02Q";

    socket.subscribe(&["nonsense", missing, &job], Value::Null).await;

    let problem = socket.error().await;
    assert_eq!((&problem["code"], &problem["status"]), (&json!("job-not-found"), &json!(404)));
    assert_eq!(problem["errors"][0]["pointer"], "/jobIds/0");
    assert_eq!(problem["requestId"], socket.request_id(), "the opening is the request");
    let told = socket.next().await.unwrap();
    assert_eq!((&told["op"], &told["jobId"]), (&json!("error"), &json!(missing)));
    assert_eq!(told["problem"]["code"], "job-not-found");
    assert_eq!(socket.event().await, (job, 1));
}

async fn what_is_not_text_is_closed_1007(site: &Site) {
    let app = site.start().await;
    let mut socket = Socket::open(&app).await;
    socket.say(json!({"op": "unsubscribe", "jobIds": ["nonsense"]})).await;
    assert_eq!(socket.error().await["errors"][0]["pointer"], "/jobIds/0");
    socket.send(Message::Frame(Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true))).await;
    assert_eq!(socket.next().await, Err(1007));
}

async fn what_is_no_request_is_told(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let mut socket = Socket::open(&app).await;
    let many = vec!["job_01H455VB4PEX5VSKNK084SN02Q"; 1_001];
    for (text, code, pointer) in [
        ("{".to_owned(), "invalid-request", None),
        ("[]".to_owned(), "validation-failed", Some("")),
        (json!({"op": "dance", "jobIds": [job]}).to_string(), "validation-failed", Some("/op")),
        (json!({"op": "subscribe"}).to_string(), "validation-failed", Some("/jobIds")),
        (json!({"op": "subscribe", "jobIds": []}).to_string(), "validation-failed", Some("/jobIds")),
        (json!({"op": "subscribe", "jobIds": many}).to_string(), "validation-failed", Some("/jobIds")),
        (json!({"op": "subscribe", "jobIds": [job], "x": 1}).to_string(), "validation-failed", Some("/x")),
        (
            json!({"op": "subscribe", "jobIds": [job], "after": {"y": 1}}).to_string(),
            "validation-failed",
            Some("/after/y"),
        ),
    ] {
        socket.text(&text).await;
        let problem = socket.error().await;
        assert_eq!(problem["code"], code, "{text}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"].as_str(), pointer, "{text}: {problem}");
    }
    socket.send(Message::binary(vec![1, 2, 3])).await;
    assert_eq!(socket.error().await["code"], "invalid-request");
    socket.subscribe(&[&job], Value::Null).await;
    assert_eq!(socket.event().await.1, 1, "the connection goes on");
    socket.text(&"x".repeat(200 * 1024)).await;
    assert_eq!(socket.closed().await, 1009);
}

async fn an_unsubscribed_job_is_told_no_more(site: &Site) {
    let app = site.start().await;
    let (one, two) = (app.submit_id(json!({"type": "t"})).await, app.submit_id(json!({"type": "t"})).await);
    let mut socket = Socket::open(&app).await;
    socket.subscribe(&[&one], Value::Null).await;
    assert_eq!(socket.event().await, (one.clone(), 1));
    socket.say(json!({"op": "unsubscribe", "jobIds": [one, "nonsense"]})).await;
    assert_eq!(socket.error().await["code"], "job-not-found");
    socket.subscribe(&[&two], Value::Null).await;
    assert_eq!(socket.event().await, (two.clone(), 1));

    for job in [&one, &two] {
        app.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await.ok(200);
    }

    assert_eq!(socket.event().await, (two, 2));
    let missing = "job_01H455VB4PEX5VSKNK084SN02Q";
    socket.subscribe(&[missing], Value::Null).await;
    assert_eq!(socket.error().await["code"], "job-not-found", "nothing of the other came before it");
}

async fn only_the_subprotocol_is_served(site: &Site) {
    let app = site.start().await;
    let version = |version: &str| {
        app.get("/v1/ws")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", version)
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    };
    let open = || version("13");
    open().await.refused(400, "invalid-request", "Sec-WebSocket-Protocol");
    let other = open().header("sec-websocket-protocol", "ringback.v2, graphql-ws").await;
    other.refused(400, "invalid-request", "Sec-WebSocket-Protocol");
    let old = version("8").header("sec-websocket-protocol", "ringback.v1").await;
    old.refused(426, "upgrade-required", "");
    assert_eq!((old.header("sec-websocket-version"), old.header("upgrade")), ("13", "websocket"));
    app.get("/v1/ws").await.refused(400, "invalid-request", "");
    app.get("/v1/ws").nobody().await.refused(401, "unauthorized", "");
    let writer = app.post("/v1/keys", &json!({"scopes": ["jobs:write"]})).await.ok(201);
    assert_eq!(Socket::ask(&app, "/v1/ws", writer["key"].as_str()).await.err(), Some(403));
}

async fn an_access_token_shows_its_one_job(site: &Site) {
    let app = site.start().await;
    let accepted = app.submit(json!({"type": "t"})).await;
    let (job, token) = (id(&accepted["jobId"]), id(&accepted["accessToken"]));
    let other = app.submit_id(json!({"type": "t"})).await;
    let mut socket = Socket::ask(&app, &format!("/v1/ws?access_token={token}"), None).await.unwrap();
    socket.subscribe(&[&other, &job], Value::Null).await;
    assert_eq!(socket.error().await["code"], "job-not-found");
    assert_eq!(socket.event().await, (job, 1));
}

async fn credentials_that_do_not_count_are_closed_4401(site: &Site) {
    let app = site.start().await;
    let in_query = |token: &str| format!("/v1/ws?access_token={token}");
    for (path, key) in [
        (in_query("rbj_nonsense"), None),
        // A key is never taken from a query.
        (in_query(&app.key), None),
        ("/v1/ws".to_owned(), Some("rbk_nonsense")),
    ] {
        let mut socket = Socket::ask(&app, &path, key).await.expect("an upgrade");
        assert_eq!(socket.next().await, Err(4401), "{path}");
        // What is no sound opening, or brings nothing, gets the status.
        let ask = app.get(&path).key(key.unwrap_or_default());
        let ask = if key.is_none() { ask.nobody() } else { ask };
        ask.await.refused(401, "unauthorized", "");
        let more = format!("{path}{}x=1", if path.contains('?') { '&' } else { '?' });
        assert_eq!(Socket::ask(&app, &more, key).await.err(), Some(401), "{more}");
    }
    assert_eq!(Socket::ask(&app, "/v1/ws", None).await.err(), Some(401));
}

async fn a_revoked_key_is_closed_4401(site: &Site) {
    let app = site.start().await;
    let made = app.post("/v1/keys", &json!({"scopes": ["jobs:read"]})).await.ok(201);
    let mut socket = Socket::ask(&app, "/v1/ws", made["key"].as_str()).await.unwrap();
    let job = app.submit_id(json!({"type": "t"})).await;
    socket.subscribe(&[&job], Value::Null).await;
    assert_eq!(socket.event().await.1, 1);

    app.delete(&format!("/v1/keys/{}", id(&made["keyId"]))).await;

    let began = Instant::now();
    assert_eq!(socket.closed().await, 4401);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

async fn a_slow_reader_is_closed_4429(site: &Site) {
    let app = site.start().await;
    let jobs = heavy(&app, 900).await;
    let all: Vec<&str> = jobs.iter().map(String::as_str).collect();
    let from_the_start = Value::Object(jobs.iter().map(|job| (job.clone(), json!(0))).collect());
    let mut slow = Socket::narrow(&app).await;
    let mut quick = Socket::open(&app).await;
    // More than the kernel takes in for a client that does not read.
    for _ in 0..4 {
        slow.subscribe(&all, from_the_start.clone()).await;
    }
    quick.subscribe(&all[..1], Value::Null).await;
    assert_eq!(quick.event().await.1, 1, "others go on");

    gauge(&app, "ringback_slow_readers_total", 1).await;

    assert_eq!(slow.closed().await, 4429);
    app.post(&format!("/v1/jobs/{}/cancel", jobs[0]), &json!({})).await.ok(200);
    assert_eq!(quick.event().await.1, 2);
}

async fn a_stop_closes_1001(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let mut socket = Socket::open(&app).await;
    let mut silent = Socket::open(&app).await;
    for socket in [&mut socket, &mut silent] {
        socket.subscribe(&[&job], Value::Null).await;
        assert_eq!(socket.event().await.1, 1);
    }
    let began = Instant::now();
    let (code, ()) = tokio::join!(socket.closed(), site.stop());
    assert_eq!(code, 1001);
    // The other never answered the close, which holds nobody up for long.
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(silent.closed().await, 1001);
}
