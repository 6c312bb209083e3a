//! Names, literals and the address guard at the connection.

use std::net::Ipv4Addr;

use serde_json::Value;
use tokio::net::UdpSocket;

use super::*;
use crate::egress::guard::Guard;
use crate::types::target::AddrClass;

const CORPUS: &str = include_str!("../../../tests/vectors/ssrf-corpus.jsonl");

fn rows(kind: &str) -> Vec<Value> {
    let all = CORPUS.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    all.filter(|r| r["kind"] == kind).collect()
}

fn fixed(host: &str, answers: Vec<IpAddr>) -> Names {
    Names::Fixed(BTreeMap::from([(host.to_owned(), answers)]))
}

#[tokio::test]
async fn every_look_up_of_the_corpus() {
    let rows = rows("dns");
    for row in &rows {
        let host = row["input"]["host"].as_str().unwrap();
        let answers: Vec<IpAddr> = row["input"]["answers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| a.as_str().unwrap().parse().unwrap())
            .collect();
        let guard = Guard::new(UrlPolicy::default(), fixed(host, answers.clone())).unwrap();
        let vetted = guard.vet(host).await;
        if row["verdict"] == "allow" {
            assert_eq!(vetted.unwrap().addresses, answers, "{row}");
            continue;
        }
        // An empty answer may be filled tomorrow, a forbidden one is final.
        let why = vetted.unwrap_err();
        assert_eq!(why.kind(), if answers.is_empty() { "dns" } else { "refused" }, "{row}");
        let options = Options { names: fixed(host, answers), ..Options::default() };
        let got = post(&Sender::new(options).unwrap(), &format!("https://{host}/"), within(5_000)).await;
        assert_eq!((fault(&got), got.address), (why, None), "{row}");
    }
    assert_eq!(rows.len(), 10);
}

#[tokio::test]
async fn every_redirect_of_the_corpus() {
    let rows = rows("redirect");
    for row in &rows {
        let code = row["input"]["status"].as_u64().unwrap();
        let to = row["input"]["location"].as_str().map_or(String::new(), |l| format!("Location: {l}\r\n"));
        let answer = format!("HTTP/1.1 {code} Elsewhere\r\n{to}Content-Length: 0\r\n\r\n");
        let (receiver, root) = tls::receiver("hooks.example.com", &answer).await;
        let sender = tls::sender("hooks.example.com", Some(root));
        let got = post(&sender, &receiver.named("hooks.example.com"), within(5_000)).await;
        assert_eq!(u64::from(status(&got)), code, "{row}");
        assert_eq!((receiver.connections(), receiver.requests().len()), (1, 1), "{row}");
    }
    assert_eq!(rows.len(), 8);
}

#[tokio::test]
async fn production_never_dials_loopback() {
    let canary = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    canary.set_nonblocking(true).unwrap();
    let port = canary.local_addr().unwrap().port();
    let names = fixed("rebound.example.com", vec![Ipv4Addr::LOCALHOST.into()]);
    let sender = Sender::new(Options { names, ..Options::default() }).unwrap();
    for host in ["127.0.0.1", "[::1]", "localhost", "a.localhost", "rebound.example.com"] {
        let got = post(&sender, &format!("http://{host}:{port}/"), within(5_000)).await;
        assert_eq!(fault(&got), Fault::Refused(AddrClass::Loopback), "{host}");
        assert_eq!((got.address, got.phases.connect_ms), (None, None));
    }
    assert!(canary.accept().is_err(), "something was dialled");
}

#[tokio::test]
async fn a_closed_port_is_a_fault_of_connecting() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let got = post(&sender(), &format!("http://localhost:{port}/"), within(5_000)).await;
    assert_eq!(fault(&got), Fault::Connect);
}

#[tokio::test]
async fn the_next_address_is_tried() {
    let receiver = Receiver::plain("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Keep).await;
    // 127.0.0.2 is loopback too, and nobody listens there.
    let answers = vec![Ipv4Addr::new(127, 0, 0, 2).into(), Ipv4Addr::LOCALHOST.into()];
    let options = Options { policy: dev(), names: fixed("two.example.com", answers), ..Options::default() };
    let got = post(&Sender::new(options).unwrap(), &receiver.named("two.example.com"), within(5_000)).await;
    assert_eq!((status(&got), got.address), (200, Some(receiver.address)));
    assert!(got.phases.dns_ms.is_some());
}

#[tokio::test]
async fn at_most_four_addresses_are_kept_ipv4_first() {
    let all: Vec<IpAddr> = (1..=5).map(|n| IpAddr::from([8, 8, 8, n])).collect();
    let mut answers = vec!["2606:4700::1".parse().unwrap()];
    answers.extend(&all);
    let guard = Guard::new(UrlPolicy::default(), fixed("many.example.com", answers)).unwrap();
    assert_eq!(guard.vet("many.example.com").await.unwrap().addresses, all[..4]);
}

/// Answers every A question with `address` and everything else with nothing.
pub(super) async fn name_server(address: Ipv4Addr) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buf = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut buf).await {
            let end = 12 + buf[12..n].iter().position(|b| *b == 0).unwrap() + 5;
            let is_a = buf[end - 4..end - 2] == [0, 1];
            let mut answer = buf[..end].to_vec();
            // Response, recursion available; one question, no other sections.
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(address.octets());
            }
            let _ = socket.send_to(&answer, from).await;
        }
    });
    at
}

#[tokio::test]
async fn name_servers_are_asked_and_their_answers_vetted() {
    let receiver = Receiver::plain("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Keep).await;
    let names = Names::Servers(vec![name_server(Ipv4Addr::LOCALHOST).await]);
    let sender = Sender::new(Options { policy: dev(), names, ..Options::default() }).unwrap();
    let got = post(&sender, &receiver.named("hooks.example.com"), within(5_000)).await;
    assert_eq!((status(&got), got.address), (200, Some(receiver.address)));

    let names = Names::Servers(vec![name_server(Ipv4Addr::new(10, 0, 0, 5)).await]);
    let sender = Sender::new(Options { names, ..Options::default() }).unwrap();
    let got = post(&sender, "https://hooks.example.com/", within(5_000)).await;
    assert_eq!((fault(&got), got.address), (Fault::Refused(AddrClass::Private), None));
}

#[tokio::test]
async fn a_silent_name_server_is_given_up() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let names = Names::Servers(vec![socket.local_addr().unwrap()]);
    let sender = Sender::new(Options { names, ..Options::default() }).unwrap();
    let got = post(&sender, "https://hooks.example.com/", within(300)).await;
    assert_eq!(fault(&got), Fault::Timeout(Phase::Dns));
}
