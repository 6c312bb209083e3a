//! What a key may do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// One permission of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Submit, cancel and retry jobs.
    JobsWrite,
    /// Read jobs, results and their streams.
    JobsRead,
    /// Claim jobs and report on them.
    Work,
    /// Publish events.
    EventsWrite,
    /// Create and change endpoints.
    EndpointsWrite,
    /// Read endpoints.
    EndpointsRead,
    /// Read deliveries, lanes and dead letters.
    DeliveriesRead,
    /// Retry, cancel, replay and discard deliveries.
    DeadlettersReplay,
    /// Read `/metrics`.
    MetricsRead,
    /// Everything of the tenant.
    Admin,
    /// Tenants, keys of all, deployment-wide figures.
    Operator,
}

impl Scope {
    /// Every scope, in the order of the contract.
    pub const ALL: [Scope; 11] = [
        Scope::JobsWrite,
        Scope::JobsRead,
        Scope::Work,
        Scope::EventsWrite,
        Scope::EndpointsWrite,
        Scope::EndpointsRead,
        Scope::DeliveriesRead,
        Scope::DeadlettersReplay,
        Scope::MetricsRead,
        Scope::Admin,
        Scope::Operator,
    ];

    /// The text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scope::JobsWrite => "jobs:write",
            Scope::JobsRead => "jobs:read",
            Scope::Work => "work",
            Scope::EventsWrite => "events:write",
            Scope::EndpointsWrite => "endpoints:write",
            Scope::EndpointsRead => "endpoints:read",
            Scope::DeliveriesRead => "deliveries:read",
            Scope::DeadlettersReplay => "deadletters:replay",
            Scope::MetricsRead => "metrics:read",
            Scope::Admin => "admin",
            Scope::Operator => "operator",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {}", Scopes::every())]
pub struct BadScope;

impl FromStr for Scope {
    type Err = BadScope;

    fn from_str(text: &str) -> Result<Self, BadScope> {
        Scope::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(BadScope)
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

impl utoipa::PartialSchema for Scope {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .enum_values(Some(Scope::ALL.map(Scope::as_str)))
            .into()
    }
}
impl utoipa::ToSchema for Scope {}

/// A set of scopes. As text a comma-separated list, in JSON an array, both in the order of the contract.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Scopes(u16);

impl Scopes {
    /// No scope at all.
    pub const NONE: Scopes = Scopes(0);

    /// Every scope, `operator` included: the key of `dev`.
    pub fn every() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// This set and `scope`.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Scopes(self.0 | scope.bit())
    }

    /// Whether `scope` itself is in the set.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether the set permits what `needed` guards.
    ///
    /// `admin` covers all scopes but `operator`; `operator` covers only itself and the deployment's figures, so
    /// that who runs the deployment does not thereby read a tenant's data.
    pub const fn allows(self, needed: Scope) -> bool {
        match needed {
            Scope::Operator => self.contains(Scope::Operator),
            Scope::MetricsRead => {
                self.contains(Scope::Admin) || self.contains(Scope::Operator) || self.contains(needed)
            }
            Scope::JobsWrite
            | Scope::JobsRead
            | Scope::Work
            | Scope::EventsWrite
            | Scope::EndpointsWrite
            | Scope::EndpointsRead
            | Scope::DeliveriesRead
            | Scope::DeadlettersReplay
            | Scope::Admin => self.contains(Scope::Admin) || self.contains(needed),
        }
    }

    /// Whether the set permits all that `other` does: a key may not mint a mightier one.
    pub fn covers(self, other: Scopes) -> bool {
        other.iter().all(|scope| self.allows(scope))
    }

    /// Whether no scope is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes of the set, in the order of the contract.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contains(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Scopes::NONE, Scopes::with)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, scope) in self.iter().enumerate() {
            f.write_str(if place == 0 { "" } else { "," })?;
            f.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl FromStr for Scopes {
    type Err = BadScope;

    /// Reads `jobs:write,jobs:read`; the empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, BadScope> {
        text.split(',')
            .map(str::trim)
            .filter(|scope| !text.is_empty() || !scope.is_empty())
            .map(str::parse)
            .collect()
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Vec::<Scope>::deserialize(d)?.into_iter().collect())
    }
}

impl utoipa::PartialSchema for Scopes {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::schema::ArrayBuilder::new().items(Scope::schema()).into()
    }
}
impl utoipa::ToSchema for Scopes {}
