//! `bench`: the figures that the documentation gives, measured on the machine at hand.
//!
//! A program and no test: it says what it saw and judges nothing.

mod figures;
mod flood;
mod growth;
mod idle;
mod isolation;
mod lifecycle;
mod load;
mod node;
mod parked;
mod part;
mod readers;
mod receiver;
mod streams;
mod stub;
mod wire;
mod worker;

use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use super::exit::Exit;
use super::print::Out;
use super::stop;

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
    Submit(lifecycle::SubmitArgs),
    Backlog(growth::BacklogArgs),
    Snapshot(growth::SnapshotArgs),
    Endpoints(growth::EndpointsArgs),
    Fanout(growth::FanoutArgs),
    Nodes(growth::NodesArgs),
    Flood(flood::FloodArgs),
    Idle(idle::IdleArgs),
    Streams(streams::StreamsArgs),
    Parked(parked::ParkedArgs),
    Receiver(receiver::ReceiverArgs),
    #[command(hide = true)]
    Stub(stub::StubArgs),
    Worker(worker::WorkerArgs),
}

/// Runs `ringback bench`.
pub async fn run(args: BenchArgs, out: Out) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Isolation(args) => isolation::run(args, out).await,
        What::Lifecycle(args) => lifecycle::run(args, out).await,
        What::Submit(args) => lifecycle::submit(args, out).await,
        What::Backlog(args) => growth::backlog(args, out).await,
        What::Snapshot(args) => growth::snapshot(args, out).await,
        What::Endpoints(args) => growth::endpoints(args, out).await,
        What::Fanout(args) => growth::fanout(args, out).await,
        What::Nodes(args) => growth::nodes(args, out).await,
        What::Flood(args) => flood::run(args, out).await,
        What::Idle(args) => idle::run(args, out).await,
        What::Streams(args) => streams::run(args, out).await,
        What::Parked(args) => parked::run(args, out).await,
        What::Stub(args) => stub::run(args, out).await,
        What::Receiver(args) => receiver::run(args, out).await,
        What::Worker(args) => worker::run(args).await,
    }
}

/// Measures until that is done or a signal comes, and tells what was seen, in JSON or as `said`.
async fn measured<R: Serialize>(
    measure: impl Future<Output = anyhow::Result<R>>,
    said: impl FnOnce(&R) -> String,
    out: Out,
) -> anyhow::Result<ExitCode> {
    let stop = stop::on_signal()?;
    let report = stop.run_until_cancelled(measure).await.context("interrupted")??;
    match out.json {
        true => out.value(&report)?,
        false => out.say(&said(&report))?,
    }
    Ok(Exit::Done.into())
}
