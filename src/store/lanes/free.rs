//! Lanes whose rows no other transaction holds.

use std::collections::HashSet;

use uuid::Uuid;

use crate::store::batch::{Col, Sql};
use crate::store::db::{Row, Value};
use crate::store::error::Result;
use crate::store::pool::Tx;

// Those of the lanes that can be written without waiting for another transaction, and held in one order: one row that someone
// holds must not hold up all others.
macro_rules! among {
    ($whose:literal, $rest:literal) => {
        concat!("SELECT q.id FROM lanes q WHERE q.id IN (SELECT b.id FROM {b}) AND ", $whose, $rest)
    };
}
pub(super) static MINE: Sql =
    Sql::batch(among!("COALESCE(q.owner_id, q.id) = $1", ""), 1, &[("id", Col::Uuid)]);
pub(super) static MINE_FREE: Sql =
    Sql::batch(among!("COALESCE(q.owner_id, q.id) = $1", " ORDER BY q.id {lock}"), 1, &[("id", Col::Uuid)]);
macro_rules! nobodys {
    ($rest:literal) => {
        among!(
            "NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = q.owner_id AND n.id <> $1 AND n.alive_until > $2)",
            $rest
        )
    };
}
pub(super) static NOBODYS: Sql = Sql::batch(nobodys!(""), 2, &[("id", Col::Uuid)]);
pub(super) static NOBODYS_FREE: Sql = Sql::batch(nobodys!(" ORDER BY q.id {lock}"), 2, &[("id", Col::Uuid)]);

/// Takes those of the lanes that are `free`. Gives them, and which others of `all` another transaction holds.
pub(super) async fn take_free(
    tx: &mut Tx,
    [free, all]: [&'static Sql; 2],
    scalars: Vec<Value>,
    asked: Vec<Vec<Value>>,
) -> Result<(HashSet<Uuid>, HashSet<Uuid>)> {
    let ids = |rows: Vec<Row>| rows.iter().map(|row| row.uuid(0)).collect::<Result<HashSet<Uuid>>>();
    let taken = ids(tx.batch(free, scalars.clone(), asked.clone()).await?)?;
    if taken.len() == asked.len() {
        return Ok((taken, HashSet::new()));
    }
    let held = &ids(tx.batch(all, scalars, asked).await?)? - &taken;
    Ok((taken, held))
}
