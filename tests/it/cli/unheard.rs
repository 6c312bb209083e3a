//! What is said where nobody can hear it changes nothing of what is done.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::json;

use super::{Desk, Process, run};
use crate::support::app::until;
use crate::support::process::{KEY, SECRET, free_port, ringback};
use crate::support::store::beside;

/// A device on which nothing can be written.
const FULL: &str = "/dev/full";

#[test]
fn a_service_whose_log_cannot_be_written_serves() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = ringback();
    dev.args(["dev", "--listen", "127.0.0.1:0", "--api-key", KEY]);
    let mut dev = Process::start(&mut dev, dir.path(), FULL);
    let url = loop {
        if let Some(url) = dev.line().strip_prefix("listening on ") {
            break url.to_owned();
        }
    };

    for args in [&["submit", "--type", "t"][..], &["jobs", "list"]] {
        run(ringback().args(args).args(["--url", &url, "--api-key", KEY])).done();
    }

    dev.signal("TERM");
    assert_eq!(dev.ended(), 0);
}

#[tokio::test]
async fn a_service_whose_ready_line_nobody_reads_serves() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("http://127.0.0.1:{}", free_port());
    let (_, gone) = std::io::pipe().unwrap();
    let mut dev = ringback();
    dev.args(["dev", "--listen", &url["http://".len()..], "--api-key", KEY]);
    let mut dev = dev.current_dir(dir.path()).stdout(gone).stderr(Stdio::null()).spawn().unwrap();
    let served = until("it serves", async || {
        let list = ringback().args(["jobs", "list", "--url", &url, "--api-key", KEY]).output().unwrap();
        if list.status.success() { Ok(()) } else { Err(list) }
    });
    served.await;
    assert_eq!(dev.try_wait().unwrap(), None);
    dev.kill().unwrap();
    dev.wait().unwrap();
}

#[tokio::test]
async fn a_step_whose_standard_error_cannot_be_written_is_run_and_told_of() {
    let desk = Desk::open();
    let mut command = desk.command(&["run", "--ref", "step", "--", "sh", "-c", "echo ran; echo lost >&2"]);
    let mut step = Process::start(&mut command, desk.dir.path(), FULL);

    assert_eq!(step.line(), "ran");
    assert_eq!(step.ended(), 0);
    let job = desk.step_job().await;
    desk.job_in(&job, "complete").await;
}

#[tokio::test]
async fn a_worker_whose_standard_error_cannot_be_written_hears_its_command_out() {
    let desk = Desk::open();
    let script = "echo one >&2; echo two >&2; exit 3";
    let mut command = desk.command(&["work", "--exec", script, "--no-retry"]);
    let mut worker = Process::start(&mut command, desk.dir.path(), FULL);

    let job = desk.job_in(&desk.submit(&[]), "failed").await;

    assert_eq!((&job["error"], &job["errorInfo"]["code"]), (&json!("one\ntwo"), &json!("exit-3")));
    worker.signal("TERM");
    assert_eq!(worker.ended(), 0);
}

#[tokio::test]
async fn a_failure_whose_reader_has_gone_is_one_all_the_same() {
    let mut desk = Desk::open();
    let worker = desk.work("exit 3", &["--no-retry"]);
    desk.submit(&["--queue", "nobodys"]);
    let unread = |desk: &Desk, args: &[&str]| {
        let (_, gone) = std::io::pipe().unwrap();
        let mut command = desk.command(args);
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(gone).status().unwrap().code()
    };
    let secret = ["--secret", SECRET];
    let verify = [&["verify", "--id", "i", "--timestamp", "1", "--signature", "v1,x"][..], &secret].concat();
    for (args, code) in [
        (&verify[..], 1),
        (&["doctor", "http://192.0.2.1/"], 1),
        (&["submit", "--type", "t", "--wait"], 1),
        (&["run", "--json", "--", "sh", "-c", "exit 7"], 7),
        (&["jobs", "list"], 0),
    ] {
        assert_eq!(unread(&desk, args), Some(code), "{args:?}");
    }

    drop(worker);
    assert_eq!(desk.node.terminate(), 0);
    let check = ["check", "--store", "sqlite://desk.db"];
    assert_eq!(unread(&desk, &check), Some(0));
    let file = format!("sqlite://{}", desk.dir.path().join("desk.db").display());
    beside(&file).await.run("DELETE FROM job_queue", vec![]).await.unwrap();
    assert_eq!(unread(&desk, &check), Some(1));
}

#[test]
fn a_demo_whose_reader_has_gone_plays_on_and_one_that_cannot_be_written_fails() {
    let mut left = ringback().arg("demo").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let full = std::fs::File::options().write(true).open(FULL).unwrap();
    let full = ringback().arg("demo").stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(left.stdout.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().contains("submit -> 202") {}
    drop(lines);

    let left = left.wait_with_output().unwrap();
    let full = full.wait_with_output().unwrap();

    assert_eq!((left.status.code(), String::from_utf8(left.stderr).unwrap()), (Some(0), String::new()));
    assert_eq!(full.status.code(), Some(1));
    assert!(String::from_utf8(full.stderr).unwrap().starts_with("error: No space left"));
}
