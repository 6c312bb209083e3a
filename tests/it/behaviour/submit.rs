//! Handing work in.

use serde_json::{Value, json};

use crate::support::app::{Site, both_engines, id};
use crate::support::receiver::Receiver;

both_engines! {
    a_submission_is_accepted_with_the_seeds_four_members,
    the_alias_polls_at_its_own_path,
    prefer_wait_answers_with_the_ended_job,
    prefer_wait_that_runs_out_answers_202,
    an_operation_takes_its_body_as_the_input,
    a_batch_is_answered_entry_by_entry,
    an_atomic_batch_is_all_or_nothing,
    an_external_job_runs_at_once,
    an_external_job_is_not_waited_for,
    a_later_job_waits_for_its_time,
    the_first_event_is_the_same_whoever_asked_for_it,
    every_member_is_kept,
    a_number_of_any_size_comes_through_as_it_was_written,
    null_means_not_given,
}

async fn a_submission_is_accepted_with_the_seeds_four_members(site: &Site) {
    let app = site.start().await;

    let reply = app.post("/v1/jobs", &json!({"type": "report.generate"})).await;

    let accepted = reply.ok(202);
    let job = id(&accepted["jobId"]);
    assert!(job.starts_with("job_") && job.len() == 30, "{job}");
    assert_eq!(accepted["status"], "queued");
    assert_eq!(accepted["state"], "queued");
    assert_eq!(accepted["statusUrl"], format!("{}/v1/jobs/{job}", app.url));
    assert_eq!(accepted["estimatedSeconds"], 30);
    assert!(accepted["accessToken"].as_str().unwrap().starts_with("rbj_"));
    let created = accepted["createdAt"].as_str().unwrap();
    assert!(created.len() == 24 && created.ends_with('Z'), "{created}");
    assert!(accepted.get("leaseToken").is_none(), "{accepted}");
    assert_eq!(reply.header("location"), format!("/v1/jobs/{job}"));
    assert_eq!(reply.header("retry-after"), "5");
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.header("preference-applied"), "");
    assert_eq!(reply.header("vary"), "Authorization, Prefer");
}

async fn the_alias_polls_at_its_own_path(site: &Site) {
    let app = site.start().await;

    let reply = app.post("/api/jobs", &json!({"type": "t"})).header("prefer", "respond-async").await;

    let job = id(&reply.ok(202)["jobId"]);
    assert_eq!(reply.header("location"), format!("/api/jobs/{job}"));
    assert_eq!(reply.json()["statusUrl"], format!("{}/api/jobs/{job}", app.url));
    assert_eq!(reply.header("preference-applied"), "respond-async");
    let here = app.get(reply.header("location")).await;
    let there = app.get(&format!("/v1/jobs/{job}")).await;
    assert_eq!(here.ok(200), there.ok(200));
    assert_eq!(app.get("/api/jobs").await.ok(200), app.get("/v1/jobs").await.ok(200));
    assert_eq!(app.delete(&format!("/api/jobs/{job}")).await.ok(200)["state"], "cancelled");
}

async fn prefer_wait_answers_with_the_ended_job(site: &Site) {
    let app = site.start().await;

    let submit = app.post("/v1/jobs", &json!({"type": "t"})).header("prefer", "wait=20, respond-async");
    let work = async {
        let wish = json!({"waitSeconds": 10});
        let claimed = app.post("/v1/queues/default/claim", &wish).await.ok(200)["jobs"][0].clone();
        app.report(&claimed, "complete", json!({"result": 7})).await.ok(200);
    };
    let (reply, ()) = tokio::join!(submit.into_future(), work);

    let job = reply.ok(200);
    assert_eq!(job["status"], "complete");
    assert_eq!(reply.header("preference-applied"), "wait=20");
    assert!(!reply.header("etag").is_empty());
}

async fn prefer_wait_that_runs_out_answers_202(site: &Site) {
    let app = site.start().await;
    let reply = app.post("/v1/jobs", &json!({"type": "t"})).header("prefer", "wait=1").await;
    assert_eq!(reply.ok(202)["status"], "queued");
    assert_eq!(reply.header("preference-applied"), "wait=1");
}

async fn an_operation_takes_its_body_as_the_input(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let body = "{\"b\" : 1.0,\n \"a\":[1e2]}";

    let ask = app.ask("POST", "/v1/operations/report.generate").text("application/json", body);
    let ask =
        ask.header("callback-url", &receiver.url("/x")).header("callback-events", "job.started, job.failed");
    let reply = ask.header("idempotency-key", "k").await;

    let job = id(&reply.ok(202)["jobId"]);
    assert_eq!(reply.header("location"), format!("/v1/jobs/{job}"));
    let claimed = app.ask("POST", "/v1/queues/default/claim").text("application/json", "{}").await;
    assert!(String::from_utf8_lossy(&claimed.body).contains(body), "byte for byte: {claimed:?}");
    let got = receiver.wait("/x", 1, crate::support::app::LIMIT).await;
    assert_eq!(got[0].json()["type"], "job.started");

    let empty = app.ask("POST", "/v1/operations/t").await.ok(202);
    assert_eq!(empty["status"], "queued");
    assert_eq!(app.claim_one().await["input"], Value::Null);
}

async fn a_batch_is_answered_entry_by_entry(site: &Site) {
    let app = site.start().await;
    let jobs = json!([{"type": "a"}, {"input": 1}, {"type": "c", "callbackUrl": "http://10.0.0.1/"}, 4, {"type": "d"}]);

    let reply = app.post("/v1/jobs/batch", &json!({"jobs": jobs})).await;

    let items = reply.ok(202)["items"].as_array().unwrap().clone();
    let codes: Vec<_> = items.iter().map(|i| i["code"].as_str().unwrap_or("ok")).collect();
    assert_eq!(codes, ["ok", "validation-failed", "callback-url-blocked", "validation-failed", "ok"]);
    assert_eq!(items[1]["errors"][0]["pointer"], "/jobs/1/type");
    assert_eq!(items[2]["errors"][0]["pointer"], "/jobs/2/callbackUrl");
    assert_eq!(items[1]["requestId"], reply.header("request-id"));
    assert_eq!(items[0]["statusUrl"], format!("{}/v1/jobs/{}", app.url, id(&items[0]["jobId"])));
    assert_eq!(app.get("/v1/jobs").await.ok(200)["items"].as_array().unwrap().len(), 2);
}

async fn an_atomic_batch_is_all_or_nothing(site: &Site) {
    let app = site.start().await;

    let bad = json!({"atomic": true, "jobs": [{"type": "a"}, {"type": ""}]});
    app.post("/v1/jobs/batch", &bad).await.refused(422, "validation-failed", "/jobs/1/type");
    let bad = json!({"atomic": true, "jobs": [{"type": "a"}, {"type": ""}, {"callbackUrl": "x"}, {"type": "b"}, 4]});
    let all = app.post("/v1/jobs/batch", &bad).await.refused(422, "validation-failed", "/jobs/1/type");
    let pointers: Vec<_> = all["errors"].as_array().unwrap().iter().map(|e| &e["pointer"]).collect();
    assert_eq!(pointers, ["/jobs/1/type", "/jobs/2/type", "/jobs/4"]);
    let many = json!({"atomic": true, "jobs": vec![json!({}); 200]});
    let all = app.post("/v1/jobs/batch", &many).await.refused(422, "validation-failed", "/jobs/0/type");
    assert_eq!(all["errors"].as_array().unwrap().len(), 100);
    for (bad, at) in [
        (json!({"jobs": []}), "/jobs"),
        (json!({}), "/jobs"),
        (json!({"jobs": vec![json!({"type": "t"}); 1_001]}), "/jobs"),
        (json!({"jobs": [{"type": "t"}], "atomik": true}), "/atomik"),
    ] {
        app.post("/v1/jobs/batch", &bad).await.refused(422, "validation-failed", at);
    }
    app.holds_no_job().await;

    let good = json!({"atomic": true, "jobs": vec![json!({"type": "t"}); 1_000]});
    let items = app.post("/v1/jobs/batch", &good).await.ok(202)["items"].as_array().unwrap().clone();
    assert_eq!(items.len(), 1_000);
}

async fn an_external_job_runs_at_once(site: &Site) {
    let app = site.start().await;

    let accepted = app.submit(json!({"type": "ci.build", "worker": "external", "leaseSeconds": 60})).await;

    assert_eq!((&accepted["status"], &accepted["state"]), (&json!("processing"), &json!("processing")));
    assert!(accepted["leaseToken"].is_string() && accepted["leaseExpiresAt"].is_string(), "{accepted}");
    assert_eq!(app.claim(10).await, Vec::<Value>::new(), "nobody else gets it");
    app.report(&accepted, "heartbeat", json!({"progress": 40})).await.ok(200);
    assert_eq!(app.job(&id(&accepted["jobId"])).await["progress"], 40);
    let done =
        app.report(&accepted, "complete", json!({"resultUrl": "https://ci.example.com/1"})).nobody().await;
    assert_eq!(done.ok(200)["status"], "complete");
}

async fn an_external_job_is_not_waited_for(site: &Site) {
    let app = site.start().await;
    let began = tokio::time::Instant::now();
    let job = json!({"type": "ci.build", "worker": "external"});

    let reply = app.post("/v1/jobs", &job).header("prefer", "respond-async, wait=20").await;

    assert!(reply.ok(202)["leaseToken"].is_string());
    assert_eq!(reply.header("preference-applied"), "respond-async");
    assert!(began.elapsed() < std::time::Duration::from_secs(10));
}

async fn a_later_job_waits_for_its_time(site: &Site) {
    let app = site.start_still().await;
    let at = app.clock.now().plus(std::time::Duration::from_secs(3_600));
    let accepted = app.submit(json!({"type": "t", "runAt": at})).await;

    assert_eq!((&accepted["status"], &accepted["state"]), (&json!("queued"), &json!("scheduled")));
    assert_eq!(accepted["estimatedSeconds"], 3_630, "the time until runAt counts");
    assert!(app.claim(1).await.is_empty());
    let job = app.job(&id(&accepted["jobId"])).await;
    assert_eq!((&job["state"], &job["runAt"]), (&json!("scheduled"), &json!(at)));

    app.pass(3_601);
    assert_eq!(app.claim_one().await["jobId"], accepted["jobId"]);
}

async fn the_first_event_is_the_same_whoever_asked_for_it(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let later = app.clock.now().plus(std::time::Duration::from_secs(3_600));
    for (n, (wish, state)) in [
        (json!({"type": "t"}), "queued"),
        (json!({"type": "t", "runAt": later}), "scheduled"),
        (json!({"type": "t", "worker": "external"}), "queued"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/{n}");
        let mut asked = wish.clone();
        asked["callback"] = json!({"url": receiver.url(&path), "events": ["job.queued"]});
        // Only what a receiver asked for is stored; the same event of another job is told by its columns.
        let (derived, stored) = (app.submit_id(wish).await, app.submit_id(asked).await);
        let first = async |job: &str| app.items(&format!("/v1/jobs/{job}/events")).await[0]["data"].clone();

        let mut told = first(&derived).await;
        assert_eq!(told["state"], state, "{told}");
        assert_eq!(told["runAt"], if state == "scheduled" { json!(later) } else { Value::Null }, "{told}");
        told["jobId"] = json!(stored);
        assert_eq!(told, first(&stored).await);
        let sent = receiver.wait(&path, 1, crate::support::app::LIMIT).await[0].json();
        let mut data = sent["data"].clone();
        data.as_object_mut().unwrap().remove("accessToken");
        assert_eq!(told, data);
    }
}

async fn every_member_is_kept(site: &Site) {
    let app = site.start().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let deadline = app.clock.now().plus(std::time::Duration::from_secs(86_400));
    let wish = json!({
        "type": "report.generate", "input": {"reportType": "annual", "year": 2025}, "queue": "default",
        "ref": "build-4711", "priority": 2, "runAt": null, "deadlineAt": deadline,
        "timeoutSeconds": 60, "maxAttempts": 5, "metadata": {"team": "billing"}, "retainSeconds": 3600,
        "worker": "pull", "leaseSeconds": null,
    });

    let job = id(&app.post("/v1/jobs", &wish).header("traceparent", trace).await.ok(202)["jobId"]);

    let claimed = app.claim_one().await;
    assert_eq!(claimed["input"], wish["input"]);
    assert_eq!(claimed["metadata"], wish["metadata"]);
    assert_eq!((&claimed["ref"], &claimed["attempt"]), (&json!("build-4711"), &json!(1)));
    assert_eq!(&claimed["traceparent"].as_str().unwrap()[..35], &trace[..35]);
    let seen = app.job(&job).await;
    for name in ["type", "queue", "ref", "priority", "maxAttempts", "metadata", "deadlineAt", "worker"] {
        assert_eq!(seen[name], wish[name], "{name}");
    }
    assert!(seen.get("input").is_none() && seen.get("error").is_none(), "{seen}");
}

async fn a_number_of_any_size_comes_through_as_it_was_written(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let (metadata, context) = (r#"{"b": 1.50, "a":[123456789012345678901234567890e400]}"#, "-2.0E+999");
    let (input, result) = (r#"{"n":1e400,"s":"\"1e400"}"#, "[0.1e-400, 1e99999999999]");
    let limit = crate::support::app::LIMIT;
    let post = async |path: &str, body: String| app.ask("POST", path).text("application/json", body).await;
    let kept = |bytes: &[u8], parts: &[&str]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    };
    let job = |more: &str| {
        let url = receiver.url("/x");
        format!(
            r#"{{"type":"t","input":{input},"metadata":{metadata},{more}"callback":{{"url":"{url}","context":{context}}}}}"#
        )
    };

    post("/v1/jobs", job("")).await.ok(202);
    let claimed = post("/v1/queues/default/claim", "{}".to_owned()).await;
    kept(&claimed.body, &[input, metadata]);
    let held = post("/v1/jobs", job(r#""worker":"external","#)).await.ok(202);
    let (id, token) = (id(&held["jobId"]), id(&held["leaseToken"]));
    let done = format!(r#"{{"leaseToken":"{token}","result":{result}}}"#);
    assert_eq!(post(&format!("/v1/jobs/{id}/complete"), done).await.status, 200);

    kept(&app.get(&format!("/v1/jobs/{id}")).await.body, &[metadata]);
    kept(&app.get(&format!("/v1/jobs/{id}/result")).await.body, &[result]);
    let told = receiver.wait("/x", 1, limit).await;
    kept(&told[0].body, &[metadata, &format!("\"context\":{context}"), &format!("\"result\":{result}")]);

    app.post("/v1/endpoints", &json!({"url": receiver.url("/e"), "events": ["a"]})).await.ok(201);
    post("/v1/events", format!(r#"{{"type":"a","data":{result}}}"#)).await.ok(202);
    kept(&receiver.wait("/e", 1, limit).await[0].body, &[result]);
    kept(&app.get("/v1/events?types=a").await.body, &[result]);
    // Where the service itself needs the number, it may be too large.
    let priority = post("/v1/jobs", r#"{"type":"t","priority":1e400}"#.to_owned()).await;
    priority.refused(422, "validation-failed", "/priority");
}

async fn null_means_not_given(site: &Site) {
    let app = site.start().await;
    let wish = json!({
        "type": "t", "input": null, "callbackUrl": null, "callback": null, "queue": null, "ref": null,
        "priority": null, "runAt": null, "deadlineAt": null, "timeoutSeconds": null, "maxAttempts": null,
        "metadata": null, "retainSeconds": null, "worker": null, "leaseSeconds": null,
    });
    let job = app.job(&app.submit_id(wish).await).await;
    assert_eq!(
        (&job["queue"], &job["maxAttempts"], &job["metadata"]),
        (&json!("default"), &json!(3), &json!({}))
    );
    assert_eq!(job["callbackState"], "none");
}
