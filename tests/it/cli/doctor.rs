//! `doctor` against receivers that do right and wrong.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use ringback::types::signature::asymmetric::{self, PrivateKey};
use ringback::types::signature::schemes::hex;
use serde_json::Value;

use super::{Ran, run};
use crate::support::process::{SECRET, free_port, ringback};

/// 32 bytes of zeros and ones.
const PRIVATE: &str = "whsk_AAEAAQABAAEAAQABAAEAAQABAAEAAQABAAEAAQABAAE=";

/// The checks that a receiver fails whose answers are all wrong.
const EVERY_ANSWER: &[&str] = &[
    "signed event",
    "duplicate",
    "slow body",
    "foreign secret",
    "altered body",
    "unsigned",
    "old timestamp",
];

/// What a receiver does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    Nothing,
    /// Takes everything.
    NoCheck,
    /// Verifies without looking at the timestamp.
    NoAge,
    /// Refuses a webhook that it has seen.
    NoRepeats,
    /// Verifies its own rendering of the JSON, which forgives changes of the body.
    IdOnly,
    /// Sends elsewhere.
    Redirects,
    /// Crashes where it should refuse.
    Crashes,
    /// Ends every delivery.
    Gone,
    /// Takes the beginning of the body for all of it.
    Hasty,
    /// Is not there.
    Elsewhere,
    /// Refuses as if it were not there.
    Hides,
    /// None: it verifies GitHub's signature, and a header besides.
    Github,
    /// None: it verifies Stripe's.
    Stripe,
    /// None: it verifies with a public key.
    V1a,
}

type Desk = (Flaw, Arc<Mutex<HashSet<String>>>);

async fn receive(State((flaw, seen)): State<Desk>, headers: HeaderMap, body: Body) -> StatusCode {
    let mut body = body;
    let body = match flaw {
        Flaw::Hasty => body.frame().await.unwrap().unwrap().into_data().unwrap(),
        _ => to_bytes(body, 1 << 20).await.unwrap(),
    };
    let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    let webhook = standardwebhooks::Webhook::new(SECRET).unwrap();
    let good = match flaw {
        Flaw::NoAge => text("webhook-timestamp").parse().is_ok_and(|at| {
            webhook.sign(&text("webhook-id"), at, &body).unwrap() == text("webhook-signature")
        }),
        Flaw::IdOnly => text("webhook-id").starts_with("dlv_"),
        Flaw::Github => {
            let signed = hex::verify_github(&[SECRET], &text("x-hub-signature-256"), &body);
            signed.is_ok() && text("authorization") == "Bearer canary"
        }
        Flaw::Stripe => hex::verify_stripe(&[SECRET], &text("stripe-signature"), &body, now(), 300).is_ok(),
        Flaw::V1a => {
            let key = PrivateKey::parse(PRIVATE).unwrap().public();
            let [id, at, signature] = ["id", "timestamp", "signature"].map(|n| text(&format!("webhook-{n}")));
            asymmetric::verify(&[key], &id, &at, &signature, &body, now(), 300).is_ok()
        }
        _ => webhook.verify(&body, &headers).is_ok(),
    };
    let first = seen.lock().unwrap().insert(text("webhook-id"));
    StatusCode::from_u16(match (flaw, good) {
        (Flaw::Redirects, _) => 302,
        (Flaw::Gone, _) => 410,
        (Flaw::Elsewhere, _) | (Flaw::Hides, false) => 404,
        (Flaw::NoCheck, _) => 200,
        (Flaw::NoRepeats, true) if !first => 409,
        (_, true) => 204,
        (Flaw::Crashes, false) => 500,
        (_, false) => 401,
    })
    .unwrap()
}

fn now() -> i64 {
    ringback::clock::Clock::system().now().seconds()
}

async fn receiver(flaw: Flaw) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = Router::new().fallback(receive).with_state((flaw, Arc::default()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn doctor(args: &[&str]) -> Ran {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    tokio::task::spawn_blocking(move || run(ringback().arg("doctor").args(args))).await.unwrap()
}

/// Name and verdict of each check, and the exit code.
fn verdicts(ran: &Ran) -> Vec<(String, String)> {
    let told: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    assert_eq!(told["sound"], ran.code == 0, "{ran:?}");
    let text = |check: &Value, name: &str| check[name].as_str().unwrap().to_owned();
    told["checks"].as_array().unwrap().iter().map(|c| (text(c, "name"), text(c, "verdict"))).collect()
}

fn of<'a>(verdicts: &'a [(String, String)], wanted: &str) -> Vec<&'a str> {
    verdicts.iter().filter(|(_, verdict)| verdict == wanted).map(|(name, _)| name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_receiver_does_wrong_is_found_and_nothing_else() {
    for (flaw, failed) in [
        (Flaw::Nothing, &[][..]),
        (Flaw::NoCheck, &["foreign secret", "altered body", "unsigned", "old timestamp"]),
        (Flaw::NoAge, &["old timestamp"]),
        (Flaw::NoRepeats, &["duplicate"]),
        (Flaw::IdOnly, &["foreign secret", "altered body", "old timestamp"]),
        (Flaw::Redirects, EVERY_ANSWER),
        (Flaw::Hasty, &["slow body"]),
        (Flaw::Crashes, &["foreign secret", "altered body", "unsigned", "old timestamp"]),
        (Flaw::Gone, &["signed event", "duplicate", "slow body"]),
        (Flaw::Elsewhere, EVERY_ANSWER),
        (Flaw::Hides, &[]),
    ] {
        let url = receiver(flaw).await;
        let ran = doctor(&[&url, "--secret", SECRET, "--allow-loopback", "--json"]).await;
        let seen = verdicts(&ran);
        assert_eq!(of(&seen, "fail"), failed, "{flaw:?}: {ran:?}");
        assert_eq!(ran.code, i32::from(!failed.is_empty()), "{flaw:?}");
        assert!(of(&seen, "warn").contains(&"tls"), "http is told of: {ran:?}");
        assert_eq!(seen.len(), 13, "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_report_is_for_people_too_and_quotes_no_secret() {
    let url = receiver(Flaw::NoAge).await;
    let ran = doctor(&[&url, "--secret", SECRET, "--allow-loopback"]).await;
    assert_eq!(ran.code, 1);
    for part in [
        "CHECK",
        "old timestamp",
        "FAIL",
        "taken with 204",
        "204 to a webhook signed with --secret",
        "1 check failed",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert!(!ran.out.contains("t9Iu17") && !ran.err.contains("t9Iu17"));
    // Another secret than the receiver's: the first thing to look at.
    let other = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw3x3qXwQbDsY=";
    let ran = doctor(&[&url, "--secret", other, "--allow-loopback"]).await;
    assert!(ran.code == 1 && ran.out.contains("is it the right secret"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_secret_only_what_must_be_refused_is_sent() {
    let ran = doctor(&[&receiver(Flaw::Nothing).await, "--allow-loopback", "--json"]).await;
    let seen = verdicts(&ran);
    assert_eq!(
        of(&seen, "skipped"),
        ["signed event", "answer", "duplicate", "slow body", "altered body", "old timestamp"]
    );
    assert_eq!((ran.code, of(&seen, "fail").len()), (0, 0), "{ran:?}");
    let ran = doctor(&[&receiver(Flaw::NoCheck).await, "--allow-loopback", "--json"]).await;
    assert_eq!(of(&verdicts(&ran), "fail"), ["foreign secret", "unsigned"]);
    // Whatever is sent to a wrong URL is answered 404.
    let ran = doctor(&[&receiver(Flaw::Elsewhere).await, "--allow-loopback", "--json"]).await;
    assert_eq!(of(&verdicts(&ran), "fail"), ["foreign secret", "unsigned"]);
    let ran = doctor(&[&receiver(Flaw::Nothing).await, "--allow-loopback"]).await;
    assert!(ran.code == 0 && ran.out.contains("only --secret can tell"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_of_other_schemes_and_with_headers_are_asked_too() {
    let bearer = "Authorization: Bearer canary";
    for (flaw, secret, more, skipped) in [
        (Flaw::Github, SECRET, &["--scheme", "github", "--header", bearer][..], &["old timestamp"][..]),
        (Flaw::Stripe, SECRET, &["--scheme", "stripe"], &[]),
        (Flaw::V1a, PRIVATE, &[], &[]),
    ] {
        let url = receiver(flaw).await;
        let ran =
            doctor(&[&[url.as_str(), "--secret", secret, "--allow-loopback", "--json"][..], more].concat())
                .await;
        let seen = verdicts(&ran);
        assert_eq!(
            (of(&seen, "fail"), of(&seen, "skipped")),
            (vec![], skipped.to_vec()),
            "{flaw:?}: {ran:?}"
        );
        // As it was without the option.
        let ran = doctor(&[&url, "--secret", SECRET, "--allow-loopback", "--json"]).await;
        assert_eq!(
            of(&verdicts(&ran), "fail"),
            ["signed event", "duplicate", "slow body"],
            "{flaw:?}: {ran:?}"
        );
    }
    let url = receiver(Flaw::Nothing).await;
    let asked = [url.as_str(), "--allow-loopback", "--header"];
    for wrong in ["canary", "webhook-id: canary", "Host: canary"] {
        let ran = doctor(&[&asked[..], &[wrong]].concat()).await;
        assert!(!ran.err.contains("canary"), "{ran:?}");
        ran.refused(2, "--header");
    }
    doctor(&[&url, "--secret", PRIVATE, "--scheme", "stripe", "--allow-loopback"]).await.refused(2, "whsec_");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_service_would_not_reach_is_not_reached() {
    let url = receiver(Flaw::Nothing).await;
    let free = format!("http://127.0.0.1:{}/", free_port());
    let secure = url.replace("http:", "https:");
    for (args, failed) in [
        (&[url.as_str()][..], "url"),
        (&["https://127.0.0.1/"], "url"),
        (&["not a url", "--allow-loopback"], "url"),
        (&[&free, "--allow-loopback"], "tcp"),
        (&[&secure, "--allow-loopback"], "tls"),
        (&["https://no-such-host.invalid-tld-of-ringback/", "--allow-loopback"], "dns"),
    ] {
        let ran = doctor(&[args, &["--json", "--secret", SECRET]].concat()).await;
        assert_eq!((ran.code, of(&verdicts(&ran), "fail")), (1, vec![failed]), "{args:?}: {ran:?}");
    }
    doctor(&[&url, "--secret", "canary"]).await.refused(2, "--secret");
}
