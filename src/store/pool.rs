//! Owned connections with a deadline on every call.
//!
//! Not sqlx's pool: it pings on every acquire and release, and a peer that vanished silently
//! leaks its permit for good (sqlx #4349). Here a call that fails or runs out of time drops
//! its connection, which is synchronous and frees the place.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::batch::{Sql, names};
use super::db::{Call, Conn, Done, Engine, Row, Rows, Target, Value};
use super::error::{Error, Result};

/// The longest any one database call may take.
const CALL: Duration = Duration::from_secs(5);

/// A few connections.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
    /// Whose calls on SQLite run on the thread that makes them.
    here: bool,
}

struct Inner {
    target: Target,
    read_only: bool,
    places: Arc<Semaphore>,
    /// With what `lost` was before each was last called, or opened.
    idle: Mutex<Vec<(Conn, u64)>>,
    /// Goes up with each connection that is lost, of this pool or of one [spawned](Pool::spawn) from it: what became of it became of those
    /// that rested then, and who asks again is not to wait for each.
    lost: Arc<AtomicU64>,
    wait: Duration,
    /// Held until it is closed, and by each of its SQLite connections for as long as that is there.
    lock: Mutex<Option<Arc<File>>>,
}

impl Inner {
    async fn conn(&self) -> Result<(Conn, u64)> {
        let lost = self.lost.load(Ordering::Relaxed);
        let idle = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(_, then)| *then == lost);
            idle.pop()
        };
        match idle {
            Some(conn) => Ok(conn),
            None => {
                let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // It has let go of the lock, and another process may have it.
                if self.places.is_closed() {
                    return Err(Error::Down("closed".to_owned()));
                }
                let mut conn = in_time(Box::pin(self.target.connect(self.read_only))).await?;
                if let Conn::Sqlite(session) = &mut conn {
                    session.lock = lock;
                }
                Ok((conn, lost))
            }
        }
    }
}

impl Pool {
    /// Up to `size` connections; a caller waits at most `wait` for a free one.
    pub fn new(target: Target, size: usize, read_only: bool, wait: Duration) -> Pool {
        Pool::beside(target, size, read_only, wait, Arc::default())
    }

    fn beside(target: Target, size: usize, read_only: bool, wait: Duration, lost: Arc<AtomicU64>) -> Pool {
        let places = Arc::new(Semaphore::new(size));
        let (idle, lock) = (Mutex::default(), Mutex::default());
        Pool { inner: Arc::new(Inner { target, read_only, places, idle, lost, wait, lock }), here: false }
    }

    /// Keeps other processes off the file by that lock: until it is closed and nothing writes any more.
    #[must_use]
    pub fn holding(self, lock: Option<File>) -> Pool {
        *self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner) = lock.map(Arc::new);
        self
    }

    /// Spawns a long run of calls on a thread of its own. On SQLite they hold it up, and cost no way to another one. On
    /// PostgreSQL they go over one more connection, whose answers are read as they come: beside requests an answer would
    /// wait for those whose turn is before it, with all who wait for the transaction. Gives the pool that it calls.
    pub fn spawn<T, F>(&self, tasks: &mut JoinSet<T>, run: impl FnOnce(Pool) -> F) -> Result<Pool>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        match self.engine() {
            Engine::Sqlite => {
                let pool = Pool { inner: self.inner.clone(), here: true };
                let run = run(pool.clone());
                tasks.spawn_blocking(move || Handle::current().block_on(run));
                Ok(pool)
            }
            Engine::Postgres => {
                // A connection is told of its answers by the runtime that opened it.
                let Inner { target, read_only, wait, lost, .. } = &*self.inner;
                let pool = Pool::beside(target.clone(), 1, *read_only, *wait, lost.clone());
                let run = run(pool.clone());
                let runtime = Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(|e| Error::Down(format!("cannot start a writer: {e}")))?;
                tasks.spawn_blocking(move || {
                    let done = runtime.block_on(run);
                    // A look-up of the server's name that hangs is not waited for.
                    runtime.shutdown_background();
                    done
                });
                Ok(pool)
            }
        }
    }

    /// A connection for some calls outside a transaction.
    pub async fn get(&self) -> Result<Guard> {
        let place = timeout(self.inner.wait, self.inner.places.clone().acquire_owned())
            .await
            .map_err(|_| Error::Down("no free connection".to_owned()))?
            .map_err(|_| Error::Down("closed".to_owned()))?;
        let conn = self.inner.conn().await?;
        Ok(Guard { pool: self.inner.clone(), here: self.here, conn: Some(conn), place: Some(place) })
    }

    /// A transaction. On SQLite it takes the write lock at once.
    pub async fn begin(&self) -> Result<Tx> {
        let mut tx = self.open().await?;
        tx.start().await?;
        Ok(tx)
    }

    /// The same, begun with its first call that needs an answer. Without one its commit is its first, and fails where an
    /// idle connection has died: it is for who can repeat it.
    pub async fn open(&self) -> Result<Tx> {
        let guard = self.get().await?;
        let mut tx = Tx { guard, begun: false, ended: false, later: Vec::new() };
        if self.engine() == Engine::Sqlite {
            tx.start().await?;
        }
        Ok(tx)
    }

    /// Which database it is.
    pub fn engine(&self) -> Engine {
        self.inner.target.engine()
    }

    /// Closes what is idle and refuses further callers.
    pub fn close(&self) {
        self.inner.places.close();
        self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        drop(self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

// Boxed: what speaks to a server takes kilobytes, and every verb, handler and attempt that may wait for it would be as
// large, several times over, and be moved about at that size for each request.
async fn in_time<T>(call: Pin<Box<impl Future<Output = Result<T>>>>) -> Result<T> {
    timeout(CALL, call).await.unwrap_or_else(|_| Err(Error::Down("no answer in time".to_owned())))
}

/// Whether what began then, and is safe to repeat, may be tried on another connection: once if none answers in time.
pub(super) fn may_ask_again(began: Instant) -> bool {
    began.elapsed() <= CALL + CALL / 2
}

/// A borrowed connection. It goes back only if the last call on it ended well.
pub struct Guard {
    pool: Arc<Inner>,
    here: bool,
    conn: Option<(Conn, u64)>,
    place: Option<OwnedSemaphorePermit>,
}

impl Guard {
    /// Runs a statement and gives the rows.
    pub async fn all(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Vec<Row>> {
        Ok(self.call(Call::All(sql, args)).await?.rows)
    }

    /// Runs a statement and gives the number of rows it touched.
    pub async fn run(&mut self, sql: &'static str, args: Vec<Value>) -> Result<u64> {
        Ok(self.call(Call::Run(sql, args)).await?.touched)
    }

    /// Runs a batch statement and gives the rows.
    pub async fn batch(
        &mut self,
        sql: &'static Sql,
        scalars: Vec<Value>,
        rows: Vec<Vec<Value>>,
    ) -> Result<Vec<Row>> {
        Ok(self.call(Call::Batch(sql, scalars, rows)).await?.rows)
    }

    /// Which database it is.
    pub fn engine(&self) -> Engine {
        self.pool.target.engine()
    }

    /// Makes a call; one over a batch without rows is none.
    // While a call runs the connection is out of the guard: if the call fails, times out or is
    // cancelled, the connection is dropped in an unknown state and never used again.
    pub(super) async fn call(&mut self, call: Call) -> Result<Done> {
        if matches!(&call, Call::Batch(_, _, rows) if rows.is_empty()) {
            return Ok(Done::default());
        }
        let conn = self.conn.take();
        let (conn, _) = conn.ok_or_else(|| Error::Down("the connection failed earlier".to_owned()))?;
        // It shows with this call that it lives.
        let then = self.pool.lost.load(Ordering::Relaxed);
        let (conn, done) = match conn {
            Conn::Sqlite(session) if self.here => {
                let done = session.call(call)?;
                (Conn::Sqlite(session), done)
            }
            conn => match in_time(Box::pin(conn.call(call))).await {
                Err(e @ Error::Down(_)) => {
                    self.pool.lost.fetch_add(1, Ordering::Relaxed);
                    return Err(e);
                }
                answer => answer?,
            },
        };
        self.conn = Some((conn, then));
        Ok(done)
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
    begun: bool,
    ended: bool,
    /// Writes that go with the next call that may see them, or with the commit.
    later: Vec<Rows>,
}

impl Tx {
    /// Runs a statement and gives the rows.
    pub async fn all(&mut self, sql: &Sql, args: Vec<Value>) -> Result<Vec<Row>> {
        self.all_text(sql.text(self.engine()), args).await
    }

    /// Runs a statement and gives the number of rows it touched.
    pub async fn run(&mut self, sql: &Sql, args: Vec<Value>) -> Result<u64> {
        let text = sql.text(self.engine());
        self.ready(text).await?;
        self.guard.run(text, args).await
    }

    /// Runs a statement that was put together and interned.
    pub async fn all_text(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Vec<Row>> {
        self.ready(sql).await?;
        self.guard.all(sql, args).await
    }

    /// Runs a batch statement and gives the rows. No rows in, no call.
    pub async fn batch(
        &mut self,
        sql: &'static Sql,
        scalars: Vec<Value>,
        rows: Vec<Vec<Value>>,
    ) -> Result<Vec<Row>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        self.ready(sql.text(self.engine())).await?;
        self.guard.batch(sql, scalars, rows).await
    }

    /// Writes rows of which nobody asks what came of them. On PostgreSQL, where each call is a way there and back, it
    /// goes with others like it, before anything that names its table; what is all that an [open](Pool::open) transaction
    /// does needs no other call.
    pub async fn later(
        &mut self,
        sql: &'static Sql,
        scalars: Vec<Value>,
        rows: Vec<Vec<Value>>,
    ) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        if self.engine() == Engine::Sqlite {
            return self.guard.batch(sql, scalars, rows).await.map(drop);
        }
        // Together they would not see each other's rows; it does not look for new ones beside its own.
        let text = sql.text(Engine::Postgres);
        let own = if sql.inserts() { sql.table() } else { None };
        if self.sees(text, own) {
            self.start().await?;
            self.write().await?;
        }
        self.later.push((sql, scalars, rows));
        Ok(())
    }

    /// Makes it last. Where the answer is lost, nobody knows whether it did.
    pub async fn commit(mut self) -> Result<()> {
        self.write().await?;
        if self.begun {
            self.guard.run("COMMIT", vec![]).await?;
        }
        self.ended = true;
        Ok(())
    }

    /// Undoes it and keeps the connection.
    pub async fn rollback(mut self) -> Result<()> {
        if self.begun {
            self.guard.run("ROLLBACK", vec![]).await?;
        }
        self.ended = true;
        Ok(())
    }

    /// Which database it is.
    pub fn engine(&self) -> Engine {
        self.guard.engine()
    }

    async fn ready(&mut self, text: &str) -> Result<()> {
        self.start().await?;
        if self.sees(text, None) { self.write().await } else { Ok(()) }
    }

    /// Whether the text names a table of what is held back, but for its `own`.
    fn sees(&self, text: &str, own: Option<&str>) -> bool {
        let seen = |table| Some(table) != own && names(text, table);
        self.later.iter().any(|(earlier, ..)| earlier.table().is_none_or(seen))
    }

    /// An idle connection may have died; nothing has happened yet, so another is tried.
    async fn start(&mut self) -> Result<()> {
        let begin = match self.engine() {
            Engine::Sqlite if !self.guard.pool.read_only => "BEGIN IMMEDIATE",
            Engine::Sqlite | Engine::Postgres => "BEGIN",
        };
        let (began, mut tries) = (Instant::now(), 0);
        while !self.begun {
            match self.guard.run(begin, vec![]).await {
                Ok(_) => self.begun = true,
                Err(Error::Down(_) | Error::Bug(_)) if tries < 8 && may_ask_again(began) => {
                    tries += 1;
                    self.guard.conn = Some(self.guard.pool.conn().await?);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<()> {
        if self.later.is_empty() {
            return Ok(());
        }
        let later = std::mem::take(&mut self.later);
        self.guard.call(Call::Together(later)).await.map(drop)
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if self.begun && !self.ended {
            // Closing is the one way to roll back that needs no answer.
            self.guard.conn = None;
        }
    }
}
