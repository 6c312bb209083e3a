//! The real binary as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

pub const KEY: &str = "rbk_0123456789abcdefghijABCDEFGHIJ0123456789abc";
/// A signing secret that a service takes.
pub const SECRET: &str = "whsec_t9Iu17CQUB91WZZiPLt2TUScuZ21l6aI5BIkx/iyoWg=";

/// A running node. Killed when dropped.
pub struct Node {
    child: Child,
    pub url: String,
    /// The default tenant's webhook secret, which `dev` says.
    pub secret: String,
}

/// A port that is free now. The nodes of a test keep theirs over restarts.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn ringback() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringback"));
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("RINGBACK_")) {
        command.env_remove(name);
    }
    command
}

impl Node {
    /// Starts a node for development and waits for its ready line.
    pub fn dev(store: &str, port: u16, dir: &Path) -> Node {
        Node::dev_with(store, port, dir, &[])
    }

    /// The same with further arguments.
    pub fn dev_with(store: &str, port: u16, dir: &Path, more: &[&str]) -> Node {
        let mut command = ringback();
        command
            .args(["dev", "--listen", &format!("127.0.0.1:{port}"), "--store", store, "--api-key", KEY])
            .args(more)
            .current_dir(dir);
        Node::start(command, &dir.join("node.log"))
    }

    /// Starts a node that writes this log, and waits for its ready line.
    pub fn start(mut command: Command, log: &Path) -> Node {
        let to = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .env("RUST_LOG", "ringback=info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(to)
            .spawn()
            .unwrap();
        // Held from here on, so that a node that does not get ready is killed too.
        let mut node = Node { child, url: String::new(), secret: String::new() };
        let lines = BufReader::new(node.child.stdout.take().unwrap()).lines();
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|l| send.send(l)));
        while node.url.is_empty() {
            let line = receive.recv_timeout(Duration::from_secs(30)).unwrap_or_else(|e| {
                let log = std::fs::read_to_string(log).unwrap();
                panic!("the node is not ready: {e}; {log}")
            });
            if let Some(text) = line.strip_prefix("webhook secret: ") {
                node.secret = text.to_owned();
            }
            if let Some(url) = line.strip_prefix("listening on ") {
                node.url = url.to_owned();
            }
        }
        node
    }

    /// SIGKILL: no code of the node runs any more.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGHUP: read again what may change.
    pub fn hang_up(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }

    /// SIGTERM, then its exit code.
    pub fn terminate(&mut self) -> i32 {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
