//! Deliveries that have ended and are owed again.

use super::batch::{Col, Sql};
use super::db::Value;
use super::error::{Error, Result};
use super::pool::Tx;
use crate::args;
use crate::types::{DeliveryId, Millis, TenantId};

// The queue's row first, as `record` does, so that the two cannot deadlock.
static LOCK_QUEUE: Sql = Sql::batch(
    "SELECT q.fence FROM {b} JOIN delivery_queue q ON q.delivery_id {is b.id} ORDER BY q.delivery_id {wait}",
    0,
    &[("id", Col::Uuid)],
);
static LOCK: Sql = Sql::batch(
    "SELECT q.id, q.state FROM {b} JOIN deliveries q ON q.id = b.id WHERE q.tenant_id = $1 ORDER BY q.id {wait}",
    1,
    &[("id", Col::Uuid)],
);
static REOPEN: Sql = Sql::batch(
    "UPDATE deliveries SET state = 'owed', version = version + 1, ended_at = NULL, discarded_at = NULL, remove_at = NULL,
         -- with one that has passed it would be laid down again unsent
         expires_at = CASE WHEN expires_at > $1 THEN expires_at END
     FROM {b}
     WHERE deliveries.id = b.id AND (state = 'dead' OR state = 'delivered' OR state = 'cancelled')
       -- nobody would be there to take it: its claim would only cancel it, and the letter would be lost
       AND (endpoint_id IS NULL OR EXISTS (SELECT 1 FROM endpoints e WHERE e.id = deliveries.endpoint_id
                                           AND e.deleted_at IS NULL))
     RETURNING deliveries.id",
    1,
    &[("id", Col::Uuid)],
);
// Under a new fence: who still held or saw it as it was before has no say in this round.
static QUEUE_AGAIN: Sql = Sql::batch(
    "INSERT INTO delivery_queue (delivery_id, tenant_id, lane_id, turn, due_at, phase, fence, attempt, used, unknowns)
     SELECT d.id, d.tenant_id, d.lane_id, d.turn, $1, 'ready', d.fence + 1, d.attempt, 0, 0
     FROM {b} JOIN deliveries d ON d.id = b.id
     WHERE true
     ON CONFLICT (delivery_id) DO NOTHING",
    1,
    &[("id", Col::Uuid)],
);
static DROP_LETTERS: Sql = Sql::batch(
    "DELETE FROM dead_letters WHERE delivery_id IN (SELECT b.id FROM {b})",
    0,
    &[("id", Col::Uuid)],
);

/// Holds the tenant's deliveries still and gives those that are there, each with its stored state.
pub(super) async fn lock(
    tx: &mut Tx,
    tenant: TenantId,
    ids: &[DeliveryId],
) -> Result<Vec<(DeliveryId, String)>> {
    tx.batch(&LOCK_QUEUE, vec![], rows(ids)).await?;
    let found = tx.batch(&LOCK, args![tenant], rows(ids)).await?;
    found.iter().map(|row| Ok((row.id(0)?, row.text(1)?))).collect()
}

/// The same of one.
pub(super) async fn lock_one(tx: &mut Tx, tenant: TenantId, id: DeliveryId) -> Result<String> {
    lock(tx, tenant, &[id]).await?.pop().map(|(_, state)| state).ok_or(Error::NotFound)
}

/// Those that have ended are owed again; the letter leaves the list, the history stays. Gives how many that were: what goes
/// to an endpoint that is deleted stays as it is.
pub(super) async fn reopen(tx: &mut Tx, ids: &[DeliveryId], now: Millis) -> Result<usize> {
    let reopened = tx.batch(&REOPEN, args![now], rows(ids)).await?;
    let reopened = reopened.iter().map(|row| row.id(0)).collect::<Result<Vec<_>>>()?;
    tx.batch(&QUEUE_AGAIN, args![now], rows(&reopened)).await?;
    tx.batch(&DROP_LETTERS, vec![], rows(&reopened)).await?;
    Ok(reopened.len())
}

fn rows(ids: &[DeliveryId]) -> Vec<Vec<Value>> {
    ids.iter().map(|id| args![*id]).collect()
}
