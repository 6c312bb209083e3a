//! The access token reads one job from anywhere, and no token ever comes back in a refusal.

use serde_json::{Value, json};

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, until};
use crate::support::ask::{Ask, Reply};
use crate::support::receiver::Receiver;

both_engines! {
    it_reads_status_result_and_events_of_its_job,
    it_opens_nothing_else,
    browsers_may_read_with_it_from_any_origin,
    a_receiver_gets_it_in_the_webhook,
    it_ends_with_the_retention_of_its_job,
    a_broken_one_is_refused,
    an_api_key_is_not_taken_from_the_query,
    no_token_shows_up_in_a_refusal,
}

/// The read with the token as Bearer, and with the token in the query.
fn both(app: &TestApp, path: &str, token: &str) -> [Ask; 2] {
    let join = if path.contains('?') { '&' } else { '?' };
    [app.get(path).key(token), app.get(&format!("{path}{join}access_token={token}")).nobody()]
}

async fn it_reads_status_result_and_events_of_its_job(site: &Site) {
    let app = site.start().await;
    // A job for each way: one that is read too often in a second is not answered.
    for way in 0..2 {
        let accepted = app.submit(json!({"type": "t"})).await;
        let (job, token) = (id(&accepted["jobId"]), id(&accepted["accessToken"]));
        assert!(token.starts_with("rbj_"), "{token}");
        app.complete(&job).await;
        let (shown, result) = (app.job(&job).await, json!({"ok": true}));
        let events = app.get(&format!("/v1/jobs/{job}/events")).await.ok(200);

        for (path, wanted) in [
            (format!("/v1/jobs/{job}"), &shown),
            (format!("/api/jobs/{job}"), &shown),
            (format!("/v1/jobs/{job}/result"), &result),
            (format!("/results/{job}"), &result),
            (format!("/results/{job}.json"), &result),
            (format!("/v1/jobs/{job}/events?limit=5"), &events),
        ] {
            let [bearer, query] = both(&app, &path, &token);
            let reply = if way == 0 { bearer.await } else { query.await };
            assert_eq!(reply.header("cache-control"), "private, no-cache", "{path}");
            assert_eq!(reply.ok(200), *wanted, "{path}");
        }
        let page = app.get(&format!("/v1/jobs/{job}/events?limit=1&access_token={token}")).nobody().await;
        assert!(page.header("link").contains("after=1") && !page.header("link").contains("rbj_"), "{page:?}");
    }
}

async fn it_opens_nothing_else(site: &Site) {
    let app = site.start().await;
    let accepted = app.submit(json!({"type": "t"})).await;
    let (job, token) = (id(&accepted["jobId"]), id(&accepted["accessToken"]));
    let other = app.submit_id(json!({"type": "t"})).await;
    for path in ["", "/result", "/events"] {
        for ask in both(&app, &format!("/v1/jobs/{other}{path}"), &token) {
            ask.await.refused(404, "job-not-found", "");
        }
    }
    let of_job = format!("/v1/jobs/{job}/deliveries");
    for path in [
        "/v1/jobs",
        "/api/jobs",
        &of_job,
        "/v1/deliveries",
        "/v1/dead-letters",
        "/v1/lanes",
        "/v1/redrives",
        "/v1/keys",
        "/v1/tenants/self/webhook-secret",
    ] {
        for ask in both(&app, path, &token) {
            ask.await.refused(401, "unauthorized", "");
        }
    }
    for path in ["/cancel", "/retry", "/heartbeat", "/complete", "/fail", "/release"] {
        let path = format!("/v1/jobs/{job}{path}");
        app.post(&path, &json!({})).key(&token).await.refused(401, "unauthorized", "");
        let by_query = app.post(&format!("{path}?access_token={token}"), &json!({})).nobody().await;
        assert!(matches!(by_query.status, 400 | 401), "{by_query:?}");
    }
    app.delete(&format!("/v1/jobs/{job}")).key(&token).await.refused(401, "unauthorized", "");
    app.delete(&format!("/v1/jobs/{job}?access_token={token}")).nobody().await.refused(
        401,
        "unauthorized",
        "",
    );
    app.post("/v1/queues/default/claim", &json!({})).key(&token).await.refused(401, "unauthorized", "");
    assert_eq!(app.job(&job).await["state"], "queued");
}

async fn browsers_may_read_with_it_from_any_origin(site: &Site) {
    let app = site.start().await;
    let accepted = app.submit(json!({"type": "t"})).await;
    let (job, token) = (id(&accepted["jobId"]), id(&accepted["accessToken"]));
    let origin = |ask: Ask| ask.header("origin", "https://app.example.com");
    let paths = [
        format!("/v1/jobs/{job}"),
        format!("/api/jobs/{job}"),
        format!("/v1/jobs/{job}/result"),
        format!("/results/{job}.json"),
        format!("/v1/jobs/{job}/events"),
    ];
    for path in &paths {
        for ask in both(&app, path, &token) {
            let reply = origin(ask).await;
            assert!(matches!(reply.status, 200 | 409), "{reply:?}");
            assert_eq!(reply.header("access-control-allow-origin"), "*", "{path}");
            let exposed = reply.header("access-control-expose-headers");
            assert!(
                ["ETag", "Retry-After", "Location"].iter().all(|name| exposed.contains(name)),
                "{exposed}"
            );
            assert_eq!(reply.header("access-control-allow-credentials"), "");
        }
        let refused = origin(app.get(path).nobody()).await;
        refused.refused(401, "unauthorized", "");
        assert_eq!(refused.header("access-control-allow-origin"), "*", "a page sees why, too");
        let asked = origin(app.ask("OPTIONS", path).nobody());
        let preflight = asked.header("access-control-request-method", "GET").await;
        assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, "*"));
        assert!(preflight.header("access-control-allow-methods").contains("GET"), "{preflight:?}");
        assert!(!preflight.header("access-control-allow-methods").contains("DELETE"), "{preflight:?}");
        let allowed = preflight.header("access-control-allow-headers").to_ascii_lowercase();
        assert!(allowed.contains("authorization") && allowed.contains("last-event-id"), "{allowed}");
    }
    for path in ["/v1/jobs", "/v1/keys", "/v1/deliveries", "/v1/tenants/self/webhook-secret"] {
        assert_eq!(origin(app.get(path)).await.header("access-control-allow-origin"), "", "{path}");
    }
}

async fn a_receiver_gets_it_in_the_webhook(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let accepted = app.submit(json!({"type": "t", "callbackUrl": receiver.url("/a")})).await;
    app.complete(&id(&accepted["jobId"])).await;

    let data = receiver.wait("/a", 1, LIMIT).await[0].json()["data"].clone();

    assert_eq!(data["accessToken"], accepted["accessToken"]);
    let link = id(&data["resultUrl"]).replace(&app.url, "");
    assert_eq!(app.get(&link).key(&id(&data["accessToken"])).await.ok(200), json!({"ok": true}));
    let shown = app.job(&id(&accepted["jobId"])).await;
    assert!(shown.get("accessToken").is_none(), "a poller has it already: {shown}");
}

async fn it_ends_with_the_retention_of_its_job(site: &Site) {
    let app = site.start_still().await;
    let accepted = app.submit(json!({"type": "t", "retainSeconds": 60})).await;
    let (job, token) = (id(&accepted["jobId"]), id(&accepted["accessToken"]));
    app.complete(&job).await;
    app.pass(59);
    app.get(&format!("/v1/jobs/{job}")).key(&token).await.ok(200);
    app.pass(3_600);
    until("the sweep has removed it", async || {
        let reply = app.get(&format!("/v1/jobs/{job}")).await;
        if reply.status == 410 { Ok(()) } else { Err(reply) }
    })
    .await;
    for path in ["", "/result", "/events"] {
        app.get(&format!("/v1/jobs/{job}{path}")).key(&token).await.refused(410, "job-expired", "");
    }
}

async fn a_broken_one_is_refused(site: &Site) {
    let app = site.start().await;
    let accepted = app.submit(json!({"type": "t"})).await;
    let (job, token) = (id(&accepted["jobId"]), id(&accepted["accessToken"]));
    let swap = |at: usize| {
        let letter = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
        format!("{}{letter}{}", &token[..at], &token[at + 1..])
    };
    let longer = format!("{token}A");
    for broken in [&swap(6), &swap(30), &swap(50), &token[..token.len() - 1], &longer, "rbj_", "rbj_x"] {
        for ask in both(&app, &format!("/v1/jobs/{job}"), broken) {
            let reply = ask.await;
            reply.refused(401, "unauthorized", "");
            assert!(reply.header("www-authenticate").starts_with("Bearer"), "{reply:?}");
        }
    }
}

async fn an_api_key_is_not_taken_from_the_query(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    for path in ["", "/result", "/events"] {
        let path = format!("/v1/jobs/{job}{path}?access_token={}", app.key);
        app.get(&path).nobody().await.refused(401, "unauthorized", "");
    }
    for name in ["access_token", "api_key", "key"] {
        app.get(&format!("/v1/jobs?{name}={}", app.key)).nobody().await.refused(401, "unauthorized", "");
        let pointer = format!("?{name}");
        app.get(&format!("/v1/jobs?{name}={}", app.key)).await.refused(400, "invalid-request", &pointer);
    }
}

/// Requests that are refused, each with `token` where it does not belong.
fn misplaced(app: &TestApp, job: &str, token: &str) -> Vec<Ask> {
    let report = |verb: &str, body: &Value| app.post(&format!("/v1/jobs/{job}/{verb}"), body);
    let callback = |value: Value| app.post("/v1/jobs", &json!({"type": "t", "callback": value}));
    let mut asks = vec![
        app.get("/v1/jobs").key(&format!("{token}-")),
        app.get(&format!("/v1/jobs/{token}")),
        app.get(&format!("/v1/jobs?access_token={token}")),
        app.get(&format!("/results/{token}.pdf")),
        app.post("/v1/jobs", &json!({"type": "a b"})).header("idempotency-key", token),
        app.post("/v1/jobs", &json!({"type": "t"})).header("idempotency-key", &format!("{token} x")),
        app.post("/v1/jobs", &json!({"type": format!("{token} x")})),
        app.post("/v1/jobs", &json!({"type": "t", "priority": token})),
        app.post("/v1/jobs", &json!({"type": "t", "worker": token})),
        app.post("/v1/jobs", &json!({"type": "t", "runAt": token})),
        callback(json!(token)),
        callback(json!({"url": "https://a.example.com/", "secret": format!("{token}!")})),
        callback(json!({"url": format!("https://x:{token}@a.example.com/")})),
        callback(json!({"url": format!("{token}://a.example.com/")})),
        callback(json!({"url": "https://a.example.com/", "headers": {"x": format!("{token}\n")}})),
        callback(json!({"url": "https://a.example.com/", "events": [token]})),
        report("heartbeat", &json!({"leaseToken": token, "progress": token})),
        report("heartbeat", &json!({"leaseToken": [token]})),
        report("complete", &json!({"leaseToken": format!("{token}!")})),
        report("fail", &json!({"leaseToken": token, "error": {"text": token}})),
        report("complete", &json!({})).header("lease-token", &format!("{token}!")),
        app.post("/v1/keys", &json!({"scopes": [token]})),
        app.post("/v1/leases/ack", &json!({"items": token})),
        app.ask("POST", "/v1/jobs").text("application/json", token.to_owned()),
        app.ask("POST", "/v1/jobs").text("application/json", format!("{{\"type\": {token}")),
    ];
    for name in ["limit", "cursor", "state", "createdAfter"] {
        asks.push(app.get(&format!("/v1/jobs?{name}={token}")));
    }
    asks
}

async fn no_token_shows_up_in_a_refusal(site: &Site) {
    let app = site.start().await;
    let accepted = app.submit(json!({"type": "t", "worker": "external"})).await;
    let job = id(&accepted["jobId"]);
    for token in [&app.key, &id(&accepted["accessToken"]), &id(&accepted["leaseToken"]), &app.secret] {
        let core = &token[6..token.len() - 6];
        for ask in misplaced(&app, &job, token) {
            let reply: Reply = ask.await;
            assert!((400..500).contains(&reply.status), "{reply:?}");
            assert_eq!(reply.header("content-type"), "application/problem+json", "{reply:?}");
            let text = format!("{:?} {}", reply.headers, String::from_utf8_lossy(&reply.body));
            assert!(!text.contains(core), "{reply:?}");
        }
    }
    assert_eq!(app.get("/v1/jobs").await.ok(200)["items"].as_array().unwrap().len(), 1);
}
