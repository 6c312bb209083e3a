//! `submit` and `jobs`.

use serde_json::{Value, json};

use super::{Desk, feed, run};

#[tokio::test]
async fn the_input_comes_from_three_places_byte_for_byte() {
    let desk = Desk::open();
    let _worker = desk.work("cat", &["--concurrency", "3"]);
    std::fs::write(desk.dir.path().join("in.json"), "{\"b\" : 1.0, \"a\":[1e2]}\n").unwrap();

    let text = desk.submit(&["--input", "{\"n\":  -0.50}"]);
    let file = desk.submit(&["--input", "@in.json"]);
    let piped = feed(&mut desk.command(&["submit", "--type", "t", "--input", "-", "--json"]), b" [1,  2]\n");
    let piped = piped.json()["jobId"].as_str().unwrap().to_owned();

    for (job, input) in [(text, "{\"n\":  -0.50}"), (file, "{\"b\" : 1.0, \"a\":[1e2]}"), (piped, "[1,  2]")]
    {
        desk.job_in(&job, "complete").await;
        assert_eq!(desk.run(&["jobs", "result", &job]).done(), input);
    }
    desk.run(&["submit", "--type", "t", "--input", "@none.json"]).refused(1, "none.json");
    desk.run(&["submit", "--type", "t", "--input", "{\"n\":"]).refused(2, "the input is not JSON");
}

#[test]
fn submit_says_what_was_accepted() {
    let desk = Desk::open();
    let more = ["--ref", "build-1", "--queue", "q", "--priority", "-2", "--metadata", "{\"team\":\"x\"}"];
    let args = [&["submit", "--type", "t", "--idempotency-key", "k"], &more[..]].concat();

    let accepted = desk.json(&args);

    let id = accepted["jobId"].as_str().unwrap();
    assert_eq!((&accepted["status"], &accepted["state"]), (&json!("queued"), &json!("queued")));
    assert_eq!(accepted["statusUrl"], format!("{}/v1/jobs/{id}", desk.node.url));
    let again = desk.run(&args);
    assert!(again.done().contains(id) && again.out.contains("earlier submission"), "{again:?}");
    let job = desk.json(&["jobs", "get", id]);
    assert_eq!((&job["ref"], &job["queue"], &job["priority"]), (&json!("build-1"), &json!("q"), &json!(-2)));
    assert_eq!(job["metadata"], json!({"team": "x"}));
    let refused = desk.run(&["submit", "--type", "a b", "--json"]);
    refused.refused(1, "");
    let problem: Value = serde_json::from_str(&refused.err).unwrap();
    assert_eq!(
        (&problem["code"], &problem["errors"][0]["pointer"]),
        (&json!("validation-failed"), &json!("/type"))
    );
    desk.run(&["submit", "--type", "a b"]).refused(1, "validation-failed");
}

#[test]
fn submit_and_wait_exits_as_the_job_ended() {
    let desk = Desk::open();
    let _worker =
        desk.work("test \"$RINGBACK_JOB_TYPE\" = good && echo '{\"n\":1}'", &["--concurrency", "2"]);
    let wait = |kind: &str, more: &[&str]| {
        desk.run(&[&["submit", "--wait", "--max-attempts", "1", "--type", kind], more].concat())
    };

    let (good, bad, slow) = std::thread::scope(|all| {
        let good = all.spawn(|| wait("good", &["--json"]));
        let bad = all.spawn(|| wait("bad", &[]));
        let slow = all.spawn(|| wait("good", &["--queue", "nobody", "--wait-seconds", "1"]));
        (good.join().unwrap(), bad.join().unwrap(), slow.join().unwrap())
    });

    assert_eq!(good.json()["status"], "complete");
    assert_eq!(bad.code, 1, "{bad:?}");
    assert!(bad.out.contains("failed") && bad.out.contains("exit-1"), "{bad:?}");
    assert!(bad.err.starts_with("submitted job_"), "{bad:?}");
    assert_eq!(slow.code, 1);
    assert!(slow.err.contains("has not ended within 1 s"), "{slow:?}");
}

#[tokio::test]
async fn jobs_are_listed_and_shown() {
    let desk = Desk::open();
    let (first, second) = (desk.submit(&["--ref", "a"]), desk.submit(&["--ref", "b"]));

    let list = desk.json(&["jobs", "list"]);
    let ids: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|job| &job["jobId"]).collect();
    assert_eq!(ids, [&json!(second), &json!(first)], "newest first");
    let page = desk.run(&["jobs", "list", "--limit", "1"]);
    assert!(page.done().contains(&second) && !page.out.contains(&first), "{page:?}");
    let cursor = page.err.trim().strip_prefix("there is more: --cursor ").unwrap();
    let rest = desk.json(&["jobs", "list", "--cursor", cursor]);
    assert_eq!((&rest["items"][0]["jobId"], &rest["nextCursor"]), (&json!(first), &Value::Null));
    assert_eq!(desk.json(&["jobs", "list", "--ref", "a"])["items"].as_array().unwrap().len(), 1);
    assert_eq!(desk.json(&["jobs", "list", "--status", "failed"])["items"], json!([]));

    let shown = desk.run(&["jobs", "get", &first]);
    assert!(shown.done().contains(&first) && shown.out.contains("queued"), "{shown:?}");
    let missing = "job_01H455VB4PEX5VSKNK084SN02Q";
    for verb in ["get", "result", "cancel", "retry", "events"] {
        desk.run(&["jobs", verb, missing]).refused(1, "job-not-found");
        desk.run(&["jobs", verb, "x"]).refused(2, "'x'");
    }
}

#[tokio::test]
async fn jobs_are_cancelled_and_retried() {
    let desk = Desk::open();
    let job = desk.submit(&[]);
    desk.run(&["jobs", "retry", &job]).refused(1, "job-not-retryable");
    desk.run(&["jobs", "result", &job]).refused(1, "result-not-ready");

    let cancelled = desk.json(&["jobs", "cancel", &job, "--reason", "not needed"]);

    assert_eq!((&cancelled["status"], &cancelled["state"]), (&json!("failed"), &json!("cancelled")));
    assert!(cancelled["error"].as_str().unwrap().contains("not needed"), "{cancelled}");
    desk.run(&["jobs", "cancel", &job]).refused(1, "job-already-finished");
    desk.run(&["jobs", "result", &job]).refused(1, "job-failed");
    assert_eq!(desk.run(&["jobs", "retry", &job]).done(), format!("{job} is queued again\n"));
    let _worker = desk.work("printf 'plain words'", &[]);
    desk.job_in(&job, "complete").await;
    assert_eq!(desk.run(&["jobs", "result", &job]).done(), "plain words");
    let result = json!({"contentType": "text/plain; charset=utf-8", "bytes": 11, "result": "plain words"});
    assert_eq!(desk.json(&["jobs", "result", &job]), result);
    let events = desk.json(&["jobs", "events", &job, "--after", "1"]);
    let kinds: Vec<&str> =
        events["items"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["job.cancelled", "job.queued", "job.started", "job.completed"]);
    let table = run(&mut desk.command(&["jobs", "events", &job]));
    assert!(table.done().starts_with("SEQUENCE") && table.out.contains("job.cancelled"), "{table:?}");
}
