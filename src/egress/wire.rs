//! A vetted connection, plain or TLS, and what is known of it.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
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
    answered: Arc<AtomicBool>,
}

impl Link {
    pub fn new(peer: SocketAddr, made: Phases) -> Link {
        Link { peer, made, used: Arc::default(), answered: Arc::default() }
    }

    /// The times it took to connect: for the first request only, the others did not wait for it.
    pub fn take_phases(&self) -> Phases {
        if self.used.swap(true, Ordering::Relaxed) { Phases::default() } else { self.made }
    }

    /// The head of the answer is complete.
    pub fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }
}

pub(super) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How far the answer to the request that was written last has come.
enum Head {
    /// Nothing is asked, or the head is complete.
    None,
    /// Not a byte of it has come.
    Asked,
    /// It has begun; when this ends it must be complete.
    Began(Pin<Box<Sleep>>),
}

pub(super) struct Wire {
    io: Io,
    link: Link,
    head: Head,
    head_budget: Duration,
}

impl Wire {
    pub fn new(io: Io, link: Link, head_budget: Duration) -> Wire {
        Wire { io, link, head: Head::None, head_budget }
    }

    fn asked(&mut self) {
        self.link.answered.store(false, Ordering::Relaxed);
        self.head = Head::Asked;
    }

    /// Bytes have come. An interim answer is none: what the receiver does after it may take its time.
    fn came(&mut self, bytes: &[u8]) {
        let interim =
            bytes.get(..10).is_some_and(|start| start.starts_with(b"HTTP/1.") && start.ends_with(b" 1"));
        if matches!(self.head, Head::Asked) && !bytes.is_empty() && !interim {
            self.head = Head::Began(Box::pin(sleep(self.head_budget)));
        }
    }

    /// Ends what drips its head.
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Head::Began(end) = &mut self.head else { return Ok(()) };
        if self.link.answered.load(Ordering::Relaxed) {
            self.head = Head::None;
        } else if end.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
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
        this.came(&buf.filled()[before..]);
        this.in_time(cx)?;
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.asked();
        match &mut this.io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.asked();
        match &mut this.io {
            Io::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }
}
