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

#[test]
fn what_stops_a_body_or_a_hurry_is_described() {
    let doc = describe(&described().split_for_parts().1, &[], &Urls::new("https://api.example.com"));
    let mut doc: Value = serde_json::from_slice(&doc.json).unwrap();
    let mut hurried = BTreeSet::new();
    for (path, method, operation) in operations(&mut doc) {
        let told = |status: &str| operation["responses"].get(status).is_some();
        if method == "post" {
            let missing: Vec<_> =
                ["400", "408", "413", "415", "422"].into_iter().filter(|one| !told(one)).collect();
            assert!(missing.is_empty(), "{path}: {missing:?}");
        }
        if told("429") {
            hurried.insert(operation["operationId"].as_str().unwrap().to_owned());
        }
    }
    let wanted = [
        "getJob",
        "getJobSeed",
        "getResult",
        "getResultFile",
        "listEvents",
        "listJobDeliveries",
        "listJobEvents",
        "openSocket",
        "replayDeadLetters",
        "replayDeliveries",
        "testEndpoint",
        "verifyEndpoint",
    ];
    assert_eq!(hurried.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
}

#[test]
fn what_becomes_of_an_access_tokens_job_is_described_wherever_one_is_taken() {
    let doc = describe(&described().split_for_parts().1, &[], &Urls::new("https://api.example.com"));
    let mut doc: Value = serde_json::from_slice(&doc.json).unwrap();
    let mut open = 0;
    for (path, method, operation) in operations(&mut doc) {
        if operation["security"].to_string().contains("accessToken") {
            for status in ["404", "410"] {
                assert!(operation["responses"].get(status).is_some(), "{method} {path}: no {status}");
            }
            open += 1;
        }
    }
    assert!(open >= 6, "{open}");
}

/// Reads an example as a client does, and says what is left of it: a member that no answer has is lost.
fn as_read<T: serde::de::DeserializeOwned + serde::Serialize>(example: &Value) -> Value {
    let read: T = serde_json::from_str(&example.to_string()).unwrap_or_else(|e| panic!("{e}: {example}"));
    serde_json::to_value(read).unwrap()
}

/// The same for the answers of a batch, each by itself: serde does not read verbatim JSON below an untagged enum.
fn items_as_read<T: serde::de::DeserializeOwned + serde::Serialize>(example: &Value) -> Value {
    let read = |one: &Value| match one.get("code") {
        Some(_) => as_read::<ProblemBody>(one),
        None => as_read::<T>(one),
    };
    let items: Vec<Value> = example["items"].as_array().unwrap().iter().map(read).collect();
    json!({ "items": items })
}

fn read_answer(id: &str, status: &str, example: &Value) -> Value {
    use crate::types::api::{Alive, Claimed, EventAccepted, Job, JobAccepted, Page, Queue};
    match (id, status) {
        ("submitJob" | "submitOperation", "202") => as_read::<JobAccepted>(example),
        ("submitBatch", "202") => items_as_read::<JobAccepted>(example),
        ("listJobs", "200") => as_read::<Page<Job>>(example),
        ("listJobEvents", "200") => as_read::<Page<Event>>(example),
        ("publishEvent", "202") => as_read::<EventAccepted>(example),
        ("publishEvents", "202") => items_as_read::<EventAccepted>(example),
        ("claimJobs", "200") => as_read::<Claimed>(example),
        ("heartbeat", "200") => as_read::<Alive>(example),
        ("ackJobs", "200") => items_as_read::<Job>(example),
        ("listQueues", "200") => as_read::<Page<Queue>>(example),
        (id, "200") if id.ends_with("Queue") => as_read::<Queue>(example),
        (id, _) if id.ends_with("Job") || id == "submitOperation" => as_read::<Job>(example),
        _ => panic!("{id} {status}: say what it is read as"),
    }
}

#[test]
fn every_answer_that_is_shown_is_read_as_it_stands() {
    let doc = describe(&described().split_for_parts().1, &[], &Urls::new("https://api.example.com"));
    let mut doc: Value = serde_json::from_slice(&doc.json).unwrap();
    let whole = doc.clone();
    let mut shown = BTreeSet::new();
    for (_, _, operation) in operations(&mut doc) {
        let id = operation["operationId"].as_str().unwrap().trim_end_matches("Seed").to_owned();
        for (status, response) in operation["responses"].as_object().unwrap() {
            for (kind, content) in response["content"].as_object().into_iter().flatten() {
                for (name, example) in content["examples"].as_object().into_iter().flatten() {
                    let example = match example["$ref"].as_str() {
                        Some(target) => whole.pointer(&target[1..]).unwrap(),
                        None => example,
                    };
                    let value = &example["value"];
                    let read = match kind.as_str() {
                        "application/json" => read_answer(&id, status, value),
                        _ => as_read::<ProblemBody>(value),
                    };
                    assert_eq!(&read, value, "{id} {status} {name}");
                    assert!(content["schema"].is_object(), "{id} {status}: an example of nothing");
                    shown.insert(format!("{id} {status} {name}"));
                }
            }
        }
    }
    for wanted in [
        "submitJob 202 accepted",
        "submitJob 202 external",
        "getJob 200 processing",
        "getJob 200 complete",
        "getJob 200 failed",
        "getJob 404 job-not-found",
        "listJobs 200 page",
        "claimJobs 200 one",
        "heartbeat 200 alive",
        "listJobEvents 200 page",
        "getQueue 200 open",
    ] {
        assert!(shown.contains(wanted), "{wanted}: {shown:?}");
    }
}
