//! The server's edge: what every answer has, and what is refused before a handler sees it.

mod deadlines;
mod described;
mod examples;
mod figures;
mod limits;

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::support::app::{Site, TestApp, both_engines, id};
use crate::support::ask::{Reply, raw};

both_engines! {
    every_answer_names_its_request,
    a_wrong_method_tells_the_right_ones,
    what_is_not_there_is_404,
    bad_queries_are_refused,
    a_body_of_the_wrong_shape_is_refused,
    urls_never_follow_the_host_header,
    urls_start_with_the_public_url,
    head_answers_like_get_without_a_body,
    pipelined_requests_are_answered_in_order,
}

/// A request as bytes; `fields` are whole lines. The node closes after its answer.
fn request(app: &TestApp, line: &str, fields: &[&str], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{line} HTTP/1.1\r\nAuthorization: Bearer {}\r\nConnection: close\r\n", app.key);
    for field in fields {
        head.push_str(field);
        head.push_str("\r\n");
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// The last answer in what a connection gave.
#[track_caller]
fn reply(asked: &str, seen: &str) -> Reply {
    let at = seen.rfind("HTTP/1.1 ").unwrap_or_else(|| panic!("{asked}: no answer in {seen:?}"));
    let (head, body) = seen[at..].split_once("\r\n\r\n").expect("a whole head");
    let (status, fields) = head.split_once("\r\n").expect("fields");
    let field = |line: &str| {
        let (name, value) = line.split_once(": ").expect("name and value");
        (name.parse::<http::HeaderName>().unwrap(), value.parse::<http::HeaderValue>().unwrap())
    };
    Reply {
        asked: asked.to_owned(),
        status: status.split(' ').nth(1).unwrap().parse().unwrap(),
        headers: fields.split("\r\n").map(field).collect(),
        body: body.to_owned().into(),
    }
}

/// Sends one request byte for byte and reads its answer.
async fn say(app: &TestApp, line: &str, fields: &[&str], body: &[u8]) -> Reply {
    let seen = raw(app.addr, &request(app, line, fields, body), "\0never").await;
    reply(line, &seen)
}

const HOST: &str = "Host: ringback";
const JSON: &str = "Content-Type: application/json";

/// POSTs a body with its length.
async fn post(app: &TestApp, path: &str, body: &[u8]) -> Reply {
    let length = format!("Content-Length: {}", body.len());
    say(app, &format!("POST {path}"), &[HOST, JSON, &length], body).await
}

async fn every_answer_names_its_request(site: &Site) {
    let app = site.start().await;
    let job = app.submit_id(json!({"type": "t"})).await;
    let path = format!("/v1/jobs/{job}");
    let tag = app.get(&path).await.header("etag").to_owned();

    let replies = [
        (200, app.get("/livez").await),
        (200, app.ask("HEAD", &path).await),
        (202, app.post("/v1/jobs", &json!({"type": "t"})).await),
        (204, app.ask("OPTIONS", &path).await),
        (304, app.get(&path).header("if-none-match", &tag).await),
        (400, app.get("/v1/jobs?limit=x").await),
        (401, app.get(&path).nobody().await),
        (404, app.get("/nothing").await),
        (405, app.ask("PUT", "/v1/jobs").await),
        (409, app.get(&format!("{path}/result")).await),
        (415, app.ask("POST", "/v1/jobs").text("text/plain", "x").await),
        (422, app.post("/v1/jobs", &json!({})).await),
        (431, app.get("/livez").header("x-much", &"x".repeat(40_000)).await),
    ];

    let mut ids = HashSet::new();
    for (status, reply) in &replies {
        assert_eq!(reply.status, *status, "{reply:?}");
        let hex = reply.header("request-id").strip_prefix("req_").unwrap_or_else(|| panic!("{reply:?}"));
        assert!(hex.len() == 24 && hex.bytes().all(|b| b.is_ascii_hexdigit()), "{hex}");
        assert!(ids.insert(hex), "{hex} came twice");
        if reply.status >= 400 {
            assert_eq!(reply.json()["requestId"], reply.header("request-id"));
        }
    }
}

async fn a_wrong_method_tells_the_right_ones(site: &Site) {
    let app = site.start().await;
    let job = "job_01H455VB4PEX5VSKNK084SN02Q";
    for (method, path, right) in [
        ("PUT", "/v1/jobs".to_owned(), "GET HEAD POST"),
        ("PATCH", "/api/jobs".to_owned(), "GET HEAD POST"),
        ("BREW", format!("/v1/jobs/{job}"), "DELETE GET HEAD OPTIONS"),
        ("GET", format!("/v1/jobs/{job}/cancel"), "POST"),
        ("POST", format!("/v1/jobs/{job}/result"), "GET HEAD OPTIONS"),
        ("GET", "/v1/queues/default/claim".to_owned(), "POST"),
        ("POST", "/v1/dead-letters/dlv_x".to_owned(), "DELETE GET HEAD"),
        ("DELETE", "/livez".to_owned(), "GET HEAD"),
    ] {
        let reply = app.ask(method, &path).await;
        reply.refused(405, "method-not-allowed", "");
        let mut told: Vec<&str> = reply.header("allow").split(',').map(str::trim).collect();
        told.sort_unstable();
        assert_eq!(told.join(" "), right, "{path}");
    }
}

async fn what_is_not_there_is_404(site: &Site) {
    let app = site.start().await;
    for path in ["/", "/v1", "/v1/", "/v1/jobs/", "/v2/jobs", "/V1/jobs", "/v1//jobs", "/index.html", "/api"]
    {
        app.get(path).await.refused(404, "not-found", "");
        app.get(path).nobody().await.refused(404, "not-found", "");
    }
    say(&app, "GET /v1/../etc/passwd", &[HOST], b"").await.refused(404, "not-found", "");
    say(&app, "OPTIONS *", &[HOST], b"").await.refused(404, "not-found", "");
    // An id of the wrong shape looks like one that does not exist, byte for byte.
    let bare = |reply: Reply| {
        let mut problem = reply.refused(404, "job-not-found", "");
        problem["requestId"] = Value::Null;
        problem
    };
    let missing = bare(app.get("/v1/jobs/job_01H455VB4PEX5VSKNK084SN02Q").await);
    for shape in ["job_", "x", "dlv_01H455VB4PEX5VSKNK084SN02Q", "job_01h455vb4pex5vsknk084sn02u", "%2e%2e"] {
        assert_eq!(bare(app.get(&format!("/v1/jobs/{shape}")).await), missing, "{shape}");
    }
}

async fn bad_queries_are_refused(site: &Site) {
    let app = site.start().await;
    for (line, pointer) in [
        ("GET /v1/jobs?limit=0", "?limit"),
        ("GET /v1/jobs?limit=-1", "?limit"),
        ("GET /v1/jobs?limit=9999999999999999999999", "?limit"),
        ("GET /v1/jobs?cursor=%00", "?cursor"),
        ("GET /v1/deliveries?cursor=bm8", "?cursor"),
        ("GET /v1/dead-letters?cursor=x&limit=1", "?cursor"),
        ("GET /v1/jobs?nonsense", "?nonsense"),
        ("GET /v1/jobs/job_01H455VB4PEX5VSKNK084SN02Q?redirekt=1", "?redirekt"),
        ("GET /v1/keys?limit=201", "?limit"),
    ] {
        say(&app, line, &[HOST], b"").await.refused(400, "invalid-request", pointer);
    }
    // A cursor of one list is no cursor of another.
    app.submit_id(json!({"type": "t"})).await;
    app.submit_id(json!({"type": "t"})).await;
    let page = app.get("/v1/jobs?limit=1").await.ok(200);
    let cursor = page["nextCursor"].as_str().unwrap();
    assert_eq!(app.get(&format!("/v1/jobs?cursor={cursor}")).await.ok(200)["nextCursor"], Value::Null);
    let elsewhere = app.get(&format!("/v1/deliveries?cursor={cursor}")).await;
    elsewhere.refused(400, "invalid-request", "?cursor");
}

async fn a_body_of_the_wrong_shape_is_refused(site: &Site) {
    let app = site.start().await;
    let deep = format!("{{\"type\":\"t\",\"input\":{}{}}}", "[".repeat(64), "]".repeat(64));
    let bodies: [(&[u8], u16, &str, &str); 11] = [
        (b"", 400, "invalid-request", ""),
        (b"{\"type\":", 400, "invalid-request", ""),
        (b"{\"type\":\"t\",}", 400, "invalid-request", ""),
        (b"{\"type\":\"t\",\"ref\":\"a\",\"ref\":\"b\"}", 400, "invalid-request", ""),
        (b"{\"type\":\"t\",\"input\":{\"a\":1,\"a\":2}}", 400, "invalid-request", ""),
        (b"{\"type\":\"\xff\"}", 400, "invalid-request", ""),
        (deep.as_bytes(), 400, "invalid-request", ""),
        (b"{\"type\":\"t\",\"typ\":1}", 422, "validation-failed", "/typ"),
        (b"{\"type\":\"t\",\"maxAttempts\":\"3\"}", 422, "validation-failed", "/maxAttempts"),
        (b"{\"type\":\"t\",\"callback\":{\"url\":7}}", 422, "validation-failed", "/callback/url"),
        (b"\"t\"", 422, "validation-failed", ""),
    ];
    for (body, status, code, pointer) in bodies {
        post(&app, "/v1/jobs", body).await.refused(status, code, pointer);
    }
    for kind in ["", "text/json", "application/json; charset=utf-16", "multipart/form-data; boundary=x"] {
        let field = format!("Content-Type: {kind}");
        let fields = [HOST, "Content-Length: 12", field.as_str()];
        let fields = if kind.is_empty() { &fields[..2] } else { &fields[..] };
        let reply = say(&app, "POST /v1/jobs", fields, b"{\"type\":\"t\"}").await;
        reply.refused(415, "unsupported-media-type", "");
    }
    app.holds_no_job().await;
    post(&app, "/v1/jobs", b"{\"type\":\"t\"}").await.ok(202);
}

async fn urls_never_follow_the_host_header(site: &Site) {
    let app = site.start().await;
    let length = "Content-Length: 12";
    let evil = ["Host: evil.example", "X-Forwarded-Host: evil.example", "Forwarded: host=evil.example", JSON];
    for target in ["/v1/jobs", "http://evil.example/v1/jobs"] {
        let fields = [&evil[..], &[length]].concat();
        let accepted = say(&app, &format!("POST {target}"), &fields, b"{\"type\":\"t\"}").await.ok(202);
        let job = id(&accepted["jobId"]);
        assert_eq!(accepted["statusUrl"], format!("{}/v1/jobs/{job}", app.url));
        assert_eq!(app.complete(&job).await["status"], "complete");
        let seen = say(&app, &format!("GET /v1/jobs/{job}"), &evil, b"").await.ok(200);
        assert_eq!(seen["resultUrl"], format!("{}/results/{job}.json", app.url));
    }
    let list = say(&app, "GET /v1/jobs?limit=1", &evil, b"").await;
    list.ok(200);
    assert!(list.header("link").starts_with(&format!("<{}/v1/jobs?", app.url)), "{list:?}");
    let document = say(&app, "GET /openapi.json", &evil, b"").await.ok(200);
    assert_eq!(document["servers"], json!([{"url": app.url}]));
}

async fn urls_start_with_the_public_url(site: &Site) {
    let public = |config: &mut ringback::app::Config| {
        config.public_url = Some("https://jobs.example.com/ringback/".to_owned());
    };
    let app = site.start_with(ringback::clock::Clock::system(), public).await;

    let reply = app.post("/v1/jobs", &json!({"type": "t"})).await;

    let job = id(&reply.ok(202)["jobId"]);
    let base = "https://jobs.example.com/ringback";
    assert_eq!(reply.json()["statusUrl"], format!("{base}/v1/jobs/{job}"));
    assert_eq!(app.complete(&job).await["resultUrl"], format!("{base}/results/{job}.json"));
    app.submit_id(json!({"type": "t"})).await;
    let list = app.get("/v1/jobs?limit=1").await;
    list.ok(200);
    assert!(list.header("link").starts_with(&format!("<{base}/v1/jobs?")), "{list:?}");
    let servers = app.get("/openapi.json").await.ok(200)["servers"].clone();
    assert_eq!(servers, json!([{"url": base}]));
}

async fn head_answers_like_get_without_a_body(site: &Site) {
    let app = site.start().await;
    let job = app.completed(json!({"type": "t"})).await;
    for path in ["/livez", "/openapi.json", &format!("/v1/jobs/{job}"), &format!("/v1/jobs/{job}/result")] {
        let (get, head) = (app.get(path).await, app.ask("HEAD", path).await);
        assert_eq!((get.status, head.status), (200, 200), "{path}");
        assert!(!get.body.is_empty() && head.body.is_empty(), "{path}");
        for name in ["content-type", "content-length", "etag", "cache-control", "repr-digest"] {
            assert_eq!(head.header(name), get.header(name), "{path}: {name}");
        }
        assert_eq!(head.header("content-length"), get.body.len().to_string(), "{path}");
    }
    let missing = app.ask("HEAD", "/v1/jobs/job_x").await;
    assert_eq!((missing.status, missing.body.len()), (404, 0));
    assert_eq!(missing.header("content-type"), "application/problem+json");
}

async fn pipelined_requests_are_answered_in_order(site: &Site) {
    let app = site.start().await;
    let keep = |line: &str, body: &[u8]| {
        let length = format!("Content-Length: {}", body.len());
        let bytes = request(&app, line, &[HOST, JSON, &length], b"");
        [String::from_utf8(bytes).unwrap().replace("Connection: close\r\n", "").as_bytes(), body].concat()
    };
    let three = [
        keep("POST /v1/jobs", b"{\"type\":\"first\"}"),
        keep("POST /v1/jobs", b"{\"type\":"),
        keep("GET /nothing", b""),
        request(&app, "GET /v1/jobs?type=first", &[HOST], b""),
    ];

    let seen = raw(app.addr, &three.concat(), "\0never").await;

    let statuses: Vec<&str> = seen.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["202", "400", "404", "200"], "{seen}");
    let list = reply("the last", &seen).ok(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "the one before had committed");
}
