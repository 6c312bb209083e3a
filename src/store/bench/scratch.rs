//! Databases that a benchmark makes for itself and takes away again.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::store::db::{Call, Conn, Target};
use crate::store::error::{Error, Result};

/// The longest that a database which was left behind is waited for.
const DROPPED: Duration = Duration::from_secs(10);

/// An empty store on the same disk as another: a file beside it, or a database of the same server. It goes when this is dropped.
pub struct Scratch {
    /// Where it is.
    pub url: String,
    /// Until it was taken away.
    made: Option<Made>,
}

enum Made {
    File(PathBuf),
    Database { admin: Target, name: String },
}

impl Scratch {
    /// Makes one beside `url`; `name` is a plain word that nothing else there has.
    ///
    /// On PostgreSQL the role has to be allowed to make databases.
    pub async fn beside(url: &str, name: &str) -> Result<Scratch> {
        let target = Target::parse(url)?;
        if let Target::Sqlite(path) = &target {
            let mut path = path.as_os_str().to_owned();
            path.push(format!("-{name}"));
            let path = PathBuf::from(path);
            let url = format!("sqlite://{}", path.display());
            return Ok(Scratch { url, made: Some(Made::File(path)) });
        }
        let mut place = url::Url::parse(url).map_err(|e| Error::Bug(format!("--store: {e}")))?;
        place.set_path(name);
        let made = Made::Database { admin: target.clone(), name: name.to_owned() };
        // From here on it goes with the future too, which may be dropped before the server has answered.
        let scratch = Scratch { url: place.into(), made: Some(made) };
        script(&target, &format!("CREATE DATABASE {name}")).await?;
        Ok(scratch)
    }

    /// Takes it away; nobody may use it any more.
    pub async fn remove(mut self) -> Result<()> {
        match self.made.take() {
            Some(made) => made.remove().await,
            None => Ok(()),
        }
    }
}

impl Drop for Scratch {
    /// Where a benchmark failed or was interrupted: nothing goes on beside it that this could hold up.
    fn drop(&mut self) {
        let Some(made) = self.made.take() else { return };
        let name = made.name();
        // A future cannot be waited for on a thread of the runtime that it belongs to.
        let remove = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async { tokio::time::timeout(DROPPED, made.remove()).await.ok()?.ok() })
        };
        if std::thread::spawn(remove).join().ok().flatten().is_none() {
            tracing::warn!(store = name, "what a benchmark has made could not be taken away");
        }
    }
}

impl Made {
    /// Without what the URL of a store keeps secret.
    fn name(&self) -> String {
        match self {
            Made::File(path) => path.display().to_string(),
            Made::Database { name, .. } => name.clone(),
        }
    }

    async fn remove(self) -> Result<()> {
        match self {
            Made::File(path) => {
                remove_all(&path).map_err(|e| Error::Down(format!("{}: {e}", path.display())))
            }
            Made::Database { admin, name } => {
                script(&admin, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
            }
        }
    }
}

/// Removes a file, and what SQLite and the service keep beside it: its log, its lock, its key ring.
fn remove_all(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(name) = path.file_name() else { return Ok(()) };
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(name.as_encoded_bytes()) {
            match std::fs::remove_file(entry.path()) {
                // SQLite itself removes its log when the last one closes the file.
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
        }
    }
    Ok(())
}

/// Runs statements that no verb has, for as long as they take.
async fn script(target: &Target, sql: &str) -> Result<()> {
    let conn = raw(target.connect(false).await?, "SET statement_timeout = 0; SET lock_timeout = 0").await?;
    raw(conn, sql).await.map(drop)
}

/// The same on a connection that is there; settings of PostgreSQL are none of SQLite's.
pub(super) async fn raw(conn: Conn, sql: &str) -> Result<Conn> {
    if matches!(conn, Conn::Sqlite(_)) && sql.starts_with("SET ") {
        return Ok(conn);
    }
    Ok(conn.call(Call::Script(sql.to_owned())).await?.0)
}
