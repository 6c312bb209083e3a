//! One statement for each table that events write to.

use std::collections::BTreeMap;

use super::delivery::Ordered;
use super::later::INSERT_FAN_OUTS;
use super::{After, Outbox};
use crate::args;
use crate::store::batch::{Col, Sql};
use crate::store::error::Result;
use crate::store::pool::Tx;
use crate::types::LaneId;

pub(in crate::store) static INSERT_EVENTS: Sql = Sql::batch(
    "INSERT INTO events (id, tenant_id, job_id, sequence, kind, account, created_at, data, remove_at)
     SELECT b.id, b.tenant_id, b.job_id, b.sequence, b.kind, b.account, b.created_at, b.data, b.remove_at FROM {b}
     WHERE true  -- a beginning may have been told before, as a row of the same id
     ON CONFLICT (id) DO NOTHING",
    0,
    &[
        ("id", Col::Uuid),
        ("tenant_id", Col::Uuid),
        ("job_id", Col::Uuid),
        ("sequence", Col::Int),
        ("kind", Col::Text),
        ("account", Col::Text),
        ("created_at", Col::Int),
        ("data", Col::Text),
        ("remove_at", Col::Int),
    ],
);

pub(in crate::store) static INSERT_BODIES: Sql = Sql::batch(
    "INSERT INTO bodies (event_id, variant, body) SELECT b.event_id, b.variant, b.body FROM {b}
     WHERE true  -- what is frozen stays as it is
     ON CONFLICT (event_id, variant) DO NOTHING",
    0,
    &[("event_id", Col::Uuid), ("variant", Col::Text), ("body", Col::Text)],
);

pub(in crate::store) static INSERT_DELIVERIES: Sql = Sql::batch(
    "INSERT INTO deliveries (id, tenant_id, event_id, variant, event_kind, job_id, endpoint_id, account, lane_id,
                             turn, url, host, sealed, sealed_row, signer_id, policy, failure_url, traceparent, expires_at,
                             created_at, state, ended_at, remove_at, version, fence, attempt)
     SELECT b.id, b.tenant_id, b.event_id, b.variant, b.event_kind, b.job_id, b.endpoint_id, b.account, b.lane_id,
            b.turn, b.url, b.host, b.sealed, b.sealed_row, b.signer_id, b.policy, b.failure_url, b.traceparent, b.expires_at,
            b.created_at, b.state, b.ended_at, b.remove_at, 0, 0, 0
     FROM {b}",
    0,
    &[
        ("id", Col::Uuid),
        ("tenant_id", Col::Uuid),
        ("event_id", Col::Uuid),
        ("variant", Col::Text),
        ("event_kind", Col::Text),
        ("job_id", Col::Uuid),
        ("endpoint_id", Col::Uuid),
        ("account", Col::Text),
        ("lane_id", Col::Uuid),
        ("turn", Col::Int),
        ("url", Col::Text),
        ("host", Col::Text),
        ("sealed", Col::Bytes),
        ("sealed_row", Col::Uuid),
        ("signer_id", Col::Uuid),
        ("policy", Col::Text),
        ("failure_url", Col::Text),
        ("traceparent", Col::Text),
        ("expires_at", Col::Int),
        ("created_at", Col::Int),
        ("state", Col::Text),
        ("ended_at", Col::Int),
        ("remove_at", Col::Int),
    ],
);

pub(in crate::store) static INSERT_QUEUE: Sql = Sql::batch(
    "INSERT INTO delivery_queue (delivery_id, tenant_id, lane_id, turn, due_at, phase, fence, attempt, used, unknowns,
                                 started_at, node_id)
     SELECT b.delivery_id, b.tenant_id, b.lane_id, b.turn, b.due_at, b.phase, b.fence, b.attempt, 0, 0, b.started_at,
            b.node_id
     FROM {b}",
    0,
    &[
        ("delivery_id", Col::Uuid),
        ("tenant_id", Col::Uuid),
        ("lane_id", Col::Uuid),
        ("turn", Col::Int),
        ("due_at", Col::Int),
        ("phase", Col::Text),
        ("fence", Col::Int),
        ("attempt", Col::Int),
        ("started_at", Col::Int),
        ("node_id", Col::Uuid),
    ],
);

// The lane's row is locked from here to the commit: numbers are given in the order of commits.
static NUMBER: Sql = Sql::batch(
    "INSERT INTO lanes (id, tenant_id, endpoint_id, concurrency, failures, opened, used_at, numbered)
     SELECT b.id, b.tenant_id, b.endpoint_id, 10, 0, 0, $1, b.n FROM {b}
     WHERE true  -- in one order, so that two transactions cannot deadlock
     ORDER BY b.id
     ON CONFLICT (id) DO UPDATE SET numbered = lanes.numbered + excluded.numbered
     RETURNING id, numbered",
    1,
    &[("id", Col::Uuid), ("tenant_id", Col::Uuid), ("endpoint_id", Col::Uuid), ("n", Col::Int)],
);

/// Where `turn` stands in a row of [`INSERT_DELIVERIES`], and of [`INSERT_QUEUE`].
const TURN: (usize, usize) = (9, 3);

impl Outbox<'_> {
    /// Numbers the deliveries to ordered endpoints, in the order they were made.
    async fn number(&mut self, tx: &mut Tx) -> Result<()> {
        let mut lanes: BTreeMap<LaneId, Vec<&Ordered>> = BTreeMap::new();
        for one in &self.ordered {
            lanes.entry(one.lane).or_default().push(one);
        }
        let rows = lanes.iter().map(|(lane, all)| {
            args![*lane, all[0].tenant, all[0].endpoint, i64::try_from(all.len()).unwrap_or(i64::MAX)]
        });
        for row in tx.batch(&NUMBER, args![self.now], rows.collect()).await? {
            let all = lanes.remove(&row.id(0)?).unwrap_or_default();
            let last = row.int(1)?;
            let first = last + 1 - i64::try_from(all.len()).unwrap_or(0);
            for (turn, one) in (first..).zip(all) {
                let (delivery, queue) = one.at;
                self.deliveries[delivery][TURN.0] = turn.into();
                self.queue[queue][TURN.1] = turn.into();
            }
        }
        Ok(())
    }

    /// Writes it all. What comes back is done after the commit.
    pub(in crate::store) async fn write(mut self, tx: &mut Tx) -> Result<After> {
        self.number(tx).await?;
        self.adopt(tx).await?;
        tx.later(&INSERT_EVENTS, vec![], self.events).await?;
        tx.later(&INSERT_BODIES, vec![], self.bodies).await?;
        tx.later(&INSERT_DELIVERIES, vec![], self.deliveries).await?;
        tx.later(&INSERT_QUEUE, vec![], self.queue).await?;
        tx.later(&INSERT_FAN_OUTS, vec![], self.fan_outs).await?;
        let (handed, adopted, ended, moved) = (self.handed, self.adopted, self.ended, self.moved);
        Ok(After { handed, adopted, ended, moved, disabled: self.disabled })
    }
}
