//! The tenant's default webhook secret: shown, rotated, and what signs meanwhile.

use serde_json::{Value, json};

use super::key;
use crate::support::app::{LIMIT, Site, TestApp, both_engines, id};
use crate::support::receiver::{Received, Receiver};

both_engines! {
    the_secret_is_shown_to_admins_and_signs,
    both_secrets_sign_while_they_overlap,
    a_rotation_without_overlap_is_at_once,
    at_most_three_secrets_live,
    a_callbacks_own_secret_is_not_rotated,
    a_rotation_that_breaks_a_rule_changes_nothing,
}

const SECRET: &str = "/v1/tenants/self/webhook-secret";
const ROTATE: &str = "/v1/tenants/self/rotate-secret";

/// The callback of a job that just completed.
async fn told(app: &TestApp, receiver: &Receiver, path: &str, more: Value) -> Received {
    let mut callback = json!({"url": receiver.url(path)});
    callback.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let accepted = app.submit(json!({"type": "t", "worker": "external", "callback": callback})).await;
    app.report(&accepted, "complete", json!({})).await.ok(200);
    receiver.wait(path, 1, LIMIT).await.remove(0)
}

fn signed(got: &Received, secret: &str) -> bool {
    standardwebhooks::Webhook::new(secret).unwrap().verify(&got.body, &got.headers).is_ok()
}

fn signatures(got: &Received) -> Vec<String> {
    got.header("webhook-signature").split(' ').map(str::to_owned).collect()
}

async fn rotate(app: &TestApp, overlap: u32) -> Value {
    app.post(ROTATE, &json!({"overlapSeconds": overlap})).await.ok(200)
}

async fn the_secret_is_shown_to_admins_and_signs(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let admin = key(&app, json!({"scopes": ["admin"]})).await;

    let reply = app.get(SECRET).key(&admin).await;

    let shown = reply.ok(200);
    assert_eq!(shown, json!({"secret": app.secret}), "the one that dev prints");
    assert!(app.secret.starts_with("whsec_"));
    assert_eq!(reply.header("cache-control"), "no-store");
    told(&app, &receiver, "/a", json!({})).await.verify(&app.secret);
    let reader = key(&app, json!({"scopes": ["jobs:read", "deliveries:read"]})).await;
    for ask in [app.get(SECRET), app.ask("POST", ROTATE)] {
        let problem = ask.key(&reader).await.refused(403, "forbidden", "");
        assert!(problem["detail"].as_str().unwrap().contains("`admin`"), "{problem}");
    }
    assert_eq!(app.get(SECRET).await.ok(200), shown);
}

async fn both_secrets_sign_while_they_overlap(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let until = app.clock.now().plus(std::time::Duration::from_secs(60));

    let reply = app.post(ROTATE, &json!({"overlapSeconds": 60})).await;

    let rotated = reply.ok(200);
    assert_eq!(reply.header("cache-control"), "no-store");
    let new = id(&rotated["secret"]);
    assert!(new.starts_with("whsec_") && new != app.secret, "{new}");
    assert_eq!(rotated["previousExpiresAt"], json!(until));
    assert_eq!(app.get(SECRET).await.ok(200), rotated);
    let got = told(&app, &receiver, "/overlap", json!({})).await;
    got.verify(&new);
    got.verify(&app.secret);
    let first = signatures(&got).remove(0);
    assert_eq!(signatures(&got).len(), 2);
    let mut alone = got.clone();
    alone.headers.insert("webhook-signature", first.parse().unwrap());
    assert_eq!((signed(&alone, &new), signed(&alone, &app.secret)), (true, false), "the new one first");

    app.pass(60);
    let got = told(&app, &receiver, "/after", json!({})).await;
    assert_eq!((signed(&got, &new), signed(&got, &app.secret)), (true, false));
    assert_eq!(signatures(&got).len(), 1);
    assert_eq!(app.get(SECRET).await.ok(200), json!({"secret": new}));
}

async fn a_rotation_without_overlap_is_at_once(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;

    let rotated = rotate(&app, 0).await;

    let new = id(&rotated["secret"]);
    assert_eq!(rotated, json!({"secret": new}));
    let got = told(&app, &receiver, "/a", json!({})).await;
    assert_eq!((signed(&got, &new), signed(&got, &app.secret)), (true, false));
    // The path that the contract writes as `.../rotate-secret`; the body may be left out.
    let again = app.ask("POST", &format!("{SECRET}/rotate-secret")).await.ok(200);
    let newest = id(&again["secret"]);
    assert!(newest != new && again["previousExpiresAt"].is_string(), "{again}");
    let got = told(&app, &receiver, "/b", json!({})).await;
    assert_eq!((signed(&got, &newest), signed(&got, &new)), (true, true));
}

async fn at_most_three_secrets_live(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let mut all = vec![app.secret.clone()];
    for _ in 0..3 {
        app.pass(1);
        let rotated = rotate(&app, 200).await;
        assert_eq!(rotated["cutOffExpiresAt"].is_string(), all.len() == 3, "{rotated}");
        all.push(id(&rotated["secret"]));
    }

    let got = told(&app, &receiver, "/a", json!({})).await;

    assert_eq!(signatures(&got).len(), 3);
    let live: Vec<bool> = all.iter().map(|secret| signed(&got, secret)).collect();
    assert_eq!(live, [false, true, true, true], "the oldest goes");
}

async fn a_callbacks_own_secret_is_not_rotated(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let own = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    rotate(&app, 60).await;

    let got = told(&app, &receiver, "/a", json!({"secret": own})).await;

    got.verify(own);
    assert_eq!((signatures(&got).len(), signed(&got, &app.secret)), (1, false));
}

async fn a_rotation_that_breaks_a_rule_changes_nothing(site: &Site) {
    let app = site.start().await;
    for (body, pointer) in [
        (json!({"overlapSeconds": 604_801}), "/overlapSeconds"),
        (json!({"overlapSeconds": -1}), "/overlapSeconds"),
        (json!({"overlapSeconds": "1"}), "/overlapSeconds"),
        (json!({"secret": app.secret}), "/secret"),
        (json!([]), ""),
    ] {
        app.post(ROTATE, &body).await.refused(422, "validation-failed", pointer);
    }
    app.ask("POST", &format!("{ROTATE}?x=1")).await.refused(400, "invalid-request", "?x");
    app.get(&format!("{SECRET}?x=1")).await.refused(400, "invalid-request", "?x");
    assert_eq!(app.get(SECRET).await.ok(200), json!({"secret": app.secret}));
}
