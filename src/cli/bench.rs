//! `bench`: the figures that the documentation gives, measured on the machine at hand.
//!
//! A program and no test: it says what it saw and judges nothing.

mod figures;
mod node;
mod readers;
mod streams;

use std::process::ExitCode;

use super::print::Out;

/// Measure what this program does on this machine.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Streams(streams::StreamsArgs),
}

/// Runs `ringback bench`.
pub async fn run(args: BenchArgs, out: Out) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Streams(args) => streams::run(args, out).await,
    }
}
