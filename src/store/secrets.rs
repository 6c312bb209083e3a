//! Signing secrets: the tenant's default one, made on first use, and those of endpoints. Sealed, rotated with overlap.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::Store;
use super::batch::{Col, Sql};
use super::db::Row;
use super::error::{Error, Result};
use super::gather::Gather;
use super::pool::Tx;
use super::seal::Aad;
use crate::args;
use crate::types::signature::schemes::SigningKey;
use crate::types::{EndpointId, Millis, TenantId};

/// The column for which a signing secret is sealed.
pub(super) const COLUMN: &str = "secrets.sealed";
/// Live secrets of one owner, the newest first.
const MOST: usize = 3;
/// Another node's rotation is seen after this long: until then it signs with what was the newest before.
const CACHE_FOR: Duration = Duration::from_secs(5);
/// Owners remembered; forgetting one costs a read.
const REMEMBERED: usize = 10_000;

// Of the owner's newest eight, so that who rotates without end has no more to read: a rotation lets none outlive a
// newer one. A mere bound: the walk from the newest on ends at the eighth.
macro_rules! newest {
    ($owner:literal) => {
        concat!(
            " AND created_at >= COALESCE((SELECT t.created_at FROM secrets t WHERE t.owner_id = ",
            $owner,
            " ORDER BY t.created_at DESC LIMIT 1 OFFSET 7), 0)"
        )
    };
}
// The newest first: so they sign.
const LIVE: &str = concat!(
    "SELECT id, sealed, expires_at FROM secrets WHERE owner_id = $1 AND (expires_at IS NULL OR expires_at > $2)",
    newest!("$1"),
    " ORDER BY created_at DESC LIMIT 4"
);
const FIRST: &str = "SELECT id, sealed, expires_at FROM secrets WHERE owner_id = $1 LIMIT 2";
static LIVE_NOW: Sql = Sql::plain(LIVE);
pub(super) static LIVE_OF: Sql = Sql::batch(
    concat!(
        "SELECT s.id, s.sealed, s.expires_at, s.owner_id
         FROM {b} JOIN secrets s ON s.owner_id {is b.owner_id} AND s.tenant_id = b.tenant_id
         WHERE (s.expires_at IS NULL OR s.expires_at > $1)",
        newest!("b.owner_id"),
        " ORDER BY s.created_at DESC"
    ),
    1,
    &[("owner_id", Col::Uuid), ("tenant_id", Col::Uuid)],
);
// The tenant's row is the lock: two first uses must not make two secrets.
pub(super) static LOCK_TENANT: Sql = Sql::plain("SELECT q.id FROM tenants q WHERE q.id = $1 {wait}");
static LOCK_ENDPOINT: Sql = Sql::plain(
    "SELECT q.id FROM endpoints q WHERE q.id = $1 AND q.tenant_id = $2 AND COALESCE(q.deleted_at, 0) = 0 {wait}",
);
static RETIRE: Sql = Sql::plain(concat!(
    "UPDATE secrets SET expires_at = $2 WHERE owner_id = $1 AND (expires_at IS NULL OR expires_at > $2)",
    newest!("$1")
));
// Under the owner's lock. Later than all before, whatever the clocks of nodes say: this is their order.
static PUT: Sql = Sql::plain(
    "INSERT INTO secrets (id, tenant_id, owner_id, sealed, created_at, expires_at)
     VALUES ($1, $2, $3, $4, (SELECT CASE WHEN MAX(p.created_at) >= $5 THEN MAX(p.created_at) + 1 ELSE $5 END
                              FROM secrets p WHERE p.owner_id = $3), NULL)",
);

/// A secret, with the Ed25519 key beside it, and until when they sign; None = until they are rotated.
pub type LiveSecret = (SigningKey, Option<Millis>);

/// What a rotation leaves.
#[derive(Debug, Clone)]
pub struct Rotated {
    /// The live secrets, the new one first.
    pub live: Vec<LiveSecret>,
    /// Until when one would have signed that this rotation ended, because so many sign at the most.
    pub cut_off: Option<Millis>,
}

/// Those that still sign at `now`.
fn signing(secrets: impl IntoIterator<Item = LiveSecret>, now: Millis) -> Vec<LiveSecret> {
    secrets.into_iter().filter(|(_, until)| until.is_none_or(|u| u > now)).collect()
}

/// What was read lately, and what is asked for.
#[derive(Default)]
pub(super) struct Cache {
    known: Mutex<Known>,
    asked: Gather<(TenantId, Uuid), Vec<LiveSecret>>,
}

#[derive(Default)]
struct Known {
    secrets: HashMap<Uuid, (Millis, Vec<LiveSecret>)>,
    /// Rises when this node makes a secret, so that a read begun before is not remembered.
    changes: u64,
}

impl Cache {
    fn get(&self, owner: Uuid, now: Millis) -> Option<Vec<LiveSecret>> {
        let cache = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, secrets) = cache.secrets.get(&owner)?;
        let fresh = now >= *at && now.since(*at) < CACHE_FOR;
        fresh.then(|| signing(secrets.iter().cloned(), now))
    }

    fn changes(&self) -> u64 {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).changes
    }

    /// Remembers what was read when so many changes had been made.
    fn put(&self, owner: Uuid, secrets: &[LiveSecret], now: Millis, changes: u64) {
        let mut cache = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.changes != changes {
            return;
        }
        if cache.secrets.len() >= REMEMBERED {
            cache.secrets.clear();
        }
        cache.secrets.insert(owner, (now, secrets.to_vec()));
    }

    /// A secret was made: the next who asks reads it.
    fn changed(&self, owner: Uuid) {
        let mut cache = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        cache.changes += 1;
        cache.secrets.remove(&owner);
    }
}

impl Store {
    /// The tenant's live default secrets, newest first: they sign in this order.
    pub async fn default_secrets(&self, tenant: TenantId, now: Millis) -> Result<Vec<LiveSecret>> {
        let mut secrets = self.secrets_of(tenant, tenant.uuid(), now).await?;
        if secrets.is_empty() {
            let mut tx = self.0.writers.begin().await?;
            tx.all(&LOCK_TENANT, args![tenant]).await?;
            secrets = self.open_all(tenant, &tx.all(&LIVE_NOW, args![tenant, now]).await?)?;
            if secrets.is_empty() {
                self.add_secret(&mut tx, tenant, tenant.uuid(), now).await?;
                secrets = self.open_all(tenant, &tx.all(&LIVE_NOW, args![tenant, now]).await?)?;
            }
            tx.commit().await?;
            self.0.secrets.changed(tenant.uuid());
        }
        Ok(secrets)
    }

    /// An endpoint's live secrets, newest first; none once it is deleted.
    pub async fn endpoint_secrets(
        &self,
        tenant: TenantId,
        id: EndpointId,
        now: Millis,
    ) -> Result<Vec<LiveSecret>> {
        self.secrets_of(tenant, id.uuid(), now).await
    }

    /// The secret that an endpoint was made with, unless it was rotated since: what is retired is kept for longer than
    /// a creation can be repeated.
    pub async fn first_endpoint_secret(
        &self,
        tenant: TenantId,
        id: EndpointId,
    ) -> Result<Option<SigningKey>> {
        let rows = self.read(FIRST, args![id]).await?;
        let mut all = self.open_all(tenant, &rows)?;
        Ok(all.pop().filter(|_| all.is_empty()).map(|(secret, _)| secret))
    }

    async fn secrets_of(&self, tenant: TenantId, owner: Uuid, now: Millis) -> Result<Vec<LiveSecret>> {
        if let Some(secrets) = self.0.secrets.get(owner, now) {
            return Ok(secrets);
        }
        let found =
            self.0.secrets.asked.ask((tenant, owner), |owners| self.live_secrets(owners, now)).await?;
        match found {
            // Read for who asked first, perhaps some time ago.
            Some(secrets) => Ok(signing(secrets, now)),
            // There are none, or one that does not open: it is nobody else's fault.
            None => self.open_all(tenant, &self.read(LIVE, args![owner, now]).await?),
        }
    }

    /// The live secrets of these owners, as far as they have some that open.
    async fn live_secrets(
        &self,
        owners: Vec<(TenantId, Uuid)>,
        now: Millis,
    ) -> Result<HashMap<(TenantId, Uuid), Vec<LiveSecret>>> {
        let changes = self.0.secrets.changes();
        let keys = owners.iter().map(|(tenant, owner)| args![*owner, *tenant]).collect();
        let mut rows: HashMap<Uuid, Vec<Row>> = HashMap::with_capacity(owners.len());
        for row in self.scout_batch(&LIVE_OF, args![now], keys).await? {
            rows.entry(row.uuid(3)?).or_default().push(row);
        }
        let mut found = HashMap::with_capacity(rows.len());
        for (tenant, owner) in owners {
            let Some(rows) = rows.get(&owner) else { continue };
            if let Ok(secrets) = self.open_all(tenant, rows) {
                self.0.secrets.put(owner, &secrets, now, changes);
                found.insert((tenant, owner), secrets);
            }
        }
        Ok(found)
    }

    /// A new default secret, first in the list; the ones before sign for `overlap` more.
    pub async fn rotate_default_secret(
        &self,
        tenant: TenantId,
        overlap: Duration,
        now: Millis,
    ) -> Result<Rotated> {
        let mut tx = self.0.writers.begin().await?;
        tx.all(&LOCK_TENANT, args![tenant]).await?;
        self.rotate(tx, tenant, tenant.uuid(), overlap, now).await
    }

    /// The same for an endpoint.
    pub async fn rotate_endpoint_secret(
        &self,
        tenant: TenantId,
        id: EndpointId,
        overlap: Duration,
        now: Millis,
    ) -> Result<Rotated> {
        let mut tx = self.0.writers.begin().await?;
        if tx.all(&LOCK_ENDPOINT, args![id, tenant]).await?.is_empty() {
            tx.rollback().await?;
            return Err(Error::NotFound);
        }
        self.rotate(tx, tenant, id.uuid(), overlap, now).await
    }

    async fn rotate(
        &self,
        mut tx: Tx,
        tenant: TenantId,
        owner: Uuid,
        overlap: Duration,
        now: Millis,
    ) -> Result<Rotated> {
        tx.run(&RETIRE, args![owner, now.plus(overlap)]).await?;
        self.add_secret(&mut tx, tenant, owner, now).await?;
        let rows = tx.all(&LIVE_NOW, args![owner, now]).await?;
        let live = self.open_all(tenant, &rows)?;
        let cut_off = rows.get(MOST).map_or(Ok(None), |row| row.time_opt(2))?;
        tx.commit().await?;
        self.0.secrets.changed(owner);
        Ok(Rotated { live, cut_off })
    }

    pub(super) async fn add_secret(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        owner: Uuid,
        now: Millis,
    ) -> Result<()> {
        let id = self.0.dice.id::<()>(now).uuid();
        let bug = |why: String| Error::Bug(why);
        let key = SigningKey::from_random(self.0.dice.bytes(), self.0.dice.bytes());
        let key = key.map_err(|e| bug(e.to_string()))?;
        let plain = key.to_bytes().ok_or_else(|| bug("a new key has both halves".to_owned()))?;
        let aad = Aad { tenant: tenant.uuid(), row: id, column: COLUMN };
        let sealed = self.0.keys.now().ring.seal(self.0.dice.bytes(), &aad, &plain);
        tx.run(&PUT, args![id, tenant, owner, sealed, now]).await.map(drop)
    }

    fn open_all(&self, tenant: TenantId, rows: &[Row]) -> Result<Vec<LiveSecret>> {
        rows.iter()
            .take(MOST)
            .map(|row| {
                let aad = Aad { tenant: tenant.uuid(), row: row.uuid(0)?, column: COLUMN };
                let plain = self.0.keys.now().ring.open(&aad, &row.bytes(1)?)?;
                let secret = SigningKey::from_bytes(&plain).map_err(|e| Error::Bug(e.to_string()))?;
                Ok((secret, row.time_opt(2)?))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(n: u8) -> Vec<LiveSecret> {
        vec![(SigningKey::from_random([n; 32], [n; 32]).unwrap(), None)]
    }

    #[test]
    fn a_read_begun_before_a_rotation_is_not_remembered_over_it() {
        let (cache, owner, now) = (Cache::default(), Uuid::from_u128(1), Millis(1_000));
        let begun = cache.changes();
        cache.put(owner, &secret(1), now, begun);
        assert!(cache.get(owner, now).is_some());
        cache.changed(owner);
        assert!(cache.get(owner, now).is_none(), "what was rotated is read anew");
        cache.put(owner, &secret(1), now, begun);
        assert!(cache.get(owner, now).is_none(), "it may be older than the rotation");
        cache.put(owner, &secret(2), now, cache.changes());
        assert_eq!(cache.get(owner, now).unwrap()[0].0.reveal(), secret(2)[0].0.reveal());
    }
}
