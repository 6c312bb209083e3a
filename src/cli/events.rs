//! `events`: publish, read and follow.

use std::process::ExitCode;
use std::time::Duration;

use super::exit::Exit;
use super::print::{self, Out, or_dash, time};
use super::{Remote, stop, submit};
use crate::client::{self, Client, FeedQuery, SubmitOptions};
use crate::types::api::{self, FeedEvent};
use crate::worker;

/// Between two tries to open a stream that broke.
const AGAIN: Duration = Duration::from_secs(2);

/// Publish events, and read what happened.
#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Publish an event to the standing endpoints that subscribe to it.
    Publish(PublishArgs),
    /// List what happened, the oldest first.
    List {
        #[command(flatten)]
        which: WhichArgs,
        /// How many events, 1..200.
        #[arg(long, env = "RINGBACK_LIMIT", value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: Option<u32>,
    },
    /// Show what happens as it happens; begins now unless `--after` says otherwise.
    Follow {
        #[command(flatten)]
        which: WhichArgs,
    },
}

#[derive(Debug, clap::Args)]
struct PublishArgs {
    /// What happened, such as `invoice.paid`.
    #[arg(long = "type", env = "RINGBACK_TYPE", value_name = "TYPE")]
    kind: String,
    /// The data: JSON, `-` for standard input, or `@FILE`.
    #[arg(long, env = "RINGBACK_DATA", value_name = "JSON|-|@FILE", allow_hyphen_values = true)]
    data: String,
    /// Tell this account's endpoints alone; without it those that have none.
    #[arg(long, env = "RINGBACK_ACCOUNT")]
    account: Option<String>,
    /// Your own name for the event: within 24 hours it is published once.
    #[arg(long, env = "RINGBACK_ID")]
    id: Option<String>,
    /// Makes it safe to publish again: the same key gives the same event.
    #[arg(long, env = "RINGBACK_IDEMPOTENCY_KEY", value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Debug, Clone, clap::Args)]
struct WhichArgs {
    /// Event types and patterns, such as `invoice.*,job.failed`.
    #[arg(long, env = "RINGBACK_TYPES", value_name = "PATTERNS")]
    types: Option<String>,
    /// Of this account.
    #[arg(long, env = "RINGBACK_ACCOUNT")]
    account: Option<String>,
    /// The cursor to go on behind, as it was told, or `now`.
    #[arg(long, env = "RINGBACK_AFTER", value_name = "CURSOR")]
    after: Option<String>,
}

impl WhichArgs {
    fn query(self, limit: Option<u32>) -> FeedQuery {
        FeedQuery { types: self.types, account: self.account, after: self.after, limit }
    }
}

/// Runs `ringback events`.
pub async fn run(args: EventsArgs, out: Out) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    match args.what {
        What::Publish(what) => publish(&client, what, out).await?,
        What::List { which, limit } => list(&client, which.query(limit), out).await?,
        What::Follow { which } => follow(&client, which.query(None), out).await?,
    }
    Ok(Exit::Done.into())
}

async fn publish(client: &Client, args: PublishArgs, out: Out) -> anyhow::Result<()> {
    let data = submit::input(&args.data, std::io::stdin())?;
    let event = api::PublishEvent { kind: args.kind, data: Some(data), account: args.account, id: args.id };
    let options = SubmitOptions { idempotency_key: args.idempotency_key.as_deref() };
    let told = client.publish(&event, options).await?;
    out.one(
        &told,
        &[("event", Some(told.event_id.to_string())), ("deliveries", Some(told.deliveries.to_string()))],
    )
}

async fn list(client: &Client, query: FeedQuery, out: Out) -> anyhow::Result<()> {
    let page = client.feed(&query).await?;
    if out.json {
        return out.value(&page);
    }
    out.rows(&["TIME", "TYPE", "EVENT", "ACCOUNT", "JOB"], page.items.iter().map(row))?;
    if let Some(cursor) = &page.next_cursor {
        print::err(format_args!("go on with: --after {}", print::clean(cursor)));
    }
    Ok(())
}

fn row(event: &FeedEvent) -> Vec<String> {
    vec![
        time(event.timestamp),
        event.kind.clone(),
        event.event_id.to_string(),
        or_dash(event.account.clone()),
        or_dash(event.job_id),
    ]
}

/// Until it is told to stop. A stream that breaks is opened again where it ended, so nothing is missed.
async fn follow(client: &Client, mut query: FeedQuery, out: Out) -> anyhow::Result<()> {
    let stop = stop::on_signal()?;
    if query.after.as_deref().is_none_or(|after| after == "now") {
        // A place to come back to, before the first stream can break.
        let end = FeedQuery { after: Some("now".to_owned()), ..query.clone() };
        query.after = client.feed(&end).await?.next_cursor;
    }
    let (mut reached, mut failures) = (false, 0);
    while !stop.is_cancelled() {
        match stop.run_until_cancelled(show(client, &mut query, (&mut reached, &mut failures), out)).await {
            None => break,
            Some(Ok(())) => {}
            Some(Err(error)) => match error.downcast_ref::<client::Error>() {
                Some(why)
                    if worker::passing(why) || (reached && worker::may_be_of_another(why, failures)) =>
                {
                    failures += 1;
                    let why = print::clean(&why.to_string());
                    print::err(format_args!("the stream broke, it is opened again: {why}"));
                }
                Some(_) | None => return Err(error),
            },
        }
        let _ = tokio::time::timeout(AGAIN, stop.cancelled()).await;
    }
    Ok(())
}

/// One stream, up to its end.
async fn show(
    client: &Client,
    query: &mut FeedQuery,
    (reached, failures): (&mut bool, &mut u32),
    out: Out,
) -> anyhow::Result<()> {
    let mut stream = client.follow(query).await?;
    (*reached, *failures) = (true, 0);
    while let Some(told) = stream.next().await? {
        if let Some(event) = &told.event {
            match out.json {
                true => out.value(event)?,
                false => out.say(&print::clean(&line(event)))?,
            }
        }
        query.after = Some(told.cursor);
    }
    Ok(())
}

fn line(event: &FeedEvent) -> String {
    let whose = event.account.as_ref().map(|account| format!(" {account}")).unwrap_or_default();
    let data: String = event.data.get().chars().take(200).collect();
    format!("{} {}{whose} {} {data}", time(event.timestamp), event.kind, event.event_id)
}
