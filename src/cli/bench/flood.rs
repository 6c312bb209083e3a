//! `bench flood`: more submissions than a server takes.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{Method, StatusCode};
use serde::Serialize;
use tokio::task::JoinSet;

use super::figures::{micros, moment};
use super::lifecycle::stage::{Stage, WHOLE, Wanted};
use super::load::Posts;
use super::wire::Wire;
use crate::cli::exit::Exit;
use crate::cli::files;
use crate::cli::print::Out;

/// Submit from more connections than the server takes, and watch its memory and its refusals.
#[derive(Debug, Clone, clap::Args)]
pub struct FloodArgs {
    /// Beside which store a new one is made, `sqlite://PATH` or `postgres://...`; in a temporary directory by default.
    #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<String>,
    /// Connections that submit, each again as soon as it is answered.
    #[arg(long, env = "RINGBACK_CONNECTIONS", value_name = "N", default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Bytes of each job's input.
    #[arg(long, env = "RINGBACK_PAYLOAD_BYTES", value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(0..=200_000))]
    payload_bytes: u32,
    /// How long.
    #[arg(long, env = "RINGBACK_SECONDS", value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    engine: &'static str,
    connections: u32,
    accepted_per_second: f64,
    /// By status.
    answers: BTreeMap<u16, u64>,
    /// 429 and 503 that did not say when to come back.
    without_retry_after: u64,
    /// Connections that the server refused or cut.
    cut: u64,
    server_mib_before: f64,
    server_peak_mib: f64,
}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    answers: BTreeMap<u16, u64>,
    without_retry_after: u64,
    cut: u64,
}

/// Until a connection that was cut is opened anew.
const PAUSE: Duration = Duration::from_millis(50);

/// Runs `ringback bench flood`.
pub async fn run(args: FloodArgs, out: Out) -> anyhow::Result<ExitCode> {
    files::open(u64::from(args.connections) + 500)?;
    let stage = Stage::set(args.store.clone(), Wanted { whole: false, ..WHOLE }).await?;
    let before = stage.read().await?;
    let posts = Arc::new(stage.jobs(usize::try_from(args.payload_bytes)?));
    let end = moment() + Duration::from_secs(args.seconds.into());
    let mut floods = JoinSet::new();
    for _ in 0..args.connections {
        floods.spawn(flood(Arc::clone(&posts), end));
    }
    let mut report =
        Report { engine: stage.engine().word(), connections: args.connections, ..Report::default() };
    while let Some(ended) = floods.join_next().await {
        let seen = ended?;
        for (status, count) in seen.answers {
            *report.answers.entry(status).or_default() += count;
        }
        report.without_retry_after += seen.without_retry_after;
        report.cut += seen.cut;
    }
    let accepted = report.answers.get(&StatusCode::ACCEPTED.as_u16()).copied().unwrap_or(0);
    report.accepted_per_second = accepted as f64 / f64::from(args.seconds);
    // That it answers says that it has outlived the flood.
    let after = stage.read().await?;
    (report.server_mib_before, report.server_peak_mib) = (before.server_mib, after.server_peak_mib);
    stage.strike().await?;
    if out.json {
        out.value(&report)?;
    } else {
        let each: Vec<String> = report.answers.iter().map(|(status, n)| format!("{n} x {status}")).collect();
        out.say(&format!(
            "{} connections on {}: {:.0} jobs a second accepted; answers {}; {} connections cut",
            report.connections,
            report.engine,
            report.accepted_per_second,
            each.join(", "),
            report.cut
        ))?;
        out.say(&format!(
            "{} refusals without Retry-After; server {:.1} MiB before, at most {:.1}",
            report.without_retry_after, report.server_mib_before, report.server_peak_mib
        ))?;
    }
    Ok(Exit::Done.into())
}

async fn flood(posts: Arc<Posts>, end: Duration) -> Seen {
    let mut seen = Seen::default();
    let mut n = 0;
    while moment() < end {
        let Ok(mut wire) = Wire::open(&posts.urls[0], Some(&posts.key)).await else {
            seen.cut += 1;
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while moment() < end {
            n += 1;
            let body = (posts.body)(n, micros());
            let Ok(answer) = wire.ask(Method::POST, posts.path, body).await else {
                seen.cut += 1;
                tokio::time::sleep(PAUSE).await;
                break;
            };
            let status = answer.status();
            *seen.answers.entry(status.as_u16()).or_default() += 1;
            let refused = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
            if refused && !answer.headers().contains_key(RETRY_AFTER) {
                seen.without_retry_after += 1;
            }
        }
    }
    seen
}
