//! The OpenAPI document against what is served and what the contract says.

use std::collections::{BTreeMap, BTreeSet};

use ringback::types::job::JobEvent;
use ringback::types::key::Scope;
use serde_json::{Value, json};

use crate::support::app::{Site, TestApp, both_engines};

both_engines! {
    the_document_lists_every_route_of_the_contract,
    every_operation_tells_its_scope_and_its_problems,
    every_described_route_is_served_and_closed,
    replies_are_described,
    configured_routes_are_described,
}

/// What `docs/api.md` names, with the scope each needs; none for what is open to everyone.
const ROUTES: &[(&str, &str)] = &[
    ("POST /v1/jobs", "jobs:write"),
    ("POST /api/jobs", "jobs:write"),
    ("POST /v1/operations/{type}", "jobs:write"),
    ("POST /v1/jobs/batch", "jobs:write"),
    ("GET /v1/jobs/{jobId}", "jobs:read"),
    ("GET /api/jobs/{jobId}", "jobs:read"),
    ("GET /v1/jobs/{jobId}/result", "jobs:read"),
    ("GET /results/{file}", "jobs:read"),
    ("GET /v1/jobs/{jobId}/events", "jobs:read"),
    ("GET /v1/ws", "jobs:read"),
    ("GET /v1/jobs/{jobId}/deliveries", "deliveries:read"),
    ("GET /v1/jobs", "jobs:read"),
    ("GET /api/jobs", "jobs:read"),
    ("POST /v1/jobs/{jobId}/cancel", "jobs:write"),
    ("DELETE /v1/jobs/{jobId}", "jobs:write"),
    ("DELETE /api/jobs/{jobId}", "jobs:write"),
    ("POST /v1/jobs/{jobId}/retry", "jobs:write"),
    ("GET /v1/queues", "jobs:read"),
    ("GET /v1/queues/{queue}", "jobs:read"),
    ("PATCH /v1/queues/{queue}", "admin"),
    ("POST /v1/queues/{queue}/pause", "admin"),
    ("POST /v1/queues/{queue}/resume", "admin"),
    ("POST /v1/queues/{queue}/claim", "work"),
    ("POST /v1/jobs/{jobId}/heartbeat", "work"),
    ("POST /v1/jobs/{jobId}/complete", "work"),
    ("POST /v1/jobs/{jobId}/fail", "work"),
    ("POST /v1/jobs/{jobId}/release", "work"),
    ("POST /v1/leases/ack", "work"),
    ("GET /v1/deliveries", "deliveries:read"),
    ("GET /v1/deliveries/{deliveryId}", "deliveries:read"),
    ("GET /v1/deliveries/{deliveryId}/explain", "deliveries:read"),
    ("POST /v1/deliveries/{deliveryId}/retry", "deadletters:replay"),
    ("POST /v1/deliveries/{deliveryId}/cancel", "deadletters:replay"),
    ("GET /v1/lanes", "deliveries:read"),
    ("POST /v1/lanes/{laneId}/pause", "endpoints:write"),
    ("POST /v1/lanes/{laneId}/resume", "endpoints:write"),
    ("GET /v1/dead-letters", "deliveries:read"),
    ("GET /v1/dead-letters/{deliveryId}", "deliveries:read"),
    ("DELETE /v1/dead-letters/{deliveryId}", "deadletters:replay"),
    ("GET /v1/dead-letters/outages", "deliveries:read"),
    ("POST /v1/dead-letters/replay", "deadletters:replay"),
    ("POST /v1/deliveries/replay", "deadletters:replay"),
    ("GET /v1/redrives", "deliveries:read"),
    ("GET /v1/redrives/{redriveId}", "deliveries:read"),
    ("DELETE /v1/redrives/{redriveId}", "deadletters:replay"),
    ("POST /v1/events", "events:write"),
    ("POST /v1/events/batch", "events:write"),
    ("GET /v1/events", "deliveries:read"),
    ("GET /v1/endpoints", "endpoints:read"),
    ("POST /v1/endpoints", "endpoints:write"),
    ("GET /v1/endpoints/{endpointId}", "endpoints:read"),
    ("PATCH /v1/endpoints/{endpointId}", "endpoints:write"),
    ("DELETE /v1/endpoints/{endpointId}", "endpoints:write"),
    ("POST /v1/endpoints/{endpointId}/rotate-secret", "endpoints:write"),
    ("POST /v1/endpoints/{endpointId}/pause", "endpoints:write"),
    ("POST /v1/endpoints/{endpointId}/resume", "endpoints:write"),
    ("POST /v1/endpoints/{endpointId}/test", "endpoints:write"),
    ("POST /v1/endpoints/{endpointId}/verify", "endpoints:write"),
    ("GET /v1/keys", "admin"),
    ("POST /v1/keys", "admin"),
    ("DELETE /v1/keys/{keyId}", "admin"),
    ("GET /v1/keys/{keyId}", "admin"),
    ("GET /v1/tenants", "operator"),
    ("POST /v1/tenants", "operator"),
    ("GET /v1/tenants/{tenantId}", "operator"),
    ("GET /v1/tenants/{tenantId}/keys", "operator"),
    ("POST /v1/tenants/{tenantId}/keys", "operator"),
    ("GET /v1/tenants/{tenantId}/keys/{keyId}", "operator"),
    ("DELETE /v1/tenants/{tenantId}/keys/{keyId}", "operator"),
    ("GET /v1/tenants/self/webhook-secret", "admin"),
    ("POST /v1/tenants/self/rotate-secret", "admin"),
    ("POST /v1/tenants/self/webhook-secret/rotate-secret", "admin"),
    ("GET /livez", ""),
    ("GET /readyz", ""),
    ("GET /healthz", ""),
    ("GET /metrics", "metrics:read"),
    ("GET /openapi.json", ""),
    ("GET /docs", ""),
];

async fn document(app: &TestApp) -> Value {
    app.get("/openapi.json").await.ok(200)
}

/// `METHOD /path` and its operation.
fn operations(document: &Value) -> BTreeMap<String, Value> {
    let paths = document["paths"].as_object().unwrap();
    let of = |(path, item): (&String, &Value)| {
        let of_path = item.as_object().unwrap().clone();
        let path = path.clone();
        of_path.into_iter().map(move |(method, o)| (format!("{} {path}", method.to_uppercase()), o))
    };
    paths.iter().flat_map(of).collect()
}

async fn the_document_lists_every_route_of_the_contract(site: &Site) {
    let document = document(&site.start().await).await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let described: BTreeSet<String> = operations(&document).into_keys().collect();
    let wanted: BTreeSet<String> = ROUTES.iter().map(|(route, _)| (*route).to_owned()).collect();
    assert_eq!(described, wanted);
}

async fn every_operation_tells_its_scope_and_its_problems(site: &Site) {
    let document = document(&site.start().await).await;
    let scopes: BTreeMap<&str, &str> = ROUTES.iter().copied().collect();
    let mut ids = BTreeSet::new();
    for (route, operation) in operations(&document) {
        assert!(
            ids.insert(operation["operationId"].as_str().unwrap().to_owned()),
            "{route}: {}",
            operation["operationId"]
        );
        let scope = scopes[route.as_str()];
        if scope.is_empty() {
            assert!(operation.get("security").is_none(), "{route}");
        } else {
            assert!(Scope::ALL.iter().any(|known| known.as_str() == scope));
            let security = operation["security"].as_array().unwrap();
            assert!(security.contains(&json!({"apiKey": [scope]})), "{route}: {security:?}");
            let or = if route == "GET /metrics" { " or `operator`" } else { "" };
            let told = format!("Scope: `{scope}`{or}.");
            assert!(operation["description"].as_str().unwrap().ends_with(&told), "{route}");
        }
        answers(&route, scope, &operation["responses"]);
    }
    references(&document, &document);
}

/// What every operation may answer, and what every answer has.
fn answers(route: &str, scope: &str, responses: &Value) {
    let wanted = ["431", "500", "503", "400", "401", "403"];
    for status in &wanted[..if scope.is_empty() { 3 } else { 6 }] {
        assert!(responses.get(*status).is_some(), "{route}: no {status}");
    }
    for (status, response) in responses.as_object().unwrap() {
        assert!(!response["description"].as_str().unwrap().is_empty(), "{route} {status}");
        assert_eq!(response["headers"]["Request-Id"]["schema"]["type"], "string", "{route} {status}");
        if matches!(status.as_str(), "429" | "503") {
            assert_eq!(response["headers"]["Retry-After"]["schema"]["type"], "integer", "{route} {status}");
        }
        if status.starts_with(['4', '5']) {
            let problem = &response["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(problem, "#/components/schemas/ProblemBody", "{route} {status}");
        }
    }
}

/// Every `$ref` leads somewhere.
fn references(document: &Value, at: &Value) {
    match at {
        Value::Object(members) => {
            for (name, value) in members {
                if let (true, Some(to)) = (name == "$ref", value.as_str()) {
                    assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
                }
                references(document, value);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(document, item)),
        _ => {}
    }
}

async fn every_described_route_is_served_and_closed(site: &Site) {
    let app = site.start_serving().await;
    for (route, scope) in ROUTES {
        let (method, template) = route.split_once(' ').unwrap();
        let path = template
            .replace("{jobId}", "job_01H455VB4PEX5VSKNK084SN02Q")
            .replace("{file}", "job_01H455VB4PEX5VSKNK084SN02Q.json")
            .replace("{deliveryId}", "dlv_01H455VB4PEX5VSKNK084SN02Q")
            .replace("{redriveId}", "rdr_01H455VB4PEX5VSKNK084SN02Q")
            .replace("{keyId}", "key_01H455VB4PEX5VSKNK084SN02Q")
            .replace("{endpointId}", "ep_01H455VB4PEX5VSKNK084SN02Q")
            .replace("{tenantId}", "ten_01H455VB4PEX5VSKNK084SN02Q")
            .replace("{laneId}", "lane_01H455VB4PEX5VSKNK084SN02Q")
            .replace("{queue}", "default")
            .replace("{type}", "t");
        let reply = app.ask(method, &path).nobody().await;
        if scope.is_empty() {
            assert_eq!(reply.status, 200, "{reply:?}");
            continue;
        }
        reply.refused(401, "unauthorized", "");
        if path != "/metrics" {
            let nonsense = app.ask(method, &format!("{path}?nonsense=1")).json(&json!({})).await;
            nonsense.refused(400, "invalid-request", "?nonsense");
        }
    }
}

async fn replies_are_described(site: &Site) {
    let document = document(&site.start().await).await;
    let of = |path: &str| document["paths"][path]["post"]["callbacks"]["reply"].clone();
    for path in ["/v1/jobs", "/api/jobs"] {
        let replies = of(path);
        let expressions: Vec<&String> = replies.as_object().unwrap().keys().collect();
        assert_eq!(expressions, ["{$request.body#/callback/url}", "{$request.body#/callbackUrl}"]);
    }
    let operation = of("/v1/operations/{type}");
    let webhooks = document["webhooks"].as_object().unwrap();
    let names: BTreeSet<&str> = webhooks.keys().map(String::as_str).collect();
    let jobs = JobEvent::ALL.iter().map(|event| event.as_str());
    assert_eq!(names, jobs.chain(["delivery.dead"]).collect());
    for post in webhooks
        .iter()
        .filter(|(name, _)| name.starts_with("job."))
        .map(|(_, hook)| &hook["post"])
        .chain([&operation["{$request.header.Callback-Url}"]["post"]])
    {
        let headers: Vec<&str> =
            post["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(headers, ["webhook-id", "webhook-timestamp", "webhook-signature", "webhook-attempt"]);
        let body = &post["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        assert_eq!(body, "#/components/schemas/Event");
        assert!(post["responses"]["2XX"].is_object() && post["responses"]["410"].is_object(), "{post}");
    }
}

async fn configured_routes_are_described(site: &Site) {
    let example = include_str!("../../../../config.example.toml");
    let app = site.start_configured(example).await;
    let operations = operations(&document(&app).await);
    let post = &operations["POST /api/reports/generate"];
    assert!(post["summary"].as_str().unwrap().contains("report.generate"), "{post}");
    assert!(post["callbacks"]["reply"]["{$request.header.Callback-Url}"].is_object(), "{post}");
    let security = &operations["GET /api/reports/status/{jobId}"]["security"];
    assert_eq!(security[0], json!({"apiKey": ["jobs:read"]}));
    assert_eq!(operations.len(), ROUTES.len() + 2);
}
