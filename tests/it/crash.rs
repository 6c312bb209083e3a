//! The real binary, killed with SIGKILL at random points while 1,000 jobs run.
//!
//! Meanwhile events are published to standing endpoints, one of them ordered. The oracle compares what was acknowledged with 202, what the receiver saw, and what the
//! store says after quiet: invariants I1-I5 of `docs/guarantees.md`.

mod events;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringback::client::{self, Client, SubmitOptions};
use ringback::types::api::{self, Ack, AckOp, Acks, Claim, SubmitJob};
use ringback::types::delivery::DeliveryState;
use ringback::types::job::{JobState, Status};
use ringback::types::{DeliveryId, JobId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::support::app::until_in;
use crate::support::process::{KEY, Node, free_port, ringback};
use crate::support::receiver::{Received, Receiver};

const JOBS: usize = 1_000;
const KILLS: usize = 8;
/// The longest until a part of the jobs is acknowledged.
const GOES_ON: Duration = Duration::from_secs(60);
/// The longest until a request is answered that is repeated.
const ANSWERED: Duration = Duration::from_secs(120);
/// The longest that one of them waits.
const SILENCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_job_is_lost_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    run("sqlite://crash.db", dir.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_job_is_lost_on_postgres() {
    let dir = tempfile::tempdir().unwrap();
    let url = crate::support::postgres::database().await;
    run(&url, dir.path()).await;
}

/// What the clients know.
#[derive(Default)]
struct Oracle {
    acknowledged: watch::Sender<Vec<JobId>>,
    /// Numbers of events, in the order in which they were acknowledged.
    published: Mutex<Vec<u64>>,
    completed: AtomicUsize,
    stop: AtomicBool,
}

impl Oracle {
    /// Waits until so many jobs are acknowledged.
    async fn acknowledged(&self, jobs: usize) {
        let mut acknowledged = self.acknowledged.subscribe();
        let waited = timeout(GOES_ON, acknowledged.wait_for(|ids| ids.len() >= jobs)).await.is_ok();
        let so_far = self.acknowledged.borrow().len();
        assert!(waited, "the run does not go on: {so_far} jobs are acknowledged, not {jobs}");
    }
}

async fn run(store: &str, dir: &Path) {
    let receiver = Receiver::start().await;
    let port = free_port();
    let mut node = Node::dev(store, port, dir);
    let client = Client::new(&node.url, Some(KEY)).unwrap();
    let oracle = Arc::new(Oracle::default());
    let endpoints = events::endpoints(&client, &receiver).await;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(events::publish(client.clone(), oracle.clone()));
    for n in 0..8 {
        tasks.spawn(submit(client.clone(), oracle.clone(), receiver.url("/hook"), n));
    }
    for n in 0..4 {
        tasks.spawn(work(client.clone(), oracle.clone(), n));
    }

    // Kills come at points spread over the run, each at another place of the trip.
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for kill in 1..=KILLS {
        let target = JOBS * kill / (KILLS + 2);
        oracle.acknowledged(target).await;
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        sleep(Duration::from_micros(seed >> 48)).await;
        node.kill();
        node = Node::dev(store, port, dir);
    }

    let acknowledged = quiet(&client, &oracle).await;
    oracle.stop.store(true, Ordering::SeqCst);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    judge(&client, &receiver, &node.secret, &acknowledged).await;
    for endpoint in &endpoints {
        endpoint.judge(&client, &receiver).await;
    }
    // `check` reads beside the running service ...
    check(store, dir);
    // ... and a stop on request is clean.
    assert_eq!(node.terminate(), 0);
    check(store, dir);
}

/// Submits with an idempotency key until it is acknowledged, as a careful client does.
async fn submit(client: Client, oracle: Arc<Oracle>, url: String, n: usize) {
    for i in 0..JOBS / 8 {
        let key = format!("submitter-{n}-job-{i}");
        let job = SubmitJob {
            kind: "crash.test".to_owned(),
            input: Some(api::raw(format!("{{\"n\":{n},\"i\":{i}}}"))),
            callback_url: Some(url.clone()),
            max_attempts: Some(50),
            ..SubmitJob::default()
        };
        let options = || SubmitOptions { idempotency_key: Some(&key) };
        let accepted = answered("a submission", || client.submit(&job, options())).await;
        oracle.acknowledged.send_modify(|ids| ids.push(accepted.job.job_id));
    }
}

/// Asks until it is answered: the node may just be dead.
async fn answered<T, F: Future<Output = client::Result<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let until = Instant::now() + ANSWERED;
    loop {
        let refused = match timeout(SILENCE, ask()).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(e)) => e.to_string(),
            Err(_) => "nothing is heard".to_owned(),
        };
        assert!(Instant::now() < until, "{what}: no answer in {ANSWERED:?}: {refused}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Claims and completes in batches; whatever a kill interrupts comes back by its lease.
async fn work(client: Client, oracle: Arc<Oracle>, n: usize) {
    while !oracle.stop.load(Ordering::SeqCst) {
        let claim = Claim {
            worker_id: Some(format!("crash-{n}")),
            max: Some(10),
            lease_seconds: Some(2),
            wait_seconds: Some(1),
            ..Claim::default()
        };
        let jobs = answered("a claim", || client.claim("default", &claim)).await;
        let items = jobs.iter().map(|job| {
            let ack = Ack {
                op: AckOp::Complete,
                job_id: job.job_id,
                lease_token: job.lease_token,
                result: Some(job.input.clone()),
                result_url: None,
                error: None,
                error_code: None,
                retryable: None,
                retry_after_seconds: None,
            };
            api::raw(serde_json::to_string(&ack).unwrap())
        });
        let items: Vec<_> = items.collect();
        if !items.is_empty() {
            let done = timeout(SILENCE, client.ack(&Acks { items })).await;
            if let Ok(Ok(answers)) = done {
                oracle.completed.fetch_add(answers.len(), Ordering::SeqCst);
            }
        }
    }
}

/// Waits until every acknowledged job has ended and every callback is answered.
async fn quiet(client: &Client, oracle: &Oracle) -> Vec<JobId> {
    oracle.acknowledged(JOBS).await;
    until_in(Duration::from_secs(150), "all is acknowledged and nothing owed", async || {
        let acknowledged: Vec<JobId> = oracle.acknowledged.borrow().clone();
        let published = oracle.published.lock().unwrap().len();
        match (acknowledged.len(), published, owed(client).await) {
            (JOBS, events::EVENTS, Some(0)) => Ok(acknowledged),
            seen => Err(seen),
        }
    })
    .await
}

/// Jobs and deliveries that are not terminal, as the API tells.
async fn owed(client: &Client) -> Option<usize> {
    let mut n = 0;
    for status in ["queued", "processing"] {
        let query = ringback::client::JobQuery { status: Some(status.to_owned()), ..Default::default() };
        n += client.jobs(&query).await.ok()?.items.len();
    }
    for state in ["pending", "inFlight", "held"] {
        let query = ringback::client::DeliveryQuery { state: Some(state.to_owned()), ..Default::default() };
        n += client.deliveries(&query).await.ok()?.items.len();
    }
    Some(n)
}

async fn judge(client: &Client, receiver: &Receiver, secret: &str, acknowledged: &[JobId]) {
    let unique: HashSet<_> = acknowledged.iter().collect();
    assert_eq!(unique.len(), JOBS, "each key made one job");
    let seen = told(client, receiver.at("/hook"), secret).await;
    let told: HashSet<_> = seen.iter().map(|(delivery, _)| delivery.job_id.unwrap()).collect();
    for id in acknowledged {
        // I1: every acknowledged job is terminal, and its reply was seen.
        let job = client.job(*id).await.unwrap();
        assert_eq!((job.status, job.state), (Status::Complete, JobState::Complete), "{id}");
        assert!(told.contains(id), "{id}: the receiver never heard of it");
    }
    // One delivery per job: nothing was made twice.
    assert_eq!(seen.len(), JOBS);
    let requests: usize = seen.iter().map(|(_, requests)| requests.len()).sum();
    println!("{JOBS} jobs, {KILLS} kills, {requests} requests seen, {} duplicates", requests - JOBS);
}

/// Each delivery that was seen, with its requests, in the order of the first ones.
async fn told(client: &Client, requests: Vec<Received>, secret: &str) -> Vec<(api::Delivery, Vec<Received>)> {
    let (mut order, mut seen) = (Vec::new(), HashMap::<String, Vec<Received>>::new());
    for request in requests {
        request.verify(secret);
        let of_it = seen.entry(request.webhook_id().to_owned()).or_default();
        if of_it.is_empty() {
            order.push(request.webhook_id().to_owned());
        }
        of_it.push(request);
    }
    let mut told = Vec::new();
    for id in order {
        let requests = seen.remove(&id).unwrap();
        // I3: a duplicate has the same id and byte-equal body.
        assert!(requests.iter().all(|r| r.body == requests[0].body), "{id}: bodies differ");
        // I2: every request that was seen has an attempt that was committed before.
        let delivery = client.delivery(id.parse::<DeliveryId>().unwrap()).await.unwrap();
        let attempts = delivery.attempts.as_ref().unwrap();
        let numbers: HashSet<u32> = attempts.iter().map(|a| a.number).collect();
        for request in &requests {
            let number: u32 = request.header("webhook-attempt").parse().unwrap();
            assert!(numbers.contains(&number), "{id}: request {number} has no attempt: {attempts:?}");
        }
        assert_eq!(delivery.state, DeliveryState::Delivered, "{id}");
        told.push((delivery, requests));
    }
    told
}

fn check(store: &str, dir: &Path) {
    let output = ringback().args(["check", "--store", store]).current_dir(dir).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}
