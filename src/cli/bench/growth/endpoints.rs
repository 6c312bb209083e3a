//! `bench endpoints`: callbacks over very many lanes.

use std::process::ExitCode;

use super::compare::{GrowthArgs, Pair, Words, tell};
use crate::cli::bench::lifecycle::once;
use crate::cli::bench::lifecycle::stage::{WHOLE, Wanted};
use crate::cli::print::Out;

/// Callbacks to 100,000 standing endpoints in turn, each a lane of its own, against as many callbacks to one.
///
/// Each endpoint signs with a secret of its own, so the receiver verifies nothing, on either side.
#[derive(Debug, Clone, clap::Args)]
pub struct EndpointsArgs {
    /// How many there are.
    #[arg(long, env = "RINGBACK_ENDPOINTS", value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    endpoints: u64,
    #[command(flatten)]
    growth: GrowthArgs,
}

/// Endpoints of one account.
const TOGETHER: u64 = 50;

/// Runs `ringback bench endpoints`.
pub async fn endpoints(args: EndpointsArgs, out: Out) -> anyhow::Result<ExitCode> {
    let wanted = Wanted { verified: false, ..WHOLE };
    let mut pair = Pair::set(&args.growth, wanted, wanted).await?;
    for (stage, endpoints) in [(&mut pair.base, 1), (&mut pair.other, args.endpoints)] {
        let ids = stage.endpoints(endpoints, "[]", TOGETHER).await?;
        stage.call_back(&ids);
    }
    // So all of their lanes are there, and no round meets a lane for the first time.
    pair.other.work().await?;
    let first = once(&pair.other, &args.growth.pace, args.endpoints).await?;
    pair.other.rest().await?;
    let seen = pair.jobs(&args.growth).await?;
    pair.strike().await?;
    let other = format!("{} endpoints", args.endpoints);
    tell(&Words { what: "endpoints", base: "one endpoint", other: &other, first: Some(first) }, seen, out)
}
