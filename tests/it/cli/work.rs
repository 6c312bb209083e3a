//! `work --exec`: a command as a worker.

use std::fs::File;
use std::process::Command;
use std::sync::mpsc::channel;

use serde_json::{Value, json};

use super::{Desk, Process, SOON, run};
use crate::support::process::SECRET;

#[tokio::test]
async fn a_command_gets_the_input_and_gives_the_result() {
    let desk = Desk::open();
    let tell = "printf '{\"id\":\"%s\",\"type\":\"%s\",\"attempt\":%s,\"in\":' \
                \"$RINGBACK_JOB_ID\" \"$RINGBACK_JOB_TYPE\" \"$RINGBACK_ATTEMPT\"; cat; printf '}'";
    let mut worker = desk.work(tell, &[]);

    let job = desk.submit(&["--input", "{\"year\":2025}"]);

    desk.job_in(&job, "complete").await;
    let told = desk.json(&["jobs", "result", &job]);
    let wanted = json!({"id": job, "type": "t", "attempt": 1, "in": {"year": 2025}});
    assert_eq!((&told["contentType"], &told["result"]), (&json!("application/json"), &wanted));
    worker.signal("TERM");
    assert_eq!(worker.ended(), 0);
}

/// Shows what there is of a command's environment that it must not see.
const LOOK: &str = "env | grep -e canary -e RINGBACK_KEY || true";

/// What the one who runs commands may have been told by its environment.
fn with_secrets(command: &mut Command) -> &mut Command {
    for name in ["CALLBACK_SECRET", "HEADER", "HEADERS", "KEY_RING", "SECRET", "STORE"] {
        command.env(format!("RINGBACK_{name}"), "canary");
    }
    command
}

#[tokio::test]
async fn a_command_sees_no_secret_and_not_a_part_of_the_service() {
    let desk = Desk::open();
    let mut command = desk.command(&["work", "--exec", LOOK]);
    let _worker = Process::start(with_secrets(&mut command), desk.dir.path(), "work.log");
    let url = format!("{}/livez", desk.node.url);
    let job = desk.submit(&["--callback-url", &url]);
    desk.job_in(&job, "complete").await;
    assert_eq!(desk.json(&["jobs", "result", &job])["result"], Value::Null);
    let args = ["run", "--callback-url", &url, "--callback-secret", SECRET, "--", "sh", "-c", LOOK];
    let mut command = desk.command(&args);
    assert_eq!(run(with_secrets(&mut command)).done(), "");

    let other = desk.submit(&[]);
    let found = |args: &[&str], env: &[(&str, &str)]| {
        let list = run(desk.command(args).envs(env.iter().copied()).arg("--json")).json();
        list["items"].as_array().unwrap().iter().any(|delivery| delivery["jobId"] == job)
    };
    let told = [("RINGBACK_JOB_ID", other.as_str()), ("RINGBACK_ATTEMPT", "1")];
    assert!(found(&["deliveries", "list"], &told));
    assert!(found(&["deliveries", "list", "--job-id", &job], &told));
    assert!(!found(&["deliveries", "list"], &told[..1]), "elsewhere it is a flag's variable like any other");
}

#[tokio::test]
async fn a_command_that_fails_says_why() {
    let desk = Desk::open();
    let _worker = desk.work("echo 'no data for 2025' >&2; exit 3", &[]);
    let last = desk.submit(&["--max-attempts", "1"]);
    let first = desk.submit(&[]);

    let failed = desk.job_in(&last, "failed").await;
    assert_eq!(failed["error"], "no data for 2025");
    assert_eq!(
        (&failed["errorInfo"]["code"], &failed["errorInfo"]["attempt"]),
        (&json!("exit-3"), &json!(1))
    );
    let again = desk.job_in(&first, "retrying").await;
    assert_eq!((&again["status"], &again["attempt"]), (&json!("queued"), &json!(1)));

    let strict = desk.work("exit 4", &["--no-retry", "--queue", "strict"]);
    let once = desk.submit(&["--queue", "strict"]);
    let failed = desk.job_in(&once, "failed").await;
    assert_eq!((&failed["errorInfo"]["code"], &failed["attempt"]), (&json!("exit-4"), &json!(1)));
    drop(strict);
}

#[tokio::test]
async fn progress_shows_and_sigterm_lets_the_running_job_end() {
    let desk = Desk::open();
    desk.gate();
    let mut worker = desk.work("echo '::progress 40 half way' >&2; cat gate", &["--lease-seconds", "3"]);
    let job = desk.submit(&[]);

    let running = desk.job(&job, |job| job["progress"] == 40).await;
    assert_eq!((&running["status"], &running["message"]), (&json!("processing"), &json!("half way")));
    worker.signal("TERM");
    let late = desk.submit(&[]);
    desk.open_gate("\"through\"");

    assert_eq!(worker.ended(), 0);
    let done = desk.job_in(&job, "complete").await;
    assert!(done.get("progress").is_none(), "only while processing: {done}");
    assert_eq!(desk.run(&["jobs", "result", &job]).done(), "\"through\"");
    desk.job_in(&late, "queued").await;
}

#[tokio::test]
async fn a_cancel_reaches_the_command() {
    let desk = Desk::open();
    desk.gate();
    let _worker = desk.work("cat gate", &["--lease-seconds", "3"]);
    let job = desk.submit(&[]);
    desk.job_in(&job, "processing").await;

    let told = desk.json(&["jobs", "cancel", &job]);

    assert_eq!((&told["state"], &told["cancelRequested"]), (&json!("processing"), &json!(true)));
    let ended = desk.job_in(&job, "cancelled").await;
    assert_eq!(ended["status"], "failed");
}

/// Makes a pipe for a command to write to: it is read to its end once nobody is left who holds it for writing.
pub(super) fn alive(desk: &Desk) {
    assert!(Command::new("mkfifo").arg(desk.dir.path().join("alive")).status().unwrap().success());
}

/// Waits for that end.
pub(super) fn all_end(alive: File) {
    let (send, receive) = channel();
    std::thread::spawn(move || send.send(std::io::read_to_string(alive).unwrap()));
    receive.recv_timeout(SOON).expect("the command and what it started have ended");
}

#[tokio::test]
async fn a_second_signal_ends_the_commands_too() {
    let desk = Desk::open();
    desk.gate();
    alive(&desk);
    let script = "exec 3> alive; trap '' TERM INT; echo '::progress 40 on' >&2; cat gate";
    let mut worker = desk.work(script, &["--lease-seconds", "3"]);
    let job = desk.submit(&[]);
    let alive = File::open(desk.dir.path().join("alive")).unwrap();
    desk.job(&job, |job| job["progress"] == 40).await;

    worker.signal("TERM");
    worker.signal("INT");

    assert_eq!(worker.ended(), 130);
    all_end(alive);
}

#[tokio::test]
async fn a_hangup_stops_the_worker_and_its_commands() {
    let desk = Desk::open();
    desk.gate();
    alive(&desk);
    let script = "exec 3> alive; echo '::progress 40 on' >&2; cat gate";
    let mut worker = desk.work(script, &["--grace-seconds", "0"]);
    let job = desk.submit(&[]);
    let alive = File::open(desk.dir.path().join("alive")).unwrap();
    desk.job(&job, |job| job["progress"] == 40).await;

    worker.signal("HUP");

    assert_eq!(worker.ended(), 0);
    all_end(alive);
    assert_eq!(desk.job_in(&job, "queued").await["attempt"], 0, "given back");
}

#[tokio::test]
async fn a_hangup_that_is_ignored_from_the_start_stays_so() {
    let desk = Desk::open();
    let command = desk.command(&["work", "--exec", "cat"]);
    let mut ignoring = Command::new("sh");
    ignoring
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    ignoring.envs(set);
    let mut worker = Process::start(&mut ignoring, desk.dir.path(), "work.log");
    let before = desk.submit(&[]);
    desk.job_in(&before, "complete").await;

    worker.signal("HUP");

    let after = desk.submit(&[]);
    desk.job_in(&after, "complete").await;
    worker.signal("TERM");
    assert_eq!(worker.ended(), 0);
}

#[tokio::test]
async fn a_worker_takes_only_its_queue_and_types() {
    let desk = Desk::open();
    let _worker = desk.work("cat", &["--queue", "mine", "--types", "t,u"]);
    let (elsewhere, mine) = (desk.submit(&[]), desk.submit(&["--queue", "mine"]));
    let other = desk.json(&["submit", "--type", "v", "--queue", "mine"])["jobId"].clone();
    let last = desk.json(&["submit", "--type", "u", "--queue", "mine"])["jobId"].clone();

    desk.job_in(&mine, "complete").await;
    desk.job_in(last.as_str().unwrap(), "complete").await;
    for job in [&elsewhere, other.as_str().unwrap()] {
        assert_eq!(desk.json(&["jobs", "get", job])["state"], "queued");
    }
}

#[tokio::test]
async fn a_worker_whose_key_ends_still_reports_what_it_holds() {
    let desk = Desk::open();
    let key = desk.json(&["keys", "create", "--scopes", "work"]);
    desk.gate();
    let mut command =
        desk.command(&["work", "--exec", "echo '::progress 40 on' >&2; cat gate", "--lease-seconds", "3"]);
    command.env("RINGBACK_API_KEY", key["key"].as_str().unwrap());
    let mut worker = Process::start(&mut command, desk.dir.path(), "work.log");
    let job = desk.submit(&[]);
    desk.job(&job, |job| job["progress"] == 40).await;

    desk.json(&["keys", "revoke", key["keyId"].as_str().unwrap()]);
    desk.open_gate("\"through\"");

    desk.job_in(&job, "complete").await;
    assert_eq!(desk.json(&["jobs", "result", &job])["result"], "through");
    assert_eq!(worker.ended(), 1, "it gets no more jobs");
}
