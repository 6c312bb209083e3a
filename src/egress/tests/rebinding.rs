//! A name server that changes its mind between two questions: nothing that was not vetted is ever dialled.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::dice::Dice;

const TRIES: usize = 10_000;
const AT_ONCE: usize = 16;
/// Open to this deployment: it stands for a public address, so that nothing leaves the machine.
const OPEN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Where the canary sits, at the receiver's very port.
const INNER: Ipv4Addr = Ipv4Addr::LOCALHOST;
const INNER_V6: Ipv6Addr = Ipv6Addr::LOCALHOST;

/// A receiver at [`OPEN`] that ends each connection, so that every try asks for the name anew, and listeners at the
/// same port of the forbidden addresses.
async fn receiver_and_canaries() -> (Receiver, Vec<std::net::TcpListener>) {
    let canary = |ip: IpAddr, port| {
        let listener = std::net::TcpListener::bind((ip, port))?;
        listener.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(listener)
    };
    for _ in 0..100 {
        let listener = TcpListener::bind((OPEN, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Another process may have that port at the other address.
        let Ok(inner) = canary(INNER.into(), port) else { continue };
        // A machine without IPv6 cannot be reached there either.
        let canaries = [Some(inner), canary(INNER_V6.into(), port).ok()].into_iter().flatten().collect();
        let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        return (Receiver::on(listener, answer, Then::Close, None), canaries);
    }
    panic!("no port is free at both addresses");
}

/// Answers as the dice fall: open, forbidden, or both in one answer, never to be kept. Counts what it was asked.
async fn fickle_name_server(asked: Arc<AtomicUsize>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let dice = Dice::seeded(4);
    tokio::spawn(async move {
        let mut buf = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut buf).await {
            asked.fetch_add(1, Ordering::SeqCst);
            let [roll] = dice.bytes();
            let _ = socket.send_to(&answer(&buf[..n], roll), from).await;
        }
    });
    at
}

fn answer(question: &[u8], roll: u8) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|b| *b == 0).unwrap() + 5;
    let (open, inner, inner_v6) = (OPEN.octets(), INNER.octets(), INNER_V6.octets());
    let records: &[&[u8]] = match (question[end - 3], roll % 8) {
        (1, 0..4) => &[&open],
        (1, 4 | 5) => &[&inner],
        (1, 6) => &[&open, &inner],
        (1, _) => &[&inner, &open],
        // AAAA: most have none.
        (28, 7) => &[&inner_v6],
        _ => &[],
    };
    let mut answer = question[..end].to_vec();
    // Response, recursion available; one question, these answers, no other sections.
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    for address in records {
        let (kind, length) = (question[end - 3], address.len() as u8);
        // The question's name, class IN, a time to live of 0.
        answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, length]);
        answer.extend_from_slice(address);
    }
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tries_under_rebinding_never_reach_the_canary() {
    let (receiver, canaries) = receiver_and_canaries().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let names = Names::Servers(vec![fickle_name_server(Arc::clone(&asked)).await]);
    let policy = UrlPolicy { allow_cidrs: vec![IpAddr::from(OPEN).into()], ..UrlPolicy::default() };
    let sender = Sender::new(Options { policy, names, ..Options::default() }).unwrap();
    // A name for each, because the resolver asks once for those who want the same at the same time.
    let urls: Vec<_> = (0..AT_ONCE).map(|n| receiver.named(&format!("r{n}.example.com"))).collect();
    let (mut delivered, mut refused) = (0, 0);

    for _ in 0..TRIES / AT_ONCE {
        let tries = urls.iter().map(|url| post(&sender, url, within(15_000)));
        for got in futures_util::future::join_all(tries).await {
            match got.outcome {
                Outcome::Answered { status: 200, .. } => {
                    assert_eq!(got.address, Some(receiver.address));
                    delivered += 1;
                }
                Outcome::Failed(why @ Fault::Refused(_)) => {
                    assert_eq!((got.address, got.phases.connect_ms), (None, None), "{why:?}");
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    for canary in &canaries {
        assert!(canary.accept().is_err(), "{canary:?} was reached");
    }
    assert_eq!(delivered + refused, TRIES);
    assert_eq!((receiver.connections(), receiver.requests().len()), (delivered, delivered));
    assert!(delivered > TRIES / 4 && refused > TRIES / 4, "{delivered} delivered, {refused} refused");
    let asked = asked.load(Ordering::SeqCst);
    assert!(asked >= 2 * TRIES, "no answer is kept: {asked} questions, of both kinds at each try");
}
