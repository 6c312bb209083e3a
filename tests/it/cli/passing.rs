//! A service that cannot answer for a moment, to those who wait for something.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use serde_json::{Value, json};

use super::{Process, run};
use crate::support::process::ringback;

const AT: &str = "2026-01-01T00:00:00.000Z";
const JOB: &str = "job_01H455VB4PEX5VSKNK084SN02Q";
const REDRIVE: &str = "rdr_01H455VB4PEX5VSKNK084SN02Q";

/// Gives these answers, one to each request, and then is not there any more.
fn service(answers: Vec<(u16, String)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(&stream);
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if line.trim().is_empty() {
                    break;
                }
                if let Some(given) = line.to_lowercase().strip_prefix("content-length:") {
                    length = given.trim().parse().unwrap();
                }
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close", body.len());
            stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
        }
    });
    url
}

fn away() -> (u16, String) {
    let problem = json!({"type": "/problems/storage-unavailable", "title": "no", "status": 503,
        "code": "storage-unavailable"});
    (503, problem.to_string())
}

fn gateway() -> (u16, String) {
    (524, "<html>".to_owned())
}

#[test]
fn a_stream_is_opened_again_whatever_answers_meanwhile() {
    let data =
        json!({"type": "a.b", "timestamp": AT, "eventId": "evt_01H455VB4PEX5VSKNK084SN02Q", "data": 1});
    let url = service(vec![away(), gateway(), (200, format!("id: D\nevent: a.b\ndata: {data}\n\n"))]);
    let dir = tempfile::tempdir().unwrap();
    let mut command = ringback();
    command.args(["events", "follow", "--json", "--after", "C", "--url", &url]);
    let process = Process::start(&mut command, dir.path(), "follow.log");
    let told: Value = serde_json::from_str(&process.line()).unwrap();
    assert_eq!(told["type"], "a.b");
}

#[test]
fn a_replay_is_waited_for_whatever_answers_meanwhile() {
    let replayed = json!({"redriveId": REDRIVE, "matched": 2}).to_string();
    let done = json!({"redriveId": REDRIVE, "of": "deadLetters", "state": "done", "matched": 2, "redriven": 2,
        "createdAt": AT});
    let url = service(vec![(200, replayed), away(), gateway(), (200, done.to_string())]);
    let ran = run(ringback().args(["dead-letters", "replay", "--wait", "--json", "--url", &url]));
    assert_eq!(ran.json()["redriven"], 2);
}

#[test]
fn a_job_is_waited_for_whatever_answers_meanwhile() {
    let accepted = json!({"jobId": JOB, "status": "queued", "statusUrl": "https://x.org/", "estimatedSeconds": 1,
        "state": "queued", "createdAt": AT, "accessToken": "rbj_x"});
    let ended = json!({"jobId": JOB, "status": "complete", "createdAt": AT, "state": "complete", "type": "t",
        "queue": "q", "priority": 0, "worker": "pull", "attempt": 1, "maxAttempts": 3, "sequence": 3,
        "metadata": {}});
    let broken = json!({"type": "/problems/internal", "title": "no", "status": 500, "code": "internal"});
    let broken = (500, broken.to_string());
    let url = service(vec![(202, accepted.to_string()), gateway(), broken, (200, ended.to_string())]);
    let ran = run(ringback().args(["submit", "--type", "t", "--wait", "--json", "--url", &url]));
    assert_eq!(ran.json()["state"], "complete");
}
