//! A standing endpoint for as long as someone listens.

use anyhow::Context;

use super::super::Remote;
use crate::client::{Client, Error, SubmitOptions};
use crate::types::EndpointId;
use crate::types::api::NewEndpoint;

/// Which events of a running service come here.
#[derive(Debug, clap::Args)]
pub struct Wanted {
    #[command(flatten)]
    remote: Remote,
    /// Ask the service for these events while it listens: `*`, `invoice.paid`, `invoice.*`; repeatable. Makes an endpoint,
    /// whose secret then checks signatures too, and deletes it at the end.
    #[arg(long, env = "RINGBACK_EVENTS", value_name = "PATTERN", value_delimiter = ',')]
    events: Vec<String>,
    /// With --events: only this account's.
    #[arg(long, env = "RINGBACK_ACCOUNT")]
    account: Option<String>,
    /// With --events: where the service reaches this listener, if it is not on this machine; such as a tunnel's URL.
    #[arg(long, env = "RINGBACK_PUBLIC_URL", value_name = "URL", value_parser = super::super::service_url)]
    public_url: Option<String>,
}

/// The endpoint that was made.
pub struct Standing {
    client: Client,
    /// Names it.
    pub id: EndpointId,
    /// Signs its webhooks.
    pub secret: String,
}

impl Wanted {
    /// Makes the endpoint, if events are wanted; `here` is where it is listened.
    pub async fn stand(&self, here: &str) -> anyhow::Result<Option<Standing>> {
        if self.events.is_empty() {
            return Ok(None);
        }
        let client = self.remote.client()?;
        let endpoint = NewEndpoint {
            url: self.public_url.clone().unwrap_or_else(|| here.to_owned()),
            events: Some(self.events.clone()),
            account: self.account.clone(),
            description: Some("ringback listen: gone when it ends".to_owned()),
            ..NewEndpoint::default()
        };
        let made = client.create_endpoint(&endpoint, SubmitOptions::default()).await?;
        let secret = made.secret.context("a new endpoint without a secret")?;
        Ok(Some(Standing { client, id: made.endpoint_id, secret }))
    }
}

impl Standing {
    /// Deletes it. What it is still owed ends cancelled.
    pub async fn delete(self) -> anyhow::Result<()> {
        match self.client.delete_endpoint(self.id).await {
            // Someone else was quicker.
            Err(Error::Problem(problem)) if problem.status == 404 => Ok(()),
            done => done.with_context(|| format!("the endpoint {} is left behind", self.id)),
        }
    }
}
