//! Figures of the fleet: nodes, and what they have in hand.

use crate::args;
use crate::store::Store;
use crate::store::error::{Error, Result};
use crate::types::Millis;

const FLEET: &str = "
    SELECT (SELECT COUNT(*) FROM nodes n WHERE n.alive_until > $1),
           (SELECT COUNT(*) FROM lanes l WHERE l.owner_id IS NOT NULL)";

const NODES: &str = "SELECT COUNT(*) FROM nodes n WHERE n.alive_until > $1";

const FIGURES: &str = "
    SELECT COALESCE((SELECT q.due_at FROM delivery_queue q WHERE q.phase = 'ready' ORDER BY q.due_at LIMIT 1), $1),
           (SELECT COUNT(*) FROM nodes n WHERE n.alive_until > $1),
           (SELECT COUNT(*) FROM redrives r WHERE r.state = 'running'),
           COALESCE((SELECT f.created_at FROM fan_outs f ORDER BY f.event_id LIMIT 1), $1)";

impl Store {
    /// How many lanes each living node has when they are fairly shared out; at least 1.
    pub async fn fair_share(&self, now: Millis) -> Result<usize> {
        let rows = self.scout(FLEET, args![now]).await?;
        let row = rows.first().ok_or(Error::NotFound)?;
        let count = |i| Ok::<_, Error>(usize::try_from(row.int(i)?).unwrap_or(0).max(1));
        Ok(count(1)?.div_ceil(count(0)?))
    }

    /// How many nodes with the role `dispatch` live. From here on this one writes one transaction at a time if there are others,
    /// as long as that takes what there is.
    pub async fn heed_nodes(&self, now: Millis) -> Result<u64> {
        let rows = self.scout(NODES, args![now]).await?;
        let alive = rows.first().ok_or(Error::NotFound)?.int(0)?;
        self.0.committer.width.share(alive > 1);
        Ok(alive.unsigned_abs())
    }

    /// Figures of the fleet for `/metrics` and `/healthz`: name and value. Five probes, no table is counted: ids of events are
    /// in the order of their time.
    pub async fn figures(&self, now: Millis) -> Result<Vec<(&'static str, i64)>> {
        let rows = self.read(FIGURES, args![now]).await?;
        let row = rows.first().ok_or(Error::NotFound)?;
        let age = |i| Ok::<_, Error>(i64::try_from(now.since(row.time(i)?).as_secs()).unwrap_or(i64::MAX));
        Ok(vec![
            ("deliveries_oldest_due_seconds", age(0)?),
            ("fan_outs_oldest_seconds", age(3)?),
            ("nodes_alive", row.int(1)?),
            ("redrives_running", row.int(2)?),
            ("feed_held_transactions", self.feed_holds().await?),
        ])
    }
}
