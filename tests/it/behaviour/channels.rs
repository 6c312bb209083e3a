//! One job watched in every way at once: all channels tell one story.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id};
use crate::support::receiver::Receiver;
use crate::support::stream::{Socket, Sse};

both_engines! { every_channel_tells_the_same_sequences }

const EVENTS: [&str; 8] = [
    "job.queued",
    "job.started",
    "job.progress",
    "job.retrying",
    "job.completed",
    "job.failed",
    "job.cancelled",
    "job.expired",
];

/// The job's life: claimed, at work, released into a retry, claimed again, done. Each step is told to `steps`;
/// gives how many events it has.
async fn live(app: &TestApp, job: &str, steps: UnboundedSender<()>) -> i64 {
    let step = || steps.send(()).unwrap();
    let claimed = app.claim_one().await;
    assert_eq!(claimed["jobId"], job);
    step();
    app.report(&claimed, "heartbeat", json!({"progress": 30})).await.ok(200);
    step();
    app.report(&claimed, "fail", json!({"error": "x", "retryAfterSeconds": 1})).await.ok(200);
    step();
    let wish = json!({"workerId": "w", "max": 1, "waitSeconds": 20});
    let again = app.post("/v1/queues/default/claim", &wish).await.ok(200)["jobs"][0].clone();
    step();
    app.report(&again, "heartbeat", json!({"progress": 60})).await.ok(200);
    step();
    let done = app.report(&again, "complete", json!({"result": 1})).await.ok(200);
    step();
    done["sequence"].as_i64().unwrap()
}

/// Adds the page of events after those that were seen; true if it brings the end.
async fn read(app: &TestApp, job: &str, key: &str, prefer: &str, seen: &mut Vec<i64>) -> bool {
    let path = format!("/v1/jobs/{job}/events?after={}", seen.last().copied().unwrap_or(0));
    let page = app.get(&path).key(key).header("prefer", prefer).await.ok(200);
    let items = page["items"].as_array().unwrap();
    seen.extend(items.iter().map(|event| event["sequence"].as_i64().unwrap()));
    items.last().is_some_and(|event| event["type"] == "job.completed")
}

/// Reads pages of events, one after each step.
async fn poll(app: &TestApp, job: &str, mut steps: UnboundedReceiver<()>) -> Vec<i64> {
    let mut seen = Vec::new();
    while steps.recv().await.is_some() {
        read(app, job, &app.key, "handling=lenient", &mut seen).await;
    }
    seen
}

/// Reads pages of events that come when there is something new, by the job's access token.
async fn long_poll(app: &TestApp, job: &str, token: &str) -> Vec<i64> {
    let mut seen = Vec::new();
    while !read(app, job, token, "wait=10", &mut seen).await {}
    seen
}

/// Reads an event stream whose connection is cut after the first and after the third event.
async fn cut_twice(app: &TestApp, job: &str) -> Vec<i64> {
    let mut seen = Sse::open(app, job, None).await.sequences(1).await;
    seen.extend(Sse::open(app, job, seen.last().copied()).await.sequences(2).await);
    seen.extend(Sse::open(app, job, seen.last().copied()).await.rest().await);
    seen
}

async fn socket(app: &TestApp, job: &str) -> Vec<i64> {
    let mut socket = Socket::open(app).await;
    socket.subscribe(&[job], Value::Null).await;
    let mut seen = Vec::new();
    loop {
        let message = socket.next().await.expect("an event");
        seen.push(message["sequence"].as_i64().unwrap());
        if message["type"] == "job.completed" {
            return seen;
        }
    }
}

async fn every_channel_tells_the_same_sequences(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let callback = json!({"url": receiver.url("/x"), "events": EVENTS});
    let accepted = app.submit(json!({"type": "t", "callback": callback})).await;
    let (job, token) = (id(&accepted["jobId"]), id(&accepted["accessToken"]));
    let (tell, steps) = unbounded_channel();

    let (last, polled, waited, streamed, socketed) = tokio::join!(
        live(&app, &job, tell),
        poll(&app, &job, steps),
        long_poll(&app, &job, &token),
        cut_twice(&app, &job),
        socket(&app, &job),
    );

    let all: Vec<i64> = (1..=last).collect();
    assert!(last >= 7, "{last}");
    assert_eq!((&polled, &waited, &streamed, &socketed), (&all, &all, &all, &all));
    let told = receiver.wait("/x", all.len(), LIMIT).await;
    assert_eq!(told.len(), all.len(), "nothing is told twice");
    let told: BTreeSet<i64> = told.iter().map(|one| one.json()["sequence"].as_i64().unwrap()).collect();
    assert_eq!(told.into_iter().collect::<Vec<_>>(), all);
}

/// A change made at one node is seen by the streams of another; how soon is for `ringback bench streams` to say.
#[tokio::test]
async fn a_stream_sees_what_another_node_does() {
    let site = Site::postgres().await;
    let (here, there) = (site.start().await, site.start().await);
    for _ in 0..10 {
        let job = id(&there.submit(json!({"type": "t"})).await["jobId"]);
        let mut stream = Sse::open(&here, &job, None).await;
        let mut socket = Socket::open(&here).await;
        socket.subscribe(&[&job], Value::Null).await;
        assert_eq!((stream.sequences(1).await, socket.event().await.1), (vec![1], 1));

        there.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await.ok(200);

        let (streamed, socketed) = tokio::join!(stream.rest(), socket.event());
        assert_eq!((streamed, socketed.1), (vec![2], 2));
    }
    site.finish().await;
}
