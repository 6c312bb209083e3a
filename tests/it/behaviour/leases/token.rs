//! A lease token is right enough to report on its job, and opens nothing else.

use serde_json::{Value, json};

use super::seen;
use crate::support::app::{Site, TestApp, both_engines, id};

both_engines! {
    the_token_alone_is_right_enough,
    a_key_besides_takes_nothing_from_it,
    the_token_opens_nothing_else,
    another_token_changes_nothing,
    who_makes_tokens_up_does_not_reach_the_writer,
    who_shows_neither_token_nor_key_is_refused,
}

/// Four jobs of the default queue, claimed.
async fn four(app: &TestApp) -> Vec<Value> {
    for _ in 0..4 {
        app.submit(json!({"type": "t"})).await;
    }
    app.claim(4).await
}

const VERBS: [(&str, &str); 4] =
    [("heartbeat", ""), ("complete", "complete"), ("fail", "retrying"), ("release", "queued")];

/// Calls that came to the writer.
async fn written(app: &TestApp) -> f64 {
    let reply = app.get("/metrics").nobody().await;
    let text = String::from_utf8_lossy(&reply.body);
    let line = text.lines().find_map(|line| line.strip_prefix("ringback_commit_batch_size_sum "));
    line.unwrap().parse().unwrap()
}

async fn who_makes_tokens_up_does_not_reach_the_writer(site: &Site) {
    let app = site.start().await;
    let jobs = four(&app).await;
    let before = written(&app).await;
    for _ in 0..150 {
        let made_up = json!({"jobId": jobs[0]["jobId"], "leaseToken": jobs[1]["leaseToken"]});
        app.report(&made_up, "heartbeat", json!({})).nobody().await.refused(409, "lease-lost", "");
    }
    let reached = written(&app).await - before;
    assert!((64.0..130.0).contains(&reached), "{reached}");
    // The holders are heard meanwhile, ended jobs and all.
    for (claimed, (verb, _)) in jobs.iter().zip(VERBS) {
        app.report(claimed, verb, needed(verb)).nobody().await.ok(200);
        if verb != "heartbeat" {
            app.report(claimed, verb, needed(verb)).nobody().await.ok(200);
        }
    }
}

/// What a verb needs beside the token.
fn needed(verb: &str) -> Value {
    if verb == "fail" { json!({"error": "x"}) } else { json!({}) }
}

async fn the_token_alone_is_right_enough(site: &Site) {
    let app = site.start().await;
    let jobs = four(&app).await;
    for (claimed, (verb, state)) in jobs.iter().zip(VERBS) {
        let told = app.report(claimed, verb, needed(verb)).nobody().await.ok(200);

        assert_eq!(told["state"].as_str().unwrap_or_default(), state, "{verb}");
    }
}

/// A CI system submits with a key that may not work off queues, and its client sends the key always.
async fn a_key_besides_takes_nothing_from_it(site: &Site) {
    let app = site.start().await;
    let wish = json!({"scopes": ["jobs:write", "jobs:read"]});
    let key = id(&app.post("/v1/keys", &wish).await.ok(201)["key"]);
    for (verb, _) in VERBS {
        let external = json!({"type": "ci.build", "worker": "external"});
        let accepted = app.post("/v1/jobs", &external).key(&key).await.ok(202);

        app.report(&accepted, verb, needed(verb)).key(&key).await.ok(200);
    }
}

async fn the_token_opens_nothing_else(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;
    let token = id(&claimed["leaseToken"]);
    let items = json!({"items": [{"op": "complete", "jobId": job, "leaseToken": token}]});
    for (method, path, body) in [
        ("GET", format!("/v1/jobs/{job}"), None),
        ("GET", format!("/v1/jobs/{job}/result"), None),
        ("GET", format!("/v1/jobs/{job}/events"), None),
        ("GET", format!("/v1/jobs/{job}?access_token={token}"), None),
        ("GET", "/v1/jobs".to_owned(), None),
        ("DELETE", format!("/v1/jobs/{job}"), None),
        ("POST", format!("/v1/jobs/{job}/cancel"), Some(json!({}))),
        ("POST", format!("/v1/jobs/{job}/retry"), None),
        ("POST", "/v1/jobs".to_owned(), Some(json!({"type": "t"}))),
        ("POST", "/v1/queues/default/claim".to_owned(), Some(json!({}))),
        ("POST", "/v1/leases/ack".to_owned(), Some(items)),
    ] {
        let ask = || match &body {
            Some(body) => app.ask(method, &path).json(body).header("lease-token", &token),
            None => app.ask(method, &path).header("lease-token", &token),
        };
        ask().key(&token).await.refused(401, "unauthorized", "");
        ask().nobody().await.refused(401, "unauthorized", "");
    }
    app.report(&claimed, "complete", json!({})).key(&token).await.refused(401, "unauthorized", "");
    assert_eq!(app.job(&job).await["state"], "processing");
    assert_eq!(app.get("/v1/jobs").await.ok(200)["items"].as_array().unwrap().len(), 1);
}

async fn another_token_changes_nothing(site: &Site) {
    let app = site.start().await;
    let jobs = four(&app).await;
    let job = id(&jobs[0]["jobId"]);
    let before = seen(&app, &job).await;
    let own = id(&jobs[0]["leaseToken"]);
    let last = if own.ends_with('A') { 'B' } else { 'A' };
    let forged = format!("{}{last}", &own[..own.len() - 1]);
    for token in [id(&jobs[1]["leaseToken"]), forged] {
        for (verb, _) in VERBS {
            let mut more = needed(verb);
            more["leaseToken"] = json!(token);
            app.report(&jobs[0], verb, more.clone()).await.refused(409, "lease-lost", "");
            app.report(&jobs[0], verb, more).nobody().await.refused(409, "lease-lost", "");
        }
    }
    assert_eq!(seen(&app, &job).await, before);
    app.report(&jobs[0], "complete", json!({})).nobody().await.ok(200);
}

async fn who_shows_neither_token_nor_key_is_refused(site: &Site) {
    let app = site.start().await;
    let claimed = &four(&app).await[0];
    let job = id(&claimed["jobId"]);
    let before = seen(&app, &job).await;
    for (verb, _) in VERBS {
        let path = format!("/v1/jobs/{job}/{verb}");
        for body in [json!({}), json!({"leaseToken": null}), json!({"leaseToken": "rbl_x"}), json!([])] {
            let reply = app.post(&path, &body).nobody().await;
            reply.refused(401, "unauthorized", "");
            assert!(reply.header("www-authenticate").starts_with("Bearer"), "{reply:?}");
        }
        app.ask("POST", &path).nobody().await.refused(401, "unauthorized", "");
    }
    let raw = app.ask("POST", &format!("/v1/jobs/{job}/complete")).text("text/plain", "x");
    raw.header("lease-token", "rbl_x").nobody().await.refused(401, "unauthorized", "");
    assert_eq!(seen(&app, &job).await, before);
}
