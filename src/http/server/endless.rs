//! Answers without a foreseeable end leave hyper, which keeps 16 KiB of buffers for a connection however long it
//! rests. What is left of a stream is its socket and what it knows.

use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::{HeaderName, Method, Request, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::deadlines::Guarded;
use crate::clock::Clock;

/// Stands in the extensions of an answer that goes on for long, with pauses in it.
#[derive(Debug, Clone, Copy)]
pub struct Endless;

/// The way out of hyper for one connection: its service puts the answer here and never ends.
#[derive(Clone, Default)]
pub struct Exit(Arc<Mutex<Option<Response>>>);

impl Exit {
    /// Whether an endless answer to this request may leave: with its body, and in chunks.
    pub fn is_open_to(request: &Request<Incoming>) -> bool {
        request.method() == Method::GET && request.version() == Version::HTTP_11
    }

    /// Hands the answer over. Never returns: the connection that polls it is dropped.
    pub async fn leave<T>(&self, response: Response) -> T {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(response);
        pending().await
    }

    /// Polls the connection until it ends or an answer has left.
    ///
    /// All that was answered before is written out by then: hyper takes no further request before its flush.
    pub async fn watch<C: Future + Unpin>(&self, conn: &mut C) -> Result<C::Output, Response> {
        poll_fn(|cx| match Pin::new(&mut *conn).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Ok(ended)),
            Poll::Pending => {
                let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
                left.map_or(Poll::Pending, |response| Poll::Ready(Err(response)))
            }
        })
        .await
    }
}

/// Writes the answer as its body comes (RFC 9112, 7.1), and closes. Ends when the client leaves; one that takes
/// nothing is cut by the deadline of the socket's writes.
pub async fn send(mut io: Guarded, response: Response) -> io::Result<()> {
    let head = head(&response);
    let mut body = response.into_body();
    io.write_all(&head).await?;
    drop(head);
    let mut listens = true;
    loop {
        let frame = tokio::select! {
            biased;
            heard = hear(&mut io), if listens => {
                if heard? == 0 {
                    return Ok(());
                }
                // It was told that this is the last answer: what it still says is not for us.
                listens = false;
                continue;
            }
            frame = body.frame() => frame,
        };
        match frame {
            Some(frame) => {
                let data = frame.map_err(io::Error::other)?.into_data().unwrap_or_default();
                if !data.is_empty() {
                    io.write_all(&chunk(&data)).await?;
                }
            }
            None => break,
        }
    }
    io.write_all(b"0\r\n\r\n").await?;
    io.shutdown().await
}

async fn hear(io: &mut Guarded) -> io::Result<usize> {
    io.read(&mut [0; 8]).await
}

/// The head as hyper would write it, but for the end of the connection.
fn head(response: &Response<Body>) -> Vec<u8> {
    let now = u64::try_from(Clock::wall().0).unwrap_or_default();
    let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_millis(now));
    let status = response.status();
    let framing = [
        (header::DATE, date.as_str()),
        (header::CONNECTION, "close"),
        (header::TRANSFER_ENCODING, "chunked"),
    ];
    let mut head = format!("HTTP/1.1 {status}\r\n").into_bytes();
    let mut field = |name: &HeaderName, value: &[u8]| {
        head.extend([name.as_str().as_bytes(), b": ", value, b"\r\n"].concat());
    };
    response.headers().iter().for_each(|(name, value)| field(name, value.as_bytes()));
    framing.iter().for_each(|(name, value)| field(name, value.as_bytes()));
    head.extend(b"\r\n");
    head
}

fn chunk(data: &Bytes) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}
