//! `dead-letters`: list, show, replay, discard.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use super::exit::Exit;
use super::print::{Out, or_dash, time};
use super::{PageArgs, Remote};
use crate::client::{self, Client, DeadLetterQuery};
use crate::types::{DeliveryId, EndpointId, JobId, Millis, RedriveId, api};

/// Look at deliveries that were given up, send them again, or discard them.
#[derive(Debug, clap::Args)]
pub struct DeadLettersArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List dead letters, newest first.
    List(Box<ListArgs>),
    /// Show one dead letter.
    Show {
        /// Its delivery.
        delivery_id: DeliveryId,
    },
    /// Send dead letters again under their old webhook-id; without a filter all of them.
    Replay(Box<ReplayArgs>),
    /// Remove dead letters for good.
    Discard {
        /// Their deliveries.
        #[arg(required = true)]
        delivery_ids: Vec<DeliveryId>,
    },
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, clap::Args)]
struct ReplayArgs {
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
struct FilterArgs {
    /// Of this job.
    #[arg(long, env = "RINGBACK_JOB_ID")]
    job_id: Option<JobId>,
    /// To this endpoint.
    #[arg(long, env = "RINGBACK_ENDPOINT_ID")]
    endpoint_id: Option<EndpointId>,
    /// Of this account.
    #[arg(long, env = "RINGBACK_ACCOUNT")]
    account: Option<String>,
    /// To this host.
    #[arg(long, env = "RINGBACK_HOST")]
    host: Option<String>,
    /// Of this event type, such as `job.completed`.
    #[arg(long = "type", env = "RINGBACK_TYPE", value_name = "TYPE")]
    kind: Option<String>,
    /// Given up for this reason: exhausted, gone, aborted, expired, refused, poison or unsignable.
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
    fn with(self, ids: Vec<DeliveryId>) -> api::ReplayFilter {
        api::ReplayFilter {
            ids: (!ids.is_empty()).then_some(ids),
            job_id: self.job_id,
            endpoint_id: self.endpoint_id,
            account: self.account,
            host: self.host,
            kind: self.kind,
            reason: self.reason,
            since: self.since,
            until: self.until,
        }
    }
}

/// Runs `ringback dead-letters`.
pub async fn run(args: DeadLettersArgs, out: Out) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    match args.what {
        What::List(list) => self::list(&client, *list, out).await?,
        What::Show { delivery_id } => show(&client.dead_letter(delivery_id).await?, out)?,
        What::Replay(replay) => return self::replay(&client, *replay, out).await,
        What::Discard { delivery_ids } => {
            for id in delivery_ids {
                client.discard(id).await.with_context(|| format!("cannot discard {id}"))?;
                if out.json {
                    out.value(&serde_json::json!({"discarded": id}))?;
                }
                out.say(&format!("discarded {id}"))?;
            }
        }
    }
    Ok(Exit::Done.into())
}

async fn list(client: &Client, args: ListArgs, out: Out) -> anyhow::Result<()> {
    let query = DeadLetterQuery { filter: args.filter.with(Vec::new()), page: args.page.into() };
    let page = client.dead_letters(&query).await?;
    out.page(&page, &["DELIVERY", "EVENT", "REASON", "ATTEMPTS", "LAST ERROR", "DIED", "URL"], |letter| {
        vec![
            letter.delivery_id.to_string(),
            letter.event_type.clone(),
            letter.reason.clone(),
            letter.attempts.to_string(),
            or_dash(letter.last_error.as_ref()),
            time(letter.died_at),
            letter.url.clone(),
        ]
    })
}

fn show(letter: &api::DeadLetter, out: Out) -> anyhow::Result<()> {
    out.one(
        letter,
        &[
            ("delivery", Some(letter.delivery_id.to_string())),
            ("event", Some(letter.event_type.clone())),
            ("job", letter.job_id.map(|id| id.to_string())),
            ("endpoint", letter.endpoint_id.map(|id| id.to_string())),
            ("account", letter.account.clone()),
            ("URL", Some(letter.url.clone())),
            ("reason", Some(letter.reason.clone())),
            ("attempts", Some(letter.attempts.to_string())),
            ("first error", letter.first_error.clone()),
            ("last error", letter.last_error.clone()),
            ("died", Some(time(letter.died_at))),
        ],
    )
}

async fn replay(client: &Client, args: ReplayArgs, out: Out) -> anyhow::Result<ExitCode> {
    let filter = args.filter.with(args.delivery_ids);
    let replay = api::Replay { filter, dry_run: args.dry_run, rate_per_second: args.rate_per_second };
    let replayed = client.replay(&replay).await?;
    let Some(id) = replayed.redrive_id.filter(|_| args.wait) else {
        if out.json {
            out.value(&replayed)?;
        }
        out.say(&match replayed.redrive_id {
            Some(id) => format!("{} dead letters are being sent again ({id})", replayed.matched),
            None => format!("{} dead letters match", replayed.matched),
        })?;
        return Ok(Exit::Done.into());
    };
    let waited = tokio::time::timeout(Duration::from_secs(args.wait_seconds), wait(client, id)).await;
    let redrive = waited.with_context(|| format!("{id} is not done within {} s", args.wait_seconds))??;
    if out.json {
        out.value(&redrive)?;
    }
    out.say(&format!("{}: {} of {} queued again", redrive.state, redrive.redriven, redrive.matched))?;
    Ok(if redrive.state == "done" { Exit::Done } else { Exit::Failed }.into())
}

/// How often in a row the service may go unanswered: some half a minute.
const MISSES: u32 = 30;

async fn wait(client: &Client, id: RedriveId) -> Result<api::Redrive, client::Error> {
    let mut misses = 0;
    loop {
        match client.redrive(id).await {
            Ok(redrive) if redrive.state != "running" => return Ok(redrive),
            Ok(_) => misses = 0,
            Err(client::Error::Unreachable(_)) if misses < MISSES => misses += 1,
            Err(error) => return Err(error),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
