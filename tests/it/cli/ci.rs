//! The show: a shell command as a worker, doing a job as CI would, cancelled half-way by its client.

use serde_json::json;

use super::Desk;
use crate::support::app::LIMIT;
use crate::support::receiver::Receiver;

const BUILD: &str = "trap 'echo undone > cleaned; exit 1' TERM
echo '::progress 10 checkout' >&2
echo '::progress 50 testing' >&2
echo 'test 17 of 34' >&2
cat gate
echo '::progress 100 done' >&2";

#[tokio::test]
async fn a_shell_command_works_off_a_build_and_is_cancelled_half_way() {
    let desk = Desk::open();
    let receiver = Receiver::start().await;
    desk.gate();
    let _worker = desk.work(BUILD, &["--queue", "ci", "--types", "ci.build", "--lease-seconds", "3"]);

    let build = desk.json(&[
        "submit",
        "--type",
        "ci.build",
        "--queue",
        "ci",
        "--ref",
        "build-4711",
        "--input",
        "{\"commit\":\"8f2c1e\"}",
        "--callback-url",
        &receiver.url("/builds"),
    ]);
    let build = build["jobId"].as_str().unwrap();
    let half = desk.job(build, |job| job["progress"] == 50).await;
    assert_eq!((&half["status"], &half["message"]), (&json!("processing"), &json!("testing")));
    let told = desk.json(&["jobs", "cancel", build, "--reason", "superseded by build-4712"]);

    assert_eq!(told["cancelRequested"], json!(true));
    let ended = desk.job_in(build, "cancelled").await;
    assert_eq!((&ended["status"], &ended["ref"]), (&json!("failed"), &json!("build-4711")));
    assert_eq!(desk.read("cleaned"), "undone\n", "the command was asked to end, and did it in its own way");
    let heard = receiver.wait("/builds", 1, LIMIT).await;
    heard[0].verify(&desk.node.secret);
    let heard = heard[0].json();
    assert_eq!((&heard["type"], &heard["data"]["ref"]), (&json!("job.cancelled"), &json!("build-4711")));
    let events = desk.json(&["jobs", "events", build]);
    let events = events["items"].as_array().unwrap();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[1], kinds.last()), ("job.queued", "job.started", Some(&"job.cancelled")));
}
