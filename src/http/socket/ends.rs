//! Why a WebSocket ends, and what of its client's words is refused.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use tokio::time::timeout;

use super::session::JOBS_MAX;
use crate::http::problem::Problem;
use crate::types::api::{SocketOp, SocketRequest};
use crate::types::problem::{Invalid, ProblemCode};

/// RFC 6455, 7.4.1: there is nothing more to do.
pub const DONE: u16 = 1000;
/// The same: the node goes away.
const AWAY: u16 = 1001;
/// The same: what was sent is not of this protocol.
const PROTOCOL: u16 = 1002;
/// The same: a text message is not UTF-8.
const NOT_TEXT: u16 = 1007;
/// The same: a message is too big.
const TOO_BIG: u16 = 1009;
/// The key no longer counts.
pub const UNAUTHORIZED: u16 = 4401;
/// The client does not take what it is sent.
pub const TOO_SLOW: u16 = 4429;

/// How long a close may take.
pub const FAREWELL: Duration = Duration::from_secs(2);

/// Says why, and hears the client out: a connection that is closed on unread bytes is reset, and the reason
/// lost.
pub async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: reason.into() };
    if socket.send(Message::Close(Some(frame))).await.is_ok() {
        hear_out(socket).await;
    }
}

pub async fn hear_out(socket: &mut WebSocket) {
    while let Some(Ok(_)) = socket.recv().await {}
}

/// Tells a client that its key or access token does not count; only then its `seat` is free.
pub async fn turn_away<T>(mut socket: WebSocket, seat: T) {
    let told = close(&mut socket, UNAUTHORIZED, "the API key or access token is not valid");
    if timeout(FAREWELL, told).await.is_err() {
        tracing::debug!("a WebSocket's client did not answer the close");
    }
    drop(seat);
}

/// Why a session ends.
pub enum End {
    /// The client has left.
    Left,
    /// The client has said goodbye, and has to be answered.
    Answer,
    /// The client is told this.
    Close(u16, &'static str),
}

pub fn no_job(i: usize) -> Problem {
    Problem::new(ProblemCode::JobNotFound).at(&format!("/jobIds/{i}"), "names no job")
}

pub fn stopping() -> End {
    End::Close(AWAY, "this node is stopping; connect again")
}

pub fn fault(e: &axum::Error) -> End {
    // The protocol's reader is behind the framework's error: only its words tell what was wrong.
    let text = e.to_string();
    if text.contains("too long") {
        End::Close(TOO_BIG, "a message has at most 131072 bytes")
    } else if text.to_ascii_lowercase().contains("utf-8") {
        End::Close(NOT_TEXT, "a text message is not UTF-8")
    } else {
        End::Close(PROTOCOL, "not a message of this protocol")
    }
}

pub fn check(request: &SocketRequest) -> Result<(), Invalid> {
    if request.job_ids.is_empty() || request.job_ids.len() > JOBS_MAX {
        return Err(Invalid::member("/jobIds", format!("must have 1 to {JOBS_MAX} entries")));
    }
    let known: std::collections::HashSet<&String> = request.job_ids.iter().collect();
    let unknown = request.after.keys().find(|id| !known.contains(id) || request.op != SocketOp::Subscribe);
    match unknown {
        Some(id) => {
            let name: String = id.chars().take(64).collect();
            let pointer = format!("/after/{}", crate::types::submit::escape(&name));
            Err(Invalid::member(pointer, "is not among the jobs to subscribe to"))
        }
        None => Ok(()),
    }
}
