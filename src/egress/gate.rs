//! The last check before the first byte, and the trail of how far an attempt came.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::{BootTime, Drip};
use crate::types::delivery::{Phase, Phases};

/// How far one attempt came. Connector, request body and caller hold it together, because the future that
/// would tell is dropped when the deadline passes.
#[derive(Debug, Default)]
pub(super) struct Trail(Mutex<Steps>);

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Steps {
    pub phase: Phase,
    pub phases: Phases,
    pub dialled: Option<SocketAddr>,
    written: Option<BootTime>,
}

impl Trail {
    pub fn steps(&self) -> Steps {
        *self.lock()
    }

    /// Marks that `phase` has begun. Phases only move forward: a connection that is still being made in the
    /// background, after a pooled one was taken, changes nothing any more.
    pub fn enter(&self, phase: Phase) {
        let mut steps = self.lock();
        steps.phase = steps.phase.max(phase);
    }

    pub fn dialling(&self, address: SocketAddr) {
        self.lock().dialled = Some(address);
    }

    /// Writes down how long a part of the connection took.
    pub fn note(&self, set: impl FnOnce(&mut Phases)) {
        set(&mut self.lock().phases);
    }

    fn writing(&self) {
        self.lock().written = Some(BootTime::now());
        self.enter(Phase::Head);
    }

    /// The response head is complete; answers the time since the request was written.
    pub fn answered(&self) -> Option<Duration> {
        self.enter(Phase::Body);
        self.lock().written.map(|at| BootTime::now().since(at))
    }

    fn lock(&self) -> MutexGuard<'_, Steps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whole milliseconds, as stored.
pub(super) fn ms(d: Duration) -> Option<u32> {
    Some(u32::try_from(d.as_millis()).unwrap_or(u32::MAX))
}

/// A request body that opens only while the lease lasts.
///
/// hyper buffers the head, asks the body for its first frame, and only then writes to the socket (as long as
/// the head is smaller than its 16 KiB buffer); an error here closes the connection with nothing written. It
/// is the latest place to look at the clock: name look-up, connecting and the queue of the connection task
/// are behind us. A body without bytes is never asked for, but a callback always has some.
pub(super) struct Gated {
    pub data: Option<Bytes>,
    pub not_after: BootTime,
    pub trail: Arc<Trail>,
    /// In pieces, for who wants to see what a slow sender meets.
    pub drip: Option<Drip>,
    pub pause: Option<Pin<Box<Sleep>>>,
}

impl Body for Gated {
    type Data = Bytes;
    type Error = LeaseRanOut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LeaseRanOut>>> {
        let this = self.get_mut();
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        let Some(mut data) = this.data.take() else { return Poll::Ready(None) };
        if BootTime::now() >= this.not_after {
            return Poll::Ready(Some(Err(LeaseRanOut)));
        }
        this.trail.writing();
        if let Some(drip) = this.drip.filter(|drip| drip.piece < data.len()) {
            this.data = Some(data.split_off(drip.piece));
            this.pause = Some(Box::pin(tokio::time::sleep(drip.pause)));
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.data.as_ref().map_or(0, Bytes::len);
        SizeHint::with_exact(u64::try_from(left).unwrap_or(u64::MAX))
    }
}

/// The lease ran out before anything was written.
#[derive(Debug)]
pub(super) struct LeaseRanOut;

impl fmt::Display for LeaseRanOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lease ran out")
    }
}

impl std::error::Error for LeaseRanOut {}
