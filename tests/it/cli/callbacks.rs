//! `deliveries`, `lanes` and `dead-letters`, with a real receiver.

use serde_json::{Value, json};

use super::Desk;
use crate::support::app::{LIMIT, until};
use crate::support::process::SECRET;
use crate::support::receiver::{Answer, Receiver};

/// The one delivery of a job, once it is in that state.
async fn delivery_in(desk: &Desk, job: &str, state: &str) -> Value {
    until(&format!("the delivery of {job} is {state}"), async || {
        let list = desk.json(&["deliveries", "list", "--job-id", job]);
        let found = list["items"].as_array().unwrap().clone();
        if found.len() == 1 && found[0]["state"] == state { Ok(found[0].clone()) } else { Err(list) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_are_watched_and_sent_again() {
    let desk = Desk::open();
    let receiver = Receiver::start().await;
    let _worker = desk.work("echo 7", &[]);

    let job = desk.submit(&["--callback-url", &receiver.url("/x")]);

    receiver.wait("/x", 1, LIMIT).await[0].verify(&desk.node.secret);
    let delivery = delivery_in(&desk, &job, "delivered").await;
    let id = delivery["deliveryId"].as_str().unwrap();
    let shown = desk.json(&["deliveries", "get", id]);
    assert_eq!((&shown["attempts"][0]["status"], &shown["attempt"]), (&json!(200), &json!(1)));
    let words = desk.run(&["deliveries", "get", id]);
    assert!(words.done().contains("delivered") && words.out.contains("ATTEMPT"), "{words:?}");
    assert!(desk.run(&["deliveries", "list"]).done().contains(id));
    assert_eq!(desk.json(&["deliveries", "list", "--state", "dead"])["items"], json!([]));
    desk.run(&["deliveries", "list", "--state", "gone"]).refused(1, "invalid-request");
    desk.run(&["deliveries", "cancel", id]).refused(1, "");
    desk.run(&["deliveries", "get", "dlv_01H455VB4PEX5VSKNK084SN02Q"]).refused(1, "not-found");

    desk.run(&["deliveries", "retry", id]).done();
    let requests = receiver.wait("/x", 2, LIMIT).await;
    assert_eq!((requests[1].webhook_id(), &requests[1].body), (id, &requests[0].body));
    let lanes = desk.json(&["lanes", "list"]);
    assert_eq!(lanes["items"][0]["origin"], receiver.url(""), "{lanes}");
    assert!(desk.run(&["lanes", "list"]).done().contains(&receiver.url("")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pending_delivery_is_cancelled() {
    let desk = Desk::open();
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500)]);
    let events = ["--callback-events", "job.queued", "--callback-secret", SECRET];
    let job = desk.submit(&[&["--callback-url", &receiver.url("/x")], &events[..]].concat());
    receiver.wait("/x", 1, LIMIT).await[0].verify(SECRET);
    let pending = delivery_in(&desk, &job, "pending").await;
    assert_eq!(pending["eventType"], "job.queued");

    let cancelled = desk.json(&["deliveries", "cancel", pending["deliveryId"].as_str().unwrap()]);

    assert_eq!(cancelled["state"], "cancelled");
}

/// Two jobs whose replies the receiver refuses for good, and the ids of their dead letters.
async fn two_letters(desk: &Desk, receiver: &Receiver) -> Vec<String> {
    receiver.script("/gone", vec![Answer::Status(410), Answer::Status(410), Answer::Status(200)]);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let job = desk.submit(&["--callback-url", &receiver.url("/gone")]);
        ids.push(delivery_in(desk, &job, "dead").await["deliveryId"].as_str().unwrap().to_owned());
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_listed_replayed_and_discarded() {
    let desk = Desk::open();
    let receiver = Receiver::start().await;
    let _worker = desk.work("true", &[]);
    let letters = two_letters(&desk, &receiver).await;
    let (first, second) = (letters[0].as_str(), letters[1].as_str());

    let list = desk.json(&["dead-letters", "list", "--reason", "gone", "--type", "job.completed"]);
    let ids: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|l| &l["deliveryId"]).collect();
    assert_eq!(ids, [&json!(second), &json!(first)], "newest first");
    assert_eq!(desk.json(&["dead-letters", "list", "--reason", "poison"])["items"], json!([]));
    let shown = desk.json(&["dead-letters", "show", first]);
    assert_eq!((&shown["reason"], &shown["attempts"]), (&json!("gone"), &json!(1)));
    assert!(desk.run(&["dead-letters", "show", first]).done().contains(&receiver.url("/gone")));

    let count = desk.run(&["dead-letters", "replay", "--dry-run"]);
    assert_eq!(count.done(), "2 dead letters match\n");
    let replayed = desk.run(&["dead-letters", "replay", first, "--wait"]);
    assert!(replayed.done().contains("done: 1 of 1 queued again"), "{replayed:?}");
    let requests = receiver.wait("/gone", 3, LIMIT).await;
    assert_eq!((requests[2].webhook_id(), &requests[2].body), (first, &requests[0].body));
    desk.run(&["dead-letters", "show", first]).refused(1, "not-found");

    assert_eq!(desk.json(&["dead-letters", "discard", second]), json!({"discarded": second}));
    desk.run(&["dead-letters", "discard", second]).refused(1, "not-found");
    assert_eq!(desk.json(&["dead-letters", "list"])["items"], json!([]));
    assert_eq!(desk.json(&["deliveries", "get", second])["state"], "dead", "the delivery stays dead");
    let none = desk.json(&["dead-letters", "replay", "--dry-run"]);
    assert_eq!(none["matched"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_are_paused_and_deliveries_explained_and_replayed() {
    let desk = Desk::open();
    let receiver = Receiver::start().await;
    let _worker = desk.work("true", &[]);
    let first = desk.submit(&["--callback-url", &receiver.url("/x")]);
    let delivered = delivery_in(&desk, &first, "delivered").await;
    let id = delivered["deliveryId"].as_str().unwrap();
    let lane = desk.json(&["lanes", "list"])["items"][0]["laneId"].as_str().unwrap().to_owned();

    let paused = desk.json(&["lanes", "pause", &lane]);

    assert_eq!((&paused["laneId"], &paused["state"]), (&json!(lane), &json!("paused")));
    assert!(desk.run(&["lanes", "list", "--state", "paused"]).done().contains(&lane));
    let resumed = desk.run(&["lanes", "resume", &lane]);
    assert!(resumed.done().contains("open"), "{resumed:?}");
    desk.run(&["lanes", "pause", "lane_01H455VB4PEX5VSKNK084SN02Q"]).refused(1, "not-found");
    let told = desk.json(&["deliveries", "explain", id]);
    assert_eq!((&told["state"], &told["nextStep"]), (&json!("delivered"), &json!("nothing")));
    let words = desk.run(&["deliveries", "explain", id]);
    assert!(words.done().contains("the receiver answered 200") && words.out.contains(&lane), "{words:?}");

    let count = desk.run(&["deliveries", "replay", "--state", "delivered", "--dry-run"]);
    assert_eq!(count.done(), "1 deliveries match\n");
    let again = desk.run(&["deliveries", "replay", "--state", "delivered", "--wait"]);
    assert!(again.done().contains("done: 1 of 1 queued again"), "{again:?}");
    let requests = receiver.wait("/x", 2, LIMIT).await;
    assert_eq!((requests[1].webhook_id(), &requests[1].body), (id, &requests[0].body));
    assert_eq!(desk.json(&["dead-letters", "outages"])["items"], json!([]));
    let letters = two_letters(&desk, &receiver).await;
    let outages = desk.json(&["dead-letters", "outages", "--host", "127.0.0.1"]);
    assert_eq!(outages["items"][0]["letters"], letters.len(), "{outages}");
    assert!(desk.run(&["dead-letters", "outages"]).done().contains("status 410 x2"));
}
