//! What is said where nobody can hear it changes nothing of what is done.

use serde_json::json;

use super::{Desk, Process, run};
use crate::support::process::{KEY, ringback};

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
