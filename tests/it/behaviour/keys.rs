//! Who is let in: API keys, what they are narrowed to, and the tokens that open one job.

mod access;
mod issue;
mod lists;
mod narrow;
mod scopes;
mod secret;

use serde_json::Value;

use crate::support::app::{TestApp, id};

/// Every scope, in the order of the contract.
const SCOPES: [&str; 11] = [
    "jobs:write",
    "jobs:read",
    "work",
    "events:write",
    "endpoints:write",
    "endpoints:read",
    "deliveries:read",
    "deadletters:replay",
    "metrics:read",
    "admin",
    "operator",
];

/// Makes a key of the node's tenant as `wish` says; gives its secret.
pub async fn key(app: &TestApp, wish: Value) -> String {
    id(&app.post("/v1/keys", &wish).await.ok(201)["key"])
}
