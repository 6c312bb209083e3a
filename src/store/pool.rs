//! Owned connections with a deadline on every call.
//!
//! Not sqlx's pool: it pings on every acquire and release, and a peer that vanished silently
//! leaks its permit for good (sqlx #4349). Here a call that fails or runs out of time drops
//! its connection, which is synchronous and frees the place.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::batch::Sql;
use super::db::{Conn, Engine, Row, Target, Value};
use super::error::{Error, Result};

/// The longest any one database call may take.
const CALL: Duration = Duration::from_secs(5);

/// A few connections.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    target: Target,
    read_only: bool,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Conn>>,
    wait: Duration,
}

impl Pool {
    /// Up to `size` connections; a caller waits at most `wait` for a free one.
    pub fn new(target: Target, size: usize, read_only: bool, wait: Duration) -> Pool {
        let places = Arc::new(Semaphore::new(size));
        Pool(Arc::new(Inner { target, read_only, places, idle: Mutex::default(), wait }))
    }

    /// A connection for some calls outside a transaction.
    pub async fn get(&self) -> Result<Guard> {
        let place = timeout(self.0.wait, self.0.places.clone().acquire_owned())
            .await
            .map_err(|_| Error::Down("no free connection".to_owned()))?
            .map_err(|_| Error::Down("closed".to_owned()))?;
        let idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = match idle {
            Some(conn) => conn,
            None => in_time(self.0.target.connect(self.0.read_only)).await?,
        };
        Ok(Guard { pool: self.0.clone(), conn: Some(conn), place: Some(place) })
    }

    /// A transaction. On SQLite it takes the write lock at once.
    ///
    /// An idle connection may have died; nothing has happened yet, so another is tried.
    pub async fn begin(&self) -> Result<Tx> {
        let begin = match self.engine() {
            Engine::Sqlite if !self.0.read_only => "BEGIN IMMEDIATE",
            Engine::Sqlite | Engine::Postgres => "BEGIN",
        };
        let mut tries = 0;
        loop {
            let mut guard = self.get().await?;
            match guard.run(begin, vec![]).await {
                Ok(_) => return Ok(Tx { guard, ended: false }),
                Err(Error::Down(_) | Error::Bug(_)) if tries < 8 => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }

    /// Which database it is.
    pub fn engine(&self) -> Engine {
        self.0.target.engine()
    }

    /// Closes what is idle and refuses further callers.
    pub fn close(&self) {
        self.0.places.close();
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(CALL, call).await.unwrap_or_else(|_| Err(Error::Down("no answer in time".to_owned())))
}

/// A borrowed connection. It goes back only if the last call on it ended well.
pub struct Guard {
    pool: Arc<Inner>,
    conn: Option<Conn>,
    place: Option<OwnedSemaphorePermit>,
}

impl Guard {
    /// Runs a statement and gives the rows.
    pub async fn all(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Vec<Row>> {
        let mut conn = self.take()?;
        let rows = in_time(conn.all(sql, args)).await?;
        self.conn = Some(conn);
        Ok(rows)
    }

    /// Runs a statement and gives the number of rows it touched.
    pub async fn run(&mut self, sql: &'static str, args: Vec<Value>) -> Result<u64> {
        let mut conn = self.take()?;
        let n = in_time(conn.run(sql, args)).await?;
        self.conn = Some(conn);
        Ok(n)
    }

    /// Which database it is.
    pub fn engine(&self) -> Engine {
        self.pool.target.engine()
    }

    // While a call runs the connection is out of the guard: if the call fails, times out or is
    // cancelled, the connection is dropped in an unknown state and never used again.
    fn take(&mut self) -> Result<Conn> {
        self.conn.take().ok_or_else(|| Error::Down("the connection failed earlier".to_owned()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take()
            && !self.pool.places.is_closed()
        {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        }
        // The place is freed after the connection is back, so no one opens one too many.
        drop(self.place.take());
    }
}

/// A transaction. Dropped without a commit its connection is closed, which rolls it back.
pub struct Tx {
    guard: Guard,
    ended: bool,
}

impl Tx {
    /// Runs a statement and gives the rows.
    pub async fn all(&mut self, sql: &Sql, args: Vec<Value>) -> Result<Vec<Row>> {
        self.guard.all(sql.text(self.engine()), args).await
    }

    /// Runs a statement and gives the number of rows it touched.
    pub async fn run(&mut self, sql: &Sql, args: Vec<Value>) -> Result<u64> {
        self.guard.run(sql.text(self.engine()), args).await
    }

    /// Runs a statement that was put together and interned.
    pub async fn all_text(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Vec<Row>> {
        self.guard.all(sql, args).await
    }

    /// Runs a batch statement and gives the rows. No rows in, no call.
    pub async fn batch(&mut self, sql: &Sql, scalars: Vec<Value>, rows: Vec<Vec<Value>>) -> Result<Vec<Row>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let args = sql.args(self.engine(), scalars, rows)?;
        self.all(sql, args).await
    }

    /// Makes it last.
    pub async fn commit(mut self) -> Result<()> {
        self.guard.run("COMMIT", vec![]).await?;
        self.ended = true;
        Ok(())
    }

    /// Undoes it and keeps the connection.
    pub async fn rollback(mut self) -> Result<()> {
        self.guard.run("ROLLBACK", vec![]).await?;
        self.ended = true;
        Ok(())
    }

    /// Which database it is.
    pub fn engine(&self) -> Engine {
        self.guard.engine()
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if !self.ended {
            // Closing is the one way to roll back that needs no answer.
            self.guard.conn = None;
        }
    }
}
