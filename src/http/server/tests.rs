//! Deadlines of the accept loop over real loopback sockets. Nothing here sleeps to be on the safe side:
//! what must end is awaited under a generous deadline, what must stay open is watched for a short one.

use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(60);

struct Running {
    addr: SocketAddr,
    metrics: Metrics,
    shutdown: CancellationToken,
    done: JoinHandle<()>,
}

async fn start(options: ServerOptions, router: Router) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (metrics, shutdown) = (Metrics::new(), CancellationToken::new());
    let done = tokio::spawn(serve(listener, router, metrics.clone(), options, shutdown.clone()));
    Running { addr, metrics, shutdown, done }
}

fn hello() -> Router {
    Router::new().route(
        "/",
        get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { format!("hello {}", peer.ip()) }),
    )
}

fn quick() -> ServerOptions {
    ServerOptions { head: SHORT, idle: LONG, stall: SHORT, ..ServerOptions::default() }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// Reads up to and with the text that every answer of [`hello`] ends with.
async fn read_hello(client: &mut TcpStream) {
    let mut seen = Vec::new();
    while !seen.ends_with(b"hello 127.0.0.1") {
        let n = timeout(SOON, client.read_buf(&mut seen)).await.unwrap().unwrap();
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&seen));
    }
}

/// Waits for the server to close, and gives what it still said.
async fn closed(client: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is as good an end as a clean one.
    let _ = timeout(SOON, client.read_to_end(&mut rest)).await.expect("the server must close");
    rest
}

const CONNECTED: &str = "ringback_http_connections 1";

/// Waits until the server's figures have that line.
async fn shows(server: &Running, line: &str) {
    let shown = async {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        while !server.metrics.render_with(&[]).lines().any(|shown| shown == line) {
            tick.tick().await;
        }
    };
    timeout(SOON, shown).await.unwrap_or_else(|_| panic!("the figures never say {line}"));
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let server = start(quick(), hello()).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    assert!(closed(&mut client).await.is_empty());
}

#[tokio::test]
async fn a_head_that_drips_is_closed() {
    let server = start(quick(), hello()).await;
    let client = TcpStream::connect(server.addr).await.unwrap();
    let (mut read, mut write) = client.into_split();
    let drip = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        for byte in b"GET / HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'a')) {
            tick.tick().await;
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    });
    let mut rest = Vec::new();
    let _ = timeout(SOON, read.read_to_end(&mut rest)).await.expect("the server must close");
    drip.abort();
}

#[tokio::test]
async fn between_requests_a_client_may_be_idle_longer_than_a_head_may_take() {
    let server = start(quick(), hello()).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    for _ in 0..2 {
        client.write_all(REQUEST).await.unwrap();
        read_hello(&mut client).await;
        let mut one = [0];
        assert!(timeout(2 * SHORT, client.read(&mut one)).await.is_err(), "closed while idle");
    }
    // The next head has begun, and now it must be quick.
    client.write_all(b"GET /").await.unwrap();
    closed(&mut client).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_the_end() {
    let options = ServerOptions { head: LONG, idle: SHORT, ..quick() };
    let server = start(options, hello()).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    read_hello(&mut client).await;
    assert!(closed(&mut client).await.is_empty());
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_dropped() {
    let big = Router::new().route("/", get(|| async { vec![b'x'; 64 << 20] }));
    let server = start(quick(), big).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    shows(&server, CONNECTED).await;
    shows(&server, "ringback_http_connections 0").await;
}

#[tokio::test]
async fn a_waiting_handler_is_not_taken_for_silence() {
    let go = Arc::new(Notify::new());
    let inner = go.clone();
    let slow = Router::new().route(
        "/",
        get(|| async move {
            inner.notified().await;
            "hello 127.0.0.1"
        }),
    );
    let server = start(quick(), slow).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    let mut one = [0];
    assert!(timeout(2 * SHORT, client.read(&mut one)).await.is_err(), "closed while the handler works");
    go.notify_one();
    read_hello(&mut client).await;
}

#[tokio::test]
async fn stopping_lets_requests_end_and_closes_the_door() {
    let go = Arc::new(Notify::new());
    let inner = go.clone();
    let slow = Router::new().route(
        "/",
        get(|| async move {
            inner.notified().await;
            "hello 127.0.0.1"
        }),
    );
    let server = start(ServerOptions::default(), slow).await;
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    let mut one = [0];
    assert!(timeout(SHORT, client.read(&mut one)).await.is_err());
    server.shutdown.cancel();
    closed(&mut idle).await;
    go.notify_one();
    read_hello(&mut client).await;
    closed(&mut client).await;
    timeout(SOON, server.done).await.expect("serve must return").unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut() {
    let stuck = Router::new().route("/", get(std::future::pending::<&'static str>));
    let server = start(ServerOptions { drain: SHORT, ..ServerOptions::default() }, stuck).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    let mut one = [0];
    assert!(timeout(SHORT, client.read(&mut one)).await.is_err());
    server.shutdown.cancel();
    timeout(SOON, server.done).await.expect("serve must return").unwrap();
    closed(&mut client).await;
}

#[tokio::test]
async fn a_full_server_serves_the_next_one_when_a_place_is_free() {
    let server = start(ServerOptions { connections: 1, ..ServerOptions::default() }, hello()).await;
    let mut first = TcpStream::connect(server.addr).await.unwrap();
    first.write_all(REQUEST).await.unwrap();
    read_hello(&mut first).await;
    let mut second = TcpStream::connect(server.addr).await.unwrap();
    second.write_all(REQUEST).await.unwrap();
    let mut one = [0];
    assert!(timeout(SHORT, second.read(&mut one)).await.is_err(), "served beyond the cap");
    drop(first);
    read_hello(&mut second).await;
}

/// Where `/stream` answers without an end, made of what comes through the channel.
fn endless(frames: tokio::sync::mpsc::Receiver<&'static str>) -> Router {
    let frames = Arc::new(tokio::sync::Mutex::new(frames));
    let handler = async move || {
        let body = futures_util::stream::unfold(frames.clone().lock_owned().await, |mut frames| async move {
            let frame = frames.recv().await?;
            Some((Ok::<_, Infallible>(frame), frames))
        });
        (axum::Extension(Endless), Body::from_stream(body))
    };
    hello().route("/stream", get(handler))
}

const STREAM: &[u8] = b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n";

/// Reads until the text ends so, and gives it.
async fn read_to(client: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        let n = timeout(SOON, client.read_buf(&mut seen)).await.unwrap().unwrap();
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&seen));
    }
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn an_endless_answer_comes_as_it_is_made_and_holds_its_place() {
    let (frames, receiver) = tokio::sync::mpsc::channel(1);
    let server = start(quick(), endless(receiver)).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    read_hello(&mut client).await;
    client.write_all(STREAM).await.unwrap();
    let head = read_to(&mut client, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    for field in ["transfer-encoding: chunked", "connection: close", "date: "] {
        assert_eq!(head.matches(field).count(), 1, "{head}");
    }
    for frame in ["one", "a second one"] {
        frames.send(frame).await.unwrap();
        let wanted = format!("{:x}\r\n{frame}\r\n", frame.len());
        assert_eq!(read_to(&mut client, &wanted).await, wanted);
    }
    // What the client says meanwhile is not heard and does no harm; neither does its silence.
    client.write_all(REQUEST).await.unwrap();
    let mut one = [0];
    assert!(timeout(2 * SHORT, client.read(&mut one)).await.is_err(), "closed while it rests");
    shows(&server, CONNECTED).await;
    drop(frames);
    assert_eq!(closed(&mut client).await, b"0\r\n\r\n");
    shows(&server, "ringback_http_connections 0").await;
}

#[tokio::test]
async fn a_client_that_leaves_an_endless_answer_frees_its_place() {
    let (_frames, receiver) = tokio::sync::mpsc::channel(1);
    let server = start(quick(), endless(receiver)).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(STREAM).await.unwrap();
    read_to(&mut client, "\r\n\r\n").await;
    drop(client);
    shows(&server, "ringback_http_connections 0").await;
}

#[tokio::test]
async fn a_stream_whose_client_takes_nothing_is_cut() {
    let flood = || async {
        let body = futures_util::stream::repeat_with(|| Ok::<_, Infallible>(vec![b'x'; 64 << 10]));
        (axum::Extension(Endless), Body::from_stream(body))
    };
    let server = start(quick(), Router::new().route("/stream", get(flood))).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(STREAM).await.unwrap();
    shows(&server, "ringback_slow_readers_total 1").await;
    shows(&server, "ringback_http_connections 0").await;
}

#[tokio::test]
async fn what_was_asked_before_an_endless_answer_is_written_out_first() {
    let (frames, receiver) = tokio::sync::mpsc::channel(1);
    let big = get(|| async { vec![b'x'; 16 << 20] });
    let server = start(ServerOptions::default(), endless(receiver).route("/big", big)).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(&[b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n", STREAM].concat()).await.unwrap();
    drop(frames);
    let all = closed(&mut client).await;
    assert_eq!(all.iter().filter(|byte| **byte == b'x').count(), 16 << 20);
    assert!(all.ends_with(b"\r\n\r\n0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&all[all.len() - 200..]));
}

#[tokio::test]
async fn who_does_not_know_chunks_gets_an_endless_answer_up_to_the_close() {
    let (frames, receiver) = tokio::sync::mpsc::channel(1);
    let server = start(quick(), endless(receiver)).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(b"GET /stream HTTP/1.0\r\nhost: x\r\n\r\n").await.unwrap();
    frames.send("one").await.unwrap();
    drop(frames);
    let all = String::from_utf8(closed(&mut client).await).unwrap();
    assert!(all.ends_with("\r\n\r\none") && !all.contains("chunked"), "{all}");
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(b"HEAD /stream HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let head = read_to(&mut client, "\r\n\r\n").await;
    assert!(!head.contains("connection: close"), "{head}");
    client.write_all(REQUEST).await.unwrap();
    read_hello(&mut client).await;
}
