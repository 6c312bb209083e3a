//! Databases that a benchmark makes for itself and takes away again.

use std::path::PathBuf;

use crate::store::db::{Call, Conn, Target};
use crate::store::error::{Error, Result};

/// An empty store on the same disk as another: a file beside it, or a database of the same server.
pub struct Scratch {
    /// Where it is.
    pub url: String,
    made: Made,
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
            return Ok(Scratch { url: format!("sqlite://{}", path.display()), made: Made::File(path) });
        }
        let mut place = url::Url::parse(url).map_err(|e| Error::Bug(format!("--store: {e}")))?;
        place.set_path(name);
        script(&target, &format!("CREATE DATABASE {name}")).await?;
        Ok(Scratch { url: place.into(), made: Made::Database { admin: target, name: name.to_owned() } })
    }

    /// Takes it away; nobody may use it any more.
    pub async fn remove(self) -> Result<()> {
        match self.made {
            Made::File(path) => {
                for end in ["", "-wal", "-shm", "-lock"] {
                    let mut file = path.as_os_str().to_owned();
                    file.push(end);
                    // The last three need not be there.
                    let _ = std::fs::remove_file(file);
                }
                Ok(())
            }
            Made::Database { admin, name } => {
                script(&admin, &format!("DROP DATABASE {name} WITH (FORCE)")).await
            }
        }
    }
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
