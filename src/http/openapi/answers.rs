//! What an answer of each operation may look like. A test reads them as a client does.

use serde_json::{Value, json};

use super::examples::{JOB, Named, TOKEN};
use crate::types::problem::{ProblemBody, ProblemCode};

const CREATED: &str = "2026-01-01T00:00:00.000Z";
const STARTED: &str = "2026-01-01T00:00:02.000Z";
const LATER: &str = "2026-01-01T00:00:32.000Z";
const EXPIRES: &str = "2026-01-08T00:00:32.000Z";

/// The examples of the JSON that an operation answers with that status: name, summary, value.
pub fn of(id: &str, status: &str) -> Vec<Named> {
    match (id, status) {
        ("submitJob", "202") => vec![
            ("accepted", "Stored; poll, or wait for the reply", accepted()),
            ("external", "An external job, with its lease", external()),
        ],
        ("submitOperation", "202") => vec![("accepted", "Stored; poll, or wait for the reply", accepted())],
        ("submitJob" | "submitOperation", "200") => {
            vec![("complete", "With `Prefer: wait=N`, once it has ended", complete())]
        }
        ("submitBatch", "202") => {
            let refused = problem(ProblemCode::ValidationFailed, Some("/jobs/1/type"));
            vec![("mixed", "One stored, one refused", json!({ "items": [accepted(), refused] }))]
        }
        ("getJob", "200") => vec![
            ("processing", "A worker is at it", processing()),
            ("complete", "It has a result", complete()),
            ("failed", "It has none", failed()),
        ],
        ("listJobs", "200") => {
            vec![("page", "The first of several pages", page(&complete(), Some("eyJ2IjoxfQ")))]
        }
        ("cancelJob" | "deleteJob", "200") => vec![("cancelled", "It was not begun", cancelled())],
        ("cancelJob" | "deleteJob", "202") => vec![("asked", "Its worker is told", cancelling())],
        ("retryJob", "202") => vec![("queued", "It waits for its next attempt", queued())],
        ("listJobEvents", "200") => vec![("page", "All there is", page(&event(), None))],
        ("publishEvent", "202") => vec![("accepted", "To how many endpoints it goes", published())],
        ("publishEvents", "202") => {
            vec![("accepted", "In the order of the request", json!({ "items": [published()] }))]
        }
        _ => of_work(id, status),
    }
}

fn of_work(id: &str, status: &str) -> Vec<Named> {
    match (id, status) {
        ("claimJobs", "200") => vec![
            ("one", "One job in the worker's hands", json!({ "jobs": [claimed()] })),
            ("none", "Nothing was there in time", json!({ "jobs": [] })),
        ],
        ("heartbeat", "200") => vec![("alive", "Go on", alive())],
        ("completeJob", "200") => vec![("complete", "Done", complete())],
        ("failJob", "200") => vec![("failed", "No other attempt comes", failed())],
        ("releaseJob", "200") => vec![("queued", "It waits for the next worker", queued())],
        ("ackJobs", "200") => {
            let lost = problem(ProblemCode::LeaseLost, None);
            vec![("mixed", "One done, one too late", json!({ "items": [complete(), lost] }))]
        }
        ("listQueues", "200") => vec![("page", "All there is", page(&queue(), None))],
        ("getQueue" | "changeQueue" | "resumeQueue", "200") => vec![("open", "It hands out jobs", queue())],
        ("pauseQueue", "200") => vec![("paused", "It does not", paused())],
        _ => Vec::new(),
    }
}

/// A problem document.
pub fn problem(code: ProblemCode, at: Option<&str>) -> Value {
    let errors = at.map(|pointer| json!([{ "pointer": pointer, "detail": "is missing" }]));
    let body = ProblemBody {
        kind: format!("/problems/{}", code.slug()),
        title: code.title().to_owned(),
        status: code.status(),
        detail: at.map(|pointer| format!("{pointer}: is missing")),
        code,
        errors: errors.and_then(|errors| serde_json::from_value(errors).ok()).unwrap_or_default(),
        request_id: None,
    };
    serde_json::to_value(body).unwrap_or_default()
}

/// `base` with the members of `more`.
fn with(mut base: Value, more: Value) -> Value {
    if let (Some(base), Value::Object(more)) = (base.as_object_mut(), more) {
        base.extend(more);
    }
    base
}

fn page(item: &Value, next: Option<&str>) -> Value {
    json!({ "items": [item], "nextCursor": next })
}

fn accepted() -> Value {
    json!({ "jobId": JOB, "status": "queued", "statusUrl": format!("https://api.example.com/v1/jobs/{JOB}"),
        "estimatedSeconds": 30, "state": "queued", "createdAt": CREATED, "accessToken": "rbj_AAAA" })
}

fn external() -> Value {
    let lease = json!({ "status": "processing", "state": "processing", "leaseToken": TOKEN, "leaseExpiresAt": LATER });
    with(accepted(), lease)
}

fn queued() -> Value {
    json!({ "jobId": JOB, "status": "queued", "createdAt": CREATED, "state": "queued", "type": "report.generate",
        "queue": "default", "ref": "build-4711", "priority": 0, "worker": "pull", "attempt": 0, "maxAttempts": 3,
        "sequence": 1, "metadata": { "team": "billing" }, "estimatedSeconds": 30 })
}

fn processing() -> Value {
    let more = json!({ "status": "processing", "state": "processing", "progress": 50, "message": "page 6 of 12",
        "attempt": 1, "startedAt": STARTED, "sequence": 3 });
    with(queued(), more)
}

fn cancelling() -> Value {
    with(processing(), json!({ "cancelRequested": true }))
}

/// A job that has ended after one attempt.
fn ended(more: Value) -> Value {
    let ended = json!({ "attempt": 1, "startedAt": STARTED, "sequence": 4, "completedAt": LATER, "expiresAt": EXPIRES });
    with(with(queued(), ended), more)
}

fn complete() -> Value {
    ended(json!({ "status": "complete", "state": "complete",
        "resultUrl": format!("https://api.example.com/results/{JOB}.json") }))
}

fn failed() -> Value {
    ended(json!({ "status": "failed", "state": "failed", "error": "Report data not found for year 2025",
        "errorInfo": { "code": "data_not_found", "retryable": false, "attempt": 1 } }))
}

fn cancelled() -> Value {
    let more = json!({ "status": "failed", "state": "cancelled", "error": "ordered twice", "sequence": 2,
        "errorInfo": { "code": "cancelled", "retryable": false, "attempt": 0 },
        "completedAt": LATER, "expiresAt": EXPIRES });
    with(queued(), more)
}

fn event() -> Value {
    json!({ "type": "job.queued", "timestamp": CREATED, "eventId": "evt_01H455VB4PEX5VSKNK084SN02Q", "jobId": JOB,
        "sequence": 1, "data": queued() })
}

fn published() -> Value {
    json!({ "eventId": "evt_01H455VB4PEX5VSKNK084SN02Q", "deliveries": 2 })
}

fn claimed() -> Value {
    json!({ "jobId": JOB, "type": "report.generate", "input": { "reportType": "annual", "year": 2025 }, "attempt": 1,
        "leaseToken": TOKEN, "leaseExpiresAt": LATER, "deadlineAt": "2026-01-01T00:10:02.000Z", "ref": "build-4711",
        "metadata": { "team": "billing" } })
}

fn alive() -> Value {
    json!({ "leaseExpiresAt": LATER, "cancelRequested": false, "deadlineAt": "2026-01-01T00:10:02.000Z" })
}

fn queue() -> Value {
    json!({ "queue": "reports", "state": "open", "maxInFlight": 20, "depth": 3, "scheduled": 1, "processing": 20,
        "oldestDue": CREATED, "oldestAgeSeconds": 2, "waitP50Ms": 40, "waitP95Ms": 900, "runP50Ms": 9_000,
        "runP95Ms": 31_000 })
}

fn paused() -> Value {
    with(queue(), json!({ "state": "paused", "pausedUntil": "2026-01-01T01:00:00.000Z" }))
}
