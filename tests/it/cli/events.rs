//! `events`: publish, list, follow.

use serde_json::{Value, json};

use super::{Desk, Process, run};
use crate::support::process::{KEY, ringback};

fn kinds(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect()
}

#[test]
fn events_are_published_listed_and_followed() {
    let desk = Desk::open();
    let first = desk.json(&["events", "publish", "--type", "a.b", "--data", "{\"n\": 1.0}", "--id", "1"]);
    assert_eq!(first["deliveries"], 0);
    let again = desk.json(&["events", "publish", "--type", "a.b", "--data", "{\"n\": 1.0}", "--id", "1"]);
    assert_eq!(again, first);
    desk.run(&["events", "publish", "--type", "a.b", "--data", "2", "--id", "1"])
        .refused(1, "idempotency-key-reused");
    desk.run(&["events", "publish", "--type", "job.x", "--data", "2"]).refused(1, "/type");

    let mut command = ringback();
    command.args(["events", "follow", "--json", "--after"]);
    let start = desk.json(&["events", "list", "--types", "none"])["nextCursor"].as_str().unwrap().to_owned();
    command.args([&start, "--types", "a.*,job.completed", "--url", &desk.node.url, "--api-key", KEY]);
    let process = Process::start(&mut command, desk.dir.path(), "follow.log");
    desk.json(&["events", "publish", "--type", "z", "--data", "0"]);
    desk.json(&["events", "publish", "--type", "a.c", "--data", "[1]", "--account", "acme"]);
    let told: Value = serde_json::from_str(&process.line()).unwrap();
    assert_eq!(
        (&told["type"], &told["account"], &told["data"]),
        (&json!("a.c"), &json!("acme"), &json!([1]))
    );

    let list = desk.json(&["events", "list", "--types", "a.*"]);
    assert_eq!(kinds(&list), ["a.b", "a.c"]);
    let page = desk.run(&["events", "list", "--limit", "1"]);
    assert!(
        page.done().starts_with("TIME") && page.out.contains("a.b") && page.err.contains("--after"),
        "{page:?}"
    );
}

#[test]
fn what_is_no_event_is_wrong_usage() {
    for args in [
        &["publish", "--type", "a", "--data", "{"][..],
        &["publish", "--type", "a"],
        &["list", "--limit", "0"],
    ] {
        let ran = run(ringback().arg("events").args(args));
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {ran:?}");
    }
}
