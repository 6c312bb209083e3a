//! Every example of the OpenAPI document, sent as it stands.

use serde_json::{Value, json};

use crate::support::app::{Site, TestApp, both_engines, id};
use crate::support::receiver::Receiver;

both_engines! { every_example_of_the_document_is_taken_as_it_stands }

const CONFIG: &str = r#"
[[routes]]
path = "/api/reports/generate"
type = "report.generate"
"#;

async fn every_example_of_the_document_is_taken_as_it_stands(site: &Site) {
    let app = site.start_configured(CONFIG).await;
    let document = app.get("/openapi.json").await.ok(200);
    let receiver = Receiver::start().await;
    let told = app.called_back(&receiver.url("/"), json!({})).await;
    app.delivery_in(&told, "delivered").await;
    let mut sent = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(body) = operation.get("requestBody") else { continue };
            let examples = body["content"]["application/json"]["examples"].as_object();
            let examples = examples.unwrap_or_else(|| panic!("{method} {path} has no example"));
            for (name, example) in examples {
                assert!(!example["summary"].as_str().unwrap().is_empty(), "{method} {path}: {name}");
                send(&app, method, path, operation, &example["value"]).await;
                sent += 1;
            }
        }
    }
    for example in document["components"]["schemas"]["SubmitJob"]["examples"].as_array().unwrap() {
        app.post("/v1/jobs", example).await.ok(202);
        sent += 1;
    }
    assert!(sent >= 25, "{sent}");
}

/// Sends one example, with what it needs in place; a documented success must come of it.
async fn send(app: &TestApp, method: &str, path: &str, operation: &Value, example: &Value) {
    let claims = path.ends_with("/claim");
    let made = app.submit_id(json!({"type": "report.generate"})).await;
    let (job, token) = match path {
        _ if claims || path.ends_with("/cancel") => (made, String::new()),
        _ => {
            let claimed = app.claim_one().await;
            (id(&claimed["jobId"]), id(&claimed["leaseToken"]))
        }
    };
    let tenant = app.post("/v1/tenants", &json!({"name": "of-examples"})).await.json();
    let standing = json!({"url": "https://hooks.example.com/of-examples", "events": []});
    let endpoint = app.post("/v1/endpoints", &standing).await.ok(201);
    let lane = id(&app.items("/v1/lanes").await[0]["laneId"]);
    let path = path
        .replace("{endpointId}", &id(&endpoint["endpointId"]))
        .replace("{jobId}", &job)
        .replace("{queue}", if claims { "default" } else { "reports" })
        .replace("{type}", "report.generate")
        .replace("{laneId}", &lane)
        .replace("{tenantId}", &id(&tenant["tenantId"]));
    assert!(!path.contains('{'), "{path}: say what stands there");
    let mut body = example.clone();
    fill(&mut body, &job, &token);

    let reply = app.ask(&method.to_uppercase(), &path).json(&body).await;

    assert!((200..300).contains(&reply.status), "{body}: {reply:?}");
    assert!(operation["responses"].get(reply.status.to_string()).is_some(), "not described: {reply:?}");
    let items = if reply.body.is_empty() { Value::Null } else { reply.json()["items"].clone() };
    for one in items.as_array().into_iter().flatten() {
        assert!(one.get("code").is_none(), "an entry is refused: {one}");
    }
}

/// Puts the job and the token that are there in the place of those shown.
fn fill(value: &mut Value, job: &str, token: &str) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match name.as_str() {
                    "jobId" => *value = json!(job),
                    "leaseToken" => *value = json!(token),
                    _ => fill(value, job, token),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, job, token)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
