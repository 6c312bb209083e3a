//! How far watched jobs are: one statement for all that anyone watches at a node.

use super::Store;
use super::batch::{Col, Sql};
use super::db::{Engine, Value};
use super::error::Result;
use super::model::Standing;
use crate::types::JobId;

/// The document is read only where nothing is owed any more: what is watched mostly is. And nothing comes back
/// of a job that stands where it was seen: of thousands that are watched a few have moved.
static STANDINGS: Sql = Sql::batch(
    "SELECT b.id, q.sequence,
       CASE WHEN q.job_id IS NULL THEN (SELECT j.sequence FROM jobs j WHERE j.id = b.id) END
     FROM {b} LEFT JOIN job_queue q ON q.job_id {is b.id}
     WHERE q.job_id IS NULL OR q.sequence > b.seen",
    0,
    &[("id", Col::Uuid), ("seen", Col::Int)],
);

impl Store {
    /// Of jobs and the last sequence seen of each, those that are further, have ended, or, without a standing,
    /// are gone.
    ///
    /// For the loop that wakes a node's streams: it reads across tenants and tells nothing but numbers.
    pub async fn standings(&self, seen: &[(JobId, i64)]) -> Result<Vec<(JobId, Option<Standing>)>> {
        let rows = seen.iter().map(|(id, sequence)| vec![Value::from(*id), Value::from(*sequence)]).collect();
        let rows = self.scout_batch(&STANDINGS, vec![], rows).await?;
        let mut standings = Vec::with_capacity(rows.len());
        for row in &rows {
            let (id, owed) = (row.id(0)?, row.int_opt(1)?);
            let sequence = owed.or(row.int_opt(2)?);
            standings.push((id, sequence.map(|sequence| Standing { id, sequence, ended: owed.is_none() })));
        }
        Ok(standings)
    }

    /// Whether other nodes may write to the same store.
    pub fn is_shared(&self) -> bool {
        self.0.readers.engine() == Engine::Postgres
    }
}
