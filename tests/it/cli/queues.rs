//! `queues`: list, show, pause, resume, set.

use serde_json::{Value, json};

use super::{Desk, run};
use crate::support::process::ringback;

#[test]
fn queues_are_shown_paused_and_limited() {
    let desk = Desk::open();
    desk.submit(&["--queue", "a"]);
    desk.submit(&["--queue", "b"]);

    let list = desk.json(&["queues", "list"]);
    let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|q| &q["queue"]).collect();
    assert_eq!(names, ["a", "b"]);
    let first = desk.run(&["queues", "list", "--limit", "1"]);
    assert!(first.done().starts_with("QUEUE") && first.err.contains("--cursor"), "{first:?}");

    assert_eq!(desk.json(&["queues", "set", "a", "--max-in-flight", "3"])["maxInFlight"], 3);
    let shown = desk.run(&["queues", "show", "a"]);
    assert!(shown.done().contains("processing") && shown.out.contains("0/3"), "{shown:?}");
    assert!(desk.json(&["queues", "set", "a", "--unlimited"]).get("maxInFlight").is_none());
    for (said, limit) in [("0", json!(4)), ("1", Value::Null)] {
        let mut set = desk.command(&["queues", "set", "a", "--json"]);
        set.env("RINGBACK_UNLIMITED", said);
        if said == "0" {
            run(&mut set).refused(2, "--max-in-flight");
            set.args(["--max-in-flight", "4"]);
        }
        assert_eq!(run(&mut set).json()["maxInFlight"], limit, "{said}");
    }
    desk.run(&["queues", "set", "a", "--max-in-flight", "0"]).refused(1, "validation-failed");

    assert_eq!(desk.json(&["queues", "pause", "a"])["state"], "paused");
    desk.run(&["queues", "pause", "b", "--until", "2020-01-01T00:00:00Z"]).refused(1, "/until");
    assert_eq!(desk.json(&["queues", "resume", "a"])["state"], json!("open"));
}

#[test]
fn a_change_of_nothing_is_wrong_usage() {
    for args in [&["set", "q"][..], &["set", "q", "--unlimited", "--max-in-flight", "1"], &["show"]] {
        let ran = run(ringback().arg("queues").args(args));
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {ran:?}");
    }
}
