//! `listen`: what it shows, what it passes on, what it answers.

use std::io::Write;
use std::net::TcpStream;

use serde_json::{Value, json};

use super::{Desk, Process, run};
use crate::support::app::{LIMIT, until};
use crate::support::ask::{Ask, http};
use crate::support::process::ringback;
use crate::support::receiver::{Answer, Receiver};

const OTHER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw3x3qXwQbDsY=";

/// Starts it and gives where it listens.
fn listen(desk: &Desk, args: &[&str]) -> (Process, String) {
    let mut command = ringback();
    command.arg("listen").args(args);
    let process = Process::start(&mut command, desk.dir.path(), "listen.log");
    let line = process.line();
    let url = match serde_json::from_str::<Value>(&line) {
        Ok(told) => told["listening"].as_str().unwrap().to_owned(),
        Err(_) => line.strip_prefix("listening on ").unwrap().to_owned(),
    };
    (process, url)
}

fn next(process: &Process) -> Value {
    serde_json::from_str(&process.line()).unwrap()
}

fn submit(desk: &Desk, url: &str) -> String {
    desk.submit(&["--callback-url", url, "--callback-events", "job.queued"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_shown_checked_and_passed_on_as_they_came() {
    let desk = Desk::open();
    let app = Receiver::start().await;
    app.script("/app", vec![Answer::With(503, vec![("retry-after", "3600".to_owned())])]);
    let forward = app.url("/app");
    let (process, url) = listen(&desk, &["--secret", &desk.node.secret, "--forward-to", &forward, "--json"]);

    let job = submit(&desk, &format!("{url}/any/path"));

    let got = app.wait("/app", 1, LIMIT).await.remove(0);
    got.verify(&desk.node.secret);
    assert_eq!(
        (got.header("content-type"), got.header("host")),
        ("application/json", &*app.addr.to_string())
    );
    let shown = next(&process);
    assert_eq!((&shown["type"], &shown["attempt"]), (&json!("job.queued"), &json!(1)), "{shown}");
    assert_eq!((&shown["signature"], &shown["status"]), (&json!("good"), &json!(503)), "{shown}");
    assert_eq!(shown["webhookId"], got.webhook_id());
    assert_eq!(shown["body"].as_str().unwrap().as_bytes(), &got.body[..]);
    // The service sees the application's own answer, and does as it says.
    let delivery = until("the answer is recorded", async || {
        let list = desk.json(&["deliveries", "list", "--job-id", &job]);
        let found = list["items"][0].clone();
        if found["lastStatus"] == 503 { Ok(found) } else { Err(list) }
    })
    .await;
    let shown = desk.json(&["deliveries", "get", delivery["deliveryId"].as_str().unwrap()]);
    assert_eq!(shown["attempts"][0]["responseHeaders"][0], json!(["retry-after", "3600"]), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_that_is_not_good_is_told_why() {
    let desk = Desk::open();
    let (process, url) = listen(&desk, &["--secret", OTHER, "--json"]);
    submit(&desk, &url);
    let shown = next(&process);
    assert_eq!((&shown["signature"], &shown["status"]), (&json!("bad"), &json!(401)), "{shown}");
    assert!(shown["why"].as_str().unwrap().contains("another secret signed it"), "{shown}");

    // Whoever passes it on lets the application judge.
    let app = Receiver::start().await;
    let (process, url) = listen(&desk, &["--secret", OTHER, "--forward-to", &app.url("/app")]);
    submit(&desk, &url);
    app.wait("/app", 1, LIMIT).await[0].verify(&desk.node.secret);
    let line = process.line();
    assert!(line.contains("job.queued dlv_") && line.contains("attempt 1 -> 200"), "{line}");
    assert!(line.contains("SIGNATURE NOT GOOD: the signature does not match"), "{line}");
    assert_eq!(process.line(), "{", "the body follows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_secret_and_a_way_on_everything_is_taken() {
    let desk = Desk::open();
    let (process, url) = listen(&desk, &["--json"]);
    let asked = Ask::new(&http(), "POST", &url, "x").text("text/plain", "\u{1b}[31m").await;
    assert_eq!(asked.status, 204);
    let shown = next(&process);
    assert_eq!((&shown["signature"], &shown["type"]), (&json!("unchecked"), &json!("(no type)")));
    assert_eq!(Ask::new(&http(), "GET", &url, "x").await.status, 405);

    // Nobody is there: the service is told so and comes again.
    let gone = format!("http://127.0.0.1:{}/", crate::support::process::free_port());
    let (process, url) = listen(&desk, &["--forward-to", &gone, "--json"]);
    assert_eq!(Ask::new(&http(), "POST", &url, "x").text("text/plain", "{}").await.status, 502);
    assert_eq!(next(&process)["status"], 502);
    process.signal("TERM");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_that_are_still_sent_take_a_place_each() {
    let desk = Desk::open();
    let (process, url) = listen(&desk, &["--json"]);
    let address = url.strip_prefix("http://").unwrap();
    let begin = |_| {
        let mut slow = TcpStream::connect(address).unwrap();
        slow.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{").unwrap();
        slow
    };
    let slow: Vec<TcpStream> = (0..64).map(begin).collect();
    let answers = async |wanted: u16| {
        let asked = async || {
            let status = Ask::new(&http(), "POST", &url, "x").text("text/plain", "{}").await.status;
            if status == wanted { Ok(()) } else { Err(status) }
        };
        until("the places are taken, or free again", asked).await;
    };
    answers(503).await;
    drop(slow);
    answers(204).await;
    process.signal("TERM");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_asked_for_events_for_as_long_as_someone_listens() {
    let desk = Desk::open();
    let mut command = desk.command(&["listen", "--events", "invoice.*,x.y", "--account", "acme", "--json"]);
    let mut process = Process::start(&mut command, desk.dir.path(), "listen.log");
    let endpoint = next(&process)["endpointId"].as_str().unwrap().to_owned();
    let made = desk.json(&["endpoints", "show", &endpoint]);
    assert_eq!((&made["account"], &made["events"]), (&json!("acme"), &json!(["invoice.*", "x.y"])), "{made}");

    let publish =
        |kind| desk.json(&["events", "publish", "--type", kind, "--data", "7", "--account", "acme"]);
    assert_eq!(publish("other")["deliveries"], 0);
    assert_eq!(publish("invoice.paid")["deliveries"], 1);
    let shown = next(&process);
    assert_eq!((&shown["type"], &shown["signature"]), (&json!("invoice.paid"), &json!("good")), "{shown}");

    process.signal("TERM");
    assert_eq!(process.ended(), 0);
    desk.run(&["endpoints", "show", &endpoint]).refused(1, "not-found");
}

#[test]
fn what_the_environment_says_for_other_commands_is_left_out() {
    let desk = Desk::open();
    let mut command = ringback();
    command
        .arg("listen")
        .env("RINGBACK_ACCOUNT", "acme")
        .env("RINGBACK_PUBLIC_URL", "https://jobs.example.com");
    let process = Process::start(&mut command, desk.dir.path(), "listen.log");
    assert!(process.line().starts_with("listening on "));

    let mut command = desk.command(&["submit", "--type", "t", "--json"]);
    command.env("RINGBACK_CALLBACK_SECRET", OTHER).env("RINGBACK_CALLBACK_EVENTS", "job.queued");
    let job = run(&mut command).json()["jobId"].as_str().unwrap().to_owned();
    let deliveries = desk.json(&["deliveries", "list", "--job-id", &job]);
    assert_eq!(deliveries["items"], json!([]));
    desk.run(&["run", "--callback-events", "job.queued", "--", "true"])
        .refused(2, "--callback-events needs --callback-url");
}

#[test]
fn only_this_machine_is_listened_to() {
    let service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = service.local_addr().unwrap().to_string();
    let listen = |args: &[&str]| run(ringback().arg("listen").args(args));
    listen(&["--listen", "0.0.0.0:0"]).refused(2, "of this machine only");
    // What is meant for a service is refused by its name: nobody typed the flag.
    for (address, code, why) in [("0.0.0.0:8080", 2, "machine only"), (&*taken, 1, "cannot listen on")] {
        let ran = run(ringback().arg("listen").env("RINGBACK_LISTEN", address));
        ran.refused(code, why);
        ran.refused(code, "RINGBACK_LISTEN");
    }
    listen(&["--forward-to", "ftp://x"]).refused(2, "http(s)");
    listen(&["--secret", "canary"]).refused(2, "--secret number 1");
    listen(&["--public-url", "https://x"]).refused(2, "--public-url needs --events");
    listen(&["--account", "a"]).refused(2, "--account needs --events");
    listen(&["--events", "*", "--url", "http://127.0.0.1:9"]).refused(3, "cannot reach the service");
}
