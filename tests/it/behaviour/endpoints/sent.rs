//! What an endpoint is sent.

use std::future::IntoFuture;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{make, patch, path};
use crate::support::app::{LIMIT, Site, both_engines, id, until};
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    job_events_come_signed_by_the_endpoints_own_secret,
    both_secrets_sign_while_a_rotation_overlaps,
    further_schemes_sign_beside_the_first,
    a_test_is_sent_at_once_and_told,
    a_test_that_fails_tells_why,
    who_has_many_tests_under_way_waits_alone,
    who_echoes_the_challenge_is_verified,
    a_paused_endpoint_waits_and_a_resumed_one_gets_all,
    a_changed_endpoint_gets_what_was_pending,
}

async fn job_events_come_signed_by_the_endpoints_own_secret(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let given = json!({"events": ["job.completed"], "headers": {"X-Env": "prod"}});
    let there = make(&app, &receiver.url("/in"), given).await;

    let job = app.completed(json!({"type": "t"})).await;
    let got = receiver.wait("/in", 1, LIMIT).await.remove(0);

    got.verify(there["secret"].as_str().unwrap());
    assert_eq!((&got.json()["type"], &got.json()["data"]["jobId"]), (&json!("job.completed"), &json!(job)));
    assert_eq!((got.header("x-env"), got.json()["data"]["result"]["ok"].as_bool()), ("prod", Some(true)));
    let delivery = app.delivery_in(&job, "delivered").await;
    assert_eq!(
        (&delivery["endpointId"], id(&delivery["deliveryId"])),
        (&there["endpointId"], got.webhook_id().to_owned())
    );
    let of = format!("/v1/deliveries?endpointId={}", id(&there["endpointId"]));
    assert_eq!(app.items(&of).await.len(), 1);
    let lanes = app.items("/v1/lanes").await;
    assert_eq!((&lanes[0]["endpointId"], &lanes[0]["kind"]), (&there["endpointId"], &json!("endpoint")));
    assert_eq!(app.job(&job).await["callbackState"], "none");
}

async fn both_secrets_sign_while_a_rotation_overlaps(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let there = make(&app, &receiver.url("/in"), json!({"events": []})).await;

    let rotated = app.post(&path(&there, "/rotate-secret"), &json!({"overlapSeconds": 60})).await.ok(200);
    app.ask("POST", &path(&there, "/test")).await.ok(200);
    let both = receiver.at("/in").remove(0);
    app.post(&path(&there, "/rotate-secret"), &json!({"overlapSeconds": 0})).await.ok(200);
    app.ask("POST", &path(&there, "/test")).await.ok(200);
    let alone = receiver.at("/in").remove(1);

    assert!(rotated["previousExpiresAt"].is_string(), "{rotated}");
    let new = rotated["secret"].as_str().unwrap();
    both.verify(there["secret"].as_str().unwrap());
    both.verify(new);
    assert!(both.header("webhook-signature").starts_with(&both.signature_of(new)), "the new one first");
    assert_eq!(alone.header("webhook-signature").split(' ').count(), 1, "no overlap");
    let far = app.post(&path(&there, "/rotate-secret"), &json!({"overlapSeconds": 604_801})).await;
    far.refused(422, "validation-failed", "/overlapSeconds");
}

async fn further_schemes_sign_beside_the_first(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let given = json!({"events": [], "schemes": ["github", "stripe", "v1a"]});
    let there = make(&app, &receiver.url("/in"), given).await;

    app.ask("POST", &path(&there, "/test")).await.ok(200);
    let got = receiver.at("/in").remove(0);

    assert!(got.header("x-hub-signature-256").starts_with("sha256="));
    let at = got.header("webhook-timestamp");
    assert!(got.header("stripe-signature").starts_with(&format!("t={at},v1=")));
    let signature = got.header("webhook-signature");
    assert!(signature.starts_with(&got.signature_of(there["secret"].as_str().unwrap())), "{signature}");
    assert!(signature.contains(" v1a,") && there["publicKeys"][0].as_str().unwrap().starts_with("whpk_"));
    assert_eq!(app.get(&path(&there, "")).await.ok(200)["publicKeys"], there["publicKeys"]);
}

async fn a_test_is_sent_at_once_and_told(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let there = make(&app, &receiver.url("/in"), json!({"events": []})).await;
    app.ask("POST", &path(&there, "/pause")).await.ok(200);
    receiver.script("/in", vec![Answer::Body(202, vec![], Bytes::from_static(b"thanks"))]);

    let told = app.ask("POST", &path(&there, "/test")).await.ok(200);

    assert_eq!(
        (&told["ok"], &told["status"], &told["responseBody"]),
        (&json!(true), &json!(202), &json!("thanks"))
    );
    let got = receiver.at("/in").remove(0);
    got.verify(there["secret"].as_str().unwrap());
    assert_eq!(
        (got.json()["type"].as_str(), got.webhook_id()),
        (Some("webhook.test"), told["deliveryId"].as_str().unwrap())
    );
    let delivery = app.get(&format!("/v1/deliveries/{}", id(&told["deliveryId"]))).await.ok(200);
    assert_eq!((&delivery["state"], &delivery["attempts"][0]["status"]), (&json!("delivered"), &json!(202)));
    let again = json!({"filter": {"endpointId": there["endpointId"]}, "dryRun": true});
    let matched = app.post("/v1/deliveries/replay", &again).await.ok(200);
    assert_eq!(matched["matched"], 0, "a test is not sent again: {matched}");
}

async fn who_has_many_tests_under_way_waits_alone(site: &Site) {
    let other = site.key_of("other").await;
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let there = make(&app, &receiver.url("/in"), json!({"events": [], "timeoutSeconds": 30})).await;
    receiver.script("/in", vec![Answer::Hang]);
    let test = path(&there, "/test");
    let mut under_way: Vec<_> = (0..4).map(|_| tokio::spawn(app.ask("POST", &test).into_future())).collect();
    receiver.wait("/in", 4, LIMIT).await;

    app.ask("POST", &test).await.refused(429, "rate-limited", "");
    app.ask("POST", &path(&there, "/verify")).await.refused(429, "rate-limited", "");
    let given = json!({"url": receiver.url("/theirs"), "events": []});
    let theirs = app.post("/v1/endpoints", &given).key(&other).await.ok(201);
    app.ask("POST", &path(&theirs, "/test")).key(&other).await.ok(200);

    // Its client leaves, and it is under way all the same.
    under_way.remove(0).abort();
    app.ask("POST", &test).await.refused(429, "rate-limited", "");
    receiver.script("/in", vec![Answer::Status(200)]);
    receiver.let_go();
    for told in under_way {
        assert_eq!(told.await.unwrap().ok(200)["ok"], true);
    }
    until("all have come back", async || {
        let told = app.ask("POST", &test).await;
        if told.status == 200 { Ok(()) } else { Err(told) }
    })
    .await;
}

async fn a_test_that_fails_tells_why(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let there = make(&app, &receiver.url("/in"), json!({"events": [], "timeoutSeconds": 1})).await;
    receiver.script("/in", vec![Answer::Status(500), Answer::Hang]);

    let failed = app.ask("POST", &path(&there, "/test")).await.ok(200);
    let slow = app.ask("POST", &path(&there, "/test")).await.ok(200);

    assert_eq!((&failed["ok"], &failed["status"]), (&json!(false), &json!(500)));
    assert!(slow["ok"] == false && slow["error"].as_str().unwrap().contains("deadline"), "{slow}");
    assert_eq!(receiver.at("/in").len(), 2, "each is tried once");
    let seen = app.get(&path(&there, "")).await.ok(200);
    assert!(seen.get("failingSince").is_none(), "a test says nothing of how it fares: {seen}");
    assert_eq!(app.items("/v1/deliveries?state=dead").await.len(), 2);
}

async fn who_echoes_the_challenge_is_verified(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let there = make(&app, &receiver.url("/plain"), json!({"events": []})).await;

    let silent = app.ask("POST", &path(&there, "/verify")).await.ok(200);

    assert!(silent["ok"] == false && silent["error"].as_str().unwrap().contains("echo"), "{silent}");
    let challenge = receiver.at("/plain")[0].json()["data"]["challenge"].clone();
    assert_eq!(receiver.at("/plain")[0].json()["type"], "webhook.verify");
    // An old challenge is worth nothing.
    receiver.script("/plain", vec![Answer::Body(200, vec![], challenge.to_string().into())]);
    assert_eq!(app.ask("POST", &path(&there, "/verify")).await.ok(200)["ok"], false);
    assert_eq!(app.get(&path(&there, "")).await.ok(200)["verified"], false);

    let echo = echo().await;
    patch(&app, &there, json!({"url": echo})).await.ok(200);
    let told = app.ask("POST", &path(&there, "/verify")).await.ok(200);
    assert_eq!(told["ok"], true, "{told}");
    let seen = app.get(&path(&there, "")).await.ok(200);
    assert!(seen["verified"] == true && seen["verifiedAt"].is_string(), "{seen}");
    let moved = patch(&app, &there, json!({"url": receiver.url("/plain")})).await.ok(200);
    assert_eq!(moved["verified"], false, "another place");
}

/// A receiver that knows the challenge.
async fn echo() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answer = |body: axum::Json<Value>| async move {
        axum::Json(json!({"challenge": body.0["data"]["challenge"]}))
    };
    let router = axum::Router::new().fallback(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    url
}

async fn a_paused_endpoint_waits_and_a_resumed_one_gets_all(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let there = make(&app, &receiver.url("/in"), json!({"events": ["job.queued"]})).await;
    let paused = app.ask("POST", &path(&there, "/pause")).await.ok(200);
    assert_eq!((&paused["state"], &paused["stateReason"]), (&json!("paused"), &json!("requested")));
    for _ in 0..15 {
        app.submit(json!({"type": "t"})).await;
    }
    let held = app.items("/v1/deliveries?state=held").await;
    assert_eq!((held.len(), &held[0]["heldReason"]), (15, &json!("paused")));

    let resumed = app.ask("POST", &path(&there, "/resume")).await.ok(200);

    assert!(resumed["state"] == "enabled" && resumed.get("stateReason").is_none(), "{resumed}");
    receiver.wait("/in", 15, LIMIT).await;
    until("all are delivered", async || {
        let left = app.items("/v1/deliveries?state=delivered").await.len();
        if left == 15 { Ok(()) } else { Err(left) }
    })
    .await;
    assert!(app.items("/v1/deliveries").await.iter().all(|d| d["attempt"] == 1));
}

async fn a_changed_endpoint_gets_what_was_pending(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/old", vec![Answer::Status(500)]);
    let there = make(&app, &receiver.url("/old"), json!({"events": []})).await;
    let job = app.completed(json!({"type": "t", "callback": {"endpointId": there["endpointId"]}})).await;
    app.delivery_after(&job, 1).await;

    let new = json!({"url": receiver.url("/new"), "headers": {"X-Env": "new"}});
    patch(&app, &there, new).await.ok(200);
    let rotated = app.post(&path(&there, "/rotate-secret"), &json!({"overlapSeconds": 0})).await.ok(200);
    app.pass(10);
    let got = receiver.wait("/new", 1, LIMIT).await.remove(0);

    got.verify(rotated["secret"].as_str().unwrap());
    assert_eq!((got.header("x-env"), got.header("webhook-attempt")), ("new", "2"));
    assert_eq!(receiver.at("/old")[0].body, got.body, "the bytes are frozen");
    let delivery = app.delivery_in(&job, "delivered").await;
    assert_eq!(delivery["url"], receiver.url("/new"));
    assert_eq!(app.job(&job).await["callbackState"], "delivered");
}
