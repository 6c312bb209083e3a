//! Clients of streams: server-sent events and WebSocket, each wait with a deadline.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::app::{LIMIT, TestApp};
use super::ask::http;

/// What an event stream tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    Event { id: i64, kind: String, data: Value },
    Retry(u64),
    Comment,
}

/// An open stream of server-sent events.
pub struct Sse {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    text: String,
    limit: Duration,
}

impl Sse {
    /// Asks as a client that was at `last` before; None for a first time.
    pub async fn open(app: &TestApp, job: &str, last: Option<i64>) -> Sse {
        let fields = last.map(|last| ("last-event-id", last.to_string()));
        Sse::ask(app, &format!("/v1/jobs/{job}/events"), Some(&app.key), fields).await
    }

    pub async fn ask(
        app: &TestApp,
        path: &str,
        key: Option<&str>,
        more: impl IntoIterator<Item = (&str, String)>,
    ) -> Sse {
        let mut request = Request::get(format!("{}{path}", app.url)).header("accept", "text/event-stream");
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in more {
            request = request.header(name, value);
        }
        // A client of its own: dropping the stream closes its connection.
        let answer = http().request(request.body(Full::new(Bytes::new())).unwrap());
        let (head, body) = timeout(LIMIT, answer).await.expect("a head in time").unwrap().into_parts();
        Sse { status: head.status.as_u16(), headers: head.headers, body, text: String::new(), limit: LIMIT }
    }

    /// Waits longer for what comes seldom.
    pub fn patient(mut self) -> Sse {
        self.limit = Duration::from_secs(30);
        self
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// The next item; None at a clean end.
    pub async fn next(&mut self) -> Option<Item> {
        self.block().await.map(|block| item(&block))
    }

    /// The next lines up to an empty one; None at a clean end.
    pub async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Some(block);
            }
            let frame = timeout(self.limit, self.body.frame()).await;
            match frame.unwrap_or_else(|_| panic!("nothing in {:?} after {:?}", self.limit, self.text)) {
                None => {
                    assert_eq!(self.text, "", "an event is sent whole or not at all");
                    return None;
                }
                Some(frame) => {
                    let bytes = frame.expect("a clean stream").into_data().unwrap();
                    self.text.push_str(std::str::from_utf8(&bytes).unwrap());
                }
            }
        }
    }

    /// The next event, past comments and hints.
    pub async fn event(&mut self) -> Option<(i64, String, Value)> {
        loop {
            match self.next().await? {
                Item::Event { id, kind, data } => return Some((id, kind, data)),
                Item::Retry(_) | Item::Comment => {}
            }
        }
    }

    /// The sequences of the next `n` events.
    pub async fn sequences(&mut self, n: usize) -> Vec<i64> {
        let mut seen = Vec::new();
        while seen.len() < n {
            seen.push(self.event().await.unwrap_or_else(|| panic!("{n} events, not {seen:?}")).0);
        }
        seen
    }

    /// The sequences up to the end of the stream.
    pub async fn rest(&mut self) -> Vec<i64> {
        let mut seen = Vec::new();
        while let Some((id, _, _)) = self.event().await {
            seen.push(id);
        }
        seen
    }
}

fn item(block: &str) -> Item {
    if block.starts_with(':') {
        return Item::Comment;
    }
    if let Some(ms) = block.strip_prefix("retry: ") {
        return Item::Retry(ms.parse().unwrap());
    }
    let field = |name: &str| {
        let lines: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix(name)).collect();
        lines.join("\n")
    };
    let data = serde_json::from_str(&field("data: ")).unwrap_or_else(|e| panic!("{e}: {block}"));
    Item::Event { id: field("id: ").parse().unwrap(), kind: field("event: "), data }
}

/// A WebSocket with the subprotocol.
pub struct Socket(WebSocketStream<TcpStream>, String);

impl Socket {
    pub async fn open(app: &TestApp) -> Socket {
        Socket::ask(app, "/v1/ws", Some(&app.key)).await.expect("an upgrade")
    }

    /// The error is the status of a refusal.
    pub async fn ask(app: &TestApp, path: &str, key: Option<&str>) -> Result<Socket, u16> {
        let stream = TcpStream::connect(app.addr).await.unwrap();
        Socket::on(stream, app, path, key).await
    }

    /// With room for little, so that a client that does not read is soon noticed.
    pub async fn narrow(app: &TestApp) -> Socket {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let stream = socket.connect(app.addr).await.unwrap();
        Socket::on(stream, app, "/v1/ws", Some(&app.key)).await.unwrap()
    }

    async fn on(stream: TcpStream, app: &TestApp, path: &str, key: Option<&str>) -> Result<Socket, u16> {
        let mut request = format!("ws://{}{path}", app.addr).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "other, ringback.v1".parse().unwrap());
        if let Some(key) = key {
            request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        }
        let opened = tokio_tungstenite::client_async(request, stream);
        match timeout(LIMIT, opened).await.expect("an answer in time") {
            Ok((socket, answer)) => {
                assert_eq!(answer.headers()["sec-websocket-protocol"], "ringback.v1");
                let request = answer.headers()["request-id"].to_str().unwrap().to_owned();
                Ok(Socket(socket, request))
            }
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(e) => panic!("{e}"),
        }
    }

    /// The `Request-Id` of its opening.
    pub fn request_id(&self) -> &str {
        &self.1
    }

    pub async fn say(&mut self, message: Value) {
        self.text(&message.to_string()).await;
    }

    pub async fn text(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    pub async fn send(&mut self, message: Message) {
        timeout(LIMIT, self.0.send(message)).await.expect("sent in time").unwrap();
    }

    pub async fn subscribe(&mut self, jobs: &[&str], after: Value) {
        self.say(json!({"op": "subscribe", "jobIds": jobs, "after": after})).await;
    }

    /// The next frame, whatever it is.
    pub async fn frame(&mut self, limit: Duration) -> Message {
        let message = timeout(limit, self.0.next()).await.expect("a message in time");
        message.expect("a close before the end").expect("a clean connection")
    }

    /// The next message as it was sent; the error is the code of the close.
    pub async fn line(&mut self) -> Result<String, u16> {
        loop {
            match self.frame(LIMIT).await {
                Message::Text(text) => return Ok(text.to_string()),
                Message::Close(frame) => return Err(frame.map_or(1005, |f| f.code.into())),
                _ => {}
            }
        }
    }

    /// The next message; the error is the code of the close.
    pub async fn next(&mut self) -> Result<Value, u16> {
        Ok(serde_json::from_str(&self.line().await?).unwrap())
    }

    /// The next message, which is an event: its job and sequence.
    pub async fn event(&mut self) -> (String, i64) {
        let message = self.next().await.expect("an event, not a close");
        assert_eq!(message["op"], "event", "{message}");
        assert_eq!(message["jobId"], message["data"]["jobId"], "{message}");
        (message["jobId"].as_str().unwrap().to_owned(), message["sequence"].as_i64().unwrap())
    }

    /// The next message, which is an error: its problem.
    pub async fn error(&mut self) -> Value {
        let message = self.next().await.expect("an error, not a close");
        assert_eq!(message["op"], "error", "{message}");
        message["problem"].clone()
    }

    /// The code that the node closes with; what comes before is thrown away.
    pub async fn closed(&mut self) -> u16 {
        loop {
            if let Err(code) = self.next().await {
                return code;
            }
        }
    }

    /// Says goodbye and waits for the answer.
    pub async fn leave(mut self) {
        self.0.close(None).await.unwrap();
        while let Ok(Some(Ok(_))) = timeout(LIMIT, self.0.next()).await {}
    }
}
