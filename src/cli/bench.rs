//! `bench`: the figures that the documentation gives, measured on the machine at hand.
//!
//! A program and no test: it says what it saw and judges nothing.

mod figures;
mod isolation;
mod lifecycle;
mod load;
mod node;
mod parked;
mod part;
mod readers;
mod receiver;
mod streams;
mod wire;
mod worker;

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
    Isolation(isolation::IsolationArgs),
    Lifecycle(lifecycle::LifecycleArgs),
    Streams(streams::StreamsArgs),
    Parked(parked::ParkedArgs),
    Receiver(receiver::ReceiverArgs),
    Worker(worker::WorkerArgs),
}

/// Runs `ringback bench`.
pub async fn run(args: BenchArgs, out: Out) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Isolation(args) => isolation::run(args, out).await,
        What::Lifecycle(args) => lifecycle::run(args, out).await,
        What::Streams(args) => streams::run(args, out).await,
        What::Parked(args) => parked::run(args, out).await,
        What::Receiver(args) => receiver::run(args, out).await,
        What::Worker(args) => worker::run(args).await,
    }
}
