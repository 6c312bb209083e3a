//! Two `serve` processes on one PostgreSQL share the work; a killed one's work is taken over.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ringback::client::{Client, SubmitOptions};
use ringback::types::api::{self, Claim, Complete, SubmitJob};
use ringback::types::delivery::DeliveryState;
use tokio::time::Instant;

use crate::support::app::until;
use crate::support::process::{Node, ringback};
use crate::support::receiver::{Answer, Receiver};

fn serve(store: &str, dir: &Path, name: &str) -> Node {
    let mut command = ringback();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--store", store])
        .args(["--key-ring", "ring", "--allow-http", "--allow-cidr", "127.0.0.0/8"])
        .current_dir(dir);
    Node::start(command, &log(dir, name))
}

fn log(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.log"))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn two_nodes(dir: &Path) -> (Node, Node, String) {
    let store = crate::support::postgres::database().await;
    run(ringback().args(["keyring", "create", "ring"]).current_dir(dir));
    run(ringback().args(["migrate", "--store", &store]).current_dir(dir));
    let scopes = "jobs:write,jobs:read,work,deliveries:read,deadletters:replay";
    let key = run(ringback()
        .args(["keys", "create", "--store", &store, "--tenant", "ci", "--scopes", scopes])
        .current_dir(dir));
    let key =
        key.lines().find_map(|l| l.split_whitespace().find(|w| w.starts_with("rbk_"))).unwrap().to_owned();
    (serve(&store, dir, "a"), serve(&store, dir, "b"), key)
}

const RECEIVERS: usize = 12;

/// Submits `n` jobs for each callback to a queue of their own and completes them.
async fn finish(client: &Client, queue: &str, urls: &[String], n: usize) -> Vec<ringback::types::JobId> {
    let mut ids = Vec::new();
    for url in urls.iter().cycle().take(n * urls.len()) {
        let job = SubmitJob {
            kind: "t".to_owned(),
            queue: Some(queue.to_owned()),
            callback_url: Some(url.clone()),
            ..SubmitJob::default()
        };
        ids.push(client.submit(&job, SubmitOptions::default()).await.unwrap().job.job_id);
    }
    let n = ids.len();
    let mut left = n;
    while left > 0 {
        let claim = Claim { max: Some(50), wait_seconds: Some(5), ..Claim::default() };
        let jobs = client.claim(queue, &claim).await.unwrap();
        assert!(!jobs.is_empty(), "{left} of {n} jobs cannot be claimed");
        for job in jobs {
            let done = Complete {
                lease_token: job.lease_token,
                result: Some(api::raw("1".to_owned())),
                result_url: None,
            };
            client.complete(job.job_id, &done).await.unwrap();
            left -= 1;
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_share_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, key) = two_nodes(dir.path()).await;
    let (at_a, at_b) = (Client::new(&a.url, Some(&key)).unwrap(), Client::new(&b.url, Some(&key)).unwrap());
    // A lane belongs to the node that sees its first delivery first: nearly always the one where its job was done, as the
    // other looks only now and then.
    let mut receivers = Vec::new();
    for n in 0..RECEIVERS {
        let receiver = Receiver::start().await;
        finish(if n % 2 == 0 { &at_a } else { &at_b }, "q", &[receiver.url("/x")], 1).await;
        receiver.wait("/x", 1, Duration::from_secs(30)).await;
        receivers.push(receiver);
    }
    let urls: Vec<String> = receivers.iter().map(|r| r.url("/x")).collect();

    // Submitted and worked at one node, told by whichever owns the receiver's lane.
    let (of_a, of_b) = tokio::join!(finish(&at_a, "qa", &urls, 8), finish(&at_b, "qb", &urls, 8));

    for receiver in &receivers {
        receiver.wait("/x", 17, Duration::from_secs(30)).await;
    }
    for (ids, elsewhere) in [(of_a, &at_b), (of_b, &at_a)] {
        for id in ids {
            assert_eq!(elsewhere.job(id).await.unwrap().job_id, id, "every node knows every job");
        }
    }
    let seen: Vec<usize> = receivers.iter().map(|r| r.log().len()).collect();
    assert_eq!(seen, [17; RECEIVERS], "nothing is delivered twice");
    for name in ["a", "b"] {
        let log = std::fs::read_to_string(log(dir.path(), name)).unwrap();
        assert!(log.contains("delivery.attempted"), "node {name} delivered nothing:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_nodes_work_is_taken_over_within_35_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, b, key) = two_nodes(dir.path()).await;
    let (at_a, at_b) = (Client::new(&a.url, Some(&key)).unwrap(), Client::new(&b.url, Some(&key)).unwrap());
    let receiver = Receiver::start().await;
    // The first requests hang: they are in the first node's hands when it dies.
    receiver.script("/x", vec![Answer::Hang, Answer::Hang, Answer::Hang, Answer::Status(200)]);

    let ids = finish(&at_a, "q", &[receiver.url("/x")], 3).await;
    receiver.wait("/x", 3, Duration::from_secs(10)).await;
    a.kill();
    let died = Instant::now();

    receiver.wait("/x", 6, Duration::from_secs(35)).await;
    let took = died.elapsed();
    println!("taken over after {took:?}");
    let requests = receiver.at("/x");
    let first: Vec<_> = requests[..3].iter().map(|r| (r.webhook_id().to_owned(), r.body.clone())).collect();
    for again in &requests[3..] {
        assert!(first.contains(&(again.webhook_id().to_owned(), again.body.clone())));
        assert_eq!(again.header("webhook-attempt"), "2");
    }
    for id in ids {
        let query = ringback::client::DeliveryQuery { job_id: Some(id.to_string()), ..Default::default() };
        let of_job = until("its callback is delivered", async || {
            let of_job = at_b.deliveries(&query).await.unwrap().items;
            if of_job.iter().all(|d| d.state == DeliveryState::Delivered) { Ok(of_job) } else { Err(of_job) }
        });
        let attempts = at_b.delivery(of_job.await[0].delivery_id).await.unwrap().attempts.unwrap();
        assert_eq!(attempts[0].error.as_deref(), Some("unknown"), "the lost attempt is on record");
    }
    drop(b);
}
