//! Making, listing and ending keys, and what is no key.

use serde_json::{Value, json};

use super::{SCOPES, key};
use crate::support::app::{Site, TestApp, both_engines, id};
use crate::support::ask::Reply;

both_engines! {
    a_key_is_shown_once_and_works,
    keys_are_listed_newest_first,
    a_revoked_key_is_refused_at_once,
    an_expired_key_is_refused,
    what_is_no_key_is_refused,
    who_guesses_learns_nothing,
    a_key_never_makes_a_mightier_one,
    a_key_never_makes_one_that_outlives_it,
    a_key_that_breaks_a_rule_is_not_made,
    names_are_kept_as_they_are,
}

fn in_seconds(app: &TestApp, seconds: u64) -> Value {
    json!(app.clock.now().plus(std::time::Duration::from_secs(seconds)))
}

async fn keys_of(app: &TestApp) -> Vec<Value> {
    app.get("/v1/keys").await.ok(200)["items"].as_array().unwrap().clone()
}

async fn a_key_is_shown_once_and_works(site: &Site) {
    let app = site.start_still().await;
    app.pass(1);
    let wish = json!({
        "name": "ci", "scopes": ["jobs:read", "jobs:write"], "queues": ["builds"], "accounts": ["acme"],
        "expiresAt": in_seconds(&app, 3_600),
    });

    let reply = app.post("/v1/keys", &wish).await;

    let mut made = reply.ok(201);
    assert_eq!(reply.header("cache-control"), "no-store");
    let secret = id(&made["key"].take());
    assert!(secret.starts_with("rbk_") && secret.len() == 4 + 43 + 6, "{secret}");
    assert_eq!(made["prefix"], secret[..12]);
    assert!(made["keyId"].as_str().unwrap().starts_with("key_"), "{made}");
    assert_eq!(made["createdAt"], in_seconds(&app, 0));
    assert_eq!(made["scopes"], json!(["jobs:write", "jobs:read"]), "in the order of the contract");
    for name in ["name", "queues", "accounts", "expiresAt"] {
        assert_eq!(made[name], wish[name], "{name}");
    }
    made.as_object_mut().unwrap().remove("key");
    assert_eq!(keys_of(&app).await[0], made, "the list does not show the secret");
    let list = app.get("/v1/keys").await;
    assert!(!String::from_utf8_lossy(&list.body).contains(&secret), "{list:?}");

    let job = json!({"type": "t", "queue": "builds"});
    app.post("/v1/jobs", &job).key(&secret).await.ok(202);
}

async fn keys_are_listed_newest_first(site: &Site) {
    let app = site.start_still().await;
    let mut wanted = vec![json!("dev")];
    for name in ["a", "b", "c"] {
        app.pass(1);
        key(&app, json!({"name": name, "scopes": ["work"]})).await;
        wanted.insert(0, json!(name));
    }
    let names = |page: &Value| {
        page["items"].as_array().unwrap().iter().map(|k| k["name"].clone()).collect::<Vec<_>>()
    };

    let all = app.get("/v1/keys").await.ok(200);
    assert_eq!((names(&all), &all["nextCursor"]), (wanted.clone(), &Value::Null));
    let first = app.get("/v1/keys?limit=3").await.ok(200);
    let rest = app.get(&format!("/v1/keys?limit=3&cursor={}", id(&first["nextCursor"]))).await.ok(200);
    assert_eq!([names(&first), names(&rest)].concat(), wanted);
    assert!(all["items"].as_array().unwrap().iter().all(|k| k.get("key").is_none()), "{all}");
}

async fn a_revoked_key_is_refused_at_once(site: &Site) {
    let app = site.start().await;
    let made = app.post("/v1/keys", &json!({"scopes": ["jobs:read"]})).await.ok(201);
    let secret = id(&made["key"]);
    let path = format!("/v1/keys/{}", id(&made["keyId"]));
    app.get("/v1/jobs").key(&secret).await.ok(200);

    let gone = app.delete(&path).await;

    assert_eq!((gone.ok(204), gone.body.len()), (Value::Null, 0));
    app.get("/v1/jobs").key(&secret).await.refused(401, "unauthorized", "");
    assert_eq!(keys_of(&app).await.len(), 1, "only the node's own is left");
    app.delete(&path).await.refused(404, "not-found", "");
    app.delete("/v1/keys/key_01H455VB4PEX5VSKNK084SN02Q").await.refused(404, "not-found", "");
    app.delete("/v1/keys/key_x").await.refused(404, "not-found", "");
}

async fn an_expired_key_is_refused(site: &Site) {
    let app = site.start_still().await;
    let secret = key(&app, json!({"scopes": ["jobs:read"], "expiresAt": in_seconds(&app, 60)})).await;
    app.pass(59);
    app.get("/v1/jobs").key(&secret).await.ok(200);

    app.pass(1);

    let refused = app.get("/v1/jobs").key(&secret).await;
    refused.refused(401, "unauthorized", "");
    assert!(refused.header("www-authenticate").starts_with("Bearer"), "{refused:?}");
}

async fn what_is_no_key_is_refused(site: &Site) {
    let app = site.start().await;
    let unknown = "rbk_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ";
    let values = [
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer {unknown}"),
        format!("Bearer {}x", app.key),
        format!("Bearer {}", &app.key[..app.key.len() - 1]),
        format!("Bearer {}", app.key.to_uppercase()),
        "Bearer rbk_short".to_owned(),
        format!("Bearer rbk_{}", "x".repeat(200)),
        format!("Basic {}", app.key),
        app.key.clone(),
        format!("Bearer {0}, Bearer {0}", app.key),
        format!("Bearer {0} {0}", app.key),
    ];
    for path in ["/v1/jobs", "/v1/jobs/job_01H455VB4PEX5VSKNK084SN02Q", "/v1/keys", "/v1/deliveries"] {
        let mut replies: Vec<Reply> = vec![app.get(path).nobody().await];
        for value in &values {
            replies.push(app.get(path).nobody().header("authorization", value).await);
        }
        replies.push(app.get(path).header("authorization", &format!("Bearer {}", app.key)).await);
        for reply in replies {
            let problem = reply.refused(401, "unauthorized", "");
            assert!(reply.header("www-authenticate").starts_with("Bearer"), "{reply:?}");
            assert!(!problem.to_string().contains("rbk_"), "{problem}");
        }
    }
    let lower = app.get("/v1/jobs").nobody().header("authorization", &format!("bearer {}", app.key));
    lower.await.ok(200);
}

async fn who_guesses_learns_nothing(site: &Site) {
    let app = site.start_still().await;
    let expired = key(&app, json!({"scopes": ["jobs:read"], "expiresAt": in_seconds(&app, 1)})).await;
    let made = app.post("/v1/keys", &json!({"scopes": ["jobs:read"]})).await.ok(201);
    app.delete(&format!("/v1/keys/{}", id(&made["keyId"]))).await.ok(204);
    app.pass(1);
    let mut told = Vec::new();
    for text in
        [&expired, &id(&made["key"]), "rbk_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ", "rbk_1"]
    {
        let mut problem = app.get("/v1/jobs").key(text).await.refused(401, "unauthorized", "");
        problem["requestId"].take();
        told.push(problem);
    }
    assert!(told.iter().all(|problem| *problem == told[0]), "{told:?}");
}

async fn a_key_never_makes_a_mightier_one(site: &Site) {
    let app = site.start().await;
    let admin = key(&app, json!({"scopes": ["admin"]})).await;
    let narrow = key(&app, json!({"scopes": ["admin"], "queues": ["a", "b"], "accounts": ["acme"]})).await;
    let before = keys_of(&app).await;
    let wish =
        |queues: Value, accounts: Value| json!({"scopes": ["work"], "queues": queues, "accounts": accounts});
    for (asker, wish) in [
        (&admin, json!({"scopes": ["operator"]})),
        (&admin, json!({"scopes": ["work", "operator"]})),
        (&narrow, wish(json!(["a", "c"]), json!(["acme"]))),
        (&narrow, wish(Value::Null, json!(["acme"]))),
        (&narrow, wish(json!(["a"]), Value::Null)),
        (&narrow, wish(json!(["a"]), json!(["acme", "other"]))),
        (&narrow, json!({"scopes": ["work"]})),
    ] {
        app.post("/v1/keys", &wish).key(asker).await.refused(403, "forbidden", "");
    }
    assert_eq!(keys_of(&app).await, before, "none was made");

    let all = &SCOPES[..SCOPES.len() - 1];
    assert_eq!(SCOPES.last(), Some(&"operator"));
    app.post("/v1/keys", &json!({"scopes": all})).key(&admin).await.ok(201);
    app.post("/v1/keys", &wish(json!(["b"]), json!(["acme"]))).key(&narrow).await.ok(201);
    app.post("/v1/keys", &wish(json!([]), json!([]))).key(&narrow).await.ok(201);
    app.post("/v1/keys", &json!({"scopes": ["operator"]})).await.ok(201);
}

/// A key is narrowed in time too (`expiresAt`).
async fn a_key_never_makes_one_that_outlives_it(site: &Site) {
    let app = site.start_still().await;
    let brief = key(&app, json!({"scopes": ["admin"], "expiresAt": in_seconds(&app, 60)})).await;
    let make = |end: Value| app.post("/v1/keys", &json!({"scopes": ["admin"], "expiresAt": end})).key(&brief);

    make(Value::Null).await.refused(403, "forbidden", "");
    make(in_seconds(&app, 61)).await.refused(403, "forbidden", "");
    let made = make(in_seconds(&app, 60)).await.ok(201);

    assert_eq!(made["expiresAt"], in_seconds(&app, 60));
    assert_eq!(keys_of(&app).await.len(), 3);
}

async fn a_key_that_breaks_a_rule_is_not_made(site: &Site) {
    let app = site.start().await;
    let with = |name: &str, value: Value| json!({"scopes": ["work"], name: value});
    for (wish, pointer) in [
        (json!({}), "/scopes"),
        (json!({"scopes": []}), "/scopes"),
        (json!({"scopes": "work"}), "/scopes"),
        (json!({"scopes": ["work", "everything"]}), "/scopes/1"),
        (json!({"scopes": ["*"]}), "/scopes/0"),
        (with("name", json!("x".repeat(256))), "/name"),
        (with("name", json!("\u{0}")), "/name"),
        (with("queues", json!("a")), "/queues"),
        (with("queues", json!(["a", "x".repeat(65)])), "/queues/1"),
        (with("queues", json!(["a,b"])), "/queues/0"),
        (with("queues", json!(["a", ""])), "/queues/1"),
        (with("queues", json!(vec!["a"; 51])), "/queues"),
        (with("accounts", json!(["x".repeat(256)])), "/accounts/0"),
        (with("expiresAt", json!("2001-01-01T00:00:00Z")), "/expiresAt"),
        (with("expiresAt", json!("soon")), "/expiresAt"),
        (with("key", json!("rbk_mine")), "/key"),
        (with("scope", json!("work")), "/scope"),
    ] {
        app.post("/v1/keys", &wish).await.refused(422, "validation-failed", pointer);
    }
    app.post("/v1/keys?x=1", &with("name", json!("n"))).await.refused(400, "invalid-request", "?x");
    assert_eq!(keys_of(&app).await.len(), 1);
}

async fn names_are_kept_as_they_are(site: &Site) {
    let app = site.start().await;
    let accounts = json!(["Acme, Inc.", "a b", "\u{fc}ber"]);
    let wish = json!({"scopes": ["work"], "name": "a, b", "accounts": accounts, "queues": ["q-1", "q.2"]});
    let made = app.post("/v1/keys", &wish).await.ok(201);

    let all = keys_of(&app).await;

    let listed = all.iter().find(|key| key["keyId"] == made["keyId"]).unwrap();
    for name in ["name", "accounts", "queues"] {
        assert_eq!(listed[name], wish[name], "{name}");
    }
}
