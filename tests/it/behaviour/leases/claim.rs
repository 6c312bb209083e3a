//! Taking work: which job, how many, and waiting for one.

use std::time::Duration;

use futures_util::future::select;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{claim, in_seconds};
use crate::support::app::{Site, both_engines, id};

both_engines! {
    a_claimed_job_tells_all_that_a_worker_needs,
    a_lease_holds_thirty_seconds_unless_told_otherwise,
    the_most_urgent_and_then_the_longest_due_comes_first,
    a_claim_takes_no_more_than_it_asks_for,
    a_claim_takes_only_the_wanted_types,
    a_waiting_claim_wakes_on_a_submit,
    a_waiting_claim_gets_what_comes_due_or_comes_back,
    what_is_stored_and_leased_at_once_is_counted,
    two_waiting_claims_do_not_share_a_job,
    a_waiting_claim_ends_empty,
    a_key_that_is_revoked_while_it_waits_gets_nothing,
    a_job_is_not_handed_out_before_its_time,
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn a_claimed_job_tells_all_that_a_worker_needs(site: &Site) {
    let app = site.start_still().await;
    let wish = json!({
        "type": "report.generate", "input": {"year": 2025}, "ref": "build-4711", "metadata": {"team": "billing"},
        "timeoutSeconds": 900, "deadlineAt": in_seconds(&app, 300),
    });
    let job = id(&app.post("/v1/jobs", &wish).header("traceparent", TRACE).await.ok(202)["jobId"]);

    let mut claimed = claim(&app, json!({"workerId": "w-1", "leaseSeconds": 90})).await.remove(0);

    let token = id(&claimed["leaseToken"].take());
    assert!(token.starts_with("rbl_") && token.len() == 36, "{token}");
    let trace = id(&claimed["traceparent"].take());
    assert_eq!((&trace[..35], trace.len()), (&TRACE[..35], 55));
    let told = json!({
        "jobId": job, "type": "report.generate", "input": {"year": 2025}, "attempt": 1, "leaseToken": null,
        "leaseExpiresAt": in_seconds(&app, 90), "deadlineAt": in_seconds(&app, 300), "ref": "build-4711",
        "metadata": {"team": "billing"}, "traceparent": null,
    });
    assert_eq!(claimed, told, "and nothing else");
    let shown = app.job(&job).await;
    assert_eq!((&shown["state"], &shown["attempt"]), (&json!("processing"), &json!(1)));
    assert_eq!(shown["startedAt"], in_seconds(&app, 0));
}

async fn a_lease_holds_thirty_seconds_unless_told_otherwise(site: &Site) {
    let app = site.start_still().await;
    app.submit(json!({"type": "t", "timeoutSeconds": 40})).await;

    let plain = claim(&app, json!({})).await.remove(0);

    assert_eq!(plain["leaseExpiresAt"], in_seconds(&app, 30));
    assert_eq!(plain["deadlineAt"], in_seconds(&app, 40), "the attempt's time-out, where it is earlier");
    assert_eq!((&plain["input"], &plain["metadata"]), (&Value::Null, &json!({})));
    assert!(plain.get("ref").is_none() && plain.get("traceparent").is_none(), "{plain}");
}

async fn the_most_urgent_and_then_the_longest_due_comes_first(site: &Site) {
    let app = site.start_still().await;
    let mut wanted = Vec::new();
    for (priority, due_in) in [(0, 3), (-2, 0), (2, 4), (0, 1), (1, 0), (-1, 0), (2, 2), (1, 4)] {
        let job = json!({"type": "t", "priority": priority, "runAt": in_seconds(&app, due_in)});
        wanted.push((-priority, due_in, app.submit_id(job).await));
    }
    wanted.sort();
    app.pass(5);

    let mut got = Vec::new();
    for _ in 0..wanted.len() {
        got.push(id(&app.claim_one().await["jobId"]));
    }

    assert_eq!(got, wanted.into_iter().map(|(_, _, job)| job).collect::<Vec<_>>());
}

async fn a_claim_takes_no_more_than_it_asks_for(site: &Site) {
    let app = site.start().await;
    let batch = json!({"jobs": vec![json!({"type": "t"}); 7]});
    let made = app.post("/v1/jobs/batch", &batch).await.ok(202);

    let mut got = Vec::new();
    for (wish, n) in
        [(json!({"max": 3}), 3), (json!({}), 1), (json!({"max": null}), 1), (json!({"max": 500}), 2)]
    {
        let jobs = claim(&app, wish.clone()).await;
        assert_eq!(jobs.len(), n, "{wish}");
        got.extend(jobs.iter().map(|job| id(&job["jobId"])));
    }

    assert!(claim(&app, json!({"max": 500})).await.is_empty());
    got.sort();
    let mut made: Vec<_> = made["items"].as_array().unwrap().iter().map(|j| id(&j["jobId"])).collect();
    made.sort();
    assert_eq!(got, made, "each job once");
}

async fn a_claim_takes_only_the_wanted_types(site: &Site) {
    let app = site.start().await;
    for kind in ["a", "b", "ab", "a.b"] {
        app.submit(json!({"type": kind})).await;
    }
    app.submit(json!({"type": "a", "queue": "other"})).await;
    let kinds = async |types: Value| {
        let got = claim(&app, json!({"types": types, "max": 10})).await;
        let mut kinds: Vec<_> = got.iter().map(|job| id(&job["type"])).collect();
        kinds.sort();
        kinds
    };

    assert_eq!(kinds(json!(["c", "A"])).await, [""; 0]);
    assert_eq!(kinds(json!(["b", "a"])).await, ["a", "b"]);
    assert_eq!(kinds(json!([])).await, ["a.b", "ab"], "what was passed over is still there");
    let other = app.post("/v1/queues/other/claim", &json!({"max": 10})).await.ok(200);
    assert_eq!(other["jobs"].as_array().unwrap().len(), 1, "each queue for itself");
}

async fn a_waiting_claim_wakes_on_a_submit(site: &Site) {
    let app = site.start().await;
    let began = Instant::now();

    let waiting = claim(&app, json!({"waitSeconds": 20, "types": ["t"]}));
    let (got, job) = tokio::join!(waiting, async {
        app.submit(json!({"type": "other"})).await;
        app.submit_id(json!({"type": "t"})).await
    });

    assert_eq!((got.len(), &got[0]["jobId"]), (1, &json!(job)));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

async fn a_waiting_claim_gets_what_comes_due_or_comes_back(site: &Site) {
    let app = site.start().await;
    let at = app.clock.now().plus(Duration::from_millis(600));
    let job = app.submit_id(json!({"type": "t", "runAt": at})).await;

    let first = claim(&app, json!({"waitSeconds": 20})).await.remove(0);
    assert_eq!(first["jobId"], job);
    assert!(app.clock.now() >= at);

    let waiting = claim(&app, json!({"waitSeconds": 20}));
    let (again, released) = tokio::join!(waiting, app.report(&first, "release", json!({})).into_future());
    released.ok(200);
    assert_eq!((&again[0]["jobId"], &again[0]["attempt"]), (&json!(job), &json!(1)));
}

async fn what_is_stored_and_leased_at_once_is_counted(site: &Site) {
    let app = site.start().await;
    let until = Instant::now() + Duration::from_secs(20);
    let taken = async || {
        let text = String::from_utf8(app.get("/metrics").await.body.to_vec()).unwrap();
        text.lines().any(|line| line.strip_prefix("ringback_jobs_taken_total ").is_some_and(|n| n != "0"))
    };

    while !taken().await {
        let (got, job) = tokio::join!(
            claim(&app, json!({"waitSeconds": 20})),
            app.submit(json!({"type": "t"})).into_future()
        );
        assert_eq!((got[0]["jobId"].clone(), job["status"].clone()), (job["jobId"].clone(), json!("queued")));
        assert!(Instant::now() < until, "no worker was ever there first");
    }
}

async fn two_waiting_claims_do_not_share_a_job(site: &Site) {
    let app = site.start().await;
    let wait = || app.post("/v1/queues/default/claim", &json!({"waitSeconds": 20, "max": 10})).into_future();

    let (first, one) = tokio::join!(select(wait(), wait()), app.submit_id(json!({"type": "t"})));
    let (first, still_waiting) = first.factor_first();
    let (second, two) = tokio::join!(still_waiting, app.submit_id(json!({"type": "t"})));

    let jobs = |reply: Value| {
        let jobs = reply["jobs"].as_array().unwrap().clone();
        jobs.iter().map(|job| id(&job["jobId"])).collect::<Vec<_>>()
    };
    assert_eq!((jobs(first.ok(200)), jobs(second.ok(200))), (vec![one], vec![two]));
}

async fn a_waiting_claim_ends_empty(site: &Site) {
    let app = site.start().await;
    app.submit(json!({"type": "t", "runAt": in_seconds(&app, 3_600)})).await;
    let began = Instant::now();

    let reply = app.post("/v1/queues/default/claim", &json!({"waitSeconds": 1})).await;

    assert_eq!(reply.ok(200), json!({"jobs": []}));
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(claim(&app, json!({"waitSeconds": 0})).await, Vec::<Value>::new());
}

async fn a_key_that_is_revoked_while_it_waits_gets_nothing(site: &Site) {
    let app = site.start().await;
    let until = Instant::now() + Duration::from_secs(60);
    for what in ["claim", "read"] {
        loop {
            assert!(Instant::now() < until, "the key was always revoked first");
            let made = app.post("/v1/keys", &json!({"scopes": ["work", "jobs:read"]})).await.ok(201);
            let (key, number) = (id(&made["key"]), id(&made["keyId"]));
            let soon = in_seconds(&app, 2);
            // One comes due then, or ends.
            let wish = match what {
                "claim" => json!({"type": "t", "runAt": soon}),
                _ => json!({"type": "t", "deadlineAt": soon}),
            };
            let job = app.submit_id(wish).await;
            let began = Instant::now();
            let waiting = match what {
                "claim" => app.post("/v1/queues/default/claim", &json!({"waitSeconds": 20})),
                _ => app.get(&format!("/v1/jobs/{job}")).header("prefer", "wait=20"),
            };
            let revoke = app.delete(&format!("/v1/keys/{number}"));
            let (reply, revoked) = tokio::join!(waiting.key(&key).into_future(), revoke.into_future());
            revoked.ok(204);
            reply.refused(401, "unauthorized", "");
            if began.elapsed() < Duration::from_millis(900) {
                app.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
                continue;
            }
            if what == "claim" {
                let again = claim(&app, json!({"waitSeconds": 20})).await.remove(0);
                assert_eq!(
                    (&again["jobId"], &again["attempt"]),
                    (&json!(job), &json!(1)),
                    "it was given back"
                );
            }
            break;
        }
    }
}

async fn a_job_is_not_handed_out_before_its_time(site: &Site) {
    let app = site.start_still().await;
    let at = in_seconds(&app, 100);
    let job = app.submit_id(json!({"type": "t", "priority": 2, "runAt": at})).await;

    app.pass(99);
    assert!(claim(&app, json!({"max": 10})).await.is_empty());
    let shown = app.job(&job).await;
    assert_eq!((&shown["state"], &shown["runAt"]), (&json!("scheduled"), &at));

    app.pass(1);
    assert_eq!(app.job(&job).await["state"], "queued");
    assert_eq!(app.claim_one().await["jobId"], job);
}
