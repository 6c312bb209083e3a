//! Standing endpoints over HTTP.

mod health;
mod narrow;
mod sent;

use serde_json::{Value, json};

use crate::support::app::{Site, TestApp, both_engines, id};
use crate::support::ask::Reply;

both_engines! {
    an_endpoint_is_made_shown_changed_and_deleted,
    a_repeated_creation_is_answered_as_the_first,
    what_breaks_a_rule_is_named_and_nothing_is_made,
    lists_are_filtered_and_paged,
    the_file_says_how_many_an_account_may_have,
    a_job_may_name_an_endpoint_that_is_there,
}

/// Makes an endpoint; `more` holds the members beside the URL.
async fn make(app: &TestApp, url: &str, more: Value) -> Value {
    app.post("/v1/endpoints", &wish(url, more)).await.ok(201)
}

fn wish(url: &str, more: Value) -> Value {
    let mut wish = json!({ "url": url });
    for (name, value) in more.as_object().unwrap() {
        wish[name] = value.clone();
    }
    wish
}

fn path(endpoint: &Value, verb: &str) -> String {
    format!("/v1/endpoints/{}{verb}", id(&endpoint["endpointId"]))
}

async fn patch(app: &TestApp, endpoint: &Value, change: Value) -> Reply {
    app.ask("PATCH", &path(endpoint, "")).json(&change).await
}

async fn an_endpoint_is_made_shown_changed_and_deleted(site: &Site) {
    let app = site.start().await;
    let given = json!({"account": "acme", "events": ["invoice.*"], "description": "books",
        "headers": {"Authorization": "Bearer canary"}, "rateLimitPerSecond": 20, "maxInFlight": 5,
        "timeoutSeconds": 10, "schemes": ["github"], "ordered": true, "payload": "thin",
        "format": "cloudevents", "retry": {"maxAttempts": 5}});

    let reply = app.post("/v1/endpoints", &wish("https://hooks.example.com/books", given.clone())).await;
    let made = reply.ok(201);

    assert_eq!(reply.header("location"), path(&made, ""));
    assert_eq!(reply.header("cache-control"), "no-store");
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"), "{made}");
    for member in [
        "account",
        "events",
        "description",
        "rateLimitPerSecond",
        "maxInFlight",
        "timeoutSeconds",
        "ordered",
        "payload",
        "format",
    ] {
        assert_eq!(made[member], given[member], "{member}");
    }
    assert_eq!((&made["schemes"], &made["retry"]["maxAttempts"]), (&json!(["v1", "github"]), &json!(5)));
    assert_eq!((&made["state"], &made["verified"]), (&json!("enabled"), &json!(false)));
    assert_eq!(made["headers"], json!({"authorization": "redacted"}));
    let shown = app.get(&path(&made, "")).await.ok(200);
    assert!(shown.get("secret").is_none() && !shown.to_string().contains("canary"), "{shown}");

    let changed =
        patch(&app, &made, json!({"events": ["*"], "account": null, "ordered": null})).await.ok(200);
    assert_eq!(changed["events"], json!(["*"]));
    assert!(changed.get("account").is_none() && changed["ordered"] == false, "{changed}");
    assert_eq!(changed["rateLimitPerSecond"], 20, "what is not given stays");

    let shown = json!({"headers": changed["headers"]});
    assert_eq!(patch(&app, &made, shown).await.ok(200)["headers"], changed["headers"], "it may be sent back");
    let new = patch(&app, &made, json!({"headers": {"X-New": "redacted"}})).await;
    new.refused(422, "validation-failed", "/headers/X-New");

    app.delete(&path(&made, "")).await.ok(204);
    for verb in ["", "/pause", "/resume", "/test", "/verify", "/rotate-secret"] {
        let method = if verb.is_empty() { "GET" } else { "POST" };
        app.ask(method, &path(&made, verb)).await.refused(404, "not-found", "");
    }
    assert!(app.items("/v1/endpoints").await.is_empty());
}

async fn a_repeated_creation_is_answered_as_the_first(site: &Site) {
    let app = site.start().await;
    let create =
        |url: &str| app.post("/v1/endpoints", &wish(url, json!({}))).header("idempotency-key", "once");

    let first = create("https://a.example.com/").await;
    let again = create("https://a.example.com/").await;

    assert_eq!((first.header("idempotent-replayed"), again.header("idempotent-replayed")), ("", "true"));
    assert_eq!(first.ok(201), again.ok(201));
    create("https://b.example.com/").await.refused(422, "idempotency-key-reused", "");
    assert_eq!(app.items("/v1/endpoints").await.len(), 1);
    let made = first.json();
    app.ask("POST", &path(&made, "/rotate-secret")).await.ok(200);
    let again = create("https://a.example.com/").await.ok(201);
    assert_eq!(
        (&again["endpointId"], again.get("secret")),
        (&made["endpointId"], None),
        "it is another's by now"
    );
    app.delete(&path(&made, "")).await.ok(204);
    create("https://a.example.com/").await.refused(404, "not-found", "");
}

async fn what_breaks_a_rule_is_named_and_nothing_is_made(site: &Site) {
    let app = site.start_serving().await;
    let good = "https://hooks.example.com/";
    for (url, more, code, pointer) in [
        ("http://hooks.example.com/", json!({}), "callback-url-blocked", "/url"),
        ("https://10.0.0.1/", json!({}), "callback-url-blocked", "/url"),
        ("nonsense", json!({}), "callback-url-invalid", "/url"),
        (good, json!({"events": ["in*"]}), "validation-failed", "/events/0"),
        (good, json!({"headers": {"Host": "x"}}), "validation-failed", "/headers/Host"),
        (good, json!({"timeoutSeconds": 0}), "validation-failed", "/timeoutSeconds"),
        (good, json!({"schemes": ["v2"]}), "validation-failed", "/schemes/0"),
        (good, json!({"secret": "whsec_x"}), "validation-failed", "/secret"),
    ] {
        app.post("/v1/endpoints", &wish(url, more)).await.refused(422, code, pointer);
    }
    app.post("/v1/endpoints", &json!({})).await.refused(422, "validation-failed", "/url");
    assert!(app.items("/v1/endpoints").await.is_empty());
    let made = make(&app, good, json!({"description": "as it was"})).await;
    patch(&app, &made, json!({"maxInFlight": 0})).await.refused(422, "validation-failed", "/maxInFlight");
    patch(&app, &made, json!({"state": "paused"})).await.refused(422, "validation-failed", "/state");
    let seen = app.get(&path(&made, "")).await.ok(200);
    assert_eq!(seen["updatedAt"], made["updatedAt"]);
}

async fn lists_are_filtered_and_paged(site: &Site) {
    // Within one millisecond ids are in any order.
    let app = site.start_still().await;
    for n in 0..3 {
        app.pass(1);
        make(&app, &format!("https://hooks.example.com/{n}"), json!({"account": format!("a{n}")})).await;
    }
    let all = app.items("/v1/endpoints").await;
    app.ask("POST", &path(&all[0], "/pause")).await.ok(200);

    let pages = app.pages("/v1/endpoints?limit=2").await;

    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(pages[0][0]["url"], "https://hooks.example.com/2", "the newest first");
    assert_eq!(app.items("/v1/endpoints?account=a1").await.len(), 1);
    assert_eq!(app.items("/v1/endpoints?state=paused").await.len(), 1);
    assert_eq!(app.items("/v1/endpoints?state=disabled").await.len(), 0);
    app.get("/v1/endpoints?state=broken").await.refused(400, "invalid-request", "?state");
}

async fn the_file_says_how_many_an_account_may_have(site: &Site) {
    let app = site.start_configured("[endpoints]\nper_account = 1\n").await;
    make(&app, "https://hooks.example.com/1", json!({})).await;
    let other = make(&app, "https://hooks.example.com/2", json!({"account": "acme"})).await;

    let more = app.post("/v1/endpoints", &wish("https://hooks.example.com/3", json!({}))).await;

    more.refused(403, "quota-exceeded", "");
    patch(&app, &other, json!({"account": null})).await.refused(403, "quota-exceeded", "");
    app.delete(&path(&other, "")).await.ok(204);
    make(&app, "https://hooks.example.com/4", json!({"account": "acme"})).await;
}

async fn a_job_may_name_an_endpoint_that_is_there(site: &Site) {
    let other = site.key_of("other").await;
    let app = site.start().await;
    let there = make(&app, "https://hooks.example.com/1", json!({"events": []})).await;
    let job = |endpoint: &Value| json!({"type": "t", "callback": {"endpointId": endpoint["endpointId"]}});

    app.submit(job(&there)).await;
    let missing = json!({"endpointId": "ep_01H455VB4PEX5VSKNK084SN02Q"});
    let unknown = app.post("/v1/jobs", &job(&missing)).await;
    let theirs = app.post("/v1/jobs", &job(&there)).key(&other).await;

    unknown.refused(422, "validation-failed", "/callback/endpointId");
    theirs.refused(422, "validation-failed", "/callback/endpointId");
    let batch = json!({"atomic": true, "jobs": [job(&there), job(&missing)]});
    let batch = app.post("/v1/jobs/batch", &batch).await;
    batch.refused(422, "validation-failed", "/jobs/1/callback/endpointId");
    let both = json!({"type": "t", "callback": {"endpointId": there["endpointId"], "url": "https://x.example.com/"}});
    app.post("/v1/jobs", &both).await.refused(422, "validation-failed", "/callback/url");
}
