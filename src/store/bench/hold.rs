//! A snapshot that someone keeps open, as a backup or a forgotten session does.

use super::scratch::raw;
use crate::store::db::{Conn, Target};
use crate::store::error::Result;

/// While it is held, no row version that it sees can be removed.
pub struct Held(Conn);

impl Held {
    /// Opens one over the store at `url`.
    pub async fn open(url: &str) -> Result<Held> {
        let target = Target::parse(url)?;
        let conn = target.connect(true).await?;
        let conn = raw(conn, "SET idle_in_transaction_session_timeout = 0").await?;
        let begin = match &conn {
            Conn::Sqlite(_) => "BEGIN",
            Conn::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ",
        };
        let conn = raw(conn, begin).await?;
        // The snapshot is taken by the first look.
        Ok(Held(raw(conn, "SELECT COUNT(*) FROM job_queue").await?))
    }

    /// Lets go.
    pub async fn release(self) -> Result<()> {
        raw(self.0, "ROLLBACK").await.map(drop)
    }
}
