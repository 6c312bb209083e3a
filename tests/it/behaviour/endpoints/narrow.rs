//! Endpoints for narrowed keys, and for those who have other scopes.

use serde_json::{Value, json};

use super::super::keys::key;
use super::{make, path, wish};
use crate::support::app::{Site, both_engines};

both_engines! {
    a_key_for_an_account_has_its_endpoints_only,
    a_key_for_queues_has_none,
}

async fn a_key_for_an_account_has_its_endpoints_only(site: &Site) {
    let app = site.start().await;
    let narrow = key(&app, json!({"scopes": ["admin"], "accounts": ["acme"]})).await;
    let url = "https://hooks.example.com/";
    let mine = make(&app, url, json!({"account": "acme"})).await;
    let others = [make(&app, url, json!({"account": "beta"})).await, make(&app, url, json!({})).await];

    let seen = app.get("/v1/endpoints").key(&narrow).await.ok(200);

    let ids: Vec<&Value> = seen["items"].as_array().unwrap().iter().map(|e| &e["endpointId"]).collect();
    assert_eq!(ids, [&mine["endpointId"]]);
    app.get(&path(&mine, "")).key(&narrow).await.ok(200);
    for other in &others {
        for (method, verb) in [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/test")] {
            app.ask(method, &path(other, verb)).key(&narrow).await.refused(404, "not-found", "");
        }
        let job = json!({"type": "t", "callback": {"endpointId": other["endpointId"]}});
        let named = app.post("/v1/jobs", &job).key(&narrow).await;
        named.refused(422, "validation-failed", "/callback/endpointId");
    }
    for account in [json!("beta"), Value::Null] {
        let made = app.post("/v1/endpoints", &wish(url, json!({"account": account}))).key(&narrow).await;
        made.refused(403, "forbidden", "");
        let moved = app.ask("PATCH", &path(&mine, "")).json(&json!({"account": account})).key(&narrow).await;
        moved.refused(403, "forbidden", "");
    }
    app.post("/v1/endpoints", &wish(url, json!({"account": "acme"}))).key(&narrow).await.ok(201);
}

async fn a_key_for_queues_has_none(site: &Site) {
    let app = site.start().await;
    let narrow = key(&app, json!({"scopes": ["admin"], "queues": ["a"]})).await;
    let there = make(&app, "https://hooks.example.com/", json!({})).await;

    for (method, path) in
        [("GET", "/v1/endpoints".to_owned()), ("GET", path(&there, "")), ("POST", path(&there, "/test"))]
    {
        app.ask(method, &path).key(&narrow).await.refused(403, "forbidden", "");
    }
    let made = app.post("/v1/endpoints", &wish("https://x.example.com/", json!({}))).key(&narrow).await;
    made.refused(403, "forbidden", "");
}
