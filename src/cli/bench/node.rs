//! A server as a process of its own.

use std::ops::Deref;
use std::path::Path;

use serde::Deserialize;

use super::part::Part;
use crate::client::Client;

/// A running `ringback dev`. It is killed when this is dropped.
pub struct Node {
    part: Part,
    /// Where it listens.
    pub url: String,
    /// Speaks to it with its key.
    pub client: Client,
    /// The default secret of its tenant.
    pub secret: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ready {
    listening: String,
    webhook_secret: String,
}

/// An event that fans out widely goes to one account.
const CONFIG: &str = "[endpoints]\nper_account = 100000\n";

impl Node {
    /// Starts this very program over `store`, with `dir` as its working directory.
    pub async fn start(store: &str, key: &str, dir: &Path) -> anyhow::Result<Node> {
        tokio::fs::write(dir.join("bench.toml"), CONFIG).await?;
        let args = ["dev", "--listen", "127.0.0.1:0", "--config", "bench.toml"];
        let env = [("RINGBACK_STORE", store), ("RINGBACK_API_KEY", key)];
        let (part, ready): (Part, Ready) = Part::start("server", &args, &env, dir).await?;
        let client = Client::new(&ready.listening, Some(key))?;
        Ok(Node { part, url: ready.listening, client, secret: ready.webhook_secret })
    }

    /// `host:port`.
    pub fn authority(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Ends it.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.part.stop().await
    }
}

impl Deref for Node {
    type Target = Part;

    fn deref(&self) -> &Part {
        &self.part
    }
}
