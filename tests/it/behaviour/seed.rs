//! The seed's own requests and answers, word for word.

use serde_json::{Value, json};

use crate::support::app::{Site, both_engines, id};
use crate::support::ask::raw;

both_engines! { the_seeds_example_works_as_written, a_seed_conformant_poller_always_ends }

const ROUTE: &str = r#"
[[routes]]
path = "/api/reports/generate"
type = "report.generate"
status_path = "/api/reports/status/{jobId}"
"#;

async fn the_seeds_example_works_as_written(site: &Site) {
    let app = site.start_configured(ROUTE).await;
    let body = "{ \"reportType\": \"annual\", \"year\": 2025 }";
    let request = format!(
        "POST /api/reports/generate HTTP/1.1\r\nContent-Type: application/json\r\nHost: x\r\n\
         Authorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
        app.key,
        body.len()
    );

    let answer = raw(app.addr, request.as_bytes(), "}").await;

    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    let accepted: Value = serde_json::from_str(text).unwrap();
    let job = id(&accepted["jobId"]);
    assert!(head.starts_with("HTTP/1.1 202 Accepted"), "{head}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains(&format!("location: /api/reports/status/{}", job.to_lowercase())), "{head}");
    assert!(head.contains("retry-after: 5"), "{head}");
    assert_eq!(accepted["status"], "queued");
    assert_eq!(accepted["statusUrl"], format!("{}/api/reports/status/{job}", app.url));
    assert_eq!(accepted["estimatedSeconds"], 30);

    let claimed = app.claim_one().await;
    assert_eq!((&claimed["type"], &claimed["input"]["year"]), (&json!("report.generate"), &json!(2025)));
    app.report(&claimed, "heartbeat", json!({"progress": 50})).await.ok(200);
    let status = format!("/api/reports/status/{job}");
    let seen = app.get(&status).await.ok(200);
    assert_eq!((&seen["status"], &seen["progress"]), (&json!("processing"), &json!(50)));

    let pdf = app.ask("POST", &format!("/v1/jobs/{job}/complete")).text("application/pdf", "%PDF-1.7");
    pdf.header("lease-token", claimed["leaseToken"].as_str().unwrap()).await.ok(200);
    let seen = app.get(&status).await.ok(200);
    assert_eq!(seen["status"], "complete");
    assert_eq!(seen["resultUrl"], format!("{}/results/{job}.pdf", app.url));
    let result = app.get(&format!("/results/{job}.pdf")).await;
    assert_eq!((&result.body[..], result.header("content-type")), (&b"%PDF-1.7"[..], "application/pdf"));
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
