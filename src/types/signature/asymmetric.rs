//! The `v1a` scheme of Standard Webhooks 1.0.0: Ed25519 over the same `id.timestamp.body`.

use std::fmt;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::{BadSecret, BadSignature, received, signed};

const PRIVATE: &str = "whsk_";
const PUBLIC: &str = "whpk_";

/// An Ed25519 private key, `whsk_` + base64 of the 32-byte seed, or of 64 bytes: the seed and its public key.
///
/// The specification does not say which of the two it is, so both are read.
///
/// Clones share what has grown from the seed, which is worth more time than a signature of the other schemes and is
/// needed only where someone wants this one.
#[derive(Clone)]
pub struct PrivateKey {
    seed: Zeroizing<[u8; 32]>,
    grown: Arc<OnceLock<SigningKey>>,
}

impl PrivateKey {
    /// Whether `text` claims to be one.
    pub fn is_named_by(text: &str) -> bool {
        text.starts_with(PRIVATE)
    }

    /// Reads `whsk_` + base64.
    ///
    /// Errors: the prefix, the encoding, the length, or a public half that is not the seed's own.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let bytes = decode(text, PRIVATE)?;
        let seed = match bytes.len() {
            32 => bytes.first_chunk(),
            64 => bytes
                .first_chunk()
                .and_then(|pair| SigningKey::from_keypair_bytes(pair).ok())
                .and(bytes.first_chunk()),
            _ => None,
        };
        seed.map(PrivateKey::from_seed).ok_or(BadSecret::Ed25519)
    }

    /// The key that grows from 32 random bytes.
    pub(super) fn from_seed(seed: &[u8; 32]) -> Self {
        PrivateKey { seed: Zeroizing::new(*seed), grown: Arc::default() }
    }

    fn key(&self) -> &SigningKey {
        self.grown.get_or_init(|| SigningKey::from_bytes(&self.seed))
    }

    /// What the key grows from, for sealing it at rest.
    pub(super) fn seed(&self) -> Zeroizing<[u8; 32]> {
        self.seed.clone()
    }

    /// The `whsk_` text: the seed and its public key, as most tools take it.
    pub fn reveal(&self) -> Zeroizing<String> {
        let pair = Zeroizing::new(self.key().to_keypair_bytes());
        let mut text = Zeroizing::new(String::with_capacity(PRIVATE.len() + 88));
        text.push_str(PRIVATE);
        STANDARD.encode_string(*pair, &mut text);
        text
    }

    /// What verifies this key's signatures.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.key().verifying_key())
    }

    /// The item `v1a,<base64>` of a `webhook-signature`.
    pub fn item(&self, id: &str, timestamp_seconds: i64, body: &[u8]) -> String {
        let content = signed(id, &timestamp_seconds.to_string(), body);
        format!("v1a,{}", STANDARD.encode(self.key().sign(&content).to_bytes()))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

/// An Ed25519 public key, `whpk_` + base64 of 32 bytes.
#[derive(Debug, Clone)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Whether `text` claims to be one.
    pub fn is_named_by(text: &str) -> bool {
        text.starts_with(PUBLIC)
    }

    /// Reads `whpk_` + base64.
    ///
    /// Errors: the prefix, the encoding, the length, or 32 bytes that are no point of the curve.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let bytes = decode(text, PUBLIC)?;
        let key = <&[u8; 32]>::try_from(bytes.as_slice()).ok().and_then(|b| VerifyingKey::from_bytes(b).ok());
        key.map(PublicKey).ok_or(BadSecret::Ed25519)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", STANDARD.encode(self.0.to_bytes()))
    }
}

fn decode(text: &str, prefix: &str) -> Result<Zeroizing<Vec<u8>>, BadSecret> {
    let base64 = text.strip_prefix(prefix).ok_or(BadSecret::Prefix)?;
    STANDARD.decode(base64).map(Zeroizing::new).map_err(|_| BadSecret::Base64)
}

/// Holds the `v1a` items of a received webhook against `keys`; any one of them may have signed it.
///
/// Arguments and strictness as [`super::verify`]; a signature that RFC 8032 would take but whose
/// key or nonce is of small order is refused.
pub fn verify(
    keys: &[PublicKey],
    id: &str,
    timestamp: &str,
    signature_header: &str,
    body: &[u8],
    now_seconds: i64,
    tolerance_seconds: i64,
) -> Result<(), BadSignature> {
    let times = (now_seconds, tolerance_seconds);
    let tags = received(id, timestamp, (signature_header, "v1a"), BadSignature::NoV1aItem, times)?;
    let content = signed(id, timestamp, body);
    let made_by = |key: &PublicKey, tag: &Vec<u8>| {
        Signature::from_slice(tag).is_ok_and(|tag| key.0.verify_strict(&content, &tag).is_ok())
    };
    if tags.iter().any(|tag| keys.iter().any(|key| made_by(key, tag))) {
        Ok(())
    } else {
        Err(BadSignature::Ed25519Mismatch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = "whsk_ObA/WASGO//h75aQWyLU98JDCciZznLBenDkhUSOwJs=";
    const PAIR: &str =
        "whsk_ObA/WASGO//h75aQWyLU98JDCciZznLBenDkhUSOwJs0L/EguhLW9LJOlgzUw09BXdN9+Oye+qWOhgcmOIui1A==";
    const SHARED: &str = "whpk_NC/xILoS1vSyTpYM1MNPQV3TffjsnvqljoYHJjiLotQ=";
    const AT: i64 = 1_700_000_000;

    fn check(key: &PublicKey, header: &str, body: &[u8]) -> Result<(), BadSignature> {
        verify(std::slice::from_ref(key), "dlv_1", "1700000000", header, body, AT, 300)
    }

    #[test]
    fn both_forms_of_a_private_key_sign_alike_and_the_public_one_verifies() {
        let item = PrivateKey::parse(SEED).unwrap().item("dlv_1", AT, b"{}");
        assert_eq!(PrivateKey::parse(PAIR).unwrap().item("dlv_1", AT, b"{}"), item);
        let named = PrivateKey::parse(SEED).unwrap();
        assert_eq!((named.reveal().as_str(), named.public().to_string().as_str()), (PAIR, SHARED));
        for key in [PublicKey::parse(SHARED).unwrap(), PrivateKey::parse(SEED).unwrap().public()] {
            assert_eq!(check(&key, &item, b"{}"), Ok(()));
            assert_eq!(check(&key, &format!("v1,AAAA {item}"), b"{}"), Ok(()), "other versions are skipped");
            assert_eq!(check(&key, &item, b"{ }"), Err(BadSignature::Ed25519Mismatch));
        }
    }

    #[test]
    fn a_broken_header_or_another_key_is_refused() {
        let key = PublicKey::parse(SHARED).unwrap();
        let other = format!("whsk_{}", STANDARD.encode([7; 32]));
        let foreign = PrivateKey::parse(&other).unwrap().item("dlv_1", AT, b"{}");
        for (header, refused) in [
            ("", BadSignature::MissingSignature),
            ("v1,AAAA", BadSignature::NoV1aItem),
            ("v1a,%%", BadSignature::BadBase64),
            ("v1a,AAAA", BadSignature::Ed25519Mismatch),
            (&foreign, BadSignature::Ed25519Mismatch),
        ] {
            assert_eq!(check(&key, header, b"{}"), Err(refused), "{header}");
        }
        let late = verify(&[key], "dlv_1", "1700000000", &foreign, b"{}", AT + 301, 300);
        assert_eq!(late, Err(BadSignature::TooOld { by_seconds: 1 }));
    }

    #[test]
    fn what_is_no_key_is_refused_and_no_private_key_is_shown() {
        let torn = format!("whsk_{}", STANDARD.encode([7; 64]));
        for (text, refused) in [
            ("whsk_", BadSecret::Ed25519),
            ("whsk_AAAA", BadSecret::Ed25519),
            (torn.as_str(), BadSecret::Ed25519),
            ("whsk_canary!", BadSecret::Base64),
            (SHARED, BadSecret::Prefix),
        ] {
            assert_eq!(PrivateKey::parse(text).unwrap_err(), refused, "{text}");
        }
        assert_eq!(PublicKey::parse("whpk_AAAA").unwrap_err(), BadSecret::Ed25519);
        assert_eq!(format!("{:?}", PrivateKey::parse(SEED).unwrap()), "PrivateKey(redacted)");
    }
}
