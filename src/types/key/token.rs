//! Capabilities for one job: the signed access token and the lease token.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::types::signature::keyed;
use crate::types::{JobId, TenantId};

/// Signs access tokens; derived from a key of the key ring, so no second secret has to be kept.
#[derive(Clone)]
pub struct TokenKey {
    id: u8,
    mac: Hmac<Sha256>,
}

impl TokenKey {
    /// Derives the key by HMAC-SHA256 of a fixed label (RFC 5869's expand step, one block).
    ///
    /// The labels keep this use apart from sealing, which takes the ring's key as it is.
    pub fn derive(ring_key: &[u8; 32]) -> Self {
        let label =
            |label: &str| keyed(ring_key).chain_update(label).chain_update([1]).finalize().into_bytes();
        let id = label("ringback access token key id")[0];
        TokenKey { id, mac: keyed(&label("ringback access token")) }
    }

    fn tag(&self, payload: &[u8]) -> Hmac<Sha256> {
        self.mac.clone().chain_update([self.id]).chain_update(payload)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(redacted)")
    }
}

/// A capability to read one job, `rbj_` + 66 characters. Signed and not stored; it ends with its job.
///
/// base64url, without padding, of: tenant (16 bytes), job (16), HMAC-SHA256 cut to 16, key id (1).
pub enum AccessToken {}

impl AccessToken {
    /// What every access token starts with.
    pub const PREFIX: &'static str = "rbj_";
    const PAYLOAD: usize = 32;
    const TAG: usize = 16;

    /// The token of `job`; the same key and ids always give the same text.
    pub fn mint(key: &TokenKey, tenant: TenantId, job: JobId) -> String {
        let mut bytes = [0u8; Self::PAYLOAD + Self::TAG + 1];
        bytes[..16].copy_from_slice(tenant.uuid().as_bytes());
        bytes[16..Self::PAYLOAD].copy_from_slice(job.uuid().as_bytes());
        let tag = key.tag(&bytes[..Self::PAYLOAD]).finalize().into_bytes();
        bytes[Self::PAYLOAD..Self::PAYLOAD + Self::TAG].copy_from_slice(&tag[..Self::TAG]);
        bytes[Self::PAYLOAD + Self::TAG] = key.id;
        format!("{}{}", Self::PREFIX, URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Whose job the token opens, if one of `keys` signed it; compared in constant time.
    ///
    /// Key ids are one byte and may collide, so every key of that id is tried.
    pub fn verify(keys: &[TokenKey], text: &str) -> Option<(TenantId, JobId)> {
        let bytes: [u8; Self::PAYLOAD + Self::TAG + 1] = decode(Self::PREFIX, text)?;
        let (payload, rest) = bytes.split_at(Self::PAYLOAD);
        let (tag, id) = rest.split_at(Self::TAG);
        let signed = |key: &&TokenKey| key.id == id[0] && key.tag(payload).verify_truncated_left(tag).is_ok();
        keys.iter().find(signed)?;
        let (tenant, job) = payload.split_at(16);
        let uuid = |bytes: &[u8]| Uuid::from_slice(bytes).ok();
        Some((TenantId::from_uuid(uuid(tenant)?), JobId::from_uuid(uuid(job)?)))
    }
}

/// Proof of holding a job's lease, `rbl_` + 32 characters.
///
/// base64url of the fence (big-endian, 8 bytes) and 16 random bytes, so that a row whose fence
/// comes back never revives an old token. Equality takes constant time.
#[derive(Clone, Copy)]
pub struct LeaseToken {
    /// The fence of the claim that handed the token out.
    pub fence: i64,
    /// What makes it unguessable.
    pub random: [u8; 16],
}

impl LeaseToken {
    /// What every lease token starts with.
    pub const PREFIX: &'static str = "rbl_";
}

impl PartialEq for LeaseToken {
    fn eq(&self, other: &Self) -> bool {
        (self.fence.ct_eq(&other.fence) & self.random.ct_eq(&other.random)).into()
    }
}
impl Eq for LeaseToken {}

/// The text is not a lease token. Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `rbl_` and 32 characters of base64url")]
pub struct BadLeaseToken;

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0u8; 24];
        bytes[..8].copy_from_slice(&self.fence.to_be_bytes());
        bytes[8..].copy_from_slice(&self.random);
        write!(f, "{}{}", Self::PREFIX, URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseToken(fence {}, redacted)", self.fence)
    }
}

impl FromStr for LeaseToken {
    type Err = BadLeaseToken;

    fn from_str(text: &str) -> Result<Self, BadLeaseToken> {
        let bytes: [u8; 24] = decode(Self::PREFIX, text).ok_or(BadLeaseToken)?;
        let (fence, random) = bytes.split_first_chunk::<8>().ok_or(BadLeaseToken)?;
        let random = random.try_into().map_err(|_| BadLeaseToken)?;
        Ok(LeaseToken { fence: i64::from_be_bytes(*fence), random })
    }
}

impl Serialize for LeaseToken {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LeaseToken {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

impl utoipa::PartialSchema for LeaseToken {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some(format!("^{}[A-Za-z0-9_-]{{32}}$", Self::PREFIX)))
            .into()
    }
}
impl utoipa::ToSchema for LeaseToken {}

/// The bytes after `prefix`, if they are exactly `N`.
fn decode<const N: usize>(prefix: &str, text: &str) -> Option<[u8; N]> {
    let text = text.strip_prefix(prefix)?;
    // Checked first, so that a hostile text of megabytes is not decoded.
    if text.len() != (N * 4).div_ceil(3) {
        return None;
    }
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}
