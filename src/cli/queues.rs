//! `queues`: what waits for workers, and what is set for it.

use std::process::ExitCode;

use super::exit::{Exit, Usage};
use super::print::{Out, or_dash, time};
use super::{PageArgs, Remote};
use crate::client::Client;
use crate::types::{Millis, api};

/// Look at queues, pause them and limit them.
#[derive(Debug, clap::Args)]
pub struct QueuesArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List queues by name.
    List {
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show how a queue stands.
    Show {
        /// The queue.
        queue: String,
    },
    /// Hand out no jobs of a queue; what runs goes on, what is submitted is taken.
    Pause {
        /// The queue.
        queue: String,
        /// When it goes on by itself; when it is resumed by default.
        #[arg(long, env = "RINGBACK_UNTIL", value_name = "INSTANT")]
        until: Option<Millis>,
    },
    /// Hand out jobs of a queue again.
    Resume {
        /// The queue.
        queue: String,
    },
    /// Change what is set for a queue.
    Set(SetArgs),
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// The queue.
    queue: String,
    /// How many of its jobs may be leased at once, over all nodes.
    #[arg(long, env = "RINGBACK_MAX_IN_FLIGHT", value_name = "N")]
    max_in_flight: Option<u32>,
    /// Take the limit away.
    #[arg(long, env = "RINGBACK_UNLIMITED")]
    unlimited: bool,
}

impl SetArgs {
    /// Not a rule of the arguments: they would take `RINGBACK_UNLIMITED=0` for a wish.
    fn limit(&self) -> Result<Option<u32>, Usage> {
        match (self.max_in_flight, self.unlimited) {
            (limit @ Some(_), false) | (limit @ None, true) => Ok(limit),
            (None, false) => Err(Usage("say --max-in-flight N or --unlimited".to_owned())),
            (Some(_), true) => Err(Usage("--max-in-flight and --unlimited exclude each other".to_owned())),
        }
    }
}

/// Runs `ringback queues`.
pub async fn run(args: QueuesArgs, out: Out) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    match args.what {
        What::List { page } => list(&client, page, out).await?,
        What::Show { queue } => show(&client.queue(&queue).await?, out)?,
        What::Pause { queue, until } => show(&client.pause_queue(&queue, until).await?, out)?,
        What::Resume { queue } => show(&client.resume_queue(&queue).await?, out)?,
        What::Set(set) => {
            let change = api::ChangeQueue { max_in_flight: Some(set.limit()?) };
            show(&client.change_queue(&set.queue, &change).await?, out)?;
        }
    }
    Ok(Exit::Done.into())
}

async fn list(client: &Client, page: PageArgs, out: Out) -> anyhow::Result<()> {
    let page = client.queues(&page.into()).await?;
    let head =
        ["QUEUE", "STATE", "DEPTH", "SCHEDULED", "PROCESSING", "OLDEST DUE", "WAIT P50/P95", "RUN P50/P95"];
    out.page(&page, &head, |queue| {
        vec![
            queue.queue.clone(),
            queue.state.as_str().to_owned(),
            queue.depth.to_string(),
            queue.scheduled.to_string(),
            processing(queue),
            or_dash(queue.oldest_due.map(time)),
            or_dash(both(queue.wait_p50_ms, queue.wait_p95_ms)),
            or_dash(both(queue.run_p50_ms, queue.run_p95_ms)),
        ]
    })
}

fn show(queue: &api::Queue, out: Out) -> anyhow::Result<()> {
    let oldest = queue.oldest_age_seconds.map(|age| format!("{age} s"));
    out.one(
        queue,
        &[
            ("queue", Some(queue.queue.clone())),
            ("state", Some(queue.state.as_str().to_owned())),
            ("paused until", queue.paused_until.map(time)),
            ("depth", Some(queue.depth.to_string())),
            ("scheduled", Some(queue.scheduled.to_string())),
            ("processing", Some(processing(queue))),
            ("oldest due", queue.oldest_due.map(time)),
            ("oldest waits", oldest),
            ("wait p50/p95", both(queue.wait_p50_ms, queue.wait_p95_ms)),
            ("run p50/p95", both(queue.run_p50_ms, queue.run_p95_ms)),
        ],
    )
}

fn processing(queue: &api::Queue) -> String {
    match queue.max_in_flight {
        Some(most) => format!("{}/{most}", queue.processing),
        None => queue.processing.to_string(),
    }
}

fn both(p50: Option<u32>, p95: Option<u32>) -> Option<String> {
    Some(format!("{}/{} ms", p50?, p95?))
}
