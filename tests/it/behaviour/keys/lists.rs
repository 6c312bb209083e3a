//! Keys at their Location, and lists as a narrowed one sees them.

use serde_json::{Value, json};

use super::key;
use crate::support::app::{Site, both_engines, id};

both_engines! {
    a_key_is_read_where_its_location_says,
    a_narrowed_key_sees_its_queues_only,
    a_narrowed_key_is_kept_from_what_cannot_be_narrowed,
    no_key_outlasts_the_one_that_makes_it,
    the_key_given_to_dev_works_after_it_was_revoked,
}

fn ids(page: &Value, member: &str) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|one| id(&one[member])).collect()
}

async fn a_key_is_read_where_its_location_says(site: &Site) {
    let app = site.start().await;
    let wish = json!({"scopes": ["work"], "queues": ["a"], "accounts": ["x, y"]});

    let made = app.post("/v1/keys", &wish).await;
    let shown = app.get(made.header("location")).await.ok(200);

    assert_eq!(shown["keyId"], made.ok(201)["keyId"]);
    assert_eq!((&shown["queues"], &shown["accounts"]), (&json!(["a"]), &json!(["x, y"])));
    assert!(shown.get("key").is_none(), "shown once");
    for (wish, pointer) in [
        (json!({"scopes": ["work"], "queues": ["a,b"]}), "/queues/0"),
        (json!({"scopes": ["work"], "accounts": ["\u{1}"]}), "/accounts/0"),
    ] {
        app.post("/v1/keys", &wish).await.refused(422, "validation-failed", pointer);
    }
    let tenant = app.post("/v1/tenants", &json!({"name": "acme"})).await;
    assert_eq!(app.get(tenant.header("location")).await.ok(200)["name"], "acme");
    let list = format!("{}/keys", tenant.header("location"));
    let theirs = app.post(&list, &json!({"scopes": ["work"]})).await;
    assert_eq!(app.get(theirs.header("location")).await.ok(200)["scopes"], json!(["work"]));
    app.delete(made.header("location")).await.ok(204);
    app.get(made.header("location")).await.refused(404, "not-found", "");
}

async fn a_narrowed_key_sees_its_queues_only(site: &Site) {
    let app = site.start().await;
    let mut dead = Vec::new();
    for queue in ["a", "b", "a"] {
        let callback = json!({"url": "http://127.0.0.1:1/", "retry": {"maxAttempts": 1}});
        let job = app.submit_id(json!({"type": "t", "queue": queue, "callback": callback})).await;
        app.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await.ok(200);
        dead.push(id(&app.delivery_in(&job, "dead").await["deliveryId"]));
    }
    let narrow =
        key(&app, json!({"scopes": ["deliveries:read", "deadletters:replay"], "queues": ["a"]})).await;
    let account = key(&app, json!({"scopes": ["deliveries:read"], "accounts": ["x"]})).await;

    for list in ["/v1/deliveries", "/v1/dead-letters"] {
        let seen = app.get(list).key(&narrow).await.ok(200);
        assert_eq!(ids(&seen, "deliveryId"), [dead[2].clone(), dead[0].clone()], "{list}");
        // Cut after it was narrowed: a page is full, and the last one says that it is.
        let first = app.get(&format!("{list}?limit=1")).key(&narrow).await.ok(200);
        let next = format!("{list}?limit=1&cursor={}", id(&first["nextCursor"]));
        let second = app.get(&next).key(&narrow).await.ok(200);
        assert_eq!(
            (ids(&second, "deliveryId"), &second["nextCursor"]),
            (vec![dead[0].clone()], &Value::Null)
        );
        assert_eq!(app.get(list).key(&account).await.ok(200)["items"], json!([]));
        app.get(&format!("{list}/{}", dead[0])).key(&narrow).await.ok(200);
        app.get(&format!("{list}/{}", dead[1])).key(&narrow).await.refused(404, "not-found", "");
    }
    let replay = app.post("/v1/dead-letters/replay", &json!({"filter": {"jobId": null}})).key(&narrow);
    replay.await.refused(403, "forbidden", "");
    let replay = app.post("/v1/dead-letters/replay", &json!({"filter": {"ids": []}})).await;
    assert_eq!(app.get(replay.header("location")).await.ok(200)["redriveId"], replay.ok(202)["redriveId"]);
}

async fn a_narrowed_key_is_kept_from_what_cannot_be_narrowed(site: &Site) {
    let app = site.start().await;
    let redrive = "rdr_01H455VB4PEX5VSKNK084SN02Q";
    let scopes = ["deliveries:read", "deadletters:replay", "admin", "operator"];
    for narrowing in ["queues", "accounts"] {
        let narrow = key(&app, json!({"scopes": scopes, narrowing: ["a"]})).await;
        for path in ["/v1/lanes", "/v1/tenants"] {
            app.get(path).key(&narrow).await.refused(403, "forbidden", "");
        }
        if narrowing == "queues" {
            for path in ["/v1/redrives", &format!("/v1/redrives/{redrive}")] {
                app.get(path).key(&narrow).await.refused(403, "forbidden", "");
            }
        }
        let tenant = app.get("/v1/tenants").await.ok(200)["items"][0]["tenantId"].clone();
        let wider = app.post(&format!("/v1/tenants/{}/keys", id(&tenant)), &json!({"scopes": ["admin"]}));
        wider.key(&narrow).await.refused(403, "forbidden", "");
    }
}

async fn no_key_outlasts_the_one_that_makes_it(site: &Site) {
    let app = site.start().await;
    let end = app.clock.now().plus(std::time::Duration::from_secs(3_600));
    let later = end.plus(std::time::Duration::from_secs(1));
    let ending = key(&app, json!({"scopes": ["admin", "operator"], "expiresAt": end})).await;
    let tenant = id(&app.get("/v1/tenants").await.ok(200)["items"][0]["tenantId"]);
    for path in ["/v1/keys".to_owned(), format!("/v1/tenants/{tenant}/keys")] {
        for wish in [json!({"scopes": ["work"]}), json!({"scopes": ["work"], "expiresAt": later})] {
            app.post(&path, &wish).key(&ending).await.refused(403, "forbidden", "");
        }
        let wish = json!({"scopes": ["work"], "expiresAt": end});
        app.post(&path, &wish).key(&ending).await.ok(201);
    }
}

async fn the_key_given_to_dev_works_after_it_was_revoked(site: &Site) {
    let app = site.start().await;
    let mine = id(&app.get("/v1/keys").await.ok(200)["items"][0]["keyId"]);
    app.delete(&format!("/v1/keys/{mine}")).await.ok(204);
    app.get("/v1/keys").await.refused(401, "unauthorized", "");
    site.stop().await;

    let again = site.start().await;
    again.get("/v1/keys").await.ok(200);
}
