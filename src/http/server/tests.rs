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
    let gone = async {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        let (mut seen, mut open) = (false, true);
        while open {
            tick.tick().await;
            open = server.metrics.render_with(&[]).contains("ringback_http_connections 1");
            seen |= open;
            open |= !seen;
        }
    };
    timeout(SOON, gone).await.expect("the connection must be dropped");
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
