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
use crate::types::job::{Idempotency, NewJob};
use crate::types::{JobId, Millis, TenantId};

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

static DROP_DEAD_KEYS: Sql = Sql::batch(
    "DELETE FROM idempotency
     WHERE expires_at <= $1
       AND (tenant_id, route, key) IN (SELECT b.tenant_id, b.route, b.key FROM {b})
       AND NOT EXISTS (SELECT 1 FROM job_queue q WHERE q.job_id = idempotency.job_id)",
    1,
    KEY_COLS,
);

static FIRST_REQUESTS: Sql = Sql::batch(
    "SELECT b.job_id, i.job_id, i.fingerprint FROM {b}
     JOIN idempotency i ON i.tenant_id = b.tenant_id AND i.route = b.route AND i.key = b.key",
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
/// Where the fingerprint stands behind [`job_columns!`].
const FINGERPRINT: usize = 60;

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
        named: (&str, &str),
        now: Millis,
    ) -> Result<Option<Vec<u8>>> {
        self.first_row(tenant, named, now).await?.map(|row| row.bytes(FINGERPRINT)).transpose()
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

/// Which of the jobs repeat an earlier request: `Ok` names its job, `Err` says it was another request.
pub(super) async fn claim_keys(
    tx: &mut Tx,
    keyed: &[&NewJob],
    now: Millis,
) -> Result<HashMap<JobId, std::result::Result<JobId, ()>>> {
    // The first of this batch with a key speaks for the later ones.
    let mut first: HashMap<(TenantId, &str, &str), &NewJob> = HashMap::new();
    for job in keyed {
        if let Some(i) = &job.idempotency {
            first.entry((job.tenant, &i.route, &i.key)).or_insert(job);
        }
    }
    let rows = || -> Vec<Vec<Value>> {
        first.values().filter_map(|j| Some(key_row(j, j.idempotency.as_ref()?))).collect()
    };
    let expires_at = now.plus(KEY_LIFE);
    // Who holds such a key back has stored it and not committed yet.
    let in_flight = |e| if matches!(e, Error::Locked(_)) { Error::KeyInFlight } else { e };
    let inserted = tx.batch(&INSERT_KEYS, args![expires_at], rows()).await.map_err(in_flight)?.len();
    if inserted < first.len() {
        tx.batch(&DROP_DEAD_KEYS, args![now], rows()).await.map_err(in_flight)?;
        tx.batch(&INSERT_KEYS, args![expires_at], rows()).await.map_err(in_flight)?;
    }
    let mut stored: HashMap<JobId, (JobId, Vec<u8>)> = HashMap::new();
    for row in tx.batch(&FIRST_REQUESTS, vec![], rows()).await? {
        stored.insert(row.id(0)?, (row.id(1)?, row.bytes(2)?));
    }
    let mut earlier = HashMap::new();
    for job in keyed {
        let Some(i) = &job.idempotency else { continue };
        let speaker = first.get(&(job.tenant, i.route.as_str(), i.key.as_str())).map_or(job.id, |j| j.id);
        let Some((owner, fingerprint)) = stored.get(&speaker) else { continue };
        if *owner != job.id {
            earlier.insert(job.id, if *fingerprint == i.fingerprint { Ok(*owner) } else { Err(()) });
        }
    }
    Ok(earlier)
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

fn key_row(job: &NewJob, i: &Idempotency) -> Vec<Value> {
    args![job.tenant, i.route.as_str(), i.key.as_str(), i.fingerprint.to_vec(), job.id]
}
