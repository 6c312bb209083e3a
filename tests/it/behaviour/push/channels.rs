//! Whoever follows a job hears what its push worker made of it, at once and in every way.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{requests, running, submit};
use crate::support::app::{LIMIT, Site, both_engines};
use crate::support::receiver::{Answer, Receiver};
use crate::support::stream::{Socket, Sse};

both_engines! {
    every_channel_tells_what_the_worker_answered,
    a_result_is_told_at_once,
}

const EVENTS: [&str; 3] = ["job.queued", "job.started", "job.completed"];

async fn every_channel_tells_what_the_worker_answered(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![Answer::Hang]);
    let app = running(site, &receiver, "").await;
    let job = submit(&app, json!({"callback": {"url": receiver.url("/hook"), "events": EVENTS}})).await;
    requests(&receiver, 1).await;
    let mut stream = Sse::open(&app, &job, None).await;
    let mut socket = Socket::open(&app).await;
    socket.subscribe(&[&job], Value::Null).await;
    assert_eq!(stream.sequences(2).await, [1, 2]);
    assert_eq!([socket.event().await.1, socket.event().await.1], [1, 2]);

    let path = format!("/v1/jobs/{job}");
    let waited = async { app.get(&path).header("prefer", "wait=15").await.ok(200) };
    let events = format!("{path}/events?after=2");
    let polled = async { app.get(&events).header("prefer", "wait=15").await.ok(200) };
    let go = async {
        // Both polls wait by now, or come after the end: either is told the same.
        receiver.let_go();
    };
    let (waited, polled, ()) = tokio::join!(waited, polled, go);

    assert_eq!((&waited["state"], &waited["sequence"]), (&json!("complete"), &json!(3)));
    assert_eq!(
        (&polled["items"][0]["sequence"], &polled["items"][0]["type"]),
        (&json!(3), &json!("job.completed"))
    );
    assert_eq!(stream.rest().await, [3]);
    let told = socket.next().await.unwrap();
    assert_eq!((&told["sequence"], &told["type"]), (&json!(3), &json!("job.completed")));
    let mut told: Vec<i64> = Vec::new();
    for callback in receiver.wait("/hook", 3, LIMIT).await {
        told.push(callback.json()["sequence"].as_i64().unwrap());
    }
    told.sort_unstable();
    assert_eq!(told, [1, 2, 3]);
}

/// Without a nudge the node would look for news of its own jobs once a second only.
async fn a_result_is_told_at_once(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![Answer::Hang]);
    let app = running(site, &receiver, "").await;
    let mut quickest = LIMIT;
    for n in 1..=5 {
        let job = submit(&app, json!({})).await;
        let mut stream = Sse::open(&app, &job, None).await;
        assert_eq!(stream.sequences(2).await, [1, 2]);
        requests(&receiver, n).await;
        let began = Instant::now();
        receiver.let_go();
        assert_eq!(stream.rest().await, [3]);
        quickest = quickest.min(began.elapsed());
    }
    assert!(quickest < Duration::from_millis(400), "{quickest:?}");
}
