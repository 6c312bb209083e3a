//! Idempotency keys: stored in the transaction of the job they belong to, kept a day and until it has ended.

use std::collections::HashMap;

use uuid::Uuid;

use super::Store;
use super::batch::{Col, Sql};
use super::db::{Row, Value};
use super::error::{Error, Result};
use super::model::Submitted;
use super::pool::Tx;
use super::rows::{callback_source, job_columns};
use super::submit::replay;
use crate::args;
use crate::types::job::Idempotency;
use crate::types::{Millis, TenantId};

/// How long an idempotency key is kept, and on until its job has ended.
const KEY_LIFE: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

static INSERT_KEYS: Sql = Sql::batch(
    "INSERT INTO idempotency (tenant_id, route, key, fingerprint, job_id, expires_at)
     SELECT b.tenant_id, b.route, b.key, b.fingerprint, b.job_id, $1 FROM {b}
     WHERE true  -- one fixed order, so that two nodes cannot deadlock
     ORDER BY b.tenant_id, b.route, b.key
     ON CONFLICT (tenant_id, route, key) DO NOTHING
     RETURNING job_id",
    1,
    KEY_COLS,
);

pub(super) static DROP_DEAD_KEYS: Sql = Sql::batch(
    "DELETE FROM idempotency
     WHERE expires_at + 0 <= $1
       AND (tenant_id, route, key) IN (SELECT b.tenant_id, b.route, b.key FROM {b})
       AND NOT EXISTS (SELECT 1 FROM job_queue q WHERE q.job_id {is idempotency.job_id})",
    1,
    KEY_COLS,
);

static FIRST_REQUESTS: Sql = Sql::batch(
    "SELECT b.job_id, i.job_id, i.fingerprint, i.tenant_id, i.route, i.key FROM {b}
     JOIN idempotency i ON i.tenant_id = b.tenant_id AND i.route = b.route AND i.key = b.key",
    0,
    KEY_COLS,
);

static PASS_KEYS: Sql = Sql::batch(
    "UPDATE idempotency SET job_id = b.job_id FROM {b}
     WHERE idempotency.tenant_id = b.tenant_id AND idempotency.route = b.route AND idempotency.key = b.key",
    0,
    KEY_COLS,
);

const KEY_COLS: &[(&str, Col)] = &[
    ("tenant_id", Col::Uuid),
    ("route", Col::Text),
    ("key", Col::Text),
    ("fingerprint", Col::Bytes),
    ("job_id", Col::Uuid),
];

const FIRST_REQUEST: &str = concat!(
    "SELECT ",
    job_columns!(),
    ", i.fingerprint FROM idempotency i JOIN jobs j ON j.id = i.job_id LEFT JOIN job_queue q ON q.job_id = j.id ",
    callback_source!(),
    " WHERE i.tenant_id = $1 AND i.route = $2 AND i.key = $3 AND (i.expires_at > $4 OR q.job_id IS NOT NULL)"
);
// Of whatever it made; none of it but a job may be owed.
const FIRST_FINGERPRINT: &str =
    "SELECT i.fingerprint FROM idempotency i LEFT JOIN job_queue q ON q.job_id = i.job_id
     WHERE i.tenant_id = $1 AND i.route = $2 AND i.key = $3 AND (i.expires_at > $4 OR q.job_id IS NOT NULL)";
/// Where the fingerprint stands behind [`job_columns!`].
const FINGERPRINT: usize = 59;

impl Store {
    /// What the first request with that key made; `KeyReused` if it was another request.
    pub async fn first_request(
        &self,
        tenant: TenantId,
        key: &Idempotency,
        now: Millis,
    ) -> Result<Option<Submitted>> {
        let named = (key.route.as_str(), key.key.as_str());
        let Some(row) = self.first_row(tenant, named, now).await? else { return Ok(None) };
        if row.bytes(FINGERPRINT)? != key.fingerprint {
            return Err(Error::KeyReused);
        }
        replay(&row, now).map(Some)
    }

    /// The fingerprint of the first request with that route and key; None if there was none.
    pub async fn first_fingerprint(
        &self,
        tenant: TenantId,
        (route, key): (&str, &str),
        now: Millis,
    ) -> Result<Option<Vec<u8>>> {
        let rows = self.read(FIRST_FINGERPRINT, args![tenant, route, key, now]).await?;
        rows.first().map(|row| row.bytes(0)).transpose()
    }

    async fn first_row(
        &self,
        tenant: TenantId,
        (route, key): (&str, &str),
        now: Millis,
    ) -> Result<Option<Row>> {
        Ok(self.read(FIRST_REQUEST, args![tenant, route, key, now]).await?.into_iter().next())
    }
}

/// A request with its key.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) tenant: TenantId,
    pub(super) key: &'a Idempotency,
    /// The job or whatever else it makes if it is the first.
    pub(super) makes: Uuid,
}

impl Claim<'_> {
    fn name(&self) -> (TenantId, &str, &str) {
        (self.tenant, &self.key.route, &self.key.key)
    }

    fn row(&self) -> Vec<Value> {
        let (tenant, route, key) = self.name();
        args![tenant, route, key, self.key.fingerprint.to_vec(), self.makes]
    }
}

/// What a key says of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Claimed {
    /// It is the first.
    First,
    /// It repeats the one that made this.
    Repeats(Uuid),
    /// The key belongs to another request.
    Refused,
}

/// Claims the keys; one answer each, in order. Of several with one key the first speaks for the later ones.
pub(super) async fn claim_keys(tx: &mut Tx, claims: &[Claim<'_>], now: Millis) -> Result<Vec<Claimed>> {
    let mut speakers: HashMap<(TenantId, &str, &str), &Claim<'_>> = HashMap::new();
    for claim in claims {
        speakers.entry(claim.name()).or_insert(claim);
    }
    let rows = || -> Vec<Vec<Value>> { speakers.values().map(|claim| claim.row()).collect() };
    let expires_at = now.plus(KEY_LIFE);
    // Who holds such a key back has stored it and not committed yet.
    let in_flight = |e| if matches!(e, Error::Locked(_)) { Error::KeyInFlight } else { e };
    let inserted = tx.batch(&INSERT_KEYS, args![expires_at], rows()).await.map_err(in_flight)?.len();
    if inserted < speakers.len() {
        tx.batch(&DROP_DEAD_KEYS, args![now], rows()).await.map_err(in_flight)?;
        tx.batch(&INSERT_KEYS, args![expires_at], rows()).await.map_err(in_flight)?;
    }
    let mut stored: HashMap<(Uuid, String, String), (Uuid, Vec<u8>)> = HashMap::new();
    for row in tx.batch(&FIRST_REQUESTS, vec![], rows()).await? {
        stored.insert((row.uuid(3)?, row.text(4)?, row.text(5)?), (row.uuid(1)?, row.bytes(2)?));
    }
    let answer = |claim: &Claim<'_>| {
        let (tenant, route, key) = claim.name();
        match stored.get(&(tenant.uuid(), route.to_owned(), key.to_owned())) {
            Some((first, _)) if *first == claim.makes => Claimed::First,
            Some((first, print)) if *print == claim.key.fingerprint => Claimed::Repeats(*first),
            Some(_) => Claimed::Refused,
            None => Claimed::First,
        }
    };
    Ok(claims.iter().map(answer).collect())
}

/// Lets keys that were claimed just now tell of what an earlier request made.
pub(super) async fn pass_keys(tx: &mut Tx, claims: &[Claim<'_>]) -> Result<()> {
    tx.batch(&PASS_KEYS, vec![], claims.iter().map(Claim::row).collect()).await.map(drop)
}

/// The same for one request that makes something else than a job: what the first request with that key made, if it
/// was the same request and not this one.
pub(super) async fn claim_one(
    tx: &mut Tx,
    tenant: TenantId,
    key: &Idempotency,
    makes: Uuid,
    now: Millis,
) -> Result<Option<Uuid>> {
    let row = || vec![args![tenant, key.route.as_str(), key.key.as_str(), key.fingerprint.to_vec(), makes]];
    let in_flight = |e| if matches!(e, Error::Locked(_)) { Error::KeyInFlight } else { e };
    tx.batch(&DROP_DEAD_KEYS, args![now], row()).await.map_err(in_flight)?;
    tx.batch(&INSERT_KEYS, args![now.plus(KEY_LIFE)], row()).await.map_err(in_flight)?;
    let stored = tx.batch(&FIRST_REQUESTS, vec![], row()).await?;
    let first = stored.first().ok_or(Error::KeyInFlight)?;
    if first.bytes(2)? != key.fingerprint {
        return Err(Error::KeyReused);
    }
    Ok(Some(first.uuid(1)?).filter(|made| *made != makes))
}
