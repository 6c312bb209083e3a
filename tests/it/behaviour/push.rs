//! Queues whose work is done by an HTTP endpoint.

mod answers;
mod channels;
mod ends;
mod guard;
mod request;
mod retries;
mod tenants;

use std::time::Duration;

use ringback::clock::Clock;
use serde_json::{Value, json};

use crate::support::app::{LIMIT, Site, TestApp, until};
use crate::support::receiver::{Answer, Received, Receiver};

/// A queue `q` whose worker is the receiver's `/work`; `more` has further members.
fn worker(receiver: &Receiver, more: &str) -> String {
    format!("[queues.q.worker]\nurl = \"{}\"\n{more}\n", receiver.url("/work"))
}

/// A node with such a queue whose clock stands still.
async fn still(site: &Site, receiver: &Receiver, more: &str) -> TestApp {
    let file = site.file(&worker(receiver, more));
    site.start_with(Clock::manual(Clock::wall()), |config| config.file = Some(file)).await
}

/// The same on the machine's clock.
async fn running(site: &Site, receiver: &Receiver, more: &str) -> TestApp {
    site.start_configured(&worker(receiver, more)).await
}

/// Submits a job of the queue; gives its id.
async fn submit(app: &TestApp, more: Value) -> String {
    let mut job = json!({"type": "t", "queue": "q"});
    for (name, value) in more.as_object().unwrap() {
        job[name] = value.clone();
    }
    app.submit_id(job).await
}

/// The job once it has ended.
async fn ended(app: &TestApp, job: &str) -> Value {
    let seen = app.get(&format!("/v1/jobs/{job}")).header("prefer", "wait=15").await.ok(200);
    assert!(seen["completedAt"].is_string(), "{seen}");
    seen
}

/// The job once it is in that state; seen in the list, for polls of one job are counted by the node's clock.
async fn in_state(app: &TestApp, job: &str, state: &str) -> Value {
    until(&format!("{job} is {state}"), async || {
        let all = app.items("/v1/jobs").await;
        let found = all.iter().find(|one| one["jobId"] == job && one["state"] == state);
        found.cloned().ok_or(all)
    })
    .await
}

/// The requests to the worker, once there are so many.
async fn requests(receiver: &Receiver, n: usize) -> Vec<Received> {
    receiver.wait("/work", n, LIMIT).await
}

fn body(status: u16, text: &str) -> Answer {
    Answer::Body(status, vec![("content-type", "text/plain".to_owned())], text.to_owned().into())
}

/// The instant of a request in seconds, by the node's clock.
fn sent_at(request: &Received) -> i64 {
    request.header("webhook-timestamp").parse().unwrap()
}

/// Waits until the figures show this line.
async fn figure(app: &TestApp, line: &str) {
    until(line, async || {
        let text = String::from_utf8(app.get("/metrics").await.body.to_vec()).unwrap();
        if text.lines().any(|l| l == line) { Ok(()) } else { Err(push_lines(&text)) }
    })
    .await;
}

fn push_lines(text: &str) -> String {
    text.lines().filter(|l| l.starts_with("ringback_push")).collect::<Vec<_>>().join("\n")
}

/// A wait that only a failure takes.
const SOON: Duration = Duration::from_secs(10);
