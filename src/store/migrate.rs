//! The schema's versions, and the lock that keeps a second process off a SQLite file.

use std::cmp::Ordering;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnection;
use tokio::task::spawn_blocking;

use super::db::{Call, Conn, Engine, Target};
use super::error::{Error, Result};
use crate::args;

/// Version, name and text of each migration; the two lists hold the same versions.
pub const SQLITE: &[(i64, &str, &str)] =
    &[(1, "init", include_str!("../../migrations/sqlite/0001_init.sql"))];
/// See [`SQLITE`].
pub const POSTGRES: &[(i64, &str, &str)] =
    &[(1, "init", include_str!("../../migrations/postgres/0001_init.sql"))];

/// Positions of the feed grow with the numbers of transactions, which are a server's own. A store that finds itself in
/// another database than before goes on far above all that anyone can have read: a follower may have read more than is in
/// the dump. Which database it was is kept beside the base, so that a dump has both.
const SETTLE: &str = "
DO $$
DECLARE
    home TEXT := (SELECT c.system_identifier || '/' || d.oid FROM pg_control_system() c, pg_database d
                  WHERE d.datname = current_database());
    known TEXT;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('ringback feed_base', 0));
    known := obj_description('feed_base()'::regprocedure, 'pg_proc');
    IF known IS NOT DISTINCT FROM home THEN
        RETURN;
    END IF;
    IF known IS NOT NULL THEN
        EXECUTE format('CREATE OR REPLACE FUNCTION feed_base() RETURNS BIGINT LANGUAGE sql IMMUTABLE PARALLEL SAFE AS %L',
                       format('SELECT CAST(%s AS BIGINT)', feed_base() + (1::BIGINT << 40)));
    END IF;
    EXECUTE format('COMMENT ON FUNCTION feed_base() IS %L', home);
END $$";

/// Brings the schema up to date. Nodes that start together wait for each other.
pub(super) async fn migrate(target: &Target) -> Result<()> {
    let conn = target.connect(false).await?;
    let run = async {
        match conn {
            Conn::Sqlite(mut session) => {
                spawn_blocking(move || sqlite(&mut session.conn)).await.map_err(bug)?
            }
            Conn::Postgres(conn) => postgres(conn).await,
        }
    };
    let late = |_| Error::Down("the migration took longer than 10 min".to_owned());
    tokio::time::timeout(Duration::from_secs(600), run).await.map_err(late)?
}

fn bug(e: impl std::fmt::Display) -> Error {
    Error::Bug(format!("migration: {e}"))
}

/// Refuses a store that is not of this release. What a later one has been at: what this one would do to it, nobody knows.
fn fits(at: i64) -> Result<()> {
    let known = version();
    match at.cmp(&known) {
        Ordering::Less => Err(Error::Older { at, known }),
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(Error::Newer { at, known }),
    }
}

/// The last version that this release knows.
pub(super) fn version() -> i64 {
    POSTGRES.last().map_or(0, |(version, _, _)| *version)
}

/// Refuses a store whose schema is not this release's, for who goes to it as it is. Reads only, and makes no file.
pub(super) async fn check(target: &Target) -> Result<()> {
    let ask = async {
        let conn = target.connect(true).await?;
        let ask = async |conn: Conn, sql| conn.call(Call::All(sql, args![])).await;
        let done = match target.engine() {
            Engine::Sqlite => ask(conn, "SELECT user_version FROM pragma_user_version").await?.1,
            Engine::Postgres => {
                const MADE: &str = "SELECT 1::BIGINT WHERE to_regclass('_sqlx_migrations') IS NOT NULL";
                const AT: &str = "SELECT MAX(version) FROM _sqlx_migrations WHERE success";
                let (conn, made) = ask(conn, MADE).await?;
                if made.rows.is_empty() { made } else { ask(conn, AT).await?.1 }
            }
        };
        fits(done.rows.first().map_or(Ok(None), |row| row.int_opt(0))?.unwrap_or(0))
    };
    let late = |_| Error::Down("no answer in 10 s".to_owned());
    tokio::time::timeout(Duration::from_secs(10), ask).await.map_err(late)?
}

/// The file's `user_version` is the last version that it was brought to.
fn sqlite(conn: &mut rusqlite::Connection) -> Result<()> {
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let at: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if let Err(newer @ Error::Newer { .. }) = fits(at) {
        return Err(newer);
    }
    for (version, _, text) in SQLITE.iter().filter(|(version, _, _)| *version > at) {
        tx.execute_batch(text).map_err(bug)?;
        tx.pragma_update(None, "user_version", version)?;
    }
    Ok(tx.commit()?)
}

async fn postgres(mut conn: Box<PgConnection>) -> Result<()> {
    let migration = |(version, name, text): &(i64, &'static str, &'static str)| {
        Migration::new(*version, (*name).into(), MigrationType::Simple, text.into_sql_str(), false)
    };
    let migrator = Migrator::with_migrations(POSTGRES.iter().map(migration).collect());
    // A migration may take longer than a verb.
    let _ = sqlx::raw_sql("SET statement_timeout = 0; SET lock_timeout = 0").execute(&mut *conn).await;
    migrator.run_direct(None, &mut *conn, false).await.map_err(|e| match e {
        MigrateError::VersionMissing(at) => Error::Newer { at, known: version() },
        e => bug(e),
    })?;
    Ok(sqlx::raw_sql(SETTLE).execute(&mut *conn).await.map(drop)?)
}

/// Held for as long as the process uses the file. None for PostgreSQL and for memory.
pub(super) fn lock_file(target: &Target) -> Result<Option<File>> {
    let Target::Sqlite(path) = target else { return Ok(None) };
    let mut name = path.as_os_str().to_owned();
    name.push("-lock");
    let path = PathBuf::from(name);
    let down = |e: std::io::Error| Error::Down(format!("{}: {e}", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(down)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Error::Down("another process uses this SQLite file".to_owned()))
        }
        Err(std::fs::TryLockError::Error(e)) => Err(down(e)),
    }
}
