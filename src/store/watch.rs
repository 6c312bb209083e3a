//! How far watched jobs are: one statement for all that anyone watches at a node.

use super::Store;
use super::batch::{Col, Sql};
use super::db::{Engine, Value};
use super::error::Result;
use super::model::Standing;
use crate::types::JobId;

/// The document is read only where nothing is owed any more: what is watched mostly is.
static STANDINGS: Sql = Sql::batch(
    "SELECT b.id, q.sequence,
       CASE WHEN q.job_id IS NULL THEN (SELECT j.sequence FROM jobs j WHERE j.id = b.id) END
     FROM {b} LEFT JOIN job_queue q ON q.job_id = b.id",
    0,
    &[("id", Col::Uuid)],
);

impl Store {
    /// The last event of each job and whether the job has ended. A job that is gone is left out.
    ///
    /// For the loop that wakes a node's streams: it reads across tenants and tells nothing but numbers.
    pub async fn standings(&self, ids: &[JobId]) -> Result<Vec<Standing>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let engine = self.0.scouts.engine();
        let rows = ids.iter().map(|id| vec![Value::from(*id)]).collect();
        let rows = self.scout(STANDINGS.text(engine), STANDINGS.args(engine, vec![], rows)?).await?;
        let mut standings = Vec::with_capacity(rows.len());
        for row in &rows {
            let owed = row.int_opt(1)?;
            if let Some(sequence) = owed.or(row.int_opt(2)?) {
                standings.push(Standing { id: row.id(0)?, sequence, ended: owed.is_none() });
            }
        }
        Ok(standings)
    }

    /// Whether other nodes may write to the same store.
    pub fn is_shared(&self) -> bool {
        self.0.readers.engine() == Engine::Postgres
    }
}
