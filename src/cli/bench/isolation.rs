//! `bench isolation`: what healthy endpoints notice of neighbours that hang, drip and refuse.

mod crowd;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::super::check_store;
use super::super::print::Out;
use super::figures::Spread;
use super::load::{Load, Until};
use super::tell;
use crowd::Crowd;
use stage::{Seen, Stage};

/// Healthy endpoints, alone and then beside bad ones: how much later and how many fewer their deliveries arrive.
#[derive(Debug, Clone, clap::Args)]
pub struct IsolationArgs {
    #[command(flatten)]
    crowd: Crowd,
    /// Where everything is kept: `sqlite://PATH` or `postgres://...`; a new SQLite file by default.
    #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<String>,
    /// Events a second while times are measured, each of one account and told to all of its endpoints.
    #[arg(long, env = "RINGBACK_RATE", value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How long each phase lasts.
    #[arg(long, env = "RINGBACK_SECONDS", value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// How often all phases are repeated.
    #[arg(long, env = "RINGBACK_ROUNDS", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Connections that publish.
    #[arg(long, env = "RINGBACK_CONNECTIONS", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// How many healthy deliveries may be under way while throughput is measured.
    #[arg(long, env = "RINGBACK_WINDOW", value_name = "N", default_value_t = 2_000)]
    window: u64,
}

/// The healthy deliveries of one kind of phase, over all rounds.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Share {
    /// From the moment the schedule wanted the event published to the receiver, at the rate; one for each round.
    published_to_seen: Vec<Spread>,
    /// As many a second as go.
    per_second: Vec<f64>,
    deliveries: u64,
    /// Requests beyond the first of a delivery.
    repeats: usize,
    /// Attempts that failed; beside bad neighbours those at them.
    failed_attempts: f64,
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    engine: &'static str,
    #[serde(flatten)]
    crowd: Crowd,
    rate: u32,
    seconds: u64,
    rounds: u32,
    alone: Share,
    beside: Share,
    p99_ratio: f64,
    throughput_ratio: f64,
}

/// Until everything has settled once, unmeasured.
const WARM_UP: Duration = Duration::from_secs(3);

/// Runs `ringback bench isolation`.
pub async fn run(args: IsolationArgs, out: Out) -> anyhow::Result<ExitCode> {
    args.store.as_deref().map_or(Ok(()), check_store)?;
    tell(&measure(&args).await?, Report::said, out)
}

async fn measure(args: &IsolationArgs) -> anyhow::Result<Report> {
    let stage = Stage::set(args.store.clone(), args.crowd).await?;
    let engine = stage.engine.word();
    let most = Load { connections: args.connections, rate: None, window: args.window };
    let paced = Load { rate: Some(args.rate), ..most };
    stage.phase(paced, Until::Passed(WARM_UP.min(Duration::from_secs(args.seconds)))).await?;
    let (mut alone, mut beside) = (Share::default(), Share::default());
    let phase = async |load| stage.phase(load, Until::Passed(Duration::from_secs(args.seconds))).await;
    for round in 0..args.rounds {
        // Who comes first alternates: the store grows with each phase, which slows down whatever comes later.
        let alone_first = round % 2 == 0;
        for load in [paced, most] {
            if alone_first {
                alone.add(load, phase(load).await?);
            }
            // The bad ones are new to the server in each phase: it has yet to find out.
            let neighbours = stage.neighbours().await?;
            beside.add(load, phase(load).await?);
            stage.part_from(neighbours).await?;
            if !alone_first {
                alone.add(load, phase(load).await?);
            }
        }
    }
    stage.strike().await?;
    Ok(Report {
        engine,
        crowd: args.crowd,
        rate: args.rate,
        seconds: args.seconds,
        rounds: args.rounds,
        p99_ratio: hundredths(beside.p99() / alone.p99()),
        throughput_ratio: hundredths(beside.most() / alone.most()),
        alone,
        beside,
    })
}

fn hundredths(ratio: f64) -> f64 {
    (ratio * 100.0).round() / 100.0
}

fn mean(of: impl ExactSizeIterator<Item = f64>) -> f64 {
    let many = of.len().max(1) as f64;
    of.sum::<f64>() / many
}

impl Share {
    fn add(&mut self, load: Load, seen: Seen) {
        match load.rate {
            Some(_) => self.published_to_seen.extend(seen.times),
            None => self.per_second.push((seen.deliveries as f64 / seen.took.as_secs_f64()).round()),
        }
        self.deliveries += seen.deliveries;
        self.repeats += seen.repeats;
        self.failed_attempts += seen.failed_attempts;
    }

    /// The mean of the rounds.
    fn p99(&self) -> f64 {
        mean(self.published_to_seen.iter().map(|spread| spread.p99_ms))
    }

    fn most(&self) -> f64 {
        mean(self.per_second.iter().copied())
    }

    fn said(&self) -> String {
        let times: Vec<String> = self.published_to_seen.iter().map(Spread::said).collect();
        format!("{}; {:.0} a second at most", times.join(" | "), self.most())
    }
}

impl Report {
    fn said(&self) -> String {
        [
            format!("{}, {}", self.crowd.said(), self.engine),
            format!("alone   {}", self.alone.said()),
            format!("beside  {}", self.beside.said()),
            format!(
                "beside them: p99 {:.2} times as long, throughput {:.0} %; {} healthy deliveries, none lost, {} repeated; {:.0} attempts failed",
                self.p99_ratio,
                100.0 * self.throughput_ratio,
                self.alone.deliveries + self.beside.deliveries,
                self.alone.repeats + self.beside.repeats,
                self.beside.failed_attempts,
            ),
        ]
        .join("\n")
    }
}
