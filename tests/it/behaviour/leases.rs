//! The workers' side over HTTP: claim, stay alive, report, lose the lease.

mod claim;
mod ends;
mod lost;
mod refusals;
mod reports;
mod token;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::TestApp;

/// Claims of the default queue whatever `wish` says.
async fn claim(app: &TestApp, wish: Value) -> Vec<Value> {
    let claimed = app.post("/v1/queues/default/claim", &wish).await.ok(200);
    claimed["jobs"].as_array().unwrap().clone()
}

/// The instant in so many seconds, as it stands in JSON.
fn in_seconds(app: &TestApp, seconds: u64) -> Value {
    json!(app.clock.now().plus(Duration::from_secs(seconds)))
}

/// The job with its entity tag: nothing of the representation changed if both are the same.
async fn seen(app: &TestApp, job: &str) -> (String, Value) {
    let reply = app.get(&format!("/v1/jobs/{job}")).await;
    (reply.header("etag").to_owned(), reply.ok(200))
}

/// The job once it has ended; the node's sweep looks every second.
async fn ended(app: &TestApp, job: &str) -> Value {
    app.get(&format!("/v1/jobs/{job}")).header("prefer", "wait=15").await.ok(200)
}
