//! What the engine itself has counted: two readings tell what a benchmark cost.

use std::time::Duration;

use super::db::{Call, Engine, Target};
use super::error::{Error, Result};
use crate::args;

/// Readings of a PostgreSQL server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerCounts {
    /// Bytes of write-ahead log since the server was made.
    pub wal_bytes: i64,
    /// Row versions of this database that an update or a delete has made useless.
    pub dead_rows: i64,
    /// Updates among them that touched no index.
    pub hot_updates: i64,
    /// Transactions of this database, ended in whatever way.
    pub transactions: i64,
    /// The process id of one of its processes, if it runs on this machine.
    pub pid: u32,
}

const COUNTS: &str = "
    SELECT CAST(pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') AS BIGINT),
           CAST(COALESCE(t.dead, 0) AS BIGINT),
           CAST(COALESCE(t.hot, 0) AS BIGINT),
           -- one that is there for as long as the server, as those are that belong to no database
           CAST(COALESCE((SELECT a.pid FROM pg_stat_activity a WHERE a.datid IS NULL
                          ORDER BY a.backend_start, a.pid LIMIT 1), pg_backend_pid()) AS BIGINT),
           CAST(d.xact_commit + d.xact_rollback AS BIGINT)
    FROM (SELECT SUM(n_tup_upd + n_tup_del) AS dead, SUM(n_tup_hot_upd) AS hot FROM pg_stat_user_tables) AS t,
         pg_stat_database d
    WHERE d.datname = current_database()";

/// Reads the server's counts; a session tells of its last second only later. `None` for SQLite, which keeps none.
pub async fn server_counts(url: &str) -> Result<Option<ServerCounts>> {
    let target = Target::parse(url)?;
    if target.engine() == Engine::Sqlite {
        return Ok(None);
    }
    let ask = async {
        let (_, done) = target.connect(true).await?.call(Call::All(COUNTS, args![])).await?;
        let row = done.rows.first().ok_or(Error::NotFound)?;
        Ok(Some(ServerCounts {
            wal_bytes: row.int(0)?,
            dead_rows: row.int(1)?,
            hot_updates: row.int(2)?,
            pid: row.count(3)?,
            transactions: row.int(4)?,
        }))
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), ask).await;
    answer.map_err(|_| Error::Down("no answer in 10 s".to_owned()))?
}
