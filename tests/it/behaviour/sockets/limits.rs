//! What bounds a WebSocket, and what ends it.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, until};
use crate::support::stream::{Socket, Sse};

both_engines! {
    another_tenants_job_is_as_one_that_is_missing,
    a_ping_is_answered,
    a_thousand_jobs_are_followed_at_once_and_no_more,
    messages_are_read_at_a_pace,
    subscriptions_are_paced_like_polls,
    sockets_are_opened_at_a_pace,
    an_access_token_has_so_many_streams_at_once,
    who_follows_nothing_is_sent_away,
    an_access_token_ends_with_its_job,
    a_key_that_runs_out_ends_what_it_opened,
}

const MISSING: &str = "job_01H455VB4PEX5VSKNK084SN02Q";

async fn another_tenants_job_is_as_one_that_is_missing(site: &Site) {
    let other = site.key_of("other").await;
    let app = site.start().await;
    let theirs = app.submit_id(json!({"type": "t"})).await;
    let mut socket = Socket::ask(&app, "/v1/ws", Some(&other)).await.unwrap();

    let mut told = Vec::new();
    for job in [MISSING, &theirs] {
        socket.subscribe(&[job], json!({job: 0})).await;
        told.push(socket.line().await.unwrap().replace(job, "JOB"));
    }

    assert!(told[0].contains("job-not-found"), "{told:?}");
    assert_eq!(told[0], told[1], "byte for byte");
    app.post(&format!("/v1/jobs/{theirs}/cancel"), &json!({})).await.ok(200);
    socket.subscribe(&[MISSING], Value::Null).await;
    assert_eq!(socket.error().await["code"], "job-not-found", "nothing of theirs came before it");
}

async fn a_ping_is_answered(site: &Site) {
    let app = site.start().await;
    let mut socket = Socket::open(&app).await;
    socket.send(Message::Ping("are you there".into())).await;
    assert_eq!(socket.frame(LIMIT).await, Message::Pong("are you there".into()));
}

/// On one engine, for it takes its time: the node knows by pings whether a client that says nothing is there.
#[tokio::test]
async fn a_silent_client_is_pinged() {
    let site = Site::sqlite();
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let mut socket = Socket::open(&app).await;
    socket.subscribe(&[&job], Value::Null).await;
    assert_eq!(socket.event().await.1, 1);
    assert_eq!(socket.frame(3 * LIMIT).await, Message::Ping(Default::default()));
    site.finish().await;
}

async fn a_thousand_jobs_are_followed_at_once_and_no_more(site: &Site) {
    let app = site.start().await;
    let made = app.post("/v1/jobs/batch", &json!({"jobs": vec![json!({"type": "t"}); 1_000]})).await.ok(202);
    let jobs: Vec<String> = made["items"].as_array().unwrap().iter().map(|job| id(&job["jobId"])).collect();
    let all: Vec<&str> = jobs.iter().map(String::as_str).collect();
    let more = app.submit_id(json!({"type": "t"})).await;
    let seen = Value::Object(jobs.iter().map(|job| (job.clone(), json!(1))).collect());
    let mut socket = Socket::open(&app).await;

    socket.subscribe(&all, seen).await;
    socket.subscribe(&[&more], Value::Null).await;
    let problem = socket.error().await;
    assert_eq!(
        (&problem["code"], &problem["errors"][0]["pointer"]),
        (&json!("quota-exceeded"), &json!("/jobIds/0"))
    );
    socket.subscribe(&[all[0]], json!({all[0]: 0})).await;
    assert_eq!(socket.event().await, (jobs[0].clone(), 1), "one of them may start again");

    socket.say(json!({"op": "unsubscribe", "jobIds": [all[0]]})).await;
    socket.subscribe(&[&more], Value::Null).await;
    assert_eq!(socket.event().await, (more, 1));
}

async fn subscriptions_are_paced_like_polls(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let mut socket = Socket::open(&app).await;
    socket.subscribe(&vec![job.as_str(); 900], json!({&job: 0})).await;
    let mut refused = 0;
    let mut told = 0;
    while refused + told < 880 {
        let message = socket.next().await.unwrap();
        if message["op"] == "event" {
            told += 1;
            continue;
        }
        assert_eq!((&message["jobId"], &message["problem"]["code"]), (&json!(job), &json!("rate-limited")));
        refused += 1;
    }
    assert!(told <= 20, "{told} reads of one job");
    let poll = app.get(&format!("/v1/jobs/{job}")).await;
    assert_eq!(poll.status, 429, "they share what a key may ask of one job");
    app.get(&format!("/v1/jobs/{job}/deliveries")).await.refused(429, "rate-limited", "");

    // One after the other, many jobs: so many at once, and then as many as the time brings.
    for round in 0..3 {
        let ids = (0..1_000).map(|n| format!("job_01H455VB4PEX5VSKNK{round}{n:07}"));
        let many: Vec<String> = ids.collect();
        socket.subscribe(&many.iter().map(String::as_str).collect::<Vec<_>>(), Value::Null).await;
    }
    let mut codes = std::collections::BTreeMap::<String, u32>::new();
    while codes.values().sum::<u32>() < 3_000 {
        let message = socket.next().await.unwrap();
        // What is left of the first job's.
        if message["jobId"] == json!(job) {
            continue;
        }
        *codes.entry(id(&message["problem"]["code"])).or_default() += 1;
    }
    assert!((1..=1_100).contains(&codes["rate-limited"]), "{codes:?}");
}

async fn messages_are_read_at_a_pace(site: &Site) {
    let app = site.start().await;
    let began = Instant::now();
    let mut socket = Socket::open(&app).await;
    for _ in 0..50 {
        socket.text("{").await;
    }
    for _ in 0..50 {
        assert_eq!(socket.error().await["code"], "invalid-request");
    }
    assert!(began.elapsed() >= Duration::from_secs(2), "40 in two seconds, not 50 in {:?}", began.elapsed());
}

async fn sockets_are_opened_at_a_pace(site: &Site) {
    let app = site.start().await;
    let accepted = app.submit(json!({"type": "t"})).await;
    let path = format!("/v1/ws?access_token={}", id(&accepted["accessToken"]));
    let opened = join_all((0..15).map(|_| Socket::ask(&app, &path, None))).await;
    let refused: Vec<u16> = opened.iter().filter_map(|one| one.as_ref().err().copied()).collect();
    assert!(!refused.is_empty() && refused.iter().all(|status| *status == 429), "{refused:?}");
    assert!(Socket::ask(&app, "/v1/ws", Some(&app.key)).await.is_ok(), "others are let in");
}

/// What a WebSocket asked for in vain is told.
async fn refusal(app: &TestApp, path: &str) -> (Value, String) {
    let asked = app.get(path).nobody().header("connection", "upgrade").header("upgrade", "websocket");
    let asked = asked.header("sec-websocket-version", "13").header("sec-websocket-protocol", "ringback.v1");
    let reply = asked.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==").await;
    let problem = if reply.status == 429 { reply.json() } else { json!({"status": reply.status}) };
    (problem, reply.header("retry-after").to_owned())
}

async fn an_access_token_has_so_many_streams_at_once(site: &Site) {
    let app = site.start().await;
    let accepted = app.submit(json!({"type": "t"})).await;
    let (job, token) = (id(&accepted["jobId"]), id(&accepted["accessToken"]));
    let path = format!("/v1/ws?access_token={token}");
    let full = "a node has 20 streams at once for the job's access token";
    let bounded = async |what: &str| {
        until(what, async || {
            let (problem, wait) = refusal(&app, &path).await;
            if problem["detail"] == full { Ok((problem, wait)) } else { Err(problem) }
        })
        .await
    };
    let mut open = Vec::new();
    while open.len() < 20 {
        // Who is told to come more slowly does.
        open.push(until("a place", async || Socket::ask(&app, &path, None).await).await);
    }

    let (problem, wait) = bounded("sockets are bounded").await;
    assert_eq!((&problem["code"], wait.as_str()), (&json!("rate-limited"), "5"));
    let events = format!("/v1/jobs/{job}/events?access_token={token}");
    until("streams are bounded alike", async || {
        let reply = app.get(&events).nobody().header("accept", "text/event-stream").await;
        let problem = reply.refused(429, "rate-limited", "");
        if problem["detail"] == full { Ok(()) } else { Err(problem) }
    })
    .await;
    let mut by_key = Sse::open(&app, &job, None).await;
    assert_eq!(by_key.sequences(1).await, [1], "a key has its own");

    open.pop().unwrap().leave().await;
    let mut stream = until("the place of one that left", async || {
        let stream = Sse::ask(&app, &events, None, None).await;
        if stream.status == 200 { Ok(stream) } else { Err(stream.status) }
    })
    .await;
    assert_eq!(stream.sequences(1).await, [1]);
    bounded("it took the place").await;
}

async fn who_follows_nothing_is_sent_away(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let (mut idle, mut busy) = (Socket::open(&app).await, Socket::open(&app).await);
    busy.subscribe(&[&job], Value::Null).await;
    assert_eq!(busy.event().await.1, 1);
    app.pass(59);
    idle.subscribe(&[MISSING], Value::Null).await;
    assert_eq!(idle.error().await["code"], "job-not-found", "it is still there");

    app.pass(60);
    assert_eq!(idle.closed().await, 1000);

    app.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await.ok(200);
    assert_eq!(busy.event().await.1, 2);
    // The end ended the subscription; from then on it counts.
    busy.subscribe(&[MISSING], Value::Null).await;
    busy.error().await;
    app.pass(60);
    assert_eq!(busy.closed().await, 1000);
}

async fn an_access_token_ends_with_its_job(site: &Site) {
    let app = site.start_still().await;
    let accepted = app.submit(json!({"type": "t", "retainSeconds": 60})).await;
    let (job, token) = (id(&accepted["jobId"]), id(&accepted["accessToken"]));
    let path = format!("/v1/ws?access_token={token}");
    let mut socket = Socket::ask(&app, &path, None).await.unwrap();
    app.complete(&job).await;
    socket.subscribe(&[&job], json!({&job: 2})).await;
    assert_eq!(socket.event().await.1, 3);

    app.pass(61);

    assert_eq!(socket.closed().await, 4401);
    assert_eq!(Socket::ask(&app, &path, None).await.err(), Some(410));
}

async fn a_key_that_runs_out_ends_what_it_opened(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let end = app.clock.now().plus(Duration::from_secs(30));
    let made = app.post("/v1/keys", &json!({"scopes": ["jobs:read"], "expiresAt": end})).await.ok(201);
    let key = made["key"].as_str();
    let mut socket = Socket::ask(&app, "/v1/ws", key).await.unwrap();
    socket.subscribe(&[&job], Value::Null).await;
    assert_eq!(socket.event().await.1, 1);
    let mut stream = Sse::ask(&app, &format!("/v1/jobs/{job}/events"), key, None).await;
    assert_eq!(stream.sequences(1).await, [1]);

    app.pass(30);

    assert_eq!(socket.closed().await, 4401);
    assert!(stream.rest().await.is_empty(), "it ended, with the job still under way");
}
