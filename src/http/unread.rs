//! Hears a client out whose request is refused before its body was read.
//!
//! Plain clients send the whole body before they read. A connection that is closed while they still send is
//! reset, and the answer that says why is lost with it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};

use super::layers::Ctx;

/// The most that is read for nothing, in bytes and in time: beyond it the reset is the client's affair.
const BYTES: usize = 16 * 1024 * 1024;
const TIME: Duration = Duration::from_secs(1);

/// Reads what is left of a refused request's body before the refusal is sent; what stays unread ends the connection.
pub async fn hear_out(request: Request, answer: impl AsyncFnOnce(Request) -> Response) -> Response {
    // Who asked whether to send at all is answered at once; reading would be the wrong answer.
    let asked = request.headers().contains_key(header::EXPECT);
    let ctx = request.extensions().get::<Arc<Ctx>>().cloned();
    let left = Left::default();
    let request = request.map(|body| Body::new(Kept { body: Some(body), left: left.clone() }));
    let mut response = answer(request).await;
    let refused = response.status().is_client_error() || response.status().is_server_error();
    let Some(body) = left.take().filter(|_| refused) else { return response };
    let in_vain = asked || response.status() == StatusCode::REQUEST_TIMEOUT;
    if let Some(ctx) = ctx {
        ctx.rest();
    }
    if in_vain || !tokio::time::timeout(TIME, discard(body)).await.unwrap_or(false) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether that was all of it.
async fn discard(mut body: Body) -> bool {
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        seen += frame.data_ref().map_or(0, Bytes::len);
        if seen > BYTES {
            return false;
        }
    }
    true
}

/// Where a body is left that nobody read to its end.
#[derive(Clone, Default)]
struct Left(Arc<Mutex<Option<Body>>>);

impl Left {
    fn take(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A body that is left behind instead of dropped.
struct Kept {
    body: Option<Body>,
    left: Left,
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let unread = self.body.take().filter(|body| !body.is_end_stream());
        *self.left.0.lock().unwrap_or_else(PoisonError::into_inner) = unread;
    }
}
