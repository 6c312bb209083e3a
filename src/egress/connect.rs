//! The connector under hyper's pool: vet, dial, check the peer, TLS.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::sockopt;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::gate::{Trail, ms};
use super::guard::{Guard, Vetted, literal};
use super::wire::{Budgets, Io, Link, Wire};
use super::{BootTime, CONNECT_BUDGET, SetupError};
use crate::types::delivery::{Fault, Phase, TlsFault};
use crate::types::target::CallbackUrl;

/// A silent peer is asked after this long whether it is there ...
const ASK_AFTER: Duration = Duration::from_secs(60);
/// ... and then so often, this long apart; one that answers none is gone.
const ASK_TIMES: u32 = 4;
const ASK_AGAIN: Duration = Duration::from_secs(15);

tokio::task_local! {
    /// The trail of the attempt that asks for a connection; the pool hands the connector nothing but a URI.
    pub(super) static TRAIL: Arc<Trail>;
}

#[derive(Clone)]
pub(super) struct Connector {
    inner: Arc<Inner>,
}

struct Inner {
    guard: Guard,
    tls: TlsConnector,
    budgets: Budgets,
}

/// Why no connection stands, for the pool to carry to the caller.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoConnection(pub Fault);

impl Connector {
    pub fn new(
        guard: Guard,
        extra_roots: Vec<CertificateDer<'static>>,
        budgets: Budgets,
    ) -> Result<Connector, SetupError> {
        let tls = TlsConnector::from(Arc::new(tls_config(extra_roots)?));
        Ok(Connector { inner: Arc::new(Inner { guard, tls, budgets }) })
    }
}

impl Connector {
    /// Connects to the URL's host and gives the certificate that it showed, in DER; None for http.
    pub async fn stand_for(&self, url: &CallbackUrl, trail: &Trail) -> Result<Option<Vec<u8>>, Fault> {
        let secure = url.uri().scheme_str() == Some("https");
        let vetted = self.inner.guard.vet(url.host()).await?;
        trail.enter(Phase::Connect);
        let (io, _) = self.inner.stand(url.host(), url.port(), secure, vetted, trail).await?;
        match io {
            Io::Plain(_) => Ok(None),
            Io::Tls(tls) => {
                Ok(tls.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|c| c.to_vec()))
            }
        }
    }
}

fn tls_config(extra_roots: Vec<CertificateDer<'static>>) -> Result<ClientConfig, SetupError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for root in extra_roots {
        roots.add(root)?;
    }
    // The provider is named here, so that no process-wide default is needed.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = NoConnection;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NoConnection>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoConnection>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        let trail = TRAIL.try_with(Arc::clone).unwrap_or_default();
        Box::pin(async move { inner.connect(&uri, &trail).await.map(TokioIo::new).map_err(NoConnection) })
    }
}

impl Inner {
    async fn connect(&self, uri: &Uri, trail: &Trail) -> Result<Wire, Fault> {
        let host = uri.host().ok_or(Fault::Connect)?;
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let start = BootTime::now();
        let vetted = self.guard.vet(host).await?;
        if vetted.looked_up {
            trail.note(|p| p.dns_ms = ms(BootTime::now().since(start)));
        }
        trail.enter(Phase::Connect);
        let standing = self.stand(host, port, secure, vetted, trail);
        let (io, peer) = tokio::time::timeout(CONNECT_BUDGET, standing)
            .await
            .unwrap_or_else(|_| Err(Fault::Timeout(trail.steps().phase)))?;
        Ok(Wire::new(io, Link::new(peer, trail.steps().phases), self.budgets))
    }

    async fn stand(
        &self,
        host: &str,
        port: u16,
        secure: bool,
        vetted: Vetted,
        trail: &Trail,
    ) -> Result<(Io, SocketAddr), Fault> {
        let start = BootTime::now();
        let tcp = dial(&vetted.addresses, port, trail, TcpStream::connect).await?;
        let peer = tcp.peer_addr().map_err(|_| Fault::Connect)?;
        self.guard.permits(host, peer.ip())?;
        // Head and body leave in one write; waiting to fill a packet only delays them.
        tcp.set_nodelay(true).map_err(|_| Fault::Connect)?;
        keep_alive(&tcp).map_err(|_| Fault::Connect)?;
        trail.note(|p| p.connect_ms = ms(BootTime::now().since(start)));
        if !secure {
            return Ok((Io::Plain(tcp), peer));
        }
        trail.enter(Phase::Tls);
        let start = BootTime::now();
        let name = server_name(host)?;
        let tls = self.tls.connect(name, tcp).await.map_err(|e| Fault::Tls(tls_fault(&e)))?;
        trail.note(|p| p.tls_ms = ms(BootTime::now().since(start)));
        Ok((Io::Tls(Box::new(tls)), peer))
    }
}

/// Dials one address after the other. Each has its share of the budget that is left, so that one black hole
/// cannot use up what the next would need. Where none answers and one had no free port, the receiver was not fully tried.
async fn dial<S, F: Future<Output = io::Result<S>>>(
    addresses: &[IpAddr],
    port: u16,
    trail: &Trail,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<S, Fault> {
    let start = BootTime::now();
    let (mut fault, mut crowded) = (Fault::Connect, false);
    for (done, ip) in addresses.iter().enumerate() {
        let left = CONNECT_BUDGET.saturating_sub(BootTime::now().since(start));
        let share = left / u32::try_from(addresses.len() - done).unwrap_or(1);
        let address = SocketAddr::new(*ip, port);
        trail.dialling(address);
        match tokio::time::timeout(share, connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            // The next address would lack the same.
            Ok(Err(e)) if is_ours(&e) => return Err(Fault::NoSocket),
            // Ports are free or taken by address.
            Ok(Err(e)) if has_no_port(&e, address) => crowded = true,
            Ok(Err(_)) => fault = Fault::Connect,
            Err(_) => fault = Fault::Timeout(Phase::Connect),
        }
    }
    Err(if crowded { Fault::NoSocket } else { fault })
}

/// Asks the peer now and then whether it is still there. A worker that is pushed a job may be silent for hours, which routers
/// between forget, and of one whose machine is gone nothing else would tell before the attempt's own end.
fn keep_alive(tcp: &TcpStream) -> io::Result<()> {
    sockopt::set_tcp_keepidle(tcp, ASK_AFTER)?;
    sockopt::set_tcp_keepintvl(tcp, ASK_AGAIN)?;
    sockopt::set_tcp_keepcnt(tcp, ASK_TIMES)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    Ok(())
}

/// Whether all ports to that address are taken. Where IPv6 is off the same is said of any IPv6 address: then it cannot be reached,
/// which a socket that needs none of these ports tells, without a packet.
fn has_no_port(error: &io::Error, to: SocketAddr) -> bool {
    let reaches = || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|udp| udp.connect(to)).is_ok();
    error.raw_os_error() == Some(Errno::ADDRNOTAVAIL.raw_os_error()) && (to.is_ipv4() || reaches())
}

/// Whether it is this machine that lacks something for one more connection: that says nothing of the receiver.
pub(super) fn is_ours(error: &io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| ours.iter().any(|lack| lack.raw_os_error() == code))
}

fn server_name(host: &str) -> Result<ServerName<'static>, Fault> {
    match literal(host) {
        Some(ip) => Ok(ServerName::from(ip)),
        None => ServerName::try_from(host.to_owned()).map_err(|_| Fault::Tls(TlsFault::WrongName)),
    }
}

fn tls_fault(error: &io::Error) -> TlsFault {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(bad)) => match bad {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => TlsFault::Expired,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsFault::WrongName
            }
            CertificateError::UnknownIssuer => TlsFault::UnknownIssuer,
            _ => TlsFault::Certificate,
        },
        _ => TlsFault::Handshake,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_lacking_where_the_address_could_be_reached_without() {
        let lack = io::Error::from_raw_os_error(Errno::ADDRNOTAVAIL.raw_os_error());
        assert!(has_no_port(&lack, "127.0.0.1:443".parse().unwrap()));
        let there = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        assert_eq!(has_no_port(&lack, "[::1]:443".parse().unwrap()), there, "IPv6 may be off here");
        let refused = io::Error::from_raw_os_error(Errno::CONNREFUSED.raw_os_error());
        assert!(!has_no_port(&refused, "[::1]:443".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_peer_that_is_silent_for_a_minute_is_asked_whether_it_is_there() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
        keep_alive(&tcp).unwrap();
        let asked = (sockopt::tcp_keepidle(&tcp), sockopt::tcp_keepintvl(&tcp), sockopt::tcp_keepcnt(&tcp));
        assert_eq!(asked, (Ok(ASK_AFTER), Ok(ASK_AGAIN), Ok(ASK_TIMES)));
        assert_eq!(sockopt::socket_keepalive(&tcp), Ok(true));
    }

    #[tokio::test]
    async fn an_address_without_a_free_port_does_not_cost_the_next_one() {
        let [full, other]: [IpAddr; 2] = ["127.0.0.1", "127.0.0.2"].map(|ip| ip.parse().unwrap());
        let dialled = async |addresses: [IpAddr; 2], full_lacks: Errno, others: Result<(), Errno>| {
            let connect = |to: SocketAddr| {
                let got = if to.ip() == full { Err(full_lacks) } else { others };
                std::future::ready(got.map_err(|e| io::Error::from_raw_os_error(e.raw_os_error())))
            };
            dial(&addresses, 443, &Trail::default(), connect).await
        };
        let port = Errno::ADDRNOTAVAIL;
        assert_eq!(dialled([full, other], port, Ok(())).await, Ok(()));
        for addresses in [[full, other], [other, full]] {
            let got = dialled(addresses, port, Err(Errno::CONNREFUSED)).await;
            assert_eq!(got, Err(Fault::NoSocket), "the receiver may answer there");
        }
        let refused = Errno::CONNREFUSED;
        assert_eq!(dialled([full, other], refused, Err(refused)).await, Err(Fault::Connect));
        assert_eq!(
            dialled([full, other], Errno::MFILE, Ok(())).await,
            Err(Fault::NoSocket),
            "files are one for all"
        );
    }
}
