//! Every route with an id, asked by the wrong tenant: it answers as if there were nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use ringback::clock::Clock;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, until};
use crate::support::ask::{Ask, Reply};
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    every_route_with_an_id_has_its_row,
    what_another_tenant_has_is_like_what_is_not_there,
}

/// What the parameter of a route names.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Names {
    Job,
    Delivery,
    Letter,
    Redrive,
    Endpoint,
    Lane,
    Key,
    /// A queue or a type: a word that every tenant has for itself.
    Word,
    /// A tenant: not one tenant's object but the operator's.
    Tenant,
}

/// A route of the operator's own, so that its status path is held against the matrix too.
const CONFIG: &str = r#"
[[routes]]
path = "/api/reports/generate"
type = "report.generate"
status_path = "/api/reports/status/{jobId}"
"#;

/// Every operation whose path holds a parameter. A new one without a row fails the first test.
const MATRIX: [(&str, &str, Names); 46] = [
    ("GET", "/v1/jobs/{jobId}", Names::Job),
    ("GET", "/api/jobs/{jobId}", Names::Job),
    ("GET", "/api/reports/status/{jobId}", Names::Job),
    ("GET", "/v1/jobs/{jobId}/result", Names::Job),
    ("GET", "/results/{file}", Names::Job),
    ("GET", "/v1/jobs/{jobId}/events", Names::Job),
    ("GET", "/v1/jobs/{jobId}/deliveries", Names::Job),
    ("POST", "/v1/jobs/{jobId}/heartbeat", Names::Job),
    ("POST", "/v1/jobs/{jobId}/complete", Names::Job),
    ("POST", "/v1/jobs/{jobId}/fail", Names::Job),
    ("POST", "/v1/jobs/{jobId}/release", Names::Job),
    ("POST", "/v1/jobs/{jobId}/cancel", Names::Job),
    ("POST", "/v1/jobs/{jobId}/retry", Names::Job),
    ("DELETE", "/v1/jobs/{jobId}", Names::Job),
    ("DELETE", "/api/jobs/{jobId}", Names::Job),
    ("GET", "/v1/deliveries/{deliveryId}", Names::Delivery),
    ("GET", "/v1/deliveries/{deliveryId}/explain", Names::Delivery),
    ("POST", "/v1/deliveries/{deliveryId}/retry", Names::Delivery),
    ("POST", "/v1/deliveries/{deliveryId}/cancel", Names::Delivery),
    ("GET", "/v1/dead-letters/{deliveryId}", Names::Letter),
    ("DELETE", "/v1/dead-letters/{deliveryId}", Names::Letter),
    ("GET", "/v1/redrives/{redriveId}", Names::Redrive),
    ("DELETE", "/v1/redrives/{redriveId}", Names::Redrive),
    ("GET", "/v1/endpoints/{endpointId}", Names::Endpoint),
    ("PATCH", "/v1/endpoints/{endpointId}", Names::Endpoint),
    ("DELETE", "/v1/endpoints/{endpointId}", Names::Endpoint),
    ("POST", "/v1/endpoints/{endpointId}/rotate-secret", Names::Endpoint),
    ("POST", "/v1/endpoints/{endpointId}/pause", Names::Endpoint),
    ("POST", "/v1/endpoints/{endpointId}/resume", Names::Endpoint),
    ("POST", "/v1/endpoints/{endpointId}/test", Names::Endpoint),
    ("POST", "/v1/endpoints/{endpointId}/verify", Names::Endpoint),
    ("POST", "/v1/lanes/{laneId}/pause", Names::Lane),
    ("POST", "/v1/lanes/{laneId}/resume", Names::Lane),
    ("GET", "/v1/keys/{keyId}", Names::Key),
    ("DELETE", "/v1/keys/{keyId}", Names::Key),
    ("GET", "/v1/tenants/{tenantId}", Names::Tenant),
    ("GET", "/v1/tenants/{tenantId}/keys", Names::Tenant),
    ("POST", "/v1/tenants/{tenantId}/keys", Names::Tenant),
    ("GET", "/v1/tenants/{tenantId}/keys/{keyId}", Names::Tenant),
    ("DELETE", "/v1/tenants/{tenantId}/keys/{keyId}", Names::Tenant),
    ("GET", "/v1/queues/{queue}", Names::Word),
    ("PATCH", "/v1/queues/{queue}", Names::Word),
    ("POST", "/v1/queues/{queue}/pause", Names::Word),
    ("POST", "/v1/queues/{queue}/resume", Names::Word),
    ("POST", "/v1/queues/{queue}/claim", Names::Word),
    ("POST", "/v1/operations/{type}", Names::Word),
];

/// A still node with the operator's route.
async fn start(site: &Site) -> TestApp {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ringback.toml");
    std::fs::write(&file, CONFIG).unwrap();
    site.start_with(Clock::manual(Clock::wall()), |config| config.file = Some(file)).await
}

async fn every_route_with_an_id_has_its_row(site: &Site) {
    let app = start(site).await;
    let document = app.get("/openapi.json").nobody().await.ok(200);
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        if path.contains('{') {
            let methods = item.as_object().unwrap().keys();
            described.extend(methods.map(|method| (method.to_uppercase(), path.clone())));
        }
    }

    let rows: BTreeSet<_> = MATRIX.iter().map(|(m, p, _)| ((*m).to_owned(), (*p).to_owned())).collect();

    assert_eq!(rows.len(), MATRIX.len(), "one row each");
    let (without, gone): (Vec<_>, Vec<_>) =
        (described.difference(&rows).collect(), rows.difference(&described).collect());
    assert!(without.is_empty() && gone.is_empty(), "no row: {without:?}; no route: {gone:?}");
}

/// What the owner has: an id of each kind, with the lease token of a job that is held.
#[derive(Debug)]
struct Owned {
    names: Names,
    id: String,
    token: String,
}

impl Owned {
    /// An id of the same kind and shape that names nothing.
    fn missing(&self, n: usize) -> Owned {
        Owned {
            names: self.names,
            id: format!("{}{n:06}", &self.id[..self.id.len() - 6]),
            token: self.token.clone(),
        }
    }
}

/// A job in each situation, and what hangs on it.
async fn everything(app: &TestApp, receiver: &Receiver) -> Vec<Owned> {
    let mut all = Vec::new();
    let mut own =
        |names, id: &str, token: &str| all.push(Owned { names, id: id.to_owned(), token: token.to_owned() });
    let nobodys = "rbl_AAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAA";
    own(Names::Job, &gone(app).await, nobodys);

    let told = app.completed(json!({"type": "t", "callbackUrl": receiver.url("/ok")})).await;
    own(Names::Job, &told, nobodys);
    own(Names::Delivery, &id(&app.delivery_in(&told, "delivered").await["deliveryId"]), "");
    receiver.script("/gone", vec![Answer::Status(410)]);
    let untold = app.completed(json!({"type": "t", "callbackUrl": receiver.url("/gone")})).await;
    let dead = id(&app.delivery_in(&untold, "dead").await["deliveryId"]);
    own(Names::Delivery, &dead, "");
    own(Names::Letter, &dead, "");
    own(Names::Redrive, &running_redrive(app, receiver).await, "");
    let wish = json!({"url": receiver.url("/standing"), "events": []});
    own(Names::Endpoint, &id(&app.post("/v1/endpoints", &wish).await.ok(201)["endpointId"]), "");
    own(Names::Lane, &id(&app.items("/v1/lanes").await[0]["laneId"]), "");
    let wish = json!({"scopes": ["jobs:read"], "name": "reader"});
    own(Names::Key, &id(&app.post("/v1/keys", &wish).await.ok(201)["keyId"]), "");

    let cancelled = app.submit_id(json!({"type": "t"})).await;
    app.delete(&format!("/v1/jobs/{cancelled}")).await.ok(200);
    own(Names::Job, &cancelled, nobodys);
    app.submit(json!({"type": "t"})).await;
    let held = app.claim_one().await;
    own(Names::Job, &id(&held["jobId"]), &id(&held["leaseToken"]));
    own(Names::Job, &app.submit_id(json!({"type": "t"})).await, nobodys);
    all
}

/// A job past its retention, which its owner is told of.
async fn gone(app: &TestApp) -> String {
    let job = app.completed(json!({"type": "t", "retainSeconds": 60})).await;
    app.pass(3_600);
    until("the sweep has removed it", async || {
        let reply = app.get(&format!("/v1/jobs/{job}")).await;
        if reply.status == 410 { Ok(()) } else { Err(reply) }
    })
    .await;
    job
}

/// Two letters, of which one is sent again in the second that the still clock never reaches the end of.
async fn running_redrive(app: &TestApp, receiver: &Receiver) -> String {
    let mut ids = Vec::new();
    for path in ["/a", "/b"] {
        receiver.script(path, vec![Answer::Status(410), Answer::Status(200)]);
        let job = app.completed(json!({"type": "t", "callbackUrl": receiver.url(path)})).await;
        ids.push(id(&app.delivery_in(&job, "dead").await["deliveryId"]));
    }
    let wish = json!({"filter": {"ids": ids}, "ratePerSecond": 1});
    let redrive = id(&app.post("/v1/dead-letters/replay", &wish).await.ok(202)["redriveId"]);
    until("one of the two is sent again", async || {
        let delivered =
            app.get("/v1/deliveries?state=delivered").await.ok(200)["items"].as_array().unwrap().len();
        let seen = app.get(&format!("/v1/redrives/{redrive}")).await.ok(200);
        if delivered == 2 && seen["redriven"] == 1 && seen["state"] == "running" { Ok(()) } else { Err(seen) }
    })
    .await;
    redrive
}

/// All that the owner sees of what it has.
async fn world(app: &TestApp, all: &[Owned]) -> Vec<(String, String)> {
    let lists = [
        "/v1/jobs",
        "/v1/deliveries",
        "/v1/dead-letters",
        "/v1/redrives",
        "/v1/endpoints",
        "/v1/keys",
        "/v1/lanes",
    ];
    let mut paths: Vec<String> = lists.map(str::to_owned).into();
    for owned in all {
        match owned.names {
            Names::Job => {
                paths.extend(["", "/result", "/events"].map(|p| format!("/v1/jobs/{}{p}", owned.id)))
            }
            Names::Delivery => paths.push(format!("/v1/deliveries/{}", owned.id)),
            Names::Letter => paths.push(format!("/v1/dead-letters/{}", owned.id)),
            Names::Redrive => paths.push(format!("/v1/redrives/{}", owned.id)),
            Names::Endpoint => paths.push(format!("/v1/endpoints/{}", owned.id)),
            Names::Lane | Names::Key | Names::Word | Names::Tenant => {}
        }
    }
    let mut seen = Vec::new();
    for path in paths {
        let reply = app.get(&path).await;
        seen.push((path, format!("{} {}", reply.header("etag"), without_request_id(&reply))));
    }
    seen
}

fn without_request_id(reply: &Reply) -> String {
    let own = reply.header("request-id");
    assert!(own.starts_with("req_"), "{reply:?}");
    String::from_utf8_lossy(&reply.body).replace(own, "req_")
}

/// Everything of an answer that a client can tell apart, but for what names the request.
fn face(reply: &Reply) -> (u16, Vec<(String, String)>, String) {
    let other = |name: &str| !matches!(name, "request-id" | "date");
    let headers = reply.headers.iter().filter(|(name, _)| other(name.as_str()));
    let mut headers: Vec<_> = headers.map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect();
    headers.sort();
    (reply.status, headers, without_request_id(reply))
}

/// The request of a row for that object: sound in everything but whose it is.
fn request(app: &TestApp, method: &str, path: &str, owned: &Owned) -> Ask {
    let (head, tail) = path.split_once('{').unwrap();
    let (name, tail) = tail.split_once('}').unwrap();
    let ending = if name == "file" { ".json" } else { "" };
    let ask = app.ask(method, &format!("{head}{}{ending}{tail}", owned.id));
    match tail {
        "/heartbeat" => ask.json(&json!({"leaseToken": owned.token, "progress": 66})),
        "/complete" => ask.json(&json!({"leaseToken": owned.token, "result": "stolen"})),
        "/fail" => ask.json(&json!({"leaseToken": owned.token, "error": "spoiled", "retryable": false})),
        "/release" => ask.json(&json!({"leaseToken": owned.token})),
        _ if method == "PATCH" => ask.json(&json!({"description": "spoiled"})),
        _ if method == "GET" => ask.header("prefer", "wait=20").header("if-none-match", "\"1.0\""),
        _ => ask,
    }
}

async fn what_another_tenant_has_is_like_what_is_not_there(site: &Site) {
    let other = site.key_of("other").await;
    let app = start(site).await;
    let receiver = Receiver::start().await;
    let all = everything(&app, &receiver).await;
    let before = world(&app, &all).await;
    let began = Instant::now();

    let mut asked = BTreeSet::new();
    for (n, (method, path, names)) in MATRIX.iter().enumerate() {
        for (m, owned) in all.iter().enumerate().filter(|(_, owned)| owned.names == *names) {
            let theirs = request(&app, method, path, owned).key(&other).await;
            let nothing = request(&app, method, path, &owned.missing(n * 100 + m)).key(&other).await;

            let code = if *names == Names::Job { "job-not-found" } else { "not-found" };
            theirs.refused(404, code, "");
            assert_eq!(face(&theirs), face(&nothing), "{method} {path} of {owned:?}");
            asked.insert((method, path));
        }
    }

    let words = MATRIX.iter().filter(|(_, _, names)| matches!(names, Names::Word | Names::Tenant)).count();
    assert_eq!(asked.len(), MATRIX.len() - words, "each row was asked");
    assert!(began.elapsed() < LIMIT + Duration::from_secs(5), "nobody waits for what is not theirs");
    for (before, after) in before.iter().zip(world(&app, &all).await) {
        assert_eq!(before, &after, "nothing changed");
    }
    let held = all.iter().rev().nth(1).unwrap();
    let done = request(&app, "POST", "/v1/jobs/{jobId}/complete", held).await.ok(200);
    assert_eq!(done["status"], Value::from("complete"), "its own holder still has it");
}
