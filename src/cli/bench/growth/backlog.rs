//! `bench backlog`: many jobs that wait, and many more that are finished.

use std::process::ExitCode;

use super::compare::{GrowthArgs, Pair, Words, tell};
use crate::cli::bench::lifecycle::stage::WHOLE;
use crate::cli::print::Out;
use crate::store::bench::{Filled, fill};

/// A store with a million due and ten million finished jobs against an empty one.
///
/// The worker claims the due jobs first, and they are called back as the others are: a round ends with as many
/// callbacks as it submitted jobs.
#[derive(Debug, Clone, clap::Args)]
pub struct BacklogArgs {
    /// Jobs that wait in the queue from which the worker claims.
    #[arg(long, env = "RINGBACK_DUE", value_name = "N", default_value_t = 1_000_000)]
    due: u64,
    /// Jobs that were completed and called back.
    #[arg(long, env = "RINGBACK_FINISHED", value_name = "N", default_value_t = 10_000_000)]
    finished: u64,
    #[command(flatten)]
    growth: GrowthArgs,
}

/// Runs `ringback bench backlog`.
pub async fn backlog(args: BacklogArgs, out: Out) -> anyhow::Result<ExitCode> {
    let mut pair = Pair::set(&args.growth, WHOLE, WHOLE).await?;
    pair.other.down().await?;
    fill(pair.other.store(), Filled { due: args.due, finished: args.finished }).await?;
    pair.other.serve().await?;
    let seen = pair.jobs(&args.growth).await?;
    pair.strike().await?;
    let other = format!("{} due and {} finished", args.due, args.finished);
    tell(&Words { what: "backlog", base: "empty", other: &other }, seen, out)
}
