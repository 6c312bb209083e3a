//! Certificates, and the gate behind a slow handshake.

use std::net::Ipv4Addr;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::types::delivery::TlsFault;
use crate::types::target::AddrClass;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

fn acceptor(
    params: CertificateParams,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> (TlsAcceptor, CertificateDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap().der().clone();
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.clone()], secret)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), cert)
}

fn named(host: &str) -> CertificateParams {
    CertificateParams::new(vec![host.to_owned()]).unwrap()
}

pub async fn receiver(host: &str, answer: &str) -> (Receiver, CertificateDer<'static>) {
    let (tls, root) = acceptor(named(host), rustls::ALL_VERSIONS);
    (Receiver::start(answer, Then::Keep, Some(tls)).await, root)
}

pub fn sender(host: &str, root: Option<CertificateDer<'static>>) -> Sender {
    let names = Names::Fixed(BTreeMap::from([(host.to_owned(), vec![Ipv4Addr::LOCALHOST.into()])]));
    let extra_roots = root.into_iter().collect();
    Sender::new(Options { policy: dev(), names, extra_roots, ..Options::default() }).unwrap()
}

#[tokio::test]
async fn a_trusted_certificate_is_taken_in_both_versions() {
    for version in rustls::ALL_VERSIONS {
        let (tls, root) = acceptor(named("hooks.example.com"), &[version]);
        let receiver = Receiver::start(OK, Then::Keep, Some(tls)).await;
        let sender = sender("hooks.example.com", Some(root));
        // The dot is stripped before SNI and certificate are compared.
        let got = post(&sender, &receiver.named("hooks.example.com."), within(5_000)).await;
        assert_eq!(status(&got), 200);
        assert!(got.phases.tls_ms.is_some() && got.phases.dns_ms.is_some());
    }
}

#[tokio::test]
async fn an_address_is_checked_against_the_certificate_too() {
    let (receiver, root) = receiver("127.0.0.1", OK).await;
    let sender = sender("unused.example.com", Some(root));
    assert_eq!(status(&post(&sender, &receiver.url("/"), within(5_000)).await), 200);
}

#[tokio::test]
async fn bad_certificates_are_refused() {
    let mut old = named("hooks.example.com");
    (old.not_before, old.not_after) = (rcgen::date_time_ymd(2001, 1, 1), rcgen::date_time_ymd(2002, 1, 1));
    let mut early = named("hooks.example.com");
    (early.not_before, early.not_after) =
        (rcgen::date_time_ymd(2101, 1, 1), rcgen::date_time_ymd(2102, 1, 1));
    for (params, trusted, why) in [
        (named("other.example.com"), true, TlsFault::WrongName),
        (named("hooks.example.com"), false, TlsFault::UnknownIssuer),
        (old, true, TlsFault::Expired),
        (early, true, TlsFault::Expired),
    ] {
        let (tls, root) = acceptor(params, rustls::ALL_VERSIONS);
        let receiver = Receiver::start(OK, Then::Keep, Some(tls)).await;
        let sender = sender("hooks.example.com", trusted.then_some(root));
        let got = post(&sender, &receiver.named("hooks.example.com"), within(5_000)).await;
        assert_eq!(fault(&got), Fault::Tls(why));
        assert!(receiver.requests().is_empty());
    }
}

#[tokio::test]
async fn a_look_shows_addresses_the_certificate_and_what_is_wrong_with_it() {
    let mut params =
        CertificateParams::new(vec!["hooks.example.com".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2101, 1, 1);
    let (tls, root) = acceptor(params, rustls::ALL_VERSIONS);
    let receiver = Receiver::start(OK, Then::Keep, Some(tls)).await;
    let names = |ip: &str| {
        Names::Fixed(BTreeMap::from([("hooks.example.com".to_owned(), vec![ip.parse().unwrap()])]))
    };
    let options = |ip: &str, roots: Vec<CertificateDer<'static>>| Options {
        policy: dev(),
        names: names(ip),
        extra_roots: roots,
        ..Options::default()
    };
    let url = receiver.named("hooks.example.com");
    let any_port = UrlPolicy { allow_ports: (1..=u16::MAX).collect(), ..dev() };
    let url = CallbackUrl::check(&url, &any_port).unwrap();

    let seen = look::look(options("127.0.0.1", vec![root]), &url).await.unwrap();

    assert_eq!(seen.addresses.unwrap(), [(Ipv4Addr::LOCALHOST.into(), Ok(()))]);
    assert!(seen.dns.is_some() && matches!(seen.tcp, Some(Ok(_))));
    let shown = seen.tls.unwrap().unwrap();
    assert_eq!(shown.names, ["hooks.example.com", "127.0.0.1"]);
    assert_eq!(shown.not_after.to_string(), "2101-01-01T00:00:00.000Z");
    assert!(!shown.issuer.is_empty());

    let seen = look::look(options("127.0.0.1", vec![]), &url).await.unwrap();
    assert!(matches!(seen.tcp, Some(Ok(_))));
    assert_eq!(seen.tls.unwrap().unwrap_err(), Fault::Tls(TlsFault::UnknownIssuer));

    let seen = look::look(options("10.0.0.1", vec![]), &url).await.unwrap();
    assert_eq!(seen.addresses.unwrap(), [("10.0.0.1".parse().unwrap(), Err(AddrClass::Private))]);
    assert!(seen.tcp.is_none() && seen.tls.is_none(), "nothing is dialled");
    assert!(receiver.requests().is_empty(), "no byte of HTTP is written");
}

#[tokio::test]
async fn a_plain_server_behind_https_is_a_tls_fault() {
    let receiver = Receiver::plain(OK, Then::Keep).await;
    let url = receiver.url("/").replace("http:", "https:");
    // It waits for the end of a head that never comes.
    assert_eq!(fault(&post(&super::sender(), &url, within(300)).await), Fault::Timeout(Phase::Tls));
}

#[tokio::test]
async fn a_lease_that_runs_out_during_the_handshake_sends_nothing() {
    let (tls, root) = acceptor(named("hooks.example.com"), rustls::ALL_VERSIONS);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let not_after = BootTime::now().plus(Duration::from_millis(100));
    let server = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        while BootTime::now() < not_after {
            tokio::task::yield_now().await;
        }
        let mut io = tls.accept(tcp).await.unwrap();
        let mut got = Vec::new();
        let _ = io.read_to_end(&mut got).await;
        got
    });
    let limits = Limits { not_after, ..within(5_000) };
    let sender = sender("hooks.example.com", Some(root));
    let got = post(&sender, &format!("https://hooks.example.com:{port}/"), limits).await;
    assert_eq!(fault(&got), Fault::LeaseRanOut);
    assert!(got.address.is_some());
    assert!(server.await.unwrap().is_empty(), "the request was written");
}
