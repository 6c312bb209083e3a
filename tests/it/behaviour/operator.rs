//! Who runs the deployment: tenants, and keys of all of them.

use serde_json::json;

use ringback::app::Role;
use ringback::clock::Clock;

use crate::support::app::{Site, both_engines, id, until};

both_engines! {
    a_tenant_is_made_and_given_its_first_key,
    only_the_operator_sees_tenants,
    what_makes_no_tenant_is_refused,
    health_tells_that_nobody_dispatches,
}

async fn a_tenant_is_made_and_given_its_first_key(site: &Site) {
    let app = site.start().await;

    let made = app.post("/v1/tenants", &json!({"name": "acme"})).await.ok(201);
    let again = app.post("/v1/tenants", &json!({"name": "acme"})).await.ok(200);

    assert_eq!(made, again);
    let tenant = id(&made["tenantId"]);
    assert_eq!(app.get(&format!("/v1/tenants/{tenant}")).await.ok(200), made);
    let listed = app.get("/v1/tenants").await.ok(200);
    let names: Vec<_> = listed["items"].as_array().unwrap().iter().map(|t| t["name"].as_str()).collect();
    assert_eq!(names, [Some("acme"), Some("default")], "newest first");

    let keys = format!("/v1/tenants/{tenant}/keys");
    let wish = json!({"name": "ci", "scopes": ["jobs:write", "jobs:read"]});
    let key = app.post(&keys, &wish).await.ok(201);
    let secret = id(&key["key"]);
    let job = app.post("/v1/jobs", &json!({"type": "t"})).key(&secret).await.ok(202);
    app.get(&format!("/v1/jobs/{}", id(&job["jobId"]))).await.refused(404, "job-not-found", "");
    let shown = app.get(&keys).await.ok(200);
    assert_eq!((&shown["items"][0]["keyId"], &shown["items"][0]["name"]), (&key["keyId"], &json!("ci")));
    assert!(!shown.to_string().contains(&secret), "shown once");

    let key = format!("{keys}/{}", id(&key["keyId"]));
    assert_eq!(app.delete(&key).await.status, 204);
    app.get("/v1/jobs").key(&secret).await.refused(401, "unauthorized", "");
    app.delete(&key).await.refused(404, "not-found", "");
}

async fn only_the_operator_sees_tenants(site: &Site) {
    let app = site.start().await;
    let admin = app.post("/v1/keys", &json!({"scopes": ["admin"]})).await.ok(201);
    let operator = app.post("/v1/keys", &json!({"scopes": ["operator"]})).await.ok(201);
    let (admin, operator) = (id(&admin["key"]), id(&operator["key"]));
    let tenant = id(&app.get("/v1/tenants").await.ok(200)["items"][0]["tenantId"]);

    for path in
        ["/v1/tenants".to_owned(), format!("/v1/tenants/{tenant}"), format!("/v1/tenants/{tenant}/keys")]
    {
        let told = app.get(&path).key(&admin).await.refused(403, "forbidden", "");
        assert!(told["detail"].as_str().unwrap().contains("`operator`"), "{told}");
        app.get(&path).key(&operator).await.ok(200);
    }
    app.get("/v1/jobs").key(&operator).await.refused(403, "forbidden", "");
}

async fn what_makes_no_tenant_is_refused(site: &Site) {
    let app = site.start().await;
    let tenant = "ten_01H455VB4PEX5VSKNK084SN02Q";
    for (body, pointer) in [
        (json!({}), "/name"),
        (json!({"name": ""}), "/name"),
        (json!({"name": "a b"}), "/name"),
        (json!({"name": "x".repeat(129)}), "/name"),
        (json!({"name": "x", "id": 1}), "/id"),
    ] {
        app.post("/v1/tenants", &body).await.refused(422, "validation-failed", pointer);
    }
    let wish = json!({"scopes": ["work"]});
    app.post(&format!("/v1/tenants/{tenant}/keys"), &wish).await.refused(404, "not-found", "");
    app.get(&format!("/v1/tenants/{tenant}/keys")).await.refused(404, "not-found", "");
    app.get("/v1/tenants/nobody").await.refused(404, "not-found", "");
    app.post(&format!("/v1/tenants/{tenant}/keys"), &json!({"scopes": []})).await.refused(
        422,
        "validation-failed",
        "/scopes",
    );
    assert_eq!(app.get("/v1/tenants").await.ok(200)["items"].as_array().unwrap().len(), 1);
}

async fn health_tells_that_nobody_dispatches(site: &Site) {
    let app = site.start_with(Clock::system(), |config| config.roles = vec![Role::Api]).await;
    assert_eq!(app.get("/healthz").await.ok(200)["status"], "degraded");
    app.get("/readyz").await.ok(200);
    app.get("/v1/jobs").await.ok(200);
    site.stop().await;

    let app = site.start_with(Clock::system(), |config| config.roles = vec![Role::Dispatch]).await;
    until("the fleet is well", async || {
        let seen = app.get("/healthz").await.ok(200);
        if seen["status"] == "ok" { Ok(()) } else { Err(seen) }
    })
    .await;
    app.get("/readyz").await.ok(200);
    app.get("/v1/jobs").await.refused(404, "not-found", "");
}
