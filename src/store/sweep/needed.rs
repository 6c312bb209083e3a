//! Jobs whose time has come and that something still refers to.

use std::time::Duration;

use uuid::Uuid;

use super::LOOK_AGAIN;
use crate::args;
use crate::store::Store;
use crate::store::batch::{Col, Sql};
use crate::store::db::Value;
use crate::store::error::Result;
use crate::store::pool::Tx;
use crate::types::Millis;

/// A job is put off by as long as it is overdue, so that it goes soon after its last delivery and is not looked at often where
/// that takes weeks; by no more than [`LOOK_AGAIN`], and by no less than this.
const LOOK_SOON: Duration = Duration::from_secs(300);
/// That is done so long before its time has come, for a reader takes what is past its time for gone.
const AHEAD: Duration = Duration::from_secs(120);

/// Jobs that one look passes whose time is about to come.
const PASSED: u32 = 2_000;

// Who is told only later may still want to read the job.
macro_rules! needed {
    () => {
        "EXISTS (SELECT 1 FROM deliveries d WHERE d.job_id = jobs.id
                 AND (d.state = 'owed' OR EXISTS (SELECT 1 FROM dead_letters x WHERE x.delivery_id = d.id))
                 UNION ALL SELECT 1 FROM fan_outs f WHERE f.job_id = jobs.id)"
    };
}

pub(super) use needed;

/// Between $2 and $3, and by as long as $1 lies behind its own time.
macro_rules! put_off {
    () => {
        "UPDATE jobs SET remove_at = CASE WHEN $1 + ($1 - expires_at) < $2 THEN $2
                                     WHEN $1 + ($1 - expires_at) < $3 THEN $1 + ($1 - expires_at) ELSE $3 END"
    };
}
// Each condition is asked of the row itself, not only of the list: a retry may have reopened it since.
pub(in crate::store) static POSTPONE: Sql = Sql::plain(concat!(
    put_off!(),
    " WHERE id IN (SELECT j.id FROM jobs j WHERE j.remove_at <= $1 AND j.purged_at IS NULL ORDER BY j.remove_at LIMIT $4)
       AND remove_at <= $1 AND purged_at IS NULL AND state <> 'owed' AND ",
    needed!()
));
// Those of the next minutes, of which most may be needed no more.
pub(in crate::store) const PASSING: &str = concat!(
    "SELECT id, remove_at, CASE WHEN state <> 'owed' AND ",
    needed!(),
    " THEN CAST(1 AS BIGINT) ELSE 0 END
     FROM jobs WHERE (remove_at, id) > ($1, $2) AND remove_at <= $3 AND purged_at IS NULL ORDER BY remove_at, id LIMIT $4"
);
static POSTPONE_THESE: Sql = Sql::batch(
    concat!(
        put_off!(),
        " FROM {b} WHERE jobs.id = b.id AND remove_at <= $1 AND purged_at IS NULL AND state <> 'owed'"
    ),
    3,
    &[("id", Col::Uuid)],
);

impl Store {
    /// Puts off the removal of jobs whose time comes within minutes and that something still refers to, however many others
    /// pass beside them: a reader takes what is past its time for gone.
    pub async fn keep_needed(&self, now: Millis) -> Result<()> {
        let until = now.plus(AHEAD);
        let mut after = (now, Uuid::nil());
        loop {
            let rows = self.scout(PASSING, args![after.0, after.1, until, PASSED]).await?;
            let mut needed = Vec::new();
            for row in &rows {
                if row.int(2)? == 1 {
                    needed.push(args![row.uuid(0)?]);
                }
            }
            if !needed.is_empty() {
                let mut tx = self.0.writers.begin().await?;
                tx.batch(&POSTPONE_THESE, bounds(until), needed).await?;
                tx.commit().await?;
            }
            match rows.last() {
                Some(last) if rows.len() == PASSED as usize => after = (last.time(1)?, last.uuid(0)?),
                Some(_) | None => return Ok(()),
            }
        }
    }
}

/// Puts off one bite of those whose time comes within minutes; gives how many.
pub(super) async fn put_off(tx: &mut Tx, now: Millis, bite: u32) -> Result<u64> {
    tx.run(&POSTPONE, [bounds(now.plus(AHEAD)), args![bite]].concat()).await
}

/// What [`put_off!`] takes.
fn bounds(then: Millis) -> Vec<Value> {
    args![then, then.plus(LOOK_SOON), then.plus(LOOK_AGAIN)]
}
