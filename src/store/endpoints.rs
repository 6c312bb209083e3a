//! Standing endpoints: what their owners do with them.

use super::batch::Sql;
use super::db::{Row, Value};
use super::error::{Error, Result};
use super::idempotency::claim_one;
use super::lanes::{clear, origin_of, touch};
use super::list::{Filter, Found};
use super::model::{EndpointFilter, NewEndpoint, PageOf};
use super::pool::Tx;
use super::rows::json;
use super::seal::Aad;
use super::secrets::LOCK_TENANT;
use super::{Inner, Store};
use crate::args;
use crate::types::api::{Format, Payload};
use crate::types::endpoint::{
    Endpoint, EndpointState, LaneLimits, Scheme, Settings, TIMEOUT_SECONDS, lane_of,
};
use crate::types::problem::{Invalid, ProblemCode};
use crate::types::retry::RetryPolicy;
use crate::types::{EndpointId, Millis, TenantId, id};

/// The column for which an endpoint's headers are sealed.
pub(super) const SEALED_COLUMN: &str = "endpoints.sealed";

/// Accounts that an endpoint has belonged to: a list of its deliveries looks in each.
const MOST_FORMER: usize = 50;

/// The columns of [`endpoint`], in order, of alias `e`.
macro_rules! endpoint_columns {
    () => {
        "e.id, e.tenant_id, e.account, e.url, e.description, e.patterns, e.sealed, e.rate_per_second, e.max_in_flight, \
         e.timeout_seconds, e.ordered, e.policy, e.payload, e.format, e.schemes, e.state, e.state_reason, e.state_since, \
         e.verified_at, e.failing_since, e.failed, e.created_at, e.updated_at"
    };
}
pub(super) use endpoint_columns;

const LIST: &str = concat!("SELECT ", endpoint_columns!());
const ONE: &str = concat!(
    "SELECT ",
    endpoint_columns!(),
    " FROM endpoints e WHERE e.id = $1 AND e.tenant_id = $2 AND COALESCE(e.deleted_at, 0) = 0"
);

static ONE_LOCKED: Sql = Sql::plain(
    "SELECT q.id FROM endpoints q WHERE q.id = $1 AND q.tenant_id = $2 AND COALESCE(q.deleted_at, 0) = 0 {wait}",
);
static ONE_NOW: Sql = Sql::plain(ONE);
static COUNT: Sql = Sql::plain(
    "SELECT COUNT(*) FROM endpoints e WHERE e.tenant_id = $1 AND e.account = $2 AND e.deleted_at IS NULL",
);
static INSERT: Sql = Sql::plain(
    "INSERT INTO endpoints (id, tenant_id, account, url, description, patterns, sealed, rate_per_second, max_in_flight,
                            timeout_seconds, ordered, policy, payload, format, schemes, state, state_since, failed, told,
                            created_at, updated_at, drain_step)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 'enabled', $16, 0, 'nothing', $16, $16, 0)",
);
static UPDATE: Sql = Sql::plain(
    "UPDATE endpoints
     SET account = $3, verified_at = CASE WHEN url = $4 THEN verified_at END, url = $4, description = $5, patterns = $6,
         sealed = $7, rate_per_second = $8, max_in_flight = $9, timeout_seconds = $10, ordered = $11, policy = $12,
         payload = $13, format = $14, schemes = $15, updated_at = $16
     WHERE id = $1 AND tenant_id = $2",
);
static FORMER: Sql = Sql::plain(
    "SELECT former_accounts FROM endpoints WHERE id = $1 AND tenant_id = $2 AND COALESCE(deleted_at, 0) = 0",
);
static MOVED: Sql = Sql::plain("UPDATE endpoints SET former_accounts = $3 WHERE id = $1 AND tenant_id = $2");
static PAUSE: Sql = Sql::plain(
    "UPDATE endpoints SET state = 'paused', state_reason = 'requested', state_since = $3
     WHERE id = $1 AND tenant_id = $2 AND COALESCE(deleted_at, 0) = 0 AND state <> 'paused'",
);
// What was parked is let go by and by, see `parking`. Whoever resumes a disabled endpoint gives it a new start.
static RESUME: Sql = Sql::plain(
    "UPDATE endpoints
     SET state = 'enabled', state_reason = NULL, state_since = $3, failing_since = NULL, failed = 0,
         told = 'nothing', drain_at = $3, drain_step = 0
     WHERE id = $1 AND tenant_id = $2 AND COALESCE(deleted_at, 0) = 0 AND state <> 'enabled'",
);
// What its lane had learned is of another time. Where a node still owns the lane, it goes on with the pace that it knows.
static SLOW_START: Sql = Sql::plain("UPDATE lanes SET concurrency = 1 WHERE id = $1 AND owner_id IS NULL");
static VERIFIED: Sql = Sql::plain(
    "UPDATE endpoints SET verified_at = $4 WHERE id = $1 AND tenant_id = $2 AND url = $3 AND COALESCE(deleted_at, 0) = 0",
);
static DELETE: Sql = Sql::plain(
    "UPDATE endpoints SET deleted_at = $3, sealed = NULL, drain_at = $3, drain_step = 0
     WHERE id = $1 AND tenant_id = $2 AND COALESCE(deleted_at, 0) = 0",
);

impl Inner {
    /// Before who changed it is answered: this node goes by it at once.
    pub(super) fn endpoint_changed(&self, id: EndpointId) {
        self.subscribers.changed();
        if let Some(desk) = self.desk.get() {
            desk.empty_hand(lane_of(id));
        }
    }
}

impl Store {
    /// Makes an endpoint and its first secret. Gives its id, and whether an earlier request had made it.
    ///
    /// `KeyReused` if the idempotency key is another request's; refused above `quota` endpoints of one account.
    pub async fn put_endpoint(
        &self,
        new: NewEndpoint,
        quota: u32,
        now: Millis,
    ) -> Result<(EndpointId, bool)> {
        let id: EndpointId = self.0.dice.id(now);
        let mut tx = self.0.writers.begin().await?;
        // The tenant's row is the lock: two requests must not both see room for the last endpoint.
        tx.all(&LOCK_TENANT, args![new.tenant]).await?;
        if let Some(key) = &new.idempotency
            && let Some(earlier) = claim_one(&mut tx, new.tenant, key, id.uuid(), now).await?
        {
            tx.rollback().await?;
            return Ok((EndpointId::from_uuid(earlier), true));
        }
        room(&mut tx, new.tenant, &new.settings, quota).await?;
        tx.run(&INSERT, self.endpoint_row(new.tenant, id, &new.settings, now)?).await?;
        self.add_secret(&mut tx, new.tenant, id.uuid(), now).await?;
        // Its lane is there before a node owns it, to be seen and to be paused.
        touch(&mut tx, new.tenant, id, now).await?;
        tx.commit().await?;
        self.0.subscribers.changed();
        Ok((id, false))
    }

    /// One endpoint.
    pub async fn endpoint(&self, tenant: TenantId, id: EndpointId) -> Result<Endpoint> {
        endpoint(self.read(ONE, args![id, tenant]).await?.first().ok_or(Error::NotFound)?, 0)
    }

    /// The tenant's endpoints, newest first. One call that asks for a state looks at some thousands of those that an index tells
    /// apart; one that is for some accounts only at all of theirs.
    pub async fn endpoints(
        &self,
        tenant: TenantId,
        filter: &EndpointFilter,
        page: PageOf<id::Endpoint>,
    ) -> Result<Found<Endpoint, id::Endpoint>> {
        let mut walked =
            Filter::new(" FROM endpoints e WHERE e.tenant_id = $1 AND e.deleted_at IS NULL", args![tenant]);
        if filter.state.is_some_and(|state| state != EndpointState::Enabled) {
            // The partial index is taken only where the text names its condition.
            walked.push(" AND e.state <> 'enabled'");
        }
        walked.and_some("e.account = {}", filter.account.clone());
        let mut f = walked.under(LIST);
        let end = match filter.only_accounts.is_none() && filter.state.is_some() {
            true => self.end_of_look(walked.under("SELECT e.id"), "e.id", page.after).await?,
            false => None,
        };
        f.and_some("e.id >= {}", end);
        f.and_some("e.state = {}", filter.state.map(EndpointState::as_str));
        if let Some(accounts) = &filter.only_accounts {
            f.any("e.account", accounts);
        }
        let (sql, args) = f.page("e.id", PageOf { ..page });
        let rows =
            self.read(sql, args).await?.iter().map(|row| endpoint(row, 0)).collect::<Result<Vec<_>>>()?;
        Ok(Found::new(rows, page.limit, end))
    }

    /// Changes what `edit` changes of an endpoint's settings.
    pub async fn change_endpoint(
        &self,
        tenant: TenantId,
        id: EndpointId,
        edit: impl FnOnce(Settings) -> std::result::Result<Settings, Invalid>,
        quota: u32,
        now: Millis,
    ) -> Result<Endpoint> {
        let mut tx = self.0.writers.begin().await?;
        tx.all(&LOCK_TENANT, args![tenant]).await?;
        let before = locked(&mut tx, tenant, id).await?;
        let (account, url) = (before.settings.account.clone(), before.settings.url.clone());
        let headers = self.endpoint_headers(&before)?;
        let settings = edit(Settings { headers, ..before.settings })?;
        if settings.account != account {
            room(&mut tx, tenant, &settings, quota).await?;
            leave_account(&mut tx, tenant, id, account.unwrap_or_default()).await?;
        }
        tx.run(&UPDATE, self.endpoint_row(tenant, id, &settings, now)?).await?;
        touch(&mut tx, tenant, id, now).await?;
        if settings.url != url {
            // What was found out is of another receiver.
            clear(&mut tx, lane_of(id), now).await?;
        }
        tx.commit().await?;
        self.0.endpoint_changed(id);
        self.endpoint(tenant, id).await
    }

    /// Parks what an endpoint is owed, or lets it go again. What is under way goes on.
    pub async fn set_endpoint_paused(
        &self,
        tenant: TenantId,
        id: EndpointId,
        paused: bool,
        now: Millis,
    ) -> Result<Endpoint> {
        let mut tx = self.0.writers.begin().await?;
        let changed = tx.run(if paused { &PAUSE } else { &RESUME }, args![id, tenant, now]).await?;
        if changed > 0 && !paused {
            tx.run(&SLOW_START, args![lane_of(id)]).await?;
            clear(&mut tx, lane_of(id), now).await?;
        } else if changed > 0 {
            touch(&mut tx, tenant, id, now).await?;
        }
        tx.commit().await?;
        self.0.endpoint_changed(id);
        self.endpoint(tenant, id).await
    }

    /// Notes that the endpoint echoed a challenge from `url`, unless it has another one by now.
    pub async fn set_endpoint_verified(
        &self,
        tenant: TenantId,
        id: EndpointId,
        url: &str,
        now: Millis,
    ) -> Result<()> {
        let mut tx = self.0.writers.begin().await?;
        tx.run(&VERIFIED, args![id, tenant, url, now]).await?;
        tx.commit().await?;
        self.0.subscribers.changed();
        Ok(())
    }

    /// Deletes an endpoint and its secrets. Its deliveries that are owed end cancelled: those that are looked at
    /// at once, the others by and by, see `parking`.
    pub async fn delete_endpoint(&self, tenant: TenantId, id: EndpointId, now: Millis) -> Result<()> {
        let mut tx = self.0.writers.begin().await?;
        if tx.run(&DELETE, args![id, tenant, now]).await? == 0 {
            tx.rollback().await?;
            return Err(Error::NotFound);
        }
        touch(&mut tx, tenant, id, now).await?;
        tx.commit().await?;
        self.0.endpoint_changed(id);
        // What the first step leaves or meets in use the sweep ends.
        let _ = self.step_drain_of(id, now).await;
        Ok(())
    }

    /// The headers that an endpoint adds.
    pub fn endpoint_headers(&self, endpoint: &Endpoint) -> Result<Vec<(String, String)>> {
        self.open_endpoint_headers(endpoint.tenant, endpoint.id, endpoint.sealed.as_deref())
    }

    /// The same from what a claim carries.
    pub fn open_endpoint_headers(
        &self,
        tenant: TenantId,
        id: EndpointId,
        sealed: Option<&[u8]>,
    ) -> Result<Vec<(String, String)>> {
        let Some(sealed) = sealed else { return Ok(Vec::new()) };
        let plain = self.0.keys.now().ring.open(&aad(tenant, id), sealed)?;
        serde_json::from_slice(&plain).map_err(|_| Error::Bug("what was sealed is no JSON".to_owned()))
    }

    fn endpoint_row(
        &self,
        tenant: TenantId,
        id: EndpointId,
        s: &Settings,
        now: Millis,
    ) -> Result<Vec<Value>> {
        let sealed = match s.headers.is_empty() {
            true => None,
            false => {
                let plain = json(&s.headers)?;
                Some(self.0.keys.now().ring.seal(self.0.dice.bytes(), &aad(tenant, id), plain.as_bytes()))
            }
        };
        Ok(args![
            id,
            tenant,
            s.account.clone().unwrap_or_default(),
            s.url.as_str(),
            s.description.clone(),
            json(&s.patterns)?,
            sealed,
            s.limits.rate_per_second.map(i64::from),
            s.limits.max_in_flight.map(i64::from),
            s.limits.timeout_seconds,
            i64::from(s.limits.ordered),
            json(&s.retry)?,
            json(&s.payload)?,
            json(&s.format)?,
            json(&s.schemes)?,
            now,
        ])
    }
}

fn aad(tenant: TenantId, id: EndpointId) -> Aad {
    Aad { tenant: tenant.uuid(), row: id.uuid(), column: SEALED_COLUMN }
}

async fn locked(tx: &mut Tx, tenant: TenantId, id: EndpointId) -> Result<Endpoint> {
    tx.all(&ONE_LOCKED, args![id, tenant]).await?;
    endpoint(tx.all(&ONE_NOW, args![id, tenant]).await?.first().ok_or(Error::NotFound)?, 0)
}

/// Refuses one endpoint more than an account may have.
async fn room(tx: &mut Tx, tenant: TenantId, settings: &Settings, quota: u32) -> Result<()> {
    let account = settings.account.clone().unwrap_or_default();
    let there = tx.all(&COUNT, args![tenant, account]).await?;
    if there.first().map_or(Ok(0), |row| row.int(0))? < i64::from(quota) {
        return Ok(());
    }
    let detail = format!("an account has at most {quota} endpoints, and so has what belongs to none");
    Err(Invalid { code: ProblemCode::QuotaExceeded, detail, errors: Vec::new() }.into())
}

/// Notes the account in which an endpoint's deliveries were made so far.
async fn leave_account(tx: &mut Tx, tenant: TenantId, id: EndpointId, account: String) -> Result<()> {
    let rows = tx.all(&FORMER, args![id, tenant]).await?;
    let mut former = former_accounts(rows.first().ok_or(Error::NotFound)?.text_opt(0)?)?;
    if former.contains(&account) {
        return Ok(());
    }
    if former.len() >= MOST_FORMER {
        let detail = format!(
            "an endpoint belongs to at most {MOST_FORMER} accounts before its last; create a new one"
        );
        return Err(Invalid { code: ProblemCode::QuotaExceeded, detail, errors: Vec::new() }.into());
    }
    former.push(account);
    tx.run(&MOVED, args![id, tenant, json(&former)?]).await.map(drop)
}

/// Reads the column of that name; an empty name stands for none.
pub(super) fn former_accounts(text: Option<String>) -> Result<Vec<String>> {
    let read = text.map(|text| serde_json::from_str(&text)).transpose();
    read.map(Option::unwrap_or_default).map_err(|e| Error::Bug(format!("stored endpoint: {e}")))
}

/// Reads [`endpoint_columns!`] that begin at position `at`.
pub(super) fn endpoint(row: &Row, at: usize) -> Result<Endpoint> {
    endpoint_as(row, at, true)
}

/// The same for whoever reads it among others: where it cannot be read the usual is believed of it, or one damaged row would
/// keep all that is told beside it from being told. Without a pattern that can be read it hears of nothing.
pub(super) fn believed(row: &Row, at: usize) -> Result<Endpoint> {
    endpoint(row, at).or_else(|e| {
        let id: EndpointId = row.id(at)?;
        tracing::error!(endpoint.id = %id, error = %e, "an endpoint cannot be read and is taken for a usual one");
        endpoint_as(row, at, false)
    })
}

/// `whole`: nothing of it may be unreadable.
fn endpoint_as(row: &Row, at: usize, whole: bool) -> Result<Endpoint> {
    let state = row.text(at + 15)?;
    let settings = Settings {
        account: row.text_opt(at + 2)?.filter(|account| !account.is_empty()),
        url: row.text(at + 3)?,
        description: row.text_opt(at + 4)?,
        patterns: or(read(row, at + 5), whole, Vec::new())?,
        headers: Vec::new(),
        limits: limits(row, at + 7, whole)?,
        retry: or(read(row, at + 11), whole, RetryPolicy::default())?,
        payload: or(read(row, at + 12), whole, Payload::default())?,
        format: or(read(row, at + 13), whole, Format::default())?,
        schemes: or(read(row, at + 14), whole, vec![Scheme::V1])?,
    };
    Ok(Endpoint {
        id: row.id(at)?,
        tenant: row.id(at + 1)?,
        // It was checked; were it not a URL after all, only its deliveries would fail.
        host: origin_of(&settings.url).map(|(_, host)| host.to_owned()).unwrap_or_default(),
        settings,
        sealed: row.bytes_opt(at + 6)?,
        state: EndpointState::from_word(&state).ok_or_else(|| Error::Bug(format!("state {state}")))?,
        reason: row.text_opt(at + 16)?,
        since: row.time(at + 17)?,
        verified_at: row.time_opt(at + 18)?,
        failing_since: row.time_opt(at + 19)?,
        failed: or(row.count(at + 20), whole, 0)?,
        created_at: row.time(at + 21)?,
        updated_at: row.time(at + 22)?,
        readable: whole,
    })
}

fn limits(row: &Row, at: usize, whole: bool) -> Result<LaneLimits> {
    let count = |i: usize| Ok::<_, Error>(row.int_opt(i)?.and_then(|n| u32::try_from(n).ok()));
    Ok(LaneLimits {
        rate_per_second: count(at)?,
        max_in_flight: count(at + 1)?,
        timeout_seconds: or(row.count(at + 2), whole, TIMEOUT_SECONDS)?,
        ordered: row.int(at + 3)? == 1,
    })
}

fn or<T>(read: Result<T>, whole: bool, usual: T) -> Result<T> {
    if whole { read } else { Ok(read.unwrap_or(usual)) }
}

fn read<T: serde::de::DeserializeOwned>(row: &Row, i: usize) -> Result<T> {
    serde_json::from_str(&row.text(i)?).map_err(|e| Error::Bug(format!("stored endpoint: {e}")))
}
