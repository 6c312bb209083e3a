//! A callback endpoint on loopback that does what it is told and keeps what it got.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use tokio::sync::Notify;

/// One request as it came in.
#[derive(Debug, Clone)]
pub struct Received {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default()
    }

    pub fn webhook_id(&self) -> &str {
        self.header("webhook-id")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// What the official library would sign this request with.
    pub fn signature_of(&self, secret: &str) -> String {
        let timestamp = self.header("webhook-timestamp").parse().unwrap();
        let webhook = standardwebhooks::Webhook::new(secret).unwrap();
        webhook.sign(self.webhook_id(), timestamp, &self.body).unwrap()
    }

    /// Verifies the signature with the official library.
    pub fn verify(&self, secret: &str) {
        let webhook = standardwebhooks::Webhook::new(secret).unwrap();
        webhook.verify(&self.body, &self.headers).unwrap_or_else(|e| panic!("{e}: {self:?}"));
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub enum Answer {
    Status(u16),
    With(u16, Vec<(&'static str, String)>),
    /// The same with a body.
    Body(u16, Vec<(&'static str, String)>, Bytes),
    /// A body without an end.
    Endless(u16),
    /// A body that begins and never goes on.
    Stall(u16),
    /// Does not answer until [`Receiver::let_go`]; the connection stays open.
    Hang,
}

#[derive(Default)]
struct Shared {
    log: Mutex<Vec<Received>>,
    /// Per path: answers in order, the last one for ever. 200 where nothing is told.
    scripts: Mutex<HashMap<String, Vec<Answer>>>,
    news: Notify,
    go: Notify,
}

/// Stops with its last handle's runtime.
#[derive(Clone)]
pub struct Receiver {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Receiver {
    pub async fn start() -> Receiver {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let router = Router::new().fallback(receive).with_state(shared.clone());
        tokio::spawn(async move { axum_serve(listener, router).await });
        Receiver { addr, shared }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub fn script(&self, path: &str, answers: Vec<Answer>) {
        self.shared.scripts.lock().unwrap().insert(path.to_owned(), answers);
    }

    /// Answers what hangs now with 200.
    pub fn let_go(&self) {
        self.shared.go.notify_waiters();
    }

    pub fn log(&self) -> Vec<Received> {
        self.shared.log.lock().unwrap().clone()
    }

    pub fn at(&self, path: &str) -> Vec<Received> {
        self.log().into_iter().filter(|r| r.path == path).collect()
    }

    /// Waits until `n` requests came to `path`, with a deadline that tells what did come.
    pub async fn wait(&self, path: &str, n: usize, limit: Duration) -> Vec<Received> {
        let until = tokio::time::Instant::now() + limit;
        loop {
            let news = self.shared.news.notified();
            let got = self.at(path);
            if got.len() >= n {
                return got;
            }
            if tokio::time::timeout_at(until, news).await.is_err() {
                let all: Vec<_> = self.log().into_iter().map(|r| r.path).collect();
                panic!("{} of {n} requests to {path} in {limit:?}; all: {all:?}", got.len());
            }
        }
    }
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().to_owned();
    let answer = {
        let mut scripts = shared.scripts.lock().unwrap();
        match scripts.get_mut(&path) {
            None => Answer::Status(200),
            Some(script) if script.len() > 1 => script.remove(0),
            Some(script) => script.first().cloned().unwrap_or(Answer::Status(200)),
        }
    };
    let go = shared.go.notified();
    shared.log.lock().unwrap().push(Received { method, path, headers, body });
    shared.news.notify_waiters();
    match answer {
        Answer::Status(status) => respond(status, vec![], Body::empty()),
        Answer::With(status, headers) => respond(status, headers, Body::empty()),
        Answer::Body(status, headers, body) => respond(status, headers, body.into()),
        Answer::Endless(status) => respond(status, vec![], Body::from_stream(stream::repeat(chunk()))),
        Answer::Stall(status) => {
            let once = stream::iter([chunk()]).chain(stream::pending());
            respond(status, vec![], Body::from_stream(once))
        }
        Answer::Hang => {
            go.await;
            respond(200, vec![], Body::empty())
        }
    }
}

fn chunk() -> Result<Bytes, std::convert::Infallible> {
    Ok(Bytes::from_static(&[b'x'; 1_024]))
}

fn respond(status: u16, headers: Vec<(&'static str, String)>, body: Body) -> Response {
    let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

async fn axum_serve(listener: tokio::net::TcpListener, router: Router) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        });
    }
}
