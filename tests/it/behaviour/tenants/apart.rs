//! Two tenants side by side: lists, idempotency, leases and secrets are each one's own.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id};
use crate::support::receiver::{Answer, Received, Receiver};

both_engines! {
    lists_show_nothing_of_another_tenant,
    filters_find_nothing_of_another_tenant,
    a_replay_takes_nothing_of_another_tenant,
    an_idempotency_key_belongs_to_its_tenant,
    a_claim_gets_nothing_of_another_tenant,
    a_lease_token_with_another_tenants_key_is_refused,
    an_access_token_reads_its_own_job_only,
    each_tenant_signs_with_its_own_secret,
}

/// Every route that lists, as the document tells them.
const LISTS: [&str; 11] = [
    "/api/jobs",
    "/v1/dead-letters",
    "/v1/dead-letters/outages",
    "/v1/deliveries",
    "/v1/endpoints",
    "/v1/events",
    "/v1/jobs",
    "/v1/keys",
    "/v1/lanes",
    "/v1/queues",
    "/v1/redrives",
];

/// A job whose callback is dead, an endpoint, and a replay of nothing: every list of the tenant has an entry.
async fn something_in_every_list(app: &TestApp, receiver: &Receiver) -> (String, String) {
    receiver.script("/gone", vec![Answer::Status(410)]);
    let job = app.completed(json!({"type": "t", "ref": "mine", "callbackUrl": receiver.url("/gone")})).await;
    let delivery = id(&app.delivery_in(&job, "dead").await["deliveryId"]);
    app.post("/v1/endpoints", &json!({"url": receiver.url("/in"), "events": []})).await.ok(201);
    let replay = json!({"filter": {"type": "job.expired"}});
    app.post("/v1/dead-letters/replay", &replay).await.ok(202);
    (job, delivery)
}

fn items(page: &Value) -> Vec<Value> {
    page["items"].as_array().unwrap().clone()
}

async fn lists_show_nothing_of_another_tenant(site: &Site) {
    let other = site.key_of("other").await;
    let app = site.start().await;
    let receiver = Receiver::start().await;
    something_in_every_list(&app, &receiver).await;

    let document = app.get("/openapi.json").await.ok(200);
    let plain = [
        "/livez",
        "/readyz",
        "/healthz",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/v1/tenants/self/webhook-secret",
        // The operator's, who belongs to no tenant.
        "/v1/tenants",
        // A WebSocket, which shows only what is asked for by its id.
        "/v1/ws",
    ];
    let paths = document["paths"].as_object().unwrap().iter();
    let lists = paths.filter(|(path, item)| item.get("get").is_some() && !path.contains('{'));
    let lists: BTreeSet<_> =
        lists.map(|(path, _)| path.as_str()).filter(|path| !plain.contains(path)).collect();
    assert_eq!(lists, BTreeSet::from(LISTS), "a new list needs a row");

    for path in LISTS {
        let own = app.get(path).await.ok(200);
        let theirs = app.get(path).key(&other).await.ok(200);
        assert!(!items(&own).is_empty(), "{path} shows its own");
        if path == "/v1/keys" {
            let prefixes: Vec<_> = items(&theirs).iter().map(|key| id(&key["prefix"])).collect();
            assert_eq!(prefixes, [&other[..12]], "its own key and no other");
        } else if path == "/v1/events" {
            // Its cursor is the place to come back to, also where there is nothing yet.
            assert_eq!(theirs["items"], json!([]), "{path}");
        } else {
            assert_eq!(theirs, json!({"items": [], "nextCursor": null}), "{path}");
        }
    }
}

async fn filters_find_nothing_of_another_tenant(site: &Site) {
    let other = site.key_of("other").await;
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let (job, _) = something_in_every_list(&app, &receiver).await;
    for _ in 0..2 {
        app.submit(json!({"type": "t"})).await;
    }
    let cursor = id(&app.get("/v1/jobs?limit=1").await.ok(200)["nextCursor"]);
    let queries = [
        "/v1/jobs?ref=mine".to_owned(),
        "/v1/jobs?status=complete&type=t&queue=default".to_owned(),
        format!("/v1/jobs?cursor={cursor}"),
        format!("/v1/deliveries?jobId={job}"),
        "/v1/deliveries?state=dead&host=127.0.0.1".to_owned(),
        format!("/v1/dead-letters?jobId={job}"),
        "/v1/dead-letters?host=127.0.0.1".to_owned(),
    ];
    for path in &queries {
        assert!(!items(&app.get(path).await.ok(200)).is_empty(), "{path} finds its own");
        let theirs = app.get(path).key(&other).await.ok(200);
        assert_eq!(theirs, json!({"items": [], "nextCursor": null}), "{path}");
    }
}

async fn a_replay_takes_nothing_of_another_tenant(site: &Site) {
    let other = site.key_of("other").await;
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let (job, delivery) = something_in_every_list(&app, &receiver).await;
    for filter in [json!({}), json!({"ids": [delivery]}), json!({"jobId": job})] {
        let ask = |dry| app.post("/v1/dead-letters/replay", &json!({"filter": filter, "dryRun": dry}));

        assert_eq!(ask(true).key(&other).await.ok(200), json!({"matched": 0}));
        assert_eq!(ask(false).key(&other).await.ok(202)["matched"], 0);
        assert_eq!(ask(true).await.ok(200), json!({"matched": 1}), "{filter}");
    }
    assert_eq!(app.get(&format!("/v1/deliveries/{delivery}")).await.ok(200)["state"], "dead");
    assert_eq!(receiver.at("/gone").len(), 1);
}

async fn an_idempotency_key_belongs_to_its_tenant(site: &Site) {
    let other = site.key_of("other").await;
    let app = site.start().await;
    let submit =
        |kind: &str| app.post("/v1/jobs", &json!({"type": kind})).header("idempotency-key", "build-1");

    let mine = submit("t").await;
    let theirs = submit("t").key(&other).await;

    assert_ne!(mine.ok(202)["jobId"], theirs.ok(202)["jobId"], "two jobs");
    assert_eq!(theirs.header("idempotent-replayed"), "");
    let again = submit("t").key(&other).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.ok(202), theirs.ok(202));
    submit("u").await.refused(422, "idempotency-key-reused", "");
    app.get(&format!("/v1/jobs/{}", id(&theirs.json()["jobId"]))).await.refused(404, "job-not-found", "");
}

async fn a_claim_gets_nothing_of_another_tenant(site: &Site) {
    let other = site.key_of("other").await;
    let app = site.start().await;
    let mine = app.submit_id(json!({"type": "t", "priority": 2})).await;
    let claim = |key: &str| app.post("/v1/queues/default/claim", &json!({"max": 10})).key(key);

    assert_eq!(claim(&other).await.ok(200), json!({"jobs": []}), "the same name is another queue");
    let theirs = app.post("/v1/jobs", &json!({"type": "t"})).key(&other).await.ok(202);
    let got = claim(&other).await.ok(200)["jobs"].clone();

    assert_eq!((got.as_array().unwrap().len(), &got[0]["jobId"]), (1, &theirs["jobId"]));
    assert_eq!(app.claim_one().await["jobId"], mine);
}

async fn a_lease_token_with_another_tenants_key_is_refused(site: &Site) {
    let other = site.key_of("other").await;
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let claimed = app.claim_one().await;
    let before = app.job(&job).await;
    for (verb, more) in [
        ("heartbeat", json!({"progress": 1})),
        ("complete", json!({})),
        ("fail", json!({"error": "x"})),
        ("release", json!({})),
    ] {
        app.report(&claimed, verb, more).key(&other).await.refused(404, "job-not-found", "");
    }
    let token = id(&claimed["leaseToken"]);
    let raw = app.ask("POST", &format!("/v1/jobs/{job}/complete")).header("lease-token", &token);
    raw.text("text/plain", "x").key(&other).await.refused(404, "job-not-found", "");
    let items = json!([{"op": "complete", "jobId": job, "leaseToken": token}]);
    let ack = app.post("/v1/leases/ack", &json!({"items": items})).key(&other).await.ok(200);
    assert_eq!(
        (&ack["items"][0]["code"], &ack["items"][0]["status"]),
        (&json!("job-not-found"), &json!(404))
    );

    assert_eq!(app.job(&job).await, before);
    app.report(&claimed, "complete", json!({})).nobody().await.ok(200);
}

async fn an_access_token_reads_its_own_job_only(site: &Site) {
    let other = site.key_of("other").await;
    let app = site.start().await;
    let mine = app.submit(json!({"type": "t"})).await;
    let theirs = app.post("/v1/jobs", &json!({"type": "t"})).key(&other).await.ok(202);
    let (job, token) = (id(&mine["jobId"]), id(&theirs["accessToken"]));
    for path in ["", "/result", "/events"] {
        let read = |job: &str| app.get(&format!("/v1/jobs/{job}{path}")).key(&token);

        read(&job).await.refused(404, "job-not-found", "");
        let own = read(&id(&theirs["jobId"])).await;
        assert!(matches!(own.status, 200 | 409), "{own:?}");
    }
}

/// Whether the signature is of that secret.
fn signed(got: &Received, secret: &str) -> bool {
    standardwebhooks::Webhook::new(secret).unwrap().verify(&got.body, &got.headers).is_ok()
}

async fn each_tenant_signs_with_its_own_secret(site: &Site) {
    let other = site.key_of("other").await;
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let secret =
        async |key: &str| id(&app.get("/v1/tenants/self/webhook-secret").key(key).await.ok(200)["secret"]);
    let (mine, theirs) = (secret(&app.key).await, secret(&other).await);
    assert!(mine.starts_with("whsec_") && theirs.starts_with("whsec_"), "{mine} {theirs}");
    assert_ne!(mine, theirs);
    assert_eq!(mine, app.secret, "what dev prints");

    for (path, key) in [("/mine", &app.key), ("/theirs", &other)] {
        let wish = json!({"type": "t", "worker": "external", "callbackUrl": receiver.url(path)});
        let accepted = app.post("/v1/jobs", &wish).key(key).await.ok(202);
        app.report(&accepted, "complete", json!({})).key(key).await.ok(200);
    }
    let got = [&receiver.wait("/mine", 1, LIMIT).await[0], &receiver.wait("/theirs", 1, LIMIT).await[0]]
        .map(|got| (signed(got, &mine), signed(got, &theirs)));
    assert_eq!(got, [(true, false), (false, true)]);

    app.post("/v1/tenants/self/rotate-secret", &json!({})).key(&other).await.ok(200);
    assert_eq!(secret(&app.key).await, mine, "a rotation is its own tenant's");
    assert_ne!(secret(&other).await, theirs);
}
