//! What is computed for every job, one path at a time: `hot_paths NAME TIMES`.
//!
//! No clock is asked here. `make bench-check` counts instructions under callgrind and holds them against
//! `benches/baseline.txt`; the start of the process falls out as the difference of two counts.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use ringback::http::json;
use ringback::store::bench::hot;
use ringback::types::api::{SubmitJob, Urls};
use ringback::types::delivery::{self, Fault};
use ringback::types::job::{NewJob, Outcome};
use ringback::types::key::{LeaseToken, TokenKey};
use ringback::types::retry::RetryPolicy;
use ringback::types::signature::{self, Secret};
use ringback::types::submit::{Rules, Stamp, check};
use ringback::types::target::UrlPolicy;
use ringback::types::{DeliveryId, Id, Millis};

/// Some day in 2026.
const NOW: Millis = Millis(1_790_000_000_000);
/// Jobs of one statement.
const BATCH: u32 = 200;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, name, times] = args.as_slice() else {
        // As `cargo bench` starts it.
        println!("hot_paths NAME TIMES; make bench-check counts what they cost");
        return;
    };
    let path = path(name);
    for n in 0..times.parse().expect("TIMES is a number") {
        path(n);
    }
}

fn path(name: &str) -> Box<dyn Fn(u32)> {
    match name {
        "decode" => {
            let body = submission();
            Box::new(move |n| drop(black_box(decode(body.as_bytes(), n))))
        }
        "sign" => {
            let secret = Secret::from_bytes(&[7; 32]).expect("a secret");
            let body = vec![b'x'; 1_500];
            Box::new(move |n| {
                let at = NOW.0 / 1_000 + i64::from(n);
                let header = signature::sign(
                    std::slice::from_ref(&secret),
                    "dlv_01H455VB4PEX5VSKNK084SN02Q",
                    at,
                    &body,
                );
                drop(black_box(header));
            })
        }
        "judge" => {
            let policy = RetryPolicy::default();
            let outcomes = [
                delivery::Outcome::Answered { status: 200, retry_after: None, abort: false },
                delivery::Outcome::Answered {
                    status: 503,
                    retry_after: Some(Duration::from_secs(9)),
                    abort: false,
                },
                delivery::Outcome::Failed(Fault::LeaseRanOut),
            ];
            Box::new(move |n| {
                let attempt = 1 + n % 12;
                let roll = delivery::roll(DeliveryId::mint(NOW, [7; 10]), attempt);
                for outcome in &outcomes {
                    black_box(delivery::judge(outcome, attempt, &policy, None, NOW, roll));
                }
            })
        }
        "encode" => {
            let (job, urls, key) = (
                decode(submission().as_bytes(), 0),
                Urls::new("https://ringback.example"),
                TokenKey::derive(&[7; 32]),
            );
            let bytes = Bytes::from_static(br#"{"doneAtMicros":1790000000000000,"text":"done"}"#);
            let outcome = Outcome::json(bytes);
            Box::new(move |n| {
                let now = NOW.plus(Duration::from_millis(n.into()));
                drop(black_box(hot::reply(&job, &outcome, &urls, &key, now).expect("a body")));
            })
        }
        "rows" => {
            let jobs = batch();
            Box::new(move |_| drop(black_box(hot::rows(&jobs, NOW).expect("rows"))))
        }
        "arrays" => {
            let jobs = batch();
            Box::new(move |_| drop(black_box(hot::arrays(&jobs, NOW).expect("arrays"))))
        }
        other => panic!("no path is called {other}"),
    }
}

fn batch() -> Vec<NewJob> {
    (0..BATCH).map(|n| decode(submission().as_bytes(), n)).collect()
}

/// A submission as `bench lifecycle` makes it.
fn submission() -> String {
    let pad = "x".repeat(1_024);
    format!(
        r#"{{"type":"bench","metadata":{{"submittedAtMicros":1790000000000000}},"input":{{"pad":"{pad}"}},"callbackUrl":"https://hooks.example.com/hook"}}"#
    )
}

fn decode(body: &[u8], n: u32) -> NewJob {
    let wish: SubmitJob = json::object(black_box(body)).expect("a submission");
    let (policy, endpoints) = (UrlPolicy::default(), BTreeMap::new());
    let rules = Rules { now: NOW, policy: &policy, endpoints: &endpoints };
    let mut random = [7; 10];
    random[..4].copy_from_slice(&n.to_be_bytes());
    let stamp = Stamp {
        id: Id::mint(NOW, random),
        tenant: Id::mint(NOW, [1; 10]),
        traceparent: None,
        estimated_seconds: 1,
        lease: LeaseToken { fence: 1, random: Default::default() },
        idempotency: None,
    };
    check(wish, &rules, stamp).expect("a job")
}
