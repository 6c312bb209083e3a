//! The schema's versions, and the lock that keeps a second process off a SQLite file.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use super::db::{Conn, Target};
use super::error::{Error, Result};

/// Version, name and text of each migration; the two lists hold the same versions.
pub const SQLITE: &[(i64, &str, &str)] =
    &[(1, "init", include_str!("../../migrations/sqlite/0001_init.sql"))];
/// See [`SQLITE`].
pub const POSTGRES: &[(i64, &str, &str)] =
    &[(1, "init", include_str!("../../migrations/postgres/0001_init.sql"))];

/// Brings the schema up to date. Nodes that start together wait for each other.
pub(super) async fn migrate(target: &Target) -> Result<()> {
    let mut conn = target.connect(false).await?;
    let list = match target {
        Target::Sqlite(_) => SQLITE,
        Target::Postgres(_) => POSTGRES,
    };
    let migrator = Migrator::with_migrations(
        list.iter()
            .map(|(version, name, text)| {
                Migration::new(*version, (*name).into(), MigrationType::Simple, text.into_sql_str(), false)
            })
            .collect(),
    );
    let run = async {
        match &mut conn {
            Conn::Sqlite(c) => migrator.run_direct(None, &mut **c, false).await,
            Conn::Postgres(c) => {
                // A migration may take longer than a verb.
                let _ =
                    sqlx::raw_sql("SET statement_timeout = 0; SET lock_timeout = 0").execute(&mut **c).await;
                migrator.run_direct(None, &mut **c, false).await
            }
        }
    };
    let bug = |e: sqlx::migrate::MigrateError| Error::Bug(format!("migration: {e}"));
    tokio::time::timeout(Duration::from_secs(600), run)
        .await
        .map_err(|_| Error::Down("the migration took longer than 10 min".to_owned()))?
        .map_err(bug)
}

/// Held for as long as the process uses the file. None for PostgreSQL and for memory.
pub(super) fn lock_file(target: &Target) -> Result<Option<File>> {
    let Target::Sqlite(options) = target else { return Ok(None) };
    let path = options.get_filename();
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
