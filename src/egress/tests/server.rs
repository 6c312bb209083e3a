//! A receiver that answers every request with the same bytes and then behaves as told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

/// What follows the scripted answer.
#[derive(Clone, Copy, PartialEq)]
pub enum Then {
    /// The next request on the same connection.
    Keep,
    Close,
    /// RST instead of FIN.
    Reset,
    /// Silence, until the sender hangs up.
    Hang,
    /// Body bytes for ever.
    Endless,
}

#[derive(Default)]
struct Log {
    connections: AtomicUsize,
    written: AtomicUsize,
    requests: Mutex<Vec<String>>,
    hung_up: Notify,
}

pub struct Receiver {
    pub address: SocketAddr,
    scheme: &'static str,
    log: Arc<Log>,
}

impl Receiver {
    pub async fn plain(answer: &str, then: Then) -> Receiver {
        Self::start(answer, then, None).await
    }

    pub async fn start(answer: &str, then: Then, tls: Option<TlsAcceptor>) -> Receiver {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), answer, then, tls)
    }

    pub fn on(listener: TcpListener, answer: &str, then: Then, tls: Option<TlsAcceptor>) -> Receiver {
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Log::default());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (answer, seen) = (answer.to_owned(), Arc::clone(&log));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                seen.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(tcp, tls.clone(), answer.clone(), then, Arc::clone(&seen)));
            }
        });
        Receiver { address, scheme, log }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    pub fn named(&self, host: &str) -> String {
        format!("{}://{host}:{}/", self.scheme, self.address.port())
    }

    pub fn connections(&self) -> usize {
        self.log.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> Vec<String> {
        self.log.requests.lock().unwrap().clone()
    }

    /// Waits until the sender has closed a silent connection.
    pub async fn hung_up(&self) {
        let wait = self.log.hung_up.notified();
        tokio::time::timeout(Duration::from_secs(5), wait).await.expect("the connection stays open");
    }

    /// Bytes of an endless body that found room somewhere between the two ends.
    pub fn written(&self) -> usize {
        self.log.written.load(Ordering::SeqCst)
    }
}

async fn serve(tcp: TcpStream, tls: Option<TlsAcceptor>, answer: String, then: Then, log: Arc<Log>) {
    match tls {
        None if then == Then::Reset => {
            let mut tcp = tcp;
            request(&mut tcp).await;
            let _ = tcp.write_all(answer.as_bytes()).await;
            let _ = tcp.set_zero_linger();
        }
        None => converse(tcp, answer, then, log).await,
        Some(tls) => {
            if let Ok(io) = tls.accept(tcp).await {
                converse(io, answer, then, log).await;
            }
        }
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(mut io: S, answer: String, then: Then, log: Arc<Log>) {
    while let Some(text) = request(&mut io).await {
        log.requests.lock().unwrap().push(text);
        if io.write_all(answer.as_bytes()).await.is_err() || io.flush().await.is_err() {
            return;
        }
        match then {
            Then::Keep => {}
            Then::Close | Then::Reset => return,
            Then::Hang => {
                let _ = io.read_to_end(&mut Vec::new()).await;
                return log.hung_up.notify_one();
            }
            Then::Endless => loop {
                match io.write(&[b'x'; 4096]).await {
                    Ok(n) => log.written.fetch_add(n, Ordering::SeqCst),
                    Err(_) => return,
                };
            },
        }
    }
}

/// One whole request, head and body; `None` at the end of the connection.
pub async fn request<S: AsyncRead + Unpin>(io: &mut S) -> Option<String> {
    let mut got = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&got).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: "))?.parse().ok()?;
            if body.len() >= length {
                return Some(text);
            }
        }
        if io.read_buf(&mut got).await.ok()? == 0 {
            return None;
        }
    }
}
