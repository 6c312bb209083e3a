//! The sender against real sockets on loopback, most of them hostile.

mod hostile;
mod names;
mod rebinding;
mod server;
mod tls;

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::server::{Receiver, Then};
use super::*;
use crate::types::Millis;
use crate::types::delivery::{Exchange, Fault, Outcome, Phase};
use crate::types::target::CallbackUrl;

const NOW: Millis = Millis(1_767_225_600_000);
const BODY: &[u8] = br#"{"type":"job.completed"}"#;

fn dev() -> UrlPolicy {
    UrlPolicy { dev: true, ..UrlPolicy::default() }
}

fn sender() -> Sender {
    Sender::new(Options { policy: dev(), names: Names::Fixed(BTreeMap::new()), ..Options::default() })
        .unwrap()
}

fn within(ms: u64) -> Limits {
    let not_after = BootTime::now().plus(Duration::from_secs(60));
    Limits { deadline: Duration::from_millis(ms), not_after, answer: Answer::Glance }
}

async fn post(sender: &Sender, url: &str, limits: Limits) -> Exchange {
    let url = CallbackUrl::check(url, &UrlPolicy { allow_ports: (1..=u16::MAX).collect(), ..dev() }).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", "dlv_1".parse().unwrap());
    sender.post(&url, headers, Bytes::from_static(BODY), limits, NOW).await
}

fn status(exchange: &Exchange) -> u16 {
    match exchange.outcome {
        Outcome::Answered { status, .. } => status,
        Outcome::Failed(fault) => panic!("{fault:?}"),
    }
}

fn fault(exchange: &Exchange) -> Fault {
    match exchange.outcome {
        Outcome::Answered { status, .. } => panic!("answered {status}"),
        Outcome::Failed(fault) => fault,
    }
}

#[tokio::test]
async fn a_good_answer_is_told_in_full() {
    let receiver =
        Receiver::plain("HTTP/1.1 200 OK\r\nX-Seen: yes\r\nContent-Length: 4\r\n\r\ndone", Then::Keep).await;
    let got = post(&sender(), &receiver.url("/hook?x=1"), within(5_000)).await;
    assert_eq!(status(&got), 200);
    assert_eq!(&got.body[..], b"done");
    assert!(got.headers.contains(&("x-seen".into(), "yes".into())));
    assert_eq!(got.address, Some(receiver.address));
    let p = got.phases;
    assert!(p.dns_ms.is_none() && p.connect_ms.is_some() && p.tls_ms.is_none() && p.first_byte_ms.is_some());
    let seen = receiver.requests();
    let want = format!(
        "POST /hook?x=1 HTTP/1.1\r\nwebhook-id: dlv_1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n{}",
        receiver.address,
        BODY.len(),
        std::str::from_utf8(BODY).unwrap()
    );
    assert_eq!(seen, [want]);
}

#[tokio::test]
async fn connections_are_reused() {
    let receiver = Receiver::plain("HTTP/1.1 204 No Content\r\n\r\n", Then::Keep).await;
    let sender = sender();
    for n in 0..3 {
        let got = post(&sender, &receiver.url("/"), within(5_000)).await;
        assert_eq!(status(&got), 204);
        assert_eq!(got.phases.connect_ms.is_some(), n == 0, "only the first waits for the connection");
        assert_eq!(got.address, Some(receiver.address));
    }
    assert_eq!((receiver.connections(), receiver.requests().len()), (1, 3));
}

#[tokio::test]
async fn a_connection_that_the_receiver_closed_is_not_used_again() {
    let receiver = Receiver::plain("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Close).await;
    let sender = sender();
    for _ in 0..20 {
        assert_eq!(status(&post(&sender, &receiver.url("/"), within(5_000)).await), 200);
    }
    assert_eq!(receiver.requests().len(), 20);
}

#[tokio::test]
async fn steering_headers_are_read() {
    for (head, wait, stop) in [
        ("Retry-After: 120\r\n", Some(120), false),
        ("Retry-After: Thu, 01 Jan 2026 00:01:00 GMT\r\n", Some(60), false),
        ("Retry-After: 1e300\r\n", None, false),
        ("Webhook-Delivery: Abort\r\n", None, true),
        ("webhook-delivery: go on\r\n", None, false),
    ] {
        let script = format!("HTTP/1.1 503 Busy\r\n{head}Content-Length: 0\r\n\r\n");
        let receiver = Receiver::plain(&script, Then::Keep).await;
        let got = post(&sender(), &receiver.url("/"), within(5_000)).await;
        let retry_after = wait.map(Duration::from_secs);
        assert_eq!(got.outcome, Outcome::Answered { status: 503, retry_after, abort: stop }, "{head}");
    }
}

#[tokio::test]
async fn nothing_is_sent_once_the_lease_ran_out() {
    let receiver = Receiver::plain("HTTP/1.1 200 OK\r\n\r\n", Then::Keep).await;
    let late = Limits { not_after: BootTime::now(), ..within(5_000) };
    let got = post(&sender(), &receiver.url("/"), late).await;
    assert_eq!(fault(&got), Fault::LeaseRanOut);
    assert_eq!(receiver.connections(), 0);
}

/// Run by [`a_machine_without_room_for_a_connection_says_nothing_of_the_receiver`] in a process of its own.
#[tokio::test]
#[ignore = "leaves its process no file to open"]
async fn crowded_child() {
    let receiver = Receiver::plain("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Keep).await;
    let names = Names::Servers(vec![names::name_server(Ipv4Addr::LOCALHOST).await]);
    let sender = Sender::new(Options { policy: dev(), names, ..Options::default() }).unwrap();
    let before = getrlimit(Resource::Nofile);
    for url in [receiver.url("/"), receiver.named("hooks.example.com")] {
        setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..before }).unwrap();
        let got = post(&sender, &url, within(5_000)).await;
        setrlimit(Resource::Nofile, before).unwrap();
        assert_eq!(fault(&got), Fault::NoSocket, "{url}");
        assert_eq!(status(&post(&sender, &url, within(5_000)).await), 200, "{url}");
    }
}

#[test]
fn a_machine_without_room_for_a_connection_says_nothing_of_the_receiver() {
    passes_alone("crowded_child", &[]);
}

/// Runs an ignored test of this file in a process of its own.
fn passes_alone(test: &str, environment: &[(&str, &str)]) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "--ignored", &format!("egress::tests::{test}")]);
    let done = child.envs(environment.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

/// Run by [`proxy_variables_are_ignored`] in a process that has them set.
#[tokio::test]
#[ignore = "needs the environment of its parent"]
async fn proxied_child() {
    let receiver = Receiver::plain("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Keep).await;
    assert_eq!(status(&post(&sender(), &receiver.url("/"), within(5_000)).await), 200);
}

#[test]
fn proxy_variables_are_ignored() {
    let canary = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    canary.set_nonblocking(true).unwrap();
    let proxy = format!("http://{}", canary.local_addr().unwrap());
    let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    passes_alone("proxied_child", &names.map(|name| (name, proxy.as_str())));
    assert!(canary.accept().is_err(), "the proxy was asked");
}
