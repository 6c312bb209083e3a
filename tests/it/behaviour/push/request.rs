//! What a push worker is sent.

use serde_json::{Value, json};

use super::{ended, requests, running, still, submit};
use crate::support::app::{Site, both_engines, id};
use crate::support::receiver::Receiver;

both_engines! {
    the_input_comes_byte_for_byte_with_all_that_proves_it,
    the_claimed_job_comes_where_it_is_wanted,
    tenants_take_turns_and_each_request_is_signed_with_its_tenants_secret,
    no_more_jobs_are_under_way_than_the_file_allows,
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const INPUT: &str = "{ \"b\":1,  \"a\" : [1.50, \"\u{e4}\"] }";

async fn the_input_comes_byte_for_byte_with_all_that_proves_it(site: &Site) {
    let receiver = Receiver::start().await;
    let app = running(site, &receiver, "").await;
    let text = format!(r#"{{"type":"t","queue":"q","input":{INPUT}}}"#);

    let ask = app.ask("POST", "/v1/jobs").text("application/json", text).header("traceparent", TRACE);
    let job = id(&ask.await.ok(202)["jobId"]);

    let got = requests(&receiver, 1).await.remove(0);
    assert_eq!((got.method.as_str(), &got.body[..]), ("POST", INPUT.as_bytes()));
    assert_eq!(got.header("ringback-job-id"), job);
    assert_eq!(got.header("ringback-attempt"), "1");
    let token = got.header("ringback-lease-token");
    assert!(token.starts_with("rbl_") && token.len() == 36, "{token}");
    assert_eq!(got.header("idempotency-key"), format!("\"{job}:1\""));
    assert_eq!(got.header("content-type"), "application/json");
    assert_eq!(got.header("accept-encoding"), "identity");
    assert_eq!(got.header("user-agent"), concat!("Ringback/", env!("CARGO_PKG_VERSION")));
    assert_eq!(&got.header("traceparent")[..35], &TRACE[..35]);
    assert_eq!(got.webhook_id(), job);
    got.verify(&app.secret);
    assert_eq!(got.header("authorization"), "", "no key of anyone's");
    let done = ended(&app, &job).await;
    assert_eq!((&done["state"], &done["attempt"]), (&json!("complete"), &json!(1)));
}

async fn the_claimed_job_comes_where_it_is_wanted(site: &Site) {
    let receiver = Receiver::start().await;
    let app = still(site, &receiver, "body = \"job\"").await;
    let more = json!({"input": {"year": 2025}, "ref": "build-4711", "metadata": {"team": "billing"}});

    let job = submit(&app, more).await;

    let got = requests(&receiver, 1).await.remove(0);
    got.verify(&app.secret);
    let in_seconds = |n| json!(app.clock.now().plus(std::time::Duration::from_secs(n)));
    let wanted = json!({
        "jobId": job, "type": "t", "input": {"year": 2025}, "attempt": 1,
        "leaseToken": got.header("ringback-lease-token"), "leaseExpiresAt": in_seconds(30),
        "deadlineAt": in_seconds(600), "ref": "build-4711", "metadata": {"team": "billing"},
    });
    assert_eq!(got.json(), wanted);
    ended(&app, &job).await;
}

async fn tenants_take_turns_and_each_request_is_signed_with_its_tenants_secret(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![super::Answer::Hang, super::Answer::Status(200)]);
    let acme = site.key_of("acme").await;
    let app = running(site, &receiver, "max_in_flight = 1").await;
    let job = |n: &str| json!({"type": "t", "queue": "q", "input": n});
    submit(&app, json!({"input": "held"})).await;
    requests(&receiver, 1).await;
    for n in ["a1", "a2", "a3"] {
        app.submit(job(n)).await;
    }
    for n in ["b1", "b2", "b3"] {
        app.post("/v1/jobs", &job(n)).key(&acme).await.ok(202);
    }

    receiver.let_go();

    let got = requests(&receiver, 7).await;
    let order: Vec<Value> = got.iter().map(|r| r.json()).collect();
    assert_eq!(order, ["held", "b1", "a1", "b2", "a2", "b3", "a3"]);
    let secrets = app.get("/v1/tenants/self/webhook-secret").key(&acme).await.ok(200);
    let theirs = id(&secrets["secret"]);
    for request in &got {
        let secret = if request.body.starts_with(b"\"b") { &theirs } else { &app.secret };
        request.verify(secret);
    }
}

async fn no_more_jobs_are_under_way_than_the_file_allows(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![super::Answer::Hang; 3]);
    let app = running(site, &receiver, "max_in_flight = 2").await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(submit(&app, json!({})).await);
    }

    requests(&receiver, 2).await;
    super::figure(&app, "ringback_push_in_flight{queue=\"q\"} 2").await;
    let waiting = app.items("/v1/jobs?state=queued").await;
    assert_eq!(waiting.len(), 1, "{waiting:?}");

    receiver.let_go();
    requests(&receiver, 3).await;
    receiver.let_go();
    for job in &jobs {
        assert_eq!(ended(&app, job).await["state"], "complete");
    }
}
