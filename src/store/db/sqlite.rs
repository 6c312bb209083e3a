//! The driver for SQLite: statements run on the thread that asks for them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, ToSql};

use super::checkpoint::Checkpoints;
use super::{Call, Done, Engine, Row, Value};
use crate::store::batch::Sql;
use crate::store::error::{Error, Result};

/// How long a statement waits for another process that holds the file.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// Statements that a connection keeps prepared; more than there are.
const PREPARED: usize = 512;
/// Before, one connection that copied the log could damage the file while another began it anew
/// (sqlite.org/wal.html#walresetbug). What is bundled is newer; the system's own may be linked instead.
const OLDEST: i32 = 3_051_003;
/// On the file: what was committed survives the loss of power. `temp_store`: what is put aside for a moment stays in memory.
const SETTINGS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY";
/// On a connection that reads: there are many, and what one has cached (KiB) the kernel has too.
const READING: &str = "PRAGMA cache_size = -512";

/// The file that `sqlite://PATH` names; `mode=rwc` and `mode=rw` may follow and change nothing.
pub(super) fn path(url: &str) -> Result<PathBuf> {
    let bad = |why: &str| Error::Bug(format!("--store: {why}"));
    let rest = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).unwrap_or(url);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if path.is_empty() || path.contains(":memory:") || query.contains("mode=memory") {
        return Err(bad("it must be a file: readers and the writer share it"));
    }
    if !matches!(query, "" | "mode=rwc" | "mode=rw") {
        return Err(bad("sqlite:// takes no parameter but mode=rwc"));
    }
    if path.contains('\0') {
        return Err(bad("a path has no NUL"));
    }
    Ok(PathBuf::from(path))
}

/// A connection to a file.
pub struct Session {
    /// Of one that writes. They end before it is closed.
    pub(super) checkpoints: Option<Checkpoints>,
    pub(in crate::store) conn: Connection,
    /// Keeps other processes off the file. The last to go: closing the connection may still write.
    pub(in crate::store) lock: Option<Arc<File>>,
}

impl Session {
    /// Makes a call, on this thread.
    pub(in crate::store) fn call(&self, call: Call) -> Result<Done> {
        let done = call.on_sqlite(&self.conn)?;
        if let Some(checkpoints) = self.checkpoints.as_ref().filter(|_| self.conn.is_autocommit()) {
            checkpoints.follow(&self.conn);
        }
        Ok(done)
    }
}

/// Opens the file. Readers never create it and cannot write to it.
pub(super) fn open(path: &Path, read_only: bool) -> Result<Session> {
    if rusqlite::version_number() < OLDEST {
        return Err(Error::Bug(format!("SQLite {} is too old, 3.51.3 is needed", rusqlite::version())));
    }
    let mode = match read_only {
        true => OpenFlags::SQLITE_OPEN_READ_ONLY,
        false => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    };
    // Used by one thread at a time: its type says so.
    let conn = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(PREPARED);
    // What a plan is does not depend on the values, or SQLite prepares a statement anew whenever they change.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.execute_batch(if read_only { READING } else { SETTINGS })?;
    let checkpoints = (!read_only).then(|| Checkpoints::of(&conn, path.to_owned())).transpose()?;
    Ok(Session { checkpoints, conn, lock: None })
}

/// Runs a statement and gives its rows.
pub(super) fn all(conn: &Connection, sql: &str, args: &[Value]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut statement = conn.prepare_cached(sql)?;
    let numbers = numbers(&statement)?;
    step(&mut statement, &numbers, |n| args.get(n), &mut rows)?;
    Ok(rows)
}

/// Runs a statement and gives the number of rows it touched.
pub(super) fn run(conn: &Connection, sql: &str, args: &[Value]) -> Result<u64> {
    all(conn, sql, args)?;
    Ok(conn.changes())
}

/// Runs a statement for each of `batch`, whose cells come behind the scalars, and gives the rows of all.
pub(super) fn each(
    conn: &Connection,
    sql: &Sql,
    scalars: &[Value],
    batch: &[Vec<Value>],
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut statement = conn.prepare_cached(sql.text(Engine::Sqlite))?;
    let numbers = numbers(&statement)?;
    let gives_its_key = sql.gives_its_key();
    for cells in batch {
        let arg = |n: usize| scalars.get(n).or_else(|| cells.get(n - scalars.len()));
        step(&mut statement, &numbers, arg, &mut rows)?;
        if gives_its_key && conn.changes() > 0 {
            rows.extend(cells.first().map(key).transpose()?);
        }
    }
    Ok(rows)
}

/// The row in which a statement gives the key that it was given.
fn key(value: &Value) -> Result<Row> {
    Ok(Row::Sqlite(Box::new([Cell::of(value.borrowed()?)?])))
}

/// Which argument each parameter stands for: `$1` is the first, wherever the text has it.
fn numbers(statement: &CachedStatement<'_>) -> Result<Vec<usize>> {
    (1..=statement.parameter_count())
        .map(|i| {
            let name = statement.parameter_name(i).and_then(|name| name.strip_prefix('$'));
            let number = name.and_then(|name| name.parse::<usize>().ok()).and_then(|n| n.checked_sub(1));
            number.ok_or_else(|| Error::Bug(format!("parameter {i} has no number")))
        })
        .collect()
}

fn step<'v>(
    statement: &mut CachedStatement<'_>,
    numbers: &[usize],
    arg: impl Fn(usize) -> Option<&'v Value>,
    into: &mut Vec<Row>,
) -> Result<()> {
    for (i, number) in numbers.iter().enumerate() {
        let value =
            arg(*number).ok_or_else(|| Error::Bug(format!("there is no argument ${}", number + 1)))?;
        statement.raw_bind_parameter(i + 1, value)?;
    }
    let columns = statement.column_count();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        let mut cells = Vec::with_capacity(columns);
        for i in 0..columns {
            cells.push(Cell::of(row.get_ref(i)?)?);
        }
        into.push(Row::Sqlite(cells.into_boxed_slice()));
    }
    Ok(())
}

impl Value {
    fn borrowed(&self) -> rusqlite::Result<ValueRef<'_>> {
        let value = match self {
            Value::Uuid(v) => v.as_ref().map(|v| ValueRef::Blob(v.as_bytes())),
            Value::Int(v) => v.map(ValueRef::Integer),
            Value::Text(v) => v.as_ref().map(|v| ValueRef::Text(v.as_bytes())),
            Value::Bytes(v) => v.as_ref().map(|v| ValueRef::Blob(v)),
            Value::Uuids(_) | Value::Ints(_) | Value::Texts(_) | Value::Blobs(_) => {
                return Err(rusqlite::Error::ToSqlConversionFailure("SQLite takes no arrays".into()));
            }
        };
        Ok(value.unwrap_or(ValueRef::Null))
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.borrowed().map(ToSqlOutput::Borrowed)
    }
}

/// One value of a row. Ids, of which a row has many, need no memory of their own.
pub enum Cell {
    Null,
    Int(i64),
    Text(String),
    Sixteen([u8; 16]),
    Bytes(Vec<u8>),
}

impl Cell {
    fn of(value: ValueRef<'_>) -> Result<Cell> {
        Ok(match value {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(v) => Cell::Int(v),
            ValueRef::Text(_) => Cell::Text(value.as_str().map_err(rusqlite::Error::from)?.to_owned()),
            ValueRef::Blob(v) => v.try_into().map_or_else(|_| Cell::Bytes(v.to_vec()), Cell::Sixteen),
            ValueRef::Real(_) => return Err(Error::Bug("no column is REAL".to_owned())),
        })
    }
}

/// A cell read as a type of ours.
pub(super) trait FromCell: Sized {
    fn from_cell(cell: &Cell) -> Option<Self>;
}

impl FromCell for i64 {
    fn from_cell(cell: &Cell) -> Option<i64> {
        if let Cell::Int(v) = cell { Some(*v) } else { None }
    }
}

impl FromCell for String {
    fn from_cell(cell: &Cell) -> Option<String> {
        if let Cell::Text(v) = cell { Some(v.clone()) } else { None }
    }
}

impl FromCell for Vec<u8> {
    fn from_cell(cell: &Cell) -> Option<Vec<u8>> {
        match cell {
            Cell::Bytes(v) => Some(v.clone()),
            Cell::Sixteen(v) => Some(v.to_vec()),
            Cell::Null | Cell::Int(_) | Cell::Text(_) => None,
        }
    }
}

impl FromCell for uuid::Uuid {
    fn from_cell(cell: &Cell) -> Option<uuid::Uuid> {
        if let Cell::Sixteen(v) = cell { Some(uuid::Uuid::from_bytes(*v)) } else { None }
    }
}

impl<T: FromCell> FromCell for Option<T> {
    fn from_cell(cell: &Cell) -> Option<Option<T>> {
        if matches!(cell, Cell::Null) { Some(None) } else { T::from_cell(cell).map(Some) }
    }
}

/// The value at position `i` of a row.
pub(super) fn cell<T: FromCell>(row: &[Cell], i: usize) -> Result<T> {
    let found = row.get(i).ok_or_else(|| Error::Bug(format!("there is no column {i}")))?;
    T::from_cell(found).ok_or_else(|| Error::Bug(format!("column {i} is of another type")))
}

impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Error {
        let text = e.to_string();
        match e.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Again,
            Some(
                ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::DiskFull
                | ErrorCode::CannotOpen
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::NotADatabase
                // the call ran out of time
                | ErrorCode::OperationInterrupted,
            ) => Error::Down(text),
            Some(ErrorCode::TooBig | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => Error::Data(text),
            _ => Error::Bug(text),
        }
    }
}
