//! Sizes: of heads, of bodies, and bodies that are not what their head said.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{HOST, JSON, post, reply, request, say};
use crate::support::app::{LIMIT, Site, TestApp, both_engines};
use crate::support::ask::{Reply, raw};

both_engines! {
    a_head_that_is_too_large_is_refused,
    what_is_not_http_is_refused_like_everything_else,
    a_body_that_is_too_large_is_refused,
    a_body_that_ends_early_is_refused,
    expect_is_answered_before_the_body,
}

async fn get_with(app: &TestApp, fields: &[String]) -> Reply {
    let fields: Vec<&str> = std::iter::once(HOST).chain(fields.iter().map(String::as_str)).collect();
    say(app, "GET /livez", &fields, b"").await
}

/// `n` fields beside the three that every request here has.
fn many(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("X-{i}: x")).collect()
}

async fn a_head_that_is_too_large_is_refused(site: &Site) {
    let app = site.start().await;

    get_with(&app, &[format!("X-Much: {}", "x".repeat(31 * 1024))]).await.ok(200);
    get_with(&app, &many(61)).await.ok(200);

    for size in [33 * 1024, 90 * 1024, 100 * 1024, 1024 * 1024] {
        let reply = get_with(&app, &[format!("X-Much: {}", "x".repeat(size))]).await;
        reply.refused(431, "header-too-large", "");
    }
    for fields in [62, 200, 300, 2_000] {
        get_with(&app, &many(fields)).await.refused(431, "header-too-large", "");
    }
    for length in [33 * 1024, 70 * 1024] {
        let line = format!("GET /{}", "x".repeat(length));
        say(&app, &line, &[HOST], b"").await.refused(431, "header-too-large", "");
    }
}

async fn what_is_not_http_is_refused_like_everything_else(site: &Site) {
    let app = site.start().await;
    let two_lengths =
        request(&app, "POST /v1/jobs", &[HOST, JSON, "Content-Length: 2", "Content-Length: 3"], b"{}");
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        &two_lengths,
    ];
    for bytes in garbage {
        let seen = raw(app.addr, bytes, "\0never").await;
        let problem = reply(&String::from_utf8_lossy(bytes), &seen).refused(400, "invalid-request", "");
        assert!(problem["requestId"].as_str().unwrap().starts_with("req_"), "{problem}");
    }
    app.get("/livez").await.ok(200);
}

async fn a_body_that_is_too_large_is_refused(site: &Site) {
    let app = site.start().await;
    let fits = |size: usize| format!("{{\"type\":\"t\",\"input\":\"{}\"}}", "x".repeat(size - 23));
    let largest = fits(256 * 1024);
    assert_eq!(largest.len(), 256 * 1024);

    let over = fits(256 * 1024 + 1);
    post(&app, "/v1/jobs", over.as_bytes()).await.refused(413, "payload-too-large", "");
    // Announced and never sent: the announcement is enough.
    let announced = say(&app, "POST /v1/jobs", &[HOST, JSON, "Content-Length: 99999999999"], b"").await;
    announced.refused(413, "payload-too-large", "");
    // Not announced, in chunks.
    let chunk = [b"10000\r\n", "x".repeat(0x10000).as_bytes(), b"\r\n"].concat().repeat(5);
    let chunked = say(&app, "POST /v1/jobs", &[HOST, JSON, "Transfer-Encoding: chunked"], &chunk).await;
    chunked.refused(413, "payload-too-large", "");
    let batch = say(&app, "POST /v1/jobs/batch", &[HOST, JSON, "Content-Length: 4194305"], b"").await;
    batch.refused(413, "payload-too-large", "");
    app.holds_no_job().await;

    post(&app, "/v1/jobs", largest.as_bytes()).await.ok(202);
}

/// Sends bytes, ends its side of the connection, and reads what comes.
async fn cut_off(app: &TestApp, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(app.addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut seen = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut seen)).await.expect("the end").unwrap();
    String::from_utf8(seen).unwrap()
}

async fn a_body_that_ends_early_is_refused(site: &Site) {
    let app = site.start().await;

    // A whole submission, but two bytes less than announced: it must not be taken.
    let short = request(&app, "POST /v1/jobs", &[HOST, JSON, "Content-Length: 14"], b"{\"type\":\"t\"}");
    reply("short", &cut_off(&app, &short).await).refused(400, "invalid-request", "");
    let chunks = b"c\r\n{\"type\":\"t\"}\r\n";
    let open = request(&app, "POST /v1/jobs", &[HOST, JSON, "Transfer-Encoding: chunked"], chunks);
    reply("no last chunk", &cut_off(&app, &open).await).refused(400, "invalid-request", "");

    app.holds_no_job().await;
    let closed = [&open[..], b"0\r\n\r\n"].concat();
    reply("whole", &raw(app.addr, &closed, "\0never").await).ok(202);
}

async fn expect_is_answered_before_the_body(site: &Site) {
    let app = site.start().await;
    let fields = [HOST, JSON, "Expect: 100-continue", "Content-Length: 12"];
    let mut stream = TcpStream::connect(app.addr).await.unwrap();

    stream.write_all(&request(&app, "POST /v1/jobs", &fields, b"")).await.unwrap();

    let mut seen = vec![0; 25];
    timeout(LIMIT, stream.read_exact(&mut seen)).await.expect("no hang").unwrap();
    assert_eq!(String::from_utf8(seen).unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{\"type\":\"t\"}").await.unwrap();
    let mut rest = String::new();
    timeout(LIMIT, stream.read_to_string(&mut rest)).await.expect("no hang").unwrap();
    reply("after 100", &rest).ok(202);

    // What would be refused anyway is refused at once: the body is not asked for.
    let refused = [HOST, JSON, "Expect: 100-continue", "Content-Length: 300000"];
    let seen = raw(app.addr, &request(&app, "POST /v1/jobs", &refused, b""), "\0never").await;
    assert!(seen.starts_with("HTTP/1.1 413 "), "{seen}");
}
