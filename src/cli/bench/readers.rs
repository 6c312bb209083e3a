//! Clients that follow one job each.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Message, protocol::WebSocketConfig};

use crate::types::JobId;
use crate::types::api::SUBPROTOCOL;

/// How a client follows a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Server-sent events.
    Sse,
    /// WebSocket.
    Websocket,
}

/// The longest until an opened stream has told its first event.
const FIRST: Duration = Duration::from_secs(60);

/// One key may open a hundred sockets a second; those that are opened at a time stay below it with this pause.
const BETWEEN_SOCKETS: Duration = Duration::from_millis(400);

/// The number of a reader, and when it read an event after the first.
pub type Read = (usize, Instant);

/// Everything a reader has to know.
#[derive(Clone)]
pub struct Opening {
    /// `host:port`.
    pub authority: String,
    /// The API key.
    pub key: String,
    /// Where reads are told.
    pub reads: mpsc::UnboundedSender<Read>,
}

impl Opening {
    /// Opens a stream and reads its first event; the others are read in a task of its own.
    pub async fn open(&self, kind: Kind, number: usize, job: JobId) -> anyhow::Result<()> {
        let opened = match kind {
            Kind::Sse => timeout(FIRST, self.sse(number, job)).await,
            Kind::Websocket => {
                tokio::time::sleep(BETWEEN_SOCKETS).await;
                timeout(FIRST, self.socket(number, job)).await
            }
        };
        opened.context("a stream did not tell its first event")?
    }

    async fn sse(&self, number: usize, job: JobId) -> anyhow::Result<()> {
        let stream = TcpStream::connect(&self.authority).await?;
        let (mut connection, io) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(io);
        let request = http::Request::get(format!("/v1/jobs/{job}/events"))
            .header("host", &self.authority)
            .header("accept", "text/event-stream")
            .header("authorization", format!("Bearer {}", self.key))
            .body(Empty::<Bytes>::new())?;
        let answer = connection.send_request(request).await?;
        ensure!(answer.status() == 200, "a stream is refused: {}", answer.status());
        let (mut body, mut text) = (answer.into_body(), Vec::new());
        while events(&mut text) == 0 {
            let frame = body.frame().await.context("a stream ended early")??;
            text.extend(frame.into_data().unwrap_or_default());
        }
        let reads = self.reads.clone();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                text.extend(frame.into_data().unwrap_or_default());
                for _ in 0..events(&mut text) {
                    let _ = reads.send((number, Instant::now()));
                }
            }
        });
        Ok(())
    }

    async fn socket(&self, number: usize, job: JobId) -> anyhow::Result<()> {
        let mut request = format!("ws://{}/v1/ws", self.authority).into_client_request()?;
        let fields = request.headers_mut();
        fields.insert("authorization", HeaderValue::from_str(&format!("Bearer {}", self.key))?);
        fields.insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
        let stream = TcpStream::connect(&self.authority).await?;
        let config = WebSocketConfig::default().read_buffer_size(2048);
        let (mut socket, _) =
            tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await?;
        let wish = serde_json::json!({"op": "subscribe", "jobIds": [job]});
        socket.send(Message::text(wish.to_string())).await?;
        let first = socket.next().await.context("a socket ended early")??;
        ensure!(first.to_text()?.contains("\"op\":\"event\""), "a subscription is refused: {first}");
        let reads = self.reads.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() {
                    let _ = reads.send((number, Instant::now()));
                }
            }
        });
        Ok(())
    }
}

/// Takes the whole items from `text` and gives how many of them are events.
fn events(text: &mut Vec<u8>) -> usize {
    let Some(end) = text.windows(2).rposition(|two| two == b"\n\n") else { return 0 };
    let whole: Vec<u8> = text.drain(..end + 2).collect();
    whole.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"event:")).count()
}
