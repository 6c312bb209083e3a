//! The processes that a benchmark plays with, and what they have used so far.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::bail;
use http::Method;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::super::figures::{counter, mib, micros, moment, sum, verdicts};
use super::super::load::Posts;
use super::super::node::Node;
use super::super::part::{self, Cpu, Part};
use super::super::receiver::{Ready, Seen};
use super::super::wire::Wire;
use super::super::worker;
use crate::app;
use crate::cli::check_store;
use crate::cli::exit::Usage;
use crate::cli::place::Place;
use crate::dice::Dice;
use crate::store::bench::Scratch;
use crate::store::db::Engine;
use crate::types::key::ApiKey;

/// How often it is asked whether all is done.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// Connections that make endpoints.
const MAKERS: u64 = 32;

/// Servers, receiver and workers.
pub struct Stage {
    nodes: Vec<Node>,
    receiver: Option<Part>,
    workers: Vec<Part>,
    /// How many jobs this round's workers may have claimed: as many as were accepted in it.
    accepted: watch::Sender<u64>,
    paces: Vec<AbortOnDropHandle<()>>,
    wanted: Wanted,
    engine: Engine,
    /// The store, which is new and goes with the stage.
    scratch: Scratch,
    /// May do everything.
    key: String,
    /// Where the receiver listens.
    hooks: String,
    /// Where callbacks go instead of the receiver's own URL: a job's `callback` member for each, in turn.
    callbacks: Vec<String>,
    /// Whose turn it is.
    turn: Arc<AtomicU64>,
    place: Place,
}

/// What is on a stage.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Servers over one store.
    pub nodes: usize,
    /// Whether jobs are worked off and called back.
    pub whole: bool,
    /// Whether the receiver verifies with the tenant's own secret.
    pub verified: bool,
    /// Whether workers claim only as many jobs as are submitted, however many wait.
    pub paced: bool,
}

/// The whole way on one server.
pub const WHOLE: Wanted = Wanted { nodes: 1, whole: true, verified: true, paced: false };

#[derive(Deserialize)]
struct WorkerReady {}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    endpoint_id: String,
}

/// What has been used so far.
pub struct Reading {
    /// CPU seconds by process.
    pub cpu: Cpu,
    /// Transactions of the group commit.
    pub commits: f64,
    /// Calls in them.
    pub calls: f64,
    /// Seconds that they took.
    pub commit_seconds: f64,
    /// Requests that claimed.
    pub claims: f64,
    /// Callbacks recorded as delivered.
    pub delivered: f64,
    /// PostgreSQL only.
    pub wal_bytes: Option<f64>,
    /// PostgreSQL only.
    pub dead_rows: Option<f64>,
    /// PostgreSQL only.
    pub hot_updates: Option<f64>,
    /// Memory of the servers.
    pub server_mib: f64,
    /// The most that they held.
    pub server_peak_mib: f64,
}

impl Stage {
    /// Starts all of them over a new store beside `store`, or in a temporary directory.
    pub async fn set(store: Option<String>, wanted: Wanted) -> anyhow::Result<Stage> {
        let place = Place::make("bench")?;
        let beside = store.unwrap_or_else(|| place.store());
        check_store(&beside)?;
        let engine = Engine::of(&beside)?;
        if wanted.nodes > 1 && engine == Engine::Sqlite {
            return Err(
                Usage("--nodes 2 needs a --store that two servers can share: PostgreSQL".to_owned()).into()
            );
        }
        let mut stage = Stage {
            nodes: Vec::new(),
            receiver: None,
            workers: Vec::new(),
            accepted: watch::Sender::default(),
            paces: Vec::new(),
            wanted,
            engine,
            scratch: Scratch::beside(&beside, &scratch_name()).await?,
            key: ApiKey::mint(Dice::Os.bytes()).reveal().to_owned(),
            hooks: String::new(),
            callbacks: Vec::new(),
            turn: Arc::default(),
            place,
        };
        stage.serve().await?;
        stage.work().await?;
        Ok(stage)
    }

    /// Starts servers over what the store holds.
    pub async fn serve(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.wanted.nodes {
            let node = self.start_one().await?;
            if self.receiver.is_none() {
                let secret = [("RINGBACK_SECRET", node.secret.as_str())];
                let env = if self.wanted.verified { &secret[..] } else { &[] };
                let dir = self.place.path();
                let (part, ready): (Part, Ready) =
                    Part::start("receiver", &["bench", "receiver"], env, dir).await?;
                (self.receiver, self.hooks) = (Some(part), ready.listening);
            }
            self.nodes.push(node);
        }
        Ok(())
    }

    /// Starts a server over what the store holds, beside this stage.
    pub async fn start_one(&self) -> anyhow::Result<Node> {
        Node::start(&self.scratch.url, &self.key, self.place.path()).await
    }

    /// Starts a worker for each server, where jobs are worked off.
    pub async fn work(&mut self) -> anyhow::Result<()> {
        let args: &[&str] =
            if self.wanted.paced { &["bench", "worker", "--paced"] } else { &["bench", "worker"] };
        self.accepted = watch::Sender::default();
        for node in self.nodes.iter().filter(|_| self.wanted.whole) {
            let env = [("RINGBACK_URL", node.url.as_str()), ("RINGBACK_API_KEY", &self.key)];
            let dir = self.place.path();
            let (mut part, _) = Part::start::<WorkerReady>("worker", args, &env, dir).await?;
            if self.wanted.paced {
                let pace = tokio::spawn(worker::pace(part.input()?, self.accepted.subscribe()));
                self.paces.push(AbortOnDropHandle::new(pace));
            }
            self.workers.push(part);
        }
        Ok(())
    }

    /// Stops servers and workers; the receiver stays.
    pub async fn down(&mut self) -> anyhow::Result<()> {
        self.rest().await?;
        for node in self.nodes.drain(..) {
            node.stop().await?;
        }
        Ok(())
    }

    /// Stops the workers.
    pub async fn rest(&mut self) -> anyhow::Result<()> {
        self.paces.clear();
        for worker in self.workers.drain(..) {
            worker.stop().await?;
        }
        Ok(())
    }

    /// Whether jobs are worked off and called back.
    pub fn whole(&self) -> bool {
        self.wanted.whole
    }

    /// How many servers.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The store's engine.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// The store's URL.
    pub fn store(&self) -> &str {
        &self.scratch.url
    }

    /// A directory for what else is needed.
    pub fn dir(&self) -> &Path {
        self.place.path()
    }

    /// The first server.
    pub fn node(&self) -> &Node {
        &self.nodes[0]
    }

    /// Makes as many endpoints of the receiver, for `events` (a list in JSON), `together` of them in each account, and gives
    /// their ids.
    pub async fn endpoints(
        &self,
        endpoints: u64,
        events: &str,
        together: u64,
    ) -> anyhow::Result<Vec<String>> {
        let left = Arc::new(AtomicU64::new(endpoints));
        let new = format!(r#""url":"{}/hook","events":{events}"#, self.hooks);
        let mut makers = JoinSet::new();
        for _ in 0..MAKERS.min(endpoints) {
            let (mut wire, left, new) = (self.wire().await?, Arc::clone(&left), new.clone());
            makers.spawn(async move {
                let mut ids = Vec::new();
                while let Ok(n) = left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)) {
                    let new = format!(r#"{{{new},"account":"a{}"}}"#, (n - 1) / together);
                    let made = wire.must(Method::POST, "/v1/endpoints", new).await?;
                    ids.push(serde_json::from_slice::<Endpoint>(&made)?.endpoint_id);
                }
                anyhow::Ok(ids)
            });
        }
        let mut ids = Vec::new();
        while let Some(ended) = makers.join_next().await {
            ids.extend(ended??);
        }
        Ok(ids)
    }

    /// Callbacks go to these endpoints from now on, in turn.
    pub fn call_back(&mut self, endpoints: &[String]) {
        self.callbacks = endpoints.iter().map(|id| format!(r#"{{"endpointId":"{id}"}}"#)).collect();
    }

    /// A connection to the first server.
    pub async fn wire(&self) -> anyhow::Result<Wire> {
        Wire::open(&self.nodes[0].url, Some(&self.key)).await
    }

    /// Submissions of jobs with inputs of so many bytes, called back where jobs are worked off.
    pub fn jobs(&self, payload_bytes: usize) -> Posts {
        let pad = "x".repeat(payload_bytes);
        let own = format!(r#","callbackUrl":"{}/hook""#, self.hooks);
        let callbacks: Vec<String> = match (self.whole(), self.callbacks.is_empty()) {
            (false, _) => vec![String::new()],
            (true, true) => vec![own],
            (true, false) => self.callbacks.iter().map(|c| format!(r#","callback":{c}"#)).collect(),
        };
        let turn = Arc::clone(&self.turn);
        self.posts("/v1/jobs", 1, move |_, due| {
            let n = turn.fetch_add(1, Relaxed);
            let callback = &callbacks[usize::try_from(n).unwrap_or(0) % callbacks.len()];
            format!(
                r#"{{"type":"bench","metadata":{{"submittedAtMicros":{due}}},"input":{{"pad":"{pad}"}}{callback}}}"#
            )
        })
    }

    /// Events of the type `bench.told`, each for so many endpoints.
    pub fn events(&self, payload_bytes: usize, endpoints: u64) -> Posts {
        let pad = "x".repeat(payload_bytes);
        // By its own id an event that is sent again after a 503 is known.
        let run = micros();
        self.posts("/v1/events", endpoints, move |n, due| {
            format!(
                r#"{{"type":"bench.told","account":"a0","id":"{run}-{n}","data":{{"submittedAtMicros":{due},"pad":"{pad}"}}}}"#
            )
        })
    }

    fn posts(
        &self,
        path: &'static str,
        callbacks: u64,
        body: impl Fn(u64, u64) -> String + Send + Sync + 'static,
    ) -> Posts {
        Posts {
            urls: self.nodes.iter().map(|node| node.url.clone()).collect(),
            key: self.key.clone(),
            path,
            body: Box::new(body),
            hooks: self.whole().then(|| self.hooks.clone()),
            callbacks,
            accepted: self.accepted.clone(),
        }
    }

    /// The receiver forgets what it saw.
    pub async fn reset(&self) -> anyhow::Result<()> {
        Wire::open(&self.hooks, None).await?.must(Method::POST, "/reset", "").await.map(drop)
    }

    /// What the receiver saw.
    pub async fn seen(&self) -> anyhow::Result<Seen> {
        let figures = Wire::open(&self.hooks, None).await?.must(Method::GET, "/figures", "").await?;
        Ok(serde_json::from_slice(&figures)?)
    }

    async fn wires(&self) -> anyhow::Result<Vec<Wire>> {
        let mut wires = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            wires.push(Wire::open(&node.url, Some(&self.key)).await?);
        }
        Ok(wires)
    }

    /// What all have used so far.
    pub async fn read(&self) -> anyhow::Result<Reading> {
        let metrics = metrics(&mut self.wires().await?).await?;
        let total = |of: &dyn Fn(&str) -> f64| metrics.iter().map(|text| of(text)).sum::<f64>();
        let counts = app::server_counts(self.store()).await?;
        let mut pids = vec![("driver", std::process::id())];
        let mut memory = (0.0, 0.0);
        for node in &self.nodes {
            pids.push(("server", node.pid()?));
            memory = (memory.0 + mib(node.memory()?), memory.1 + mib(node.peak()?));
        }
        for (name, part) in
            self.receiver.iter().map(|p| ("receiver", p)).chain(self.workers.iter().map(|p| ("worker", p)))
        {
            pids.push((name, part.pid()?));
        }
        Ok(Reading {
            cpu: part::cpu(&pids, counts.map(|c| c.pid))?,
            commits: total(&|text| counter(text, "ringback_commit_batch_size_count")),
            calls: total(&|text| counter(text, "ringback_commit_batch_size_sum")),
            commit_seconds: total(&|text| counter(text, "ringback_commit_seconds_sum")),
            claims: total(&|text| sum(text, "ringback_http_requests_total{", "/claim\"")),
            delivered: total(&|text| verdicts(text, "delivered")),
            wal_bytes: counts.map(|c| c.wal_bytes as f64),
            dead_rows: counts.map(|c| c.dead_rows as f64),
            hot_updates: counts.map(|c| c.hot_updates as f64),
            server_mib: memory.0,
            server_peak_mib: memory.1,
        })
    }

    /// Waits until `jobs` callbacks more than at `before` are recorded as delivered.
    pub async fn recorded(&self, before: &Reading, jobs: u64, within: Duration) -> anyhow::Result<()> {
        if !self.whole() {
            return Ok(());
        }
        let mut wires = self.wires().await?;
        let begun = moment();
        loop {
            let texts = metrics(&mut wires).await?;
            let so_far: f64 = texts.iter().map(|text| verdicts(text, "delivered")).sum();
            let now = so_far - before.delivered;
            if now >= jobs as f64 {
                return Ok(());
            }
            if moment().saturating_sub(begun) > within {
                bail!("{now} of {jobs} callbacks were recorded within {} s", within.as_secs());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Stops all of them, the receiver last, and takes the store away.
    pub async fn strike(mut self) -> anyhow::Result<()> {
        self.down().await?;
        if let Some(receiver) = self.receiver.take() {
            receiver.stop().await?;
        }
        Ok(self.scratch.remove().await?)
    }
}

/// A word that no store is called by.
pub fn scratch_name() -> String {
    format!("ringback_bench_{:016x}", u64::from_le_bytes(Dice::Os.bytes()))
}

/// What all servers have counted, one text each.
async fn metrics(wires: &mut [Wire]) -> anyhow::Result<Vec<String>> {
    let mut texts = Vec::with_capacity(wires.len());
    for wire in wires {
        texts.push(String::from_utf8(wire.must(Method::GET, "/metrics", "").await?.into())?);
    }
    Ok(texts)
}
