//! Secrets at rest: a ring of keys, and what they seal.
//!
//! A sealed value is
//! `version (1 byte, 1) | length of the key id (1) | key id | nonce (24) | ciphertext and tag`,
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03). Everything before the nonce is authenticated,
//! and so is the place the value belongs to ([`Aad`]): a value copied to another row does not open.

mod file;
#[cfg(test)]
mod tests;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::types::key::TokenKey;

const VERSION: u8 = 1;
const NONCE: usize = 24;
const TAG: usize = 16;
const MAX_ID: usize = 64;

/// The place a sealed value belongs to; it opens nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aad {
    /// Whose value it is.
    pub tenant: Uuid,
    /// The row it stands in.
    pub row: Uuid,
    /// `table.column`.
    pub column: &'static str,
}

impl Aad {
    /// The bytes to authenticate: `header`, then parts of fixed length, then the column's name.
    fn after(&self, header: &[u8]) -> Vec<u8> {
        [header, self.tenant.as_bytes(), self.row.as_bytes(), self.column.as_bytes()].concat()
    }
}

/// The keys of a deployment, the active one first.
///
/// The file has one key a line, `<key id> <base64 of 32 bytes>`. The first one seals, all of them
/// open; empty lines and lines that begin with `#` are skipped. A key id is 1 to 64 of
/// `[A-Za-z0-9_-]`. To rotate, put a new line on top and keep the old ones until nothing sealed
/// under them is left.
#[derive(Clone)]
pub struct KeyRing {
    active: Key,
    old: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: String,
    bytes: Zeroizing<[u8; 32]>,
}

/// The text is not a key ring. Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKeyRing {
    /// No line holds a key.
    #[error("the key ring holds no key")]
    Empty,
    /// A line does not hold a key.
    #[error("key ring, line {line}: {fault}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        fault: LineFault,
    },
}

/// What is wrong with a line of a key ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// Not two words.
    #[error("must be `<key id> <base64 of 32 bytes>`")]
    Shape,
    /// Not 1 to 64 of the allowed characters.
    #[error("a key id is 1 to 64 letters, digits, `_` or `-`")]
    Id,
    /// Does not decode.
    #[error("the key is not standard base64 with padding")]
    Base64,
    /// Decodes to another length.
    #[error("the key is not 32 bytes long")]
    Length,
    /// The id stands on an earlier line.
    #[error("this key id was used above")]
    Duplicate,
}

/// A sealed value did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Shorter than its own layout.
    #[error("the sealed value is cut short")]
    Short,
    /// Sealed by a later release.
    #[error("the sealed value has the unknown version {0}")]
    Version(u8),
    /// Its key is not, or no longer, in the key ring.
    #[error("the key that sealed the value is not in the key ring")]
    UnknownKey,
    /// Changed, moved to another place, or its key id names another key.
    #[error("the sealed value is not authentic for this place")]
    Forged,
}

impl Key {
    fn parse(line: &str) -> Result<Self, LineFault> {
        let mut words = line.split_ascii_whitespace();
        let (Some(id), Some(text), None) = (words.next(), words.next(), words.next()) else {
            return Err(LineFault::Shape);
        };
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !plain || id.len() > MAX_ID {
            return Err(LineFault::Id);
        }
        let decoded = Zeroizing::new(STANDARD.decode(text).map_err(|_| LineFault::Base64)?);
        let mut bytes = Zeroizing::new([0; 32]);
        if decoded.len() != bytes.len() {
            return Err(LineFault::Length);
        }
        bytes.copy_from_slice(&decoded);
        Ok(Key { id: id.to_owned(), bytes })
    }

    /// Names the key after its hash, so that two new keys never share an id.
    fn generate(random: [u8; 32]) -> Self {
        let hash = Sha256::new_with_prefix("ringback key id").chain_update(random).finalize();
        let id = hash.iter().take(8).fold("k".to_owned(), |id, byte| id + &format!("{byte:02x}"));
        Key { id, bytes: Zeroizing::new(random) }
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.bytes).into())
    }

    /// What precedes the nonce. The id's length fits a byte: it is at most 64.
    fn header(&self) -> Vec<u8> {
        [&[VERSION, self.id.len() as u8], self.id.as_bytes()].concat()
    }
}

/// As much of a sealed column as tells [`sealed_by`] the key.
macro_rules! sealed_head {
    ($column:literal) => {
        concat!("substr(", $column, ", 1, 66)")
    };
}
pub(super) use sealed_head;

/// The id of the key that sealed a value, of which the first 66 bytes are enough.
pub fn sealed_by(sealed: &[u8]) -> Result<String, SealError> {
    Ok(String::from_utf8_lossy(split(sealed)?.0).into_owned())
}

/// The key's id, and what comes after it.
fn split(sealed: &[u8]) -> Result<(&[u8], &[u8]), SealError> {
    let [version, length, rest @ ..] = sealed else {
        return Err(SealError::Short);
    };
    if *version != VERSION {
        return Err(SealError::Version(*version));
    }
    rest.split_at_checked(usize::from(*length)).ok_or(SealError::Short)
}

/// The parts of a sealed value.
struct Parts<'a> {
    header: &'a [u8],
    key_id: &'a [u8],
    nonce: [u8; NONCE],
    ciphertext: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(sealed: &'a [u8]) -> Result<Self, SealError> {
        let (key_id, rest) = split(sealed)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE>().ok_or(SealError::Short)?;
        if ciphertext.len() < TAG {
            return Err(SealError::Short);
        }
        Ok(Parts { header: &sealed[..2 + key_id.len()], key_id, nonce: *nonce, ciphertext })
    }
}

impl KeyRing {
    /// Reads the text of a key ring file.
    pub fn parse(text: &str) -> Result<Self, BadKeyRing> {
        let mut keys: Vec<Key> = Vec::new();
        for (at, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = Key::parse(line).map_err(|fault| BadKeyRing::Line { line: at, fault })?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(BadKeyRing::Line { line: at, fault: LineFault::Duplicate });
            }
            keys.push(key);
        }
        let mut keys = keys.into_iter();
        let active = keys.next().ok_or(BadKeyRing::Empty)?;
        Ok(KeyRing { active, old: keys.collect() })
    }

    /// A ring of one new key.
    pub fn generate(random: [u8; 32]) -> Self {
        KeyRing { active: Key::generate(random), old: Vec::new() }
    }

    /// This ring with a new key at its end, which opens and does not seal yet.
    #[must_use]
    pub fn with(&self, random: [u8; 32]) -> Self {
        let old = self.old.iter().cloned().chain([Key::generate(random)]).collect();
        KeyRing { active: self.active.clone(), old }
    }

    /// This ring with that key on top; None if it holds no such key.
    pub fn promoting(&self, id: &str) -> Option<Self> {
        let active = self.keys().find(|key| key.id == id)?.clone();
        Some(KeyRing { active, old: self.keys().filter(|key| key.id != id).cloned().collect() })
    }

    /// This ring without that key; None if it holds no such key or if it is the active one.
    pub fn without(&self, id: &str) -> Option<Self> {
        let old = self.old.iter().filter(|key| key.id != id).cloned().collect::<Vec<_>>();
        (old.len() < self.old.len()).then(|| KeyRing { active: self.active.clone(), old })
    }

    /// The ids of its keys, the active one's first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys().map(|key| key.id.as_str())
    }

    /// Whether the key of that id is in it.
    pub fn holds(&self, id: &str) -> bool {
        self.ids().any(|own| own == id)
    }

    /// The file that [`KeyRing::parse`] reads back; wiped on drop.
    pub fn to_text(&self) -> Zeroizing<String> {
        let about =
            "# Ringback key ring: <key id> <base64 of 32 bytes>. The first key seals, all of them open.\n";
        // Reserved in full: growing would leave copies of the keys behind in freed memory.
        let mut text =
            Zeroizing::new(String::with_capacity(about.len() + (self.old.len() + 1) * (MAX_ID + 46)));
        text.push_str(about);
        for key in self.keys() {
            text.push_str(&key.id);
            text.push(' ');
            STANDARD.encode_string(*key.bytes, &mut text);
            text.push('\n');
        }
        text
    }

    /// The id of the key that seals.
    pub fn active_id(&self) -> &str {
        &self.active.id
    }

    /// The keys that sign access tokens, the active one first.
    pub fn token_keys(&self) -> Vec<TokenKey> {
        self.keys().map(|key| TokenKey::derive(&key.bytes)).collect()
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.active).chain(&self.old)
    }

    /// Seals `plain` for the place `aad` under the active key; `nonce` must be random and fresh.
    pub fn seal(&self, nonce: [u8; NONCE], aad: &Aad, plain: &[u8]) -> Vec<u8> {
        let header = self.active.header();
        let payload = Payload { msg: plain, aad: &aad.after(&header) };
        let Ok(ciphertext) = self.active.cipher().encrypt(&XNonce::from(nonce), payload) else {
            unreachable!("XChaCha20-Poly1305 refuses only 256 GiB and more")
        };
        [&header, nonce.as_slice(), &ciphertext].concat()
    }

    /// Opens what any key of the ring sealed for the same place.
    pub fn open(&self, aad: &Aad, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let parts = Parts::of(sealed)?;
        let key = self.keys().find(|key| key.id.as_bytes() == parts.key_id).ok_or(SealError::UnknownKey)?;
        let payload = Payload { msg: parts.ciphertext, aad: &aad.after(parts.header) };
        let plain = key.cipher().decrypt(&XNonce::from(parts.nonce), payload);
        plain.map(Zeroizing::new).map_err(|_| SealError::Forged)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys().map(|key| &key.id)).finish()
    }
}
