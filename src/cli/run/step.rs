//! The command of one step, from its start to its outcome.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::fatal;
use crate::cli::child::{self, Group, joined, spawn};
use crate::cli::said::{Last, Lines, Mark, Sieve};
use crate::cli::stop::Heard;
use crate::cli::{print, stop};
use crate::client::Client;
use crate::clock::Clock;
use crate::types::JobId;
use crate::types::api::RESULT_MAX;
use crate::types::job::JobState;
use crate::worker::{CancellationToken, Failure, Hold, Progress, Reply};

/// What is run, and for which job.
pub struct Step<'a> {
    pub command: &'a [OsString],
    pub kind: &'a str,
    /// Reads the job.
    pub reader: &'a Client,
    /// None if the service could not be reached.
    pub id: Option<JobId>,
    pub hold: Option<&'a Hold>,
    /// Whose bytes are the result.
    pub file: Option<&'a Path>,
}

/// How it ended.
pub struct Ended {
    /// The exit code to end with.
    pub code: u8,
    pub outcome: Result<Reply, Failure>,
    pub signals: Signals,
}

impl Ended {
    /// Lets the result have `content_type`, if one is given.
    pub fn name_type(&mut self, content_type: Option<String>) {
        let Some(content_type) = content_type else { return };
        match &mut self.outcome {
            Ok(Reply::Json(json)) => {
                self.outcome = Ok(Reply::bytes(content_type, json.get().to_owned()));
            }
            Ok(Reply::Bytes { content_type: guessed, .. }) => *guessed = content_type,
            Ok(Reply::Elsewhere(_)) | Err(_) => {}
        }
    }
}

/// SIGTERM, SIGINT and, unless it is ignored, SIGHUP of this process.
pub struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hangup: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hangup: stop::hangups_if_heard()?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.term.recv() => Signal::TERM,
            _ = self.int.recv() => Signal::INT,
            () = stop::next(&mut self.hangup) => Signal::HUP,
        }
    }

    /// The next one after `first` that is to hurry: of a terminal that closes there are two SIGHUPs.
    pub async fn hurry(&mut self, first: Signal) {
        let first = Heard::now(first);
        loop {
            let next = tokio::select! {
                _ = self.term.recv() => Signal::TERM,
                _ = self.int.recv() => Signal::INT,
            };
            if !first.is(&next) {
                return;
            }
        }
    }
}

/// Why a command was asked to end.
struct Asked {
    cancelled: bool,
    interrupted: Option<Signal>,
}

impl Step<'_> {
    /// Runs it to its end.
    pub async fn run(&self) -> std::io::Result<Ended> {
        let mut signals = Signals::listen()?;
        let clock = Clock::system();
        let started = clock.now();
        // A group of its own may not read from a terminal.
        let shared = std::io::stdin().is_terminal();
        let mut child = match self.spawn(shared) {
            Ok(child) => child,
            Err(e) => return Ok(self.unstarted(&e, signals)),
        };
        let group = if shared { Group::alone(&child) } else { Group::of(&child) };
        let progress = self.hold.map(Hold::progress);
        let last = Last::default();
        let errors = child.stderr.take().map(|pipe| spawn(read_errors(pipe, progress, last.clone())));
        let ended = self.watch(&mut child, &group, &mut signals).await;
        group.forget();
        let (status, asked) = ended?;
        joined(errors).await;
        let outcome = match asked {
            Asked { interrupted: Some(signal), .. } => {
                let name = match signal {
                    Signal::INT => "SIGINT",
                    Signal::HUP => "SIGHUP",
                    _ => "SIGTERM",
                };
                Err(fatal(format!("the runner was interrupted by {name}"), "interrupted"))
            }
            Asked { cancelled: true, .. } => Err(fatal("the command was stopped", "stopped")),
            Asked { .. } if !status.success() => {
                Err(Failure { retryable: false, ..child::judge(status, last.text()) })
            }
            Asked { .. } => self.result(clock.now().0 - started.0).await,
        };
        Ok(Ended { code: code(status), outcome, signals })
    }

    fn spawn(&self, shared: bool) -> std::io::Result<Child> {
        let (program, arguments) = self.command.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        child::without_secrets(&mut command);
        if let Some(id) = self.id {
            child::tell(&mut command, id, self.kind, 1);
        }
        if !shared {
            command.process_group(0);
        }
        command.args(arguments).stderr(Stdio::piped()).kill_on_drop(true).spawn()
    }

    /// As a shell tells it: 127 for a command that is not there, 126 for one that cannot be run.
    fn unstarted(&self, error: &std::io::Error, signals: Signals) -> Ended {
        let program = self.command.first().map(|program| program.to_string_lossy()).unwrap_or_default();
        let text = format!("cannot run {program}: {error}");
        print::err(format_args!("error: {text}"));
        let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
        Ended { code, outcome: Err(fatal(text, "spawn-failed")), signals }
    }

    /// Waits for the command's end, and hands on what asks it to end.
    async fn watch(
        &self,
        child: &mut Child,
        group: &Group,
        signals: &mut Signals,
    ) -> std::io::Result<(ExitStatus, Asked)> {
        let mut interrupted = None;
        let cancelled = CancellationToken::new();
        let end = async {
            tokio::select! {
                status = child.wait() => return status,
                () = self.unwanted() => {}
            }
            cancelled.cancel();
            group.stop(child).await
        };
        tokio::pin!(end);
        let status = loop {
            tokio::select! {
                // Before its end: one that ended it and us alike is not to interrupt the report too.
                biased;
                signal = signals.next() => {
                    interrupted = Some(signal);
                    group.pass_on(signal);
                }
                status = &mut end => break status?,
            }
        };
        Ok((status, Asked { cancelled: cancelled.is_cancelled(), interrupted }))
    }

    /// Waits for the client's cancel. A lease that was lost otherwise, such as while the service was away, is
    /// no reason to end work that somebody may still want.
    async fn unwanted(&self) {
        let (Some(id), Some(hold)) = (self.id, self.hold) else { return std::future::pending().await };
        hold.stop().cancelled().await;
        if !hold.lost().is_cancelled() {
            return;
        }
        let job = self.reader.job(id).await;
        if !job.is_ok_and(|job| job.state == JobState::Cancelled) {
            std::future::pending::<()>().await;
        }
    }

    async fn result(&self, duration_ms: i64) -> Result<Reply, Failure> {
        let Some(file) = self.file else {
            return Reply::json(&serde_json::json!({"exitCode": 0, "durationMs": duration_ms}));
        };
        let refused = |e: std::io::Error| {
            fatal(format!("cannot read the result from {}: {e}", file.display()), "no-result")
        };
        let mut bytes = Vec::new();
        let opened = tokio::fs::File::open(file).await.map_err(refused)?;
        opened.take(RESULT_MAX as u64 + 1).read_to_end(&mut bytes).await.map_err(refused)?;
        if bytes.len() > RESULT_MAX {
            return Err(fatal(format!("the result is larger than {RESULT_MAX} bytes"), "result-too-large"));
        }
        Ok(child::reply(bytes))
    }
}

/// As a shell tells it: a signal is 128 and its number.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Passes standard error on without its progress lines, and keeps the last lines.
async fn read_errors(mut pipe: impl AsyncRead + Unpin, progress: Option<Progress>, last: Last) {
    let mut ours = tokio::io::stderr();
    let (mut sieve, mut lines) = (Sieve::default(), Lines::default());
    let mut chunk = [0; 8_192];
    loop {
        let length = pipe.read(&mut chunk).await.unwrap_or(0);
        let (pass, marks) = if length == 0 { sieve.rest() } else { sieve.push(&chunk[..length]) };
        tell(&marks, progress.as_ref());
        lines.push(&pass).iter().for_each(|line| last.push(line));
        // Nobody may be there to read it; the command must not be stopped by that.
        let _ = ours.write_all(&pass).await;
        let _ = ours.flush().await;
        if length == 0 {
            lines.rest().iter().for_each(|line| last.push(line));
            return;
        }
    }
}

fn tell(marks: &[Mark], progress: Option<&Progress>) {
    if let (Some((percent, message)), Some(progress)) = (marks.last(), progress) {
        progress.report(*percent, message.as_deref());
    }
}
