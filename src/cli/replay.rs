//! What `dead-letters replay` and `deliveries replay` share.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use super::exit::{self, Exit};
use super::print::{self, Out};
use crate::client::{self, Client};
use crate::types::delivery::DeliveryState;
use crate::types::{DeliveryId, EndpointId, JobId, Millis, RedriveId, api};
use crate::worker;

#[derive(Debug, clap::Args)]
pub(super) struct ReplayArgs {
    /// Only these deliveries.
    delivery_ids: Vec<DeliveryId>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only count what would be sent.
    #[arg(long, env = "RINGBACK_DRY_RUN")]
    dry_run: bool,
    /// How many a second; as fast as the lanes allow by default.
    #[arg(long, env = "RINGBACK_RATE_PER_SECOND", value_name = "N")]
    rate_per_second: Option<u32>,
    /// Wait until all of them are queued again.
    #[arg(long, env = "RINGBACK_WAIT")]
    wait: bool,
    /// The longest to wait.
    #[arg(long, env = "RINGBACK_WAIT_SECONDS", value_name = "N", default_value_t = 3_600)]
    wait_seconds: u64,
}

#[derive(Debug, clap::Args)]
pub(super) struct FilterArgs {
    /// Of this job.
    #[arg(long, env = "RINGBACK_JOB_ID")]
    job_id: Option<JobId>,
    /// To this endpoint.
    #[arg(long, env = "RINGBACK_ENDPOINT_ID")]
    endpoint_id: Option<EndpointId>,
    /// To no standing endpoint (`true`), or to any of them (`false`).
    #[arg(long, env = "RINGBACK_AD_HOC", value_name = "BOOL")]
    ad_hoc: Option<bool>,
    /// Of this account.
    #[arg(long, env = "RINGBACK_ACCOUNT")]
    account: Option<String>,
    /// To this host.
    #[arg(long, env = "RINGBACK_HOST")]
    host: Option<String>,
    /// Of this event type, such as `job.completed`.
    #[arg(long = "type", env = "RINGBACK_TYPE", value_name = "TYPE")]
    kind: Option<String>,
    /// Given up for this reason (exhausted, gone, aborted, expired, refused, poison or unsignable) or with this last
    /// error, such as `timeout` or `status 503`.
    #[arg(long, env = "RINGBACK_REASON")]
    reason: Option<String>,
    /// Given up at or after this instant.
    #[arg(long, env = "RINGBACK_SINCE", value_name = "INSTANT")]
    since: Option<Millis>,
    /// Given up before this instant.
    #[arg(long, env = "RINGBACK_UNTIL", value_name = "INSTANT")]
    until: Option<Millis>,
}

impl FilterArgs {
    pub(super) fn with(self, ids: Vec<DeliveryId>) -> api::ReplayFilter {
        api::ReplayFilter {
            ids: (!ids.is_empty()).then_some(ids),
            job_id: self.job_id,
            endpoint_id: self.endpoint_id,
            ad_hoc: self.ad_hoc,
            account: self.account,
            host: self.host,
            kind: self.kind,
            reason: self.reason,
            state: None,
            since: self.since,
            until: self.until,
        }
    }
}

/// Replays dead letters, or deliveries in a `state`.
pub(super) async fn run(
    client: &Client,
    args: ReplayArgs,
    state: Option<DeliveryState>,
    out: Out,
) -> anyhow::Result<ExitCode> {
    let filter = api::ReplayFilter { state, ..args.filter.with(args.delivery_ids) };
    let replay = api::Replay { filter, dry_run: args.dry_run, rate_per_second: args.rate_per_second };
    let (replayed, what) = match state {
        None => (client.replay(&replay).await?, "dead letters"),
        Some(_) => (client.replay_deliveries(&replay).await?, "deliveries"),
    };
    let Some(id) = replayed.redrive_id.filter(|_| args.wait) else {
        if out.json {
            out.value(&replayed)?;
        }
        let matched = format!("{}{}", replayed.matched, if replayed.at_least { " or more" } else { "" });
        out.say(&match replayed.redrive_id {
            Some(id) => format!("{matched} {what} are being sent again ({id})"),
            None => format!("{matched} {what} match"),
        })?;
        return Ok(Exit::Done.into());
    };
    if !out.json {
        print::err(format_args!("replay {id}"));
    }
    let waited = tokio::time::timeout(Duration::from_secs(args.wait_seconds), wait(client, id)).await;
    let redrive = waited.with_context(|| format!("{id} is not done within {} s", args.wait_seconds))?;
    let redrive = redrive.with_context(|| format!("{id} was begun, and goes on"))?;
    let exit = if redrive.state == "done" { Exit::Done } else { Exit::Failed };
    exit::told(exit, show(&redrive, out))
}

fn show(redrive: &api::Redrive, out: Out) -> anyhow::Result<()> {
    if out.json {
        return out.value(redrive);
    }
    let skipped = if redrive.skipped > 0 { format!(", {} skipped", redrive.skipped) } else { String::new() };
    Ok(out.say(&format!(
        "{}: {} of {} queued again{skipped}",
        redrive.state, redrive.redriven, redrive.matched
    ))?)
}

/// How often in a row the service may go unanswered: some half a minute.
const MISSES: u32 = 30;

async fn wait(client: &Client, id: RedriveId) -> Result<api::Redrive, client::Error> {
    let mut misses = 0;
    loop {
        match client.redrive(id).await {
            Ok(redrive) if redrive.state != "running" => return Ok(redrive),
            Ok(_) => misses = 0,
            // The service knows it: what stands before it may speak for it for a while.
            Err(error)
                if misses < MISSES
                    && (worker::passing(&error) || worker::may_be_of_another(&error, misses)) =>
            {
                misses += 1;
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
