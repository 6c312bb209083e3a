//! A benchmark that is interrupted takes away what it has made.

use std::path::Path;

use sqlx::{Connection, PgConnection};

use crate::cli::Process;
use crate::support::app::until;
use crate::support::postgres;
use crate::support::process::ringback;

/// The process ids of what that process has started.
fn children(pid: u32) -> Vec<u32> {
    let told = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    told.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The store that is set for that process.
fn store(pid: u32) -> Option<String> {
    let set = std::fs::read_to_string(format!("/proc/{pid}/environ")).ok()?;
    set.split('\0').find_map(|set| set.strip_prefix("RINGBACK_STORE=")).map(str::to_owned)
}

fn files(dir: &Path) -> Vec<std::ffi::OsString> {
    dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// Starts one that would take for hours, interrupts it in its midst and gives the store that its server had.
async fn interrupted(signal: &str, more: &[&str]) -> String {
    let (dir, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut command = ringback();
    command.args(["bench", "lifecycle", "--jobs", "10000000", "--warm-up", "0", "--limit-jobs", "0"]);
    command.args(more).env("TMPDIR", dir.path());
    let mut process = Process::start(&mut command, logs.path(), "log");
    let parts = until("server, receiver and worker run", async || {
        let parts = children(process.child.id());
        if parts.len() == 3 { Ok(parts) } else { Err(parts) }
    })
    .await;
    let store = parts.iter().find_map(|pid| store(*pid)).unwrap();
    assert_ne!(files(dir.path()).len(), 0, "it works there");
    process.signal(signal);
    assert_eq!(process.ended(), 1);
    let log = std::fs::read_to_string(logs.path().join("log")).unwrap();
    assert!(log.contains("interrupted"), "{log}");
    for pid in parts {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} goes on");
    }
    assert!(files(dir.path()).is_empty(), "left behind: {:?}", files(dir.path()));
    store
}

#[tokio::test]
async fn an_interrupted_benchmark_leaves_no_process_and_no_file_behind() {
    for signal in ["INT", "HUP"] {
        interrupted(signal, &[]).await;
    }
}

#[tokio::test]
async fn an_interrupted_benchmark_leaves_no_file_behind_where_it_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let beside = format!("sqlite://{}", dir.path().join("a.db").display());
    interrupted("TERM", &["--store", &beside]).await;
    assert!(files(dir.path()).is_empty(), "left behind: {:?}", files(dir.path()));
}

#[tokio::test]
async fn an_interrupted_benchmark_leaves_no_database_behind() {
    let beside = postgres::database().await;
    let made = interrupted("TERM", &["--store", &beside]).await;
    assert_ne!(made, beside, "one of its own");
    let gone = PgConnection::connect(&made).await.map(drop).unwrap_err();
    assert_eq!(gone.as_database_error().and_then(|e| e.code()).as_deref(), Some("3D000"), "{gone}");
}
