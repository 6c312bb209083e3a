//! Every silence has a deadline: 5 s for a head, 10 s for a body.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, timeout};

use super::{HOST, JSON, reply, request};
use crate::support::app::{LIMIT, Site, TestApp, both_engines};

both_engines! { every_silence_has_a_deadline }

const HEAD: (f32, f32) = (4.5, 6.0);
const BODY: (f32, f32) = (9.5, 11.5);

/// Sends `begin`, then one byte of `drip` a second, and reads to the end: what came, and after how long.
async fn end_of(app: &TestApp, begin: &[u8], drip: &[u8]) -> (String, f32) {
    let stream = TcpStream::connect(app.addr).await.unwrap();
    end_on(stream, begin, drip).await
}

/// The same on a connection that was used before.
async fn end_on(stream: TcpStream, begin: &[u8], drip: &[u8]) -> (String, f32) {
    let (mut read, mut write) = stream.into_split();
    let began = Instant::now();
    write.write_all(begin).await.unwrap();
    let dripping = async {
        let mut tick = interval(Duration::from_secs(1));
        for byte in drip {
            tick.tick().await;
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut seen = Vec::new();
    // A reset is as good an end as a clean one.
    let reading = async {
        let _ = read.read_to_end(&mut seen).await;
    };
    let end = async {
        tokio::select! { () = reading => {}, () = dripping => {} }
    };
    let what = String::from_utf8_lossy(begin);
    timeout(LIMIT, end).await.unwrap_or_else(|_| panic!("the node must close: {what}"));
    (String::from_utf8_lossy(&seen).into_owned(), began.elapsed().as_secs_f32())
}

/// A connection on which one request was answered.
async fn used(app: &TestApp) -> TcpStream {
    let mut stream = TcpStream::connect(app.addr).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"{}}") {
        assert!(timeout(LIMIT, stream.read_buf(&mut seen)).await.unwrap().unwrap() > 0);
    }
    stream
}

#[track_caller]
fn within((from, to): (f32, f32), took: f32, what: &str) {
    assert!(from < took && took < to, "{what} took {took} s");
}

async fn every_silence_has_a_deadline(site: &Site) {
    let app = site.start().await;
    let used = used(&app).await;
    let announced = request(&app, "POST /v1/jobs", &[HOST, JSON, "Content-Length: 50"], b"");
    let chunked = request(&app, "POST /v1/jobs", &[HOST, JSON, "Transfer-Encoding: chunked"], b"c\r\n{");

    let (silent, half, drip, later, body, slow, open) = tokio::join!(
        end_of(&app, b"", b""),
        end_of(&app, b"GET /livez HTTP/1.1\r\nHost: x", b""),
        end_of(&app, b"GET /livez HTTP/1.1\r\nX: ", b"drip-drip-drip-drip"),
        end_on(used, b"GET /livez HTT", b""),
        end_of(&app, &announced, b""),
        end_of(&app, &announced, b"{\"type\":\"t\",\"ref\":\"slowly\"}"),
        end_of(&app, &chunked, b""),
    );

    let heads = [
        ("silence", silent),
        ("half a head", half),
        ("a dripping head", drip),
        ("half a second head", later),
    ];
    for (what, (seen, took)) in heads {
        assert_eq!(seen, "", "{what}");
        within(HEAD, took, what);
    }
    for (what, (seen, took)) in [("no body", body), ("a dripping body", slow), ("half a chunk", open)] {
        let refused = reply(what, &seen);
        refused.refused(408, "request-timeout", "");
        assert_eq!(refused.header("connection"), "close", "{what}");
        within(BODY, took, what);
    }
    app.holds_no_job().await;
}
