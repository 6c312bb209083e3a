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
    Began { end: Pin<Box<Sleep>>, interim: bool, blank: bool },
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

    /// Bytes have come. After an interim answer the wait for the real one begins anew.
    fn came(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.head {
                Head::None => return,
                Head::Asked => {
                    let end = Box::pin(sleep(self.head_budget));
                    self.head = Head::Began { end, interim: is_interim(bytes), blank: false };
                }
                Head::Began { interim, blank, .. } => {
                    let Some(length) = end_of_head(blank, bytes) else { return };
                    bytes = &bytes[length..];
                    self.head = if *interim { Head::Asked } else { Head::None };
                }
            }
        }
    }

    /// Ends what drips its head.
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Head::Began { end, .. } = &mut self.head
            && end.as_mut().poll(cx).is_ready()
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// A request is being written; its answer may come before its end.
    fn asks(&mut self) {
        if matches!(self.head, Head::None) {
            self.head = Head::Asked;
        }
    }
}

fn is_interim(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.") && head.get(8..10) == Some(b" 1")
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
        this.came(&buf.filled()[before..]);
        this.in_time(cx)?;
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.asks();
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
        this.asks();
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
