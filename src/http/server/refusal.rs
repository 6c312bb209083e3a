//! What hyper itself refuses, before there is a request: a head that is no HTTP, or too large even for hyper.
//!
//! hyper answers with a bare status and offers no hook. Every answer of ours names its request and tells what
//! is wrong, so the socket writes ours in the place of hyper's.

use bytes::Bytes;

use crate::dice::Dice;
use crate::types::problem::{ProblemBody, ProblemCode};

/// Our answer for hyper's; None if `theirs` is no refusal.
pub fn instead_of(theirs: &[u8]) -> Option<Bytes> {
    let head = str::from_utf8(theirs).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    let (code, why) = match status {
        "414" | "431" => (ProblemCode::HeaderTooLarge, "at most 32768 bytes in 64 fields"),
        "400" => (ProblemCode::InvalidRequest, "the head is not one of HTTP"),
        _ => return None,
    };
    let bytes: [u8; 12] = Dice::Os.bytes();
    let id: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let id = format!("req_{id}");
    tracing::info!(method = "none", route = "none", status = code.status(), request_id = %id, "request");
    let body = ProblemBody {
        kind: format!("/problems/{}", code.slug()),
        title: code.title().to_owned(),
        status: code.status(),
        detail: Some(why.to_owned()),
        code,
        errors: Vec::new(),
        request_id: Some(id.clone()),
    };
    let body = serde_json::to_string(&body).ok()?;
    let reason = http::StatusCode::from_u16(code.status()).ok()?;
    // The clock is hyper's.
    let date =
        head.lines().find(|line| line.starts_with("date: ")).map_or(String::new(), |l| format!("{l}\r\n"));
    let text = format!(
        "HTTP/1.1 {reason}\r\ncontent-type: application/problem+json\r\nrequest-id: {id}\r\nconnection: close\r\n\
         content-length: {}\r\n{date}\r\n{body}",
        body.len()
    );
    Some(text.into())
}
