//! A server as a process of its own, and what the system says of it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::cli::child::Group;
use crate::cli::exit::Usage;
use crate::client::Client;

/// The longest until a server is ready.
const READY: Duration = Duration::from_secs(60);

/// A running `ringback dev`. It is killed when this is dropped.
pub struct Node {
    child: Child,
    /// Where it listens.
    pub url: String,
    /// Speaks to it with its key.
    pub client: Client,
}

impl Node {
    /// Starts this very program over `store`, with `dir` as its working directory.
    pub async fn start(store: &str, key: &str, dir: &Path) -> anyhow::Result<Node> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        // What is set for this command is not meant for the server; its own settings are all given here, those with
        // secrets in them out of sight of a list of processes.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"RINGBACK_"))
        {
            command.env_remove(name);
        }
        let mut child = command
            .args(["dev", "--json", "--listen", "127.0.0.1:0"])
            .env("RINGBACK_STORE", store)
            .env("RINGBACK_API_KEY", key)
            .env("RUST_LOG", "ringback=warn")
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a server")?;
        let out = child.stdout.take().context("a server without an output")?;
        let mut lines = BufReader::new(out).lines();
        let line = tokio::time::timeout(READY, lines.next_line())
            .await
            .context("the server does not get ready")??;
        let Some(line) = line else { bail!("the server ended before it was ready") };
        let said: Value = serde_json::from_str(&line)?;
        let url =
            said["listening"].as_str().context("a server that does not say where it listens")?.to_owned();
        let client = Client::new(&url, Some(key))?;
        Ok(Node { child, url, client })
    }

    /// `host:port`.
    pub fn authority(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Bytes of memory that it holds now: its resident set.
    pub fn memory(&self) -> anyhow::Result<u64> {
        let text = self.proc("status")?;
        let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        Ok(1024 * kib.context("no VmRSS")?.trim().parse::<u64>()?)
    }

    /// The processor time that it has used.
    pub fn processor(&self) -> anyhow::Result<Duration> {
        let text = self.proc("stat")?;
        // The name may hold blanks and brackets; user and system time are fields 14 and 15.
        let fields = text.rsplit_once(')').context("no stat")?.1;
        let ticks =
            fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        let ticks = u32::try_from(ticks).context("too many ticks")?;
        Ok(Duration::from_secs(1) * ticks / u32::try_from(rustix::param::clock_ticks_per_second())?)
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let id = self.child.id().context("the server has ended")?;
        std::fs::read_to_string(format!("/proc/{id}/{file}"))
            .context("the server is measured through Linux' /proc")
    }

    /// Ends it; with thousands of streams that may take longer than it is waited for.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        Group::alone(&self.child).stop(&mut self.child).await?;
        Ok(())
    }
}

/// Lets this process and its children open `files` files each, if they may.
pub fn open_files(files: u64) -> Result<(), Usage> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|now| now >= files) {
        return Ok(());
    }
    let wanted = Rlimit { current: Some(files), maximum };
    setrlimit(Resource::Nofile, wanted).map_err(|_| {
        let most = maximum.map_or_else(String::new, |most| format!(" and may at most {most}"));
        Usage(format!(
            "{files} files have to be open at once{most}; raise the limit (ulimit -n), or take fewer streams"
        ))
    })
}
