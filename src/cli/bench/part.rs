//! The parts of a benchmark, each a process of its own, so that what each costs can be told apart.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::figures::moment;
use crate::cli::child::Group;

/// The longest until a part is ready.
const READY: Duration = Duration::from_secs(60);
/// The longest until a part that was killed has ended, and how often it is looked.
const ENDED: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);

/// A child process of this very program, which signals from a terminal reach only through us. Dropped, it is killed.
pub struct Part {
    name: &'static str,
    child: Child,
    /// Until it was reaped.
    group: Option<Group>,
}

impl Part {
    /// Starts `ringback ARGS --json` in `dir` and reads the line that says that it is ready.
    ///
    /// What is set for this command is not meant for its parts: they see only `env` of all that is Ringback's, which
    /// also keeps secrets out of sight of a list of processes.
    pub async fn start<T: DeserializeOwned>(
        name: &'static str,
        args: &[&str],
        env: &[(&str, &str)],
        dir: &Path,
    ) -> anyhow::Result<(Part, T)> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.as_encoded_bytes().starts_with(b"RINGBACK_")) {
            command.env_remove(name);
        }
        command.args(args).arg("--json").env("RUST_LOG", "ringback=warn").envs(env.iter().copied());
        command.current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start the {name}"))?;
        let group = Some(Group::of(&child));
        let mut part = Part { name, child, group };
        let out = part.child.stdout.take().context("no standard output")?;
        let mut lines = BufReader::new(out).lines();
        let line = tokio::time::timeout(READY, lines.next_line()).await;
        let line = line.with_context(|| format!("the {name} was not ready in time"))??;
        let Some(line) = line else { bail!("the {name} ended before it was ready") };
        let ready = serde_json::from_str(&line).with_context(|| format!("the {name} said {line}"))?;
        Ok((part, ready))
    }

    /// Its standard input, once.
    pub fn input(&mut self) -> anyhow::Result<ChildStdin> {
        self.child.stdin.take().with_context(|| format!("the {} has no standard input", self.name))
    }

    /// Its process id.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().with_context(|| format!("the {} has ended", self.name))
    }

    /// Bytes of memory that it holds now: its resident set.
    pub fn memory(&self) -> anyhow::Result<u64> {
        self.status("VmRSS:")
    }

    /// The most that it has ever held.
    pub fn peak(&self) -> anyhow::Result<u64> {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))
            .context("benchmarks read Linux' /proc")?;
        let kib = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
        Ok(1024 * kib.with_context(|| format!("no {name}"))?.trim().parse::<u64>()?)
    }

    /// The processor time that it has used.
    pub fn processor(&self) -> anyhow::Result<Duration> {
        Ok(Duration::from_secs_f64(stat(self.pid()?)?.own))
    }

    /// Ends it; with thousands of streams that may take longer than it is waited for.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        group.stop(&mut self.child).await?;
        self.group.take().into_iter().for_each(Group::forget);
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let Some(group) = self.group.take() else { return };
        drop(group);
        // Whoever drops it takes its files away next, and it might still write one.
        let until = moment() + ENDED;
        while matches!(self.child.try_wait(), Ok(None)) && moment() < until {
            std::thread::sleep(LOOK);
        }
    }
}

/// CPU seconds by part: those of whole processes, from /proc.
pub type Cpu = BTreeMap<&'static str, f64>;

/// What `pids` have used so far; `database` is any server process of PostgreSQL, all of its siblings count.
pub fn cpu(pids: &[(&'static str, u32)], database: Option<u32>) -> anyhow::Result<Cpu> {
    let mut used = Cpu::new();
    for (name, pid) in pids {
        *used.entry(*name).or_default() += stat(*pid)?.own;
    }
    // One that runs on another machine is not told.
    if let Some(server) = database.and_then(|pid| stat(pid).ok()) {
        let parent = server.parent;
        // Those that have ended count in their parent's waited-for time.
        let mut sum = stat(parent).map_or(0.0, |s| s.own + s.ended);
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
            sum += stat(pid).ok().filter(|s| s.parent == parent).map_or(0.0, |s| s.own);
        }
        used.insert("database", sum);
    }
    Ok(used)
}

/// What was used between two readings.
pub fn used(before: &Cpu, after: &Cpu) -> Cpu {
    after.iter().map(|(name, now)| (*name, now - before.get(name).copied().unwrap_or(0.0))).collect()
}

struct Stat {
    parent: u32,
    own: f64,
    ended: f64,
}

fn stat(pid: u32) -> anyhow::Result<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name stands in brackets and may hold anything.
    let (_, rest) = text.rsplit_once(')').context("not a stat line")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |n: usize| fields.get(n - 3).copied().unwrap_or_default();
    let second = rustix::param::clock_ticks_per_second() as f64;
    let ticks = |n: usize| field(n).parse::<f64>().unwrap_or(0.0) / second;
    Ok(Stat { parent: field(4).parse()?, own: ticks(14) + ticks(15), ended: ticks(16) + ticks(17) })
}
