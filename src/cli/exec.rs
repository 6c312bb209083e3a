//! One job, done by a command.

#[cfg(test)]
mod tests;

use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio_util::task::AbortOnDropHandle;

use super::child::{self, Group, joined, reply, spawn};
use super::print;
use super::said::{Last, Lines, parse_progress};
use crate::types::api::{self, RESULT_MAX};
use crate::worker::{Failure, Progress, Reply, Task};

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
            Err(e) => {
                return Err(self.failed(format!("cannot run the command: {e}"), "spawn-failed"));
            }
        };
        let group = Group::of(&child);
        let input = child.stdin.take().map(|pipe| feed(pipe, task.job.input.get().to_owned()));
        let output = child.stdout.take().map(|pipe| spawn(read_result(pipe)));
        let last = Last::default();
        let errors = child.stderr.take();
        let errors = errors.map(|pipe| spawn(read_errors(pipe, task.progress.clone(), last.clone())));
        let ended = tokio::select! {
            status = child.wait() => status.map(|status| (status, false)),
            () = task.stop.cancelled() => group.stop(&mut child).await.map(|status| (status, true)),
        };
        group.forget();
        drop(input);
        let (status, stopped) = ended.map_err(|e| self.failed(format!("lost the command: {e}"), "lost"))?;
        let output = joined(output).await;
        joined(errors).await;
        if stopped {
            return Err(Failure::new("the command was stopped").with_code("stopped"));
        }
        if !status.success() {
            let retryable = self.retry || status.code() == Some(TEMPFAIL);
            return Err(Failure { retryable, ..child::judge(status, last.text()) });
        }
        match output {
            Some(Output::Whole(bytes)) => Ok(reply(bytes)),
            Some(Output::TooLong) => {
                let why = format!("the result is larger than {RESULT_MAX} bytes");
                Err(Failure::fatal(why).with_code("result-too-large"))
            }
            None => Err(self.failed("the command's output did not end".to_owned(), "no-end-of-output")),
        }
    }

    /// An attempt that failed without an exit code.
    fn failed(&self, why: String, code: &str) -> Failure {
        Failure { retryable: self.retry, ..Failure::new(why).with_code(code) }
    }

    /// In a process group of its own, so that a stop reaches what the command itself has started.
    fn spawn(&self, job: &api::ClaimedJob) -> std::io::Result<Child> {
        let mut command = tokio::process::Command::new("sh");
        child::without_secrets(&mut command);
        child::tell(&mut command, job.job_id, &job.kind, job.attempt);
        command
            .args(["-c", &self.line])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

/// In a task of its own: a command may print before it has read everything, or read nothing at all.
fn feed(mut pipe: ChildStdin, input: String) -> AbortOnDropHandle<()> {
    spawn(async move {
        // A command that does not want its input closes the pipe; that is its right.
        let _ = pipe.write_all(input.as_bytes()).await;
        let _ = pipe.shutdown().await;
    })
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

/// Reports progress lines, passes the others on, and keeps the last of those.
async fn read_errors(mut pipe: impl AsyncRead + Unpin, progress: Progress, last: Last) {
    let mut lines = Lines::default();
    let mut chunk = [0; 8_192];
    while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
        for line in lines.push(&chunk[..length]) {
            take(&line, &progress, &last);
        }
    }
    if let Some(line) = lines.rest() {
        take(&line, &progress, &last);
    }
}

fn take(line: &str, progress: &Progress, last: &Last) {
    if let Some((percent, message)) = parse_progress(line) {
        progress.report(percent, message);
        return;
    }
    print::err(line);
    last.push(line);
}
