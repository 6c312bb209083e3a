//! `bench backlog`: many jobs that wait, and many more that are finished.

use std::process::ExitCode;

use super::compare::{GrowthArgs, Pair, Words, tell};
use crate::cli::bench::lifecycle::stage::{WHOLE, Wanted};
use crate::cli::print::Out;
use crate::store::bench::{Filled, fill};

/// A store with a million due and ten million finished jobs against an empty one.
///
/// The worker claims the due jobs first, as many as are submitted meanwhile: each job that is accepted has one that is
/// claimed, completed and called back, and the backlog stays as long as it is.
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
    let wanted = Wanted { paced: true, ..WHOLE };
    let mut pair = Pair::set(&args.growth, wanted, wanted).await?;
    pair.other.down().await?;
    fill(pair.other.store(), Filled { due: args.due, finished: args.finished }).await?;
    pair.other.serve().await?;
    let seen = pair.jobs(&args.growth).await?;
    pair.strike().await?;
    let other = format!("{} due and {} finished", args.due, args.finished);
    tell(&Words { what: "backlog", base: "empty", other: &other, first: None }, seen, out)
}
