//! One post: from a checked URL to all that is kept of the attempt.

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::iter::successors;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::{Connector, NoConnection, TRAIL};
use super::gate::{Gated, LeaseRanOut, Trail, ms};
use super::guard::Guard;
use super::wire::Link;
use super::{Answer, BootTime, Drip, HEAD_MAX, IDLE_MAX, IDLE_PER_ORIGIN, Limits, Options, SetupError};
use crate::types::Millis;
use crate::types::delivery::{Exchange, Fault, Outcome, Phase};
use crate::types::retry::RetryAfter;
use crate::types::target::CallbackUrl;

/// Sends callbacks under one egress policy; clones share its connections.
#[derive(Clone)]
pub struct Sender {
    client: Client<Connector, Gated>,
}

/// What an attempt has gathered so far; outlives the attempt when its deadline passes.
#[derive(Default)]
struct Seen {
    trail: Arc<Trail>,
    capture: Option<CaptureConnection>,
    first_byte_ms: Option<u32>,
    headers: Vec<(String, String)>,
    body: BytesMut,
}

/// What is sent, and how long it may be.
struct Parcel<'a> {
    url: &'a CallbackUrl,
    headers: HeaderMap,
    body: Bytes,
    limits: Limits,
    now: Millis,
    drip: Option<Drip>,
}

impl Sender {
    /// Reads the resolver configuration and builds the pool; opens no socket.
    pub fn new(options: Options) -> Result<Sender, SetupError> {
        let budgets = options.budgets();
        let guard = Guard::new(options.policy, options.names)?;
        let connector = Connector::new(guard, options.extra_roots, budgets)?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_PER_ORIGIN)
            .retry_canceled_requests(false)
            // At most 100 header fields is what hyper reads by default; saying so would cost an allocation
            // per answer.
            .http1_max_buf_size(HEAD_MAX)
            .build(connector);
        Ok(Sender { client })
    }

    /// Posts once and tells all; there is no error beside the [`Outcome`].
    ///
    /// `Host` and `Content-Length` are added to `headers`, nothing else. `now` is what a date in `Retry-After`
    /// is counted from. An answer counts once its head is complete, even if its body then breaks off or is
    /// longer than what is read, unless [`Answer::Whole`] is wanted; but a deadline that passes before the end
    /// of the body is a failure.
    pub async fn post(
        &self,
        url: &CallbackUrl,
        headers: HeaderMap,
        body: Bytes,
        limits: Limits,
        now: Millis,
    ) -> Exchange {
        self.send(Parcel { url, headers, body, limits, now, drip: None }).await
    }

    /// The same with a body that comes in pieces.
    pub async fn post_slowly(
        &self,
        url: &CallbackUrl,
        (headers, body): (HeaderMap, Bytes),
        drip: Drip,
        limits: Limits,
        now: Millis,
    ) -> Exchange {
        self.send(Parcel { url, headers, body, limits, now, drip: Some(drip) }).await
    }

    async fn send(&self, parcel: Parcel<'_>) -> Exchange {
        let start = BootTime::now();
        let mut seen = Seen::default();
        let deadline = parcel.limits.deadline;
        let attempt = self.attempt(&parcel, &mut seen);
        let outcome = match tokio::time::timeout(deadline, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed(Fault::Timeout(seen.trail.steps().phase)),
        };
        seen.close(outcome, start)
    }

    async fn attempt(&self, parcel: &Parcel<'_>, seen: &mut Seen) -> Outcome {
        if BootTime::now() >= parcel.limits.not_after {
            return Outcome::Failed(Fault::LeaseRanOut);
        }
        let mut answer = self.request(parcel, seen).await;
        if answer.as_ref().is_err_and(never_written) {
            // The peer closed an idle connection in the moment it was taken from the pool. Nothing was
            // written, so a second go is still the same, single request.
            answer = self.request(parcel, seen).await;
        }
        match answer {
            Ok(answer) => seen.read(answer, parcel.limits.answer, parcel.now).await,
            Err(error) => Outcome::Failed(fault(&error)),
        }
    }

    async fn request(&self, parcel: &Parcel<'_>, seen: &mut Seen) -> Result<Response<Incoming>, Error> {
        seen.trail = Arc::default();
        let mut request = Request::new(Gated {
            data: Some(parcel.body.clone()),
            not_after: parcel.limits.not_after,
            trail: Arc::clone(&seen.trail),
            drip: parcel.drip,
            pause: None,
        });
        *request.method_mut() = Method::POST;
        *request.uri_mut() = parcel.url.uri();
        *request.headers_mut() = parcel.headers.clone();
        seen.capture = Some(capture_connection(&mut request));
        TRAIL.scope(Arc::clone(&seen.trail), self.client.request(request)).await
    }
}

impl Seen {
    async fn read(&mut self, answer: Response<Incoming>, wanted: Answer, now: Millis) -> Outcome {
        self.first_byte_ms = self.trail.answered().and_then(ms);
        let (head, mut body) = answer.into_parts();
        let shown = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
        self.headers = head.headers.iter().map(|(name, v)| (name.to_string(), shown(v))).collect();
        let (most, kept) = wanted.bounds();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                if wanted != Answer::Glance && head.status.is_success() {
                    return Outcome::Failed(Fault::Reset);
                }
                break;
            };
            let data = frame.data_ref().map_or(&[][..], |d| d);
            read += data.len();
            let room = kept - self.body.len();
            self.body.extend_from_slice(&data[..data.len().min(room)]);
            if read >= most {
                break;
            }
        }
        let steer = head.headers.get_all("webhook-delivery").iter();
        Outcome::Answered {
            status: head.status.as_u16(),
            retry_after: head.headers.get("retry-after").and_then(|v| RetryAfter::parse(v.as_bytes(), now)),
            abort: steer.into_iter().any(|v| v.as_bytes().trim_ascii().eq_ignore_ascii_case(b"abort")),
        }
    }

    fn close(self, outcome: Outcome, start: BootTime) -> Exchange {
        let steps = self.trail.steps();
        let link = self.capture.as_ref().and_then(link);
        let mut phases = link.as_ref().map_or(steps.phases, Link::take_phases);
        phases.first_byte_ms = self.first_byte_ms;
        Exchange {
            outcome,
            phases,
            duration: BootTime::now().since(start),
            address: link.map(|l| l.peer).or(steps.dialled),
            headers: self.headers,
            body: self.body.freeze(),
        }
    }
}

fn link(capture: &CaptureConnection) -> Option<Link> {
    let mut extras = http::Extensions::new();
    capture.connection_metadata().as_ref()?.get_extras(&mut extras);
    extras.remove::<Link>()
}

fn chain(error: &Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let first: &(dyn StdError + 'static) = error;
    successors(Some(first), |cause| {
        let cause = *cause;
        cause.source()
    })
}

/// hyper calls a request canceled only if it hands it back untouched.
fn never_written(error: &Error) -> bool {
    chain(error).filter_map(|e| e.downcast_ref::<hyper::Error>()).any(hyper::Error::is_canceled)
}

fn fault(error: &Error) -> Fault {
    for cause in chain(error) {
        if let Some(NoConnection(fault)) = cause.downcast_ref() {
            return *fault;
        }
        if cause.is::<LeaseRanOut>() {
            return Fault::LeaseRanOut;
        }
        // The wire gave up on the head.
        match cause.downcast_ref().map(std::io::Error::kind) {
            Some(ErrorKind::TimedOut) => return Fault::Timeout(Phase::Head),
            Some(ErrorKind::QuotaExceeded) => return Fault::BadResponse,
            Some(_) | None => {}
        }
    }
    match chain(error).find_map(|e| e.downcast_ref::<hyper::Error>()) {
        Some(e) if e.is_parse_too_large() => Fault::ResponseTooLarge,
        Some(e) if e.is_parse() => Fault::BadResponse,
        _ => Fault::Reset,
    }
}
