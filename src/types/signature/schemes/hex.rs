//! Signatures in hex, as GitHub and Stripe make them: the text of the secret is the key.

use std::fmt::Write as _;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::super::{Hint, Secret, TAG_BYTES, hints, keyed};

/// `sha256=` and hex of HMAC-SHA256 over the body.
pub const GITHUB_HEADER: &str = "x-hub-signature-256";
/// `t=` seconds, then `v1=` and hex of HMAC-SHA256 over `t.body`, once for each key.
pub const STRIPE_HEADER: &str = "stripe-signature";

/// Why a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHex {
    /// No header.
    #[error("the signature is missing")]
    Missing,
    /// GitHub's older header.
    #[error(
        "this is the SHA-1 signature of the old x-hub-signature; x-hub-signature-256 holds `sha256=` and hex"
    )]
    Sha1,
    /// Not `sha256=` and hex.
    #[error("the signature is not `sha256=` and 64 hex digits")]
    NotGithub,
    /// No `t=` with digits, or twice.
    #[error("the signature has no `t=` with whole seconds since 1970")]
    NoTime,
    /// No `v1=` with hex.
    #[error("the signature has no `v1=` with 64 hex digits")]
    NoV1,
    /// Signed longer ago than the tolerance allows.
    #[error("the signature's `t` is too old by {by_seconds} s (a replay, a late queue, or a wrong clock)")]
    TooOld {
        /// Seconds beyond the tolerance.
        by_seconds: i64,
    },
    /// Signed further in the future than the tolerance allows.
    #[error("the signature's `t` is too new by {by_seconds} s (one of the two clocks is wrong)")]
    TooNew {
        /// Seconds beyond the tolerance.
        by_seconds: i64,
    },
    /// The base64-decoded bytes were the key.
    #[error("the secret was base64-decoded; in this scheme its whole text is the key, `whsec_` included")]
    Decoded,
    /// Well formed, but made from something else.
    #[error("the signature does not match: {0}")]
    Mismatch(Hint),
}

impl BadHex {
    /// A stable word for programs.
    pub fn code(self) -> &'static str {
        match self {
            BadHex::Missing => "missing-signature",
            BadHex::Sha1 | BadHex::NotGithub => "bad-signature",
            BadHex::NoTime => "bad-timestamp",
            BadHex::NoV1 => "no-v1-item",
            BadHex::TooOld { .. } => "too-old",
            BadHex::TooNew { .. } => "too-new",
            BadHex::Decoded | BadHex::Mismatch(_) => "mismatch",
        }
    }
}

/// The value of [`GITHUB_HEADER`].
pub fn github(secret: &str, body: &[u8]) -> String {
    format!("sha256={}", hex(&mac(secret.as_bytes(), &[body]).finalize().into_bytes()))
}

/// The value of [`STRIPE_HEADER`], one `v1` for each of `secrets`, in their order.
pub fn stripe(secrets: &[&str], seconds: i64, body: &[u8]) -> String {
    let time = seconds.to_string();
    let mut value = format!("t={time}");
    for secret in secrets {
        let tag = mac(secret.as_bytes(), &[time.as_bytes(), b".", body]).finalize().into_bytes();
        let _ = write!(value, ",v1={}", hex(&tag));
    }
    value
}

/// Holds a received [`GITHUB_HEADER`] against `secrets`; any one of them may have signed it. There is no timestamp:
/// the scheme does not bound replays.
pub fn verify_github(secrets: &[&str], header: &str, body: &[u8]) -> Result<(), BadHex> {
    let tag = match header.trim().split_once('=') {
        None if header.trim().is_empty() => return Err(BadHex::Missing),
        Some(("sha1", _)) => return Err(BadHex::Sha1),
        Some(("sha256", hex)) => unhex(hex).ok_or(BadHex::NotGithub)?,
        Some(_) | None => return Err(BadHex::NotGithub),
    };
    judge(secrets, &[tag], &[], body)
}

/// Holds a received [`STRIPE_HEADER`] against `secrets`; any one of them may have signed it.
///
/// `now` is seconds since 1970, `tolerance` seconds both ways and inclusive. Stripe's own libraries take any time in
/// the future.
pub fn verify_stripe(
    secrets: &[&str],
    header: &str,
    body: &[u8],
    now: i64,
    tolerance: i64,
) -> Result<(), BadHex> {
    if header.trim().is_empty() {
        return Err(BadHex::Missing);
    }
    let items: Vec<(&str, &str)> = header.split(',').filter_map(|item| item.trim().split_once('=')).collect();
    let all = |name: &'static str| items.iter().filter(move |(n, _)| *n == name).map(|(_, value)| *value);
    let digits = |text: &str| !text.is_empty() && text.len() < 12 && text.bytes().all(|b| b.is_ascii_digit());
    let time = match all("t").collect::<Vec<_>>()[..] {
        [time] if digits(time) => time,
        _ => return Err(BadHex::NoTime),
    };
    let tags: Vec<_> = all("v1").filter_map(unhex).collect();
    if tags.is_empty() {
        return Err(BadHex::NoV1);
    }
    let age = now.saturating_sub(time.parse().map_err(|_| BadHex::NoTime)?);
    if age > tolerance {
        return Err(BadHex::TooOld { by_seconds: age - tolerance });
    }
    if age < -tolerance {
        return Err(BadHex::TooNew { by_seconds: -age - tolerance });
    }
    judge(secrets, &tags, &[time.as_bytes(), b"."], body)
}

/// Whether any of `tags` is that of any secret over `before` and the body; else the usual mistake that explains why not.
fn judge(secrets: &[&str], tags: &[[u8; TAG_BYTES]], before: &[&[u8]], body: &[u8]) -> Result<(), BadHex> {
    let fits = |key: &[u8], body: &[u8]| {
        let mac = mac(key, before).chain_update(body);
        tags.iter().any(|tag| mac.clone().verify_slice(tag).is_ok())
    };
    if secrets.iter().any(|secret| fits(secret.as_bytes(), body)) {
        return Ok(());
    }
    let decoded = |text: &&str| Secret::parse_lenient(text).is_ok_and(|secret| fits(secret.bytes(), body));
    if secrets.iter().any(decoded) {
        return Err(BadHex::Decoded);
    }
    let guess = |body: &[u8]| secrets.iter().any(|secret| fits(secret.as_bytes(), body));
    Err(BadHex::Mismatch(hints::explain_body(body, guess)))
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    parts.iter().fold(keyed(key), |mac, part| mac.chain_update(part))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; TAG_BYTES]> {
    let mut bytes = [0; TAG_BYTES];
    if text.len() != 2 * TAG_BYTES || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}
