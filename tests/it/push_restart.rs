//! A node is killed while its push worker is at work: another attempt comes, and the webhook is right.

use std::path::Path;
use std::time::Duration;

use ringback::client::{Client, SubmitOptions};
use ringback::types::api::{SubmitJob, raw};

use crate::support::process::{KEY, Node, free_port, ringback};
use crate::support::receiver::{Answer, Receiver};

/// A time-out of 2 s, a look of the sweep and a backoff of 5 s, with room for a busy machine.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_costs_an_attempt_and_not_the_job_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    run("sqlite://push.db", dir.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_costs_an_attempt_and_not_the_job_on_postgres() {
    let dir = tempfile::tempdir().unwrap();
    let url = crate::support::postgres::database().await;
    run(&url, dir.path()).await;
}

async fn run(store: &str, dir: &Path) {
    let receiver = Receiver::start().await;
    let json = vec![("content-type", "application/json".to_owned())];
    receiver.script("/work", vec![Answer::Hang, Answer::Body(200, json, r#"{"n":2}"#.into())]);
    let toml = format!("[queues.q.worker]\nurl = \"{}\"\n", receiver.url("/work"));
    std::fs::write(dir.join("ringback.toml"), toml).unwrap();
    let port = free_port();
    let start = || Node::dev_with(store, port, dir, &["--config", "ringback.toml"]);
    let mut node = start();
    let client = Client::new(&node.url, Some(KEY)).unwrap();
    let job = SubmitJob {
        kind: "t".to_owned(),
        queue: Some("q".to_owned()),
        input: Some(raw("{\"n\":1}".to_owned())),
        callback_url: Some(receiver.url("/hook")),
        timeout_seconds: Some(2),
        ..SubmitJob::default()
    };
    let accepted = client.submit(&job, SubmitOptions::default()).await.unwrap();
    receiver.wait("/work", 1, LONG).await;

    node.kill();
    let node = start();

    let told = receiver.wait("/hook", 1, LONG).await.remove(0);
    told.verify(&node.secret);
    let data = &told.json()["data"];
    assert_eq!((data["attempt"].as_u64(), data["result"]["n"].as_u64()), (Some(2), Some(2)), "{data}");
    assert_eq!(data["jobId"], accepted.job.job_id.to_string());
    let work = receiver.at("/work");
    let attempts: Vec<&str> = work.iter().map(|r| r.header("ringback-attempt")).collect();
    assert_eq!(attempts, ["1", "2"]);
    assert!(work[0].header("idempotency-key") != work[1].header("idempotency-key"));
    assert!(work[0].body == work[1].body);
    let check = ringback().args(["check", "--store", store]).current_dir(dir).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}
