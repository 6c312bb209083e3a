use std::collections::BTreeSet;

use super::*;
use crate::http::described;
use crate::types::key::Scope;

/// Every `$ref` below `value`.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_str().filter(|_| name == "$ref") {
                    Some(target) => drop(found.insert(target.to_owned())),
                    None => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_document_is_whole() {
    let routes = [Route {
        path: "/api/reports/generate".to_owned(),
        kind: "report.generate".to_owned(),
        queue: None,
        status_path: Some("/api/reports/status/{jobId}".to_owned()),
    }];
    let doc = describe(&described().split_for_parts().1, &routes, &Urls::new("https://api.example.com"));
    let html = doc.html;
    let doc: Value = serde_json::from_slice(&doc.json).unwrap();
    assert!(doc["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut found = BTreeSet::new();
    references(&doc, &mut found);
    for target in found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(doc.pointer(pointer).is_some(), "{target} leads nowhere");
    }
    let mut ids = BTreeSet::new();
    for (path, item) in doc["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let at = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{at}");
            assert!(html.contains(&format!("{} {path}", method.to_uppercase())), "{at}");
            let keyed = operation["security"].to_string().contains("apiKey");
            let told = operation["description"].as_str().unwrap_or_default().contains("Scope: `");
            assert_eq!(keyed, told, "{at}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                let problem = status.starts_with(['4', '5']);
                let content = &response["content"]["application/problem+json"];
                assert_eq!(problem, content.is_object(), "{at} {status}");
            }
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let named = operation.get("parameters").map(Value::to_string).unwrap_or_default();
            assert!(!named.contains("null"), "{at}: {named}");
            let in_path = parameters.iter().filter(|p| p["in"] == "path").count();
            assert_eq!(in_path, path.matches('{').count(), "{at}");
        }
    }
    for id in ["submitJob", "submitJobSeed", "submitOperationRoute0", "getJobRoute0", "getResultFile"] {
        assert!(ids.contains(id), "{id}");
    }
    let submit = &doc["paths"]["/v1/jobs"]["post"];
    assert!(submit["callbacks"]["reply"]["{$request.body#/callbackUrl}"]["post"].is_object());
    assert!(submit["callbacks"]["failure"]["{$request.body#/callback/failureUrl}"]["post"].is_object());
    assert!(doc["paths"]["/v1/jobs/{jobId}"]["delete"]["requestBody"].is_object());
    let raw = &doc["paths"]["/v1/jobs/{jobId}/complete"]["post"]["requestBody"]["content"];
    assert_eq!(raw["*/*"]["schema"]["format"], "binary");
    for event in ["job.completed", "delivery.dead"] {
        assert!(doc["webhooks"][event]["post"].is_object(), "{event}");
    }
    let told = |path: &str, method: &str, status: &str, field: &str| {
        doc["paths"][path][method]["responses"][status]["headers"][field].is_object()
    };
    for field in ["Location", "Retry-After", "Preference-Applied"] {
        assert!(told("/v1/jobs", "post", "202", field), "{field}");
        assert!(told("/api/reports/generate", "post", "202", field), "{field}");
    }
    assert!(told("/v1/jobs", "get", "200", "Link") && told("/v1/jobs/{jobId}", "get", "200", "ETag"));
    for field in ["Repr-Digest", "Accept-Ranges", "X-Content-Type-Options", "Content-Security-Policy", "Vary"]
    {
        assert!(told("/v1/jobs/{jobId}/result", "get", "200", field), "{field}");
        assert!(told("/results/{file}", "get", "206", field), "{field}");
    }
    assert!(told("/v1/jobs/{jobId}/result", "get", "303", "Cache-Control"));
    assert!(told("/v1/keys", "post", "201", "Location") && !told("/v1/keys", "post", "201", "Link"));
    let heartbeat = doc["paths"]["/v1/jobs/{jobId}/heartbeat"]["post"]["security"].to_string();
    assert!(
        heartbeat.contains("leaseToken") && doc["components"]["securitySchemes"]["leaseToken"].is_object()
    );
    let scopes = [Scope::JobsWrite, Scope::Admin].map(|s| s.to_string());
    assert!(scopes.iter().all(|scope| html.contains(scope)));
}
