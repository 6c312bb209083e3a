//! The same request twice is one job.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::app::{Site, TestApp, both_engines, id};
use crate::support::ask::Ask;

both_engines! {
    a_repeat_gets_the_first_answer_again,
    another_request_under_the_key_is_refused,
    twenty_at_once_make_one_job,
    aliases_and_quotes_share_the_key,
    operations_count_their_callback_headers,
    an_operations_queue_counts_whoever_fixes_it,
    a_batch_repeats_as_a_whole,
    another_batch_is_refused_whichever_entries_are_bad,
    a_repeat_is_answered_though_the_time_has_moved_on,
    a_batch_is_repeated_though_the_time_has_moved_on,
    a_repeat_tells_a_key_nothing_of_other_queues,
    a_refusal_is_not_remembered,
    malformed_keys_are_refused,
}

fn keyed(app: &TestApp, path: &str, key: &str, body: &Value) -> Ask {
    app.post(path, body).header("idempotency-key", key)
}

async fn count(app: &TestApp) -> usize {
    app.get("/v1/jobs").await.ok(200)["items"].as_array().unwrap().len()
}

async fn a_repeat_gets_the_first_answer_again(site: &Site) {
    let app = site.start().await;
    let body = json!({"type": "t", "worker": "external"});

    let first = keyed(&app, "/v1/jobs", "k-1", &body).await;
    let again = keyed(&app, "/v1/jobs", "k-1", &body).await;

    assert_eq!(first.header("idempotent-replayed"), "");
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(first.ok(202), again.ok(202), "the lease token too");
    assert_eq!(first.header("location"), again.header("location"));
    app.report(&first.json(), "complete", json!({})).await.ok(200);
    assert_eq!(keyed(&app, "/v1/jobs", "k-1", &body).await.ok(202)["jobId"], first.json()["jobId"]);
    assert_eq!(count(&app).await, 1);
}

async fn another_request_under_the_key_is_refused(site: &Site) {
    let app = site.start().await;
    keyed(&app, "/v1/jobs", "k", &json!({"type": "t"})).await.ok(202);

    let other = keyed(&app, "/v1/jobs", "k", &json!({"type": "u"})).await;

    other.refused(422, "idempotency-key-reused", "");
    assert_eq!(count(&app).await, 1);
    keyed(&app, "/v1/operations/t", "k", &json!({"type": "u"})).await.ok(202);
}

async fn twenty_at_once_make_one_job(site: &Site) {
    let app = site.start().await;
    let body = json!({"type": "t"});

    let asks = (0..20).map(|_| keyed(&app, "/v1/jobs", "k", &body).into_future());
    let replies = futures_util::future::join_all(asks).await;

    let mut ids = BTreeSet::new();
    for reply in &replies {
        match reply.status {
            202 => drop(ids.insert(id(&reply.json()["jobId"]))),
            _ => drop(reply.refused(409, "idempotency-in-flight", "")),
        }
    }
    assert_eq!((ids.len(), count(&app).await), (1, 1));
    let new = replies.iter().filter(|r| r.status == 202 && r.header("idempotent-replayed").is_empty());
    assert_eq!(new.count(), 1);
}

async fn aliases_and_quotes_share_the_key(site: &Site) {
    let route = "[[routes]]\npath = \"/api/reports/generate\"\ntype = \"report.generate\"\n";
    let app = site.start_configured(route).await;
    let body = json!({"type": "t"});

    let bare = keyed(&app, "/v1/jobs", "8e03978e", &body).await.ok(202);
    let quoted = keyed(&app, "/api/jobs", "\"8e03978e\"", &body).await.ok(202);
    assert_eq!(bare["jobId"], quoted["jobId"]);

    let operation = keyed(&app, "/v1/operations/report.generate", "x", &body).await.ok(202);
    let route = keyed(&app, "/api/reports/generate", "x", &body).await.ok(202);
    assert_eq!(operation["jobId"], route["jobId"]);
    assert_eq!(count(&app).await, 2);
}

async fn operations_count_their_callback_headers(site: &Site) {
    let app = site.start().await;
    let ask = |url: &str| keyed(&app, "/v1/operations/t", "k", &json!({})).header("callback-url", url);

    let first = ask("https://a.example.com/").await.ok(202);
    assert_eq!(ask("https://a.example.com/").await.ok(202)["jobId"], first["jobId"]);
    ask("https://b.example.com/").await.refused(422, "idempotency-key-reused", "");
}

/// A path of one's own shares its keys with the operation, and may lead elsewhere.
async fn an_operations_queue_counts_whoever_fixes_it(site: &Site) {
    let route = |path, queue| format!("[[routes]]\npath = \"{path}\"\ntype = \"t\"\nqueue = \"{queue}\"\n");
    let routes = [route("/api/t", "secret"), route("/api/usual", "default")].concat();
    let app = site.start_configured(&routes).await;
    let ask = |path: &str| keyed(&app, path, "k", &json!({}));
    let wish = json!({"scopes": ["jobs:write"], "queues": ["default"]});
    let narrow = id(&app.post("/v1/keys", &wish).await.ok(201)["key"]);

    let first = ask("/api/t").await.ok(202);
    let other = ask("/v1/operations/t").key(&narrow).await;
    other.refused(422, "idempotency-key-reused", "");
    for path in ["/api/t", "/v1/operations/t"] {
        let again = ask(path).header("queue", "secret").await.ok(202);
        assert_eq!(again["jobId"], first["jobId"], "{path}");
        ask(path).header("queue", "secret").key(&narrow).await.refused(403, "forbidden", "");
    }
    let unnamed = keyed(&app, "/v1/operations/t", "l", &json!({})).await.ok(202);
    let named = keyed(&app, "/api/usual", "l", &json!({})).await.ok(202);
    assert_eq!(named["jobId"], unnamed["jobId"], "the same queue, said or not");
}

async fn a_batch_repeats_as_a_whole(site: &Site) {
    let app = site.start().await;
    let body = json!({"jobs": [{"type": "a"}, {"type": "b"}]});

    let first = keyed(&app, "/v1/jobs/batch", "k", &body).await;
    let again = keyed(&app, "/v1/jobs/batch", "k", &body).await;

    assert_eq!(first.ok(202), again.ok(202));
    assert_eq!(again.header("idempotent-replayed"), "true");
    let other = json!({"jobs": [{"type": "a"}, {"type": "c"}]});
    keyed(&app, "/v1/jobs/batch", "k", &other).await.refused(422, "idempotency-key-reused", "");
    assert_eq!(count(&app).await, 2);
}

async fn another_batch_is_refused_whichever_entries_are_bad(site: &Site) {
    let app = site.start().await;
    let bodies = [
        json!({"jobs": [{"type": "a"}, {"type": ""}]}),
        json!({"jobs": [{"type": ""}, {"type": "a"}]}),
        json!({"jobs": [{"type": ""}, {"type": "a"}, {"type": "b"}]}),
        json!({"jobs": [{"type": ""}, {"type": ""}, {"type": "a"}]}),
        json!({"jobs": [{"type": "a"}, {"type": "b"}]}),
    ];
    for (n, first) in bodies.iter().enumerate() {
        let key = format!("k{n}");
        let stored = keyed(&app, "/v1/jobs/batch", &key, first).await.ok(202);
        let before = count(&app).await;
        for other in bodies.iter().filter(|other| *other != first) {
            let reply = keyed(&app, "/v1/jobs/batch", &key, other).await;
            reply.refused(422, "idempotency-key-reused", "");
        }
        let again = keyed(&app, "/v1/jobs/batch", &key, first).await.ok(202);
        let ids = |reply: &Value| -> Vec<Value> {
            reply["items"].as_array().unwrap().iter().map(|one| one["jobId"].clone()).collect()
        };
        assert_eq!(ids(&again), ids(&stored));
        assert_eq!(count(&app).await, before, "nothing is stored");
    }
}

async fn a_refusal_is_not_remembered(site: &Site) {
    let app = site.start().await;
    keyed(&app, "/v1/jobs", "k", &json!({"type": ""})).await.refused(422, "validation-failed", "/type");
    keyed(&app, "/v1/jobs", "k", &json!({"type": "t"})).await.ok(202);
}

async fn malformed_keys_are_refused(site: &Site) {
    let app = site.start().await;
    for bad in ["", "\"\"", "\"open", "two words", &"x".repeat(256)] {
        let reply = keyed(&app, "/v1/jobs", bad, &json!({"type": "t"})).await;
        reply.refused(400, "idempotency-key-invalid", "Idempotency-Key");
    }
    let twice = keyed(&app, "/v1/jobs", "a", &json!({"type": "t"})).header("idempotency-key", "b").await;
    twice.refused(400, "idempotency-key-invalid", "Idempotency-Key");
    app.holds_no_job().await;
}

async fn a_repeat_is_answered_though_the_time_has_moved_on(site: &Site) {
    let app = site.start_still().await;
    let deadline = app.clock.now().plus(std::time::Duration::from_secs(60));
    let body = json!({"type": "t", "deadlineAt": deadline});
    let first = keyed(&app, "/v1/jobs", "k", &body).await.ok(202);

    app.pass(120);
    let again = keyed(&app, "/v1/jobs", "k", &body).await;

    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.ok(202)["jobId"], first["jobId"]);
    let other = json!({"type": "u", "deadlineAt": deadline});
    keyed(&app, "/v1/jobs", "k", &other).await.refused(422, "idempotency-key-reused", "");
    keyed(&app, "/v1/jobs", "l", &body).await.refused(422, "validation-failed", "/deadlineAt");
    assert_eq!(count(&app).await, 1);
}

async fn a_batch_is_repeated_though_the_time_has_moved_on(site: &Site) {
    let app = site.start_still().await;
    let deadline = app.clock.now().plus(std::time::Duration::from_secs(60));
    let (short, long, bad) =
        (json!({"type": "t", "deadlineAt": deadline}), json!({"type": "u"}), json!({"type": ""}));
    let bodies = [
        json!({"atomic": true, "jobs": [short, long]}),
        json!({"atomic": false, "jobs": [short, long, bad]}),
        json!({"atomic": false, "jobs": [bad, short, long]}),
        json!({"atomic": false, "jobs": [bad, long, short]}),
    ];
    let mut first = Vec::new();
    for (i, body) in bodies.iter().enumerate() {
        first.push(keyed(&app, "/v1/jobs/batch", &format!("k{i}"), body).await.ok(202));
    }
    let stored = count(&app).await;

    app.pass(120);
    let ids = |answer: &Value| {
        let items = answer["items"].as_array().unwrap().iter();
        items.map(|item| (item["jobId"].clone(), item["code"].clone())).collect::<Vec<_>>()
    };
    for (i, body) in bodies.iter().enumerate() {
        let again = keyed(&app, "/v1/jobs/batch", &format!("k{i}"), body).await;
        assert_eq!(again.header("idempotent-replayed"), "true");
        assert_eq!(ids(&again.ok(202)), ids(&first[i]), "{body}");
        let other = json!({"atomic": false, "jobs": [long, long]});
        keyed(&app, "/v1/jobs/batch", &format!("k{i}"), &other).await.refused(
            422,
            "idempotency-key-reused",
            "",
        );
    }
    let late = keyed(&app, "/v1/jobs/batch", "new", &bodies[0]).await;
    late.refused(422, "validation-failed", "/jobs/0/deadlineAt");
    assert_eq!(count(&app).await, stored);
}

async fn a_repeat_tells_a_key_nothing_of_other_queues(site: &Site) {
    let app = site.start_still().await;
    let deadline = app.clock.now().plus(std::time::Duration::from_secs(60));
    let body = json!({"type": "t", "queue": "secret", "worker": "external", "deadlineAt": deadline});
    let many = json!({"atomic": false, "jobs": [body]});
    keyed(&app, "/v1/jobs", "k", &body).await.ok(202);
    keyed(&app, "/v1/jobs/batch", "k", &many).await.ok(202);
    let wish = json!({"scopes": ["jobs:write"], "queues": ["a"]});
    let narrow = app.post("/v1/keys", &wish).await.ok(201)["key"].as_str().unwrap().to_owned();

    for seconds in [0, 120] {
        app.pass(seconds);
        keyed(&app, "/v1/jobs", "k", &body).key(&narrow).await.refused(403, "forbidden", "");
        let answer = keyed(&app, "/v1/jobs/batch", "k", &many).key(&narrow).await.ok(202);
        assert_eq!(answer["items"][0]["code"], "forbidden", "{answer}");
        assert!(!answer.to_string().contains("Token"), "{answer}");
    }
}
