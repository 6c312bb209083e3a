//! A command as a child: its process group, what it is told, and what its end means.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::types::{JobId, api};
use crate::worker::{Failure, Reply};

/// Between SIGTERM and SIGKILL.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// A grandchild may keep the pipes open after the command has ended.
const PIPES: Duration = Duration::from_secs(2);
/// How often it is looked whether a group has come to its end.
const LOOK: Duration = Duration::from_millis(50);

const ATTEMPT: &str = "RINGBACK_ATTEMPT";

/// Tells a command which job it does.
pub fn tell(command: &mut Command, job: JobId, kind: &str, attempt: u32) {
    command
        .env("RINGBACK_JOB_ID", job.to_string())
        .env("RINGBACK_JOB_TYPE", kind)
        .env(ATTEMPT, attempt.to_string());
}

/// Whether this process is such a command, or was started by one.
pub fn is_told() -> bool {
    std::env::var_os(ATTEMPT).is_some()
}

/// The variables whose values are secret.
pub const SECRETS: [&str; 6] = [
    "RINGBACK_API_KEY",
    "RINGBACK_CALLBACK_SECRET",
    "RINGBACK_HEADER",
    "RINGBACK_HEADERS",
    "RINGBACK_SECRET",
    "RINGBACK_STORE",
];

/// Takes from a command what it has no business with: it may be anybody's code, and the key would let it submit
/// and read jobs, the store and the key ring do anything.
pub fn without_secrets(command: &mut Command) {
    for name in SECRETS {
        command.env_remove(name);
    }
    command.env_remove("RINGBACK_KEY_RING");
    // It names one request of this process; what the command itself submits is another.
    command.env_remove("RINGBACK_IDEMPOTENCY_KEY");
}

/// The process groups of the commands that run: whoever ends this process without dropping them ends them before.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SIGKILL for every command in a process group of its own, and for what it has started.
pub fn kill_all() {
    for pid in running().drain(..) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// A command's process group; ended when it is dropped before the command was reaped.
pub struct Group {
    pid: Option<Pid>,
    whole: bool,
}

impl Group {
    /// Of a command that was started in a process group of its own.
    pub fn of(child: &Child) -> Group {
        let group = Group { pid: pid(child), whole: true };
        running().extend(group.pid);
        group
    }

    /// Of a command in our own process group: only itself is signalled.
    pub fn alone(child: &Child) -> Group {
        Group { pid: pid(child), whole: false }
    }

    /// SIGTERM, and SIGKILL for what has not ended by then: of a whole group also what the command has started and left behind,
    /// which would go on beside whoever does the job next.
    pub async fn stop(&self, child: &mut Child) -> std::io::Result<ExitStatus> {
        self.signal(Signal::TERM);
        let until = Instant::now() + PATIENCE;
        let ended = timeout_at(until, child.wait()).await;
        // A group's number is not given anew before its last process has ended.
        while ended.is_ok() && self.has_others() && Instant::now() < until {
            sleep(LOOK).await;
        }
        if ended.is_err() || self.has_others() {
            self.signal(Signal::KILL);
        }
        match ended {
            Ok(ended) => ended,
            Err(_) => child.wait().await,
        }
    }

    fn has_others(&self) -> bool {
        self.whole && self.pid.is_some_and(|pid| test_kill_process_group(pid).is_ok())
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            // All that can go wrong is that nobody is left to hear it.
            let _ = if self.whole { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
        }
    }

    /// Sends a signal that this process got. Ctrl-C in a terminal has reached all of our own group already.
    pub fn pass_on(&self, signal: Signal) {
        if self.whole || signal != Signal::INT {
            self.signal(signal);
        }
    }

    /// The command was reaped: its number may soon name another group.
    pub fn forget(mut self) {
        self.leave();
        self.pid = None;
    }

    fn leave(&self) {
        running().retain(|pid| Some(*pid) != self.pid);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        self.leave();
    }
}

fn pid(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()?).ok()?)
}

/// Runs `work` beside; it ends when the handle is dropped.
pub fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(work))
}

/// What the reader of a pipe gives, once its command has ended.
pub async fn joined<T>(reader: Option<AbortOnDropHandle<T>>) -> Option<T> {
    tokio::time::timeout(PIPES, reader?).await.ok()?.ok()
}

/// The failure that an exit code or a signal stands for, with the command's last words if it left any.
pub fn judge(status: ExitStatus, said: String) -> Failure {
    let (code, what) = match (status.code(), status.signal()) {
        (Some(code), _) => (format!("exit-{code}"), format!("the command ended with exit code {code}")),
        (None, Some(signal)) => {
            (format!("signal-{signal}"), format!("the command was ended by signal {signal}"))
        }
        (None, None) => ("exit-unknown".to_owned(), "the command ended in an unknown way".to_owned()),
    };
    Failure::new(if said.is_empty() { what } else { said }).with_code(code)
}

/// JSON stays JSON, silence is `null`, anything else is kept as the bytes it is.
pub fn reply(bytes: Vec<u8>) -> Reply {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Reply::Json(api::null());
    }
    if let Ok(json) = serde_json::from_slice(&bytes) {
        return Reply::Json(json);
    }
    let text = str::from_utf8(&bytes).is_ok();
    let content_type = if text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
    Reply::bytes(content_type, Bytes::from(bytes))
}
