//! `dead-letters`: list, show, replay, discard.

use std::process::ExitCode;

use anyhow::Context;

use super::exit::Exit;
use super::print::{Out, or_dash, time};
use super::replay::{self, FilterArgs, ReplayArgs};
use super::{PageArgs, Remote};
use crate::client::{Client, DeadLetterQuery, OutageQuery};
use crate::types::{DeliveryId, Millis, api};

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
    /// List dead letters that belong together: those of one receiver that died close to each other.
    Outages {
        /// To this host.
        #[arg(long, env = "RINGBACK_HOST")]
        host: Option<String>,
        /// Given up at or after this instant.
        #[arg(long, env = "RINGBACK_SINCE", value_name = "INSTANT")]
        since: Option<Millis>,
        /// How many, 1..200.
        #[arg(long, env = "RINGBACK_LIMIT", value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: Option<u32>,
    },
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

/// Runs `ringback dead-letters`.
pub async fn run(args: DeadLettersArgs, out: Out) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    match args.what {
        What::List(list) => self::list(&client, *list, out).await?,
        What::Show { delivery_id } => show(&client.dead_letter(delivery_id).await?, out)?,
        What::Replay(args) => return replay::run(&client, *args, None, out).await,
        What::Outages { host, since, limit } => {
            let query = OutageQuery { host, since, limit, ..OutageQuery::default() };
            outages(&client.outages(&query).await?, out)?;
        }
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

fn outages(page: &api::Page<api::Outage>, out: Out) -> anyhow::Result<()> {
    out.page(page, &["HOST", "ENDPOINT", "LETTERS", "ERRORS", "FIRST DIED", "LAST DIED"], |outage| {
        let errors = outage.errors.iter().take(3).map(|e| format!("{} x{}", e.error, e.letters));
        vec![
            outage.host.clone(),
            or_dash(outage.endpoint_id),
            outage.letters.to_string(),
            errors.collect::<Vec<_>>().join(", "),
            outage.first_died_at.to_string(),
            outage.last_died_at.to_string(),
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
