//! What a receiver gets.

mod explained;
mod hand;
mod recalled;
mod repeats;
mod shown;

use serde_json::{Value, json};

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, instant, until};
use crate::support::receiver::{Received, Receiver};

both_engines! {
    a_callback_has_these_headers_and_no_others,
    the_body_is_the_job_as_it_stood,
    a_result_is_inlined_as_sound_json_up_to_64_kib,
    only_the_four_ends_are_told_by_default,
    events_on_request_are_numbered_as_in_the_history,
    every_unhappy_end_is_told,
    a_callback_brings_its_own_headers_and_secret,
    cloudevents_stand_in_the_headers,
    a_rotation_signs_with_both_secrets_the_new_one_first,
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The first request to a path of its own by a job completed with that callback; and the job's id.
async fn told(app: &TestApp, receiver: &Receiver, path: &str, more: Value) -> (Received, String) {
    let job = app.called_back(&receiver.url(path), more).await;
    (receiver.wait(path, 1, LIMIT).await.remove(0), job)
}

/// Waits until so many are delivered: time must not jump over a lease.
async fn delivered(app: &TestApp, n: usize) {
    until(&format!("{n} are delivered"), async || {
        let found = app.items("/v1/deliveries?state=delivered").await;
        if found.len() == n { Ok(()) } else { Err(found) }
    })
    .await;
}

fn taken(value: &mut Value, member: &str) -> Value {
    value.as_object_mut().unwrap().remove(member).unwrap_or_else(|| panic!("no {member}: {value}"))
}

async fn a_callback_has_these_headers_and_no_others(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let wish = json!({"type": "t", "callbackUrl": receiver.url("/x")});
    let job = id(&app.post("/v1/jobs", &wish).header("traceparent", trace).await.ok(202)["jobId"]);

    app.complete(&job).await;

    let got = receiver.wait("/x", 1, LIMIT).await.remove(0);
    let delivery = id(&app.delivery_in(&job, "delivered").await["deliveryId"]);
    assert!(delivery.starts_with("dlv_") && delivery.len() == 30, "{delivery}");
    let wanted = [
        ("content-length", got.body.len().to_string()),
        ("content-type", "application/json".to_owned()),
        ("host", receiver.addr.to_string()),
        ("idempotency-key", format!("\"{delivery}\"")),
        ("traceparent", trace.to_owned()),
        ("user-agent", concat!("Ringback/", env!("CARGO_PKG_VERSION")).to_owned()),
        ("webhook-attempt", "1".to_owned()),
        ("webhook-id", delivery),
        ("webhook-signature", got.signature_of(&app.secret)),
        ("webhook-timestamp", app.clock.now().seconds().to_string()),
    ];
    let mut seen: Vec<_> =
        got.headers.keys().map(|name| (name.as_str(), got.header(name.as_str()))).collect();
    seen.sort_unstable();
    assert_eq!(seen, wanted.each_ref().map(|(name, value)| (*name, value.as_str())));
    assert_eq!(got.method, "POST");
    got.verify(&app.secret);
}

async fn the_body_is_the_job_as_it_stood(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let context = json!({"orderId": "o-1", "note": "grün"});
    let callback = json!({"url": receiver.url("/x"), "context": context});
    let wish =
        json!({"type": "report.generate", "ref": "b-1", "metadata": {"team": "a"}, "callback": callback});
    let job = app.submit_id(wish).await;
    let other = app.submit_id(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;

    app.report(&claimed, "complete", json!({"result": {"rows": [1, 2.5]}})).await.ok(200);

    let got = receiver.wait("/x", 1, LIMIT).await.remove(0);
    app.delivery_in(&job, "delivered").await;
    assert!(got.body.starts_with(b"{\"type\":\"job.completed\",\"timestamp\":"), "{got:?}");
    let (mut body, mut shown) = (got.json(), app.job(&job).await);
    let mut data = taken(&mut body, "data");
    let token = id(&taken(&mut data, "accessToken"));
    assert_eq!(taken(&mut data, "result"), json!({"rows": [1, 2.5]}));
    assert_eq!(taken(&mut data, "context"), context);
    assert_eq!(taken(&mut shown, "callbackState"), "delivered");
    assert_eq!(data, shown);
    let event = app.items(&format!("/v1/jobs/{job}/events")).await.pop().unwrap();
    let wanted = json!({"type": "job.completed", "timestamp": shown["completedAt"],
        "eventId": event["eventId"], "sequence": 3});
    assert_eq!(body, wanted);
    assert!(event["eventId"].as_str().unwrap().starts_with("evt_"), "{event}");
    for path in ["", "/result", "/events"] {
        assert_eq!(app.get(&format!("/v1/jobs/{job}{path}")).key(&token).await.status, 200, "{path}");
    }
    app.get(&format!("/v1/jobs/{other}")).key(&token).await.refused(404, "job-not-found", "");
}

async fn a_result_is_inlined_as_sound_json_up_to_64_kib(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let (most, more) = (text(64 * 1024), text(64 * 1024 + 1));
    let nest = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let (deep, deeper) = (nest(64), nest(65));
    for (n, (payload, content_type, result, inlined, ending)) in [
        ("full", "application/json", "{\"a\" : 1.50}", true, "json"),
        ("full", "application/json", &most, true, "json"),
        ("full", "application/json", &more, false, "json"),
        ("full", "application/json", &deep, true, "json"),
        ("full", "application/json", &deeper, false, "json"),
        ("full", "application/json", "{\"a\":1,\"a\":2}", false, "json"),
        ("full", "text/csv", "[1]", false, "csv"),
        ("thin", "application/json", "[1]", false, "json"),
    ]
    .into_iter()
    .enumerate()
    {
        let callback = json!({"url": receiver.url(&format!("/{n}")), "payload": payload});
        let job = app.submit_id(json!({"type": "t", "callback": callback})).await;
        let lease = id(&app.claim_one().await["leaseToken"]);
        let complete = app.ask("POST", &format!("/v1/jobs/{job}/complete")).header("lease-token", &lease);
        complete.text(content_type, result.to_owned()).await.ok(200);

        let data = receiver.wait(&format!("/{n}"), 1, LIMIT).await[0].json()["data"].clone();
        let wanted: Option<Value> = inlined.then(|| serde_json::from_str(result).unwrap());
        assert!(data.get("result") == wanted.as_ref(), "case {n}");
        assert_eq!(data["resultUrl"], format!("{}/results/{job}.{ending}", app.url));
        let token = id(&data["accessToken"]);
        let fetched = app.get(&format!("/results/{job}.{ending}")).key(&token).await;
        assert!((fetched.status, &fetched.body[..]) == (200, result.as_bytes()), "case {n}");
    }
    let elsewhere = json!({"type": "t", "callbackUrl": receiver.url("/e"), "worker": "external"});
    let external = app.submit(elsewhere).await;
    app.report(&external, "complete", json!({"resultUrl": "https://ci.example.com/1"})).await.ok(200);
    let data = receiver.wait("/e", 1, LIMIT).await[0].json()["data"].clone();
    assert_eq!((&data["resultUrl"], data.get("result")), (&json!("https://ci.example.com/1"), None));
}

async fn only_the_four_ends_are_told_by_default(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let job = app.submit_id(json!({"type": "t", "callbackUrl": receiver.url("/x")})).await;
    let claimed = app.claim_one().await;
    app.report(&claimed, "heartbeat", json!({"progress": 10})).await.ok(200);
    app.report(&claimed, "release", json!({})).await.ok(200);

    assert_eq!(app.items(&format!("/v1/jobs/{job}/deliveries")).await, Vec::<Value>::new());
    assert_eq!(app.job(&job).await["callbackState"], "pending", "its end will be told");
    app.complete(&job).await;

    app.delivery_in(&job, "delivered").await;
    let got = receiver.log();
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!(got[0].json()["type"], "job.completed");

    let callback = json!({"url": receiver.url("/y"), "events": ["job.failed"]});
    let job = app.completed(json!({"type": "t", "callback": callback})).await;
    assert_eq!(app.items(&format!("/v1/jobs/{job}/deliveries")).await, Vec::<Value>::new());
    assert_eq!(app.job(&job).await["callbackState"], "none");
}

async fn events_on_request_are_numbered_as_in_the_history(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let events = json!(["job.queued", "job.started", "job.progress", "job.retrying", "job.completed"]);
    let callback = json!({"url": receiver.url("/x"), "events": events, "payload": "thin"});
    let job = app.submit_id(json!({"type": "t", "callback": callback})).await;
    let claimed = app.claim_one().await;
    app.report(&claimed, "heartbeat", json!({"progress": 10, "message": "half"})).await.ok(200);
    app.report(&claimed, "fail", json!({"error": "x", "retryAfterSeconds": 1})).await.ok(200);
    delivered(&app, 4).await;
    app.pass(60);
    app.complete(&job).await;

    let mut got = receiver.wait("/x", 6, LIMIT).await;

    got.sort_by_key(|r| r.json()["sequence"].as_i64());
    let told: Vec<_> = got.iter().map(|r| (id(&r.json()["type"]), r.json()["sequence"].clone())).collect();
    let kinds = ["queued", "started", "progress", "retrying", "started", "completed"];
    let wanted: Vec<_> = kinds.iter().zip(1..).map(|(k, n)| (format!("job.{k}"), json!(n))).collect();
    assert_eq!(told, wanted);
    let history = app.items(&format!("/v1/jobs/{job}/events")).await;
    assert_eq!(history.len(), got.len());
    for (got, mut event) in got.iter().zip(history) {
        let mut body = got.json();
        taken(&mut body["data"], "accessToken");
        assert_eq!(taken(&mut event, "jobId"), body["data"]["jobId"]);
        assert_eq!(body, event, "the webhook and the history tell the same");
        got.verify(&app.secret);
    }
    let ids: std::collections::BTreeSet<_> = got.iter().map(Received::webhook_id).collect();
    assert_eq!(ids.len(), 6, "each is a delivery of its own");
}

async fn every_unhappy_end_is_told(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let to = |path: &str| json!({"type": "t", "callbackUrl": receiver.url(path)});
    app.submit(to("/failed")).await;
    let claimed = app.claim_one().await;
    let why = json!({"error": "no data for 2025", "errorCode": "data_not_found", "retryable": false});
    app.report(&claimed, "fail", why).await.ok(200);
    let cancelled = app.submit_id(to("/cancelled")).await;
    app.post(&format!("/v1/jobs/{cancelled}/cancel"), &json!({"reason": "not needed"})).await.ok(200);
    let mut late = to("/expired");
    late["deadlineAt"] = json!(app.clock.now().plus(std::time::Duration::from_secs(60)));
    app.submit(late).await;
    delivered(&app, 2).await;
    app.pass(61);

    for (state, code, error) in [
        ("failed", "data_not_found", "no data for 2025"),
        ("cancelled", "cancelled", "not needed"),
        ("expired", "deadline-passed", ""),
    ] {
        let got = receiver.wait(&format!("/{state}"), 1, LIMIT).await.remove(0);
        got.verify(&app.secret);
        let body = got.json();
        let data = &body["data"];
        assert_eq!(body["type"], format!("job.{state}"));
        assert_eq!((&data["status"], &data["state"]), (&json!("failed"), &json!(state)));
        assert_eq!((&data["errorInfo"]["code"], &data["sequence"]), (&json!(code), &body["sequence"]));
        let told = data["error"].as_str().unwrap();
        assert!(!told.is_empty() && told.contains(error), "{data}");
        assert!(data.get("resultUrl").is_none() && data.get("result").is_none(), "{data}");
    }
    assert_eq!(receiver.log().len(), 3);
}

async fn a_callback_brings_its_own_headers_and_secret(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let headers = json!({"X-Env": "prod", "Authorization": "Bearer x y"});

    let (got, job) = told(&app, &receiver, "/x", json!({"secret": SECRET, "headers": headers})).await;

    assert_eq!((got.header("x-env"), got.header("authorization")), ("prod", "Bearer x y"));
    assert_eq!(got.header("traceparent"), "", "the submission had none");
    got.verify(SECRET);
    assert_eq!(got.header("webhook-signature"), got.signature_of(SECRET), "no other secret signs");
    let shown = app.delivery_in(&job, "delivered").await.to_string();
    assert!(!shown.contains("Bearer") && !shown.contains(SECRET), "{shown}");
}

async fn cloudevents_stand_in_the_headers(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let more = json!({"format": "cloudevents", "context": [7], "secret": SECRET});

    let (got, job) = told(&app, &receiver, "/x", more).await;

    let event = app.items(&format!("/v1/jobs/{job}/events")).await.pop().unwrap();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", event["eventId"].as_str().unwrap()),
        ("ce-type", "job.completed"),
        ("ce-source", &app.url),
        ("ce-time", event["timestamp"].as_str().unwrap()),
        ("ce-subject", &job),
        ("content-type", "application/json"),
        ("webhook-attempt", "1"),
    ] {
        assert_eq!(got.header(name), value, "{name}");
    }
    got.verify(SECRET);
    assert_eq!(got.webhook_id(), app.delivery_of(&job).await["deliveryId"]);
    let mut data = got.json();
    assert!(id(&taken(&mut data, "accessToken")).starts_with("rbj_"));
    assert_eq!(taken(&mut data, "result"), json!({"ok": true}));
    assert_eq!(taken(&mut data, "context"), json!([7]));
    assert_eq!(data, event["data"], "the body is data alone");
}

async fn a_rotation_signs_with_both_secrets_the_new_one_first(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let show = "/v1/tenants/self/webhook-secret";
    assert_eq!(app.get(show).await.ok(200)["secret"], app.secret);
    let (old, _) = told(&app, &receiver, "/before", json!({})).await;
    assert_eq!(old.header("webhook-signature"), old.signature_of(&app.secret));

    let rotate = app.post("/v1/tenants/self/rotate-secret", &json!({"overlapSeconds": 60})).await;

    let rotated = rotate.ok(200);
    let new = id(&rotated["secret"]);
    assert!(new.starts_with("whsec_") && new != app.secret);
    let until = app.clock.now().plus(std::time::Duration::from_secs(60));
    assert_eq!(instant(&rotated["previousExpiresAt"]), until);
    assert_eq!(app.get(show).await.ok(200), rotated);
    let (both, _) = told(&app, &receiver, "/during", json!({})).await;
    let wanted = format!("{} {}", both.signature_of(&new), both.signature_of(&app.secret));
    assert_eq!(both.header("webhook-signature"), wanted);
    both.verify(&new);
    both.verify(&app.secret);
    let (own, _) = told(&app, &receiver, "/own", json!({"secret": SECRET})).await;
    assert_eq!(own.header("webhook-signature"), own.signature_of(SECRET));
    delivered(&app, 3).await;
    app.pass(61);
    let (after, _) = told(&app, &receiver, "/after", json!({})).await;
    assert_eq!(after.header("webhook-signature"), after.signature_of(&new));
}
