//! A vetted connection, plain or TLS, and what is known of it.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::client::TlsStream;

use crate::types::delivery::Phases;

/// What a connection hands back with each of its answers.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub peer: SocketAddr,
    made: Phases,
    used: Arc<AtomicBool>,
}

impl Link {
    pub fn new(peer: SocketAddr, made: Phases) -> Link {
        Link { peer, made, used: Arc::default() }
    }

    /// The times it took to connect: for the first request only, the others did not wait for it.
    pub fn take_phases(&self) -> Phases {
        if self.used.swap(true, Ordering::Relaxed) { Phases::default() } else { self.made }
    }
}

pub(super) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How far the head of the answer to the last request has come.
enum Head {
    /// None is waited for.
    None,
    /// Not a byte of it has come.
    Asked,
    /// It has begun, and must be complete when `end` comes.
    Began { end: Pin<Box<Sleep>>, start: Start, blank: bool },
}

impl Head {
    /// Bytes have come. After an interim answer the wait for the real one begins anew. Gives how many of those have ended.
    fn came(&mut self, mut bytes: &[u8], budget: Duration) -> u32 {
        let mut interims = 0;
        while !bytes.is_empty() {
            match self {
                Head::None => break,
                Head::Asked => {
                    let end = Box::pin(sleep(budget));
                    *self = Head::Began { end, start: Start::default(), blank: false };
                }
                Head::Began { start, blank, .. } => {
                    if start.length == 0 {
                        // Before it may stand empty lines (RFC 9112, 2.2), which do not end it.
                        let lines = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                        bytes = &bytes[lines..];
                    }
                    let end = end_of_head(blank, bytes);
                    start.add(&bytes[..end.unwrap_or(bytes.len())]);
                    let Some(length) = end else { break };
                    bytes = &bytes[length..];
                    let is_interim = start.is_interim();
                    interims += u32::from(is_interim);
                    *self = if is_interim { Head::Asked } else { Head::None };
                }
            }
        }
        interims
    }
}

/// The first bytes of a head, as far as they have come: it may come byte by byte.
#[derive(Default)]
struct Start {
    bytes: [u8; 10],
    length: usize,
}

impl Start {
    fn add(&mut self, bytes: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(self.length).zip(bytes) {
            *place = *byte;
            self.length += 1;
        }
    }

    fn is_interim(&self) -> bool {
        self.bytes.starts_with(b"HTTP/1.") && self.bytes[8..] == *b" 1"
    }
}

/// Interim answers to one request. Each is a head of its own, with a time of its own: without end they would be a stream that
/// nothing else bounds.
const INTERIMS_MAX: u32 = 8;

/// What a receiver may take for its part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budgets {
    /// For the head of an answer, from its first byte.
    pub head: Duration,
    /// To take what is sent, from when it does not.
    pub write: Duration,
}

pub(super) struct Wire {
    io: Io,
    link: Link,
    head: Head,
    interims: u32,
    /// When all that was written has to be taken; what is taken until then does not put it off.
    untaken: Option<Pin<Box<Sleep>>>,
    budgets: Budgets,
}

impl Wire {
    pub fn new(io: Io, link: Link, budgets: Budgets) -> Wire {
        Wire { io, link, head: Head::None, interims: 0, untaken: None, budgets }
    }

    /// Ends what drips its head, or never comes to its answer.
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.interims > INTERIMS_MAX {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        if let Head::Began { end, .. } = &mut self.head
            && end.as_mut().poll(cx).is_ready()
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Ends what does not take what it is sent.
    fn taken<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_pending() {
            let budget = self.budgets.write;
            let end = self.untaken.get_or_insert_with(|| Box::pin(sleep(budget)));
            ready!(end.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }

    /// A request is being written; its answer may come before its end.
    fn asks(&mut self) {
        if matches!(self.head, Head::None) {
            (self.head, self.interims) = (Head::Asked, 0);
        }
    }
}

/// How many bytes there are up to the empty line; `blank` says whether the line so far is empty.
fn end_of_head(blank: &mut bool, bytes: &[u8]) -> Option<usize> {
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if *blank => return Some(at + 1),
            b'\n' => *blank = true,
            b'\r' => {}
            _ => *blank = false,
        }
    }
    None
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.link.clone())
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (this, before) = (self.get_mut(), buf.filled().len());
        let read = match &mut this.io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        };
        this.interims += this.head.came(&buf.filled()[before..], this.budgets.head);
        this.in_time(cx)?;
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.asks();
        let written = match &mut this.io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        };
        this.taken(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = match &mut this.io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        };
        let flushed = ready!(this.taken(cx, flushed));
        this.untaken = None;
        Poll::Ready(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let closed = match &mut this.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        };
        this.taken(cx, closed)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.asks();
        let written = match &mut this.io {
            Io::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        };
        this.taken(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_interim_answer_is_known_however_it_is_cut() {
        let asked = |head: &Head| matches!(head, Head::Asked);
        let none = |head: &Head| matches!(head, Head::None);
        for (answer, ends) in [
            ("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", asked as fn(&Head) -> bool),
            ("\r\n\r\nHTTP/1.0 100\n\n", asked),
            ("HTTP/1.1 200 OK\r\n\r\n", none),
            ("\n\nHTTP/1.1 204 No Content\r\nx: HTTP/1.1 100\r\n\r\n", none),
        ] {
            for piece in [1, 2, 9, answer.len()] {
                let mut head = Head::Asked;
                let (all, last) = answer.as_bytes().split_at(answer.len() - 1);
                all.chunks(piece).for_each(|bytes| assert_eq!(head.came(bytes, Duration::from_secs(9)), 0));
                assert!(matches!(head, Head::Began { .. }), "{answer:?} by {piece}");
                let interims = head.came(last, Duration::from_secs(9));
                assert!(ends(&head), "{answer:?} by {piece}");
                assert_eq!(interims, u32::from(asked(&head)), "{answer:?} by {piece}");
            }
        }
    }

    #[tokio::test]
    async fn who_takes_nothing_of_what_is_sent_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let (io, taker) = tokio::join!(TcpStream::connect(peer), listener.accept());
        let budgets = Budgets { head: Duration::from_secs(9), write: Duration::from_millis(100) };
        let mut wire = Wire::new(Io::Plain(io.unwrap()), Link::new(peer, Phases::default()), budgets);
        wire.write_all(b"what fits").await.unwrap();
        wire.flush().await.unwrap();
        assert!(wire.untaken.is_none(), "it was taken");
        // More than both ends of a connection keep.
        let much = vec![0; 64 << 20];
        let given_up = tokio::time::timeout(Duration::from_secs(30), wire.write_all(&much)).await.unwrap();
        assert_eq!(given_up.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(wire.write_all(&much).await.is_err(), "for good");
        drop(taker);
    }
}
