//! Answers that are not what they should be, and addresses that nothing is sent to.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::app::{LIMIT, Site, both_engines, id, instant};
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    a_redirect_is_a_failure_and_is_never_followed,
    a_hanging_receiver_times_out_and_delays_nobody,
    an_endless_answer_is_cut_and_its_status_counts,
    an_answer_is_never_decompressed,
    production_refuses_this_machine_by_its_text,
    what_the_policy_no_longer_allows_is_not_sent,
}

async fn a_redirect_is_a_failure_and_is_never_followed(site: &Site) {
    let app = site.start_still().await;
    let (receiver, stranger) = (Receiver::start().await, Receiver::start().await);
    let mut jobs = Vec::new();
    for (n, status) in [300, 301, 302, 303, 304, 307, 308].into_iter().enumerate() {
        let path = format!("/{status}");
        let to = if n % 2 == 0 { receiver.url("/moved") } else { stranger.url("/moved") };
        receiver.script(&path, vec![Answer::With(status, vec![("location", to)]), Answer::Status(200)]);
        let job = app.called_back(&receiver.url(&path), json!({})).await;
        let seen = app.delivery_after(&job, 1).await;
        assert_eq!((&seen["state"], &seen["lastStatus"]), (&json!("pending"), &json!(status)), "{seen}");
        assert_eq!(seen["lastError"], format!("status {status}"));
        jobs.push(job);
    }
    app.pass(10);
    for job in &jobs {
        assert_eq!(app.delivery_in(job, "delivered").await["attempt"], 2);
    }
    assert_eq!((receiver.at("/moved").len(), stranger.log().len()), (0, 0));
    assert_eq!(receiver.log().len(), 14, "the retries go where the callback goes");
}

async fn a_hanging_receiver_times_out_and_delays_nobody(site: &Site) {
    let app = site.start().await;
    let (slow, quick) = (Receiver::start().await, Receiver::start().await);
    slow.script("/head", vec![Answer::Hang, Answer::Status(200)]);
    slow.script("/body", vec![Answer::Stall(200), Answer::Status(200)]);
    let retry = json!({"retry": {"maxAttempts": 2, "initialSeconds": 1, "factor": 1, "maxSeconds": 1}});
    let head = app.called_back(&slow.url("/head"), retry.clone()).await;
    let body = app.called_back(&slow.url("/body"), retry).await;
    slow.wait("/head", 1, LIMIT).await;
    slow.wait("/body", 1, LIMIT).await;

    let began = Instant::now();
    app.called_back(&quick.url("/x"), json!({})).await;
    quick.wait("/x", 1, LIMIT).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    for (job, path) in [(&head, "/head"), (&body, "/body")] {
        let got = slow.wait(path, 2, Duration::from_secs(22)).await;
        assert_eq!(got[1].header("webhook-attempt"), "2");
        let done = app.delivery_in(job, "delivered").await;
        let first = &done["attempts"][0];
        assert_eq!((&first["error"], first.get("status")), (&json!("timeout"), None), "{path}");
        assert!((15_000..18_000).contains(&first["durationMs"].as_u64().unwrap()), "{first}");
        assert_eq!((&done["attempts"][1]["status"], &done["lastError"]), (&json!(200), &json!("timeout")));
    }
}

async fn an_endless_answer_is_cut_and_its_status_counts(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/200", vec![Answer::Endless(200)]);
    receiver.script("/500", vec![Answer::Endless(500)]);
    receiver.script("/large", vec![Answer::Body(201, vec![], vec![b'x'; 8 * 1024 * 1024].into())]);
    for (path, status, state) in
        [("/200", 200, "delivered"), ("/500", 500, "pending"), ("/large", 201, "delivered")]
    {
        let job = app.called_back(&receiver.url(path), json!({})).await;

        let seen = app.delivery_after(&job, 1).await;

        assert_eq!((&seen["state"], &seen["lastStatus"]), (&json!(state), &json!(status)), "{path}");
        let attempt = &seen["attempts"][0];
        assert_eq!((&attempt["status"], attempt.get("error")), (&json!(status), None), "{path}");
        assert!(attempt["responseBody"] == "x".repeat(16 * 1024), "{path}: 16 KiB are kept");
        assert!(attempt["durationMs"].as_u64().unwrap() < 15_000, "{path}: not by its deadline");
    }
    assert_eq!(receiver.log().len(), 3);
}

async fn an_answer_is_never_decompressed(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let headers = vec![("content-encoding", "gzip".to_owned())];
    receiver.script("/x", vec![Answer::Body(200, headers, "no gzip at all".into())]);

    let job = app.called_back(&receiver.url("/x"), json!({})).await;

    let done = app.delivery_in(&job, "delivered").await;
    assert_eq!(done["attempts"][0]["responseBody"], "no gzip at all");
    assert_eq!(receiver.log()[0].header("accept-encoding"), "", "nor is it asked for");
}

async fn production_refuses_this_machine_by_its_text(site: &Site) {
    let app = site.start_serving().await;
    for (url, rule) in [
        ("http://localhost/", "http:"),
        ("http://localhost:8080/x", "http:"),
        ("https://localhost/", "special-name:"),
        ("https://hooks.localhost./", "special-name:"),
        ("https://127.0.0.1/", "address: loopback"),
        ("https://127.1/", "address: loopback"),
        ("https://[::1]/", "address: loopback"),
        ("https://[::ffff:127.0.0.1]/", "address: "),
        ("https://0.0.0.0/", "address: "),
    ] {
        for (job, pointer) in [
            (json!({"callbackUrl": url}), "/callbackUrl"),
            (
                json!({"callback": {"url": "https://a.example.com/", "failureUrl": url}}),
                "/callback/failureUrl",
            ),
        ] {
            let mut job: Value = job;
            job["type"] = json!("t");
            let refusal = app.post("/v1/jobs", &job).await.refused(422, "callback-url-blocked", pointer);
            let told = id(&refusal["errors"][0]["detail"]);
            assert!(told.starts_with(rule), "{url}: {told}");
        }
    }
    app.holds_no_job().await;
}

async fn what_the_policy_no_longer_allows_is_not_sent(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500)]);
    let retry = json!({"retry": {"maxAttempts": 9, "initialSeconds": 2, "factor": 1, "maxSeconds": 2}});
    let job = app.called_back(&receiver.url("/x"), retry).await;
    let waiting = app.delivery_after(&job, 1).await;
    site.stop().await;

    let app = site.start_serving().await;

    let seen = app.delivery_in(&job, "dead").await;
    assert!(instant(&seen["endedAt"]) >= instant(&waiting["nextAttemptAt"]), "{seen}");
    assert_eq!((&seen["attempt"], &seen["lastError"]), (&json!(1), &json!("refused")), "{seen}");
    let letter = app.get(&format!("/v1/dead-letters/{}", id(&seen["deliveryId"]))).await.ok(200);
    assert_eq!((&letter["reason"], &letter["attempts"]), (&json!("refused"), &json!(1)));
    assert_eq!((&letter["firstError"], &letter["lastError"]), (&json!("status 500"), &json!("refused")));
    assert_eq!(receiver.log().len(), 1);
}
