//! A service that is away, or what answers in its place.

use super::*;

fn page() -> Value {
    json!("<html>")
}

#[tokio::test]
async fn a_gateway_that_answers_in_its_place_costs_neither_the_worker_nor_the_result() {
    let fake = Fake::with_job();
    fake.claims.lock().unwrap().push_front((429, page()));
    fake.answer("complete", 524, page());
    let handler = async |_: Task| Ok(Reply::text("done"));
    with_worker(&fake, handler, fake.hears("complete", 2)).await;
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
