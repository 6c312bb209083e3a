//! `bench streams`: what streams cost that rest, and how fast they wake.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use futures_util::stream::{self, TryStreamExt};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::figures::{Spread, mib};
use super::node::Node;
use super::readers::{Kind, Opening, Read};
use super::tell;
use crate::cli::check_store;
use crate::cli::exit::Usage;
use crate::cli::files;
use crate::cli::place::Place;
use crate::cli::print::Out;
use crate::client::Client;
use crate::dice::Dice;
use crate::store::db::Engine;
use crate::types::JobId;
use crate::types::api::{SubmitBatch, raw};
use crate::types::key::ApiKey;

/// Open many streams at a server of this program's own, and measure its memory and how fast they wake.
#[derive(Debug, clap::Args)]
pub struct StreamsArgs {
    /// How the clients follow their jobs.
    #[arg(long, env = "RINGBACK_KIND", value_enum, default_value = "sse")]
    kind: Kind,
    /// How many streams are open at once, each on a job of its own.
    #[arg(long, env = "RINGBACK_STREAMS", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=9_900))]
    streams: u32,
    /// How many of the jobs are changed, one after the other, to see how soon their streams tell it.
    #[arg(long, env = "RINGBACK_CHANGES", default_value_t = 300)]
    changes: u32,
    /// How many seconds the streams rest while the processor's time is counted.
    #[arg(long, env = "RINGBACK_REST_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    rest_seconds: u32,
    /// Where the server keeps everything, `sqlite://PATH` or `postgres://...`; jobs are left in it. A temporary SQLite file by default.
    #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<String>,
    /// With 2 the changes are made at a second server over the same PostgreSQL.
    #[arg(long, env = "RINGBACK_NODES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
    nodes: u32,
}

/// Jobs of one submission; small, so that the server's memory before the streams is not the submissions'.
const BATCH: usize = 100;
/// Streams that are being opened at once.
const OPENING: usize = 32;
/// The longest until an event is read.
const WAKE: Duration = Duration::from_secs(10);
/// Until memory is measured after something was done.
const SETTLE: Duration = Duration::from_secs(3);

/// What was seen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    kind: Kind,
    engine: &'static str,
    nodes: u32,
    streams: u32,
    changes: u32,
    /// Of the server with the streams, in bytes.
    memory_before: u64,
    memory_with_streams: u64,
    bytes_per_stream: u64,
    /// Processor time over time while all streams rest: 1 is one core.
    cores_at_rest: f64,
    /// From the answer of a change, which follows its commit, to the event at its reader.
    wake: Option<Spread>,
    /// From before the change was asked for.
    change_and_wake: Option<Spread>,
}

/// Runs `ringback bench streams`.
pub async fn run(args: StreamsArgs, out: Out) -> anyhow::Result<ExitCode> {
    args.store.as_deref().map_or(Ok(()), check_store)?;
    let engine = args.store.as_deref().map_or(Ok(Engine::Sqlite), Engine::of)?;
    if args.nodes > 1 && engine == Engine::Sqlite {
        return Err(
            Usage("--nodes 2 needs a --store that two servers can share: PostgreSQL".to_owned()).into()
        );
    }
    if args.changes > args.streams {
        return Err(Usage("--changes: each change needs a stream of its own".to_owned()).into());
    }
    files::open(u64::from(args.streams) + 500)?;
    tell(&measure(&args, engine).await?, Seen::said, out)
}

async fn measure(args: &StreamsArgs, engine: Engine) -> anyhow::Result<Seen> {
    let place = Place::make("bench")?;
    let store = args.store.clone().unwrap_or_else(|| place.store());
    let key = ApiKey::mint(Dice::Os.bytes());
    let here = Node::start(&store, key.reveal(), place.path()).await?;
    let there = match args.nodes {
        1 => None,
        _ => Some(Node::start(&store, key.reveal(), place.path()).await?),
    };
    let jobs = submit(&here.client, args.streams as usize).await?;
    sleep(SETTLE).await;
    let memory_before = here.memory()?;
    let (send, mut reads) = mpsc::unbounded_channel();
    let (authority, key) = (here.authority().to_owned(), key.reveal().to_owned());
    let opening = Opening { authority, key, reads: send };
    stream::iter(jobs.iter().enumerate().map(Ok))
        .try_for_each_concurrent(OPENING, |(number, job)| opening.open(args.kind, number, *job))
        .await?;
    sleep(SETTLE).await;
    let memory_with_streams = here.memory()?;
    let cores_at_rest = cores_at_rest(&here, args.rest_seconds).await?;
    let changer = &there.as_ref().unwrap_or(&here).client;
    let (wake, change_and_wake) = changes(changer, &jobs, args.changes as usize, &mut reads).await?;
    for node in [Some(here), there].into_iter().flatten() {
        node.stop().await?;
    }
    Ok(Seen {
        kind: args.kind,
        // The other reports say `postgres`; whoever reads this one looks for this word.
        engine: match engine {
            Engine::Sqlite => engine.word(),
            Engine::Postgres => "postgresql",
        },
        nodes: args.nodes,
        streams: args.streams,
        changes: args.changes,
        memory_before,
        memory_with_streams,
        bytes_per_stream: memory_with_streams.saturating_sub(memory_before) / u64::from(args.streams),
        cores_at_rest,
        wake: Spread::of(wake),
        change_and_wake: Spread::of(change_and_wake),
    })
}

async fn submit(client: &Client, many: usize) -> anyhow::Result<Vec<JobId>> {
    let mut jobs = Vec::with_capacity(many);
    while jobs.len() < many {
        let count = BATCH.min(many - jobs.len());
        let batch = SubmitBatch { atomic: true, jobs: vec![raw(r#"{"type":"bench"}"#.to_owned()); count] };
        for answer in client.batch(&batch).await? {
            let accepted = answer.map_err(|problem| anyhow!("a job is refused: {}", problem.title))?;
            jobs.push(accepted.job_id);
        }
    }
    Ok(jobs)
}

async fn cores_at_rest(node: &Node, seconds: u32) -> anyhow::Result<f64> {
    let (began, before) = (Instant::now(), node.processor()?);
    sleep(Duration::from_secs(seconds.into())).await;
    let used = node.processor()?.saturating_sub(before);
    Ok((used.as_secs_f64() / began.elapsed().as_secs_f64() * 1_000.0).round() / 1_000.0)
}

/// Cancels jobs one after the other, from all over the streams, and waits for each to be told.
async fn changes(
    client: &Client,
    jobs: &[JobId],
    many: usize,
    reads: &mut mpsc::UnboundedReceiver<Read>,
) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut wakes, mut wholes) = (Vec::with_capacity(many), Vec::with_capacity(many));
    for i in 0..many {
        let number = i * jobs.len() / many;
        let asked = Instant::now();
        client.cancel(jobs[number], None).await?;
        let answered = Instant::now();
        let told = timeout(WAKE, reads.recv()).await.context("an event was not told in time")?;
        let (who, read) = told.context("all streams have ended")?;
        ensure!(who == number, "stream {who} told an event of job {number}");
        wakes.push(read.saturating_duration_since(answered));
        wholes.push(read.saturating_duration_since(asked));
    }
    Ok((wakes, wholes))
}

impl Seen {
    fn said(&self) -> String {
        let kind = match self.kind {
            Kind::Sse => "event streams (SSE)",
            Kind::Websocket => "WebSockets",
        };
        let mut lines = vec![
            format!("{} {kind}, {}, {} node(s)", self.streams, self.engine, self.nodes),
            format!(
                "memory   {:.1} MiB without, {:.1} MiB with them: {:.1} MiB more, {:.1} KiB each",
                mib(self.memory_before),
                mib(self.memory_with_streams),
                mib(self.memory_with_streams.saturating_sub(self.memory_before)),
                self.bytes_per_stream as f64 / 1024.0
            ),
            format!("at rest  {:.3} of a core", self.cores_at_rest),
        ];
        if let (Some(wake), Some(whole)) = (self.wake, self.change_and_wake) {
            lines.push(format!(
                "wake     {} after the answer of a change ({} changes)",
                wake.said(),
                self.changes
            ));
            lines.push(format!("         {} after it was asked for", whole.said()));
        }
        lines.join("\n")
    }
}
