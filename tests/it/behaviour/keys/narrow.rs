//! A key for some queues or some accounts: the rest of the tenant is not there for it.

use serde_json::{Value, json};

use super::key;
use crate::support::app::{Site, TestApp, both_engines, id, until};
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    it_submits_to_its_queues_only,
    it_claims_from_its_queues_only,
    it_sees_the_jobs_of_its_queues_only,
    it_changes_the_jobs_of_its_queues_only,
    it_reports_on_the_jobs_of_its_queues_only,
    it_sees_the_deliveries_of_its_queues_only,
    it_sees_and_sends_what_its_accounts_have_only,
    it_sends_an_outage_of_its_account_again_and_sees_how_far_that_is,
    a_key_for_no_queue_at_all_sees_nothing,
    it_neither_has_the_tenants_secret_nor_ends_wider_keys,
}

/// A key with every scope of the tenant for queue `a`.
async fn for_a(app: &TestApp) -> String {
    key(app, json!({"scopes": ["admin"], "queues": ["a"]})).await
}

fn job(queue: &str) -> Value {
    json!({"type": "t", "queue": queue})
}

async fn it_submits_to_its_queues_only(site: &Site) {
    let app = site.start().await;
    let narrow = for_a(&app).await;

    app.post("/v1/jobs", &job("a")).key(&narrow).await.ok(202);
    app.post("/v1/jobs", &job("b")).key(&narrow).await.refused(403, "forbidden", "");
    app.post("/v1/jobs", &json!({"type": "t"})).key(&narrow).await.refused(403, "forbidden", "");
    app.ask("POST", "/v1/operations/t").key(&narrow).await.refused(403, "forbidden", "");
    let both = |atomic| json!({"atomic": atomic, "jobs": [job("a"), job("b")]});
    app.post("/v1/jobs/batch", &both(true)).key(&narrow).await.refused(403, "forbidden", "");
    let told = app.post("/v1/jobs/batch", &both(false)).key(&narrow).await.ok(202);

    assert_eq!(
        (&told["items"][0]["state"], &told["items"][1]["code"]),
        (&json!("queued"), &json!("forbidden"))
    );
    let all = app.get("/v1/jobs").await.ok(200)["items"].as_array().unwrap().clone();
    assert_eq!(all.iter().map(|job| id(&job["queue"])).collect::<Vec<_>>(), ["a", "a"]);
}

async fn it_claims_from_its_queues_only(site: &Site) {
    let app = site.start().await;
    let narrow = for_a(&app).await;
    let (mine, other) = (app.submit_id(job("a")).await, app.submit_id(job("b")).await);
    let claim =
        |queue: &str| app.post(&format!("/v1/queues/{queue}/claim"), &json!({"max": 10})).key(&narrow);

    claim("b").await.refused(403, "forbidden", "");
    let got = claim("a").await.ok(200)["jobs"].clone();

    assert_eq!((got.as_array().unwrap().len(), &got[0]["jobId"]), (1, &json!(mine)));
    assert_eq!(app.job(&other).await["attempt"], 0);
}

async fn it_sees_the_jobs_of_its_queues_only(site: &Site) {
    let app = site.start().await;
    let narrow = for_a(&app).await;
    let (mine, other) = (app.submit_id(job("a")).await, app.submit_id(job("b")).await);
    let list = async |query: &str| {
        let page = app.get(&format!("/v1/jobs{query}")).key(&narrow).await.ok(200);
        page["items"].as_array().unwrap().iter().map(|job| id(&job["jobId"])).collect::<Vec<_>>()
    };

    assert_eq!(list("").await, [&*mine]);
    assert_eq!(list("?queue=a&type=t").await, [&*mine]);
    assert!(list("?queue=b").await.is_empty());
    for path in ["", "/result", "/events", "/deliveries"] {
        let read = |job: &str| app.get(&format!("/v1/jobs/{job}{path}")).key(&narrow);
        assert!(matches!(read(&mine).await.status, 200 | 409), "{path}");
        read(&other).await.refused(404, "job-not-found", "");
    }
    app.get(&format!("/results/{other}.json")).key(&narrow).await.refused(404, "job-not-found", "");
    app.get(&format!("/api/jobs/{other}")).key(&narrow).await.refused(404, "job-not-found", "");
}

async fn it_changes_the_jobs_of_its_queues_only(site: &Site) {
    let app = site.start().await;
    let narrow = for_a(&app).await;
    let (mine, other) = (app.submit_id(job("a")).await, app.submit_id(job("b")).await);
    let ended = app.submit_id(job("b")).await;
    app.delete(&format!("/v1/jobs/{ended}")).await.ok(200);

    app.delete(&format!("/v1/jobs/{other}")).key(&narrow).await.refused(404, "job-not-found", "");
    let cancel = app.post(&format!("/v1/jobs/{other}/cancel"), &json!({})).key(&narrow).await;
    cancel.refused(404, "job-not-found", "");
    let retry = app.ask("POST", &format!("/v1/jobs/{ended}/retry")).key(&narrow).await;
    retry.refused(404, "job-not-found", "");

    assert_eq!(app.job(&other).await["state"], "queued");
    assert_eq!(app.job(&ended).await["state"], "cancelled");
    assert_eq!(app.delete(&format!("/v1/jobs/{mine}")).key(&narrow).await.ok(200)["state"], "cancelled");
}

async fn it_reports_on_the_jobs_of_its_queues_only(site: &Site) {
    let app = site.start().await;
    let narrow = for_a(&app).await;
    let external = |queue: &str| json!({"type": "t", "queue": queue, "worker": "external"});
    let (mine, other) = (app.submit(external("a")).await, app.submit(external("b")).await);
    for (verb, more) in [
        ("heartbeat", json!({})),
        ("complete", json!({})),
        ("fail", json!({"error": "x"})),
        ("release", json!({})),
    ] {
        let reply = app.report(&other, verb, more).key(&narrow).await;
        reply.refused(404, "job-not-found", "");
    }
    let item =
        |held: &Value| json!({"op": "complete", "jobId": held["jobId"], "leaseToken": held["leaseToken"]});
    let both = json!({"items": [item(&mine), item(&other)]});
    let told = app.post("/v1/leases/ack", &both).key(&narrow).await.ok(200);

    assert_eq!(
        (&told["items"][0]["state"], &told["items"][1]["code"]),
        (&json!("complete"), &json!("job-not-found"))
    );
    assert_eq!(app.job(&id(&other["jobId"])).await["state"], "processing");
}

/// A job of that queue whose callback is dead; gives its delivery.
async fn dead(app: &TestApp, receiver: &Receiver, queue: &str) -> String {
    receiver.script("/gone", vec![Answer::Status(410)]);
    let wish =
        json!({"type": "t", "queue": queue, "worker": "external", "callbackUrl": receiver.url("/gone")});
    let accepted = app.submit(wish).await;
    app.report(&accepted, "complete", json!({})).await.ok(200);
    id(&app.delivery_in(&id(&accepted["jobId"]), "dead").await["deliveryId"])
}

async fn listed(app: &TestApp, key: &str, path: &str) -> Vec<String> {
    let page = app.get(path).key(key).await.ok(200);
    page["items"].as_array().unwrap().iter().map(|one| id(&one["deliveryId"])).collect()
}

async fn it_sees_the_deliveries_of_its_queues_only(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let narrow = for_a(&app).await;
    let (mine, other) = (dead(&app, &receiver, "a").await, dead(&app, &receiver, "b").await);
    for kind in ["deliveries", "dead-letters"] {
        let read = |delivery: &str| app.get(&format!("/v1/{kind}/{delivery}")).key(&narrow);
        assert_eq!(read(&mine).await.ok(200)["deliveryId"], mine);
        read(&other).await.refused(404, "not-found", "");
        assert_eq!(listed(&app, &app.key, &format!("/v1/{kind}")).await.len(), 2);
        assert_eq!(listed(&app, &narrow, &format!("/v1/{kind}")).await, [&*mine], "{kind}");
    }
    for verb in ["retry", "cancel"] {
        let reply = app.ask("POST", &format!("/v1/deliveries/{other}/{verb}")).key(&narrow).await;
        reply.refused(404, "not-found", "");
    }
    app.delete(&format!("/v1/dead-letters/{other}")).key(&narrow).await.refused(404, "not-found", "");
    let all = app.post("/v1/dead-letters/replay", &json!({})).key(&narrow).await;
    all.refused(403, "forbidden", "");
    assert_eq!(receiver.at("/gone").len(), 2, "nothing was sent again");
    app.delete(&format!("/v1/dead-letters/{mine}")).key(&narrow).await.ok(204);
}

/// The callbacks of jobs belong to no account.
async fn it_sees_and_sends_what_its_accounts_have_only(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let narrow = key(&app, json!({"scopes": ["admin"], "accounts": ["acme"]})).await;
    let nobodys = dead(&app, &receiver, "a").await;
    for kind in ["deliveries", "dead-letters"] {
        app.get(&format!("/v1/{kind}/{nobodys}")).key(&narrow).await.refused(404, "not-found", "");
        assert!(listed(&app, &narrow, &format!("/v1/{kind}")).await.is_empty(), "{kind}");
    }
    let replay = |filter: Value| app.post("/v1/dead-letters/replay", &json!({"filter": filter})).key(&narrow);
    replay(json!({})).await.refused(403, "forbidden", "");
    replay(json!({"ids": [nobodys]})).await.refused(403, "forbidden", "");
    replay(json!({"account": "other"})).await.refused(403, "forbidden", "");
    assert_eq!(replay(json!({"account": "acme"})).await.ok(202)["matched"], 0);
    let retry = app.ask("POST", &format!("/v1/deliveries/{nobodys}/retry")).key(&narrow).await;
    retry.refused(404, "not-found", "");
    app.delete(&format!("/v1/dead-letters/{nobodys}")).key(&narrow).await.refused(404, "not-found", "");
    assert_eq!(receiver.at("/gone").len(), 1);
}

async fn it_sends_an_outage_of_its_account_again_and_sees_how_far_that_is(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let narrow = key(&app, json!({"scopes": ["admin"], "accounts": ["acme"]})).await;
    receiver.script("/in", vec![Answer::Status(410)]);
    let wish = json!({"url": receiver.url("/in"), "account": "acme"});
    app.post("/v1/endpoints", &wish).await.ok(201);
    app.post("/v1/events", &json!({"type": "x", "account": "acme", "data": {}})).await.ok(202);
    let outages = until("there is an outage", async || {
        let seen = app.get("/v1/dead-letters/outages").key(&narrow).await.ok(200)["items"].clone();
        if seen.as_array().unwrap().is_empty() { Err(seen) } else { Ok(seen) }
    })
    .await;
    let wish = json!({"filter": outages[0]["filter"], "ratePerSecond": 1});
    let started = app.post("/v1/dead-letters/replay", &wish).key(&narrow).await.ok(202);
    assert_eq!(started["matched"], 1, "{outages}");
    let others = json!({"filter": {"account": "beta"}});
    for whole in [json!({}), others] {
        let other = id(&app.post("/v1/dead-letters/replay", &whole).await.ok(202)["redriveId"]);
        for method in ["GET", "DELETE"] {
            let reply = app.ask(method, &format!("/v1/redrives/{other}")).key(&narrow).await;
            reply.refused(404, "not-found", "");
        }
    }
    let listed = app.get("/v1/redrives").key(&narrow).await.ok(200)["items"].clone();
    let listed: Vec<_> = listed.as_array().unwrap().iter().map(|r| r["redriveId"].clone()).collect();
    assert_eq!(listed, [started["redriveId"].clone()]);
    let mine = format!("/v1/redrives/{}", id(&started["redriveId"]));
    assert_eq!(app.get(&mine).key(&narrow).await.ok(200)["filter"]["account"], "acme");
    app.delete(&mine).key(&narrow).await.ok(200);
    let queues = for_a(&app).await;
    for path in ["/v1/redrives", &mine] {
        app.get(path).key(&queues).await.refused(403, "forbidden", "");
    }
}

async fn it_neither_has_the_tenants_secret_nor_ends_wider_keys(site: &Site) {
    let app = site.start().await;
    let made = async |wish: Value| app.post("/v1/keys", &wish).await.ok(201);
    let wide = made(json!({"scopes": ["jobs:read"]})).await;
    for member in ["queues", "accounts"] {
        let narrow = made(json!({"scopes": ["admin"], member: ["a", "b"]})).await;
        let own = id(&narrow["key"]);
        app.get("/v1/tenants/self/webhook-secret").key(&own).await.refused(403, "forbidden", "");
        let rotate = app.ask("POST", "/v1/tenants/self/rotate-secret").key(&own).await;
        rotate.refused(403, "forbidden", "");
        let other = made(json!({"scopes": ["jobs:read"], member: ["a", "c"]})).await;
        let part = made(json!({"scopes": ["jobs:read"], member: ["a"]})).await;
        let end = |other: &Value| app.delete(&format!("/v1/keys/{}", id(&other["keyId"]))).key(&own);
        for wider in [&wide, &other] {
            end(wider).await.refused(403, "forbidden", "");
        }
        end(&part).await.ok(204);
        end(&part).await.refused(404, "not-found", "");
        end(&narrow).await.ok(204);
    }
    let secret = app.get("/v1/tenants/self/webhook-secret").await.ok(200);
    assert_eq!(secret, json!({"secret": app.secret}), "it is the same still");
}

async fn a_key_for_no_queue_at_all_sees_nothing(site: &Site) {
    let app = site.start().await;
    let none = key(&app, json!({"scopes": ["admin"], "queues": []})).await;
    let job = app.submit_id(json!({"type": "t"})).await;

    app.get(&format!("/v1/jobs/{job}")).key(&none).await.refused(404, "job-not-found", "");
    assert_eq!(app.get("/v1/jobs").key(&none).await.ok(200), json!({"items": [], "nextCursor": null}));
    app.post("/v1/queues/default/claim", &json!({})).key(&none).await.refused(403, "forbidden", "");
    app.post("/v1/jobs", &json!({"type": "t"})).key(&none).await.refused(403, "forbidden", "");
}
