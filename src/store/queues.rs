//! Queues as people see them: what waits, what runs, how long that takes, and what is set for them.

use std::collections::HashMap;

use super::Store;
use super::batch::{Col, Sql};
use super::db::Row;
use super::error::{Error, Result};
use super::model::QueueChange;
use crate::args;
use crate::types::{Millis, TenantId, api};

// A queue is a name that jobs have, that was learned from, or for which something is set. From one name to the
// next by the index, however many jobs lie between them.
static NAMES: Sql = Sql::plain(
    "WITH RECURSIVE owed (name, n) AS (
        SELECT (SELECT q.queue FROM job_queue q WHERE q.tenant_id = $1 AND q.queue > $2
                ORDER BY q.tenant_id, q.queue LIMIT 1), CAST(1 AS BIGINT)
        UNION ALL
        SELECT (SELECT q.queue FROM job_queue q WHERE q.tenant_id = $1 AND q.queue > owed.name
                ORDER BY q.tenant_id, q.queue LIMIT 1), owed.n + 1
        FROM owed WHERE owed.name IS NOT NULL AND owed.n < $3
    )
    SELECT owed.name FROM owed WHERE owed.name IS NOT NULL
    UNION SELECT s.name FROM queues s WHERE s.tenant_id = $1 AND s.name > $2
    UNION SELECT l.name FROM learned l WHERE l.tenant_id = $1 AND l.what = 'run' AND l.name > $2
    ORDER BY 1 LIMIT $3",
);

static FIGURES: Sql = Sql::batch(
    "SELECT b.name, s.paused_until, s.max_in_flight,
            -- counted up to a bound: a queue may owe a million
            (SELECT COUNT(*) FROM (SELECT 1 AS one FROM job_queue q
                                   WHERE q.tenant_id = $1 AND q.queue = b.name AND q.level IN (0, 1, 2, 3, 4)
                                     AND q.due_at <= $2 LIMIT 10001) AS c),
            -- beside as many that are leased
            (SELECT COUNT(*) FROM (SELECT 1 AS one
                                   FROM (SELECT q.phase FROM job_queue q
                                         WHERE q.tenant_id = $1 AND q.queue = b.name AND q.level IN (0, 1, 2, 3, 4)
                                           AND q.due_at > $2 LIMIT 20002) AS p
                                   WHERE p.phase <> 'leased' LIMIT 10001) AS c),
            (SELECT COUNT(*) FROM (SELECT 1 AS one FROM job_queue q
                                   WHERE q.tenant_id = $1 AND q.queue = b.name AND q.phase = 'leased'
                                     AND q.due_at > $2 LIMIT 10001) AS c),
            (SELECT MIN(o.due_at) FROM (
                 SELECT (SELECT q.due_at FROM job_queue q
                         WHERE q.tenant_id = $1 AND q.queue = b.name AND q.level = v.column1
                         ORDER BY q.due_at LIMIT 1) AS due_at
                 FROM (VALUES (CAST(0 AS BIGINT)), (1), (2), (3), (4)) AS v) AS o WHERE o.due_at <= $2),
            w.samples, r.samples
     FROM {b}
     LEFT JOIN queues s ON s.tenant_id = $1 AND s.name = b.name
     LEFT JOIN learned w ON w.tenant_id = $1 AND w.what = 'wait' AND w.name = b.name
     LEFT JOIN learned r ON r.tenant_id = $1 AND r.what = 'run' AND r.name = b.name",
    2,
    &[("name", Col::Text)],
);

static SET: Sql = Sql::plain(
    "INSERT INTO queues (tenant_id, name, paused_until, max_in_flight) VALUES ($1, $2, $3, $4)
     ON CONFLICT (tenant_id, name) DO UPDATE
     SET paused_until = CASE WHEN $5 = 1 THEN excluded.paused_until ELSE queues.paused_until END,
         max_in_flight = CASE WHEN $6 = 1 THEN excluded.max_in_flight ELSE queues.max_in_flight END",
);

impl Store {
    /// The tenant's queues by name, above `after`; with `only` exactly these, used or not.
    pub async fn queues(
        &self,
        tenant: TenantId,
        only: Option<&[String]>,
        after: &str,
        limit: u32,
        now: Millis,
    ) -> Result<Vec<api::Queue>> {
        let mut names = match only {
            Some(only) => only.iter().filter(|n| n.as_str() > after).cloned().collect::<Vec<_>>(),
            None => {
                let sql = NAMES.text(self.0.readers.engine());
                let rows = self.read(sql, args![tenant, after, limit]).await?;
                // Learned from, and not saved yet.
                let mut names = self.0.learned.queues(tenant);
                names.retain(|name| name.as_str() > after);
                for row in &rows {
                    names.push(row.text(0)?);
                }
                names
            }
        };
        names.sort_unstable();
        names.dedup();
        names.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        self.figures_of(tenant, names, now).await
    }

    /// One queue. A queue is a name; one that nothing was ever put into is empty.
    pub async fn queue(&self, tenant: TenantId, name: &str, now: Millis) -> Result<api::Queue> {
        let found = self.figures_of(tenant, vec![name.to_owned()], now).await?;
        found.into_iter().next().ok_or(Error::NotFound)
    }

    /// Changes what is set for a queue. This node goes by it at once, every other one within a second.
    pub async fn set_queue(&self, tenant: TenantId, name: &str, change: QueueChange) -> Result<()> {
        let given = |is: bool| i64::from(is);
        let args = args![
            tenant,
            name,
            change.paused_until.flatten(),
            change.max_in_flight.flatten(),
            given(change.paused_until.is_some()),
            given(change.max_in_flight.is_some()),
        ];
        let mut tx = self.0.writers.begin().await?;
        tx.run(&SET, args).await?;
        let done = tx.commit().await;
        self.0.limits.changed();
        done
    }

    async fn figures_of(&self, tenant: TenantId, names: Vec<String>, now: Millis) -> Result<Vec<api::Queue>> {
        let rows = names.iter().map(|name| args![name.as_str()]).collect();
        let rows = self.read_batch(&FIGURES, args![tenant, now], rows).await?;
        let mut views = HashMap::with_capacity(rows.len());
        for row in &rows {
            let view = self.queue_view(tenant, row, now)?;
            views.insert(view.queue.clone(), view);
        }
        Ok(names.iter().filter_map(|name| views.remove(name)).collect())
    }

    fn queue_view(&self, tenant: TenantId, row: &Row, now: Millis) -> Result<api::Queue> {
        let queue = row.text(0)?;
        let paused = row.time_opt(1)?.filter(|until| *until > now);
        let oldest_due = row.time_opt(6)?;
        let stored = [row.text_opt(7)?.unwrap_or_default(), row.text_opt(8)?.unwrap_or_default()];
        let [wait_p50_ms, wait_p95_ms, run_p50_ms, run_p95_ms] =
            self.percentiles(tenant, &queue, [&stored[0], &stored[1]]);
        Ok(api::Queue {
            queue,
            state: if paused.is_some() { api::QueueState::Paused } else { api::QueueState::Open },
            paused_until: paused.filter(|until| *until < Millis::MAX),
            max_in_flight: row.int_opt(2)?.and_then(|n| u32::try_from(n).ok()),
            depth: row.count(3)?,
            scheduled: row.count(4)?,
            processing: row.count(5)?,
            oldest_due,
            oldest_age_seconds: oldest_due.map(|due| now.since(due).as_secs()),
            wait_p50_ms,
            wait_p95_ms,
            run_p50_ms,
            run_p95_ms,
        })
    }
}
