//! `run -- CMD`: a step of a pipeline, told to the service as an external job.

use std::fs::File;

use serde_json::{Value, json};

use super::work::{alive, all_end};
use super::{Desk, Process, feed, run};
use crate::support::app::{LIMIT, until};
use crate::support::process::{KEY, Node, free_port, ringback};
use crate::support::receiver::Receiver;

impl Desk {
    /// Starts `ringback run ... -- sh -c SCRIPT` for the job that `--ref step` finds.
    fn step(&self, more: &[&str], script: &str) -> Process {
        let args = [&["run", "--ref", "step"], more, &["--", "sh", "-c", script]].concat();
        Process::start(&mut self.command(&args), self.dir.path(), "run.log")
    }

    /// The id of that job, once it is there.
    pub(super) async fn step_job(&self) -> String {
        until("the step has its job", async || {
            let found = self.json(&["jobs", "list", "--ref", "step"]);
            found["items"][0]["jobId"].as_str().map(str::to_owned).ok_or(found)
        })
        .await
    }

    /// A step that has ended while the service is away: its job, and the process, which has tried to report.
    async fn unheard_step(&mut self, then: &str) -> (String, Process) {
        self.gate();
        let step = self.step(&["--json"], &format!("echo ready; cat gate{then}"));
        let job = self.step_job().await;
        assert_eq!(step.line(), "ready");
        self.node.kill();
        self.open_gate("through\n");
        assert_eq!(step.line(), "through");
        until("the report was tried", async || {
            let log = self.read("run.log");
            if log.contains("could not be reported yet") { Ok(()) } else { Err(log) }
        })
        .await;
        (job, step)
    }
}

/// The document on the last line.
#[track_caller]
fn last(out: &str) -> Value {
    serde_json::from_str(out.lines().last().unwrap()).unwrap_or_else(|e| panic!("{e}: {out}"))
}

#[tokio::test]
async fn a_step_that_ends_with_0_completes_its_job() {
    let desk = Desk::open();
    let receiver = Receiver::start().await;
    let url = receiver.url("/steps");
    let script = "cat; printf ' %s' \"$RINGBACK_JOB_ID\" $RINGBACK_JOB_TYPE $RINGBACK_ATTEMPT; echo
        echo before >&2; echo '::progress 40 text' >&2; printf after >&2";
    let args = ["run", "--json", "--ref", "build-1", "--queue", "ci", "--callback-url", &url];
    let args = [&args[..], &["--metadata", "{\"team\":\"a\"}", "--", "sh", "-c", script]].concat();

    let ran = feed(&mut desk.command(&args), b"given");

    let job = last(ran.done());
    let id = job["jobId"].as_str().unwrap();
    assert_eq!(ran.out.lines().next().unwrap(), format!("given {id} ci.run 1"));
    assert_eq!(ran.err, "before\nafter");
    assert_eq!((&job["state"], &job["queue"]), (&json!("complete"), &json!("ci")));
    assert_eq!((&job["metadata"], &job["ref"]), (&json!({"team": "a"}), &json!("build-1")));
    let result = desk.json(&["jobs", "result", id])["result"].clone();
    assert_eq!(result["exitCode"], 0);
    assert!(result["durationMs"].as_i64().is_some_and(|ms| ms >= 0), "{result}");
    assert_eq!(desk.json(&["jobs", "list", "--ref", "build-1"])["items"][0]["jobId"], id);
    let heard = receiver.wait("/steps", 1, LIMIT).await[0].json();
    assert_eq!((&heard["type"], &heard["data"]["result"]), (&json!("job.completed"), &result));
}

#[tokio::test]
async fn a_step_that_fails_fails_its_job_and_ends_alike() {
    let desk = Desk::open();
    let ran = desk.run(&["run", "--json", "--", "sh", "-c", "echo one >&2; echo two >&2; exit 7"]);
    assert_eq!((ran.code, ran.err.as_str()), (7, "one\ntwo\n"), "{ran:?}");
    let job = last(&ran.out);
    assert_eq!((&job["state"], &job["error"]), (&json!("failed"), &json!("one\ntwo")));
    assert_eq!(job["errorInfo"]["code"], "exit-7");

    let ran = desk.run(&["run", "--type", "t", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!((ran.code, ran.out.as_str()), (137, ""), "{ran:?}");
    assert!(ran.err.contains("failed: the command was ended by signal 9"), "{ran:?}");

    let ran = desk.run(&["run", "--json", "--", "./nothing-here"]);
    assert_eq!(ran.code, 127, "{ran:?}");
    assert_eq!(last(&ran.out)["errorInfo"]["code"], "spawn-failed");
    // What it has started keeps the pipe open.
    let ran =
        desk.run(&["run", "--json", "--", "sh", "-c", "echo 'no space' >&2; sleep 9 > /dev/null & exit 3"]);
    assert_eq!((ran.code, &last(&ran.out)["error"]), (3, &json!("no space")), "{ran:?}");
}

#[tokio::test]
async fn a_file_is_the_result_and_a_step_done_is_not_done_again() {
    let desk = Desk::open();
    let script = "echo x >> count; printf '<p>' > report";
    let args = ["run", "--json", "--idempotency-key", "k", "--result-file", "report"];
    let args = [&args[..], &["--result-type", "text/html", "--", "sh", "-c", script]].concat();

    let first = last(desk.run(&args).done());
    let again = last(desk.run(&args).done());

    assert_eq!(first["jobId"], again["jobId"]);
    assert_eq!(desk.read("count"), "x\n");
    let other = desk.run(&["run", "--idempotency-key", "k", "--", "sh", "-c", "echo y >> count"]);
    assert_eq!(other.code, 1, "{other:?}");
    assert!(other.err.contains("idempotency-key-reused"), "{other:?}");
    assert_eq!(desk.read("count"), "x\n", "another command under the same key is refused, not passed over");
    let result = desk.json(&["jobs", "result", first["jobId"].as_str().unwrap()]);
    assert_eq!((&result["contentType"], &result["result"]), (&json!("text/html"), &json!("<p>")));

    let ran = desk.run(&["run", "--json", "--result-file", "nowhere", "--", "true"]);
    assert_eq!((ran.code, &last(&ran.out)["errorInfo"]["code"]), (1, &json!("no-result")), "{ran:?}");
}

#[tokio::test]
async fn progress_shows_while_the_step_runs_and_a_cancel_reaches_it() {
    let desk = Desk::open();
    desk.gate();
    let script = "trap 'echo undone > cleaned; exit 9' TERM; echo '::progress 40 half' >&2; read -r _ < gate";
    let mut step = desk.step(&["--json", "--lease-seconds", "3"], script);
    let job = desk.step_job().await;

    let half = desk.job(&job, |job| job["progress"] == 40).await;
    assert_eq!((&half["worker"], &half["message"]), (&json!("external"), &json!("half")));
    assert_eq!(desk.json(&["jobs", "cancel", &job])["cancelRequested"], json!(true));

    assert_eq!(last(&step.line())["state"], "cancelled");
    assert_eq!(step.ended(), 9);
    assert_eq!(desk.read("cleaned"), "undone\n");
    assert!(!desk.read("run.log").contains("::progress"), "{}", desk.read("run.log"));
}

#[tokio::test]
async fn a_step_that_does_not_listen_is_killed() {
    let desk = Desk::open();
    let script = "trap '' TERM; echo ready; while :; do read -r line < gate; done";
    desk.gate();
    let mut step = desk.step(&["--lease-seconds", "3"], script);
    let job = desk.step_job().await;
    assert_eq!(step.line(), "ready");

    desk.json(&["jobs", "cancel", &job]);

    assert_eq!(step.ended(), 137);
    desk.job_in(&job, "cancelled").await;
}

#[tokio::test]
async fn what_a_cancelled_step_leaves_behind_is_killed() {
    let desk = Desk::open();
    desk.gate();
    alive(&desk);
    let script = "(trap '' TERM; exec 3> alive; while :; do sleep 0.05; done) & echo ready; wait";
    let mut step = desk.step(&["--lease-seconds", "3"], script);
    let job = desk.step_job().await;
    assert_eq!(step.line(), "ready");
    let alive = File::open(desk.dir.path().join("alive")).unwrap();

    desk.json(&["jobs", "cancel", &job]);

    all_end(alive);
    assert_eq!(step.ended(), 143);
    desk.job_in(&job, "cancelled").await;
}

#[tokio::test]
async fn a_signal_is_passed_on_and_the_job_tells_of_it() {
    for (name, ends) in [("TERM", 143), ("INT", 1), ("HUP", 129)] {
        let desk = Desk::open();
        desk.gate();
        // The second one ends well; a step that was interrupted has not succeeded all the same. `read` and not `cat`: a signal
        // between fork and exec of a command is lost to it.
        let mut step = desk.step(&["--json"], "trap 'exit 0' INT; echo ready; read -r _ < gate");
        assert_eq!(step.line(), "ready");

        step.signal(name);

        let job = last(&step.line());
        assert_eq!(step.ended(), ends, "{name}");
        assert_eq!((&job["state"], &job["errorInfo"]["code"]), (&json!("failed"), &json!("interrupted")));
        assert_eq!(job["error"], json!(format!("the runner was interrupted by SIG{name}")));
    }
}

#[tokio::test]
async fn a_killed_runner_leaves_a_lost_job_and_the_receiver_hears_of_it() {
    let desk = Desk::open();
    let receiver = Receiver::start().await;
    desk.gate();
    let url = receiver.url("/lost");
    let step = desk.step(&["--lease-seconds", "1", "--callback-url", &url], "echo ready; cat gate");
    let job = desk.step_job().await;
    assert_eq!(step.line(), "ready");

    step.signal("KILL");

    let heard = receiver.wait("/lost", 1, LIMIT).await[0].json();
    assert_eq!((&heard["type"], &heard["data"]["jobId"]), (&json!("job.failed"), &json!(job)));
    assert_eq!(heard["data"]["errorInfo"]["code"], "worker-lost");
    // What the runner started goes on alone, until its gate opens.
    desk.open_gate("");
}

#[tokio::test]
async fn without_the_service_nothing_runs_unless_it_is_to_run_anyway() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("http://127.0.0.1:{}", free_port());
    let step = |more: &[&str]| {
        let mut command = ringback();
        command.args([&["run"], more, &["--", "sh", "-c", "echo ran >> ran; exit 5"]].concat());
        run(command.current_dir(dir.path()).env("RINGBACK_URL", &url).env("RINGBACK_API_KEY", KEY))
    };

    step(&[]).refused(3, "cannot reach the service");
    assert!(!dir.path().join("ran").exists());
    let ran = step(&["--anyway", "--json"]);
    assert_eq!((ran.code, ran.out.as_str()), (5, "null\n"), "{ran:?}");
    assert!(ran.err.contains("running without a job"), "{ran:?}");
    assert_eq!(std::fs::read_to_string(dir.path().join("ran")).unwrap(), "ran\n");
}

#[tokio::test]
async fn a_service_that_goes_away_meanwhile_hears_the_outcome_later() {
    let mut desk = Desk::open();
    let port = desk.node.url.rsplit(':').next().unwrap().parse().unwrap();
    let (job, mut step) = desk.unheard_step("").await;

    desk.node = Node::dev("sqlite://desk.db", port, desk.dir.path());

    assert_eq!(last(&step.line())["jobId"], json!(job));
    assert_eq!(step.ended(), 0);
    desk.job_in(&job, "complete").await;
}

#[tokio::test]
async fn a_signal_ends_the_wait_for_a_service_that_hears_no_outcome() {
    for (signals, then, code) in [(["INT", "TERM"], "", 1), (["TERM", "INT"], "; exit 7", 7)] {
        let mut desk = Desk::open();
        let (_, mut step) = desk.unheard_step(then).await;

        signals.iter().for_each(|name| step.signal(name));

        assert_eq!(last(&step.line()), Value::Null);
        assert_eq!(step.ended(), code, "{signals:?}");
        assert!(desk.read("run.log").contains("interrupted before the outcome was reported"));
    }
}

#[tokio::test]
async fn a_key_that_may_only_submit_is_enough() {
    let desk = Desk::open();
    let key = desk.json(&["keys", "create", "--scopes", "jobs:write"])["key"].clone();
    for _ in 0..2 {
        let mut command = desk.command(&["run", "--json", "--idempotency-key", "k", "--", "true"]);
        let ran = run(command.env("RINGBACK_API_KEY", key.as_str().unwrap()));
        assert_eq!(last(ran.done())["state"], "complete");
    }
}

#[tokio::test]
async fn a_key_that_ends_meanwhile_costs_no_lease() {
    let desk = Desk::open();
    let key = desk.json(&["keys", "create", "--scopes", "jobs:write,work"]);
    let text = key["key"].as_str().unwrap();
    desk.gate();
    let args = ["run", "--json", "--ref", "step", "--lease-seconds", "3"];
    let args =
        [&args[..], &["--", "sh", "-c", "echo ready; cat gate; echo '::progress 70 on' >&2; cat gate"]];
    let mut command = desk.command(&args.concat());
    let mut step = Process::start(command.env("RINGBACK_API_KEY", text), desk.dir.path(), "run.log");
    let job = desk.step_job().await;
    assert_eq!(step.line(), "ready");

    desk.json(&["keys", "revoke", key["keyId"].as_str().unwrap()]);
    let mut command = desk.command(&["jobs", "list"]);
    run(command.env("RINGBACK_API_KEY", text)).refused(1, "unauthorized");

    desk.open_gate("one\n");
    assert_eq!(step.line(), "one");
    desk.job(&job, |job| job["progress"] == 70).await;
    desk.open_gate("two\n");
    assert_eq!(step.line(), "two");
    assert_eq!(last(&step.line())["state"], "complete");
    assert_eq!(step.ended(), 0);
}

#[tokio::test]
async fn a_lease_that_was_lost_ends_neither_the_command_nor_a_good_step() {
    let desk = Desk::open();
    desk.gate();
    let mut step = desk.step(&["--json", "--lease-seconds", "1"], "echo ready; cat gate");
    let job = desk.step_job().await;
    assert_eq!(step.line(), "ready");

    step.signal("STOP");
    desk.job_in(&job, "failed").await;
    step.signal("CONT");
    until("the runner knows", async || {
        let log = desk.read("run.log");
        if log.contains("the lease is lost") { Ok(()) } else { Err(log) }
    })
    .await;
    desk.open_gate("through\n");

    assert_eq!(step.line(), "through");
    assert_eq!(last(&step.line())["errorInfo"]["code"], "worker-lost");
    assert_eq!(step.ended(), 0);
    assert!(desk.read("run.log").contains("its outcome was not reported"));
}
