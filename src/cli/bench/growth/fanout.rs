//! `bench fanout`: one event to many endpoints.

use std::process::ExitCode;

use super::compare::{GrowthArgs, Pair, Words, tell};
use crate::cli::bench::lifecycle::stage::{Stage, WHOLE, Wanted};
use crate::cli::bench::load::Until;
use crate::cli::print::Out;

/// A few published events to many endpoints each, against as many deliveries of events to one endpoint.
///
/// What is told as jobs are deliveries here. `--jobs` is how many of them a round has at least.
#[derive(Debug, Clone, clap::Args)]
pub struct FanoutArgs {
    /// How many endpoints an event has.
    #[arg(long, env = "RINGBACK_ENDPOINTS", value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    endpoints: u64,
    #[command(flatten)]
    growth: GrowthArgs,
}

/// Runs `ringback bench fanout`.
pub async fn fanout(args: FanoutArgs, out: Out) -> anyhow::Result<ExitCode> {
    let wanted = Wanted { verified: false, ..WHOLE };
    let mut pair = Pair::set(&args.growth, wanted, wanted).await?;
    for (stage, endpoints) in [(&pair.base, 1), (&pair.other, args.endpoints)] {
        stage.endpoints(endpoints, r#"["bench.told"]"#, endpoints).await?;
    }
    let bytes = usize::try_from(args.growth.pace.payload_bytes)?;
    let events = args.growth.jobs.div_ceil(args.endpoints);
    let one = |stage: &Stage| stage.events(bytes, 1);
    let all = |stage: &Stage| stage.events(bytes, args.endpoints);
    let (singles, wide) = (Until::Posted(events * args.endpoints), Until::Posted(events));
    let seen = pair.rounds(&args.growth, args.growth.rounds, [(&one, singles), (&all, wide)]).await?;
    pair.strike().await?;
    let other = format!("events to {} endpoints", args.endpoints);
    tell(&Words { what: "fan-out", base: "events to one endpoint", other: &other, first: None }, seen, out)
}
