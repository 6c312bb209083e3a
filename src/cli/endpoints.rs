//! `endpoints`: who is told of events, and how.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::exit::{self, Exit, Usage};
use super::print::{Out, or_dash, time};
use super::{PageArgs, Remote};
use crate::client::{Client, EndpointQuery, SubmitOptions};
use crate::types::{EndpointId, api};

/// Manage standing endpoints.
#[derive(Debug, clap::Args)]
pub struct EndpointsArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List endpoints, newest first.
    List {
        /// Only this account's.
        #[arg(long, env = "RINGBACK_ACCOUNT")]
        account: Option<String>,
        /// Only those in this state: enabled, paused or disabled.
        #[arg(long, env = "RINGBACK_STATE")]
        state: Option<String>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show an endpoint without its secret.
    Show {
        /// The endpoint.
        endpoint_id: EndpointId,
    },
    /// Create an endpoint and show its secret, this once.
    Create {
        /// Where events are POSTed.
        receiver: String,
        #[command(flatten)]
        set: Box<SetArgs>,
        /// Recognises a repeated request.
        #[arg(long, env = "RINGBACK_IDEMPOTENCY_KEY")]
        idempotency_key: Option<String>,
    },
    /// Change what is given of an endpoint.
    Update {
        /// The endpoint.
        endpoint_id: EndpointId,
        /// Where events are POSTed from now on, pending ones too.
        #[arg(long, env = "RINGBACK_RECEIVER", value_name = "URL")]
        receiver: Option<String>,
        #[command(flatten)]
        set: Box<SetArgs>,
        /// Members to take back to their default, such as `rateLimitPerSecond,headers`.
        #[arg(long, env = "RINGBACK_RESET", value_delimiter = ',', value_name = "A,B")]
        reset: Vec<String>,
    },
    /// Delete an endpoint; what it is owed ends cancelled.
    Delete {
        /// The endpoint.
        endpoint_id: EndpointId,
    },
    /// Make a new secret and show it, this once; the one before signs beside it for a while.
    RotateSecret {
        /// The endpoint.
        endpoint_id: EndpointId,
        /// For how long the one before signs too, seconds; a day by default.
        #[arg(long, env = "RINGBACK_OVERLAP_SECONDS", value_name = "N")]
        overlap_seconds: Option<u32>,
    },
    /// Send `webhook.test` now and tell what came of it.
    Test {
        /// The endpoint.
        endpoint_id: EndpointId,
    },
    /// Ask the endpoint to echo a challenge; then it is verified.
    Verify {
        /// The endpoint.
        endpoint_id: EndpointId,
    },
    /// Park what an endpoint is owed.
    Pause {
        /// The endpoint.
        endpoint_id: EndpointId,
    },
    /// Let what was parked go, slowly at first.
    Resume {
        /// The endpoint.
        endpoint_id: EndpointId,
    },
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// Only this account's events; only those of none when left out.
    #[arg(long, env = "RINGBACK_ACCOUNT")]
    account: Option<String>,
    /// The event types to send, such as `invoice.*,job.failed`; all by default.
    #[arg(long, env = "RINGBACK_EVENTS", value_delimiter = ',', value_name = "A,B")]
    events: Option<Vec<String>>,
    /// For people.
    #[arg(long, env = "RINGBACK_DESCRIPTION")]
    description: Option<String>,
    /// Headers to add, as a JSON object.
    #[arg(long, env = "RINGBACK_HEADERS", hide_env_values = true, value_name = "JSON")]
    headers: Option<String>,
    /// The most requests a second.
    #[arg(long, env = "RINGBACK_RATE_LIMIT", value_name = "N")]
    rate_limit: Option<u32>,
    /// The most requests under way at once.
    #[arg(long, env = "RINGBACK_MAX_IN_FLIGHT", value_name = "N")]
    max_in_flight: Option<u32>,
    /// How long one attempt may take, 1..30.
    #[arg(long, env = "RINGBACK_TIMEOUT_SECONDS", value_name = "N")]
    timeout_seconds: Option<u32>,
    /// When a failed attempt is repeated, as a JSON object.
    #[arg(long, env = "RINGBACK_RETRY", value_name = "JSON")]
    retry: Option<String>,
    /// Whether a JSON result is inlined: full or thin.
    #[arg(long, env = "RINGBACK_PAYLOAD")]
    payload: Option<String>,
    /// The shape of a webhook: standard or cloudevents.
    #[arg(long, env = "RINGBACK_FORMAT")]
    format: Option<String>,
    /// Signatures beside v1: github, stripe, v1a.
    #[arg(long, env = "RINGBACK_SCHEMES", value_delimiter = ',', value_name = "A,B")]
    schemes: Option<Vec<String>>,
    /// Send one after the other, in the order of the events.
    #[arg(long, env = "RINGBACK_ORDERED")]
    ordered: bool,
}

impl SetArgs {
    /// The members that are given.
    fn members(self) -> Result<Map<String, Value>, Usage> {
        let read = |flag: &str, text: Option<String>| {
            let json = text.map(|text| serde_json::from_str::<Value>(&text)).transpose();
            json.map_err(|e| Usage(format!("--{flag} is not a JSON object: {e}")))
        };
        let all = [
            ("account", json!(self.account)),
            ("events", json!(self.events)),
            ("description", json!(self.description)),
            ("headers", json!(read("headers", self.headers)?)),
            ("rateLimitPerSecond", json!(self.rate_limit)),
            ("maxInFlight", json!(self.max_in_flight)),
            ("timeoutSeconds", json!(self.timeout_seconds)),
            ("retry", json!(read("retry", self.retry)?)),
            ("payload", json!(self.payload)),
            ("format", json!(self.format)),
            ("schemes", json!(self.schemes)),
            ("ordered", json!(self.ordered.then_some(true))),
        ];
        let given = all.into_iter().filter(|(_, value)| !value.is_null());
        Ok(given.map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

fn shaped<T: serde::de::DeserializeOwned>(members: Map<String, Value>) -> Result<T, Usage> {
    serde_json::from_value(Value::Object(members)).map_err(|e| Usage(e.to_string()))
}

/// Runs `ringback endpoints`.
pub async fn run(args: EndpointsArgs, out: Out) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    match args.what {
        What::List { account, state, page } => {
            list(&client, EndpointQuery { account, state, page: page.into() }, out).await?;
        }
        What::Show { endpoint_id } => show(&client.endpoint(endpoint_id).await?, out)?,
        What::Create { receiver, set, idempotency_key } => {
            let mut members = set.members()?;
            members.insert("url".to_owned(), json!(receiver));
            let options = SubmitOptions { idempotency_key: idempotency_key.as_deref() };
            show(&client.create_endpoint(&shaped(members)?, options).await?, out)?;
        }
        What::Update { endpoint_id, receiver, set, reset } => {
            let mut members = set.members()?;
            members.extend(reset.into_iter().map(|name| (name, Value::Null)));
            members.extend(receiver.map(|url| ("url".to_owned(), json!(url))));
            if members.is_empty() {
                return Err(Usage("say what is to be changed".to_owned()).into());
            }
            let change: api::ChangeEndpoint = shaped(members)?;
            show(&client.change_endpoint(endpoint_id, &change).await?, out)?;
        }
        What::RotateSecret { endpoint_id, overlap_seconds } => {
            let rotated =
                client.rotate_endpoint_secret(endpoint_id, &api::RotateSecret { overlap_seconds }).await?;
            let until = rotated.previous_expires_at.map(time);
            out.one(
                &rotated,
                &[("secret", Some(rotated.secret.clone())), ("the one before signs until", until)],
            )?;
        }
        What::Delete { endpoint_id } => {
            client.delete_endpoint(endpoint_id).await?;
            if out.json {
                out.value(&json!({ "deleted": endpoint_id }))?;
            }
            out.say(&format!("deleted {endpoint_id}"))?;
        }
        What::Test { endpoint_id } => return probe(&client.test_endpoint(endpoint_id).await?, out),
        What::Verify { endpoint_id } => return probe(&client.verify_endpoint(endpoint_id).await?, out),
        What::Pause { endpoint_id } => show(&client.pause_endpoint(endpoint_id).await?, out)?,
        What::Resume { endpoint_id } => show(&client.resume_endpoint(endpoint_id).await?, out)?,
    }
    Ok(Exit::Done.into())
}

async fn list(client: &Client, query: EndpointQuery, out: Out) -> anyhow::Result<()> {
    let page = client.endpoints(&query).await?;
    out.page(&page, &["ENDPOINT ID", "STATE", "ACCOUNT", "EVENTS", "URL"], |endpoint| {
        vec![
            endpoint.endpoint_id.to_string(),
            endpoint.state.as_str().to_owned(),
            or_dash(endpoint.account.clone()),
            endpoint.events.join(","),
            endpoint.url.clone(),
        ]
    })
}

fn show(endpoint: &api::Endpoint, out: Out) -> anyhow::Result<()> {
    let schemes = serde_json::to_value(&endpoint.schemes)?;
    let schemes: Vec<&str> = schemes.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let names = |headers: &std::collections::BTreeMap<String, String>| {
        headers.keys().cloned().collect::<Vec<_>>().join(", ")
    };
    out.one(
        endpoint,
        &[
            ("endpoint", Some(endpoint.endpoint_id.to_string())),
            ("url", Some(endpoint.url.clone())),
            ("secret", endpoint.secret.clone()),
            ("state", Some(endpoint.state.as_str().to_owned())),
            ("because", endpoint.state_reason.clone()),
            ("since", Some(time(endpoint.state_since))),
            ("account", endpoint.account.clone()),
            ("events", Some(endpoint.events.join(", "))),
            ("description", endpoint.description.clone()),
            ("headers", endpoint.headers.as_ref().map(names)),
            ("signatures", Some(schemes.join(", "))),
            ("requests a second", endpoint.rate_limit_per_second.map(|n| n.to_string())),
            ("in flight at most", endpoint.max_in_flight.map(|n| n.to_string())),
            ("time-out", Some(format!("{} s", endpoint.timeout_seconds))),
            ("ordered", Some(endpoint.ordered.to_string())),
            ("verified", endpoint.verified_at.map(time)),
            ("failing since", endpoint.failing_since.map(time)),
            ("made", Some(time(endpoint.created_at))),
        ],
    )
}

/// What came of a request; one that did not go well ends the command with 1.
fn probe(probe: &api::EndpointProbe, out: Out) -> anyhow::Result<ExitCode> {
    let printed = out.one(
        probe,
        &[
            ("ok", Some(probe.ok.to_string())),
            ("delivery", Some(probe.delivery_id.to_string())),
            ("status", probe.status.map(|s| s.to_string())),
            ("error", probe.error.clone()),
            ("took", Some(format!("{} ms", probe.duration_ms))),
            ("answer", probe.response_body.clone()),
        ],
    );
    exit::told(if probe.ok { Exit::Done } else { Exit::Failed }, printed)
}
