//! Raw HTTP/1.1 to a node: nothing is followed, retried or interpreted.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub type Http = hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>;

pub fn http() -> Http {
    hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http()
}

/// A request under construction; `.await` sends it.
pub struct Ask {
    http: Http,
    request: http::request::Builder,
    key: Option<String>,
    body: Bytes,
}

impl Ask {
    pub fn new(http: &Http, method: &str, url: &str, key: &str) -> Ask {
        let request = Request::builder().method(method).uri(url);
        Ask { http: http.clone(), request, key: Some(key.to_owned()), body: Bytes::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Ask {
        self.request = self.request.header(name, value);
        self
    }

    /// Another key or token than the node's own.
    pub fn key(mut self, key: &str) -> Ask {
        self.key = Some(key.to_owned());
        self
    }

    pub fn nobody(mut self) -> Ask {
        self.key = None;
        self
    }

    pub fn json(self, body: &Value) -> Ask {
        self.text("application/json", body.to_string())
    }

    pub fn text(self, content_type: &str, body: impl Into<Bytes>) -> Ask {
        let mut ask = self.header("content-type", content_type);
        ask.body = body.into();
        ask
    }
}

impl IntoFuture for Ask {
    type Output = Reply;
    type IntoFuture = Pin<Box<dyn Future<Output = Reply> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut request = self.request;
            if let Some(key) = self.key {
                request = request.header("authorization", format!("Bearer {key}"));
            }
            let request = request.body(Full::new(self.body)).unwrap();
            let asked = format!("{} {}", request.method(), request.uri());
            let answer = tokio::time::timeout(Duration::from_secs(30), self.http.request(request));
            let (head, body) = answer.await.expect("an answer in 30 s").expect("an answer").into_parts();
            let body = body.collect().await.expect("a whole answer").to_bytes();
            Reply { asked, status: head.status.as_u16(), headers: head.headers, body }
        })
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub asked: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// The JSON of an answer with that status.
    #[track_caller]
    pub fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {self:?}", self.asked);
        assert!(self.header("request-id").starts_with("req_"), "{self:?}");
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// The document of a refusal: its shape, its code, and where it points ("" for nowhere).
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str, pointer: &str) -> Value {
        assert_eq!(self.status, status, "{}: {self:?}", self.asked);
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{self:?}");
        assert_eq!(problem["status"], status);
        assert!(problem["type"].as_str().unwrap().ends_with(code), "{problem}");
        assert!(problem["title"].is_string(), "{problem}");
        assert_eq!(problem["requestId"], self.header("request-id"));
        let at = problem["errors"][0]["pointer"].as_str().unwrap_or_default();
        assert_eq!(at, pointer, "{self:?}");
        assert_eq!(matches!(status, 429 | 503), !self.header("retry-after").is_empty() && status > 409);
        problem
    }
}

/// Sends bytes as they stand and reads until the node closes or `enough` was seen.
pub async fn raw(addr: SocketAddr, bytes: &[u8], enough: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    // The node may refuse and close before it has read all.
    let _ = stream.write_all(bytes).await;
    let mut seen = Vec::new();
    let read = async {
        let mut chunk = [0; 4096];
        while let Ok(n) = stream.read(&mut chunk).await {
            seen.extend_from_slice(&chunk[..n]);
            if n == 0 || String::from_utf8_lossy(&seen).contains(enough) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("an answer or the end in 20 s");
    String::from_utf8_lossy(&seen).into_owned()
}
