mod away;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::*;

const ID: &str = "job_01H455VB4PEX5VSKNK084SN02Q";
const AT: &str = "2026-01-01T00:00:00.000Z";
/// The status of a report that was swallowed on its way.
const NEVER: u16 = 0;

/// A service that hands out one job and writes down what it is told.
#[derive(Default)]
struct Fake {
    /// Answers to claims, before those that find nothing.
    claims: Mutex<VecDeque<(u16, Value)>>,
    /// Answers to reports by verb, before those that say yes; [`NEVER`] is none at all.
    answers: Mutex<VecDeque<(&'static str, u16, Value)>>,
    told: Mutex<Vec<(String, Value)>>,
}

impl Fake {
    fn with_job() -> Arc<Fake> {
        let job = json!({"jobId": ID, "type": "t", "input": null, "attempt": 1, "metadata": {},
            "leaseToken": format!("rbl_{}", "A".repeat(32)), "leaseExpiresAt": AT});
        let fake = Fake::default();
        fake.claims.lock().unwrap().push_back((200, json!({"jobs": [job]})));
        Arc::new(fake)
    }

    fn answer(&self, verb: &'static str, status: u16, body: Value) {
        self.answers.lock().unwrap().push_back((verb, status, body));
    }

    fn next(&self, verb: &str) -> Option<(&'static str, u16, Value)> {
        let mut answers = self.answers.lock().unwrap();
        let place = answers.iter().position(|(at, ..)| *at == verb)?;
        answers.remove(place)
    }

    fn told(&self, verb: &str) -> Vec<Value> {
        let told = self.told.lock().unwrap();
        told.iter().filter(|(at, _)| at == verb).map(|(_, body)| body.clone()).collect()
    }

    /// Waits until `verb` was told `count` times.
    async fn hears(&self, verb: &str, count: usize) {
        for _ in 0..1_000 {
            if self.told(verb).len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{verb} was not told {count} times: {:?}", self.told.lock().unwrap());
    }

    async fn client(self: &Arc<Self>) -> Client {
        let router = Router::new()
            .route("/v1/queues/{queue}/claim", post(claim))
            .route("/v1/jobs/{id}/{verb}", post(report))
            .with_state(Arc::clone(self));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Client::new(&base, None).unwrap()
    }
}

async fn claim(State(fake): State<Arc<Fake>>, body: String) -> Response {
    let body = serde_json::from_str(&body).unwrap();
    fake.told.lock().unwrap().push(("claim".to_owned(), body));
    let next = fake.claims.lock().unwrap().pop_front();
    let (status, body) = match next {
        Some(next) => next,
        None => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            (200, json!({"jobs": []}))
        }
    };
    (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response()
}

async fn report(
    State(fake): State<Arc<Fake>>,
    Path((_, verb)): Path<(String, String)>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let mut body = serde_json::from_str(&body).unwrap_or(Value::String(body));
    if let Some(token) = headers.get("lease-token") {
        body = json!({"leaseToken": token.to_str().unwrap(), "bytes": body});
    }
    fake.told.lock().unwrap().push((verb.clone(), body));
    let yes = || match verb.as_str() {
        "heartbeat" => ("", 200, json!({"leaseExpiresAt": AT, "cancelRequested": false})),
        _ => ("", 200, ended()),
    };
    let (_, status, body) = fake.next(&verb).unwrap_or_else(yes);
    if status == NEVER {
        std::future::pending::<()>().await;
    }
    (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response()
}

fn ended() -> Value {
    json!({"jobId": ID, "status": "complete", "createdAt": AT, "state": "complete", "type": "t", "queue": "q",
        "priority": 0, "worker": "pull", "attempt": 1, "maxAttempts": 3, "sequence": 3, "metadata": {}})
}

fn problem(code: &str, status: u16) -> Value {
    json!({"type": format!("/problems/{code}"), "title": "no", "status": status, "code": code})
}

fn options() -> Options {
    Options { lease: Duration::from_secs(1), grace: Duration::from_millis(300), ..Options::new("q") }
}

/// Runs a worker over `fake` while `script` plays.
async fn with_worker<F>(
    fake: &Arc<Fake>,
    handler: impl Fn(Task) -> F + Send + Sync + 'static,
    script: impl Future<Output = ()>,
) where
    F: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn(run(fake.client().await, options(), handler, shutdown.clone()));
    script.await;
    shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(15), worker).await;
    ended.expect("the worker must stop in bounded time").unwrap().unwrap();
}

fn failed(error: &str) -> Failure {
    Failure::new(error)
}

#[tokio::test]
async fn a_job_is_done_with_heartbeats_beside_it() {
    let fake = Fake::with_job();
    // A service that is away for a moment costs a pause, not the worker.
    fake.claims.lock().unwrap().push_front((503, problem("service-overloaded", 503)));
    fake.answer("complete", 503, problem("storage-unavailable", 503));
    let work = async |task: Task| {
        task.progress.report(40, Some("half"));
        tokio::time::sleep(Duration::from_millis(700)).await;
        Ok(Reply::Json(api::raw("{\"a\": 1}".to_owned())))
    };
    with_worker(&fake, work, fake.hears("complete", 2)).await;
    let beats = fake.told("heartbeat");
    assert_eq!((&beats[0]["progress"], &beats[0]["message"]), (&json!(40), &json!("half")));
    assert_eq!(fake.told("complete")[1]["result"], json!({"a": 1}));
}

#[tokio::test]
async fn a_lost_lease_stops_the_handler_and_its_outcome_is_dropped() {
    let fake = Fake::with_job();
    fake.answer("heartbeat", 409, problem("lease-lost", 409));
    let stopped = CancellationToken::new();
    let seen = stopped.clone();
    let handler = move |task: Task| {
        let seen = seen.clone();
        async move {
            task.stop.cancelled().await;
            seen.cancel();
            Ok(Reply::Json(api::null()))
        }
    };
    with_worker(&fake, handler, stopped.cancelled()).await;
    assert!(fake.told("complete").is_empty() && fake.told("fail").is_empty());
}

#[tokio::test]
async fn a_heartbeat_that_is_swallowed_is_followed_by_another() {
    let fake = Fake::with_job();
    fake.answer("heartbeat", NEVER, Value::Null);
    let handler = async |task: Task| {
        task.stop.cancelled().await;
        Err(failed("stopped"))
    };
    with_worker(&fake, handler, fake.hears("heartbeat", 2)).await;
}

#[tokio::test]
async fn the_lease_is_kept_until_the_report_is_answered() {
    let fake = Arc::new(Fake::default());
    fake.answer("complete", NEVER, Value::Null);
    let token = format!("rbl_{}", "A".repeat(32)).parse().unwrap();
    let hold = Hold::new(&fake.client().await, ID.parse().unwrap(), token, Duration::from_secs(1));
    let report = AbortOnDropHandle::new(tokio::spawn(hold.report(Ok(Reply::text("done")))));
    fake.hears("complete", 1).await;
    fake.hears("heartbeat", 3).await;
    drop(report);
}

#[tokio::test]
async fn a_cancel_reaches_the_handler_which_still_reports() {
    let fake = Fake::with_job();
    fake.answer("heartbeat", 200, json!({"leaseExpiresAt": AT, "cancelRequested": true}));
    let handler = async |task: Task| {
        task.stop.cancelled().await;
        Err(failed("stopped"))
    };
    with_worker(&fake, handler, fake.hears("fail", 1)).await;
    assert_eq!(fake.told("fail")[0]["error"], "stopped");
}

#[tokio::test]
async fn a_stop_gives_back_what_does_not_end_within_its_grace() {
    let fake = Fake::with_job();
    let handler = async |task: Task| {
        task.stop.cancelled().await;
        Err(failed("no time"))
    };
    with_worker(&fake, handler, fake.hears("heartbeat", 1)).await;
    assert_eq!(fake.told("release").len(), 1);
    assert!(fake.told("fail").is_empty());
}

#[tokio::test]
async fn a_result_that_is_refused_fails_the_job() {
    let fake = Fake::with_job();
    fake.answer("complete", 413, problem("result-too-large", 413));
    let handler =
        async |_: Task| Ok(Reply::Bytes { content_type: "text/plain".to_owned(), bytes: "x".into() });
    with_worker(&fake, handler, fake.hears("fail", 1)).await;
    assert_eq!(fake.told("complete")[0]["bytes"], "x");
    let told = &fake.told("fail")[0];
    assert_eq!((&told["errorCode"], &told["retryable"]), (&json!("result-too-large"), &json!(false)));
}

#[tokio::test]
async fn a_word_that_is_refused_costs_neither_the_lease_nor_the_result() {
    let fake = Fake::with_job();
    fake.answer("heartbeat", 422, problem("validation-failed", 422));
    let work = async |task: Task| {
        task.progress.report(40, Some("half"));
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(Reply::Json(api::null()))
    };
    with_worker(&fake, work, fake.hears("complete", 1)).await;
    let beats = fake.told("heartbeat");
    assert_eq!(beats[0]["message"], "half");
    assert!(beats[1].get("message").is_none(), "it beats on without the word: {beats:?}");
}

#[tokio::test]
async fn a_refused_reason_is_replaced_by_one_that_is_taken() {
    let fake = Fake::with_job();
    fake.answer("fail", 422, problem("validation-failed", 422));
    let handler = async |_: Task| Err(failed("odd"));
    with_worker(&fake, handler, fake.hears("fail", 2)).await;
    let told = fake.told("fail");
    assert_eq!((told.len(), &told[0]["error"]), (2, &json!("odd")));
    assert!(told[1]["error"].as_str().unwrap().contains("refused"), "{told:?}");
    assert_eq!(told[1]["retryable"], json!(true));
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_job_and_nothing_else() {
    let fake = Fake::with_job();
    let handler = async |_: Task| -> Result<Reply, Failure> { panic!("on purpose") };
    with_worker(&fake, handler, fake.hears("fail", 1)).await;
    assert_eq!(fake.told("fail")[0]["errorCode"], "panic");
}

#[tokio::test]
async fn a_refused_claim_ends_the_worker() {
    let fake = Arc::new(Fake::default());
    fake.claims.lock().unwrap().push_back((403, problem("forbidden", 403)));
    let handler = async |_: Task| Err(failed("never"));
    let ended = run(fake.client().await, options(), handler, CancellationToken::new());
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
    assert!(matches!(ended, Err(Error::Problem(problem)) if problem.status == 403));
}

#[tokio::test]
async fn a_refused_claim_hurries_no_job_that_is_held() {
    let fake = Fake::with_job();
    fake.claims.lock().unwrap().push_back((401, problem("unauthorized", 401)));
    let end = CancellationToken::new();
    let ends = end.clone();
    let handler = move |task: Task| {
        let ends = ends.clone();
        async move {
            tokio::select! {
                () = task.stop.cancelled() => Err(failed("hurried")),
                () = ends.cancelled() => Ok(Reply::text("done")),
            }
        }
    };
    // Of a lease that ends before a slow machine has renewed it the handler hears too.
    let options =
        Options { lease: Duration::from_secs(5), grace: Duration::ZERO, concurrency: 2, ..options() };
    let ended = tokio::spawn(run(fake.client().await, options, handler, CancellationToken::new()));
    fake.hears("claim", 2).await;
    // By then it has long been refused.
    fake.hears("heartbeat", 1).await;
    end.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap().unwrap();
    assert!(matches!(ended, Err(Error::Problem(problem)) if problem.status == 401));
    assert_eq!((fake.told("complete").len(), fake.told("release").len()), (1, 0));
}

#[tokio::test]
async fn a_page_of_what_stands_before_the_service_ends_no_worker_that_has_claimed_before() {
    let fake = Fake::with_job();
    let pages = [(200, json!({"jobs": []})), (404, json!("no route")), (200, json!("welcome"))];
    pages.into_iter().rev().for_each(|page| fake.claims.lock().unwrap().push_front(page));
    with_worker(&fake, async |_: Task| Ok(Reply::text("done")), fake.hears("complete", 1)).await;
    assert!(fake.told("claim").len() >= 4);

    let elsewhere = Arc::new(Fake::default());
    elsewhere.claims.lock().unwrap().push_back((404, json!("no route")));
    let ended = run(
        elsewhere.client().await,
        options(),
        async |_: Task| Err(failed("never")),
        CancellationToken::new(),
    );
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
    assert!(matches!(ended, Err(Error::Foreign(_))), "a wrong address is told at once: {ended:?}");
}

#[tokio::test]
async fn many_large_jobs_fit_one_claim_and_what_does_not_is_asked_for_in_less() {
    let fake = Arc::new(Fake::default());
    let job = |n: usize, size: usize| {
        json!({"jobId": ID, "type": "t", "input": "x".repeat(size), "attempt": n, "metadata": {},
            "leaseToken": format!("rbl_{}", "A".repeat(32)), "leaseExpiresAt": AT})
    };
    let too_much = json!({"jobs": [job(1, 33 << 20)]});
    let large: Vec<Value> = (0..40).map(|n| job(n, 256 << 10)).collect();
    fake.claims.lock().unwrap().extend([(200, too_much), (200, json!({"jobs": large}))]);
    let options = Options { concurrency: 100, ..options() };
    let shutdown = CancellationToken::new();
    let handler = async |_: Task| Ok(Reply::Json(api::null()));
    let worker = tokio::spawn(run(fake.client().await, options, handler, shutdown.clone()));
    fake.hears("complete", 40).await;
    shutdown.cancel();
    worker.await.unwrap().unwrap();
    let asked: Vec<Value> = fake.told("claim").iter().take(2).map(|claim| claim["max"].clone()).collect();
    assert_eq!(asked, [100, 50]);
}

#[tokio::test]
async fn each_type_has_its_handler_and_no_other_type_is_claimed() {
    let fake = Fake::with_job();
    let shutdown = CancellationToken::new();
    let worker = Worker::new(fake.client().await, Options { types: vec!["x".to_owned()], ..options() })
        .on("t", async |task: Task| {
            let input: Option<u8> = task.input()?;
            Reply::json(&json!({"input": input}))
        })
        .on("a", async |_| Ok(Reply::text("never")));
    let worker = tokio::spawn(worker.run(shutdown.clone()));
    fake.hears("complete", 1).await;
    shutdown.cancel();
    worker.await.unwrap().unwrap();
    assert_eq!(fake.told("claim")[0]["types"], json!(["a", "t"]));
    assert_eq!(fake.told("complete")[0]["result"], json!({"input": null}));
}

#[tokio::test]
async fn an_input_of_another_shape_fails_the_job_for_good() {
    let fake = Fake::with_job();
    let handler = async |task: Task| task.input::<u8>().map(|_| Reply::text("never"));
    with_worker(&fake, handler, fake.hears("fail", 1)).await;
    let told = &fake.told("fail")[0];
    assert_eq!((&told["errorCode"], &told["retryable"]), (&json!("input-invalid"), &json!(false)));
}

#[tokio::test]
async fn a_worker_without_handlers_claims_nothing() {
    let fake = Fake::with_job();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    Worker::new(fake.client().await, options()).run(shutdown).await.unwrap();
    assert!(fake.told("claim").is_empty());
}

#[tokio::test]
async fn a_job_held_without_a_claim_is_kept_and_reported() {
    let fake = Arc::new(Fake::default());
    fake.answer("fail", 503, problem("storage-unavailable", 503));
    fake.answer("heartbeat", 200, json!({"leaseExpiresAt": AT, "cancelRequested": true}));
    let token = format!("rbl_{}", "A".repeat(32)).parse().unwrap();
    let hold = Hold::new(&fake.client().await, ID.parse().unwrap(), token, Duration::from_secs(1));
    hold.progress().report(140, None);
    tokio::time::timeout(Duration::from_secs(10), hold.stop().cancelled()).await.unwrap();
    assert!(!hold.lost().is_cancelled());
    let job = hold.report(Err(Failure::new("stopped").retry_after(5).with_code("gone"))).await.unwrap();
    assert_eq!(job.job_id.to_string(), ID);
    assert_eq!(fake.told("heartbeat")[0]["progress"], 100);
    let told = fake.told("fail");
    assert_eq!(
        (told.len(), &told[1]["errorCode"], &told[1]["retryAfterSeconds"]),
        (2, &json!("gone"), &json!(5))
    );
}

#[test]
fn pauses_grow_to_half_a_minute_and_differ() {
    let longest = [1, 2, 3, 7, 8, 99].map(|failures| pause(failures, [0]).as_millis());
    assert_eq!(longest, [500, 1_000, 2_000, 30_000, 30_000, 30_000]);
    assert_eq!(pause(1, [255]), Duration::from_millis(250));
}
