//! The worker SDK as its users meet it: the example, against a development node.

use std::process::Command;

use serde_json::json;

use super::{Desk, Process};
use crate::support::process::KEY;

#[tokio::test]
async fn the_example_does_the_jobs_that_it_has_handlers_for_and_no_others() {
    let desk = Desk::open();
    let example = std::path::Path::new(env!("CARGO_BIN_EXE_ringback")).with_file_name("examples/worker");
    assert!(example.exists(), "`cargo build --example worker` makes {}", example.display());
    let mut command = Command::new(example);
    command.env("RINGBACK_URL", &desk.node.url).env("RINGBACK_API_KEY", KEY);
    let mut worker = Process::start(&mut command, desk.dir.path(), "example.log");
    let submit = |kind: &str, input: &str| {
        let accepted = desk.json(&["submit", "--type", kind, "--input", input]);
        accepted["jobId"].as_str().unwrap().to_owned()
    };

    let unknown = submit("video.encode", "null");
    let report = submit("report.generate", "{\"year\":2025,\"chapters\":2}");
    let greeting = submit("greet", "\"you\"");
    let hopeless = submit("report.generate", "{\"year\":3000,\"chapters\":1}");

    desk.job_in(&report, "complete").await;
    assert_eq!(desk.json(&["jobs", "result", &report])["result"], json!({"year": 2025, "chapters": 2}));
    desk.job_in(&greeting, "complete").await;
    assert_eq!(desk.run(&["jobs", "result", &greeting]).done(), "hello, you\n");
    let failed = desk.job_in(&hopeless, "failed").await;
    assert_eq!((&failed["errorInfo"]["code"], &failed["attempt"]), (&json!("data_not_found"), &json!(1)));
    desk.job_in(&unknown, "queued").await;
    worker.signal("INT");
    assert_eq!(worker.ended(), 0);
}
