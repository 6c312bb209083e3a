//! The processes that a benchmark plays with, and what they have used so far.

use std::time::Duration;

use anyhow::bail;
use http::Method;
use serde::Deserialize;

use super::super::figures::{counter, moment};
use super::super::load::Posts;
use super::super::node::Node;
use super::super::part::{self, Cpu, Part};
use super::super::receiver::{Ready, Seen};
use super::super::wire::Wire;
use crate::app;
use crate::cli::check_store;
use crate::cli::place::Place;
use crate::dice::Dice;
use crate::types::key::ApiKey;

/// How often it is asked whether all is done.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// Server, receiver and worker.
pub struct Stage {
    server: Node,
    receiver: Part,
    worker: Option<Part>,
    store: String,
    /// May do everything.
    key: String,
    /// Where the receiver listens.
    hooks: String,
    _place: Place,
}

#[derive(Deserialize)]
struct WorkerReady {}

/// What has been used so far.
pub struct Reading {
    /// CPU seconds by process.
    pub cpu: Cpu,
    /// Transactions of the group commit.
    pub commits: f64,
    /// Calls in them.
    pub calls: f64,
    /// Callbacks recorded as delivered.
    pub delivered: f64,
    /// PostgreSQL only.
    pub wal_bytes: Option<f64>,
    /// PostgreSQL only.
    pub dead_rows: Option<f64>,
    /// Memory of the server.
    pub server_mib: f64,
}

impl Stage {
    /// Starts all of them; without `whole` no worker.
    pub async fn set(store: Option<String>, whole: bool) -> anyhow::Result<Stage> {
        let place = Place::make("bench")?;
        let store = store.unwrap_or_else(|| place.store());
        check_store(&store)?;
        let key = ApiKey::mint(Dice::Os.bytes()).reveal().to_owned();
        let dir = place.path();
        let server = Node::start(&store, &key, dir).await?;
        let secret = [("RINGBACK_SECRET", server.secret.as_str())];
        let (receiver, hooks): (Part, Ready) =
            Part::start("receiver", &["bench", "receiver"], &secret, dir).await?;
        let worker = if whole {
            let env = [("RINGBACK_URL", server.url.as_str()), ("RINGBACK_API_KEY", &key)];
            Some(Part::start::<WorkerReady>("worker", &["bench", "worker"], &env, dir).await?.0)
        } else {
            None
        };
        Ok(Stage { server, receiver, worker, store, key, hooks: hooks.listening, _place: place })
    }

    /// Whether jobs are worked off and called back.
    pub fn whole(&self) -> bool {
        self.worker.is_some()
    }

    /// Submissions of jobs with inputs of so many bytes, called back where jobs are worked off.
    pub fn jobs(&self, payload_bytes: usize) -> Posts {
        let pad = "x".repeat(payload_bytes);
        let callback =
            if self.whole() { format!(r#","callbackUrl":"{}/hook""#, self.hooks) } else { String::new() };
        let rest = format!(r#","input":{{"pad":"{pad}"}}{callback}}}"#);
        Posts {
            url: self.server.url.clone(),
            key: self.key.clone(),
            path: "/v1/jobs",
            body: Box::new(move |_, due| {
                format!(r#"{{"type":"bench","metadata":{{"submittedAtMicros":{due}}}{rest}"#)
            }),
            hooks: self.whole().then(|| self.hooks.clone()),
            callbacks: 1,
        }
    }

    /// The store's engine.
    pub fn engine(&self) -> &'static str {
        if self.store.starts_with("sqlite") { "sqlite" } else { "postgres" }
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

    /// What all have used so far.
    pub async fn read(&self) -> anyhow::Result<Reading> {
        let mut wire = Wire::open(&self.server.url, Some(&self.key)).await?;
        let metrics = wire.must(Method::GET, "/metrics", "").await?;
        let metrics = str::from_utf8(&metrics)?;
        let counts = app::server_counts(&self.store).await?;
        let mut pids = vec![("server", self.server.pid()?), ("receiver", self.receiver.pid()?)];
        if let Some(worker) = &self.worker {
            pids.push(("worker", worker.pid()?));
        }
        pids.push(("driver", std::process::id()));
        Ok(Reading {
            cpu: part::cpu(&pids, counts.map(|c| c.pid))?,
            commits: counter(metrics, "ringback_commit_batch_size_count"),
            calls: counter(metrics, "ringback_commit_batch_size_sum"),
            delivered: delivered(metrics),
            wal_bytes: counts.map(|c| c.wal_bytes as f64),
            dead_rows: counts.map(|c| c.dead_rows as f64),
            server_mib: self.server.memory()? as f64 / f64::from(1 << 20),
        })
    }

    /// Waits until `jobs` callbacks more than at `before` are recorded as delivered.
    pub async fn recorded(&self, before: &Reading, jobs: u64, within: Duration) -> anyhow::Result<()> {
        if !self.whole() {
            return Ok(());
        }
        let mut wire = Wire::open(&self.server.url, Some(&self.key)).await?;
        let begun = moment();
        loop {
            let metrics = wire.must(Method::GET, "/metrics", "").await?;
            let now = delivered(str::from_utf8(&metrics)?) - before.delivered;
            if now >= jobs as f64 {
                return Ok(());
            }
            if moment().saturating_sub(begun) > within {
                bail!("{now} of {jobs} callbacks were recorded within {} s", within.as_secs());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Stops all of them, the server last.
    pub async fn strike(self) -> anyhow::Result<()> {
        if let Some(worker) = self.worker {
            worker.stop().await?;
        }
        self.server.stop().await?;
        self.receiver.stop().await
    }
}

fn delivered(metrics: &str) -> f64 {
    counter(metrics, r#"ringback_delivery_verdicts_total{word="delivered"}"#)
}
