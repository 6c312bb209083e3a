//! Stores that are full: copies of one finished job, made by the database itself.

use super::scratch::raw;
use crate::args;
use crate::store::db::{Call, Conn, Engine, Target};
use crate::store::error::{Error, Result};

/// Jobs of one transaction.
const CHUNK: u64 = 20_000;
/// After so many a SQLite file folds its log back.
const FOLD: u64 = 10 * CHUNK;
/// Milliseconds before the copied job: copies are older than all that comes.
const EARLIER: i64 = 24 * 3_600 * 1_000;

/// What a store was filled with.
#[derive(Debug, Clone, Copy)]
pub struct Filled {
    /// Jobs that wait for a worker.
    pub due: u64,
    /// Jobs that were completed and called back.
    pub finished: u64,
}

/// The job that is copied.
struct Model {
    /// Its id and its delivery's and its event's, as literals.
    job: String,
    delivery: String,
    event: String,
    /// Milliseconds of the oldest copy's id.
    base: i64,
}

/// Which id of a copy.
#[derive(Clone, Copy)]
enum Whose {
    Job = 1,
    Event = 2,
    Delivery = 3,
}

/// Copies the last job that was called back: first the finished, then the due, which are whole submissions with their input.
///
/// Finished ones carry no input, result or body: what grows with them is tables and indexes by rows, and a
/// disk need not hold 40 GiB for it. No service may be at work in a SQLite file meanwhile.
pub async fn fill(url: &str, what: Filled) -> Result<()> {
    let target = Target::parse(url)?;
    let engine = target.engine();
    let conn = target.connect(false).await?;
    let settings = "SET statement_timeout = 0; SET lock_timeout = 0; SET synchronous_commit = off";
    let (mut conn, model) = model(raw(conn, settings).await?, engine).await?;
    let mut tables = Vec::new();
    for name in ["jobs", "events", "bodies", "deliveries", "attempts"] {
        let (same, columns) = columns(conn, name).await?;
        tables.push((name, columns));
        conn = same;
    }
    let mut made = 0;
    for (number, due) in [(what.finished, false), (what.due, true)] {
        let end = made + number;
        while made < end {
            let to = end.min(made + CHUNK);
            let mut sql = "BEGIN;".to_owned();
            for (table, columns) in &tables {
                if !due || *table == "jobs" {
                    sql += &copies(engine, &model, table, columns, due, (made, to));
                }
            }
            if due {
                sql += &owed(engine, &model, (made, to));
            }
            sql += "COMMIT";
            conn = raw(conn, &sql).await?;
            made = to;
            if engine == Engine::Sqlite && made.is_multiple_of(FOLD) {
                // Nobody else does, and the log would grow as large as the file.
                conn = raw(conn, "PRAGMA wal_checkpoint(TRUNCATE)").await?;
            }
        }
    }
    settle(conn).await
}

/// What time would do: vacuum and statistics on PostgreSQL, no log to fold back on either.
async fn settle(conn: Conn) -> Result<()> {
    match conn {
        // The last one to close a file folds its log back.
        Conn::Sqlite(session) => {
            drop(session);
            Ok(())
        }
        Conn::Postgres(_) => {
            let conn = raw(conn, "VACUUM ANALYZE").await?;
            // Not every role may.
            let _ = raw(conn, "CHECKPOINT").await;
            Ok(())
        }
    }
}

const MODEL: &str = "
    SELECT d.job_id, d.id, d.event_id, d.created_at FROM deliveries d
    WHERE d.state = 'delivered' AND d.job_id IS NOT NULL ORDER BY d.id DESC LIMIT 1";

async fn model(conn: Conn, engine: Engine) -> Result<(Conn, Model)> {
    let (conn, done) = conn.call(Call::All(MODEL, args![])).await?;
    let row = done.rows.first().ok_or(Error::NotFound)?;
    let literal = |i| {
        row.uuid(i).map(|id| match engine {
            Engine::Sqlite => format!("unhex('{}')", id.simple()),
            Engine::Postgres => format!("'{id}'::uuid"),
        })
    };
    let (job, delivery, event) = (literal(0)?, literal(1)?, literal(2)?);
    Ok((conn, Model { job, delivery, event, base: row.int(3)? - EARLIER }))
}

async fn columns(conn: Conn, table: &'static str) -> Result<(Conn, Vec<String>)> {
    let sql = match conn {
        Conn::Sqlite(_) => "SELECT name FROM pragma_table_info($1)",
        Conn::Postgres(_) => {
            "SELECT CAST(column_name AS TEXT) FROM information_schema.columns
             WHERE table_schema = current_schema() AND table_name = $1"
        }
    };
    let (conn, done) = conn.call(Call::All(sql, args![table])).await?;
    let names = done.rows.iter().map(|row| row.text(0)).collect::<Result<Vec<_>>>()?;
    // It says itself which transaction wrote it.
    Ok((conn, names.into_iter().filter(|name| name != "position").collect()))
}

/// The numbers of some copies, as a table `s (i)`.
fn series(engine: Engine, (from, to): (u64, u64)) -> String {
    match engine {
        Engine::Sqlite => format!(
            "(WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {to}) SELECT i FROM n) AS s"
        ),
        Engine::Postgres => format!("generate_series({from}::bigint, {to}::bigint - 1) AS s(i)"),
    }
}

/// An id of copy `s.i`: like any other it begins with a time, eight to the millisecond.
fn id(engine: Engine, model: &Model, whose: Whose) -> String {
    let (ms, low) = (format!("s.i / 8 + {}", model.base), "(s.i * 2654435761) % 281474976710656");
    let whose = whose as u8;
    match engine {
        Engine::Sqlite => format!("unhex(printf('%012x7%03x8%03x%012x', {ms}, s.i % 4096, {whose}, {low}))"),
        Engine::Postgres => format!(
            "CAST(lpad(to_hex({ms}), 12, '0') || '7' || lpad(to_hex(s.i % 4096), 3, '0') || '8' || '00{whose}'
                  || lpad(to_hex({low}), 12, '0') AS uuid)"
        ),
    }
}

/// Inserts copies of the model's row of one table.
fn copies(
    engine: Engine,
    model: &Model,
    table: &str,
    columns: &[String],
    due: bool,
    range: (u64, u64),
) -> String {
    let id = |whose| id(engine, model, whose);
    let (key, original) = match table {
        "jobs" => ("id", &model.job),
        "events" => ("id", &model.event),
        "deliveries" => ("id", &model.delivery),
        "bodies" => ("event_id", &model.event),
        _ => ("delivery_id", &model.delivery),
    };
    let value = |column: &String| match (table, column.as_str()) {
        ("jobs", "id") | (_, "job_id") => id(Whose::Job),
        ("events", "id") | (_, "event_id") => id(Whose::Event),
        ("jobs", "state") if due => "'owed'".to_owned(),
        ("jobs", "attempt" | "version" | "fence") if due => "0".to_owned(),
        ("jobs", "sequence") if due => "1".to_owned(),
        ("jobs", "token" | "delivery_id" | "result" | "result_type" | "expires_at" | "remove_at") if due => {
            "NULL".to_owned()
        }
        ("jobs", "started_at" | "started_sequence" | "ended_at") if due => "NULL".to_owned(),
        ("deliveries", "id") | (_, "delivery_id") => id(Whose::Delivery),
        ("jobs", "input" | "result") if !due => "NULL".to_owned(),
        ("bodies", "body") => "'{}'".to_owned(),
        (_, column) => format!("t.{column}"),
    };
    let values: Vec<String> = columns.iter().map(value).collect();
    format!(
        "INSERT INTO {table} ({}) SELECT {} FROM {table} t, {} WHERE t.{key} = {original};",
        columns.join(", "),
        values.join(", "),
        series(engine, range)
    )
}

/// Inserts the queue rows of due copies, the oldest first in the queue.
fn owed(engine: Engine, model: &Model, range: (u64, u64)) -> String {
    format!(
        "INSERT INTO job_queue (job_id, tenant_id, queue, level, due_at, kind, phase, fence, attempt, attempts_left,
                                sequence, version, wants, lease_seconds, timeout_ms)
         SELECT {}, t.tenant_id, t.queue, 2, {} + s.i / 8, t.kind, 'ready', 0, 0, t.max_attempts, 1, 0, 0, 60,
                t.timeout_seconds * 1000
         FROM jobs t, {} WHERE t.id = {};",
        id(engine, model, Whose::Job),
        model.base,
        series(engine, range),
        model.job
    )
}
