//! What workers claim and report.

use serde_json::json;

use crate::support::app::{Site, both_engines, id};

both_engines! {
    what_a_program_printed_is_taken_as_it_is,
    a_released_external_job_has_failed,
    a_made_up_lease_tells_nothing,
}

async fn what_a_program_printed_is_taken_as_it_is(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t", "maxAttempts": 1})).await;
    let claimed = app.claim_one().await;

    app.report(&claimed, "heartbeat", json!({"message": "\u{1b}[32mhalf\u{1b}[0m"})).await.ok(200);
    assert_eq!(app.job(&job).await["message"], "\u{fffd}[32mhalf\u{fffd}[0m");
    app.report(&claimed, "heartbeat", json!({"message": "x".repeat(1_001)})).await.refused(
        422,
        "validation-failed",
        "/message",
    );
    app.report(&claimed, "fail", json!({"error": "a\n\tb\u{0}\u{1b}[31mred"})).await.ok(200);
    assert_eq!(app.job(&job).await["error"], "a\n\tb\u{fffd}\u{fffd}[31mred");
}

async fn a_released_external_job_has_failed(site: &Site) {
    let app = site.start().await;
    let accepted = app.submit(json!({"type": "ci.build", "worker": "external"})).await;

    app.report(&accepted, "release", json!({})).await.ok(200);

    let seen = app.job(&id(&accepted["jobId"])).await;
    assert_eq!((&seen["status"], &seen["error"]), (&json!("failed"), &json!("released by its holder")));
    assert_eq!(seen["errorInfo"], json!({"code": "released", "retryable": false, "attempt": 1}));
    assert!(app.claim(1).await.is_empty(), "nobody else can do it");
}

async fn a_made_up_lease_tells_nothing(site: &Site) {
    let app = site.start_still().await;
    let made_up = format!("rbl_{}", "A".repeat(32));
    let gone = app.completed(json!({"type": "t", "retainSeconds": 60})).await;
    app.pass(120);
    let there = app.submit_id(json!({"type": "t"})).await;
    let missing = format!("{}00", &there[..28]);

    for job in [&gone, &there, &missing] {
        for (verb, more) in
            [("heartbeat", json!({})), ("fail", json!({"error": "x"})), ("release", json!({}))]
        {
            let report = json!({"jobId": job, "leaseToken": made_up});
            app.report(&report, verb, more).nobody().await.refused(409, "lease-lost", "");
        }
    }
    let report = json!({"jobId": missing, "leaseToken": made_up});
    app.report(&report, "release", json!({})).await.refused(404, "job-not-found", "");
}
