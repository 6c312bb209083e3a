//! Deliveries on their way: taking in hand what is due.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Store;
use super::batch::{Col, Sql};
use super::db::{Call, Row, Value};
use super::error::{Error, Result};
use super::model::{ClaimedDelivery, DueDelivery, Receiver};
use super::parking::CANCEL;
use super::pool::{Pool, Tx, may_ask_again};
use super::rows::policy;
use super::seconds;
use super::sweep::KEEP_DELIVERIES;
use crate::args;
use crate::types::endpoint::PARKED;
use crate::types::id::NodeId;
use crate::types::{DeliveryId, Millis, TenantId};

/// A delivery whose row cannot be read is looked at again after this long.
const UNREADABLE: Duration = Duration::from_secs(300);

pub(super) static CLAIM: Sql = Sql::batch(
    "UPDATE delivery_queue
     SET phase = 'leased', fence = b.fence + 1, attempt = attempt + 1, unknowns = b.unknowns,
         due_at = $1, started_at = $2, node_id = $3
     FROM {b}
     WHERE delivery_queue.delivery_id {is b.delivery_id}
       AND delivery_queue.fence = b.fence  -- as it was seen: no one else has taken it since
       AND delivery_queue.due_at + 0 <= $2
     RETURNING delivery_queue.delivery_id, delivery_queue.fence, attempt, used, delivery_queue.unknowns",
    3,
    &[("delivery_id", Col::Uuid), ("fence", Col::Int), ("unknowns", Col::Int)],
);

pub(super) static LOST_ATTEMPTS: Sql = Sql::batch(
    "INSERT INTO attempts (delivery_id, number, started_at, error)
     SELECT b.delivery_id, b.number, b.started_at, 'unknown' FROM {b}
     WHERE true ON CONFLICT (delivery_id, number) DO NOTHING",
    0,
    &[("delivery_id", Col::Uuid), ("number", Col::Int), ("started_at", Col::Int)],
);

static PAYLOADS: Sql = Sql::batch(
    "SELECT d.id, d.tenant_id, d.lane_id, d.event_id, d.event_kind, d.created_at, d.variant, o.body, d.url, d.sealed,
            d.sealed_row, d.policy, d.expires_at, d.traceparent, d.job_id, d.signer_id, d.endpoint_id,
            e.url, e.sealed, e.timeout_seconds, e.schemes, e.state, e.deleted_at, d.turn, d.account
     FROM {b}
     JOIN deliveries d ON d.id = b.delivery_id
     JOIN bodies o ON o.event_id = d.event_id AND o.variant = d.variant
     LEFT JOIN endpoints e ON e.id = d.endpoint_id",
    0,
    &[("delivery_id", Col::Uuid)],
);

// As it was before the claim, but due later, or out of sight.
static PARK: Sql = Sql::batch(
    "UPDATE delivery_queue SET phase = 'ready', due_at = b.due_at, attempt = attempt - 1, started_at = NULL, node_id = NULL
     FROM {b} WHERE delivery_queue.delivery_id {is b.delivery_id} AND delivery_queue.fence = b.fence",
    0,
    &[("delivery_id", Col::Uuid), ("fence", Col::Int), ("due_at", Col::Int)],
);

static DROP_QUEUE: Sql = Sql::batch(
    "DELETE FROM delivery_queue USING {b}
     WHERE delivery_queue.delivery_id {is b.delivery_id} AND delivery_queue.fence = b.fence",
    0,
    &[("delivery_id", Col::Uuid), ("fence", Col::Int)],
);

// A slow endpoint's lease outlasts its attempt too.
static LENGTHEN: Sql = Sql::batch(
    "UPDATE delivery_queue SET due_at = b.due_at
     FROM {b} WHERE delivery_queue.delivery_id {is b.delivery_id} AND delivery_queue.fence = b.fence",
    0,
    &[("delivery_id", Col::Uuid), ("fence", Col::Int), ("due_at", Col::Int)],
);

/// What a claim comes to, by the endpoint that the delivery goes to.
enum Taken {
    /// It is sent.
    Send(Box<ClaimedDelivery>),
    /// Its endpoint is not enabled.
    Park,
    /// Its endpoint is deleted.
    Cancel,
}

/// Takes in hand what is still as it was seen, and writes down attempts whose end nobody saw.
///
/// Parks what goes to an endpoint that is not enabled, and cancels what goes to one that is deleted; neither costs
/// an attempt.
pub(super) async fn claim(
    tx: &mut Tx,
    due: &[DueDelivery],
    node: NodeId,
    until: Millis,
    now: Millis,
) -> Result<Vec<ClaimedDelivery>> {
    let mut seen: Vec<&DueDelivery> = due.iter().collect();
    seen.sort_unstable_by_key(|d| d.id);
    let rows = seen.iter().map(|d| args![d.id, d.fence, d.unknowns]).collect();
    let got = tx.batch(&CLAIM, args![until, now, node], rows).await?;
    let mut got: HashMap<DeliveryId, Row> =
        got.into_iter().map(|r| Ok((r.id(0)?, r))).collect::<Result<_>>()?;
    let lost = seen.iter().filter(|d| got.contains_key(&d.id));
    let lost = lost.filter_map(|d| Some(args![d.id, d.attempt, d.lost_at?])).collect();
    tx.batch(&LOST_ATTEMPTS, vec![], lost).await?;
    let ids = got.keys().map(|id| args![*id]).collect();
    let (mut send, mut park, mut cancel, mut broken) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for payload in tx.batch(&PAYLOADS, vec![], ids).await? {
        let id: DeliveryId = payload.id(0)?;
        let q = got.remove(&id).ok_or_else(|| Error::Bug("a payload nobody asked for".to_owned()))?;
        match taken(&payload, &q, until, now) {
            Ok(Taken::Send(claimed)) => send.push(*claimed),
            Ok(Taken::Park) => park.push(id),
            Ok(Taken::Cancel) => cancel.push(args![id, q.int(1)?, q.int(2)? - 1]),
            // One row that nobody can read must not keep the others from being sent.
            Err(e) => {
                tracing::error!(delivery.id = %id, error = %e, "a delivery cannot be read and is put off");
                broken.push(id);
            }
        }
    }
    for id in got.into_keys() {
        tracing::error!(delivery.id = %id, "a delivery's document or body is gone; it is put off");
        broken.push(id);
    }
    let parked = seen.iter().filter(|d| park.contains(&d.id));
    let parked = parked.map(|d| args![d.id, d.fence + 1, d.due_at.0 + PARKED]);
    let put_off = seen.iter().filter(|d| broken.contains(&d.id));
    let put_off = put_off.map(|d| args![d.id, d.fence + 1, now.plus(UNREADABLE)]);
    tx.batch(&PARK, vec![], parked.chain(put_off).collect()).await?;
    let gone = cancel.iter().map(|row: &Vec<Value>| row[..2].to_vec()).collect();
    tx.batch(&DROP_QUEUE, vec![], gone).await?;
    tx.batch(&CANCEL, args![now, now.plus(KEEP_DELIVERIES)], cancel).await?;
    let longer = send.iter().filter(|d| d.lease_until > until);
    let longer = longer.map(|d| args![d.id, d.fence, d.lease_until]).collect();
    tx.batch(&LENGTHEN, vec![], longer).await?;
    Ok(send)
}

fn taken(p: &Row, q: &Row, until: Millis, now: Millis) -> Result<Taken> {
    let claimed = claimed(p, q, until, now)?;
    let Some(id) = p.id_opt(16)? else { return Ok(Taken::Send(Box::new(claimed))) };
    match p.text_opt(21)?.filter(|_| p.int_opt(22).is_ok_and(|deleted| deleted.is_none())) {
        None => Ok(Taken::Cancel),
        Some(state) if state != "enabled" => Ok(Taken::Park),
        Some(_) => {
            let schemes = p.text(20)?;
            let receiver = Receiver {
                id,
                sealed: p.bytes_opt(18)?,
                timeout: seconds(p.count(19)?),
                schemes: serde_json::from_str(&schemes).map_err(|e| Error::Bug(e.to_string()))?,
            };
            let lease_until = until.plus(receiver.longer());
            let endpoint = Some(receiver);
            Ok(Taken::Send(Box::new(ClaimedDelivery { url: p.text(17)?, lease_until, endpoint, ..claimed })))
        }
    }
}

fn claimed(p: &Row, q: &Row, until: Millis, now: Millis) -> Result<ClaimedDelivery> {
    let sealed = match (p.bytes_opt(9)?, p.uuid_opt(10)?) {
        (Some(bytes), Some(row)) => Some((bytes, row)),
        _ => None,
    };
    Ok(ClaimedDelivery {
        id: p.id(0)?,
        tenant: p.id(1)?,
        lane: p.id(2)?,
        turn: p.int(23)?,
        fence: q.int(1)?,
        number: q.count(2)?,
        used: q.count(3)?,
        unknowns: q.count(4)?,
        started_at: now,
        lease_until: until,
        event_id: p.id(3)?,
        event_kind: p.text(4)?,
        event_at: p.time(5)?,
        variant: p.text(6)?,
        body: p.text(7)?.into(),
        url: p.text(8)?,
        sealed,
        policy: policy(p, 11)?,
        expires_at: p.time_opt(12)?,
        traceparent: p.text_opt(13)?,
        job_id: p.id_opt(14)?,
        account: p.text_opt(24)?,
        signer: p.id_opt(15)?,
        endpoint: None,
    })
}

impl Store {
    /// Opens what was sealed for a delivery.
    pub fn open_sealed(
        &self,
        tenant: TenantId,
        sealed: &(Vec<u8>, uuid::Uuid),
    ) -> Result<crate::types::job::CallbackSecrets> {
        let aad =
            super::seal::Aad { tenant: tenant.uuid(), row: sealed.1, column: super::submit::SEALED_COLUMN };
        let plain = self.0.keys.now().ring.open(&aad, &sealed.0)?;
        serde_json::from_slice(&plain).map_err(|_| Error::Bug("what was sealed is no JSON".to_owned()))
    }

    pub(super) async fn read(&self, sql: &'static str, args: Vec<Value>) -> Result<Vec<Row>> {
        read(&self.0.readers, Call::All(sql, args)).await
    }

    pub(super) async fn scout(&self, sql: &'static str, args: Vec<Value>) -> Result<Vec<Row>> {
        read(&self.0.scouts, Call::All(sql, args)).await
    }

    /// [`Store::read`] for the rows of a batch.
    pub(super) async fn read_batch(
        &self,
        sql: &'static Sql,
        scalars: Vec<Value>,
        rows: Vec<Vec<Value>>,
    ) -> Result<Vec<Row>> {
        read(&self.0.readers, Call::Batch(sql, scalars, rows)).await
    }

    /// [`Store::scout`] for the rows of a batch.
    pub(super) async fn scout_batch(
        &self,
        sql: &'static Sql,
        scalars: Vec<Value>,
        rows: Vec<Vec<Value>>,
    ) -> Result<Vec<Row>> {
        read(&self.0.scouts, Call::Batch(sql, scalars, rows)).await
    }
}

async fn read(pool: &Pool, call: Call) -> Result<Vec<Row>> {
    let (began, mut tries) = (Instant::now(), 0);
    loop {
        let mut guard = pool.get().await?;
        match guard.call(call.clone()).await {
            // An idle connection may have died; a read may be repeated on another one.
            Err(Error::Down(_)) if tries < 9 && may_ask_again(began) => tries += 1,
            answer => return Ok(answer?.rows),
        }
    }
}
