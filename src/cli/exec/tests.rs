use std::time::Duration;

use super::*;

fn job() -> api::ClaimedJob {
    let job = serde_json::json!({
        "jobId": "job_01H455VB4PEX5VSKNK084SN02Q", "type": "t", "input": {"a": 1}, "attempt": 2,
        "leaseToken": format!("rbl_{}", "A".repeat(32)), "leaseExpiresAt": "2026-01-01T00:00:00.000Z", "metadata": {},
    });
    serde_json::from_str(&job.to_string()).unwrap()
}

async fn run(line: &str) -> Result<Reply, Failure> {
    let command = Arc::new(Command { line: line.to_owned(), retry: false });
    tokio::time::timeout(Duration::from_secs(20), command.run(Task::alone(job()).0)).await.unwrap()
}

#[tokio::test]
async fn the_input_goes_in_and_the_output_is_the_result() {
    let Ok(Reply::Json(json)) = run("cat").await else { panic!() };
    assert_eq!(json.get(), r#"{"a":1}"#);
    let line = "echo $RINGBACK_JOB_ID $RINGBACK_JOB_TYPE $RINGBACK_ATTEMPT";
    let Ok(Reply::Bytes { content_type, bytes }) = run(line).await else { panic!() };
    assert_eq!(content_type, "text/plain; charset=utf-8");
    assert_eq!(bytes, "job_01H455VB4PEX5VSKNK084SN02Q t 2\n");
    let Ok(Reply::Bytes { content_type, .. }) = run(r"printf '\377'").await else { panic!() };
    assert_eq!(content_type, "application/octet-stream");
    let Ok(Reply::Json(json)) = run("true").await else { panic!() };
    assert_eq!(json.get(), "null");
}

#[tokio::test]
async fn an_exit_code_fails_the_job_with_the_last_words() {
    let failed = run("echo one >&2; echo ::progress 5 >&2; echo two >&2; exit 3").await.unwrap_err();
    assert_eq!((failed.error.as_str(), failed.code.as_deref()), ("one\ntwo", Some("exit-3")));
    assert!(!failed.retryable);
    let later = run("exit 75").await.unwrap_err();
    assert_eq!(later.error, "the command ended with exit code 75");
    assert!(later.retryable, "EX_TEMPFAIL asks for another attempt");
    let killed = run("kill -9 $$").await.unwrap_err();
    assert_eq!(killed.code.as_deref(), Some("signal-9"));
    let large = run("head -c 1048577 /dev/zero").await.unwrap_err();
    assert_eq!(large.code.as_deref(), Some("result-too-large"));
    assert!(run("head -c 1048576 /dev/zero").await.is_ok());
}

#[tokio::test]
async fn progress_is_reported_and_a_grandchild_that_keeps_the_pipes_does_not_hold_the_job() {
    let line = "echo '::progress 40 half way' >&2; sleep 4 & echo 1".to_owned();
    let (task, seen) = Task::alone(job());
    let done = Arc::new(Command { line, retry: true }).run(task);
    let done = tokio::time::timeout(Duration::from_secs(15), done).await.unwrap();
    assert_eq!(done.unwrap_err().code.as_deref(), Some("no-end-of-output"));
    assert_eq!(seen(), (Some(40), Some("half way".to_owned())));
    let failed = run("echo 'no space' >&2; sleep 9 >&- & exit 3").await.unwrap_err();
    assert_eq!(
        (failed.error.as_str(), failed.code.as_deref()),
        ("no space", Some("exit-3")),
        "what was heard"
    );
}

/// Runs a command until it is `ready`, and stops it. Gives what it then was ready with.
async fn stopped<T>(line: String, ready: impl Future<Output = T>) -> T {
    let (task, _) = Task::alone(job());
    let stop = task.stop.clone();
    let running = tokio::spawn(Arc::new(Command { line, retry: true }).run(task));
    let seen = ready.await;
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(15), running).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().code.as_deref(), Some("stopped"));
    seen
}

#[tokio::test]
async fn a_stop_reaches_the_whole_group() {
    let marker = tempfile::NamedTempFile::new().unwrap();
    let path = marker.path().display().to_string();
    // The trap shows that SIGTERM came; the inner shell that SIGKILL was not needed for it.
    let line = format!("sh -c 'trap \"echo stopped > {path}; exit\" TERM; while :; do sleep 0.05; done'");
    stopped(line, tokio::time::sleep(Duration::from_millis(500))).await;
    assert_eq!(std::fs::read_to_string(marker.path()).unwrap(), "stopped\n");
}

#[tokio::test]
async fn what_a_stopped_command_leaves_behind_is_killed() {
    let marker = tempfile::NamedTempFile::new().unwrap();
    let path = marker.path().display().to_string();
    // The command ends at SIGTERM, what it has started does not.
    let line = format!("sh -c 'trap \"\" TERM; echo $$ > {path}; while :; do sleep 0.05; done' & wait");
    let begun = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            match std::fs::read_to_string(&path).unwrap().trim().parse::<u32>() {
                Ok(pid) => return pid,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    let pid = stopped(line, begun).await.unwrap();
    let there = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    assert!(there.is_err() || there.is_ok_and(|stat| stat.contains(") Z ")), "it goes on");
}
