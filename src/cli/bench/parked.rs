//! `bench parked`: what a paused endpoint is owed is let go when it is resumed, and never faster than is set for it.
//!
//! The receiver is the judge: it counts what is under way there and when each request began.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http::Method;
use serde::Serialize;
use serde_json::json;

use super::figures::{micros, moment, verdicts};
use super::node::Node;
use super::part::Part;
use super::receiver::{Ready, Seen};
use super::tell;
use super::wire::Wire;
use crate::cli::check_store;
use crate::cli::place::Place;
use crate::cli::print::Out;
use crate::client::SubmitOptions;
use crate::dice::Dice;
use crate::store::db::Engine;
use crate::types::EndpointId;
use crate::types::api::{ChangeEndpoint, NewEndpoint};
use crate::types::key::ApiKey;

/// Park deliveries of a paused endpoint, resume it, and hold what its receiver sees against what is set for it.
#[derive(Debug, Clone, clap::Args)]
pub struct ParkedArgs {
    /// How many deliveries are parked.
    #[arg(long, env = "RINGBACK_DELIVERIES", value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    deliveries: u32,
    /// The endpoint's `rateLimitPerSecond`.
    #[arg(long, env = "RINGBACK_RATE_LIMIT", value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate_limit: u32,
    /// The endpoint's `maxInFlight`.
    #[arg(long, env = "RINGBACK_MAX_IN_FLIGHT", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=512))]
    max_in_flight: u32,
    /// How long the receiver takes for each, in milliseconds.
    #[arg(long, env = "RINGBACK_ANSWER_MS", value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    answer_ms: u32,
    /// Where everything is kept, `sqlite://PATH` or `postgres://...`; it is left there. A temporary SQLite file by default.
    #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<String>,
}

/// Events of one request.
const BATCH: u32 = 250;
/// Deliveries that a resume lets go at once; each second twice as many, up to the most.
const RAMP: (u64, u64) = (10, 2_000);
/// Nothing may stand still for so long.
const STILL: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    engine: &'static str,
    deliveries: u32,
    /// Until all were published, and so parked.
    park_seconds: f64,
    /// From the resume until the last was recorded.
    seconds: f64,
    deliveries_per_second: f64,
    max_in_flight: u32,
    most_in_flight: usize,
    rate_limit_per_second: u32,
    /// The most requests that began within any one second.
    busiest_second: usize,
    /// How many requests began in each of the first seconds.
    first_seconds: Vec<usize>,
    repeats: usize,
    bad_signatures: usize,
}

/// Runs `ringback bench parked`.
pub async fn run(args: ParkedArgs, out: Out) -> anyhow::Result<ExitCode> {
    args.store.as_deref().map_or(Ok(()), check_store)?;
    tell(&measure(&args).await?, Report::said, out)
}

async fn measure(args: &ParkedArgs) -> anyhow::Result<Report> {
    let place = Place::make("bench")?;
    let store = args.store.clone().unwrap_or_else(|| place.store());
    let key = ApiKey::mint(Dice::Os.bytes()).reveal().to_owned();
    let server = Node::start(&store, &key, place.path()).await?;
    // Its secret is known when it is made, and its receiver when that has begun.
    let endpoint = NewEndpoint {
        url: "http://127.0.0.1:9/".to_owned(),
        events: Some(vec!["bench.parked".to_owned()]),
        rate_limit_per_second: Some(args.rate_limit),
        max_in_flight: Some(args.max_in_flight),
        ..NewEndpoint::default()
    };
    let made = server.client.create_endpoint(&endpoint, SubmitOptions::default()).await?;
    let secret = made.secret.context("a new endpoint without a secret")?;
    let env = [("RINGBACK_SECRET", secret.as_str())];
    let (receiver, ready): (Part, Ready) =
        Part::start("receiver", &["bench", "receiver"], &env, place.path()).await?;
    let url = format!("{}/after/{}", ready.listening, args.answer_ms);
    let change = ChangeEndpoint { url: Some(url), ..ChangeEndpoint::default() };
    server.client.change_endpoint(made.endpoint_id, &change).await?;

    let began = moment();
    let mut wire = Wire::open(&server.url, Some(&key)).await?;
    server.client.pause_endpoint(made.endpoint_id).await?;
    publish(&mut wire, args.deliveries).await?;
    let parked = moment();
    let seen = drain(&server, made.endpoint_id, wire, &ready.listening, args.deliveries).await?;
    let took = moment().saturating_sub(parked).as_secs_f64();

    server.stop().await?;
    receiver.stop().await?;
    let report = Report {
        engine: Engine::of(&store)?.word(),
        deliveries: args.deliveries,
        park_seconds: parked.saturating_sub(began).as_secs_f64(),
        seconds: took,
        deliveries_per_second: f64::from(args.deliveries) / took,
        max_in_flight: args.max_in_flight,
        most_in_flight: seen.most_in_flight,
        rate_limit_per_second: args.rate_limit,
        busiest_second: seen.busiest_second,
        first_seconds: seen.first_seconds,
        repeats: seen.repeats,
        bad_signatures: seen.bad_signatures,
    };
    report.within_limits()?;
    Ok(report)
}

/// Publishes so many events. A busy store is asked again; an event's own id keeps it from being made twice.
async fn publish(wire: &mut Wire, deliveries: u32) -> anyhow::Result<()> {
    let (run, mut done) = (micros(), 0);
    while done < deliveries {
        let end = deliveries.min(done + BATCH);
        let event = |n: u32| json!({"type": "bench.parked", "id": format!("{run}-{n}"), "data": {"n": n}});
        let batch = json!({"events": (done..end).map(event).collect::<Vec<_>>()}).to_string();
        wire.must(Method::POST, "/v1/events/batch", batch).await?;
        done = end;
    }
    Ok(())
}

/// Resumes the endpoint and waits until every delivery is recorded; gives what the receiver saw since.
async fn drain(
    server: &Node,
    endpoint: EndpointId,
    mut wire: Wire,
    hooks: &str,
    deliveries: u32,
) -> anyhow::Result<Seen> {
    let mut receiver = Wire::open(hooks, None).await?;
    let seen: Seen = serde_json::from_slice(&receiver.must(Method::GET, "/figures", "").await?)?;
    ensure!(seen.deliveries == 0, "{} deliveries left while the endpoint was paused", seen.deliveries);
    // From here on its seconds are counted.
    receiver.must(Method::POST, "/reset", "").await?;
    server.client.resume_endpoint(endpoint).await?;
    let (mut done, mut moved) = (0.0, moment());
    while done < f64::from(deliveries) {
        tokio::time::sleep(LOOK).await;
        let metrics = wire.must(Method::GET, "/metrics", "").await?;
        let now = verdicts(str::from_utf8(&metrics)?, "delivered");
        if now > done {
            (done, moved) = (now, moment());
        } else if moment().saturating_sub(moved) > STILL {
            bail!("{done} of {deliveries} deliveries are recorded, and no more for {} s", STILL.as_secs());
        }
    }
    Ok(serde_json::from_slice(&receiver.must(Method::GET, "/figures", "").await?)?)
}

impl Report {
    /// What a receiver can be sure of, whatever the machine does. A request may be late, so the rate holds from the
    /// first to the last request, and within a single second only nearly.
    fn within_limits(&self) -> anyhow::Result<()> {
        ensure!(self.bad_signatures == 0, "{} signatures do not hold", self.bad_signatures);
        ensure!(
            self.most_in_flight <= self.max_in_flight as usize,
            "{} requests were under way at once, {} are allowed",
            self.most_in_flight,
            self.max_in_flight
        );
        let (mut step, mut let_go, mut came) = (RAMP.0, 0, 0);
        for (second, n) in self.first_seconds.iter().enumerate() {
            (let_go, came) = (let_go + step, came + *n as u64);
            step = (2 * step).min(RAMP.1);
            ensure!(came <= let_go, "{came} came in {} s, {let_go} were to be let go", second + 1);
        }
        let rate = f64::from(self.rate_limit_per_second);
        let most = rate * self.seconds + (rate / 10.0).max(1.0);
        ensure!(
            f64::from(self.deliveries) <= most,
            "{} came in {:.1} s, {rate} a second are allowed",
            self.deliveries,
            self.seconds
        );
        Ok(())
    }

    fn said(&self) -> String {
        format!(
            "{} deliveries parked on {} in {:.1} s; resumed, all were delivered in {:.1} s: {:.0} a second\n\
             under way at once: at most {} of {}\n\
             begun within one second: at most {}, {} a second are set\n\
             begun in the first seconds: {:?}\n\
             {} repeats",
            self.deliveries,
            self.engine,
            self.park_seconds,
            self.seconds,
            self.deliveries_per_second,
            self.most_in_flight,
            self.max_in_flight,
            self.busiest_second,
            self.rate_limit_per_second,
            self.first_seconds,
            self.repeats,
        )
    }
}
