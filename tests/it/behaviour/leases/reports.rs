//! What a holder tells of its job: alive, done, gone wrong, given back.

use serde_json::{Value, json};

use super::{claim, in_seconds, seen};
use crate::support::app::{Site, both_engines, id};

both_engines! {
    a_heartbeat_renews_the_lease,
    progress_and_message_are_shown_while_it_runs,
    a_heartbeat_tells_of_a_cancel,
    a_result_comes_as_json_as_a_url_or_as_bytes,
    the_same_report_again_is_answered_the_same,
    a_failed_attempt_waits_and_the_last_one_ends_the_job,
    what_cannot_be_retried_ends_at_once,
    a_worker_may_ask_for_a_longer_wait,
    a_release_uses_no_attempt,
    a_release_may_be_delayed,
    many_outcomes_are_answered_one_by_one,
}

async fn a_heartbeat_renews_the_lease(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let claimed = claim(&app, json!({"leaseSeconds": 60})).await.remove(0);
    let must_end = in_seconds(&app, 600);

    app.pass(50);
    let alive = app.report(&claimed, "heartbeat", json!({})).await.ok(200);
    let told =
        json!({"leaseExpiresAt": in_seconds(&app, 60), "cancelRequested": false, "deadlineAt": must_end});
    assert_eq!(alive, told, "as long as the claim's lease, from now on");

    app.pass(50);
    assert!(app.claim(1).await.is_empty(), "the first lease is over, the renewed one is not");
    let alive = app.report(&claimed, "heartbeat", json!({"extendSeconds": 200})).await.ok(200);
    assert_eq!(alive["leaseExpiresAt"], in_seconds(&app, 200));
    app.pass(199);
    assert!(app.claim(1).await.is_empty());
    app.pass(1);
    let again = app.claim_one().await;
    assert_eq!((&again["jobId"], &again["attempt"]), (&json!(job), &json!(2)));
}

async fn progress_and_message_are_shown_while_it_runs(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;
    let shown = async || {
        let job = app.job(&job).await;
        (job["progress"].clone(), job["message"].clone())
    };
    assert_eq!(shown().await, (Value::Null, Value::Null));

    app.report(&claimed, "heartbeat", json!({"progress": 0, "message": "opening"})).await.ok(200);
    assert_eq!(shown().await, (json!(0), json!("opening")));
    let (tag, _) = seen(&app, &job).await;
    app.report(&claimed, "heartbeat", json!({"progress": 40})).await.ok(200);
    assert_eq!(shown().await, (json!(40), json!("opening")), "what is not told stays");
    assert_ne!(seen(&app, &job).await.0, tag, "a poller sees it at once");
    app.report(&claimed, "heartbeat", json!({"message": null})).await.ok(200);
    assert_eq!(shown().await, (json!(40), json!("opening")));

    app.report(&claimed, "complete", json!({})).await.ok(200);
    assert_eq!(shown().await, (Value::Null, Value::Null), "only while processing");
}

async fn a_heartbeat_tells_of_a_cancel(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;
    app.post(&format!("/v1/jobs/{job}/cancel"), &json!({"reason": "not needed"})).await.ok(202);

    let alive = app.report(&claimed, "heartbeat", json!({"progress": 5})).await.ok(200);
    assert_eq!(alive["cancelRequested"], true);
    let day = app.report(&claimed, "heartbeat", json!({"extendSeconds": 3_601})).await;
    day.refused(422, "validation-failed", "/extendSeconds");
    let ended = app.report(&claimed, "fail", json!({"error": "stopped"})).await.ok(200);

    assert_eq!((&ended["status"], &ended["state"]), (&json!("failed"), &json!("cancelled")));
    assert!(ended["error"].as_str().unwrap().contains("not needed"), "{ended}");
    app.report(&claimed, "complete", json!({})).await.refused(409, "lease-lost", "");
}

async fn a_result_comes_as_json_as_a_url_or_as_bytes(site: &Site) {
    let app = site.start_still().await;
    let now = in_seconds(&app, 0);
    for _ in 0..3 {
        app.submit(json!({"type": "t"})).await;
    }
    let jobs = app.claim(3).await;
    let result = async |job: &Value| app.get(&format!("/v1/jobs/{}/result", id(job))).await;

    let done = app.report(&jobs[0], "complete", json!({"result": [1, {"a": null}]})).await.ok(200);
    assert_eq!((&done["status"], &done["completedAt"]), (&json!("complete"), &now));
    assert_eq!(done["resultUrl"], format!("{}/results/{}.json", app.url, id(&done["jobId"])));
    assert_eq!(result(&done["jobId"]).await.ok(200), json!([1, {"a": null}]));

    let elsewhere = json!({"resultUrl": "https://files.example.com/a"});
    let done = app.report(&jobs[1], "complete", elsewhere).await.ok(200);
    assert_eq!(done["resultUrl"], "https://files.example.com/a");
    assert_eq!(result(&done["jobId"]).await.header("location"), "https://files.example.com/a");

    // Without a key: the token in the head is right enough, and the body is not read as JSON.
    let path = format!("/v1/jobs/{}/complete", id(&jobs[2]["jobId"]));
    let raw = app.ask("POST", &path).text("text/csv", "a,b\n{\n").nobody();
    let done = raw.header("lease-token", &id(&jobs[2]["leaseToken"])).await.ok(200);
    let bytes = result(&done["jobId"]).await;
    assert_eq!((bytes.header("content-type"), &bytes.body[..]), ("text/csv", &b"a,b\n{\n"[..]));
}

async fn the_same_report_again_is_answered_the_same(site: &Site) {
    let app = site.start_still().await;
    for _ in 0..3 {
        app.submit(json!({"type": "t"})).await;
    }
    let jobs = app.claim(3).await;
    for (claimed, verb, more, state) in [
        (&jobs[0], "complete", json!({"result": 1}), "complete"),
        (&jobs[1], "fail", json!({"error": "x"}), "retrying"),
        (&jobs[2], "release", json!({"delaySeconds": 60}), "scheduled"),
    ] {
        let first = app.report(claimed, verb, more.clone()).await;
        let again = app.report(claimed, verb, more).await;

        assert_eq!(first.ok(200)["state"], state);
        assert_eq!(again.ok(200), first.ok(200), "{verb}");
        assert_eq!(again.header("etag"), first.header("etag"), "{verb}");
    }
    app.report(&jobs[0], "complete", json!({"result": 2})).await.ok(200);
    let result = app.get(&format!("/v1/jobs/{}/result", id(&jobs[0]["jobId"]))).await;
    assert_eq!(result.ok(200), 1, "the first result stands");
    for (claimed, verb) in [(&jobs[0], "fail"), (&jobs[1], "complete"), (&jobs[2], "heartbeat")] {
        let more = if verb == "fail" { json!({"error": "x"}) } else { json!({}) };
        app.report(claimed, verb, more).await.refused(409, "lease-lost", "");
    }
}

async fn a_failed_attempt_waits_and_the_last_one_ends_the_job(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t", "maxAttempts": 3})).await;
    for (attempt, wait) in [(1, 5), (2, 20)] {
        let claimed = app.claim_one().await;
        assert_eq!(claimed["attempt"], attempt);
        let more = json!({"error": "no data", "errorCode": "no_data"});
        let told = app.report(&claimed, "fail", more).await.ok(200);

        assert_eq!((&told["status"], &told["state"]), (&json!("queued"), &json!("retrying")));
        assert_eq!(told["runAt"], in_seconds(&app, wait), "attempt {attempt}");
        let info = json!({"code": "no_data", "message": "no data", "retryable": true, "attempt": attempt});
        assert_eq!((&told["errorInfo"], &app.job(&job).await["errorInfo"]), (&info, &info));
        let event = app.items(&format!("/v1/jobs/{job}/events")).await.pop().unwrap();
        assert_eq!((&event["type"], &event["data"]["errorInfo"]), (&json!("job.retrying"), &info));
        assert!(told.get("error").is_none(), "it has not ended: {told}");
        app.pass(wait - 1);
        assert!(app.claim(1).await.is_empty(), "not before its time");
        app.pass(1);
    }
    let last = app.claim_one().await;
    let ended = app.report(&last, "fail", json!({"error": "still none"})).await.ok(200);

    assert_eq!((&ended["status"], &ended["state"]), (&json!("failed"), &json!("failed")));
    assert_eq!((&ended["attempt"], &ended["maxAttempts"]), (&json!(3), &json!(3)));
    assert_eq!(ended["error"], "still none");
    assert_eq!(ended["errorInfo"], json!({"retryable": true, "attempt": 3}));
    assert_eq!(ended["completedAt"], in_seconds(&app, 0));
    app.pass(3_600);
    assert!(app.claim(1).await.is_empty());
    assert_eq!(app.job(&job).await, ended);
}

async fn what_cannot_be_retried_ends_at_once(site: &Site) {
    let app = site.start().await;
    app.submit(json!({"type": "t", "maxAttempts": 5})).await;
    let claimed = app.claim_one().await;

    let more = json!({"error": "no such year", "errorCode": "data_not_found", "retryable": false});
    let ended = app.report(&claimed, "fail", more).await.ok(200);

    assert_eq!((&ended["state"], &ended["attempt"]), (&json!("failed"), &json!(1)));
    assert_eq!(ended["error"], "no such year");
    assert_eq!(ended["errorInfo"], json!({"code": "data_not_found", "retryable": false, "attempt": 1}));
}

async fn a_worker_may_ask_for_a_longer_wait(site: &Site) {
    let app = site.start_still().await;
    app.submit(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;

    let told = app.report(&claimed, "fail", json!({"error": "429", "retryAfterSeconds": 90})).await.ok(200);
    assert_eq!((&told["state"], &told["runAt"]), (&json!("retrying"), &in_seconds(&app, 90)));
    app.pass(89);
    assert!(app.claim(1).await.is_empty());
    app.pass(1);
    let told = app.report(&app.claim_one().await, "fail", json!({"error": "x", "retryAfterSeconds": 1}));
    assert_eq!(told.await.ok(200)["runAt"], in_seconds(&app, 20), "a floor, not a ceiling");
}

async fn a_release_uses_no_attempt(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t", "maxAttempts": 1})).await;
    for _ in 0..3 {
        let claimed = app.claim_one().await;
        assert_eq!((&claimed["jobId"], &claimed["attempt"]), (&json!(job), &json!(1)));

        let back = app.report(&claimed, "release", json!({})).await.ok(200);

        assert_eq!((&back["state"], &back["attempt"]), (&json!("queued"), &json!(0)));
        assert!(back.get("error").is_none(), "{back}");
    }
    assert_eq!(app.complete(&job).await["attempt"], 1);
}

async fn a_release_may_be_delayed(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;

    let back = app.report(&claimed, "release", json!({"delaySeconds": 30})).await.ok(200);

    assert_eq!((&back["state"], &back["runAt"]), (&json!("scheduled"), &in_seconds(&app, 30)));
    app.pass(29);
    assert!(app.claim(1).await.is_empty());
    app.pass(1);
    assert_eq!(app.claim_one().await["jobId"], job);
}

/// An entry of an ack.
fn item(claimed: &Value, op: &str, more: Value) -> Value {
    let mut item = json!({"op": op, "jobId": claimed["jobId"], "leaseToken": claimed["leaseToken"]});
    item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    item
}

/// Good and bad outcomes of six claimed jobs, the last one a repeat of the first.
fn mixed(c: &[Value]) -> Value {
    let unknown = json!({"jobId": "job_01H455VB4PEX5VSKNK084SN02Q", "leaseToken": c[0]["leaseToken"]});
    json!([
        item(&c[0], "complete", json!({"result": {"n": 0}})),
        item(&c[1], "complete", json!({"resultUrl": "https://files.example.com/1"})),
        item(&c[2], "fail", json!({"error": "x", "errorCode": "e", "retryable": false})),
        item(&c[3], "fail", json!({})),
        item(&c[4], "complete", json!({"leaseToken": c[5]["leaseToken"]})),
        item(&unknown, "complete", json!({})),
        item(&c[5], "finish", json!({})),
        7,
        item(&c[5], "complete", json!({"reslut": 1})),
        item(&c[0], "complete", json!({})),
    ])
}

async fn many_outcomes_are_answered_one_by_one(site: &Site) {
    let app = site.start().await;
    let batch = json!({"jobs": vec![json!({"type": "t"}); 6]});
    app.post("/v1/jobs/batch", &batch).await.ok(202);
    let c = app.claim(6).await;

    let reply = app.post("/v1/leases/ack", &json!({"items": mixed(&c)})).await;

    let told = reply.ok(200)["items"].as_array().unwrap().clone();
    let words: Vec<_> = told.iter().map(|i| id(i.get("code").unwrap_or(&i["state"]))).collect();
    let bad = "validation-failed";
    let wanted =
        ["complete", "complete", "failed", bad, "lease-lost", "job-not-found", bad, bad, bad, "complete"];
    assert_eq!(words, wanted);
    for (place, at) in [(3, "/items/3/error"), (6, "/items/6/op"), (7, "/items/7"), (8, "/items/8/reslut")] {
        assert_eq!(told[place]["errors"][0]["pointer"], at);
        assert_eq!(
            (&told[place]["status"], &told[place]["requestId"]),
            (&json!(422), &json!(reply.header("request-id")))
        );
    }
    assert_eq!((&told[4]["status"], &told[5]["status"]), (&json!(409), &json!(404)));
    assert_eq!(told[9], told[0], "a repeat is answered like the first");
    assert_eq!(told[2]["errorInfo"], json!({"code": "e", "retryable": false, "attempt": 1}));
    for (claimed, state) in
        c.iter().zip(["complete", "complete", "failed", "processing", "processing", "processing"])
    {
        assert_eq!(app.job(&id(&claimed["jobId"])).await["state"], state);
    }
    let result = app.get(&format!("/v1/jobs/{}/result", id(&c[0]["jobId"]))).await;
    assert_eq!(result.ok(200), json!({"n": 0}));
}
