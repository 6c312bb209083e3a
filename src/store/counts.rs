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
    /// Dead row versions that wait for vacuum, an estimate of the server's.
    pub dead_rows: i64,
    /// The process id of one of its processes, if it runs on this machine.
    pub pid: u32,
}

const COUNTS: &str = "
    SELECT CAST(pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') AS BIGINT),
           CAST(COALESCE((SELECT SUM(t.n_dead_tup) FROM pg_stat_user_tables t), 0) AS BIGINT),
           CAST(pg_backend_pid() AS BIGINT)";

/// Reads the server's counts; `None` for SQLite, which keeps none.
pub async fn server_counts(url: &str) -> Result<Option<ServerCounts>> {
    let target = Target::parse(url)?;
    if target.engine() == Engine::Sqlite {
        return Ok(None);
    }
    let ask = async {
        let (_, done) = target.connect(true).await?.call(Call::All(COUNTS, args![])).await?;
        let row = done.rows.first().ok_or(Error::NotFound)?;
        Ok(Some(ServerCounts { wal_bytes: row.int(0)?, dead_rows: row.int(1)?, pid: row.count(2)? }))
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), ask).await;
    answer.map_err(|_| Error::Down("no answer in 10 s".to_owned()))?
}
