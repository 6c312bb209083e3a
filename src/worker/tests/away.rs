//! A service that is away, or what answers in its place, and outcomes that it would not take.

use super::*;
use crate::types::api::RESULT_MAX;

fn page() -> Value {
    json!("<html>")
}

#[tokio::test]
async fn a_gateway_that_answers_in_its_place_costs_neither_the_worker_nor_the_result() {
    let fake = Fake::with_job();
    fake.claims.lock().unwrap().push_front((429, page()));
    fake.answer("complete", 524, page());
    fake.answer("complete", 404, page());
    let handler = async |_: Task| Ok(Reply::text("done"));
    with_worker(&fake, handler, fake.hears("complete", 3)).await;
    assert!(fake.told("fail").is_empty());
}

#[tokio::test]
async fn a_stop_ends_soon_after_its_grace_although_nobody_takes_the_outcome() {
    let fake = Fake::with_job();
    (0..1_000).for_each(|_| fake.answer("complete", 503, page()));
    let handler = async |_: Task| Ok(Reply::text("done"));
    // The grace is 0.3 s, and what waits for the worker's end gives up after 15 s.
    with_worker(&fake, handler, fake.hears("complete", 1)).await;
}

#[tokio::test]
async fn an_outcome_that_waits_for_its_next_try_is_told_once_more_before_the_worker_ends() {
    let fake = Fake::with_job();
    (0..3).for_each(|_| fake.answer("complete", 503, page()));
    let handler = async |_: Task| Ok(Reply::text("done"));
    let began = std::cell::Cell::new(None);
    let script = async {
        fake.hears("complete", 3).await;
        began.set(Some(tokio::time::Instant::now()));
    };
    with_worker(&fake, handler, script).await;
    // The grace is 0.3 s, and without the stop the next try would come after 1 s at the least.
    let took = began.get().unwrap().elapsed();
    assert!(fake.told("complete").len() == 4 && took < Duration::from_secs(1), "{took:?}");
}

/// What is told in place of a result that is not sent at all.
async fn told_instead_of(reply: Reply) -> Value {
    let fake = Fake::with_job();
    let handler = move |_: Task| std::future::ready(Ok(reply.clone()));
    with_worker(&fake, handler, fake.hears("fail", 1)).await;
    assert!(fake.told("complete").is_empty());
    fake.told("fail").remove(0)
}

#[tokio::test]
async fn a_result_that_cannot_be_sent_fails_the_job_for_good() {
    let long = "x".repeat(RESULT_MAX - 1);
    for (reply, code) in [
        (Reply::bytes("text/plain\nx: y", "x"), "invalid-request"),
        (Reply::text(format!("{long}xx")), "result-too-large"),
        (Reply::json(&long).unwrap(), "result-too-large"),
    ] {
        let told = told_instead_of(reply).await;
        assert_eq!((&told["errorCode"], &told["retryable"]), (&json!(code), &json!(false)), "{told}");
    }
}

#[tokio::test]
async fn a_result_that_a_gateway_refuses_fails_the_job_for_good() {
    let fake = Fake::with_job();
    fake.answer("complete", 413, page());
    let handler = async |_: Task| Ok(Reply::text("done"));
    with_worker(&fake, handler, fake.hears("fail", 1)).await;
    let told = &fake.told("fail")[0];
    assert_eq!((&told["errorCode"], &told["retryable"]), (&json!("result-refused"), &json!(false)), "{told}");
}
