//! Tenants, keys, secrets and health.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use utoipa::ToSchema;

use crate::types::key::Scope;
use crate::types::{KeyId, Millis, TenantId};

/// An API key without its secret.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// Names the key.
    pub key_id: KeyId,
    /// For people.
    pub name: Option<String>,
    /// The first characters of the secret.
    pub prefix: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// Only these queues; all when absent.
    pub queues: Option<Vec<String>>,
    /// Only these accounts; all when absent.
    pub accounts: Option<Vec<String>>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Millis,
    /// When it stops working.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Millis>,
    /// The secret; only in the answer to its creation.
    pub key: Option<String>,
}

/// A request for a new API key.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewApiKey {
    /// For people; at most 255 characters.
    #[schema(max_length = 255)]
    pub name: Option<String>,
    /// What it allows; not more than the key that asks.
    #[schema(min_items = 1)]
    pub scopes: Vec<Scope>,
    /// Only these queues.
    #[schema(max_items = 50)]
    pub queues: Option<Vec<String>>,
    /// Only these accounts.
    #[schema(max_items = 50)]
    pub accounts: Option<Vec<String>>,
    /// When it stops working.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Millis>,
}

/// Whose jobs, deliveries and keys belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tenant {
    /// Names it.
    pub tenant_id: TenantId,
    /// As given at its creation.
    pub name: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Millis,
}

/// A request for a tenant.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewTenant {
    /// 1-128 characters of `A-Za-z0-9._:-`.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
    pub name: String,
}

/// The tenant's default webhook secret.
#[skip_serializing_none]
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookSecret {
    /// `whsec_...`; signs callbacks that bring none.
    pub secret: String,
    /// Until when the one before signs too.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub previous_expires_at: Option<Millis>,
    /// Until when a secret would have signed that this rotation ended: at most three sign.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub cut_off_expires_at: Option<Millis>,
}

/// How long the old secret keeps signing beside the new one.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RotateSecret {
    /// 0..604800 seconds; 86400 when left out.
    #[schema(minimum = 0, maximum = 604800)]
    pub overlap_seconds: Option<u32>,
}

/// How a node or the fleet is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `ok`, `degraded` or `unavailable`.
    pub status: String,
    /// What was looked at: name and finding.
    pub checks: std::collections::BTreeMap<String, String>,
}
