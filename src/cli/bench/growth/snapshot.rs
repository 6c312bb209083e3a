//! `bench snapshot`: a snapshot that someone holds, so that nothing that is dead can be removed.

use std::process::ExitCode;
use std::time::Duration;

use super::compare::{GrowthArgs, Pair, Words, tell};
use crate::cli::bench::lifecycle::stage::{Stage, WHOLE};
use crate::cli::bench::load::Until;
use crate::cli::print::Out;
use crate::store::bench::Held;

/// A store under an open snapshot against one without, until the first has worked under it for a minute.
#[derive(Debug, Clone, clap::Args)]
pub struct SnapshotArgs {
    /// How long the store under the snapshot is at work, in rounds of a few seconds each.
    #[arg(long, env = "RINGBACK_HOLD_SECONDS", value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    hold_seconds: u32,
    #[command(flatten)]
    growth: GrowthArgs,
}

/// Seconds of a round.
const ROUND: u32 = 10;

/// Runs `ringback bench snapshot`.
pub async fn snapshot(args: SnapshotArgs, out: Out) -> anyhow::Result<ExitCode> {
    let mut pair = Pair::set(&args.growth, WHOLE, WHOLE).await?;
    let held = Held::open(pair.other.store()).await?;
    let bytes = usize::try_from(args.growth.pace.payload_bytes)?;
    let jobs = |stage: &Stage| stage.jobs(bytes);
    let until = Until::Passed(Duration::from_secs(args.hold_seconds.min(ROUND).into()));
    let rounds = args.hold_seconds.div_ceil(ROUND);
    let seen = pair.rounds(&args.growth, rounds, [(&jobs, until), (&jobs, until)]).await?;
    held.release().await?;
    pair.strike().await?;
    tell(&Words { what: "snapshot", base: "none", other: "held", first: None }, seen, out)
}
