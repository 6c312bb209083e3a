//! Two-armed handles over the drivers, rusqlite and sqlx. This file names no table.

mod checkpoint;
mod sqlite;

use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row as _};
use uuid::Uuid;

use super::batch::{Sql, together};
use super::error::{Error, Result};
use crate::types::{Id, Millis};

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Embedded; one process, one writer.
    Sqlite,
    /// Shared by any number of nodes.
    Postgres,
}

impl Engine {
    /// The one of the store with that URL.
    pub fn of(url: &str) -> Result<Engine> {
        Ok(Target::parse(url)?.engine())
    }

    /// Its name in reports.
    pub const fn word(self) -> &'static str {
        match self {
            Engine::Sqlite => "sqlite",
            Engine::Postgres => "postgres",
        }
    }
}

/// How to reach the database.
#[derive(Clone, Debug)]
pub enum Target {
    /// A file.
    Sqlite(PathBuf),
    /// A server.
    Postgres(Box<PgConnectOptions>),
}

impl Target {
    /// Reads `sqlite://path` or `postgres://...`.
    pub fn parse(url: &str) -> Result<Target> {
        let bad = |e: sqlx::Error| Error::Bug(format!("--store: {e}"));
        if url.starts_with("sqlite:") {
            Ok(Target::Sqlite(sqlite::path(url)?))
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let options = PgConnectOptions::from_str(url).map_err(bad)?;
            Ok(Target::Postgres(Box::new(
                options
                    .application_name("ringback")
                    .statement_cache_capacity(256)
                    .options([
                        ("statement_timeout", "5000"),
                        // Far below the patience of the callers that share a transaction.
                        ("lock_timeout", "250"),
                        ("idle_in_transaction_session_timeout", "10000"),
                        ("default_transaction_isolation", "read committed"),
                        // A plan whose cost is overrated would be compiled at each call, which takes longer than to run it.
                        ("jit", "off"),
                    ])
                    .disable_statement_logging(),
            )))
        } else {
            Err(Error::Bug("--store must start with sqlite:// or postgres://".to_owned()))
        }
    }

    /// The same for connections of the hot verbs, whose plans must not change with the statistics.
    ///
    /// A plan made while a queue was empty scans it, or sorts all that is due to take the first few;
    /// every hot statement has an index that fits (ADR 0001).
    #[must_use]
    pub fn pinned(self) -> Target {
        match self {
            Target::Sqlite(path) => Target::Sqlite(path),
            Target::Postgres(o) => Target::Postgres(Box::new(o.options([
                ("enable_seqscan", "off"),
                ("enable_bitmapscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("enable_material", "off"),
                // For a batch of few rows it would plan anew at each call: a generic plan looks dearer to it.
                ("plan_cache_mode", "force_generic_plan"),
            ]))),
        }
    }

    /// Which database it is.
    pub fn engine(&self) -> Engine {
        match self {
            Target::Sqlite(_) => Engine::Sqlite,
            Target::Postgres(_) => Engine::Postgres,
        }
    }

    /// A new connection. SQLite readers are read-only and never create the file.
    pub async fn connect(&self, read_only: bool) -> Result<Conn> {
        Ok(match self {
            Target::Sqlite(path) => {
                let path = path.clone();
                let opened = tokio::task::spawn_blocking(move || sqlite::open(&path, read_only)).await;
                Conn::Sqlite(Box::new(opened.map_err(|e| Error::Bug(e.to_string()))??))
            }
            Target::Postgres(o) => Conn::Postgres(Box::new(PgConnection::connect_with(o).await?)),
        })
    }
}

/// One connection, owned by whoever uses it.
pub enum Conn {
    /// To a file.
    Sqlite(Box<sqlite::Session>),
    /// To a server.
    Postgres(Box<PgConnection>),
}

impl Conn {
    /// Makes a call. The connection comes back only if the call ended well; one that nobody waits for any more is
    /// broken off.
    pub async fn call(self, call: Call) -> Result<(Conn, Done)> {
        match self {
            Conn::Sqlite(session) => {
                let mut breaks_off = Interrupt(Some(session.conn.get_interrupt_handle()));
                // On a thread that may be held up.
                let made = tokio::task::spawn_blocking(move || {
                    let done = session.call(call)?;
                    Ok((Conn::Sqlite(session), done))
                });
                let made = made.await;
                // It has been waited for. Told to break off afterwards, SQLite does so with what comes next: to fold its
                // log when it is closed.
                breaks_off.0 = None;
                made.map_err(|e| Error::Bug(format!("a call panicked: {e}")))?
            }
            Conn::Postgres(mut conn) => {
                let done = call.on_postgres(&mut conn).await?;
                Ok((Conn::Postgres(conn), done))
            }
        }
    }
}

/// Dropped it ends what the connection is doing.
struct Interrupt(Option<rusqlite::InterruptHandle>);

impl Drop for Interrupt {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.interrupt();
        }
    }
}

/// What is asked of a connection.
#[derive(Clone)]
pub enum Call {
    /// The rows of one statement.
    All(&'static str, Vec<Value>),
    /// How many rows one statement touches.
    Run(&'static str, Vec<Value>),
    /// The rows of one statement over a batch: its scalars, and the cells of each row.
    Batch(&'static Sql, Vec<Value>, Vec<Vec<Value>>),
    /// Nothing of several statements over batches, of which none depends on what another one writes. PostgreSQL only.
    Together(Vec<Rows>),
    /// Nothing of any number of statements, which are no verb's.
    Script(String),
}

/// A statement over a batch: its scalars, and the cells of each row.
pub type Rows = (&'static Sql, Vec<Value>, Vec<Vec<Value>>);

/// A value on its way into a statement. Times and ids are integers and UUIDs by then.
#[derive(Debug, Clone)]
pub enum Value {
    /// 16 bytes.
    Uuid(Option<Uuid>),
    /// 64 bits.
    Int(Option<i64>),
    /// UTF-8 without NUL.
    Text(Option<String>),
    /// Anything.
    Bytes(Option<Vec<u8>>),
    /// A column of a batch, PostgreSQL only.
    Uuids(Vec<Option<Uuid>>),
    /// A column of a batch, PostgreSQL only.
    Ints(Vec<Option<i64>>),
    /// A column of a batch, PostgreSQL only.
    Texts(Vec<Option<String>>),
    /// A column of a batch, PostgreSQL only.
    Blobs(Vec<Option<Vec<u8>>>),
}

/// What came of a [`Call`].
#[derive(Default)]
pub struct Done {
    /// The rows of the answer.
    pub rows: Vec<Row>,
    /// How many rows were touched, where that was asked.
    pub touched: u64,
}

impl Call {
    /// Makes it on a SQLite connection, on this thread.
    fn on_sqlite(self, conn: &rusqlite::Connection) -> Result<Done> {
        let rows = |rows| Done { rows, touched: 0 };
        match self {
            Call::All(sql, args) => sqlite::all(conn, sql, &args).map(rows),
            Call::Batch(sql, scalars, batch) => sqlite::each(conn, sql, &scalars, &batch).map(rows),
            Call::Run(sql, args) => Ok(Done { rows: Vec::new(), touched: sqlite::run(conn, sql, &args)? }),
            Call::Together(_) => Err(Error::Bug("SQLite writes statement by statement".to_owned())),
            Call::Script(text) => Ok(conn.execute_batch(&text).map(|()| Done::default())?),
        }
    }

    /// Makes it on a PostgreSQL connection.
    async fn on_postgres(self, conn: &mut PgConnection) -> Result<Done> {
        let (sql, args) = match self {
            Call::Run(sql, args) => {
                let touched = query(sql, args).execute(conn).await?.rows_affected();
                return Ok(Done { rows: Vec::new(), touched });
            }
            Call::Script(text) => {
                sqlx::raw_sql(AssertSqlSafe(text)).execute(conn).await?;
                return Ok(Done::default());
            }
            Call::Together(all) => {
                let text = together(&all.iter().map(|(sql, ..)| *sql).collect::<Vec<_>>());
                let args = all.into_iter().map(|(sql, scalars, rows)| sql.arrays(scalars, rows));
                let args = args.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
                query(text, args).execute(conn).await?;
                return Ok(Done::default());
            }
            Call::All(sql, args) => (sql, args),
            Call::Batch(sql, scalars, batch) => (sql.text(Engine::Postgres), sql.arrays(scalars, batch)?),
        };
        let rows = query(sql, args).fetch_all(conn).await?.into_iter().map(Row::Postgres).collect();
        Ok(Done { rows, touched: 0 })
    }
}

type PgQuery = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn query(sql: &'static str, args: Vec<Value>) -> PgQuery {
    args.into_iter().fold(sqlx::query(sql), |q, arg| match arg {
        Value::Uuid(v) => q.bind(v),
        Value::Int(v) => q.bind(v),
        Value::Text(v) => q.bind(v),
        Value::Bytes(v) => q.bind(v),
        Value::Uuids(v) => q.bind(v),
        Value::Ints(v) => q.bind(v),
        Value::Texts(v) => q.bind(v),
        Value::Blobs(v) => q.bind(v),
    })
}

/// A row of an answer, read by position.
pub enum Row {
    /// From a file.
    Sqlite(Box<[sqlite::Cell]>),
    /// From a server.
    Postgres(PgRow),
}

macro_rules! getters {
    ($($name:ident -> $type:ty),* $(,)?) => {$(
        #[doc = concat!("The value at position `i` as `", stringify!($type), "`.")]
        pub fn $name(&self, i: usize) -> Result<$type> {
            Ok(match self { Row::Sqlite(r) => sqlite::cell(r, i)?, Row::Postgres(r) => r.try_get(i)? })
        }
    )*};
}

impl Row {
    getters! {
        uuid -> Uuid, uuid_opt -> Option<Uuid>, int -> i64, int_opt -> Option<i64>,
        text -> String, text_opt -> Option<String>, bytes -> Vec<u8>, bytes_opt -> Option<Vec<u8>>,
    }

    /// The id at position `i`.
    pub fn id<K>(&self, i: usize) -> Result<Id<K>> {
        Ok(Id::from_uuid(self.uuid(i)?))
    }

    /// The id at position `i`, if there is one.
    pub fn id_opt<K>(&self, i: usize) -> Result<Option<Id<K>>> {
        Ok(self.uuid_opt(i)?.map(Id::from_uuid))
    }

    /// The instant at position `i`.
    pub fn time(&self, i: usize) -> Result<Millis> {
        Ok(Millis(self.int(i)?))
    }

    /// The instant at position `i`, if there is one.
    pub fn time_opt(&self, i: usize) -> Result<Option<Millis>> {
        Ok(self.int_opt(i)?.map(Millis))
    }

    /// The count at position `i`.
    pub fn count(&self, i: usize) -> Result<u32> {
        u32::try_from(self.int(i)?).map_err(|_| Error::Bug(format!("column {i} is out of range")))
    }
}

macro_rules! into_value {
    ($($type:ty => $variant:ident $(by $map:expr)?),* $(,)?) => {$(
        impl From<$type> for Value {
            fn from(v: $type) -> Value { Value::$variant(Some(into_value!(@ v $($map)?))) }
        }
        impl From<Option<$type>> for Value {
            fn from(v: Option<$type>) -> Value { Value::$variant(v.map(|v| into_value!(@ v $($map)?))) }
        }
    )*};
    (@ $v:ident) => { $v };
    (@ $v:ident $map:expr) => { ($map)($v) };
}

into_value! {
    Uuid => Uuid,
    i64 => Int,
    u32 => Int by i64::from,
    Millis => Int by |m: Millis| m.0,
    String => Text,
    &str => Text by str::to_owned,
    Vec<u8> => Bytes,
}

impl<K> From<Id<K>> for Value {
    fn from(id: Id<K>) -> Value {
        Value::Uuid(Some(id.uuid()))
    }
}
impl<K> From<Option<Id<K>>> for Value {
    fn from(id: Option<Id<K>>) -> Value {
        Value::Uuid(id.map(Id::uuid))
    }
}

/// The arguments of a statement, in order.
#[macro_export]
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::db::Value::from($value)),*] };
}
