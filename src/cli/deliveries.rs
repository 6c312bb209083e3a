//! `deliveries`: what is on its way to receivers.

use std::process::ExitCode;

use super::exit::Exit;
use super::print::{Out, or_dash, time};
use super::replay::{self, ReplayArgs};
use super::{PageArgs, Remote};
use crate::client::{Client, DeliveryQuery};
use crate::types::delivery::DeliveryState;
use crate::types::{DeliveryId, EndpointId, JobId, api};

/// Look at deliveries and change their course.
#[derive(Debug, clap::Args)]
pub struct DeliveriesArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List deliveries, newest first.
    List(Box<ListArgs>),
    /// Show one delivery and every request that was made for it.
    Get {
        /// The delivery.
        delivery_id: DeliveryId,
    },
    /// Say why a delivery stands where it stands, and what happens next.
    Explain {
        /// The delivery.
        delivery_id: DeliveryId,
    },
    /// Begin a new round of attempts now, under the same webhook-id.
    Retry {
        /// The delivery.
        delivery_id: DeliveryId,
    },
    /// Send deliveries again that have ended, under their old webhook-id; without a filter all in that state.
    Replay {
        /// delivered, dead or cancelled.
        #[arg(long, env = "RINGBACK_STATE")]
        state: DeliveryState,
        #[command(flatten)]
        args: Box<ReplayArgs>,
    },
    /// Take back a delivery that has not ended.
    Cancel {
        /// The delivery.
        delivery_id: DeliveryId,
    },
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Of this job.
    #[arg(long, env = "RINGBACK_JOB_ID")]
    job_id: Option<JobId>,
    /// To this endpoint.
    #[arg(long, env = "RINGBACK_ENDPOINT_ID")]
    endpoint_id: Option<EndpointId>,
    /// Of this account.
    #[arg(long, env = "RINGBACK_ACCOUNT")]
    account: Option<String>,
    /// pending, inFlight, delivered, dead, held or cancelled.
    #[arg(long, env = "RINGBACK_STATE")]
    state: Option<String>,
    /// To this host.
    #[arg(long, env = "RINGBACK_HOST")]
    host: Option<String>,
    #[command(flatten)]
    page: PageArgs,
}

/// Runs `ringback deliveries`.
pub async fn run(args: DeliveriesArgs, out: Out) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    match args.what {
        What::List(list) => self::list(&client, *list, out).await?,
        What::Get { delivery_id } => show(&client.delivery(delivery_id).await?, out)?,
        What::Explain { delivery_id } => explain(&client.explain(delivery_id).await?, out)?,
        What::Retry { delivery_id } => show(&client.retry_delivery(delivery_id).await?, out)?,
        What::Replay { state, args } => return replay::run(&client, *args, Some(state), out).await,
        What::Cancel { delivery_id } => show(&client.cancel_delivery(delivery_id).await?, out)?,
    }
    Ok(Exit::Done.into())
}

async fn list(client: &Client, args: ListArgs, out: Out) -> anyhow::Result<()> {
    let query = DeliveryQuery {
        job_id: args.job_id.map(|id| id.to_string()),
        endpoint_id: args.endpoint_id.map(|id| id.to_string()),
        account: args.account,
        state: args.state,
        host: args.host,
        page: args.page.into(),
    };
    let page = client.deliveries(&query).await?;
    out.page(&page, &["DELIVERY", "EVENT", "STATE", "ATTEMPT", "LAST", "NEXT", "URL"], |delivery| {
        let last = delivery.last_status.map(|status| status.to_string());
        vec![
            delivery.delivery_id.to_string(),
            delivery.event_type.clone(),
            state(delivery),
            format!("{}/{}", delivery.attempt, delivery.max_attempts),
            or_dash(last.or_else(|| delivery.last_error.clone())),
            or_dash(delivery.next_attempt_at.map(time)),
            delivery.url.clone(),
        ]
    })
}

fn show(delivery: &api::Delivery, out: Out) -> anyhow::Result<()> {
    out.one(
        delivery,
        &[
            ("delivery", Some(delivery.delivery_id.to_string())),
            ("event", Some(format!("{} {}", delivery.event_type, delivery.event_id))),
            ("job", delivery.job_id.map(|id| id.to_string())),
            ("endpoint", delivery.endpoint_id.map(|id| id.to_string())),
            ("account", delivery.account.clone()),
            ("URL", Some(delivery.url.clone())),
            ("state", Some(state(delivery))),
            ("attempt", Some(format!("{}/{}", delivery.attempt, delivery.max_attempts))),
            ("next attempt", delivery.next_attempt_at.map(time)),
            ("last status", delivery.last_status.map(|status| status.to_string())),
            ("last error", delivery.last_error.clone()),
            ("created", Some(time(delivery.created_at))),
            ("ended", delivery.ended_at.map(time)),
        ],
    )?;
    let Some(attempts) = delivery.attempts.as_deref().filter(|list| !out.json && !list.is_empty()) else {
        return Ok(());
    };
    let row = |attempt: &api::Attempt| {
        vec![
            attempt.number.to_string(),
            attempt.started_at.to_string(),
            or_dash(attempt.duration_ms.map(|ms| format!("{ms} ms"))),
            or_dash(attempt.status),
            or_dash(attempt.error.as_ref()),
        ]
    };
    out.rows(&["ATTEMPT", "STARTED", "TOOK", "STATUS", "ERROR"], attempts.iter().map(row))
}

fn explain(told: &api::Explanation, out: Out) -> anyhow::Result<()> {
    let mut rows = vec![
        ("delivery", Some(told.delivery_id.to_string())),
        (
            "state",
            Some(told.held_reason.map_or(told.state.to_string(), |why| format!("{} ({why})", told.state))),
        ),
        ("why", Some(told.why.clone())),
        ("next", Some(told.next.clone())),
        ("when", told.next_at.map(|at| at.to_string())),
        ("requests so far", Some(told.attempt.to_string())),
        ("attempts left", told.attempts_left.map(|left| left.to_string())),
        ("expires", told.expires_at.map(time)),
        ("ahead of it", Some(told.ahead.to_string())),
    ];
    rows.extend(told.lane.iter().flat_map(super::lanes::rows));
    out.one(told, &rows)
}

fn state(delivery: &api::Delivery) -> String {
    match delivery.held_reason {
        Some(why) => format!("{} ({why})", delivery.state),
        None => delivery.state.to_string(),
    }
}
