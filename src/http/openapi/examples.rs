//! What a request of each operation may look like. A test takes them out of the document and sends them.

use serde_json::{Value, json};

/// Stands for the token of the job's claim.
pub const TOKEN: &str = "rbl_AAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAA";
/// Stands for a job.
pub const JOB: &str = "job_01H455VB4PEX5VSKNK084SN02Q";

/// Name, summary, value.
pub type Named = (&'static str, &'static str, Value);

/// The examples of an operation's body: name, summary, value.
pub fn of(id: &str) -> Vec<Named> {
    match id {
        "submitJob" => vec![("short", "A reply to one URL", short()), ("long", "Everything", long())],
        "submitBatch" => vec![("two", "Two jobs, all or none", batch())],
        "submitOperation" => {
            vec![("input", "The body is the input", json!({ "reportType": "annual", "year": 2025 }))]
        }
        "cancelJob" | "deleteJob" => vec![("reason", "With a reason", json!({ "reason": "ordered twice" }))],
        "claimJobs" | "heartbeat" | "completeJob" | "failJob" | "releaseJob" | "ackJobs" => of_worker(id),
        "changeQueue" | "pauseQueue" | "pauseLane" => of_queue(id),
        "createEndpoint" | "changeEndpoint" | "rotateEndpointSecret" => of_endpoint(id),
        "publishEvent" | "publishEvents" => of_event(id),
        "replayDeadLetters" => vec![
            ("count", "Only count", json!({ "filter": { "host": "hooks.example.com" }, "dryRun": true })),
            ("send", "At a rate", json!({ "filter": { "reason": "exhausted" }, "ratePerSecond": 50 })),
        ],
        "replayDeliveries" => vec![(
            "delivered",
            "What was delivered within an hour, once more",
            json!({ "filter": { "state": "delivered", "host": "hooks.example.com",
                "since": "2026-01-01T00:00:00.000Z", "until": "2026-01-01T01:00:00.000Z" }, "dryRun": true }),
        )],
        "createKey" => vec![(
            "worker",
            "For the workers of one queue",
            json!({ "name": "report workers", "scopes": ["work"], "queues": ["reports"] }),
        )],
        "createTenantKey" => vec![(
            "admin",
            "For the tenant's own administrators",
            json!({ "name": "first", "scopes": ["admin"], "expiresAt": "2099-01-01T00:00:00.000Z" }),
        )],
        "createTenant" => vec![("tenant", "By its name", json!({ "name": "acme" }))],
        "rotateWebhookSecret" => {
            vec![("hour", "The old one signs for an hour more", json!({ "overlapSeconds": 3600 }))]
        }
        _ => Vec::new(),
    }
}

/// The seed's example with its reply.
pub fn short() -> Value {
    json!({ "type": "report.generate", "input": { "reportType": "annual", "year": 2025 },
        "callbackUrl": "https://hooks.example.com/reports", "ref": "build-4711" })
}

fn long() -> Value {
    json!({
        "type": "report.generate", "input": { "reportType": "annual", "year": 2025 },
        "callback": {
            "url": "https://hooks.example.com/reports", "secret": "whsec_t9Iu17CQUB91WZZiPLt2TUScuZ21l6aI5BIkx/iyoWg=",
            "events": ["job.completed", "job.failed"], "headers": { "X-Env": "prod" }, "payload": "full",
            "format": "standard", "context": { "orderId": "o-1" },
            "retry": { "maxAttempts": 5, "initialSeconds": 5, "factor": 4, "maxSeconds": 600 },
        },
        "queue": "default", "ref": "build-4711", "priority": 1, "timeoutSeconds": 600, "maxAttempts": 3,
        "metadata": { "team": "billing" }, "retainSeconds": 604_800, "worker": "pull",
    })
}

fn batch() -> Value {
    let one = |year: u32| json!({ "type": "report.generate", "input": { "year": year } });
    json!({ "atomic": true, "jobs": [one(2024), one(2025)] })
}

fn of_worker(id: &str) -> Vec<Named> {
    match id {
        "claimJobs" => vec![(
            "wait",
            "Up to ten jobs, waiting for the first",
            json!({ "workerId": "w-1", "max": 10, "types": ["report.generate"], "leaseSeconds": 30, "waitSeconds": 20 }),
        )],
        "heartbeat" => vec![(
            "progress",
            "Alive and half done",
            json!({ "leaseToken": TOKEN, "progress": 50, "message": "page 6 of 12" }),
        )],
        "completeJob" => vec![
            ("result", "The result itself", json!({ "leaseToken": TOKEN, "result": { "pages": 12 } })),
            (
                "elsewhere",
                "Where the result is kept",
                json!({ "leaseToken": TOKEN, "resultUrl": "https://files.example.com/annual-2025.pdf" }),
            ),
        ],
        "failJob" => vec![(
            "final",
            "No other attempt would help",
            json!({ "leaseToken": TOKEN, "error": "Report data not found for year 2025",
                "errorCode": "data_not_found", "retryable": false }),
        )],
        "releaseJob" => vec![("later", "In a minute", json!({ "leaseToken": TOKEN, "delaySeconds": 60 }))],
        _ => vec![(
            "one",
            "One outcome of many",
            json!({ "items": [{ "op": "complete", "jobId": JOB, "leaseToken": TOKEN, "result": { "pages": 12 } }] }),
        )],
    }
}

fn of_queue(id: &str) -> Vec<Named> {
    match id {
        "changeQueue" => vec![
            ("limit", "At most 20 at once", json!({ "maxInFlight": 20 })),
            ("free", "No limit", json!({ "maxInFlight": null })),
        ],
        _ => vec![("open", "Until someone resumes it", json!({}))],
    }
}

fn of_event(id: &str) -> Vec<Named> {
    let paid = || json!({ "type": "invoice.paid", "data": { "invoiceId": "in-7", "amount": 1200 } });
    match id {
        "publishEvent" => vec![
            ("least", "To the endpoints that have no account", paid()),
            (
                "account",
                "To those of one account, once however often it is sent",
                json!({ "type": "invoice.paid", "data": { "invoiceId": "in-7" }, "account": "acme", "id": "in-7/paid" }),
            ),
        ],
        _ => vec![("two", "Two events, all or none", json!({ "atomic": true, "events": [paid(), paid()] }))],
    }
}

fn of_endpoint(id: &str) -> Vec<Named> {
    match id {
        "createEndpoint" => vec![
            ("least", "Every event", json!({ "url": "https://hooks.example.com/events" })),
            (
                "account",
                "The invoices of one account, in their order",
                json!({ "url": "https://hooks.example.com/books", "account": "acme", "events": ["invoice.*"],
                    "description": "Acme's books", "headers": { "X-Env": "prod" }, "rateLimitPerSecond": 20,
                    "maxInFlight": 5, "timeoutSeconds": 10, "schemes": ["v1", "github"], "ordered": true }),
            ),
        ],
        "changeEndpoint" => vec![
            ("faster", "Another limit", json!({ "rateLimitPerSecond": 50 })),
            ("free", "No limit", json!({ "rateLimitPerSecond": null })),
        ],
        _ => vec![("hour", "The old one signs for an hour more", json!({ "overlapSeconds": 3600 }))],
    }
}
