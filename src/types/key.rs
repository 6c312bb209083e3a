//! What a caller shows to be let in: API keys and their scopes, job capabilities, lease tokens.

mod scope;
#[cfg(test)]
mod tests;
mod token;
mod wish;

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

pub use scope::{BadScope, Scope, Scopes};
pub use token::{AccessToken, BadLeaseToken, LeaseToken, TokenKey};
pub use wish::check as check_wish;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 62^43 is the first power of 62 above 2^256.
const SECRET_DIGITS: usize = 43;
/// 62^6 is the first power of 62 above 2^32.
const CHECKSUM_DIGITS: usize = 6;

/// An API key, `rbk_` + 32 or more of `[A-Za-z0-9_]`.
///
/// Those we mint are `rbk_`, 43 base62 digits of 32 random bytes and 6 of the CRC-32 of what stands
/// before them. Has no `Display` and no `Serialize`; the text is wiped on drop.
#[derive(Clone)]
pub struct ApiKey(Zeroizing<String>);

/// The text has not the shape of an API key. Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `rbk_` and 32 or more letters, digits or underscores")]
pub struct BadApiKey;

impl ApiKey {
    /// What every key starts with.
    pub const PREFIX: &'static str = "rbk_";
    const BODY: std::ops::RangeFrom<usize> = 32..;

    /// A new key of 32 random bytes.
    pub fn mint(random: [u8; 32]) -> Self {
        let mut text =
            Zeroizing::new(String::with_capacity(Self::PREFIX.len() + SECRET_DIGITS + CHECKSUM_DIGITS));
        text.push_str(Self::PREFIX);
        push_base62(&mut text, &random, SECRET_DIGITS);
        let sum = crc32(text.as_bytes());
        push_base62(&mut text, &sum.to_be_bytes(), CHECKSUM_DIGITS);
        ApiKey(text)
    }

    /// Reads a key of any origin: `dev --api-key` takes texts that carry no checksum.
    pub fn parse(text: &str) -> Result<Self, BadApiKey> {
        let body = text.strip_prefix(Self::PREFIX).ok_or(BadApiKey)?;
        let word = body.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if word && Self::BODY.contains(&body.len()) {
            Ok(ApiKey(Zeroizing::new(text.to_owned())))
        } else {
            Err(BadApiKey)
        }
    }

    /// SHA-256 of the whole text: what the store keeps and looks up.
    ///
    /// A fast hash suffices, because 256 random bits cannot be searched.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// Whether `stored` is this key's hash, in constant time.
    pub fn matches(&self, stored: &[u8]) -> bool {
        self.hash().as_slice().ct_eq(stored).into()
    }

    /// The first 12 characters, by which a person recognises the key in a list.
    pub fn prefix(&self) -> &str {
        &self.0[..12]
    }

    /// The whole text, for the one answer that shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for ApiKey {
    type Err = BadApiKey;

    fn from_str(text: &str) -> Result<Self, BadApiKey> {
        Self::parse(text)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(redacted)")
    }
}

/// Appends the big-endian number `bytes` as exactly `digits` base62 digits.
fn push_base62(out: &mut String, bytes: &[u8], digits: usize) {
    let mut number = Zeroizing::new(bytes.to_vec());
    let mut reversed = Zeroizing::new(Vec::with_capacity(digits));
    for _ in 0..digits {
        let mut rest = 0usize;
        for byte in number.iter_mut() {
            let value = rest * 256 + usize::from(*byte);
            // The quotient of a value below 62 * 256 fits a byte.
            *byte = (value / 62) as u8;
            rest = value % 62;
        }
        reversed.push(BASE62[rest]);
    }
    out.extend(reversed.iter().rev().map(|digit| char::from(*digit)));
}

/// CRC-32 as zlib and GitHub's token format use it (polynomial 0xEDB88320, reflected).
///
/// Bit by bit: it runs once for a key of some 50 bytes.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}
