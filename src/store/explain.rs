//! What the store knows of one delivery, for [`crate::types::explain`].

use super::Store;
use super::dead_letters::unparked;
use super::error::{Error, Result};
use crate::args;
use crate::types::delivery::DeadReason;
use crate::types::explain::{Facts, Hands};
use crate::types::{DeliveryId, LaneId, Millis, TenantId};

const STANDING: &str = "
    SELECT d.lane_id, d.turn, d.expires_at, q.due_at, q.used, m.reason, ep.state_reason,
           (SELECT COUNT(*) FROM lanes l JOIN nodes n ON n.id = l.owner_id WHERE l.id = d.lane_id AND n.alive_until > $3),
           (SELECT COUNT(*) FROM nodes n WHERE n.alive_until > $3),
           CAST(CASE WHEN d.endpoint_id IS NOT NULL AND (ep.id IS NULL OR ep.deleted_at IS NOT NULL) THEN 1 ELSE 0 END AS BIGINT)
    FROM deliveries d
    LEFT JOIN endpoints ep ON ep.id = d.endpoint_id
    LEFT JOIN delivery_queue q ON q.delivery_id = d.id
    LEFT JOIN dead_letters m ON m.delivery_id = d.id
    WHERE d.id = $1 AND d.tenant_id = $2";

// Counted up to a bound: a lane may owe a million.
const BEFORE: &str = "
    SELECT COUNT(*) FROM (SELECT 1 AS one FROM delivery_queue q
                          WHERE q.lane_id = $1 AND q.rank IN (0, 1, 2, 3) AND q.due_at < $2 AND q.phase = 'ready'
                          LIMIT $3) AS c";
const BEFORE_IN_ORDER: &str = "
    SELECT COUNT(*) FROM (SELECT 1 AS one FROM delivery_queue q
                          WHERE q.lane_id = $1 AND q.rank IN (0, 1) AND $2 > 0  -- owed before there was an order
                          UNION ALL
                          SELECT 1 FROM delivery_queue q WHERE q.lane_id = $1 AND q.turn < $2 AND q.turn <> 0
                          LIMIT $3) AS c";

impl Store {
    /// Everything that tells why a delivery stands where it stands.
    pub async fn delivery_facts(&self, tenant: TenantId, id: DeliveryId, now: Millis) -> Result<Facts> {
        let mut delivery = self.delivery(tenant, id, now).await?;
        delivery.attempts = None;
        let rows = self.read(STANDING, args![id, tenant, now]).await?;
        let row = rows.first().ok_or(Error::NotFound)?;
        let lane_id: LaneId = row.id(0)?;
        let lane = match self.lane(tenant, lane_id, now).await {
            Ok(lane) => Some(lane),
            Err(Error::NotFound) => None,
            Err(e) => return Err(e),
        };
        let due_at = row.time_opt(3)?.map(unparked);
        let bound = i64::from(crate::types::explain::AHEAD);
        let before = match due_at {
            None => vec![],
            Some(_) if lane.as_ref().is_some_and(|lane| lane.ordered) => {
                self.read(BEFORE_IN_ORDER, args![lane_id, row.int(1)?, bound]).await?
            }
            Some(due) => self.read(BEFORE, args![lane_id, due, bound]).await?,
        };
        let hands = match (row.int(7)?, row.int(8)?) {
            (1.., _) => Hands::Owned,
            (_, 1..) => Hands::Free,
            (_, _) => Hands::Nobody,
        };
        let dead = row.text_opt(5)?;
        let dead =
            dead.map(|reason| reason.parse::<DeadReason>().map_err(|_| Error::Bug(reason))).transpose()?;
        Ok(Facts {
            now,
            delivery,
            due_at,
            used: row.int_opt(4)?.and_then(|used| u32::try_from(used).ok()).unwrap_or(0),
            expires_at: row.time_opt(2)?,
            dead,
            lane,
            hands,
            state_reason: row.text_opt(6)?,
            endpoint_gone: row.int(9)? != 0,
            ahead: before.first().map_or(Ok(0), |row| row.count(0))?,
        })
    }
}
