//! Bad reports get a problem that points at the fault, and change nothing.

use ringback::types::JobId;
use serde_json::{Value, json};

use super::seen;
use crate::support::app::{Site, TestApp, both_engines, id};

both_engines! {
    a_claim_that_breaks_a_rule_takes_nothing,
    a_heartbeat_that_breaks_a_rule_changes_nothing,
    a_completion_that_breaks_a_rule_changes_nothing,
    a_failure_that_breaks_a_rule_changes_nothing,
    a_release_that_breaks_a_rule_changes_nothing,
    reports_that_cannot_be_read_change_nothing,
    raw_results_that_cannot_be_kept_are_refused,
    acks_that_break_a_rule_change_nothing,
    a_result_that_is_too_large_changes_nothing,
    reports_on_what_is_not_there_are_refused,
}

async fn a_claim_that_breaks_a_rule_takes_nothing(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    for (wish, pointer) in [
        (json!({"max": 0}), "/max"),
        (json!({"max": 501}), "/max"),
        (json!({"max": -1}), "/max"),
        (json!({"max": "1"}), "/max"),
        (json!({"types": "t"}), "/types"),
        (json!({"types": ["t", 1]}), "/types/1"),
        (json!({"types": ["t", "a b"]}), "/types/1"),
        (json!({"types": vec!["t"; 51]}), "/types"),
        (json!({"leaseSeconds": 0}), "/leaseSeconds"),
        (json!({"leaseSeconds": 3_601}), "/leaseSeconds"),
        (json!({"leaseSeconds": 1.5}), "/leaseSeconds"),
        (json!({"waitSeconds": 31}), "/waitSeconds"),
        (json!({"workerId": "x".repeat(256)}), "/workerId"),
        (json!({"workerId": 7}), "/workerId"),
        (json!({"queue": "default"}), "/queue"),
        (json!([]), ""),
    ] {
        let reply = app.post("/v1/queues/default/claim", &wish).await;
        reply.refused(422, "validation-failed", pointer);
    }
    let claim = || app.post("/v1/queues/default/claim", &json!({}));
    app.post("/v1/queues/default/claim?max=1", &json!({})).await.refused(400, "invalid-request", "?max");
    app.ask("POST", "/v1/queues/default/claim").text("application/json", "{").await.refused(
        400,
        "invalid-request",
        "",
    );
    app.ask("POST", "/v1/queues/default/claim").await.refused(415, "unsupported-media-type", "");
    app.post("/v1/queues/-/claim", &json!({})).await.refused(404, "not-found", "");

    assert_eq!(app.job(&job).await["attempt"], 0);
    assert_eq!(claim().await.ok(200)["jobs"][0]["jobId"], job);
}

/// A job in hand.
async fn held(app: &TestApp) -> Value {
    app.submit(json!({"type": "t"})).await;
    app.claim_one().await
}

/// Each of these is refused with that pointer, by a key and by the token alone; the job stays as it is.
async fn refuse(app: &TestApp, verb: &str, wrong: &[(Value, &str)]) {
    let claimed = held(app).await;
    let job = id(&claimed["jobId"]);
    let before = seen(app, &job).await;
    for (more, pointer) in wrong {
        app.report(&claimed, verb, more.clone()).await.refused(422, "validation-failed", pointer);
        // A body without a readable token is no right at all.
        if !pointer.starts_with("/leaseToken") {
            let reply = app.report(&claimed, verb, more.clone()).nobody().await;
            reply.refused(422, "validation-failed", pointer);
        }
    }
    let path = format!("/v1/jobs/{job}/{verb}");
    let tokenless = if verb == "fail" { json!({"error": "x"}) } else { json!({}) };
    app.post(&path, &tokenless).await.refused(422, "validation-failed", "/leaseToken");
    let body = json!({"leaseToken": claimed["leaseToken"], "error": "x"});
    app.post(&format!("{path}?x=1"), &body).await.refused(400, "invalid-request", "?x");
    assert_eq!(seen(app, &job).await, before, "nothing changed");
}

async fn a_heartbeat_that_breaks_a_rule_changes_nothing(site: &Site) {
    let app = site.start().await;
    let wrong = [
        (json!({"leaseToken": 7}), "/leaseToken"),
        (json!({"leaseToken": "rbl_short"}), "/leaseToken"),
        (json!({"progress": 101}), "/progress"),
        (json!({"progress": 300}), "/progress"),
        (json!({"progress": -1}), "/progress"),
        (json!({"progress": 0.5}), "/progress"),
        (json!({"message": "x".repeat(1_001)}), "/message"),
        (json!({"extendSeconds": 0}), "/extendSeconds"),
        (json!({"extendSeconds": 86_401}), "/extendSeconds"),
        (json!({"progres": 1}), "/progres"),
        (json!({"result": 1}), "/result"),
    ];
    refuse(&app, "heartbeat", &wrong).await;
}

async fn a_completion_that_breaks_a_rule_changes_nothing(site: &Site) {
    let app = site.start().await;
    let long = format!("https://files.example.com/{}", "x".repeat(2_048));
    let wrong = [
        (json!({"result": 1, "resultUrl": "https://files.example.com/a"}), "/resultUrl"),
        (json!({"resultUrl": "ftp://files.example.com/a"}), "/resultUrl"),
        (json!({"resultUrl": "files.example.com/a"}), "/resultUrl"),
        (json!({"resultUrl": long}), "/resultUrl"),
        (json!({"resultUrl": 7}), "/resultUrl"),
        (json!({"reslut": 1}), "/reslut"),
        (json!({"error": "x"}), "/error"),
    ];
    refuse(&app, "complete", &wrong).await;
}

async fn a_failure_that_breaks_a_rule_changes_nothing(site: &Site) {
    let app = site.start().await;
    let wrong = [
        (json!({}), "/error"),
        (json!({"error": ""}), "/error"),
        (json!({"error": " \n"}), "/error"),
        (json!({"error": 7}), "/error"),
        (json!({"error": "x".repeat(4_001)}), "/error"),
        (json!({"error": "x", "errorCode": "x".repeat(129)}), "/errorCode"),
        (json!({"error": "x", "retryable": "no"}), "/retryable"),
        (json!({"error": "x", "retryAfterSeconds": 86_401}), "/retryAfterSeconds"),
        (json!({"error": "x", "retryAfterSeconds": -1}), "/retryAfterSeconds"),
        (json!({"error": "x", "code": "x"}), "/code"),
    ];
    refuse(&app, "fail", &wrong).await;
}

async fn a_release_that_breaks_a_rule_changes_nothing(site: &Site) {
    let app = site.start().await;
    let wrong = [
        (json!({"delaySeconds": 86_401}), "/delaySeconds"),
        (json!({"delaySeconds": -1}), "/delaySeconds"),
        (json!({"delaySeconds": "1"}), "/delaySeconds"),
        (json!({"error": "x"}), "/error"),
    ];
    refuse(&app, "release", &wrong).await;
}

async fn reports_that_cannot_be_read_change_nothing(site: &Site) {
    let app = site.start().await;
    let claimed = held(&app).await;
    let job = id(&claimed["jobId"]);
    let before = seen(&app, &job).await;
    let token = id(&claimed["leaseToken"]);
    let whole = format!("{{\"leaseToken\":\"{token}\",\"error\":\"x\"}}");
    for verb in ["heartbeat", "complete", "fail", "release"] {
        let send = |content_type: &str, body: &str| {
            app.ask("POST", &format!("/v1/jobs/{job}/{verb}")).text(content_type, body.to_owned())
        };
        for body in ["", "{", &whole[..20], &format!("{whole}{whole}"), &whole.replace("error", "leaseToken")]
        {
            send("application/json", body).await.refused(400, "invalid-request", "");
        }
        send("application/json", "[]").await.refused(422, "validation-failed", "");
        send("text/plain", &whole).await.refused(415, "unsupported-media-type", "");
    }
    assert_eq!(seen(&app, &job).await, before);
}

async fn raw_results_that_cannot_be_kept_are_refused(site: &Site) {
    let app = site.start().await;
    let claimed = held(&app).await;
    let job = id(&claimed["jobId"]);
    let before = seen(&app, &job).await;
    let raw = |content_type: &str, token: &str| {
        let ask = app.ask("POST", &format!("/v1/jobs/{job}/complete")).header("lease-token", token);
        ask.text(content_type, "x")
    };
    let token = id(&claimed["leaseToken"]);
    raw("text/plain", "rbl_short").await.refused(422, "validation-failed", "Lease-Token");
    raw("text/plain", "").await.refused(422, "validation-failed", "Lease-Token");
    let long = format!("text/{}", "x".repeat(255));
    for wrong in ["plain", "text/a b", "text/plain; charset", &long] {
        raw(wrong, &token).await.refused(400, "invalid-request", "Content-Type");
    }
    let of_y = "sha-256=:ofzkNjhU/4iM/0uOeHXWAMJoI5BBKoz3mzfQsRFIsPo=:";
    for wrong in [of_y, "sha-256=x", "md5=:AAAA:, sha-512=:AAAA:"] {
        let reply = raw("text/plain", &token).header("content-digest", wrong).await;
        reply.refused(400, "invalid-request", "Content-Digest");
    }
    assert_eq!(seen(&app, &job).await, before);

    let of_x = "md5=:AAAA:, sha-256=:LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE=:";
    raw("text/plain; charset=utf-8", &token).header("content-digest", of_x).await.ok(200);
}

async fn acks_that_break_a_rule_change_nothing(site: &Site) {
    let app = site.start().await;
    let claimed = held(&app).await;
    let job = id(&claimed["jobId"]);
    let before = seen(&app, &job).await;
    let item = json!({"op": "complete", "jobId": job, "leaseToken": claimed["leaseToken"]});
    for (body, pointer) in [
        (json!({}), "/items"),
        (json!({"items": []}), "/items"),
        (json!({"items": item}), "/items"),
        (json!({"items": vec![json!({}); 1_001]}), "/items"),
        (json!({"items": [item], "atomic": true}), "/atomic"),
        (json!([item]), ""),
    ] {
        app.post("/v1/leases/ack", &body).await.refused(422, "validation-failed", pointer);
    }
    for (member, value, pointer) in [
        ("op", Value::Null, "/items/0/op"),
        ("jobId", json!("job_x"), "/items/0/jobId"),
        ("leaseToken", json!("rbl_x"), "/items/0/leaseToken"),
        ("resultUrl", json!("x"), "/items/0/resultUrl"),
        ("op", json!("fail"), "/items/0/error"),
    ] {
        let mut wrong = item.clone();
        wrong[member] = value;
        let told = app.post("/v1/leases/ack", &json!({"items": [wrong]})).await.ok(200);
        assert_eq!(told["items"][0]["code"], "validation-failed", "{told}");
        assert_eq!(told["items"][0]["errors"][0]["pointer"], pointer);
    }
    assert_eq!(seen(&app, &job).await, before);

    let most = json!({"items": vec![item; 1_000]});
    let told = app.post("/v1/leases/ack", &most).await.ok(200);
    assert!(told["items"].as_array().unwrap().iter().all(|i| i["state"] == "complete"), "{told}");
}

async fn a_result_that_is_too_large_changes_nothing(site: &Site) {
    let app = site.start().await;
    let claimed = held(&app).await;
    let job = id(&claimed["jobId"]);
    let before = seen(&app, &job).await;
    let text = |bytes: usize| json!("x".repeat(bytes - 2));
    let most = 1024 * 1024;

    let reply = app.report(&claimed, "complete", json!({"result": text(most + 1)})).await;
    reply.refused(413, "result-too-large", "");
    let token = id(&claimed["leaseToken"]);
    let item = |result| json!({"op": "complete", "jobId": job, "leaseToken": token, "result": result});
    let told = app.post("/v1/leases/ack", &json!({"items": [item(text(most + 1))]})).await.ok(200);
    assert_eq!(
        (&told["items"][0]["code"], &told["items"][0]["status"]),
        (&json!("result-too-large"), &json!(413))
    );
    let whole = json!({"items": vec![item(text(most)); 5]});
    app.post("/v1/leases/ack", &whole).await.refused(413, "payload-too-large", "");
    let long = json!({"error": "x", "errorCode": "x".repeat(256 * 1024)});
    app.report(&claimed, "fail", long).await.refused(413, "payload-too-large", "");
    assert_eq!(seen(&app, &job).await, before, "it may still send a smaller one");

    app.report(&claimed, "complete", json!({"result": text(most)})).await.ok(200);
    assert_eq!(app.get(&format!("/v1/jobs/{job}/result")).await.body.len(), most);
}

async fn reports_on_what_is_not_there_are_refused(site: &Site) {
    let app = site.start().await;
    let claimed = held(&app).await;
    for job in ["job_01H455VB4PEX5VSKNK084SN02Q", "job_x", "dlv_01H455VB4PEX5VSKNK084SN02Q", "%00"] {
        for verb in ["heartbeat", "complete", "fail", "release"] {
            let mut body = json!({"leaseToken": claimed["leaseToken"]});
            if verb == "fail" {
                body["error"] = json!("x");
            }
            let path = format!("/v1/jobs/{job}/{verb}");
            app.post(&path, &body).await.refused(404, "job-not-found", "");
            // Without a key beside it a token must not tell which jobs there are.
            let (status, code) =
                if job.parse::<JobId>().is_ok() { (409, "lease-lost") } else { (404, "job-not-found") };
            app.post(&path, &body).nobody().await.refused(status, code, "");
        }
    }
    app.get(&format!("/v1/jobs/{}/heartbeat", id(&claimed["jobId"]))).await.refused(
        405,
        "method-not-allowed",
        "",
    );
}
