//! The HTTP client over [`crate::types::api`]: one method per verb of the API.
//!
//! The command line, the worker SDK and the tests speak to the service through it. Every request has
//! a deadline that covers the body; nothing follows a redirect or reads a proxy from the environment.

mod endpoints;
mod events;
mod shapes;
#[cfg(all(test, feature = "server"))]
mod tests;
mod verbs;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::RequestBuilder;
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;
use zeroize::Zeroizing;

use crate::types::problem::ProblemBody;

pub use endpoints::EndpointQuery;
pub use events::{FeedQuery, Follow, Told};
pub use shapes::{
    Accepted, Answer, DeadLetterQuery, DeliveryQuery, JobQuery, JobResult, LaneQuery, OutageQuery, PageQuery,
    Polled, SubmitOptions,
};

/// Why a call was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The service refused.
    #[error("{}", in_words(.0))]
    Problem(Box<ProblemBody>),
    /// No answer came, or none of the service itself; what was asked may have happened.
    #[error("cannot reach the service: {0}")]
    Unreachable(String),
    /// Something in the service's place refused with this status, such as a gateway.
    #[error("{0} without a problem document: not the service's answer")]
    Foreign(StatusCode),
    /// An answer came that cannot be read, or the request cannot be written.
    #[error("the call went wrong: {0}")]
    BadReply(String),
    /// An answer came that is larger than this client takes; what was asked has happened.
    #[error("the call went wrong: the answer has more than {0} bytes")]
    TooLarge(usize),
}

/// What a call answers.
pub type Result<T> = std::result::Result<T, Error>;

/// How long a request may take; one that waits for a job gets its wait on top.
const DEADLINE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);
/// Shorter than the service's 30 s, so that it never closes a connection that is about to be used.
const IDLE: Duration = Duration::from_secs(20);
/// The longest answer: a list of 200 jobs with 16 KiB of metadata each fits.
const ANSWER_MAX: usize = 8 << 20;
/// The same for each job of a claim: an input of 256 KiB and what stands around it.
const CLAIMED_MAX: usize = 320 << 10;

/// A handle to one service. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<Url>,
    key: Option<Arc<Zeroizing<String>>>,
}

impl Client {
    /// A client of the service at `base_url`, such as `http://127.0.0.1:8080`. Connects to nothing yet.
    pub fn new(base_url: &str, api_key: Option<&str>) -> Result<Client> {
        let base = Url::parse(base_url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let base = base.ok_or_else(|| Error::Unreachable(format!("`{base_url}` is not an http(s) URL")))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls()?)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // One call is one request: whether to repeat it is the caller's decision.
            .retry(reqwest::retry::never())
            .referer(false)
            .user_agent(concat!("ringback-client/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .timeout(DEADLINE)
            .pool_idle_timeout(IDLE)
            .build()
            .map_err(|e| Error::Unreachable(chain(&e)))?;
        let key = api_key.map(|key| Arc::new(Zeroizing::new(key.to_owned())));
        Ok(Client { http, base: Arc::new(base), key })
    }

    /// The same service with another right, such as a job's access token, over the same connections.
    pub fn with_key(&self, key: &str) -> Client {
        Client { key: Some(Arc::new(Zeroizing::new(key.to_owned()))), ..self.clone() }
    }

    /// The same service without any right, for requests that bring their own, such as a lease token.
    pub fn without_key(&self) -> Client {
        Client { key: None, ..self.clone() }
    }

    /// The base URL.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// A request with the key; every segment of the path is escaped.
    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.request_with(method, path, &[])
    }

    fn request_with(&self, method: Method, path: &[&str], query: &[(String, String)]) -> RequestBuilder {
        let mut url = Url::clone(&self.base);
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        match &self.key {
            Some(key) => request.bearer_auth(key.as_str()),
            None => request,
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T> {
        answer(self.request(Method::GET, path)).await?.json()
    }

    async fn list<T: DeserializeOwned>(&self, path: &[&str], query: &impl Serialize) -> Result<T> {
        answer(self.request_with(Method::GET, path, &pairs(query)?)).await?.json()
    }

    async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T> {
        answer(with_json(self.request(Method::POST, path), body)?).await?.json()
    }

    /// A POST that says all it has to say by its path.
    async fn poke<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T> {
        answer(self.request(Method::POST, path)).await?.json()
    }
}

/// An answer of any status.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|e| Error::BadReply(format!("{}: {e}", self.status)))
    }

    fn header(&self, name: header::HeaderName) -> Option<String> {
        self.headers.get(name)?.to_str().ok().map(str::to_owned)
    }

    /// The whole seconds of `Retry-After`; our service never sends a date.
    fn retry_after(&self) -> Option<u32> {
        self.header(header::RETRY_AFTER)?.trim().parse().ok()
    }

    fn refusal(&self) -> Error {
        if let Ok(problem) = serde_json::from_slice(&self.body) {
            return Error::Problem(Box::new(problem));
        }
        // Whatever stands before the service answers in its place, for as long as it does not get through.
        match self.status.as_u16() {
            408 | 429 | 500.. => Error::Unreachable(format!("a gateway answered {}", self.status)),
            _ => Error::Foreign(self.status),
        }
    }
}

/// What a streamed answer refuses.
async fn refusal(mut response: reqwest::Response) -> Error {
    match read(&mut response, ANSWER_MAX).await {
        Ok(body) => Reply { status: response.status(), headers: response.headers().clone(), body }.refusal(),
        Err(error) => error,
    }
}

/// Sends `request`; any answer that is not 2xx, 303 or 304 is an error.
async fn answer(request: RequestBuilder) -> Result<Reply> {
    answer_up_to(request, ANSWER_MAX).await
}

async fn answer_up_to(request: RequestBuilder, most: usize) -> Result<Reply> {
    let reply = exchange(request, most).await?;
    let fine = reply.status.is_success()
        || reply.status == StatusCode::NOT_MODIFIED
        || reply.status == StatusCode::SEE_OTHER;
    if fine { Ok(reply) } else { Err(reply.refusal()) }
}

/// A call with less patience than the request's own deadline.
pub(crate) async fn within<T>(patience: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    let silent = |_| Err(Error::Unreachable(format!("no answer within {patience:?}")));
    tokio::time::timeout(patience, call).await.unwrap_or_else(silent)
}

async fn exchange(request: RequestBuilder, most: usize) -> Result<Reply> {
    let mut response = request.send().await.map_err(unsent)?;
    let body = read(&mut response, most).await?;
    Ok(Reply { status: response.status(), headers: response.headers().clone(), body })
}

async fn read(response: &mut reqwest::Response, most: usize) -> Result<Bytes> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| Error::Unreachable(chain(&e)))? {
        if body.len() + chunk.len() > most {
            return Err(Error::TooLarge(most));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// A request that could not even be built, such as for a key with a line break in it, is not the network's fault.
fn unsent(error: reqwest::Error) -> Error {
    let text = chain(&error);
    if error.is_builder() {
        Error::BadReply(format!("cannot be sent: {text}"))
    } else {
        Error::Unreachable(text)
    }
}

fn with_json(request: RequestBuilder, body: &impl Serialize) -> Result<RequestBuilder> {
    let bytes = serde_json::to_vec(body).map_err(|e| Error::BadReply(format!("cannot be sent: {e}")))?;
    Ok(request.header(header::CONTENT_TYPE, "application/json").body(bytes))
}

/// The members of `query` as URL parameters; those without a value are left out.
fn pairs(query: &impl Serialize) -> Result<Vec<(String, String)>> {
    let value = serde_json::to_value(query).map_err(|e| Error::BadReply(format!("cannot be sent: {e}")))?;
    let serde_json::Value::Object(members) = value else { return Ok(Vec::new()) };
    let text = |value: serde_json::Value| match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Array(items) => {
            let words: Vec<&str> = items.iter().filter_map(serde_json::Value::as_str).collect();
            Some(words.join(","))
        }
        number @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => Some(number.to_string()),
        serde_json::Value::Object(_) => None,
    };
    Ok(members.into_iter().filter_map(|(name, value)| Some((name, text(value)?))).collect())
}

/// A ready configuration, because reqwest without one asks a process-wide provider and panics if there is none.
fn tls() -> Result<rustls::ClientConfig> {
    let roots = rustls::RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Unreachable(format!("TLS: {e}")))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn in_words(problem: &ProblemBody) -> String {
    let mut text = problem.detail.clone().unwrap_or_else(|| problem.title.clone());
    for error in &problem.errors {
        // The detail of a single fault repeats it.
        if !text.contains(&error.detail) {
            text.push_str(&format!("\n  {}: {}", error.pointer, error.detail));
        }
    }
    format!("{text} ({}, {})", problem.code.slug(), problem.status)
}

/// An error and what caused it; reqwest's own text ends before it says why.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
