//! What push workers ask for: who has due work in a queue, and how the jobs they hold stand.

use super::Store;
use super::batch::{Col, Sql};
use super::error::Result;
use super::model::{Holding, Tour};
use crate::args;
use crate::types::{JobId, Millis, TenantId};

// From tenant to tenant along the index of what is due, one probe each: tenants without owed work cost nothing, and
// those of other queues one look. No index of its own, which every submission would have to keep.
const TENANTS_DUE: &str = "
    WITH RECURSIVE owed(tenant_id, n) AS (
        SELECT f.tenant_id, CAST(1 AS BIGINT)
        FROM (SELECT q.tenant_id FROM job_queue q WHERE q.tenant_id > $1 ORDER BY q.tenant_id LIMIT 1) AS f
        UNION ALL
        SELECT (SELECT q.tenant_id FROM job_queue q WHERE q.tenant_id > owed.tenant_id ORDER BY q.tenant_id LIMIT 1),
               owed.n + 1
        FROM owed WHERE owed.tenant_id IS NOT NULL AND owed.n < $5
    )
    SELECT o.tenant_id, o.n FROM owed o
    WHERE o.tenant_id IS NOT NULL
      AND (o.n = $5 OR EXISTS (SELECT 1 FROM job_queue q
                  WHERE q.tenant_id = o.tenant_id AND q.queue = $2 AND q.level IN (0, 1, 2, 3, 4)
                    AND q.due_at <= $3 AND q.attempts_left > 0 AND q.cancel_at IS NULL))
    LIMIT $4";

static HOLDINGS: Sql = Sql::batch(
    "SELECT q.job_id, q.fence, q.cancel_at FROM {b} JOIN job_queue q ON q.job_id {is b.job_id}
     WHERE q.phase || '' = 'leased'",
    0,
    &[("job_id", Col::Uuid)],
);

impl Store {
    /// Tenants that have due jobs in a queue, in the order of their ids: those after `tour.after`, then the others.
    ///
    /// A tour that is cut short brings the tenant that it came to as its last one, whether work is due there or
    /// not: the next tour goes on from it, so that every tenant has its turn however many there are.
    pub async fn tenants_due(&self, queue: &str, tour: Tour, now: Millis) -> Result<Vec<TenantId>> {
        let nobody = TenantId::from_uuid(uuid::Uuid::nil());
        let mut found: Vec<TenantId> = Vec::new();
        for from in [Some(tour.after.unwrap_or(nobody)), tour.after.map(|_| nobody)].into_iter().flatten() {
            let left = tour.most.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
            let args = args![from, queue, now, left, tour.visits];
            let rows = if left == 0 { Vec::new() } else { self.scout(TENANTS_DUE, args).await? };
            let mut cut = false;
            let mut more = Vec::with_capacity(rows.len());
            for row in rows {
                cut |= row.count(1)? == tour.visits;
                more.push(row.id(0)?);
            }
            more.sort_unstable();
            more.retain(|tenant| !found.contains(tenant));
            found.extend(more);
            if cut {
                break;
            }
        }
        Ok(found)
    }

    /// How these jobs stand; one that nobody holds any more is missing.
    pub async fn holdings(&self, jobs: &[JobId]) -> Result<Vec<Holding>> {
        let rows = jobs.iter().map(|id| args![*id]).collect();
        let holding = |row: &super::db::Row| {
            Ok(Holding { id: row.id(0)?, fence: row.int(1)?, cancel_requested: row.time_opt(2)?.is_some() })
        };
        self.scout_batch(&HOLDINGS, vec![], rows).await?.iter().map(holding).collect()
    }
}
