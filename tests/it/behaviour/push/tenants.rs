//! One tenant's trouble with a push queue is nobody else's.

use serde_json::{Value, json};

use super::{SOON, ended, in_state, requests, running, submit};
use crate::support::app::{Site, TestApp, both_engines, id};
use crate::support::receiver::{Answer, Receiver};
use crate::support::store::beside;

both_engines! {
    a_tenant_that_paused_the_queue_keeps_nobody_waiting,
    a_tenant_that_filled_the_queue_keeps_nobody_waiting,
    a_tenant_whose_jobs_cannot_be_claimed_keeps_nobody_waiting,
    a_stop_gives_back_what_does_not_end_and_no_attempt_is_used,
}

/// Submits a job of the queue with that key; gives its id.
async fn submit_by(app: &TestApp, key: &str) -> String {
    let job = app.post("/v1/jobs", &json!({"type": "t", "queue": "q"})).key(key).await.ok(202);
    id(&job["jobId"])
}

/// The job once it has ended, as that key sees it.
async fn ended_by(app: &TestApp, key: &str, job: &str) -> Value {
    let seen = app.get(&format!("/v1/jobs/{job}")).key(key).header("prefer", "wait=15").await.ok(200);
    assert!(seen["completedAt"].is_string(), "{seen}");
    seen
}

async fn a_tenant_that_paused_the_queue_keeps_nobody_waiting(site: &Site) {
    let other = site.key_of("other").await;
    let receiver = Receiver::start().await;
    let second = format!("[queues.second.worker]\nurl = \"{}\"", receiver.url("/second"));
    let app = running(site, &receiver, &second).await;
    app.post("/v1/queues/q/pause", &json!({})).key(&other).await.ok(200);
    let held = submit_by(&app, &other).await;

    let mine = submit(&app, json!({})).await;
    let elsewhere = app.submit_id(json!({"type": "t", "queue": "second"})).await;
    assert_eq!(ended(&app, &mine).await["state"], "complete");
    assert_eq!(ended(&app, &elsewhere).await["state"], "complete");
    let seen = app.get(&format!("/v1/jobs/{held}")).key(&other).await.ok(200);
    assert_eq!((&seen["state"], &seen["attempt"]), (&json!("queued"), &json!(0)));
    assert_eq!(receiver.at("/work").len(), 1, "nothing of a paused queue is sent");

    app.post("/v1/queues/q/resume", &json!({})).key(&other).await.ok(200);
    assert_eq!(ended_by(&app, &other, &held).await["state"], "complete");
}

async fn a_tenant_that_filled_the_queue_keeps_nobody_waiting(site: &Site) {
    let other = site.key_of("other").await;
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![Answer::Hang, Answer::Status(204)]);
    let app = running(site, &receiver, "max_in_flight = 3").await;
    app.ask("PATCH", "/v1/queues/q").key(&other).json(&json!({"maxInFlight": 1})).await.ok(200);
    let under_way = submit_by(&app, &other).await;
    requests(&receiver, 1).await;
    let next = submit_by(&app, &other).await;

    for _ in 0..3 {
        let mine = submit(&app, json!({})).await;
        assert_eq!(ended(&app, &mine).await["state"], "complete");
    }
    let sent = receiver.at("/work");
    assert!(sent.iter().all(|r| r.header("ringback-job-id") != next), "its queue is full");
    let seen = app.get(&format!("/v1/jobs/{next}")).key(&other).await.ok(200);
    assert_eq!((&seen["state"], &seen["attempt"]), (&json!("queued"), &json!(0)));

    receiver.let_go();
    for job in [&under_way, &next] {
        assert_eq!(ended_by(&app, &other, job).await["state"], "complete");
    }
}

/// Changes rows behind the service's back, while no node runs.
async fn change_rows(site: &Site, sql: &'static str) {
    beside(site.store()).await.run(sql, vec![]).await.unwrap();
}

async fn a_tenant_whose_jobs_cannot_be_claimed_keeps_nobody_waiting(site: &Site) {
    let other = site.key_of("other").await;
    let receiver = Receiver::start().await;
    // Without a worker yet, so that the job waits.
    let app = site.start().await;
    let broken = submit_by(&app, &other).await;
    site.stop().await;
    change_rows(site, "UPDATE job_queue SET attempt = -9").await;

    let app = running(site, &receiver, "").await;
    for _ in 0..3 {
        let mine = submit(&app, json!({})).await;
        assert_eq!(ended(&app, &mine).await["state"], "complete");
    }
    assert_eq!(receiver.at("/work").len(), 3, "the broken one was not sent");

    site.stop().await;
    change_rows(site, "UPDATE job_queue SET attempt = 0").await;
    let app = running(site, &receiver, "").await;
    let seen = ended_by(&app, &other, &broken).await;
    assert_eq!((&seen["state"], &seen["attempt"]), (&json!("complete"), &json!(1)));
}

async fn a_stop_gives_back_what_does_not_end_and_no_attempt_is_used(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![Answer::Hang, Answer::Status(200)]);
    let app = running(site, &receiver, "").await;
    let job = submit(&app, json!({"maxAttempts": 1})).await;
    requests(&receiver, 1).await;

    tokio::time::timeout(3 * SOON, site.stop()).await.expect("a stop in 30 s");

    // Without a worker: what is seen is what the stop left.
    let app = site.start().await;
    let seen = in_state(&app, &job, "queued").await;
    assert_eq!(seen["attempt"], 0);
    site.stop().await;
    let app = running(site, &receiver, "").await;
    let seen = ended(&app, &job).await;
    assert_eq!((&seen["state"], &seen["attempt"]), (&json!("complete"), &json!(1)), "its only one");
}
