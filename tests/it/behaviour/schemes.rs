//! How deliveries to standing endpoints are signed, scheme by scheme, and through a rotation.

use ringback::types::signature::asymmetric::{self, PublicKey};
use ringback::types::signature::schemes::hex::{verify_github, verify_stripe};
use serde_json::{Value, json};

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id};
use crate::support::receiver::{Received, Receiver};

both_engines! {
    an_endpoint_is_signed_for_in_every_scheme_it_asks_for,
    a_rotation_signs_with_both_keys_where_there_is_room,
    schemes_change_with_the_endpoint,
}

async fn endpoint(app: &TestApp, receiver: &Receiver, schemes: Value) -> Value {
    let wish = json!({"url": receiver.url("/x"), "events": ["job.queued"], "schemes": schemes});
    app.post("/v1/endpoints", &wish).await.ok(201)
}

/// The `n`th delivery, made by a new job.
async fn told(app: &TestApp, receiver: &Receiver, n: usize) -> Received {
    app.submit(json!({"type": "t"})).await;
    receiver.wait("/x", n, LIMIT).await.remove(n - 1)
}

fn seconds(got: &Received) -> i64 {
    got.header("webhook-timestamp").parse().unwrap()
}

fn by_public_key(got: &Received, key: &Value) -> bool {
    let key = PublicKey::parse(key.as_str().unwrap()).unwrap();
    let (timestamp, header) = (got.header("webhook-timestamp"), got.header("webhook-signature"));
    asymmetric::verify(&[key], got.webhook_id(), timestamp, header, &got.body, seconds(got), 0).is_ok()
}

fn by_github(got: &Received, secret: &str) -> bool {
    verify_github(&[secret], got.header("x-hub-signature-256"), &got.body).is_ok()
}

fn by_stripe(got: &Received, secret: &str) -> bool {
    verify_stripe(&[secret], got.header("stripe-signature"), &got.body, seconds(got), 0).is_ok()
}

/// The versions of the items of `webhook-signature`.
fn versions(got: &Received) -> Vec<&str> {
    got.header("webhook-signature").split(' ').map(|item| item.split_once(',').unwrap().0).collect()
}

async fn an_endpoint_is_signed_for_in_every_scheme_it_asks_for(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let made = endpoint(&app, &receiver, json!(["stripe", "v1a", "github"])).await;
    let secret = id(&made["secret"]);
    assert_eq!(made["publicKeys"].as_array().unwrap().len(), 1);

    let got = told(&app, &receiver, 1).await;

    got.verify(&secret);
    assert_eq!(versions(&got), ["v1", "v1a"]);
    assert!(by_public_key(&got, &made["publicKeys"][0]));
    assert!(by_github(&got, &secret) && by_stripe(&got, &secret));
    let shown = app.get(&format!("/v1/endpoints/{}", id(&made["endpointId"]))).await.ok(200);
    assert_eq!((&shown["publicKeys"], shown.get("secret")), (&made["publicKeys"], None));
}

async fn a_rotation_signs_with_both_keys_where_there_is_room(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let made = endpoint(&app, &receiver, json!(["v1a", "github", "stripe"])).await;
    let path = format!("/v1/endpoints/{}", id(&made["endpointId"]));
    let rotated = app.post(&format!("{path}/rotate-secret"), &json!({"overlapSeconds": 60})).await.ok(200);
    let (old, new) = (id(&made["secret"]), id(&rotated["secret"]));

    let got = told(&app, &receiver, 1).await;

    assert_eq!(versions(&got), ["v1", "v1", "v1a", "v1a"]);
    [&old, &new].iter().for_each(|secret| got.verify(secret));
    assert!(by_stripe(&got, &old) && by_stripe(&got, &new));
    assert!(by_github(&got, &new) && !by_github(&got, &old), "one header, one key: the new one");
    let keys = app.get(&path).await.ok(200)["publicKeys"].clone();
    assert_eq!((keys.as_array().unwrap().len(), &keys[1]), (2, &made["publicKeys"][0]), "the newest first");
    assert!(by_public_key(&got, &keys[0]) && by_public_key(&got, &keys[1]));
    assert!(got.header("webhook-signature").len() < 512);
}

async fn schemes_change_with_the_endpoint(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let made = endpoint(&app, &receiver, json!([])).await;
    let path = format!("/v1/endpoints/{}", id(&made["endpointId"]));
    assert_eq!((&made["schemes"], made.get("publicKeys")), (&json!(["v1"]), None));
    let plain = told(&app, &receiver, 1).await;
    assert_eq!(versions(&plain), ["v1"]);
    assert_eq!((plain.header("x-hub-signature-256"), plain.header("stripe-signature")), ("", ""));

    let body = json!({"schemes": ["v1", "v1a"]}).to_string();
    let changed = app.ask("PATCH", &path).text("application/json", body).await.ok(200);

    let got = told(&app, &receiver, 2).await;
    assert!(by_public_key(&got, &changed["publicKeys"][0]), "the key stood beside the secret all the time");
    got.verify(&id(&made["secret"]));
    // A callback that brings its own secret is signed with that alone.
    let own = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw3x3qXwQbDsY=";
    let callback = json!({"url": receiver.url("/own"), "secret": own, "events": ["job.queued"]});
    app.submit(json!({"type": "t", "callback": callback})).await;
    let got = receiver.wait("/own", 1, LIMIT).await.remove(0);
    got.verify(own);
    assert_eq!(versions(&got), ["v1"]);
}
