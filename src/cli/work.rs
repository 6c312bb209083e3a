//! `work --exec`: a worker whose handler is a command.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::exit::Exit;
use super::{Remote, exec, stop};
use crate::worker;

/// Work off a queue by running a command for each job.
///
/// The command gets the input on standard input and RINGBACK_JOB_ID, RINGBACK_JOB_TYPE and
/// RINGBACK_ATTEMPT in its environment, but none of the variables that carry keys and secrets. What
/// it prints is the result (JSON if it is JSON); a line `::progress 40 some words` on standard error
/// tells how far it is. Any exit code but 0 fails the attempt, with the last lines of standard error
/// as the reason. On a cancel it gets SIGTERM, and SIGKILL 5 s later. SIGTERM, SIGINT and, unless it is
/// ignored, SIGHUP stop the worker.
#[derive(Debug, clap::Args)]
pub struct WorkArgs {
    #[command(flatten)]
    remote: Remote,
    /// The command, run by `sh -c`.
    #[arg(long, env = "RINGBACK_EXEC", value_name = "CMD")]
    exec: String,
    /// The queue to claim from.
    #[arg(long, env = "RINGBACK_QUEUE", default_value = "default")]
    queue: String,
    /// Only jobs of these types.
    #[arg(long, env = "RINGBACK_TYPES", value_delimiter = ',', value_name = "A,B")]
    types: Vec<String>,
    /// How many jobs run at a time.
    #[arg(long, env = "RINGBACK_CONCURRENCY", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=500))]
    concurrency: u32,
    /// How long the service waits for a sign of life of this worker.
    #[arg(long, env = "RINGBACK_LEASE_SECONDS", value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    lease_seconds: u32,
    /// How long running jobs may go on after SIGTERM. 10 s later the worker has ended in any case.
    #[arg(long, env = "RINGBACK_GRACE_SECONDS", value_name = "N", default_value_t = 20)]
    grace_seconds: u32,
    /// A failed attempt fails the job; only exit code 75 (EX_TEMPFAIL) is tried again.
    #[arg(long, env = "RINGBACK_NO_RETRY")]
    no_retry: bool,
    /// Who this worker is, for people who look.
    #[arg(long, env = "RINGBACK_WORKER_ID", value_name = "NAME")]
    worker_id: Option<String>,
}

/// Runs `ringback work` until a signal comes.
pub async fn run(args: WorkArgs) -> anyhow::Result<ExitCode> {
    let stop = stop::on_signal_or_hangup()?;
    let client = args.remote.client()?;
    let options = worker::Options {
        queue: args.queue,
        types: args.types,
        concurrency: usize::try_from(args.concurrency)?,
        lease: Duration::from_secs(args.lease_seconds.into()),
        grace: Duration::from_secs(args.grace_seconds.into()),
        worker_id: args.worker_id,
    };
    let command = Arc::new(exec::Command { line: args.exec, retry: !args.no_retry });
    tracing::info!(queue = %options.queue, concurrency = options.concurrency, "working");
    worker::run(client, options, move |task| Arc::clone(&command).run(task), stop).await?;
    Ok(Exit::Done.into())
}
