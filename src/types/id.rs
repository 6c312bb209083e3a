//! Ids: a UUIDv7 inside, a prefix and 26 Crockford base32 characters outside.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use super::Millis;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const DIGITS: usize = 26;

/// What an id names; carries the prefix of its text form.
pub trait Kind {
    /// The text before the underscore.
    const PREFIX: &'static str;
}

macro_rules! kinds {
    ($($kind:ident $alias:ident $prefix:literal),* $(,)?) => {$(
        #[doc = concat!("Marks the `", $prefix, "_` ids.")]
        pub enum $kind {}
        impl Kind for $kind { const PREFIX: &'static str = $prefix; }
        #[doc = concat!("An id of the form `", $prefix, "_` + 26 characters.")]
        pub type $alias = Id<$kind>;
    )*};
}

kinds! {
    Job JobId "job",
    Event EventId "evt",
    Delivery DeliveryId "dlv",
    Endpoint EndpointId "ep",
    Key KeyId "key",
    Tenant TenantId "ten",
    Lane LaneId "lane",
    Redrive RedriveId "rdr",
    Node NodeId "node",
}

/// An id whose kind the compiler checks. Ordered by time of creation.
pub struct Id<K> {
    uuid: Uuid,
    kind: PhantomData<fn() -> K>,
}

impl<K> Id<K> {
    /// Wraps a UUID read from the store.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Id { uuid, kind: PhantomData }
    }

    /// A UUIDv7 (RFC 9562, 5.7) of instant `at` and 74 bits of `random`.
    pub fn mint(at: Millis, random: [u8; 10]) -> Self {
        let ms = u64::try_from(at.0).unwrap_or(0);
        Self::from_uuid(uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid())
    }

    /// The UUID as the store keeps it.
    pub const fn uuid(self) -> Uuid {
        self.uuid
    }
}

impl<K: Kind> Id<K> {
    /// The text form as bytes of the URL path, headers and JSON.
    fn text(self) -> [u8; DIGITS] {
        let mut n = self.uuid.as_u128();
        let mut out = [b'0'; DIGITS];
        for place in out.iter_mut().rev() {
            *place = ALPHABET[(n & 31) as usize];
            n >>= 5;
        }
        out
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uuid.cmp(&other.uuid)
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uuid.hash(state);
    }
}
impl<K: Kind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.text();
        f.write_str(K::PREFIX)?;
        f.write_str("_")?;
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}
impl<K: Kind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an id of the wanted kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `{prefix}_` and 26 characters of Crockford base32")]
pub struct BadId {
    prefix: &'static str,
}

impl<K: Kind> FromStr for Id<K> {
    type Err = BadId;

    /// Reads exactly the form that [`fmt::Display`] writes, so one id has one spelling.
    fn from_str(s: &str) -> Result<Self, BadId> {
        let bad = BadId { prefix: K::PREFIX };
        let digits = s.strip_prefix(K::PREFIX).and_then(|s| s.strip_prefix('_')).ok_or(bad)?;
        if digits.len() != DIGITS || digits.as_bytes()[0] > b'7' {
            return Err(bad);
        }
        let mut n: u128 = 0;
        for b in digits.bytes() {
            let value = ALPHABET.iter().position(|a| *a == b).ok_or(bad)?;
            n = (n << 5) | value as u128;
        }
        Ok(Self::from_uuid(Uuid::from_u128(n)))
    }
}

impl<K: Kind> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de, K: Kind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}
impl<K: Kind> utoipa::PartialSchema for Id<K> {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some(format!("^{}_[0-7][0-9A-HJKMNP-TV-Z]{{25}}$", K::PREFIX)))
            .into()
    }
}
impl<K: Kind> utoipa::ToSchema for Id<K> {
    fn name() -> std::borrow::Cow<'static, str> {
        format!("Id_{}", K::PREFIX).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_agrees_with_the_typeid_vectors() {
        for (uuid, digits) in [
            ("00000000-0000-0000-0000-000000000000", "00000000000000000000000000"),
            ("00000000-0000-0000-0000-000000000001", "00000000000000000000000001"),
            ("00000000-0000-0000-0000-000000000020", "00000000000000000000000010"),
            ("ffffffff-ffff-ffff-ffff-ffffffffffff", "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"),
            ("0110c853-1d09-52d8-d73e-1194e95b5f19", "0123456789ABCDEFGHJKMNPQRS"),
            ("01890a5d-ac96-774b-bcce-b302099a8057", "01H455VB4PEX5VSKNK084SN02Q"),
        ] {
            let id = JobId::from_uuid(uuid.parse().unwrap());
            assert_eq!(id.to_string(), format!("job_{digits}"));
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn one_id_has_one_spelling() {
        for bad in [
            "",
            "job_",
            "job_0123456789ABCDEFGHJKMNPQR",
            "job_0123456789ABCDEFGHJKMNPQRSS",
            "dlv_0123456789ABCDEFGHJKMNPQRS",
            "job_0123456789abcdefghjkmnpqrs",
            "job_8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "job_0123456789ABCDEFGHJKMNPQRI",
            "job-0123456789ABCDEFGHJKMNPQRS",
        ] {
            assert!(bad.parse::<JobId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_sort_by_the_time_they_were_minted() {
        let early = JobId::mint(Millis(1_000), [255; 10]);
        let late = JobId::mint(Millis(1_001), [0; 10]);
        assert!(early < late);
        assert_eq!(early.uuid().get_version_num(), 7);
    }
}
