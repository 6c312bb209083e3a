//! `dev` and `serve` as processes: what they say, what they refuse, how they stop.

use std::net::TcpStream as Probe;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Process, SOON, run};
use crate::support::app::until;
use crate::support::process::{KEY, free_port, ringback};

/// A development node on a port of its own choice, and where it listens.
fn dev(dir: &std::path::Path, more: &[&str]) -> (Process, Vec<String>, String) {
    let mut command = ringback();
    command.args(["dev", "--listen", "127.0.0.1:0", "--store", "sqlite://n.db"]).args(more);
    let node = Process::start(&mut command, dir, "dev.log");
    let mut lines = vec![node.line()];
    while !lines[lines.len() - 1].starts_with("listening on ") {
        lines.push(node.line());
    }
    let url = lines[lines.len() - 1].strip_prefix("listening on ").unwrap().to_owned();
    (node, lines, url)
}

#[test]
fn dev_says_how_to_reach_it_and_sigterm_ends_it() {
    let dir = tempfile::tempdir().unwrap();

    let (mut node, lines, url) = dev(dir.path(), &[]);

    assert_eq!(lines.len(), 3, "{lines:?}");
    let key = lines[0].strip_prefix("API key: ").unwrap();
    let body = key.strip_prefix("rbk_").unwrap();
    assert!(body.len() >= 32 && body.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{key}");
    assert!(lines[1].starts_with("webhook secret: whsec_"), "{}", lines[1]);
    let port: u16 = url.strip_prefix("http://127.0.0.1:").unwrap().parse().unwrap();
    assert_ne!(port, 0);
    assert!(dir.path().join("n.db.keyring").is_file(), "a key ring is made beside the store");
    let list = run(ringback().args(["jobs", "list", "--url", &url, "--api-key", key, "--json"])).json();
    assert_eq!(list, serde_json::json!({"items": [], "nextCursor": null}));

    node.signal("TERM");
    assert_eq!(node.ended(), 0);
    let secret = lines[1].clone();
    let (mut again, lines, _) = dev(dir.path(), &["--api-key", key]);
    assert_eq!((lines[0].as_str(), &lines[1]), (format!("API key: {key}").as_str(), &secret));
    again.signal("INT");
    assert_eq!(again.ended(), 0);
}

#[test]
fn dev_takes_any_key_of_the_contracts_shape_and_tells_in_json() {
    let dir = tempfile::tempdir().unwrap();
    for key in [format!("rbk_{}", "a".repeat(32)), format!("rbk_{}", "_Z9".repeat(100))] {
        let mut command = ringback();
        command.args(["dev", "--json", "--api-key", &key]).env("RINGBACK_LISTEN", "127.0.0.1:0");
        command.env("RINGBACK_STORE", "sqlite://n.db");
        let mut node = Process::start(&mut command, dir.path(), "dev.log");
        let said: serde_json::Value = serde_json::from_str(&node.line()).unwrap();
        assert_eq!(said["apiKey"], key);
        let url = said["listening"].as_str().unwrap();
        assert!(url.starts_with("http://127.0.0.1:"), "{said}");
        assert!(said["webhookSecret"].as_str().unwrap().starts_with("whsec_"), "{said}");
        run(ringback().args(["jobs", "list", "--url", url, "--api-key", &key])).done();
        node.signal("TERM");
        assert_eq!(node.ended(), 0);
    }
}

#[test]
fn dev_refuses_what_is_not_for_development() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let busy = taken.local_addr().unwrap().to_string();
    std::fs::write(dir.path().join("bad.toml"), "[[route]]\n").unwrap();
    std::fs::write(dir.path().join("push.toml"), "[queues.q.worker]\nurl = 'http://w/'\n").unwrap();
    for (args, code, says) in [
        (&["--listen", "0.0.0.0:0"][..], 2, "loopback only"),
        (&["--listen", "localhost"], 2, "--listen"),
        (&["--port", "1"], 2, "--port"),
        (&["--listen", &busy], 1, "cannot listen on"),
        (&["--listen", "127.0.0.1:0", "--api-key", "hunter2"], 2, "--api-key: must be `rbk_`"),
        (&["--listen", "127.0.0.1:0", "--store", "mysql://x"], 2, "store"),
        (&["--listen", "127.0.0.1:0", "--config", "none.toml"], 1, "none.toml"),
        (&["--listen", "127.0.0.1:0", "--config", "bad.toml"], 1, "bad.toml"),
        (&["--listen", "127.0.0.1:0", "--config", "push.toml"], 1, "queues.q.worker.url: an inner host name"),
    ] {
        let ran = run(ringback().arg("dev").args(args).current_dir(dir.path()));
        ran.refused(code, says);
        assert!(!ran.err.contains("hunter2"), "a key is never quoted: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_a_request_under_way_end() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, _, url) = dev(dir.path(), &["--api-key", KEY]);
    let addr = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: 12\r\nExpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The node asks for the body, so the request is in its hands.
    let mut seen = [0; 25];
    timeout(SOON, stream.read_exact(&mut seen)).await.unwrap().unwrap();

    node.signal("TERM");

    until(
        "the node lets nobody in",
        async || {
            if Probe::connect(addr).is_err() { Ok(()) } else { Err("it does") }
        },
    )
    .await;
    stream.write_all(b"{\"type\":\"t\"}").await.unwrap();
    let mut answer = String::new();
    timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert_eq!(node.ended(), 0);
    let check = run(ringback().args(["check", "--store", "sqlite://n.db"]).current_dir(dir.path()));
    assert_eq!(check.done(), "all invariants hold\n");
}

#[test]
fn serve_says_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let serve = |args: &[&str]| {
        let args = [&["serve", "--listen", "127.0.0.1:0"], args].concat();
        run(ringback().args(args).current_dir(dir.path()))
    };
    serve(&[]).refused(2, "--store is required");
    serve(&["--store", "sqlite://n.db"]).refused(2, "--key-ring is required");
    serve(&["--store", "sqlite://n.db", "--key-ring", "ring"]).refused(1, "cannot read the key ring ring");
    serve(&["--store", "sqlite://n.db", "--role", "cook"]).refused(2, "cook");
    serve(&["--allow-cidr", "10.0.0.0/33"]).refused(2, "--allow-cidr");
    serve(&["--allow-port", "65536"]).refused(2, "--allow-port");
    serve(&["--public-url", "jobs.example.com"]).refused(2, "--public-url");
    run(ringback().args(["keyring", "create", "ring"]).current_dir(dir.path())).done();
    let keyless = serve(&["--store", "sqlite://n.db", "--key-ring", "ring"]);
    keyless.refused(1, "production needs an API key");
    assert!(keyless.err.contains("ringback keys create"), "it says how to make one: {keyless:?}");
}

#[test]
fn serve_runs_in_production_as_its_flags_say() {
    let dir = tempfile::tempdir().unwrap();
    run(ringback().args(["keyring", "create", "ring"]).current_dir(dir.path())).done();
    let scopes = "jobs:write,jobs:read";
    let create = ["keys", "create", "--store", "sqlite://n.db", "--tenant", "acme", "--scopes", scopes];
    let key = run(ringback().args(create).current_dir(dir.path())).done().trim().to_owned();
    let public = "https://jobs.example.com";
    let up = |more: &[&str]| {
        let flags = ["--store", "sqlite://n.db", "--key-ring", "ring", "--public-url", public];
        let mut command = ringback();
        command.args(["serve", "--listen", "127.0.0.1:0", "--role", "api,dispatch"]).args(flags).args(more);
        let node = Process::start(&mut command, dir.path(), "serve.log");
        let line = node.line();
        let url = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        (node, url)
    };
    let submit = |url: &str, callback: &str| {
        let args = ["submit", "--type", "t", "--json", "--callback-url", callback];
        run(ringback().args(args).env("RINGBACK_URL", url).env("RINGBACK_API_KEY", &key))
    };

    let (mut closed, url) = up(&[]);
    let status = submit(&url, "https://hooks.example.com/x").json()["statusUrl"].clone();
    assert!(status.as_str().unwrap().starts_with(&format!("{public}/v1/jobs/job_")), "{status}");
    for blocked in ["http://127.0.0.1:9/x", "https://127.0.0.1/x", "https://hooks.example.com:4433/x"] {
        submit(&url, blocked).refused(1, "\"code\":\"callback-url-blocked\"");
    }
    closed.signal("TERM");
    assert_eq!(closed.ended(), 0);

    let (mut open, url) = up(&["--allow-http", "--allow-cidr", "127.0.0.0/8", "--allow-port", "4433"]);
    for allowed in ["http://127.0.0.1:9/x", "https://hooks.example.com:4433/x"] {
        submit(&url, allowed).json();
    }
    open.signal("TERM");
    assert_eq!(open.ended(), 0);
}

#[test]
fn a_second_process_on_one_sqlite_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, ..) = dev(dir.path(), &[]);
    let store = ["--store", "sqlite://n.db"];
    let second = |args: &[&str]| run(ringback().args(args).args(store).current_dir(dir.path()));
    let used = "another process uses this SQLite file";

    second(&["dev", "--listen", "127.0.0.1:0"]).refused(1, used);
    second(&["keys", "create", "--tenant", "t", "--scopes", "work"]).refused(1, used);
    second(&["migrate"]).refused(1, used);
    assert_eq!(second(&["check"]).done(), "all invariants hold\n");

    node.signal("TERM");
    assert_eq!(node.ended(), 0);
    second(&["migrate"]).done();
}
