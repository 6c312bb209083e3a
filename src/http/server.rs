//! Our own accept loop: every silence has a deadline, every crowd a bound, and stopping is graceful.
//!
//! `axum::serve` installs no timer, and hyper's auto builder never closes a silent connection (both
//! measured), so connections are served by hyper's HTTP/1 builder behind [`deadlines::Guarded`].

mod deadlines;
mod endless;
mod refusal;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, UpgradeableConnection};
use hyper::service::HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::Service;

use crate::metrics::Metrics;
use deadlines::{Guarded, Phase, Watched};
pub use endless::Endless;
use endless::Exit;

/// Limits of the accept loop.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at once; further ones wait in the kernel's queue.
    pub connections: usize,
    /// From accept, or from the first byte of a later request, to the end of the head.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// How long a client may take nothing of an answer.
    pub stall: Duration,
    /// How long requests under way may go on once the service stops.
    pub drain: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            connections: 10_000,
            head: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            drain: Duration::from_secs(20),
        }
    }
}

/// Serves until `shutdown`, then lets requests under way end, for [`ServerOptions::drain`] at most.
///
/// The peer's address stands in the request's extensions as `ConnectInfo<SocketAddr>`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    metrics: Metrics,
    options: ServerOptions,
    shutdown: CancellationToken,
) {
    let options = Arc::new(options);
    let places = Arc::new(Semaphore::new(options.connections));
    let open = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            () = shutdown.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                recover(&e).await;
                continue;
            }
        };
        // Nobody closes it.
        let Ok(place) = place else { break };
        let seat = Seat::take(metrics.clone(), place, open.token());
        let client = Client { peer, seat };
        let conn = connection(stream, client, router.clone(), options.clone(), shutdown.clone());
        let cut = cut.clone();
        open.spawn(async move {
            tokio::select! { () = conn => {}, () = cut.cancelled() => {} }
        });
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(options.drain, open.wait()).await.is_err() {
        tracing::warn!(connections = open.len(), "requests under way did not end in time and were cut");
        cut.cancel();
    }
}

/// A connection's place. It is free again when the last holder is done with it.
///
/// An upgraded connection outlives the one that hyper serves, so its task holds the place too: it is counted,
/// and a stop waits for it.
#[derive(Clone)]
pub struct Seat {
    taken: Arc<Taken>,
}

struct Taken {
    metrics: Metrics,
    _place: OwnedSemaphorePermit,
    _open: TaskTrackerToken,
}

impl Seat {
    fn take(metrics: Metrics, place: OwnedSemaphorePermit, open: TaskTrackerToken) -> Seat {
        metrics.connected();
        Seat { taken: Arc::new(Taken { metrics, _place: place, _open: open }) }
    }

    /// Counts a stream whose client took nothing for too long.
    fn cut_short(&self, e: &io::Error) {
        if e.kind() == io::ErrorKind::TimedOut {
            self.taken.metrics.read_too_slowly();
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.metrics.disconnected();
    }
}

/// Who is at the other end, and on which place.
struct Client {
    peer: SocketAddr,
    seat: Seat,
}

/// A client that went away is its own affair; a lack of file handles is given time to pass.
async fn recover(e: &std::io::Error) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if matches!(e.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
        return;
    }
    tracing::error!(error = %e, "cannot accept connections");
    tokio::time::sleep(Duration::from_millis(200)).await;
}

async fn connection(
    stream: TcpStream,
    client: Client,
    router: Router,
    options: Arc<ServerOptions>,
    shutdown: CancellationToken,
) {
    // Small answers must not wait for the client's acknowledgement of the ones before.
    let _ = stream.set_nodelay(true);
    let (phase, exit, seat) = (Phase::default(), Exit::default(), client.seat.clone());
    let service = answers(client, router, phase.clone(), exit.clone());
    let mut conn = open(Guarded::new(stream, phase, options.clone()), service, &options);
    let ended = tokio::select! {
        ended = exit.watch(&mut conn) => ended,
        () = shutdown.cancelled() => {
            std::pin::Pin::new(&mut *conn).graceful_shutdown();
            exit.watch(&mut conn).await
        }
    };
    let ended = match ended {
        Ok(ended) => ended.map_err(io::Error::other),
        // All of hyper's is dropped here, and what the client said too early.
        Err(response) => match conn.into_parts().map(|parts| parts.io.into_inner()) {
            Some(io) => endless::send(io, response).await.inspect_err(|e| seat.cut_short(e)),
            None => Ok(()),
        },
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "connection ended");
    }
}

/// What answers the requests of one connection.
fn answers(
    client: Client,
    router: Router,
    phase: Phase,
    exit: Exit,
) -> impl HttpService<Incoming, ResBody = Watched, Error = Infallible, Future: Send> + Send {
    hyper::service::service_fn(move |request: http::Request<Incoming>| {
        phase.begin();
        let leaves = Exit::is_open_to(&request);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(client.peer));
        request.extensions_mut().insert(client.seat.clone());
        let answer = router.clone().call(request);
        let (phase, exit) = (phase.clone(), exit.clone());
        async move {
            let response = answer.await?;
            if leaves && response.extensions().get::<Endless>().is_some() {
                return exit.leave(response).await;
            }
            if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
                phase.upgrade();
            }
            Ok::<_, Infallible>(response.map(|body| Watched::new(body, phase)))
        }
    })
}

/// A connection in hyper's hands. Boxed, so that nothing of it is left once it is gone.
fn open<S>(
    io: Guarded,
    service: S,
    options: &ServerOptions,
) -> Box<UpgradeableConnection<TokioIo<Guarded>, S>>
where
    S: HttpService<Incoming, ResBody = Watched, Error = Infallible>,
{
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // A backstop: `Guarded` closes earlier in every case it can see.
        .header_read_timeout(options.idle + options.head)
        // Above our own limits, so that our layer answers with a problem before hyper answers with none.
        .max_headers(256)
        .max_header_size(96 * 1024)
        .max_buf_size(128 * 1024)
        .half_close(false);
    Box::new(builder.serve_connection(TokioIo::new(io), service).with_upgrades())
}
