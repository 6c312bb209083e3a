//! Reading deliveries and dead letters, and sending one of them again.

use super::Store;
use super::batch::Sql;
use super::db::Row;
use super::endpoints::former_accounts;
use super::error::{Error, Result};
use super::lanes::{held_columns, held_until, hold};
use super::list::{Filter, Found};
use super::model::{DeliveryFilter, Narrow, PageOf, ReplayOf};
use super::redrive::{is_direct, matching};
use super::reopen::{lock_one, reopen};
use super::rows::policy;
use super::sweep::KEEP_DELIVERIES;
use crate::args;
use crate::types::delivery::DeliveryState;
use crate::types::endpoint::PARKED;
use crate::types::{DeliveryId, EndpointId, Millis, TenantId, api, id};

macro_rules! delivery_columns {
    () => {
        concat!(
            "SELECT d.id, d.event_id, d.event_kind, d.job_id, d.account, d.endpoint_id, d.url, d.state, d.attempt, d.policy,
                d.last_status, d.last_error, d.created_at, d.ended_at, q.phase, q.due_at, q.attempt, ",
            held_columns!(),
            ", ep.url
             FROM deliveries d LEFT JOIN delivery_queue q ON q.delivery_id = d.id LEFT JOIN lanes l ON l.id = d.lane_id
                  LEFT JOIN endpoints ep ON ep.id = d.endpoint_id AND d.state = 'owed'"
        )
    };
}

const LIST: &str = concat!(delivery_columns!(), " WHERE d.tenant_id = $1");
const ONE: &str = concat!(delivery_columns!(), " WHERE d.id = $1 AND d.tenant_id = $2");
const ATTEMPTS: &str = "
    SELECT number, started_at, duration_ms, phases, status, error, headers, body, next_at, address
    FROM attempts WHERE delivery_id = $1 ORDER BY number LIMIT 1000";
// Its accounts by now and before. What was made for one that is deleted was made without looking at it.
const ACCOUNTS: &str = "
    SELECT account, former_accounts, CAST(CASE WHEN deleted_at IS NULL THEN 0 ELSE 1 END AS BIGINT)
    FROM endpoints WHERE id = $1 AND tenant_id = $2";
const LETTERS: &str = "
    SELECT delivery_id, event_kind, job_id, account, endpoint_id, url, reason, attempts, first_error, last_error, died_at
    FROM dead_letters WHERE tenant_id = $1";

// Whatever has an account goes to an endpoint: said, the index is taken.
const OF_ACCOUNT: &str = "d.endpoint_id IS NOT NULL AND d.account = {}";

static NOW_DUE: Sql = Sql::plain(
    "UPDATE delivery_queue SET due_at = $2, used = 0, unknowns = 0
     WHERE delivery_id = $1 AND phase = 'ready'",
);
static NEW_ROUND_LEASED: Sql =
    Sql::plain("UPDATE delivery_queue SET again = 1 WHERE delivery_id = $1 AND phase = 'leased'");
static CANCEL_QUEUE: Sql =
    Sql::plain("DELETE FROM delivery_queue WHERE delivery_id = $1 RETURNING fence, attempt, lane_id, phase");
static CANCEL: Sql = Sql::plain(
    "UPDATE deliveries SET state = 'cancelled', version = version + 1, fence = $2, attempt = $3, ended_at = $4, remove_at = $5
     WHERE id = $1 AND state = 'owed'",
);
static DISCARD: Sql = Sql::plain("DELETE FROM dead_letters WHERE delivery_id = $1 AND tenant_id = $2");
static MARK_DISCARDED: Sql = Sql::plain("UPDATE deliveries SET discarded_at = $2 WHERE id = $1");

impl Store {
    /// Deliveries, newest first, without their attempts. One call looks at some thousands of those that an index tells apart.
    pub async fn deliveries(
        &self,
        tenant: TenantId,
        filter: &DeliveryFilter,
        page: PageOf<id::Delivery>,
        now: Millis,
    ) -> Result<Found<api::Delivery, id::Delivery>> {
        // A job has few.
        let accounts = match (filter.job_id, filter.endpoint_id) {
            (None, Some(endpoint)) => self.accounts_of(tenant, endpoint).await?,
            (_, _) => Vec::new(),
        };
        let accounts: Vec<Option<Option<&str>>> = match accounts.is_empty() {
            true => vec![None],
            false => accounts.iter().map(|account| Some(account.as_deref())).collect(),
        };
        // Where the first of these looks ends, all do: what another one found below comes with a later page.
        let mut end = None;
        for account in &accounts {
            end = end.max(self.end_of_deliveries(tenant, filter, *account, page.after).await?);
        }
        let mut all = Vec::new();
        for account in accounts {
            let part = (end, PageOf { ..page });
            all.extend(self.deliveries_among(tenant, filter, account, part, now).await?);
        }
        all.sort_unstable_by_key(|d| std::cmp::Reverse(d.delivery_id));
        all.truncate(usize::try_from(page.limit).unwrap_or(usize::MAX));
        Ok(Found::new(all, page.limit, end))
    }

    /// How far one look at those goes that an index tells apart, of `account` where it is given. None: to the end.
    async fn end_of_deliveries(
        &self,
        tenant: TenantId,
        filter: &DeliveryFilter,
        account: Option<Option<&str>>,
        after: Option<DeliveryId>,
    ) -> Result<Option<DeliveryId>> {
        if filter.job_id.is_some() {
            return Ok(None);
        }
        let mut walked = Filter::new("SELECT d.id FROM deliveries d WHERE d.tenant_id = $1", args![tenant]);
        match account.or(filter.account.as_deref().map(Some)) {
            Some(Some(account)) => walked.and(OF_ACCOUNT, account.to_owned()),
            Some(None) => walked.push(" AND d.endpoint_id IS NOT NULL AND d.account IS NULL"),
            None => walked.push(indexed(filter.state)),
        }
        self.end_of_look(walked, "d.id", after).await
    }

    /// In which accounts an endpoint's deliveries are found, None for those of none; in any where the list is empty.
    async fn accounts_of(&self, tenant: TenantId, endpoint: EndpointId) -> Result<Vec<Option<String>>> {
        let rows = self.read(ACCOUNTS, args![endpoint, tenant]).await?;
        let Some(row) = rows.first() else { return Ok(Vec::new()) };
        let mut names = former_accounts(row.text_opt(1)?)?;
        names.push(row.text(0)?);
        if row.int(2)? != 0 {
            names.push(String::new());
        }
        names.sort_unstable();
        names.dedup();
        Ok(names.into_iter().map(|name| Some(name).filter(|name| !name.is_empty())).collect())
    }

    /// One page of those in `account`, which narrows an endpoint's to where they lie.
    async fn deliveries_among(
        &self,
        tenant: TenantId,
        filter: &DeliveryFilter,
        account: Option<Option<&str>>,
        (end, page): (Option<DeliveryId>, PageOf<id::Delivery>),
        now: Millis,
    ) -> Result<Vec<api::Delivery>> {
        let mut f = Filter::new(LIST, args![tenant]);
        f.and_some("d.id >= {}", end);
        match account {
            Some(Some(account)) => f.and("d.account = {}", account.to_owned()),
            Some(None) => f.push(" AND d.account IS NULL"),
            None => {}
        }
        f.and_some("d.job_id = {}", filter.job_id);
        f.and_some("d.endpoint_id = {}", filter.endpoint_id);
        f.and_some(OF_ACCOUNT, filter.account.clone());
        f.and_some("d.host = {}", filter.host.clone());
        narrow(&mut f, &filter.only, "d.job_id", "d.account");
        f.push(indexed(filter.state));
        match filter.state {
            None | Some(DeliveryState::Dead | DeliveryState::Cancelled) => {}
            Some(DeliveryState::Delivered) => f.push(" AND d.state = 'delivered'"),
            Some(DeliveryState::InFlight) => f.and("q.phase = 'leased' AND q.due_at > {}", now),
            Some(DeliveryState::Held) => {
                f.and("NOT (q.phase = 'leased' AND q.due_at > {})", now);
                f.and(concat!("(", held_until!(), " > {} OR ep.state <> 'enabled')"), now);
            }
            Some(DeliveryState::Pending) => {
                f.and("NOT (q.phase = 'leased' AND q.due_at > {})", now);
                f.and(concat!("COALESCE(", held_until!(), ", 0) <= {}"), now);
                f.push(" AND (ep.state IS NULL OR ep.state = 'enabled')");
            }
        }
        let (sql, args) = f.page("d.id", page);
        self.read(sql, args).await?.iter().map(|row| delivery(row, now)).collect()
    }

    /// One delivery with its attempts.
    pub async fn delivery(&self, tenant: TenantId, id: DeliveryId, now: Millis) -> Result<api::Delivery> {
        let rows = self.read(ONE, args![id, tenant]).await?;
        let mut found = delivery(rows.first().ok_or(Error::NotFound)?, now)?;
        let attempts = self.read(ATTEMPTS, args![id]).await?;
        found.attempts = Some(attempts.iter().map(attempt).collect::<Result<_>>()?);
        Ok(found)
    }

    /// A new round of attempts now, whatever became of it before; its `webhook-id` stays. Not retryable once its
    /// endpoint is deleted.
    pub async fn retry_delivery(
        &self,
        tenant: TenantId,
        id: DeliveryId,
        now: Millis,
    ) -> Result<api::Delivery> {
        self.delivery(tenant, id, now).await?;
        let mut tx = self.0.writers.begin().await?;
        if lock_one(&mut tx, tenant, id).await? == "owed" {
            tx.run(&NOW_DUE, args![id, now]).await?;
            tx.run(&NEW_ROUND_LEASED, args![id]).await?;
        } else if reopen(&mut tx, &[id], now).await? == 0 {
            tx.rollback().await?;
            return Err(Error::NotRetryable);
        }
        tx.commit().await?;
        self.delivery(tenant, id, now).await
    }

    /// Takes back a delivery that is owed. A request under way is not undone.
    pub async fn cancel_delivery(
        &self,
        tenant: TenantId,
        id: DeliveryId,
        now: Millis,
    ) -> Result<api::Delivery> {
        self.delivery(tenant, id, now).await?;
        let mut tx = self.0.writers.begin().await?;
        let state = lock_one(&mut tx, tenant, id).await?;
        if state != "owed" {
            tx.rollback().await?;
            let found = self.delivery(tenant, id, now).await?;
            return if state == "cancelled" { Ok(found) } else { Err(Error::AlreadyFinished) };
        }
        let queue = tx.all(&CANCEL_QUEUE, args![id]).await?;
        let (fence, attempt) =
            queue.first().map_or(Ok((0, 0)), |r| Ok::<_, Error>((r.int(0)?, r.int(1)?)))?;
        tx.run(&CANCEL, args![id, fence, attempt, now, now.plus(KEEP_DELIVERIES)]).await?;
        tx.commit().await?;
        if let (Some(row), Some(desk)) = (queue.first(), self.0.desk.get()) {
            let lane = row.id(2)?;
            // Claimed and not in hand it may be on its way there.
            if !desk.cancelled(lane, id) && row.text(3)? == "leased" {
                desk.empty_hand(lane);
            }
        }
        self.delivery(tenant, id, now).await
    }

    /// Dead letters, newest delivery first. One call looks at some thousands of the tenant's.
    pub async fn dead_letters(
        &self,
        tenant: TenantId,
        filter: &api::ReplayFilter,
        only: &Narrow,
        page: PageOf<id::Delivery>,
    ) -> Result<Found<api::DeadLetter, id::Delivery>> {
        let end = match is_direct(filter) {
            true => None,
            false => {
                let walked =
                    Filter::new("SELECT delivery_id FROM dead_letters WHERE tenant_id = $1", args![tenant]);
                self.end_of_look(walked, "delivery_id", page.after).await?
            }
        };
        let mut f = matching(LETTERS, tenant, ReplayOf::Letters, filter);
        f.and_some("delivery_id >= {}", end);
        narrow(&mut f, only, "dead_letters.job_id", "dead_letters.account");
        let limit = page.limit;
        let (sql, args) = f.page("delivery_id", page);
        let letters = self.read(sql, args).await?.iter().map(letter).collect::<Result<_>>()?;
        Ok(Found::new(letters, limit, end))
    }

    /// One dead letter.
    pub async fn dead_letter(&self, tenant: TenantId, id: DeliveryId) -> Result<api::DeadLetter> {
        let mut f = Filter::new(LETTERS, args![tenant]);
        f.and("delivery_id = {}", id);
        let (sql, args) = f.finish();
        letter(self.read(sql, args).await?.first().ok_or(Error::NotFound)?)
    }

    /// Throws a dead letter away; its delivery stays dead.
    pub async fn discard(&self, tenant: TenantId, id: DeliveryId, now: Millis) -> Result<()> {
        self.dead_letter(tenant, id).await?;
        let mut tx = self.0.writers.begin().await?;
        lock_one(&mut tx, tenant, id).await?;
        if tx.run(&DISCARD, args![id, tenant]).await? == 0 {
            tx.rollback().await?;
            return Err(Error::NotFound);
        }
        tx.run(&MARK_DISCARDED, args![id, now]).await?;
        tx.commit().await
    }
}

/// The condition of the partial index that has those in this state, as the index writes it; most are delivered, and have none.
fn indexed(state: Option<DeliveryState>) -> &'static str {
    match state {
        None | Some(DeliveryState::Delivered) => "",
        Some(DeliveryState::Dead) => " AND d.state = 'dead'",
        Some(DeliveryState::Cancelled) => " AND d.state = 'cancelled'",
        Some(DeliveryState::InFlight | DeliveryState::Held | DeliveryState::Pending) => {
            " AND d.state = 'owed'"
        }
    }
}

/// Hides what the key that asks must not see; what belongs to no job is in no queue.
pub(super) fn narrow(f: &mut Filter, only: &Narrow, job: &'static str, account: &'static str) {
    if let Some(queues) = &only.queues {
        f.push(&format!(" AND EXISTS (SELECT 1 FROM jobs n WHERE n.id = {job}"));
        f.any("n.queue", queues);
        f.push(")");
    }
    if let Some(accounts) = &only.accounts {
        f.any(account, accounts);
    }
}

/// A parked one goes on at the time that it had.
pub(super) fn unparked(due: Millis) -> Millis {
    if due.0 >= PARKED { Millis(due.0 - PARKED) } else { due }
}

fn delivery(row: &Row, now: Millis) -> Result<api::Delivery> {
    let stored = row.text(7)?;
    let due = row.time_opt(15)?.map(unparked);
    let leased = row.text_opt(14)?.as_deref() == Some("leased") && due.is_some_and(|d| d > now);
    let hold = hold(row, 17, now)?;
    let state = match stored.as_str() {
        "delivered" => DeliveryState::Delivered,
        "dead" => DeliveryState::Dead,
        "cancelled" => DeliveryState::Cancelled,
        _ if leased => DeliveryState::InFlight,
        _ if hold.is_some() => DeliveryState::Held,
        _ => DeliveryState::Pending,
    };
    let hold = hold.filter(|_| state == DeliveryState::Held);
    let next = match state {
        DeliveryState::Pending => due,
        DeliveryState::Held => hold.and_then(|hold| hold.until).and_then(|until| due.max(Some(until))),
        DeliveryState::InFlight
        | DeliveryState::Delivered
        | DeliveryState::Dead
        | DeliveryState::Cancelled => None,
    };
    let attempts = row.int_opt(16)?.unwrap_or(row.int(8)?);
    Ok(api::Delivery {
        delivery_id: row.id(0)?,
        event_id: row.id(1)?,
        event_type: row.text(2)?,
        job_id: row.id_opt(3)?,
        account: row.text_opt(4)?,
        endpoint_id: row.id_opt(5)?,
        url: row.text_opt(21)?.map_or_else(|| row.text(6), Ok)?,
        state,
        held_reason: hold.map(|hold| hold.reason),
        attempt: u32::try_from(attempts).unwrap_or(0),
        max_attempts: policy(row, 9)?.max_attempts,
        next_attempt_at: next,
        last_status: row.int_opt(10)?.and_then(|s| u16::try_from(s).ok()),
        last_error: row.text_opt(11)?,
        created_at: row.time(12)?,
        ended_at: row.time_opt(13)?,
        attempts: None,
    })
}

fn attempt(row: &Row) -> Result<api::Attempt> {
    Ok(api::Attempt {
        number: row.count(0)?,
        started_at: row.time(1)?,
        duration_ms: row.int_opt(2)?.and_then(|d| u32::try_from(d).ok()),
        phases: row.text_opt(3)?.and_then(|p| serde_json::from_str(&p).ok()),
        status: row.int_opt(4)?.and_then(|s| u16::try_from(s).ok()),
        error: row.text_opt(5)?,
        response_headers: row.text_opt(6)?.and_then(|h| serde_json::from_str(&h).ok()),
        response_body: row.bytes_opt(7)?.map(|b| String::from_utf8_lossy(&b).into_owned()),
        next_attempt_at: row.time_opt(8)?,
        address: row.text_opt(9)?,
    })
}

fn letter(row: &Row) -> Result<api::DeadLetter> {
    Ok(api::DeadLetter {
        delivery_id: row.id(0)?,
        event_type: row.text(1)?,
        job_id: row.id_opt(2)?,
        account: row.text_opt(3)?,
        endpoint_id: row.id_opt(4)?,
        url: row.text(5)?,
        reason: row.text(6)?,
        attempts: row.count(7)?,
        first_error: row.text_opt(8)?,
        last_error: row.text_opt(9)?,
        died_at: row.time(10)?,
    })
}
