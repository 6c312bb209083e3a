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
    #[command(flatten)]
    Measure(Measure),
    Receiver(receiver::ReceiverArgs),
    #[command(hide = true)]
    Stub(stub::StubArgs),
    Worker(worker::WorkerArgs),
}

#[derive(Debug, clap::Subcommand)]
enum Measure {
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
}

/// Runs `ringback bench`.
pub async fn run(args: BenchArgs, out: Out) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Measure(what) => {
            // Dropped, a measurement takes its processes, stores and files away.
            let stop = stop::on_signal_or_hangup()?;
            stop.run_until_cancelled(measure(what, out)).await.context("interrupted")?
        }
        What::Stub(args) => stub::run(args, out).await,
        What::Receiver(args) => receiver::run(args, out).await,
        What::Worker(args) => worker::run(args).await,
    }
}

async fn measure(what: Measure, out: Out) -> anyhow::Result<ExitCode> {
    match what {
        Measure::Isolation(args) => isolation::run(args, out).await,
        Measure::Lifecycle(args) => lifecycle::run(args, out).await,
        Measure::Submit(args) => lifecycle::submit(args, out).await,
        Measure::Backlog(args) => growth::backlog(args, out).await,
        Measure::Snapshot(args) => growth::snapshot(args, out).await,
        Measure::Endpoints(args) => growth::endpoints(args, out).await,
        Measure::Fanout(args) => growth::fanout(args, out).await,
        Measure::Nodes(args) => growth::nodes(args, out).await,
        Measure::Flood(args) => flood::run(args, out).await,
        Measure::Idle(args) => idle::run(args, out).await,
        Measure::Streams(args) => streams::run(args, out).await,
        Measure::Parked(args) => parked::run(args, out).await,
    }
}

/// Tells what was seen, in JSON or as `said`.
fn tell<R: Serialize>(report: &R, said: impl FnOnce(&R) -> String, out: Out) -> anyhow::Result<ExitCode> {
    match out.json {
        true => out.value(report)?,
        false => out.say(&said(report))?,
    }
    Ok(Exit::Done.into())
}
