//! Tenants and their API keys.

use super::Store;
use super::batch::Sql;
use super::db::Row;
use super::error::{Error, Result};
use super::list::Filter;
use super::model::{KeyRecord, PageOf};
use crate::args;
use crate::types::{KeyId, Millis, TenantId, api, id};

macro_rules! key_columns {
    () => {
        "id, tenant_id, name, prefix, hash, scopes, queues, accounts, created_at, expires_at"
    };
}

static PUT_TENANT: Sql = Sql::plain(
    "INSERT INTO tenants (id, name, created_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
);
static TENANT_BY_NAME: Sql = Sql::plain("SELECT id, name, created_at FROM tenants WHERE name = $1");
const TENANT: &str = "SELECT id, name, created_at FROM tenants WHERE id = $1";
const TENANTS: &str = "SELECT id, name, created_at FROM tenants WHERE 1 = 1";

static PUT_KEY: Sql = Sql::plain(
    "INSERT INTO api_keys (id, tenant_id, name, prefix, hash, scopes, queues, accounts, created_at, expires_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
     ON CONFLICT (hash) DO UPDATE
     SET tenant_id = excluded.tenant_id, name = excluded.name, scopes = excluded.scopes, queues = excluded.queues,
         accounts = excluded.accounts, expires_at = excluded.expires_at, revoked_at = NULL",
);
const BY_HASH: &str =
    concat!("SELECT ", key_columns!(), " FROM api_keys WHERE hash = $1 AND revoked_at IS NULL");
const ONE_KEY: &str = concat!(
    "SELECT ",
    key_columns!(),
    " FROM api_keys WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL"
);
const KEYS: &str =
    concat!("SELECT ", key_columns!(), " FROM api_keys WHERE tenant_id = $1 AND revoked_at IS NULL");
const ANY_KEY: &str = "SELECT 1 FROM api_keys WHERE revoked_at IS NULL LIMIT 1";
static REVOKE: Sql =
    Sql::plain("UPDATE api_keys SET revoked_at = $3 WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL");

impl Store {
    /// The tenant of that name, made if there is none.
    pub async fn tenant(&self, name: &str, now: Millis) -> Result<TenantId> {
        self.put_tenant(name, now).await.map(|(tenant, _)| tenant.tenant_id)
    }

    /// The tenant of that name, and whether this made it.
    pub async fn put_tenant(&self, name: &str, now: Millis) -> Result<(api::Tenant, bool)> {
        let mut tx = self.0.writers.begin().await?;
        let id: TenantId = self.0.dice.id(now);
        let made = tx.run(&PUT_TENANT, args![id, name, now]).await? > 0;
        let rows = tx.all(&TENANT_BY_NAME, args![name]).await?;
        let tenant = tenant(rows.first().ok_or(Error::NotFound)?)?;
        tx.commit().await?;
        Ok((tenant, made))
    }

    /// One tenant, for the operator.
    pub async fn get_tenant(&self, id: TenantId) -> Result<api::Tenant> {
        tenant(self.read(TENANT, args![id]).await?.first().ok_or(Error::NotFound)?)
    }

    /// All tenants, newest first.
    pub async fn tenants(&self, page: PageOf<id::Tenant>) -> Result<Vec<api::Tenant>> {
        let (sql, args) = Filter::new(TENANTS, vec![]).page("id", page);
        self.read(sql, args).await?.iter().map(tenant).collect()
    }

    /// Stores a key. The same secret again allows what is said now, also after it was revoked:
    /// only `dev` brings secrets of its own, and what it prints has to work.
    pub async fn put_key(&self, key: &KeyRecord) -> Result<()> {
        let list = |l: &Option<Vec<String>>| l.as_ref().map(|l| serde_json::json!(l).to_string());
        let mut tx = self.0.writers.begin().await?;
        let args = args![
            key.id,
            key.tenant,
            key.name.clone(),
            key.prefix.as_str(),
            key.hash.to_vec(),
            key.scopes.to_string(),
            list(&key.queues),
            list(&key.accounts),
            key.created_at,
            key.expires_at,
        ];
        tx.run(&PUT_KEY, args).await?;
        tx.commit().await
    }

    /// The key with that hash; None if unknown or revoked. Its expiry is the caller's to check.
    ///
    /// Not on the readers' connections: whatever keeps those busy, all others are still let in.
    pub async fn key_by_hash(&self, hash: [u8; 32]) -> Result<Option<KeyRecord>> {
        self.scout(BY_HASH, args![hash.to_vec()]).await?.first().map(key).transpose()
    }

    /// One key of the tenant.
    pub async fn get_key(&self, tenant: TenantId, id: KeyId) -> Result<KeyRecord> {
        key(self.read(ONE_KEY, args![tenant, id]).await?.first().ok_or(Error::NotFound)?)
    }

    /// The tenant's keys, newest first.
    pub async fn keys(&self, tenant: TenantId, page: PageOf<id::Key>) -> Result<Vec<KeyRecord>> {
        let (sql, args) = Filter::new(KEYS, args![tenant]).page("id", page);
        self.read(sql, args).await?.iter().map(key).collect()
    }

    /// Whether any tenant has a key: production does not start without one.
    pub async fn has_keys(&self) -> Result<bool> {
        Ok(!self.read(ANY_KEY, vec![]).await?.is_empty())
    }

    /// Ends a key.
    pub async fn revoke_key(&self, tenant: TenantId, id: KeyId, now: Millis) -> Result<()> {
        let mut tx = self.0.writers.begin().await?;
        let n = tx.run(&REVOKE, args![tenant, id, now]).await?;
        tx.commit().await?;
        if n == 0 { Err(Error::NotFound) } else { Ok(()) }
    }
}

fn tenant(row: &Row) -> Result<api::Tenant> {
    Ok(api::Tenant { tenant_id: row.id(0)?, name: row.text(1)?, created_at: row.time(2)? })
}

fn key(row: &Row) -> Result<KeyRecord> {
    let names = |text: String| {
        serde_json::from_str(&text).map_err(|e| Error::Bug(format!("stored names of a key: {e}")))
    };
    let list = |text: Option<String>| text.map(names).transpose();
    let scopes = row.text(5)?;
    Ok(KeyRecord {
        id: row.id(0)?,
        tenant: row.id(1)?,
        name: row.text_opt(2)?,
        prefix: row.text(3)?,
        hash: row.bytes(4)?.try_into().map_err(|_| Error::Bug("a key's hash has 32 bytes".to_owned()))?,
        scopes: scopes.parse().map_err(|_| Error::Bug(format!("stored scopes {scopes}")))?,
        queues: list(row.text_opt(6)?)?,
        accounts: list(row.text_opt(7)?)?,
        created_at: row.time(8)?,
        expires_at: row.time_opt(9)?,
    })
}
