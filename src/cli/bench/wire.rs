//! One kept-alive HTTP/1.1 connection: the cheapest honest client, so that the driver costs little.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// No answer takes longer, long polls included.
const DEADLINE: Duration = Duration::from_secs(60);

/// After a 503, which asks for a second.
const RETRY: Duration = Duration::from_secs(1);
/// 503s in a row, after which nothing good is to be expected.
const TRIES: u32 = 10;

/// One connection to one server, as one key.
pub struct Wire {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    key: Option<HeaderValue>,
}

impl Wire {
    /// Connects to `http://ADDR`; `key` is the API key.
    pub async fn open(base: &str, key: Option<&str>) -> anyhow::Result<Wire> {
        let authority = base.strip_prefix("http://").context("benchmarks speak plain http")?;
        let addr: SocketAddr = authority.parse().context("benchmarks speak to an address and a port")?;
        let stream = TcpStream::connect(addr).await.with_context(|| format!("cannot connect to {addr}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the sender.
        tokio::spawn(connection);
        let key = key.map(|key| HeaderValue::from_str(&format!("Bearer {key}"))).transpose()?;
        Ok(Wire { sender, host: HeaderValue::from_str(authority)?, key })
    }

    /// One request and its whole answer.
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Response<Bytes>> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.host.clone());
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key.clone());
        }
        request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = request.body(Full::new(body.into()))?;
        let exchange = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            Ok::<_, hyper::Error>(Response::from_parts(head, body.collect().await?.to_bytes()))
        };
        let answer = tokio::time::timeout(DEADLINE, exchange).await;
        Ok(answer.with_context(|| format!("{path}: no answer"))??)
    }

    /// The same, where only a 2xx will do. A 503 is no more than a wait: it is asked again, and the time counts.
    pub async fn must(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Bytes> {
        let body = body.into();
        let mut tries = 0;
        loop {
            let answer = self.ask(method.clone(), path, body.clone()).await?;
            let (status, bytes) = (answer.status(), answer.into_body());
            if status == StatusCode::SERVICE_UNAVAILABLE && tries < TRIES {
                tries += 1;
                tokio::time::sleep(RETRY).await;
                continue;
            }
            ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&bytes));
            return Ok(bytes);
        }
    }
}
