//! The deadlines of one connection, by what it is doing.
//!
//! hyper's one header deadline counts idle time and the head together, so it cannot be 5 s for the one and
//! 30 s for the other. This wrapper of the socket knows which of the two it is.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::{ServerOptions, refusal};

/// What the connection is doing. Shared by its socket, its service and the body of its answer.
#[derive(Clone, Default)]
pub struct Phase(Arc<State>);

#[derive(Default)]
struct State {
    now: AtomicU8,
    /// An answer of ours is owed or not yet written out; what else is written is hyper's own.
    answering: AtomicBool,
}

/// A head is awaited or has begun to come.
const HEAD: u8 = 0;
/// A request is being answered; the body deadline and the handlers' own ones count.
const BUSY: u8 = 1;
/// Between two requests.
const IDLE: u8 = 2;
/// Another protocol's for good: whoever speaks it keeps its own deadlines, and only writes that stall end it.
const UPGRADED: u8 = 3;

impl Phase {
    /// A head has come.
    pub fn begin(&self) {
        self.set(BUSY);
        self.0.answering.store(true, Ordering::Relaxed);
    }

    /// The connection leaves HTTP with this answer.
    pub fn upgrade(&self) {
        self.set(UPGRADED);
    }

    fn now(&self) -> u8 {
        self.0.now.load(Ordering::Relaxed)
    }

    fn set(&self, phase: u8) {
        if self.now() != UPGRADED {
            self.0.now.store(phase, Ordering::Relaxed);
        }
    }

    /// hyper flushes after its last byte.
    fn flushed(&self) {
        if !matches!(self.now(), BUSY | UPGRADED) {
            self.0.answering.store(false, Ordering::Relaxed);
        }
    }

    fn answering(&self) -> bool {
        self.0.answering.load(Ordering::Relaxed)
    }
}

/// A running deadline and the phase it belongs to.
type Alarm = Option<(u8, Pin<Box<Sleep>>)>;

/// A socket that reports an error once its phase has lasted too long.
pub struct Guarded {
    stream: TcpStream,
    phase: Phase,
    options: Arc<ServerOptions>,
    reading: Alarm,
    writing: Alarm,
    /// What is left of an answer that goes out in the place of hyper's.
    instead: Option<Bytes>,
}

impl Guarded {
    /// Starts the deadline of the first head.
    pub fn new(stream: TcpStream, phase: Phase, options: Arc<ServerOptions>) -> Guarded {
        let first = Some((HEAD, Box::pin(tokio::time::sleep(options.head))));
        Guarded { stream, phase, options, reading: first, writing: None, instead: None }
    }

    /// Ready once the deadline of the phase has passed.
    fn overdue(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let phase = self.phase.now();
        let limit = match phase {
            BUSY | UPGRADED => {
                self.reading = None;
                return Poll::Pending;
            }
            IDLE => self.options.idle,
            _ => self.options.head,
        };
        ring(&mut self.reading, phase, limit, cx)
    }
}

/// Lets the alarm of `phase` run, a new one if another phase's was running.
fn ring(alarm: &mut Alarm, phase: u8, limit: Duration, cx: &mut Context<'_>) -> Poll<io::Error> {
    let sleep = match alarm {
        Some((of, sleep)) if *of == phase => sleep,
        other => &mut other.insert((phase, Box::pin(tokio::time::sleep(limit)))).1,
    };
    ready!(sleep.as_mut().poll(cx));
    Poll::Ready(io::ErrorKind::TimedOut.into())
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if let Poll::Ready(e) = me.overdue(cx) {
            return Poll::Ready(Err(e));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut me.stream).poll_read(cx, buf))?;
        // The first byte after a pause begins a head, and that must be quick.
        if buf.filled().len() > before && me.phase.now() == IDLE {
            me.phase.set(HEAD);
        }
        Poll::Ready(Ok(()))
    }
}

impl Guarded {
    /// Passes a write's outcome on, but not a wait that lasts too long.
    fn written(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if wrote.is_ready() {
            self.writing = None;
            return wrote;
        }
        let limit = self.options.stall;
        ring(&mut self.writing, BUSY, limit, cx).map(Err)
    }

    /// Whether `theirs` is hyper's own refusal, for which ours has to go out.
    fn replaces(&mut self, theirs: &[u8]) -> bool {
        if self.instead.is_none() && !self.phase.answering() {
            self.instead = refusal::instead_of(theirs);
        }
        self.instead.is_some()
    }

    /// Writes ours; hyper hears that its own `length` bytes are out.
    fn refuse(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<usize>> {
        while let Some(left) = self.instead.as_mut().filter(|left| left.has_remaining()) {
            let wrote = Pin::new(&mut self.stream).poll_write(cx, left);
            let n = match wrote {
                Poll::Ready(Ok(n)) => n,
                other => return self.written(cx, other),
            };
            left.advance(n);
        }
        self.writing = None;
        self.instead = None;
        Poll::Ready(Ok(length))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        if me.replaces(buf) {
            return me.refuse(cx, buf.len());
        }
        let wrote = Pin::new(&mut me.stream).poll_write(cx, buf);
        me.written(cx, wrote)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        if me.replaces(bufs.first().map_or(&[], |first| first)) {
            return me.refuse(cx, bufs.iter().map(|buf| buf.len()).sum());
        }
        let wrote = Pin::new(&mut me.stream).poll_write_vectored(cx, bufs);
        me.written(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        ready!(Pin::new(&mut me.stream).poll_flush(cx))?;
        me.phase.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// The body of an answer; when hyper lets go of it the connection is idle.
pub struct Watched {
    body: Body,
    phase: Phase,
}

impl Watched {
    /// Watches `body`.
    pub fn new(body: Body, phase: Phase) -> Watched {
        Watched { body, phase }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.phase.set(IDLE);
    }
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
