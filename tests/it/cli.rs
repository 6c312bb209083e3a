//! The real binary as programs and people use it: what it prints, and how it exits.

mod bench;
mod callbacks;
mod ci;
mod doctor;
mod endpoints;
mod events;
mod jobs;
mod keyring;
mod keys;
mod listen;
mod node;
mod operate;
mod passing;
mod queues;
mod run;
mod sdk;
mod signatures;
mod unheard;
mod unreachable;
mod work;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

use crate::support::app::until;
use crate::support::process::{KEY, Node, ringback};

/// Longer than anything that is waited for.
const SOON: Duration = Duration::from_secs(30);

/// What a command that has ended left behind.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    /// Exit 0; gives what was printed.
    #[track_caller]
    fn done(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.out
    }

    /// Exit 0 and one JSON document on one line.
    #[track_caller]
    fn json(&self) -> Value {
        let line = self.done().strip_suffix('\n').unwrap_or_else(|| panic!("{self:?}"));
        assert!(!line.contains('\n'), "{self:?}");
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// That exit code, nothing on standard output, and `says` on standard error.
    #[track_caller]
    fn refused(&self, code: i32, says: &str) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{self:?}");
        assert!(self.err.contains(says), "{says:?} is not told: {self:?}");
    }
}

fn run(command: &mut Command) -> Ran {
    feed(command, b"")
}

/// Runs a command with that standard input.
fn feed(command: &mut Command, input: &[u8]) -> Ran {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    // A command that is refused reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A command that goes on until it is told to stop. Killed when dropped.
struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts it in `dir`, with its standard error in `log` there.
    fn start(command: &mut Command, dir: &Path, log: &str) -> Process {
        let log = std::fs::File::create(dir.join(log)).unwrap();
        let command = command.current_dir(dir).env("RUST_LOG", "ringback=info");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (send, receive) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| send.send(line)));
        Process { child, lines: receive }
    }

    /// The next line that it prints.
    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(SOON).unwrap_or_else(|e| panic!("no line: {e}"))
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Its exit code, once it has ended by itself.
    #[track_caller]
    fn ended(&mut self) -> i32 {
        while match self.lines.recv_timeout(SOON) {
            Ok(_) => true,
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => panic!("it does not end"),
        } {}
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A development node, and commands that find it through their environment.
struct Desk {
    dir: tempfile::TempDir,
    node: Node,
}

impl Desk {
    fn open() -> Desk {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::dev("sqlite://desk.db", 0, dir.path());
        Desk { dir, node }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = ringback();
        command.args(args).current_dir(self.dir.path());
        command.env("RINGBACK_URL", &self.node.url).env("RINGBACK_API_KEY", KEY);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args))
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--json"]].concat()).json()
    }

    /// Submits and gives the job's id.
    #[track_caller]
    fn submit(&self, args: &[&str]) -> String {
        let accepted = self.json(&[&["submit", "--type", "t"], args].concat());
        accepted["jobId"].as_str().unwrap().to_owned()
    }

    /// Starts `ringback work` with that command.
    fn work(&self, exec: &str, more: &[&str]) -> Process {
        let mut command = self.command(&[&["work", "--exec", exec], more].concat());
        Process::start(&mut command, self.dir.path(), "work.log")
    }

    /// What a file of the desk's folder says.
    #[track_caller]
    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Makes `gate`: who reads it waits until it is opened.
    fn gate(&self) {
        assert!(Command::new("mkfifo").arg(self.dir.path().join("gate")).status().unwrap().success());
    }

    fn open_gate(&self, text: &str) {
        std::fs::write(self.dir.path().join("gate"), text).unwrap();
    }

    /// The job, once `wanted` holds of it. Read from the list, for whose reading there is no pace.
    async fn job(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&format!("{id} is as wanted"), async || {
            let list = self.json(&["jobs", "list", "--limit", "200"]);
            let job = list["items"].as_array().unwrap().iter().find(|job| job["jobId"] == id).cloned();
            job.clone().filter(&wanted).ok_or(job)
        })
        .await
    }

    async fn job_in(&self, id: &str, state: &str) -> Value {
        self.job(id, |job| job["state"] == state).await
    }
}
