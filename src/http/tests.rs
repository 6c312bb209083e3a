//! The router where it needs no store: refusals, shapes, limits, the document.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::*;
use crate::clock::Clock;
use crate::dice::Dice;
use crate::metrics::Metrics;
use crate::store::{KeyRecord, Store};
use crate::types::api::Urls;
use crate::types::key::{ApiKey, Scope, Scopes};
use crate::types::target::UrlPolicy;
use crate::types::{Id, Millis};
use crate::wake::Wake;

const KEY: &str = "rbk_0123456789abcdefghijklmnopqrstuv";
const JOB: &str = "job_01H455VB4PEX5VSKNK084SN02Q";

/// The app over a store that answers nothing, with [`KEY`] known to it.
fn app(options: Options, scopes: Scopes) -> App {
    let app = App::new(Parts {
        store: Store::hollow(Urls::new("https://api.example.com")),
        clock: Clock::manual(Millis(1_767_225_600_000)),
        dice: Dice::seeded(7),
        wake: Wake::default(),
        metrics: Metrics::new(),
        policy: UrlPolicy::default(),
        courier: std::sync::Arc::new(|_| unreachable!("nothing is sent")),
        options,
        draining: CancellationToken::new(),
    });
    let key: ApiKey = KEY.parse().unwrap();
    let record = KeyRecord {
        id: Id::mint(Millis(0), [1; 10]),
        tenant: Id::mint(Millis(0), [2; 10]),
        name: None,
        prefix: key.prefix().to_owned(),
        hash: key.hash(),
        scopes,
        queues: None,
        accounts: None,
        created_at: Millis(0),
        expires_at: None,
    };
    app.keys.put(key.hash(), Some(Arc::new(record)), app.real.now());
    app
}

fn plain() -> Router {
    router(app(Options::default(), Scopes::every())).unwrap()
}

fn ask(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path)
}

fn with_key(method: &str, path: &str) -> http::request::Builder {
    ask(method, path).header(header::AUTHORIZATION, format!("Bearer {KEY}"))
}

fn json(body: &str) -> Request<Body> {
    with_key("POST", "/v1/jobs")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_owned()))
        .unwrap()
}

async fn answer(router: Router, request: Request<Body>) -> Response {
    router.oneshot(request).await.unwrap()
}

/// Status, code and first pointer, after a look at what every problem has.
async fn problem(router: Router, request: Request<Body>) -> (u16, String, String) {
    let response = answer(router, request).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let doc: Value = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{head:?}"));
    let text = |member: &str| doc[member].as_str().unwrap_or_default().to_owned();
    assert_eq!(head.headers[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(head.headers["request-id"].to_str().unwrap(), text("requestId"));
    assert_eq!(head.headers.get(header::CONTENT_LENGTH).unwrap(), &body.len().to_string());
    assert_eq!(doc["status"], head.status.as_u16());
    assert_eq!(text("type"), format!("/problems/{}", text("code")));
    assert!(!text("title").is_empty());
    let waits = head.headers.contains_key(header::RETRY_AFTER);
    assert_eq!(waits, matches!(head.status.as_u16(), 429 | 503));
    let pointer = doc["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned();
    (head.status.as_u16(), text("code"), pointer)
}

async fn code_of(request: Request<Body>) -> String {
    let (status, code, pointer) = problem(plain(), request).await;
    format!("{status} {code} {pointer}").trim_end().to_owned()
}

fn empty(request: http::request::Builder) -> Request<Body> {
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn what_no_route_takes_is_a_problem_too() {
    assert_eq!(code_of(empty(ask("GET", "/nowhere"))).await, "404 not-found");
    assert_eq!(code_of(empty(ask("GET", "/v1/jobs/"))).await, "404 not-found");
    assert_eq!(code_of(empty(ask("PUT", "/v1/jobs"))).await, "405 method-not-allowed");
    assert_eq!(code_of(empty(ask("GET", "/v1/jobs/batch/x"))).await, "404 not-found");
    let response = answer(plain(), empty(ask("PATCH", "/v1/jobs"))).await;
    let allow = response.headers()[header::ALLOW].to_str().unwrap();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
}

#[tokio::test]
async fn a_head_is_answered_like_a_get_without_the_body() {
    let response = answer(plain(), empty(ask("HEAD", "/livez"))).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.headers().contains_key("request-id"));
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn who_shows_nothing_is_refused_on_every_closed_route() {
    let app = app(Options::default(), Scopes::every());
    let document = described().split_for_parts().1;
    let doc = openapi::describe(&document, &[], app.store.urls());
    let doc: Value = serde_json::from_slice(&doc.json).unwrap();
    let mut closed = 0;
    for (path, item) in doc["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation.get("security").is_none() {
                continue;
            }
            closed += 1;
            let path = path.replace("{jobId}", JOB).replace("{file}", JOB).replace("{queue}", "q");
            let id = JOB.strip_prefix("job_").unwrap();
            let path = path.replace("{deliveryId}", &format!("dlv_{id}"));
            let path = path.replace("{keyId}", &format!("key_{id}")).replace("{type}", "a");
            let path = path.replace("{redriveId}", &format!("rdr_{id}"));
            let request = empty(ask(&method.to_uppercase(), &path));
            assert_eq!(code_of(request).await, "401 unauthorized", "{method} {path}");
        }
    }
    assert!(closed > 30, "{closed}");
}

#[tokio::test]
async fn a_key_without_the_scope_is_told_so() {
    let router = router(app(Options::default(), [Scope::JobsRead].into_iter().collect())).unwrap();
    let request = json(r#"{"type":"a"}"#);
    assert_eq!(problem(router, request).await.1, "forbidden");
}

#[tokio::test]
async fn malformed_keys_are_refused_alike() {
    for value in ["Bearer x", "Basic abc", "Bearer", "Bearer rbk_short", "Bearer rbj_nonsense"] {
        let request = ask("GET", "/v1/jobs").header(header::AUTHORIZATION, value);
        assert_eq!(code_of(empty(request)).await, "401 unauthorized", "{value}");
    }
}

#[tokio::test]
async fn a_body_is_judged_before_the_store_is_asked() {
    for (body, want) in [
        ("", "400 invalid-request"),
        ("{", "400 invalid-request"),
        (r#"{"type":"a","type":"b"}"#, "400 invalid-request"),
        ("[]", "422 validation-failed"),
        (r#"{"typ":"a"}"#, "422 validation-failed /typ"),
        (r#"{"type":"a","priority":"x"}"#, "422 validation-failed /priority"),
    ] {
        assert_eq!(code_of(json(body)).await, want, "{body}");
    }
    let untyped = with_key("POST", "/v1/jobs").body(Body::from("{}")).unwrap();
    assert_eq!(code_of(untyped).await, "415 unsupported-media-type");
    let large = json(&format!(r#"{{"type":"{}"}}"#, "x".repeat(300 * 1024)));
    assert_eq!(code_of(large).await, "413 payload-too-large");
    let announced = with_key("POST", "/v1/jobs")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, "999999999");
    assert_eq!(code_of(empty(announced)).await, "413 payload-too-large");
    let keyed = with_key("POST", "/v1/jobs").header("idempotency-key", "a b");
    assert_eq!(code_of(empty(keyed)).await, "400 idempotency-key-invalid Idempotency-Key");
}

#[tokio::test]
async fn a_body_that_drips_has_a_deadline() {
    let options = Options { body_deadline: Duration::from_millis(20), ..Options::default() };
    let router = router(app(options, Scopes::every())).unwrap();
    let never = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    let request = with_key("POST", "/v1/jobs").header(header::CONTENT_TYPE, "application/json");
    let (status, code, _) = problem(router, request.body(Body::from_stream(never)).unwrap()).await;
    assert_eq!((status, code.as_str()), (408, "request-timeout"));
}

#[tokio::test]
async fn queries_and_ids_are_judged_before_the_store_is_asked() {
    for (path, want) in [
        ("/v1/jobs?foo=1", "400 invalid-request ?foo"),
        ("/v1/jobs?limit=0", "400 invalid-request ?limit"),
        ("/v1/jobs?state=busy", "400 invalid-request ?state"),
        ("/v1/jobs?createdAfter=yesterday", "400 invalid-request ?createdAfter"),
        ("/v1/jobs?cursor=AAAA", "400 invalid-request ?cursor"),
        ("/v1/jobs/nope", "404 job-not-found"),
        ("/v1/jobs/job_%00", "404 job-not-found"),
        ("/v1/jobs/job_%ff", "404 job-not-found"),
        ("/v1/deliveries/nope", "404 not-found"),
        ("/results/nope.pdf", "404 job-not-found"),
        ("/v1/dead-letters/dlv_x", "404 not-found"),
    ] {
        assert_eq!(code_of(empty(with_key("GET", path))).await, want, "{path}");
    }
}

#[tokio::test]
async fn a_large_head_is_refused() {
    let many = (0..65).fold(ask("GET", "/livez"), |r, n| r.header(format!("x-{n}"), "1"));
    assert_eq!(code_of(empty(many)).await, "431 header-too-large");
    let long = ask("GET", "/livez").header("x", "y".repeat(33 * 1024));
    assert_eq!(code_of(empty(long)).await, "431 header-too-large");
}

#[tokio::test]
async fn a_large_head_is_a_problem_over_a_real_connection_too() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (metrics, shutdown) = (Metrics::new(), CancellationToken::new());
    let served = serve(listener, plain(), metrics, server::ServerOptions::default(), shutdown.clone());
    let served = tokio::spawn(served);
    let many: String = (0..65).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(40 * 1024));
    let path = format!("x: 1\r\ny: {}\r\n", "z".repeat(33 * 1024));
    for fields in [many, long, path] {
        let mut client = tokio::net::TcpStream::connect(addr).await.unwrap();
        let request = format!("GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut seen = String::new();
        let read = client.read_to_string(&mut seen);
        tokio::time::timeout(Duration::from_secs(10), read).await.unwrap().unwrap();
        assert!(seen.starts_with("HTTP/1.1 431 ") && seen.contains("\"header-too-large\""), "{seen}");
    }
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_full_house_turns_away_but_still_says_that_it_lives() {
    let router = router(app(Options { concurrency: 0, ..Options::default() }, Scopes::every())).unwrap();
    let (status, code, _) = problem(router.clone(), empty(ask("GET", "/docs"))).await;
    assert_eq!((status, code.as_str()), (503, "service-overloaded"));
    assert_eq!(answer(router, empty(ask("GET", "/livez"))).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn who_sends_slowly_takes_no_place_of_those_who_do_not() {
    let app = app(Options { concurrency: 1, unread_bytes: 2_048, ..Options::default() }, Scopes::every());
    let router = router(app.clone()).unwrap();
    let slowly = async |beginning: &str| {
        let (pieces, mut body) = tokio::sync::mpsc::channel(1);
        pieces.send(beginning.to_owned()).await.unwrap();
        let body = futures_util::stream::poll_fn(move |cx| {
            body.poll_recv(cx).map(|piece| piece.map(Ok::<_, Infallible>))
        });
        let report = ask("POST", &format!("/v1/jobs/{JOB}/heartbeat"))
            .header(header::CONTENT_TYPE, "application/json");
        let asked = tokio::spawn(problem(router.clone(), report.body(Body::from_stream(body)).unwrap()));
        // It has read that, and waits for more.
        drop(pieces.reserve().await);
        (pieces, asked)
    };
    let (rest, one) = slowly("{").await;
    assert_eq!(answer(router.clone(), empty(ask("GET", "/docs"))).await.status(), StatusCode::OK);
    rest.send("}".to_owned()).await.unwrap();
    drop(rest);
    assert_eq!(one.await.unwrap().0, 401, "read to its end");

    let (_rest, large) = slowly(&" ".repeat(2_049)).await;
    assert_eq!(large.await.unwrap().1, "service-overloaded", "more than is kept of such");
    let (rest, late) = slowly("{").await;
    let place = app.slots.clone().try_acquire_owned().unwrap();
    drop(rest);
    assert_eq!(late.await.unwrap().1, "service-overloaded", "it is at work from here on");
    drop(place);
    assert_eq!((app.slots.available_permits(), app.unread.available_permits()), (1, 2));
}

#[tokio::test]
async fn a_panic_is_a_problem_without_detail() {
    let broken = Router::new().route("/broken", get(|| async { panic!("canary") as StatusCode }));
    let router = surrounded(broken, app(Options::default(), Scopes::every()));
    let response = answer(router.clone(), empty(ask("GET", "/broken"))).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(!String::from_utf8_lossy(&body).contains("canary"), "{body:?}");
    let (status, code, _) = problem(router, empty(ask("GET", "/broken"))).await;
    assert_eq!((status, code.as_str()), (500, "internal"));
}

#[tokio::test]
async fn what_a_job_token_reads_is_open_to_browsers() {
    let response = answer(plain(), empty(ask("OPTIONS", &format!("/v1/jobs/{JOB}")))).await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    for path in [format!("/v1/jobs/{JOB}/events"), format!("/results/{JOB}.pdf"), format!("/api/jobs/{JOB}")]
    {
        let response = answer(plain(), empty(ask("GET", &path))).await;
        assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*", "{path}");
    }
    let response = answer(plain(), empty(ask("GET", "/v1/jobs"))).await;
    assert!(!response.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
}

#[tokio::test]
async fn a_report_without_key_or_token_is_refused_and_with_a_token_explained() {
    let report = |body: &str| {
        ask("POST", &format!("/v1/jobs/{JOB}/heartbeat"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_owned()))
            .unwrap()
    };
    let token = crate::types::key::LeaseToken { fence: 1, random: [1; 16] };
    assert_eq!(code_of(report("{}")).await, "401 unauthorized");
    assert_eq!(code_of(report(r#"{"leaseToken":"x"}"#)).await, "401 unauthorized");
    let body = format!(r#"{{"leaseToken":"{token}","progress":101}}"#);
    assert_eq!(code_of(report(&body)).await, "422 validation-failed /progress");
    let body = format!(r#"{{"leaseToken":"{token}","progres":1}}"#);
    assert_eq!(code_of(report(&body)).await, "422 validation-failed /progres");
}

fn route(path: &str, status_path: &str) -> Route {
    Route {
        path: path.to_owned(),
        kind: "report.generate".to_owned(),
        queue: None,
        status_path: Some(status_path.to_owned()),
    }
}

#[test]
fn a_configured_route_must_not_stand_in_the_way() {
    let status = "/api/reports/status/{jobId}";
    let try_one = |path: &str, status: &str| {
        let options = Options { routes: vec![route(path, status)], ..Options::default() };
        router(app(options, Scopes::every())).map(drop).map_err(|e| e.rule)
    };
    assert_eq!(try_one("/api/reports/generate", status), Ok(()));
    assert_eq!(try_one("/api/reports/generate", submit::STATUS_PATH), Ok(()));
    assert_eq!(try_one("/api/reports/generate", "/api/jobs/{jobId}"), Ok(()));
    for (path, status) in [
        ("/v1/jobs", status),
        ("/v1/other", status),
        ("/api/jobs", status),
        ("/livez", status),
        ("reports", status),
        ("/a/{b}", status),
        ("/a", "/status"),
        ("/a", "/results/{jobId}"),
        ("/a", "/status/{jobId}.json"),
    ] {
        assert!(try_one(path, status).is_err(), "{path} {status}");
    }
    for path in described().split_for_parts().1.paths.paths.keys() {
        assert!(routes::reserved(path), "{path} could be taken");
    }
}

#[tokio::test]
async fn a_node_without_the_role_serves_no_api() {
    let router = node_router(app(Options::default(), Scopes::every()));
    for path in ["/livez", "/healthz", "/metrics", "/openapi.json", "/docs"] {
        assert_eq!(answer(router.clone(), empty(with_key("GET", path))).await.status(), 200, "{path}");
    }
    assert_eq!(problem(router.clone(), empty(ask("GET", "/readyz"))).await.1, "storage-unavailable");
    let stopping = app(Options::default(), Scopes::every());
    stopping.draining.cancel();
    let refused = problem(node_router(stopping), empty(ask("GET", "/readyz"))).await;
    assert_eq!((refused.0, refused.1.as_str()), (503, "service-overloaded"));
    for path in ["/v1/jobs", "/api/jobs", &format!("/results/{JOB}")] {
        assert_eq!(problem(router.clone(), empty(with_key("GET", path))).await.1, "not-found", "{path}");
    }
}

#[tokio::test]
async fn a_burst_of_polls_is_turned_away_before_the_store_is_asked() {
    let options = Options { polls_per_second: Some(1), ..Options::default() };
    let app = app(options, Scopes::every());
    let token = app.store.access_token(Id::mint(Millis(0), [2; 10]), JOB.parse().unwrap());
    let router = router(app).unwrap();
    for path in ["", "/result", "/events"].map(|end| format!("/v1/jobs/{JOB}{end}")) {
        for reader in [KEY, &token] {
            let mut codes = Vec::new();
            for _ in 0..4 {
                let asked = ask("GET", &path).header(header::AUTHORIZATION, format!("Bearer {reader}"));
                codes.push(problem(router.clone(), empty(asked)).await.1);
            }
            // The store is silent: whoever reaches it hears that.
            let silent = codes.iter().filter(|code| *code == "storage-unavailable").count();
            let turned_away = codes.iter().filter(|code| *code == "rate-limited").count();
            assert_eq!(silent + turned_away, 4, "{path}: {codes:?}");
            assert!(turned_away >= 2, "{path}: {codes:?}");
        }
    }
}
