//! The ways to sign that a receiver may ask for, and what stands in the headers for each.
//!
//! `v1` is always there. Whoever moves from a sender that signs as GitHub or Stripe does adds `github` or `stripe`
//! and keeps the code that verifies. Both take the secret's whole text, `whsec_` included, as the key, as their
//! libraries do; Standard Webhooks decodes it.

pub mod hex;
#[cfg(test)]
mod tests;

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::asymmetric::{PrivateKey, PublicKey};
use super::{BadSecret, Secret, sign};

/// A way to sign.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Standard Webhooks, HMAC-SHA256: `webhook-signature: v1,<base64>`. Always there.
    V1,
    /// Standard Webhooks, Ed25519: `webhook-signature: v1a,<base64>`, after the `v1` items.
    V1a,
    /// `x-hub-signature-256: sha256=<hex>` over the body alone, as GitHub signs. Has room for one key only.
    Github,
    /// `stripe-signature: t=<seconds>,v1=<hex>` over `t.body`, as Stripe signs.
    Stripe,
}

/// What signs for one receiver between two rotations: a secret that both sides know, and an Ed25519 key whose
/// public half anyone may know.
///
/// The two are made together and independently: a key derived from the secret could be derived by the receiver too,
/// who could then forge what it shows to others. A secret that a callback brought stands alone.
#[derive(Clone)]
pub struct SigningKey {
    secret: Secret,
    private: Option<PrivateKey>,
}

/// Bytes of an Ed25519 seed, which a sealed [`SigningKey`] begins with.
const SEED: usize = 32;

impl From<Secret> for SigningKey {
    fn from(secret: Secret) -> Self {
        SigningKey { secret, private: None }
    }
}

impl SigningKey {
    /// Takes 32 random bytes for each of the two.
    pub fn from_random(seed: [u8; SEED], secret: [u8; 32]) -> Result<Self, BadSecret> {
        Ok(SigningKey { secret: Secret::from_bytes(&secret)?, private: Some(PrivateKey::from_seed(&seed)) })
    }

    /// The secret, and a private key of someone's own.
    pub fn with_private(secret: Secret, private: PrivateKey) -> Self {
        SigningKey { secret, private: Some(private) }
    }

    /// The bytes to seal at rest: the seed, then the secret's key. None for a secret that stands alone.
    pub fn to_bytes(&self) -> Option<Zeroizing<Vec<u8>>> {
        let seed = self.private.as_ref()?.seed();
        // Reserved in full: growing would leave a copy of the seed behind in freed memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(SEED + self.secret.bytes().len()));
        bytes.extend_from_slice(&*seed);
        bytes.extend_from_slice(self.secret.bytes());
        Some(bytes)
    }

    /// Reads what [`SigningKey::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadSecret> {
        let (seed, secret) = bytes.split_first_chunk::<SEED>().ok_or(BadSecret::Length(bytes.len()))?;
        Ok(SigningKey { secret: Secret::from_bytes(secret)?, private: Some(PrivateKey::from_seed(seed)) })
    }

    /// The secret.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The secret's `whsec_` text, for the one answer that shows it.
    pub fn reveal(&self) -> String {
        self.secret.reveal()
    }

    /// The key that verifies `v1a`; None for a secret that stands alone.
    pub fn public(&self) -> Option<PublicKey> {
        self.private.as_ref().map(PrivateKey::public)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

/// What is signed: one attempt of one webhook.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The `webhook-id`.
    pub id: &'a str,
    /// The `webhook-timestamp`, seconds since 1970.
    pub seconds: i64,
    /// The raw body.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// The signature headers of `v1` and of every scheme in `schemes`, by the live `keys`, the newest first.
    ///
    /// Empty if there is no key. `github` has room for one signature, so in a rotation it is the new key's.
    pub fn headers(&self, schemes: &[Scheme], keys: &[SigningKey]) -> HeaderMap {
        let Some(newest) = keys.first() else { return HeaderMap::new() };
        let mut headers = HeaderMap::with_capacity(3);
        put(&mut headers, "webhook-signature", &self.standard(schemes, keys));
        if schemes.contains(&Scheme::Github) {
            let text = Zeroizing::new(newest.secret.reveal());
            put(&mut headers, hex::GITHUB_HEADER, &hex::github(&text, self.body));
        }
        if schemes.contains(&Scheme::Stripe) {
            let texts: Vec<_> = keys.iter().map(|key| Zeroizing::new(key.secret.reveal())).collect();
            let texts: Vec<&str> = texts.iter().map(|text| text.as_str()).collect();
            put(&mut headers, hex::STRIPE_HEADER, &hex::stripe(&texts, self.seconds, self.body));
        }
        headers
    }

    /// `v1` before `v1a`: some clients stop at the first item they do not know.
    fn standard(&self, schemes: &[Scheme], keys: &[SigningKey]) -> String {
        let secrets: Vec<Secret> = keys.iter().map(|key| key.secret.clone()).collect();
        let mut value = sign(&secrets, self.id, self.seconds, self.body);
        if schemes.contains(&Scheme::V1a) {
            for key in keys.iter().filter_map(|key| key.private.as_ref()) {
                value.push(' ');
                value.push_str(&key.item(self.id, self.seconds, self.body));
            }
        }
        value
    }
}

/// Base64, hex and digits are always a header's value.
fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}
