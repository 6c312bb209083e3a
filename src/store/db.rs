//! Two-armed handles over sqlx's two concrete drivers. This file names no table.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row as _};
use uuid::Uuid;

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

/// How to reach the database.
#[derive(Clone, Debug)]
pub enum Target {
    /// A file.
    Sqlite(Box<SqliteConnectOptions>),
    /// A server.
    Postgres(Box<PgConnectOptions>),
}

impl Target {
    /// Reads `sqlite://path` or `postgres://...`.
    pub fn parse(url: &str) -> Result<Target> {
        let bad = |e: sqlx::Error| Error::Bug(format!("--store: {e}"));
        if url.starts_with("sqlite:") {
            if url.contains(":memory:") || url.contains("mode=memory") {
                return Err(Error::Bug("--store must be a file: readers and the writer share it".to_owned()));
            }
            let options = SqliteConnectOptions::from_str(url).map_err(bad)?;
            Ok(Target::Sqlite(Box::new(
                options
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(Duration::from_secs(5))
                    .statement_cache_capacity(256)
                    .pragma("temp_store", "memory")
                    .disable_statement_logging(),
            )))
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
            Target::Sqlite(o) => Target::Sqlite(o),
            Target::Postgres(o) => Target::Postgres(Box::new(o.options([
                ("enable_seqscan", "off"),
                ("enable_bitmapscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
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
            Target::Sqlite(o) => {
                let o = o.as_ref().clone().read_only(read_only).create_if_missing(!read_only);
                Conn::Sqlite(Box::new(SqliteConnection::connect_with(&o).await?))
            }
            Target::Postgres(o) => Conn::Postgres(Box::new(PgConnection::connect_with(o).await?)),
        })
    }
}

/// One connection, owned by whoever uses it.
pub enum Conn {
    /// To a file.
    Sqlite(Box<SqliteConnection>),
    /// To a server.
    Postgres(Box<PgConnection>),
}

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

/// Why a bind of an array on SQLite cannot happen: `batch` builds JSON there.
const NO_ARRAYS: &str = "SQLite takes no arrays";

macro_rules! bind_all {
    ($query:expr, $args:expr, $arrays:expr) => {{
        let mut q = $query;
        for arg in $args {
            q = match arg {
                Value::Uuid(v) => q.bind(v),
                Value::Int(v) => q.bind(v),
                Value::Text(v) => q.bind(v),
                Value::Bytes(v) => q.bind(v),
                array => $arrays(q, array)?,
            };
        }
        q
    }};
}

impl Conn {
    /// Runs a statement and gives the rows.
    pub async fn all(&mut self, sql: &'static str, args: Vec<Value>) -> Result<Vec<Row>> {
        Ok(match self {
            Conn::Sqlite(c) => {
                let q = bind_all!(sqlx::query(sql), args, |_, _| Err(Error::Bug(NO_ARRAYS.to_owned())));
                q.fetch_all(&mut **c).await?.into_iter().map(Row::Sqlite).collect()
            }
            Conn::Postgres(c) => {
                let q = bind_all!(sqlx::query(sql), args, pg_array);
                q.fetch_all(&mut **c).await?.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Runs a statement and gives the number of rows it touched.
    pub async fn run(&mut self, sql: &'static str, args: Vec<Value>) -> Result<u64> {
        Ok(match self {
            Conn::Sqlite(c) => {
                let q = bind_all!(sqlx::query(sql), args, |_, _| Err(Error::Bug(NO_ARRAYS.to_owned())));
                q.execute(&mut **c).await?.rows_affected()
            }
            Conn::Postgres(c) => {
                let q = bind_all!(sqlx::query(sql), args, pg_array);
                q.execute(&mut **c).await?.rows_affected()
            }
        })
    }
}

type PgQuery = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn pg_array(q: PgQuery, array: Value) -> Result<PgQuery> {
    Ok(match array {
        Value::Uuids(v) => q.bind(v),
        Value::Ints(v) => q.bind(v),
        Value::Texts(v) => q.bind(v),
        Value::Blobs(v) => q.bind(v),
        Value::Uuid(_) | Value::Int(_) | Value::Text(_) | Value::Bytes(_) => {
            return Err(Error::Bug("not an array".to_owned()));
        }
    })
}

/// A row of an answer, read by position.
pub enum Row {
    /// From a file.
    Sqlite(SqliteRow),
    /// From a server.
    Postgres(PgRow),
}

macro_rules! getters {
    ($($name:ident -> $type:ty),* $(,)?) => {$(
        #[doc = concat!("The value at position `i` as `", stringify!($type), "`.")]
        pub fn $name(&self, i: usize) -> Result<$type> {
            Ok(match self { Row::Sqlite(r) => r.try_get(i)?, Row::Postgres(r) => r.try_get(i)? })
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
