//! The seed's own requests and answers, word for word.

use serde_json::{Value, json};

use crate::support::app::{Site, TestApp, both_engines, id, instant};
use crate::support::ask::raw;

both_engines! {
    the_seeds_example_works_as_written,
    the_seeds_failure_is_told_word_for_word,
    the_seeds_repeat_gets_the_existing_job,
    a_seed_conformant_poller_always_ends,
}

const ROUTE: &str = r#"
[[routes]]
path = "/api/reports/generate"
type = "report.generate"
status_path = "/api/reports/status/{jobId}"
"#;

/// `POST /api/reports/generate` as the seed prints it, with what HTTP and the key need besides.
async fn generate(app: &TestApp, more: &str) -> (String, Value) {
    let body = "{ \"reportType\": \"annual\", \"year\": 2025 }";
    let request = format!(
        "POST /api/reports/generate HTTP/1.1\r\nContent-Type: application/json\r\nHost: x\r\n\
         Authorization: Bearer {}\r\n{more}Content-Length: {}\r\n\r\n{body}",
        app.key,
        body.len()
    );
    let answer = raw(app.addr, request.as_bytes(), "}").await;
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), serde_json::from_str(text).unwrap())
}

/// The value of a field of a raw head.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Only what the seed's `JobStatus` has, of an answer to `GET /api/jobs/:jobId`.
async fn job_status(app: &TestApp, job: &str) -> Value {
    let reply = app.get(&format!("/api/jobs/{job}")).await;
    let mut seen = reply.ok(200);
    assert_eq!(reply.header("content-type"), "application/json");
    let known = ["jobId", "status", "progress", "resultUrl", "error", "createdAt", "completedAt"];
    seen.as_object_mut().unwrap().retain(|name, _| known.contains(&name.as_str()));
    seen
}

async fn the_seeds_example_works_as_written(site: &Site) {
    let app = site.start_configured(ROUTE).await;

    let (head, accepted) = generate(&app, "").await;

    let job = id(&accepted["jobId"]);
    assert!(head.starts_with("HTTP/1.1 202 Accepted\r\n"), "{head}");
    assert_eq!(field(&head, "Location"), Some(format!("/api/reports/status/{job}").as_str()));
    assert_eq!(field(&head, "Retry-After"), Some("5"));
    assert!(job.starts_with("job_"), "{job}");
    assert_eq!(accepted["status"], "queued");
    assert_eq!(accepted["statusUrl"], format!("{}/api/reports/status/{job}", app.url));
    assert_eq!(accepted["estimatedSeconds"], 30);
    let created = accepted["createdAt"].clone();
    assert_eq!(job_status(&app, &job).await, json!({"jobId": job, "status": "queued", "createdAt": created}));

    let claimed = app.claim_one().await;
    assert_eq!(claimed["type"], "report.generate");
    assert_eq!(claimed["input"], json!({"reportType": "annual", "year": 2025}));
    let processing = json!({"jobId": job, "status": "processing", "createdAt": created});
    assert_eq!(job_status(&app, &job).await, processing, "no progress before one is known");
    app.report(&claimed, "heartbeat", json!({"progress": 50})).await.ok(200);
    let halfway = json!({"jobId": job, "status": "processing", "progress": 50, "createdAt": created});
    assert_eq!(job_status(&app, &job).await, halfway);

    let pdf = app.ask("POST", &format!("/v1/jobs/{job}/complete")).text("application/pdf", "%PDF-1.7");
    pdf.header("lease-token", claimed["leaseToken"].as_str().unwrap()).await.ok(200);
    let mut complete = job_status(&app, &job).await;
    assert!(instant(&complete["completedAt"].take()) >= instant(&created));
    let url = complete["resultUrl"].as_str().unwrap().strip_prefix(&app.url).unwrap().to_owned();
    assert_eq!(url, format!("/results/{job}.pdf"));
    let wanted = json!({"jobId": job, "status": "complete", "resultUrl": format!("{}{url}", app.url),
        "createdAt": created, "completedAt": null});
    assert_eq!(complete, wanted);
    let result = app.get(&url).await;
    assert_eq!((&result.body[..], result.header("content-type")), (&b"%PDF-1.7"[..], "application/pdf"));
    let whole = app.job(&job).await;
    assert_eq!(app.get(&format!("/api/reports/status/{job}")).await.ok(200), whole, "one job, every path");
    assert_eq!(app.get(&format!("/api/jobs/{job}")).await.ok(200), whole);
}

async fn the_seeds_failure_is_told_word_for_word(site: &Site) {
    let app = site.start_configured(ROUTE).await;
    let (_, accepted) = generate(&app, "").await;
    let job = id(&accepted["jobId"]);
    let claimed = app.claim_one().await;
    let why = json!({"error": "Report data not found for year 2025", "retryable": false});
    app.report(&claimed, "fail", why).await.ok(200);

    let mut failed = job_status(&app, &job).await;

    assert!(instant(&failed["completedAt"].take()) >= instant(&accepted["createdAt"]));
    let wanted = json!({"jobId": job, "status": "failed", "error": "Report data not found for year 2025",
        "createdAt": accepted["createdAt"], "completedAt": null});
    assert_eq!(failed, wanted);
}

/// "The server stores the key and returns the existing job ID if the same key is submitted again."
async fn the_seeds_repeat_gets_the_existing_job(site: &Site) {
    let app = site.start_configured(ROUTE).await;
    let key = "Idempotency-Key: 0b8f7c1e-6a55-4f0e-9d3c-3a1f2b7f9f10\r\n";

    let (head, first) = generate(&app, key).await;
    let (again, repeated) = generate(&app, key).await;
    let (_, other) = generate(&app, "").await;

    assert_eq!(repeated, first);
    assert!(again.starts_with("HTTP/1.1 202 Accepted\r\n"), "{again}");
    for name in ["Location", "Retry-After"] {
        assert_eq!(field(&again, name), field(&head, name), "{name}");
    }
    assert_eq!(
        (field(&head, "Idempotent-Replayed"), field(&again, "Idempotent-Replayed")),
        (None, Some("true"))
    );
    assert_ne!(other["jobId"], first["jobId"]);
    assert_eq!(app.items("/api/jobs").await.len(), 2);
}

async fn a_seed_conformant_poller_always_ends(site: &Site) {
    let app = site.start_still().await;
    let words = ["queued", "processing", "complete", "failed"];

    let failed = app.submit_id(json!({"type": "t", "maxAttempts": 1})).await;
    let claimed = app.claim_one().await;
    let why = "Report data not found for year 2025";
    app.report(&claimed, "fail", json!({"error": why, "retryable": false})).await.ok(200);
    let cancelled = app.submit_id(json!({"type": "t"})).await;
    app.post(&format!("/v1/jobs/{cancelled}/cancel"), &json!({})).await.ok(200);
    let deadline = app.clock.now().plus(std::time::Duration::from_secs(5));
    let expired = app.submit_id(json!({"type": "t", "deadlineAt": deadline})).await;
    app.pass(10);

    for (job, state) in [(&failed, "failed"), (&cancelled, "cancelled"), (&expired, "expired")] {
        let reply = app.get(&format!("/v1/jobs/{job}")).header("prefer", "wait=10").await;
        let seen = reply.ok(200);
        assert_eq!((&seen["status"], &seen["state"]), (&json!("failed"), &json!(state)), "{seen}");
        assert!(words.contains(&seen["status"].as_str().unwrap()));
        assert!(!seen["error"].as_str().unwrap().is_empty(), "{seen}");
        assert!(seen["completedAt"].is_string() && seen.get("progress").is_none(), "{seen}");
    }
    assert_eq!(app.job(&failed).await["error"], why);
}
