//! Watching and steering a job.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::app::{Site, both_engines, id, until};

both_engines! {
    a_tag_changes_with_the_job_and_saves_the_body,
    a_long_poll_ends_with_the_job,
    a_conditional_long_poll_ends_with_any_change,
    a_finished_job_redirects_on_wish,
    a_redirect_keeps_the_token_of_the_query,
    a_job_of_later_is_not_overdue_before,
    the_access_token_reads_its_job_and_nothing_else,
    lists_are_filtered,
    pages_show_everything_once,
    a_waiting_job_is_cancelled_at_once,
    a_running_job_is_told_to_stop,
    an_ended_job_is_retried,
    events_are_gap_free,
    the_client_reads_all_events,
    a_burst_of_polls_is_slowed_down,
    an_old_job_is_gone,
}

async fn a_tag_changes_with_the_job_and_saves_the_body(site: &Site) {
    let app = site.start().await;
    let path = format!("/v1/jobs/{}", app.submit_id(json!({"type": "t"})).await);

    let first = app.get(&path).await;
    first.ok(200);
    let tag = first.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.contains('.') && tag.ends_with('"'), "{tag}");
    assert_eq!(first.header("cache-control"), "private, no-cache");
    assert_eq!(first.header("retry-after"), "5");

    let known = app.get(&path).header("if-none-match", &tag).await;
    known.ok(304);
    assert_eq!((known.header("etag"), known.body.len()), (tag.as_str(), 0));
    let weak = app.get(&path).header("if-none-match", &format!("\"x\", W/{tag}")).await;
    weak.ok(304);

    let claimed = app.claim_one().await;
    let changed = app.get(&path).header("if-none-match", &tag).await;
    assert_eq!(changed.ok(200)["status"], "processing");
    app.report(&claimed, "complete", json!({})).await.ok(200);
    let done = app.get(&path).await;
    done.ok(200);
    assert_ne!(done.header("etag"), changed.header("etag"));
    assert_eq!(done.header("retry-after"), "", "nothing more to wait for");
}

async fn a_long_poll_ends_with_the_job(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;

    let poll = app.get(&format!("/v1/jobs/{job}")).header("prefer", "wait=20");
    let work = async {
        app.report(&claimed, "heartbeat", json!({"progress": 1})).await.ok(200);
        app.report(&claimed, "complete", json!({})).await.ok(200);
    };
    let began = Instant::now();
    let (reply, ()) = tokio::join!(poll.into_future(), work);

    assert_eq!(reply.ok(200)["status"], "complete");
    assert_eq!(reply.header("preference-applied"), "wait=20");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

async fn a_conditional_long_poll_ends_with_any_change(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let path = format!("/v1/jobs/{job}");
    let tag = app.get(&path).await.header("etag").to_owned();

    let still = app.get(&path).header("if-none-match", &tag).header("prefer", "wait=1").await;
    still.ok(304);

    let poll = app.get(&path).header("if-none-match", &tag).header("prefer", "wait=20");
    let (reply, claimed) = tokio::join!(poll.into_future(), app.claim_one());
    assert_eq!(reply.ok(200)["status"], "processing");
    assert_eq!(claimed["jobId"], job);
}

async fn a_finished_job_redirects_on_wish(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let path = format!("/v1/jobs/{job}?redirect=1");
    app.get(&path).await.ok(200);
    app.complete(&job).await;

    let reply = app.get(&path).await;

    assert_eq!(reply.status, 303);
    assert_eq!(reply.header("location"), format!("{}/results/{job}.json", app.url));
    app.get(&format!("/v1/jobs/{job}?redirect=2")).await.refused(400, "invalid-request", "?redirect");
}

async fn a_redirect_keeps_the_token_of_the_query(site: &Site) {
    let app = site.start().await;
    let job = app.submit(json!({"type": "t"})).await;
    let (job, token) = (id(&job["jobId"]), id(&job["accessToken"]));
    app.complete(&job).await;

    let reply = app.get(&format!("/v1/jobs/{job}?redirect=1&access_token={token}")).nobody().await;
    assert_eq!(reply.status, 303);
    let target = reply.header("location").strip_prefix(&app.url).unwrap().to_owned();
    assert_eq!(target, format!("/results/{job}.json?access_token={token}"));
    app.get(&target).nobody().await.ok(200);
    let by_head = app.get(&format!("/v1/jobs/{job}?redirect=1")).key(&token).await;
    assert!(!by_head.header("location").contains("token"), "{by_head:?}");

    let elsewhere = app.submit(json!({"type": "t"})).await;
    let (job, token) = (id(&elsewhere["jobId"]), id(&elsewhere["accessToken"]));
    let claimed = app.claim_one().await;
    app.report(&claimed, "complete", json!({"resultUrl": "https://files.example.com/1"})).await.ok(200);
    let reply = app.get(&format!("/v1/jobs/{job}?redirect=1&access_token={token}")).nobody().await;
    assert_eq!(reply.header("location"), "https://files.example.com/1", "others never see the token");
}

async fn a_job_of_later_is_not_overdue_before(site: &Site) {
    let app = site.start_still().await;
    let at = app.clock.now().plus(Duration::from_secs(3_600));
    let job = app.submit_id(json!({"type": "t", "runAt": at})).await;
    let wait = async || app.get(&format!("/v1/jobs/{job}")).await.header("retry-after").to_owned();
    app.pass(120);
    assert_eq!(wait().await, "30");
    app.pass(3_480);
    assert_eq!(wait().await, "5", "its thirty seconds begin when it is due");
}

async fn the_access_token_reads_its_job_and_nothing_else(site: &Site) {
    let app = site.start().await;
    let (mine, other) = (app.submit(json!({"type": "t"})).await, app.submit(json!({"type": "t"})).await);
    let token = id(&mine["accessToken"]);
    let (job, other) = (id(&mine["jobId"]), id(&other["jobId"]));

    for path in ["", "/events"] {
        let path = format!("/v1/jobs/{job}{path}");
        app.get(&path).key(&token).await.ok(200);
        app.get(&format!("{path}?access_token={token}")).nobody().await.ok(200);
    }
    app.get(&format!("/v1/jobs/{job}/result")).key(&token).await.refused(409, "result-not-ready", "");
    app.get(&format!("/v1/jobs/{other}")).key(&token).await.refused(404, "job-not-found", "");
    app.get(&format!("/v1/jobs/{other}/events?access_token={token}")).nobody().await.refused(
        404,
        "job-not-found",
        "",
    );
    for path in ["/v1/jobs", "/v1/deliveries", &format!("/v1/jobs/{job}/deliveries")] {
        app.get(path).key(&token).await.refused(401, "unauthorized", "");
    }
    app.delete(&format!("/v1/jobs/{job}")).key(&token).await.refused(401, "unauthorized", "");
    let forged = format!("{}x", &token[..token.len() - 1]);
    app.get(&format!("/v1/jobs/{job}")).key(&forged).await.refused(401, "unauthorized", "");
    let by_query = app.get(&format!("/v1/jobs/{job}?access_token={}", app.key)).nobody().await;
    by_query.refused(401, "unauthorized", "");
}

/// In the order of a list: of two that came within a millisecond either may have the higher id.
fn newest(mut ids: Vec<&str>) -> Vec<&str> {
    ids.sort_unstable_by(|one, other| other.cmp(one));
    ids
}

async fn lists_are_filtered(site: &Site) {
    let app = site.start().await;
    let plain = app.submit_id(json!({"type": "a", "ref": "one"})).await;
    let done = app.completed(json!({"type": "b", "priority": 2})).await;
    let elsewhere = app.submit_id(json!({"type": "b", "queue": "q2"})).await;
    let created = id(&app.job(&elsewhere).await["createdAt"]);

    let list = async |query: &str| {
        let found = app.get(&format!("/v1/jobs?{query}")).await.ok(200);
        found["items"].as_array().unwrap().iter().map(|job| id(&job["jobId"])).collect::<Vec<_>>()
    };
    assert_eq!(list("").await, newest(vec![&elsewhere, &done, &plain]), "newest first");
    assert_eq!(list("status=complete").await, [&*done]);
    assert_eq!(list("status=queued&state=queued").await, newest(vec![&elsewhere, &plain]));
    assert!(list("status=queued&state=complete").await.is_empty());
    assert_eq!(list("type=b").await, newest(vec![&elsewhere, &done]));
    assert_eq!(list("queue=q2").await, [&*elsewhere]);
    assert_eq!(list("ref=one").await, [&*plain]);
    assert!(list(&format!("createdAfter={}", "2099-01-01T00:00:00Z")).await.is_empty());
    assert!(list("createdBefore=2001-01-01T00:00:00Z").await.is_empty());
    assert!(!list(&format!("createdBefore={created}")).await.contains(&elsewhere));
    let first = app.get("/v1/jobs").await.ok(200)["items"][0].clone();
    assert!(first.get("input").is_none() && first.get("result").is_none(), "{first}");
}

async fn pages_show_everything_once(site: &Site) {
    let app = site.start().await;
    let jobs = json!({"jobs": vec![json!({"type": "t"}); 7]});
    let made = app.post("/v1/jobs/batch", &jobs).await.ok(202);
    let mut wanted: Vec<_> = made["items"].as_array().unwrap().iter().map(|j| id(&j["jobId"])).collect();

    let mut seen = Vec::new();
    let mut path = "/v1/jobs?limit=3&type=t".to_owned();
    loop {
        let reply = app.get(&path).await;
        let page = reply.ok(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(|j| id(&j["jobId"])));
        // Written in between, it must move nothing on the pages that follow.
        app.submit(json!({"type": "other"})).await;
        let link = reply.header("link");
        let Some(cursor) = page["nextCursor"].as_str() else {
            assert_eq!(link, "");
            break;
        };
        let next =
            link.strip_prefix(&format!("<{}", app.url)).and_then(|l| l.strip_suffix(">; rel=\"next\""));
        path = next.unwrap_or_else(|| panic!("{link}")).to_owned();
        assert!(path.contains(cursor) && path.contains("limit=3") && path.contains("type=t"), "{path}");
    }
    seen.sort();
    wanted.sort();
    assert_eq!(seen, wanted);
}

async fn a_waiting_job_is_cancelled_at_once(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let cancel = format!("/v1/jobs/{job}/cancel");

    let seen = app.post(&cancel, &json!({"reason": "not needed"})).await.ok(200);

    assert_eq!((&seen["status"], &seen["state"]), (&json!("failed"), &json!("cancelled")));
    assert!(seen["error"].as_str().unwrap().contains("not needed"), "{seen}");
    assert_eq!(seen["errorInfo"]["code"], "cancelled");
    app.post(&cancel, &json!({})).await.refused(409, "job-already-finished", "");
    app.delete(&format!("/v1/jobs/{job}")).await.refused(409, "job-already-finished", "");
    app.post(&cancel, &json!({"why": 1})).await.refused(422, "validation-failed", "/why");
    assert!(app.claim(1).await.is_empty());
    let other = app.submit_id(json!({"type": "t"})).await;
    assert_eq!(app.ask("POST", &format!("/v1/jobs/{other}/cancel")).await.ok(200)["state"], "cancelled");
}

async fn a_running_job_is_told_to_stop(site: &Site) {
    let app = site.start_still().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let quick = app.submit_id(json!({"type": "t"})).await;
    // Both were submitted in the same millisecond: which one is claimed first is not promised.
    let mut both = app.claim(2).await;
    both.sort_by_key(|claimed| claimed["jobId"] != job.as_str());
    let [claimed, other] = &both[..] else { panic!("{both:?}") };

    let told = app.delete(&format!("/v1/jobs/{job}")).await.ok(202);
    assert_eq!((&told["status"], &told["cancelRequested"]), (&json!("processing"), &json!(true)));
    let alive = app.report(claimed, "heartbeat", json!({})).await.ok(200);
    assert_eq!(alive["cancelRequested"], true);
    app.delete(&format!("/v1/jobs/{quick}")).await.ok(202);
    let done = app.report(other, "complete", json!({})).await.ok(200);
    assert_eq!(done["status"], "complete", "who completes first, wins");

    app.pass(31);
    let ended = app.get(&format!("/v1/jobs/{job}")).header("prefer", "wait=10").await.ok(200);
    assert_eq!(ended["state"], "cancelled");
    app.report(claimed, "complete", json!({})).await.refused(409, "lease-lost", "");
}

async fn an_ended_job_is_retried(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t", "maxAttempts": 1})).await;
    let retry = format!("/v1/jobs/{job}/retry");
    app.ask("POST", &retry).await.refused(409, "job-not-retryable", "");
    let claimed = app.claim_one().await;
    app.report(&claimed, "fail", json!({"error": "x", "retryable": false})).await.ok(200);

    let reply = app.ask("POST", &retry).await;

    let again = reply.ok(202);
    assert_eq!((&again["jobId"], &again["state"]), (&json!(job), &json!("queued")));
    assert!(again.get("error").is_none(), "{again}");
    assert_eq!(reply.header("location"), format!("/v1/jobs/{job}"));
    app.complete(&job).await;
    app.ask("POST", &retry).await.refused(409, "job-not-retryable", "");
}

async fn events_are_gap_free(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;
    app.report(&claimed, "heartbeat", json!({"progress": 10})).await.ok(200);
    app.report(&claimed, "fail", json!({"error": "x"})).await.ok(200);
    app.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await.ok(200);
    let path = format!("/v1/jobs/{job}/events");

    let all = app.get(&path).await.ok(200)["items"].as_array().unwrap().clone();
    let kinds: Vec<_> = all.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["job.queued", "job.started", "job.progress", "job.retrying", "job.cancelled"]);
    let sequences: Vec<_> = all.iter().map(|e| e["sequence"].as_i64().unwrap()).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5]);
    assert_eq!(app.job(&job).await["sequence"], 5);
    assert!(
        all.iter().all(|e| e["eventId"].as_str().unwrap().starts_with("evt_") && e["data"]["jobId"] == job)
    );

    let rest = app.get(&format!("{path}?after=3")).await.ok(200);
    assert_eq!(rest["items"].as_array().unwrap()[..], all[3..]);
    let none = app.get(&format!("{path}?after=5")).header("prefer", "wait=20").await.ok(200);
    assert_eq!(none["items"], json!([]), "nothing more can come, so nothing is waited for");
    let page = app.get(&format!("{path}?limit=2")).await.ok(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    let next = app.get(&format!("{path}?limit=2&cursor={}", page["nextCursor"].as_str().unwrap())).await;
    assert_eq!(next.ok(200)["items"].as_array().unwrap()[..], all[2..4]);
    assert_eq!(next.header("link"), format!("<{}{path}?limit=2&cursor=4>; rel=\"next\"", app.url));
    app.get(&format!("{path}?after=1&cursor=1")).await.refused(400, "invalid-request", "?cursor");
}

async fn the_client_reads_all_events(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    for step in (0..110).flat_map(|_| ["cancel", "retry"]) {
        app.post(&format!("/v1/jobs/{job}/{step}"), &json!({})).await;
    }
    let client = ringback::client::Client::new(&app.url, Some(&app.key)).unwrap();
    let read = async |after| {
        let events = client.events(job.parse().unwrap(), after).await.unwrap();
        events.iter().map(|event| event.sequence).collect::<Vec<_>>()
    };
    assert_eq!(read(0).await, (1..=221).collect::<Vec<_>>());
    assert_eq!(read(21).await, (22..=221).collect::<Vec<_>>(), "a page that is just full");
    assert!(read(221).await.is_empty());
}

async fn a_burst_of_polls_is_slowed_down(site: &Site) {
    let app = site.start().await;
    let (job, other) = (app.submit_id(json!({"type": "t"})).await, app.submit_id(json!({"type": "t"})).await);
    let path = format!("/v1/jobs/{job}");
    let mut refused = None;
    for _ in 0..60 {
        let reply = app.get(&path).await;
        if reply.status == 429 {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("60 polls at once are too many");
    refused.refused(429, "rate-limited", "");
    app.job(&other).await;
}

async fn an_old_job_is_gone(site: &Site) {
    let app = site.start_still().await;
    let job = app.completed(json!({"type": "t", "retainSeconds": 60})).await;
    app.pass(3_600);
    until("the sweep has been there", async || {
        let listed = app.get("/v1/jobs").await.ok(200);
        if listed["items"] == json!([]) { Ok(()) } else { Err(listed) }
    })
    .await;
    for path in ["", "/result", "/events"] {
        app.get(&format!("/v1/jobs/{job}{path}")).await.refused(410, "job-expired", "");
    }
}
