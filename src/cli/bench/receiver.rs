//! The receiver of a benchmark: verifies each signature, tells how long each callback took, and misbehaves where it
//! is asked to.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::super::exit::Exit;
use super::super::print::Out;
use super::super::sign::SecretText;
use super::super::stop;
use super::figures::{Spread, micros};
use crate::clock::Clock;
use crate::types::signature::{self, Secret, TOLERANCE_SECONDS};

/// A receiver on loopback that verifies and counts, until SIGTERM.
///
/// `/figures` answers what it saw, `/count` only how many deliveries, `/reset` begins anew. A path that begins with `/black-hole` is never answered,
/// `/slow-body` gets its answer a byte a second, `/busy` gets 429; all else gets 200, `/after/MS` so many milliseconds later.
#[derive(Debug, clap::Args)]
pub struct ReceiverArgs {
    /// Where it listens; port 0 picks one.
    #[arg(long, env = "RINGBACK_LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The secret that signs; without one nothing is verified.
    #[arg(long, env = "RINGBACK_SECRET", hide_env_values = true)]
    secret: Option<SecretText>,
}

/// What a receiver saw since it began or was reset.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// Deliveries, each counted once.
    pub deliveries: usize,
    /// Requests beyond the first of a delivery.
    pub repeats: usize,
    /// Requests whose signature does not hold.
    pub bad_signatures: usize,
    /// From the worker's report to the receiver.
    pub done_to_seen: Option<Spread>,
    /// From the client's submission to the receiver.
    pub submitted_to_seen: Option<Spread>,
    /// The most requests that were under way at once.
    pub most_in_flight: usize,
    /// The most requests that began within any one second.
    pub busiest_second: usize,
    /// How many requests began in each of the first seconds after the reset.
    pub first_seconds: Vec<usize>,
}

/// Seconds that are told one by one.
const FIRST: usize = 10;
const SECOND: u64 = 1_000_000;

/// Where a receiver listens, as its first line says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    /// `http://ADDR`.
    pub listening: String,
}

#[derive(Default)]
struct Log {
    ids: HashSet<Bytes>,
    repeats: usize,
    bad_signatures: usize,
    done: Vec<Duration>,
    submitted: Vec<Duration>,
    in_flight: usize,
    most_in_flight: usize,
    /// When it was reset, and when each request since began; microseconds.
    since: u64,
    began: Vec<u64>,
}

struct Shared {
    secret: Option<Secret>,
    log: Mutex<Log>,
}

/// Runs `ringback bench receiver`.
pub async fn run(args: ReceiverArgs, out: Out) -> anyhow::Result<ExitCode> {
    let stop = stop::on_signal()?;
    let secret = args.secret.as_ref().and_then(SecretText::given).map(Secret::parse).transpose()?;
    let shared = Arc::new(Shared { secret, log: Mutex::default() });
    let listener = TcpListener::bind(args.listen).await.context("cannot listen")?;
    let ready = Ready { listening: format!("http://{}", listener.local_addr()?) };
    if out.json {
        out.value(&ready)?;
    }
    out.say(&format!("listening on {}", ready.listening))?;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            () = stop.cancelled() => return Ok(Exit::Done.into()),
        };
        stream.set_nodelay(true)?;
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| answer(Arc::clone(&shared), request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let began = micros();
    let Ok(body) = body.collect().await else { return Ok(plain(StatusCode::BAD_REQUEST, Bytes::new())) };
    let now = micros();
    Ok(match head.uri.path() {
        "/figures" => plain(StatusCode::OK, shared.figures()),
        "/count" => plain(StatusCode::OK, shared.log().ids.len().to_string().into()),
        "/reset" => {
            *shared.log() = Log { since: micros(), ..Log::default() };
            plain(StatusCode::OK, Bytes::new())
        }
        path if path.starts_with("/black-hole") => {
            // Longer than any attempt may take; the sender gives up first.
            tokio::time::sleep(Duration::from_secs(120)).await;
            plain(StatusCode::OK, Bytes::new())
        }
        path if path.starts_with("/slow-body") => slow(),
        path if path.starts_with("/busy") => plain(StatusCode::TOO_MANY_REQUESTS, Bytes::new()),
        path => {
            shared.log().begin(began);
            shared.take(&head.headers, &body.to_bytes(), now);
            if let Some(wait) = path.strip_prefix("/after/").and_then(|ms| ms.parse().ok()) {
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            shared.log().end();
            plain(StatusCode::OK, Bytes::new())
        }
    })
}

fn plain(status: StatusCode, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// A minute of one byte a second.
fn slow() -> Answer {
    let drip = futures_util::stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let frame = hyper::body::Frame::data(Bytes::from_static(b"."));
        (n < 60).then_some((Ok::<_, Infallible>(frame), n + 1))
    });
    Response::new(http_body_util::StreamBody::new(drip).boxed_unsync())
}

impl Shared {
    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, headers: &HeaderMap, body: &[u8], now: u64) {
        let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let id = header("webhook-id");
        let good = self.secret.as_ref().is_none_or(|secret| {
            let (at, tag) = (header("webhook-timestamp"), header("webhook-signature"));
            let secrets = std::slice::from_ref(secret);
            let wall = Clock::wall().seconds();
            signature::verify(secrets, id, at, tag, body, wall, TOLERANCE_SECONDS).is_ok()
        });
        let text = str::from_utf8(body).unwrap_or_default();
        let (done, submitted) = (stamp(text, "\"doneAtMicros\":"), stamp(text, "\"submittedAtMicros\":"));
        let mut log = self.log();
        if !good {
            log.bad_signatures += 1;
        } else if !log.ids.insert(Bytes::copy_from_slice(id.as_bytes())) {
            log.repeats += 1;
        } else {
            log.done.extend(done.map(|at| since(at, now)));
            log.submitted.extend(submitted.map(|at| since(at, now)));
        }
    }

    fn figures(&self) -> Bytes {
        let log = self.log();
        let seen = Seen {
            deliveries: log.ids.len(),
            repeats: log.repeats,
            bad_signatures: log.bad_signatures,
            done_to_seen: Spread::of(log.done.clone()),
            submitted_to_seen: Spread::of(log.submitted.clone()),
            most_in_flight: log.most_in_flight,
            busiest_second: busiest_second(&log.began),
            first_seconds: first_seconds(log.since, &log.began),
        };
        serde_json::to_vec(&seen).unwrap_or_default().into()
    }
}

impl Log {
    fn begin(&mut self, at: u64) {
        self.began.push(at);
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
    }

    /// Of a request that may have begun before a reset.
    fn end(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }
}

/// The most of these moments that lie within one second, wherever it begins.
fn busiest_second(began: &[u64]) -> usize {
    let mut began = began.to_vec();
    began.sort_unstable();
    let within = |first: usize| began.partition_point(|at| *at < began[first] + SECOND) - first;
    (0..began.len()).map(within).max().unwrap_or(0)
}

fn first_seconds(since: u64, began: &[u64]) -> Vec<usize> {
    let mut seconds = vec![0; FIRST];
    for at in began {
        let second = usize::try_from(at.saturating_sub(since) / SECOND).unwrap_or(usize::MAX);
        if let Some(n) = seconds.get_mut(second) {
            *n += 1;
        }
    }
    seconds
}

fn since(then: u64, now: u64) -> Duration {
    Duration::from_micros(now.saturating_sub(then))
}

/// The number behind `name`, without reading the rest of the body: this must cost next to nothing.
fn stamp(body: &str, name: &str) -> Option<u64> {
    let digits = &body[body.find(name)? + name.len()..];
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_may_begin_anywhere() {
        let began = [0, 900_000, 1_100_000, 1_899_999, 1_900_000, 9_500_000, 60_000_000];
        assert_eq!((busiest_second(&began), busiest_second(&[])), (3, 0));
        assert_eq!(first_seconds(0, &began), [2, 3, 0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_stamp_is_read_from_the_midst_of_a_body() {
        assert_eq!(stamp(r#"{"a":1,"doneAtMicros":123,"b":2}"#, "\"doneAtMicros\":"), Some(123));
        assert_eq!(stamp(r#"{"doneAtMicros":7"#, "\"doneAtMicros\":"), Some(7));
        assert_eq!(stamp(r#"{"doneAtMicros":"x"}"#, "\"doneAtMicros\":"), None);
        assert_eq!(stamp("{}", "\"doneAtMicros\":"), None);
    }
}
