//! What is sent again, and when.

use serde_json::json;

use super::{body, ended, in_state, requests, running, sent_at, still, submit, worker};
use crate::support::app::{LIMIT, Site, both_engines};
use crate::support::process::free_port;
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    a_500_is_tried_again_after_the_jobs_backoff,
    the_last_attempt_fails_the_job_with_what_it_said,
    a_429_with_retry_after_slows_the_whole_queue_and_no_other,
    a_worker_that_is_not_there_harms_no_other_queue,
    a_worker_that_takes_too_long_is_given_up,
}

async fn a_500_is_tried_again_after_the_jobs_backoff(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![body(500, "boom"), Answer::Status(408), Answer::Status(200)]);
    let app = still(site, &receiver, "").await;
    let job = submit(&app, json!({})).await;

    let seen = in_state(&app, &job, "retrying").await;
    let info = json!({"code": "http-500", "message": "boom", "retryable": true, "attempt": 1});
    assert_eq!(seen["errorInfo"], info);
    app.pass(5);
    requests(&receiver, 2).await;
    let seen = in_state(&app, &job, "retrying").await;
    assert_eq!(seen["errorInfo"]["code"], "http-408");
    app.pass(20);

    assert_eq!(ended(&app, &job).await["state"], "complete");
    let got = requests(&receiver, 3).await;
    let began = sent_at(&got[0]);
    let told: Vec<_> = got
        .iter()
        .map(|r| {
            (
                r.header("ringback-attempt").to_owned(),
                sent_at(r) - began,
                r.header("idempotency-key").to_owned(),
            )
        })
        .collect();
    let wanted = [(1, 0), (2, 5), (3, 25)];
    assert_eq!(told, wanted.map(|(n, at)| (n.to_string(), at, format!("\"{job}:{n}\""))));
    got[2].verify(&app.secret);
}

async fn the_last_attempt_fails_the_job_with_what_it_said(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![body(503, "down")]);
    let app = running(site, &receiver, "").await;

    let job = submit(&app, json!({"maxAttempts": 1})).await;

    let seen = ended(&app, &job).await;
    assert_eq!((&seen["error"], &seen["errorInfo"]["code"]), (&json!("down"), &json!("http-503")));
}

async fn a_429_with_retry_after_slows_the_whole_queue_and_no_other(site: &Site) {
    let receiver = Receiver::start().await;
    let wait = vec![("retry-after", "60".to_owned())];
    receiver.script("/work", vec![Answer::With(429, wait), Answer::Status(200)]);
    let other = format!("[queues.other.worker]\nurl = \"{}\"", receiver.url("/other"));
    let app = still(site, &receiver, &other).await;
    let first = submit(&app, json!({})).await;
    in_state(&app, &first, "retrying").await;
    let second = submit(&app, json!({})).await;

    app.pass(59);
    let free = app.submit_id(json!({"type": "t", "queue": "other"})).await;
    assert_eq!(ended(&app, &free).await["state"], "complete");
    assert_eq!(app.job(&second).await["state"], "queued");
    app.pass(1);

    for job in [&first, &second] {
        assert_eq!(ended(&app, job).await["state"], "complete");
    }
    let got = requests(&receiver, 3).await;
    let at: Vec<i64> = got.iter().map(|r| sent_at(r) - sent_at(&got[0])).collect();
    assert_eq!(at, [0, 60, 60], "by the node's clock nothing was sent before");
}

async fn a_worker_that_is_not_there_harms_no_other_queue(site: &Site) {
    let receiver = Receiver::start().await;
    let dead = format!("[queues.dead.worker]\nurl = \"http://127.0.0.1:{}/\"", free_port());
    let app = still(site, &receiver, &dead).await;
    let of_dead =
        async |attempts| app.submit_id(json!({"type": "t", "queue": "dead", "maxAttempts": attempts})).await;

    let job = of_dead(3).await;
    let seen = in_state(&app, &job, "retrying").await;
    let why = "the push worker did not answer: no connection could be made";
    let info = json!({"code": "worker-unreachable", "message": why, "retryable": true, "attempt": 1});
    assert_eq!(seen["errorInfo"], info);
    let second = of_dead(1).await;
    let living = submit(&app, json!({})).await;

    assert_eq!(ended(&app, &living).await["state"], "complete");
    assert_eq!(app.job(&second).await["state"], "queued", "the queue pauses");
    app.pass(1);
    let seen = ended(&app, &second).await;
    let why = "the push worker did not answer: no connection could be made";
    assert_eq!((&seen["error"], &seen["errorInfo"]["code"]), (&json!(why), &json!("worker-unreachable")));
}

async fn a_worker_that_takes_too_long_is_given_up(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![Answer::Hang, Answer::Stall(200)]);
    let app = site.start_configured(&worker(&receiver, "")).await;

    for _ in 0..2 {
        let job = submit(&app, json!({"timeoutSeconds": 1, "maxAttempts": 1})).await;
        let seen = ended(&app, &job).await;
        assert_eq!(seen["error"], "the attempt ran longer than 1 s");
        assert_eq!(seen["errorInfo"], json!({"code": "timeout", "retryable": true, "attempt": 1}));
    }
    receiver.wait("/work", 2, LIMIT).await;
}
