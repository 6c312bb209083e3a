//! A lease that ran out: who took the job over has it, and a late holder changes nothing.

use serde_json::{Value, json};

use super::{claim, ended, in_seconds, seen};
use crate::support::app::{Site, TestApp, both_engines, id};
use crate::support::ask::Reply;

both_engines! {
    a_holder_that_was_replaced_changes_nothing,
    a_late_holder_that_nobody_replaced_may_finish,
    the_last_attempt_lost_is_a_lost_worker,
    a_lease_is_lost_when_the_client_ends_the_job,
    a_retried_job_does_not_know_its_old_holder,
}

/// Everything that the holder of `claimed` may try.
async fn every_report(app: &TestApp, claimed: &Value) -> Vec<Reply> {
    let mut replies = Vec::new();
    for (verb, more) in [
        ("heartbeat", json!({"progress": 99})),
        ("complete", json!({"result": "late"})),
        ("complete", json!({"resultUrl": "https://files.example.com/late"})),
        ("fail", json!({"error": "late", "retryable": false})),
        ("release", json!({})),
    ] {
        replies.push(app.report(claimed, verb, more.clone()).await);
        replies.push(app.report(claimed, verb, more).nobody().await);
    }
    let raw = app.ask("POST", &format!("/v1/jobs/{}/complete", id(&claimed["jobId"])));
    replies.push(raw.header("lease-token", &id(&claimed["leaseToken"])).text("text/plain", "late").await);
    replies
}

/// Every report is answered `lease-lost`, also among many, and the job stays as it is.
async fn lost(app: &TestApp, claimed: &Value) {
    let job = id(&claimed["jobId"]);
    let before = seen(app, &job).await;
    for reply in every_report(app, claimed).await {
        reply.refused(409, "lease-lost", "");
    }
    let items = json!([{"op": "complete", "jobId": job, "leaseToken": claimed["leaseToken"]}]);
    let told = app.post("/v1/leases/ack", &json!({"items": items})).await.ok(200);
    assert_eq!((&told["items"][0]["code"], &told["items"][0]["status"]), (&json!("lease-lost"), &json!(409)));
    assert_eq!(seen(app, &job).await, before, "nothing changed");
}

async fn a_holder_that_was_replaced_changes_nothing(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let old = claim(&app, json!({"leaseSeconds": 10})).await.remove(0);
    app.pass(9);
    assert!(app.claim(1).await.is_empty(), "it is held");
    app.pass(1);
    let new = app.claim_one().await;
    assert_eq!((&new["jobId"], &new["attempt"]), (&json!(job), &json!(2)));
    assert_ne!(new["leaseToken"], old["leaseToken"]);
    app.report(&new, "heartbeat", json!({"progress": 7})).await.ok(200);

    lost(&app, &old).await;

    assert_eq!(app.job(&job).await["progress"], 7);
    app.report(&new, "complete", json!({"result": "new"})).await.ok(200);
    lost(&app, &old).await;
    assert_eq!(app.get(&format!("/v1/jobs/{job}/result")).await.ok(200), "new");
    let events = app.get(&format!("/v1/jobs/{job}/events")).await.ok(200)["items"].clone();
    let kinds: Vec<_> = events.as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
    let wanted =
        ["job.queued", "job.started", "job.retrying", "job.started", "job.progress", "job.completed"];
    assert_eq!(kinds, wanted);
    assert_eq!(events[2]["data"]["errorInfo"]["code"], "worker-lost");
}

async fn a_late_holder_that_nobody_replaced_may_finish(site: &Site) {
    let app = site.start_still().await;
    for _ in 0..4 {
        app.submit(json!({"type": "t"})).await;
    }
    let late = claim(&app, json!({"max": 4, "leaseSeconds": 10})).await;
    app.pass(300);

    for (claimed, verb, more, state) in [
        (&late[0], "complete", json!({"result": 1}), "complete"),
        (&late[1], "fail", json!({"error": "x"}), "retrying"),
        (&late[2], "release", json!({"delaySeconds": 9}), "scheduled"),
    ] {
        assert_eq!(app.report(claimed, verb, more).nobody().await.ok(200)["state"], state, "{verb}");
    }
    let alive = app.report(&late[3], "heartbeat", json!({})).await.ok(200);
    assert_eq!(alive["leaseExpiresAt"], in_seconds(&app, 10));
    assert!(app.claim(4).await.is_empty(), "it holds the job again");
}

async fn the_last_attempt_lost_is_a_lost_worker(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t", "maxAttempts": 2})).await;
    claim(&app, json!({"leaseSeconds": 10})).await;
    app.pass(10);
    let last = claim(&app, json!({"leaseSeconds": 10})).await.remove(0);
    assert_eq!(last["attempt"], 2);
    app.pass(10);
    assert!(app.claim(1).await.is_empty(), "no attempt is left");

    let failed = ended(&app, &job).await;

    assert_eq!((&failed["status"], &failed["state"]), (&json!("failed"), &json!("failed")));
    assert_eq!(failed["errorInfo"], json!({"code": "worker-lost", "retryable": true, "attempt": 2}));
    assert!(!failed["error"].as_str().unwrap().is_empty(), "{failed}");
    lost(&app, &last).await;
}

async fn a_lease_is_lost_when_the_client_ends_the_job(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let claimed = claim(&app, json!({"leaseSeconds": 600})).await.remove(0);
    app.delete(&format!("/v1/jobs/{job}")).await.ok(202);

    app.pass(30);
    let cancelled = ended(&app, &job).await;

    assert_eq!((&cancelled["status"], &cancelled["state"]), (&json!("failed"), &json!("cancelled")));
    lost(&app, &claimed).await;
}

async fn a_retried_job_does_not_know_its_old_holder(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t", "maxAttempts": 1})).await;
    let old = app.claim_one().await;
    app.report(&old, "fail", json!({"error": "x"})).await.ok(200);
    app.ask("POST", &format!("/v1/jobs/{job}/retry")).await.ok(202);

    lost(&app, &old).await;

    let new = app.claim_one().await;
    assert_eq!((&new["jobId"], &new["attempt"]), (&json!(job), &json!(1)));
    lost(&app, &old).await;
    app.report(&new, "complete", json!({})).await.ok(200);
}
