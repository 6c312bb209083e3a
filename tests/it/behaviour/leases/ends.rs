//! What the clock ends: an attempt's time-out, a job's deadline, an external job's lease.

use serde_json::json;

use super::{claim, ended, in_seconds, seen};
use crate::support::app::{LIMIT, Site, both_engines, id};
use crate::support::receiver::Receiver;

both_engines! {
    a_time_out_ends_the_attempt_whatever_its_lease_says,
    a_timed_out_attempt_is_repeated,
    a_deadline_ends_a_job_that_waits_or_runs,
    an_external_job_lives_as_long_as_its_lease,
    an_external_job_has_no_time_out,
    an_external_job_ends_with_its_first_report,
    an_external_job_may_ask_for_its_lease,
}

async fn a_time_out_ends_the_attempt_whatever_its_lease_says(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t", "timeoutSeconds": 10, "maxAttempts": 1})).await;
    let claimed = claim(&app, json!({"leaseSeconds": 600})).await.remove(0);
    assert_eq!(claimed["deadlineAt"], in_seconds(&app, 10));
    app.pass(9);
    let alive = app.report(&claimed, "heartbeat", json!({"extendSeconds": 600})).await.ok(200);
    assert_eq!(alive["deadlineAt"], in_seconds(&app, 1), "a heartbeat moves the lease, not the time-out");
    app.pass(1);

    let failed = ended(&app, &job).await;

    assert_eq!((&failed["status"], &failed["state"]), (&json!("failed"), &json!("failed")));
    assert_eq!(failed["errorInfo"], json!({"code": "timeout", "retryable": true, "attempt": 1}));
    assert!(failed["error"].as_str().unwrap().contains("10 s"), "{failed}");
    app.report(&claimed, "complete", json!({})).await.refused(409, "lease-lost", "");
}

async fn a_timed_out_attempt_is_repeated(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t", "timeoutSeconds": 10})).await;
    claim(&app, json!({"leaseSeconds": 600})).await;
    let (tag, _) = seen(&app, &job).await;
    app.pass(10);

    let poll = app.get(&format!("/v1/jobs/{job}")).header("if-none-match", &tag).header("prefer", "wait=15");
    let waiting = poll.await.ok(200);

    assert_eq!(waiting["state"], "retrying");
    assert_eq!((&waiting["runAt"], &waiting["errorInfo"]["code"]), (&in_seconds(&app, 5), &json!("timeout")));
    app.pass(5);
    assert_eq!(app.claim_one().await["attempt"], 2);
}

async fn a_deadline_ends_a_job_that_waits_or_runs(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let job = |path: &str| json!({"type": "t", "deadlineAt": in_seconds(&app, 60), "callbackUrl": receiver.url(path)});
    let running = app.submit_id(job("/running")).await;
    let claimed = claim(&app, json!({"leaseSeconds": 600})).await.remove(0);
    let waiting = app.submit_id(job("/waiting")).await;
    app.pass(59);
    app.report(&claimed, "heartbeat", json!({})).await.ok(200);
    app.pass(1);
    assert!(app.claim(1).await.is_empty(), "past its deadline it is not handed out");

    for (job, path) in [(&running, "/running"), (&waiting, "/waiting")] {
        let expired = ended(&app, job).await;
        assert_eq!((&expired["status"], &expired["state"]), (&json!("failed"), &json!("expired")));
        assert_eq!(
            (&expired["errorInfo"]["code"], &expired["errorInfo"]["retryable"]),
            (&json!("deadline-passed"), &json!(false))
        );
        assert!(!expired["error"].as_str().unwrap().is_empty(), "{expired}");
        let told = receiver.wait(path, 1, LIMIT).await;
        assert_eq!(told[0].json()["type"], "job.expired");
    }
    for verb in ["heartbeat", "complete"] {
        app.report(&claimed, verb, json!({})).await.refused(409, "lease-lost", "");
    }
}

async fn an_external_job_lives_as_long_as_its_lease(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let wish = json!({"type": "ci.build", "worker": "external", "callbackUrl": receiver.url("/ci")});
    let accepted = app.submit(wish).await;
    let job = id(&accepted["jobId"]);
    assert_eq!((&accepted["status"], &accepted["state"]), (&json!("processing"), &json!("processing")));
    assert_eq!(accepted["leaseExpiresAt"], in_seconds(&app, 3_600), "an hour unless told otherwise");
    app.pass(3_599);
    let alive = app.report(&accepted, "heartbeat", json!({"progress": 40})).await.ok(200);
    assert_eq!(alive["leaseExpiresAt"], in_seconds(&app, 3_600));
    app.pass(3_599);
    assert_eq!(app.job(&job).await["progress"], 40);
    app.pass(1);

    let failed = ended(&app, &job).await;

    assert_eq!((&failed["status"], &failed["errorInfo"]["code"]), (&json!("failed"), &json!("worker-lost")));
    assert_eq!((&failed["errorInfo"]["retryable"], &failed["maxAttempts"]), (&json!(false), &json!(1)));
    let told = receiver.wait("/ci", 1, LIMIT).await;
    let body = told[0].json();
    assert_eq!((&body["type"], &body["data"]["jobId"]), (&json!("job.failed"), &json!(job)));
    assert_eq!(body["data"]["errorInfo"]["code"], "worker-lost");
    app.report(&accepted, "complete", json!({})).await.refused(409, "lease-lost", "");
    app.ask("POST", &format!("/v1/jobs/{job}/retry")).await.refused(409, "job-not-retryable", "");
}

async fn an_external_job_has_no_time_out(site: &Site) {
    let app = site.start_still().await;
    let accepted = app.submit(json!({"type": "t", "worker": "external", "timeoutSeconds": 1})).await;
    let swept = app.submit_id(json!({"type": "t", "timeoutSeconds": 1, "maxAttempts": 1})).await;
    claim(&app, json!({"leaseSeconds": 3_600})).await;
    app.pass(1_000);

    assert_eq!(ended(&app, &swept).await["errorInfo"]["code"], "timeout", "the sweep has looked");

    assert_eq!(app.job(&id(&accepted["jobId"])).await["state"], "processing");
    let alive = app.report(&accepted, "heartbeat", json!({})).await.ok(200);
    assert!(alive.get("deadlineAt").is_none(), "{alive}");
    app.report(&accepted, "complete", json!({"result": 1})).await.ok(200);
}

async fn an_external_job_ends_with_its_first_report(site: &Site) {
    let app = site.start().await;
    let accepted = app.submit(json!({"type": "t", "worker": "external", "maxAttempts": 5})).await;

    let failed = app.report(&accepted, "fail", json!({"error": "tests are red"})).await.ok(200);

    assert_eq!((&failed["state"], &failed["error"]), (&json!("failed"), &json!("tests are red")));
    assert_eq!((&failed["worker"], &failed["attempt"]), (&json!("external"), &json!(1)));
    assert!(app.claim(1).await.is_empty(), "it is nobody else's work");
}

async fn an_external_job_may_ask_for_its_lease(site: &Site) {
    let app = site.start_still().await;
    let accepted = app.submit(json!({"type": "t", "worker": "external", "leaseSeconds": 86_400})).await;
    assert_eq!(accepted["leaseExpiresAt"], in_seconds(&app, 86_400));
    let short = app.submit(json!({"type": "t", "worker": "external", "leaseSeconds": 60})).await;
    app.pass(60);

    let failed = ended(&app, &id(&short["jobId"])).await;

    assert_eq!(failed["errorInfo"]["code"], "worker-lost");
    assert_eq!(app.job(&id(&accepted["jobId"])).await["state"], "processing");
}
