//! What needs no key, and the figures at `/metrics`.

use std::collections::BTreeMap;

use ringback::clock::Clock;
use serde_json::{Value, json};

use crate::support::app::{LIMIT, Site, TestApp, both_engines};
use crate::support::ask::{Ask, Reply, http};
use crate::support::process::free_port;
use crate::support::receiver::Receiver;

both_engines! {
    health_and_description_need_no_key,
    in_production_the_figures_need_their_scope,
    the_figures_move_with_a_job,
    a_listener_of_its_own_shows_the_figures_to_everyone,
}

async fn open_to_everyone(app: &TestApp) {
    for path in ["/livez", "/readyz", "/healthz"] {
        let seen = app.get(path).nobody().await.ok(200);
        assert_eq!(seen["status"], "ok", "{path}: {seen}");
    }
    let ready = app.get("/readyz").nobody().await.ok(200);
    assert_eq!(ready["checks"], json!({"store": "ok", "shutdown": "no"}));
    let health = app.get("/healthz").nobody().await.ok(200);
    assert_eq!(
        (&health["checks"]["store"], &health["checks"]["redrives_running"]),
        (&json!("ok"), &json!("0"))
    );
    let document = app.get("/openapi.json").nobody().await;
    assert!(document.ok(200)["openapi"].as_str().unwrap().starts_with("3.1."));
    assert_eq!(document.header("content-type"), "application/json");
    let page = app.get("/docs").nobody().await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"), "{page:?}");
    let text = String::from_utf8_lossy(&page.body);
    assert!(text.contains("POST /v1/jobs</code>") && !text.contains("src="), "{text}");
    // A wrong key is not held against who needs none.
    app.get("/livez").key("rbk_wrong").await.ok(200);
}

async fn health_and_description_need_no_key(site: &Site) {
    let app = site.start().await;
    open_to_everyone(&app).await;
    assert_eq!(app.get("/metrics").nobody().await.status, 200);
    app.get("/v1/jobs").nobody().await.refused(401, "unauthorized", "");
}

async fn in_production_the_figures_need_their_scope(site: &Site) {
    let app = site.start_serving().await;
    open_to_everyone(&app).await;
    let key = async |scope: &str| {
        let made = app.post("/v1/keys", &json!({"scopes": [scope]})).await.ok(201);
        made["key"].as_str().unwrap().to_owned()
    };

    let nobody = app.get("/metrics").nobody().await;
    nobody.refused(401, "unauthorized", "");
    assert!(nobody.header("www-authenticate").starts_with("Bearer"), "{nobody:?}");
    app.get("/metrics").key(&key("jobs:read").await).await.refused(403, "forbidden", "");
    let scraper = key("metrics:read").await;
    assert_eq!(app.get("/metrics").key(&scraper).await.status, 200);
    app.get("/v1/jobs").key(&scraper).await.refused(403, "forbidden", "");
}

/// The samples of an OpenMetrics text, which must be well formed.
#[track_caller]
fn samples(reply: &Reply) -> BTreeMap<String, f64> {
    assert_eq!(reply.status, 200, "{reply:?}");
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(reply.header("content-type"), kind);
    let text = std::str::from_utf8(&reply.body).unwrap();
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
    let mut families: Vec<&str> = Vec::new();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            families.push(family.split(' ').next().unwrap());
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let family = families.last().expect("a family before its samples");
            assert!(name.starts_with(family), "{line} stands below {family}");
            let value = value.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
            assert!(found.insert(name.to_owned(), value).is_none(), "{name} twice");
        }
    }
    found
}

async fn the_figures_move_with_a_job(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let before = samples(&app.get("/metrics").await);

    let job = app.completed(json!({"type": "t", "callbackUrl": receiver.url("/x")})).await;
    receiver.wait("/x", 1, LIMIT).await;
    app.delivery_in(&job, "delivered").await;
    app.get("/nothing").await.refused(404, "not-found", "");

    let after = samples(&app.get("/metrics").await);
    let moved = |name: &str| after.get(name).unwrap_or(&0.0) - before.get(name).unwrap_or(&0.0);
    for (name, by) in [
        ("ringback_jobs_submitted_total", 1.0),
        ("ringback_jobs_claimed_total", 1.0),
        ("ringback_delivery_attempts_total", 1.0),
        ("ringback_delivery_verdicts_total{word=\"delivered\"}", 1.0),
        ("ringback_attempt_seconds_count", 1.0),
        ("ringback_http_requests_total{route=\"/v1/jobs\",method=\"POST\",status=\"202\"}", 1.0),
        (
            "ringback_http_requests_total{route=\"/v1/jobs/{jobId}/complete\",method=\"POST\",status=\"200\"}",
            1.0,
        ),
        ("ringback_http_requests_total{route=\"none\",method=\"GET\",status=\"404\"}", 1.0),
    ] {
        assert!((moved(name) - by).abs() < f64::EPSILON, "{name} moved by {}", moved(name));
    }
    for name in
        ["ringback_http_seconds_count", "ringback_commit_seconds_count", "ringback_commit_batch_size_sum"]
    {
        assert!(moved(name) >= 3.0, "{name} moved by {}", moved(name));
    }
    for (name, at_least) in [("ringback_http_connections", 1.0), ("ringback_nodes_alive", 1.0)] {
        assert!(after[name] >= at_least, "{name} is {}", after[name]);
    }
    let text = format!("{after:?}");
    assert!(!text.contains(&job) && !text.contains("127.0.0.1"), "labels come from closed sets: {text}");
}

async fn a_listener_of_its_own_shows_the_figures_to_everyone(site: &Site) {
    let port = free_port();
    let listen = |config: &mut ringback::app::Config| {
        config.mode = ringback::app::Mode::Serve;
        config.metrics_listen = Some(([127, 0, 0, 1], port).into());
    };
    site.key_of("default").await;
    let app = site.start_with(Clock::system(), listen).await;
    let there = |path: &str| Ask::new(&http(), "GET", &format!("http://127.0.0.1:{port}{path}"), "").nobody();

    let shown = there("/metrics").await;

    assert!(samples(&shown).contains_key("ringback_jobs_submitted_total"));
    assert!(shown.header("request-id").starts_with("req_"), "{shown:?}");
    let nothing_else = there("/v1/jobs").await.refused(404, "not-found", "");
    assert!(nothing_else["requestId"] != Value::Null, "{nothing_else}");
    app.get("/metrics").nobody().await.refused(401, "unauthorized", "");
}
