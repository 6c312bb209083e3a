//! The way on: the same bytes and headers to another URL, and its answer back.

use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::super::exit::Usage;
use crate::egress::{self, Answer, BootTime, Limits, Sender};
use crate::types::Millis;
use crate::types::delivery::Outcome;
use crate::types::target::{CallbackUrl, UrlPolicy};

/// As long as the service waits.
const DEADLINE: Duration = Duration::from_secs(15);
/// The largest answer that is passed back, in bytes; the service reads less.
const ANSWER_MAX: usize = 1 << 20;
/// Belongs to one connection and not to the message (RFC 9110, 7.6.1), or is written anew.
const HOP: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Where webhooks are passed on to.
pub struct Forward {
    url: CallbackUrl,
    sender: Sender,
}

impl Forward {
    /// Any host and port: who types the URL vouches for it.
    pub fn to(url: &str) -> anyhow::Result<Forward> {
        let host = url::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
        let policy = UrlPolicy {
            allow_http: true,
            allow_hosts: host.into_iter().collect(),
            dev: true,
            ..UrlPolicy::default()
        };
        let url = CallbackUrl::check(url, &policy).map_err(|e| Usage(format!("--forward-to: {e}")))?;
        let sender = Sender::new(egress::Options { policy, ..egress::Options::default() });
        Ok(Forward { url, sender: sender.context("cannot set up the sender")? })
    }

    /// Sends it on once and gives the answer, 502 if there is none.
    pub async fn pass_on(&self, headers: &HeaderMap, body: Bytes, now: Millis) -> Response {
        let mut sent = headers.clone();
        HOP.iter().for_each(|name| drop(sent.remove(*name)));
        let limits = Limits {
            deadline: DEADLINE,
            not_after: BootTime::now().plus(DEADLINE),
            answer: Answer::Whole(ANSWER_MAX),
        };
        let exchange = self.sender.post(&self.url, sent, body, limits, now).await;
        match exchange.outcome {
            Outcome::Answered { status, .. } => back(status, &exchange.headers, exchange.body),
            Outcome::Failed(fault) => {
                let why = format!("{} did not answer: {fault}\n", self.url);
                back(502, &[("content-type".to_owned(), "text/plain".to_owned())], why.into())
            }
        }
    }
}

fn back(status: u16, headers: &[(String, String)], body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    for (name, value) in headers.iter().filter(|(name, _)| !HOP.contains(&name.as_str())) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}
