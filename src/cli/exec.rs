//! One job, done by a command.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio_util::task::AbortOnDropHandle;

use crate::types::api::{self, RESULT_MAX};
use crate::worker::{Failure, Progress, Reply, Task};

/// Between SIGTERM and SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);
/// A grandchild may keep the pipes open after the command has ended.
const PIPES: Duration = Duration::from_secs(2);
/// How much of standard error becomes the error text.
const LAST_LINES: usize = 20;
const LINE_MAX: usize = 4_096;
/// EX_TEMPFAIL of sysexits: "try again later".
const TEMPFAIL: i32 = 75;

/// What is run for each job.
#[derive(Debug)]
pub struct Command {
    /// For `sh -c`.
    pub line: String,
    /// Whether a failed attempt may be tried again whatever its exit code.
    pub retry: bool,
}

impl Command {
    /// Does one job.
    pub async fn run(self: Arc<Self>, task: Task) -> Result<Reply, Failure> {
        let mut child = match self.spawn(&task.job) {
            Ok(child) => child,
            Err(e) => return Err(failure(format!("cannot run the command: {e}"), "spawn-failed", true)),
        };
        let group = Group::of(&child);
        let input = child.stdin.take().map(|pipe| feed(pipe, task.job.input.get().to_owned()));
        let output = child.stdout.take().map(|pipe| spawn(read_result(pipe)));
        let errors = child.stderr.take().map(|pipe| spawn(read_errors(pipe, task.progress.clone())));
        let ended = tokio::select! {
            status = child.wait() => status.map(|status| (status, false)),
            () = task.stop.cancelled() => group.stop(&mut child).await.map(|status| (status, true)),
        };
        // Reaped: its number may soon name another group.
        group.forget();
        drop(input);
        let (status, stopped) = ended.map_err(|e| failure(format!("lost the command: {e}"), "lost", true))?;
        let output = joined(output).await;
        let said = joined(errors).await.unwrap_or_default();
        if stopped {
            return Err(failure("the command was stopped".to_owned(), "stopped", true));
        }
        if !status.success() {
            return Err(self.judge(status, said));
        }
        match output {
            Some(Output::Whole(bytes)) => Ok(reply(bytes)),
            Some(Output::TooLong) => {
                let why = format!("the result is larger than {RESULT_MAX} bytes");
                Err(failure(why, "result-too-large", false))
            }
            None => Err(failure("the command's output did not end".to_owned(), "no-end-of-output", true)),
        }
    }

    /// In a process group of its own, so that a stop reaches what the command itself has started.
    fn spawn(&self, job: &api::ClaimedJob) -> std::io::Result<Child> {
        tokio::process::Command::new("sh")
            .args(["-c", &self.line])
            .env("RINGBACK_JOB_ID", job.job_id.to_string())
            .env("RINGBACK_JOB_TYPE", &job.kind)
            .env("RINGBACK_ATTEMPT", job.attempt.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    fn judge(&self, status: ExitStatus, said: String) -> Failure {
        let (code, what) = match (status.code(), status.signal()) {
            (Some(code), _) => (format!("exit-{code}"), format!("the command ended with exit code {code}")),
            (None, Some(signal)) => {
                (format!("signal-{signal}"), format!("the command was ended by signal {signal}"))
            }
            (None, None) => ("exit-unknown".to_owned(), "the command ended in an unknown way".to_owned()),
        };
        let retryable = self.retry || status.code() == Some(TEMPFAIL);
        failure(if said.is_empty() { what } else { said }, &code, retryable)
    }
}

/// A command's process group; ended when it is dropped before the command was reaped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Group {
        Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    /// SIGTERM, and SIGKILL for what has not ended by then.
    async fn stop(&self, child: &mut Child) -> std::io::Result<ExitStatus> {
        self.signal(Signal::TERM);
        if let Ok(ended) = tokio::time::timeout(PATIENCE, child.wait()).await {
            return ended;
        }
        self.signal(Signal::KILL);
        child.wait().await
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // All that can go wrong is that nobody is left to hear it.
            let _ = kill_process_group(pid, signal);
        }
    }

    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(work))
}

/// In a task of its own: a command may print before it has read everything, or read nothing at all.
fn feed(mut pipe: ChildStdin, input: String) -> AbortOnDropHandle<()> {
    spawn(async move {
        // A command that does not want its input closes the pipe; that is its right.
        let _ = pipe.write_all(input.as_bytes()).await;
        let _ = pipe.shutdown().await;
    })
}

async fn joined<T>(reader: Option<AbortOnDropHandle<T>>) -> Option<T> {
    tokio::time::timeout(PIPES, reader?).await.ok()?.ok()
}

enum Output {
    Whole(Vec<u8>),
    TooLong,
}

/// Reads on after the limit, so that the command is not stopped by a full pipe and its exit code counts.
async fn read_result(mut pipe: impl AsyncRead + Unpin) -> Output {
    let mut bytes = Vec::new();
    let mut limited = (&mut pipe).take(RESULT_MAX as u64 + 1);
    if limited.read_to_end(&mut bytes).await.is_ok() && bytes.len() <= RESULT_MAX {
        return Output::Whole(bytes);
    }
    let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    Output::TooLong
}

/// Reports progress lines, passes the others on, and returns the last of those.
async fn read_errors(mut pipe: impl AsyncRead + Unpin, progress: Progress) -> String {
    let mut last = VecDeque::new();
    let mut lines = Lines::default();
    let mut chunk = [0; 8_192];
    while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
        for line in lines.push(&chunk[..length]) {
            take(&line, &progress, &mut last);
        }
    }
    if let Some(line) = lines.rest() {
        take(&line, &progress, &mut last);
    }
    last.make_contiguous().join("\n")
}

fn take(line: &str, progress: &Progress, last: &mut VecDeque<String>) {
    if let Some((percent, message)) = parse_progress(line) {
        progress.report(percent, message);
        return;
    }
    eprintln!("{line}");
    if line.trim().is_empty() {
        return;
    }
    if last.len() == LAST_LINES {
        last.pop_front();
    }
    last.push_back(line.to_owned());
}

/// Cuts a stream into lines of bounded length; bytes that are not UTF-8 are replaced.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, chunk: &[u8]) -> Vec<String> {
        let mut whole = Vec::new();
        for byte in chunk {
            if *byte == b'\n' || self.0.len() == LINE_MAX {
                whole.extend(self.rest().or_else(|| Some(String::new())));
            }
            if *byte != b'\n' {
                self.0.push(*byte);
            }
        }
        whole
    }

    fn rest(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.0);
        (!line.is_empty()).then(|| String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned())
    }
}

/// Reads `::progress 40` and `::progress 40 some words`; anything else is an ordinary line.
fn parse_progress(line: &str) -> Option<(u8, Option<&str>)> {
    let rest = line.trim().strip_prefix("::progress")?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (number, message) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let digits = number.strip_suffix('%').unwrap_or(number);
    let percent = digits.parse().ok().filter(|percent| *percent <= 100)?;
    let message = message.trim();
    Some((percent, (!message.is_empty()).then_some(message)))
}

/// JSON stays JSON, silence is `null`, anything else is kept as the bytes it is.
fn reply(bytes: Vec<u8>) -> Reply {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Reply::Json(api::null());
    }
    if let Ok(json) = serde_json::from_slice(&bytes) {
        return Reply::Json(json);
    }
    let text = str::from_utf8(&bytes).is_ok();
    let content_type = if text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
    Reply::Bytes { content_type: content_type.to_owned(), bytes: Bytes::from(bytes) }
}

fn failure(error: String, code: &str, retryable: bool) -> Failure {
    Failure { error, code: Some(code.to_owned()), retryable, retry_after_seconds: None }
}
