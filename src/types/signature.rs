//! Standard Webhooks 1.0.0 signatures: the secret, the signer, and a verifier that says why it refuses.

pub mod asymmetric;
mod hints;
pub mod schemes;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

pub use hints::Hint;

/// How far a timestamp may lie from now, in seconds, both ways and inclusive: what every official client uses.
pub const TOLERANCE_SECONDS: i64 = 300;

const PREFIX: &str = "whsec_";
const TAG_BYTES: usize = 32;
/// The fewest and the most bytes a symmetric secret may have (Standard Webhooks 1.0.0).
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// An HMAC-SHA256 state that has already absorbed `key`, of any length.
///
/// Cloning it saves the two compressions that keying costs. Keys shorter than a block are padded
/// with zeros and longer ones hashed, as RFC 2104 says; padding by hand makes keying infallible.
pub(crate) fn keyed(key: &[u8]) -> Hmac<Sha256> {
    let mut block = Zeroizing::new([0u8; 64]);
    match block.get_mut(..key.len()) {
        Some(start) => start.copy_from_slice(key),
        None => block[..TAG_BYTES].copy_from_slice(&Sha256::digest(key)),
    }
    Hmac::new((&*block).into())
}

/// A symmetric signing secret, `whsec_` + base64 of 24 to 64 bytes.
///
/// Has no `Display` and no `Serialize`, so that it reaches an answer only through [`Secret::reveal`].
#[derive(Clone)]
pub struct Secret {
    bytes: Zeroizing<Vec<u8>>,
    mac: Hmac<Sha256>,
}

/// The text is not a signing secret. Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// Not `whsec_`.
    #[error("must start with `whsec_`")]
    Prefix,
    /// `whsk_` or `whpk_` where only an HMAC secret will do.
    #[error("must be a `whsec_` secret: an Ed25519 key (v1a) cannot stand here")]
    Asymmetric,
    /// `whsk_` or `whpk_` and something else than a key.
    #[error(
        "must be `whsk_` and base64 of a 32-byte seed, or of it and its public key, or `whpk_` and a public key"
    )]
    Ed25519,
    /// What follows the prefix does not decode.
    #[error("must be `whsec_`, `whpk_` or `whsk_` and standard base64 with padding")]
    Base64,
    /// It decodes to fewer than 24 or more than 64 bytes.
    #[error("must hold 24 to 64 bytes, holds {0}")]
    Length(usize),
}

impl Secret {
    /// Takes 24 to 64 raw bytes; 32 random ones make a new secret.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadSecret> {
        if !KEY_BYTES.contains(&bytes.len()) {
            return Err(BadSecret::Length(bytes.len()));
        }
        Ok(Secret { bytes: Zeroizing::new(bytes.to_vec()), mac: keyed(bytes) })
    }

    /// Reads `whsec_` + base64.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        if text.starts_with("whsk_") || text.starts_with("whpk_") {
            return Err(BadSecret::Asymmetric);
        }
        Self::decode(text.strip_prefix(PREFIX).ok_or(BadSecret::Prefix)?)
    }

    /// As [`Secret::parse`], but the prefix may be missing.
    ///
    /// For verifying only: the official clients take bare base64, so a receiver may hold it so.
    pub fn parse_lenient(text: &str) -> Result<Self, BadSecret> {
        match Self::parse(text) {
            Err(BadSecret::Prefix) => Self::decode(text),
            parsed @ (Ok(_)
            | Err(
                BadSecret::Asymmetric | BadSecret::Ed25519 | BadSecret::Base64 | BadSecret::Length(_),
            )) => parsed,
        }
    }

    fn decode(base64: &str) -> Result<Self, BadSecret> {
        let bytes = Zeroizing::new(STANDARD.decode(base64).map_err(|_| BadSecret::Base64)?);
        Self::from_bytes(&bytes)
    }

    /// The `whsec_` text, for the one answer that shows it.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&*self.bytes))
    }

    /// The key itself, for sealing it at rest.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The running HMAC over `id.timestamp.body`.
    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        self.mac
            .clone()
            .chain_update(id)
            .chain_update(".")
            .chain_update(timestamp)
            .chain_update(".")
            .chain_update(body)
    }
}

impl FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, BadSecret> {
        Self::parse(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// The value of `webhook-signature`: one `v1,<base64>` for each secret, in their order.
///
/// `secrets` must not be empty, or the value is. Some clients crash on two spaces or an unknown
/// shape, so nothing else ever stands in the value.
pub fn sign(secrets: &[Secret], id: &str, timestamp_seconds: i64, body: &[u8]) -> String {
    let timestamp = timestamp_seconds.to_string();
    let mut header = String::with_capacity(secrets.len() * 48);
    for secret in secrets {
        if !header.is_empty() {
            header.push(' ');
        }
        header.push_str("v1,");
        STANDARD.encode_string(secret.mac(id, &timestamp, body).finalize().into_bytes(), &mut header);
    }
    header
}

/// Why a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// No `webhook-id`.
    #[error("the webhook-id is missing")]
    MissingId,
    /// No `webhook-timestamp`.
    #[error("the webhook-timestamp is missing")]
    MissingTimestamp,
    /// No `webhook-signature`.
    #[error("the webhook-signature is missing")]
    MissingSignature,
    /// The timestamp is not whole seconds in plain digits.
    #[error("the webhook-timestamp {0}")]
    BadTimestamp(TimestampFault),
    /// Signed longer ago than the tolerance allows.
    #[error("the webhook-timestamp is too old by {by_seconds} s (a replay, a late queue, or a wrong clock)")]
    TooOld {
        /// Seconds beyond the tolerance.
        by_seconds: i64,
    },
    /// Signed further in the future than the tolerance allows.
    #[error("the webhook-timestamp is too new by {by_seconds} s (one of the two clocks is wrong)")]
    TooNew {
        /// Seconds beyond the tolerance.
        by_seconds: i64,
    },
    /// Two spaces in a row, or one at an end.
    #[error("the webhook-signature has a stray space: items are separated by exactly one")]
    StraySpace,
    /// An item without a comma after its version.
    #[error("an item of the webhook-signature is not `<version>,<base64>`")]
    NoVersion,
    /// Only items of other versions.
    #[error("the webhook-signature has no item of version `v1` (in lower case)")]
    NoV1Item,
    /// Only items of other versions, and the key is an Ed25519 one.
    #[error("the webhook-signature has no item of version `v1a` (in lower case)")]
    NoV1aItem,
    /// An item of the version looked for that does not decode.
    #[error("an item is not standard base64 with padding (items are separated by a space, not a comma)")]
    BadBase64,
    /// No `v1` item has the 32 bytes of an HMAC-SHA256.
    #[error("the v1 signature is {bytes} bytes long, not 32{}", if *.bytes == 48 { " (hex instead of base64?)" } else { "" })]
    WrongLength {
        /// Length of the first item.
        bytes: usize,
    },
    /// Well formed, but made from something else.
    #[error("the signature does not match: {0}")]
    Mismatch(Hint),
    /// No `v1a` item was made by any of the keys over these bytes.
    #[error("the v1a signature does not match: another key, or other bytes than were signed")]
    Ed25519Mismatch,
}

impl BadSignature {
    /// A stable word for programs.
    pub fn code(self) -> &'static str {
        match self {
            BadSignature::MissingId => "missing-id",
            BadSignature::MissingTimestamp => "missing-timestamp",
            BadSignature::MissingSignature => "missing-signature",
            BadSignature::BadTimestamp(_) => "bad-timestamp",
            BadSignature::TooOld { .. } => "too-old",
            BadSignature::TooNew { .. } => "too-new",
            BadSignature::StraySpace => "stray-space",
            BadSignature::NoVersion => "no-version",
            BadSignature::NoV1Item => "no-v1-item",
            BadSignature::NoV1aItem => "no-v1a-item",
            BadSignature::BadBase64 => "bad-base64",
            BadSignature::WrongLength { .. } => "wrong-length",
            BadSignature::Mismatch(_) | BadSignature::Ed25519Mismatch => "mismatch",
        }
    }
}

/// What is wrong with the text of a timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimestampFault {
    /// Anything but digits.
    #[error("must be whole seconds since 1970 in plain digits")]
    NotDigits,
    /// `1700000000.0`.
    #[error("must be whole seconds, without a fraction")]
    Fraction,
    /// `01700000000`.
    #[error("must not start with a zero")]
    LeadingZero,
    /// Twelve digits or more.
    #[error("must be seconds, not milliseconds or finer")]
    Milliseconds,
}

/// Holds a received webhook against `secrets`; any one of them may have signed it.
///
/// Stricter than the official clients: a shape on which they disagree is refused. `now_seconds`
/// and `tolerance_seconds` are seconds since 1970 and seconds, both ways and inclusive. Signatures
/// are compared in constant time. A mismatch costs up to a dozen further passes over the body to
/// find the likely mistake; bodies over 1 MiB are not searched.
pub fn verify(
    secrets: &[Secret],
    id: &str,
    timestamp: &str,
    signature_header: &str,
    body: &[u8],
    now_seconds: i64,
    tolerance_seconds: i64,
) -> Result<(), BadSignature> {
    let times = (now_seconds, tolerance_seconds);
    let tags = received(id, timestamp, (signature_header, "v1"), BadSignature::NoV1Item, times)?;
    let matches = |secret: &Secret| {
        let mac = secret.mac(id, timestamp, body);
        tags.iter().any(|tag| mac.clone().verify_slice(tag).is_ok())
    };
    if secrets.iter().any(matches) {
        return Ok(());
    }
    match tags.first() {
        Some(first) if tags.iter().all(|tag| tag.len() != TAG_BYTES) => {
            Err(BadSignature::WrongLength { bytes: first.len() })
        }
        Some(_) | None => Err(BadSignature::Mismatch(hints::explain(secrets, id, timestamp, body, &tags))),
    }
}

/// What every scheme asks before it looks at a tag; gives the tags of its version, at least one. `none` is the
/// refusal if there is none, and the times are now and the tolerance, in seconds.
fn received(
    id: &str,
    timestamp: &str,
    (header, version): (&str, &str),
    none: BadSignature,
    (now, tolerance): (i64, i64),
) -> Result<Vec<Vec<u8>>, BadSignature> {
    if id.is_empty() {
        return Err(BadSignature::MissingId);
    }
    let signed_at = parse_timestamp(timestamp)?;
    let tags = items(header, version)?;
    if tags.is_empty() {
        return Err(none);
    }
    check_age(signed_at, now, tolerance)?;
    Ok(tags)
}

fn parse_timestamp(text: &str) -> Result<i64, BadSignature> {
    let fault = match text.as_bytes() {
        [] => return Err(BadSignature::MissingTimestamp),
        [b'0'] => return Ok(0),
        [b'0', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => TimestampFault::LeadingZero,
        digits if digits.iter().all(u8::is_ascii_digit) => match text.parse() {
            // Twelve digits of seconds begin in the year 5138.
            Ok(seconds) if digits.len() < 12 => return Ok(seconds),
            Ok(_) | Err(_) => TimestampFault::Milliseconds,
        },
        [first, ..] if first.is_ascii_digit() && text.parse::<f64>().is_ok() => TimestampFault::Fraction,
        [..] => TimestampFault::NotDigits,
    };
    Err(BadSignature::BadTimestamp(fault))
}

/// The text that is signed.
fn signed(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

/// The decoded items of one version, of any length.
fn items(header: &str, wanted: &str) -> Result<Vec<Vec<u8>>, BadSignature> {
    if header.is_empty() {
        return Err(BadSignature::MissingSignature);
    }
    let mut tags = Vec::new();
    for item in header.split(' ') {
        if item.is_empty() {
            return Err(BadSignature::StraySpace);
        }
        let (version, text) = item.split_once(',').ok_or(BadSignature::NoVersion)?;
        if version == wanted {
            tags.push(STANDARD.decode(text).map_err(|_| BadSignature::BadBase64)?);
        }
    }
    Ok(tags)
}

fn check_age(signed_at: i64, now: i64, tolerance: i64) -> Result<(), BadSignature> {
    let age = now.saturating_sub(signed_at);
    if age > tolerance {
        return Err(BadSignature::TooOld { by_seconds: age.saturating_sub(tolerance) });
    }
    if age < tolerance.saturating_neg() {
        return Err(BadSignature::TooNew { by_seconds: age.saturating_add(tolerance).saturating_neg() });
    }
    Ok(())
}
