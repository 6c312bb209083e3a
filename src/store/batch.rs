//! One statement for any number of rows, and the fragments in which the engines differ.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::db::{Engine, Value};
use super::error::{Error, Result};

/// The type of a batch column.
#[derive(Debug, Clone, Copy)]
pub enum Col {
    /// [`Value::Uuid`].
    Uuid,
    /// [`Value::Int`].
    Int,
    /// [`Value::Text`].
    Text,
    /// [`Value::Bytes`].
    Bytes,
}

/// SQL with the fragments `{b}` (the rows of a batch, a table named `b`) and `{lock}`
/// (lock the rows of alias `q`, skipping what others hold), `{wait}` (the same, waiting) and `{horizon}` (below it no event
/// of the feed is still to be committed).
///
/// `q.id {is b.id}` means `q.id = b.id` and lets PostgreSQL do nothing else than look each row up by its key. Believing that
/// the table is next to empty, as it does of a queue whose rows are mostly dead, it would for a mere `=` walk the table
/// once, with all that is dead in it, and hold each row found against each row of the batch.
///
/// Scalar parameters come first (`$1` .. `$scalars`), the batch after them. The text is the
/// same for any number of rows, so the prepared statement is always found again. PostgreSQL runs it once, with an array
/// for each column; SQLite, where a call costs next to nothing, once for each row, as [`Sql::row_by_row`] writes it. So it must
/// mean the same for its rows one after the other; read them by `FROM {b}` alone, by `FROM {b} JOIN` or `LEFT JOIN`, or
/// by `IN (SELECT b.x, ... FROM {b})`, in a `DELETE` by `USING {b}`; and `RETURNING` the first column of the batch, with its table
/// before it or without, only where that is a unique key by which its rows are found.
pub struct Sql {
    text: &'static str,
    scalars: usize,
    cols: &'static [(&'static str, Col)],
    built: [OnceLock<&'static str>; 2],
}

impl Sql {
    /// A statement without a batch.
    pub const fn plain(text: &'static str) -> Sql {
        Sql { text, scalars: 0, cols: &[], built: [const { OnceLock::new() }; 2] }
    }

    /// A statement over the rows of `b (cols)`, after `scalars` single parameters.
    pub const fn batch(text: &'static str, scalars: usize, cols: &'static [(&'static str, Col)]) -> Sql {
        Sql { text, scalars, cols, built: [const { OnceLock::new() }; 2] }
    }

    /// The text for one engine.
    pub fn text(&self, engine: Engine) -> &'static str {
        self.built[engine as usize].get_or_init(|| {
            let (text, lock, wait, horizon) = match engine {
                // One writer: what is committed later has a higher number.
                Engine::Sqlite => {
                    (self.row_by_row(&by_key(self.text, "= ", "")), "", "", "9223372036854775807")
                }
                Engine::Postgres => (
                    // Not an equality that a join could be merged by, so the order of the key is of no use, only the key.
                    by_key(self.text, "= ANY(ARRAY[", "])").replace("{b}", &self.unnest()),
                    "FOR NO KEY UPDATE OF q SKIP LOCKED",
                    "FOR NO KEY UPDATE OF q",
                    "(pg_snapshot_xmin(pg_current_snapshot())::text::bigint + feed_base())",
                ),
            };
            let text = text.replace("{lock}", lock).replace("{wait}", wait).replace("{horizon}", horizon);
            // A handful of statements per process, each built once: leaking makes them constants.
            Box::leak(text.into_boxed_str())
        })
    }

    fn unnest(&self) -> String {
        let mut source = "UNNEST(".to_owned();
        for (i, (_, col)) in self.cols.iter().enumerate() {
            let array = match col {
                Col::Uuid => "uuid[]",
                Col::Int => "bigint[]",
                Col::Text => "text[]",
                Col::Bytes => "bytea[]",
            };
            let comma = if i == 0 { "" } else { ", " };
            let _ = write!(source, "{comma}${}::{array}", self.scalars + 1 + i);
        }
        let names: Vec<_> = self.cols.iter().map(|(name, _)| *name).collect();
        let _ = write!(source, ") AS b({})", names.join(", "));
        source
    }

    /// For one row at a time. Its cells are parameters then, and no table is left: for the source of an update, for the
    /// list of an `IN` and for what a statement would have to take back if it failed half-way, SQLite makes a table
    /// anew for each row, which costs as much as the write. A statement that fails ends its transaction anyhow.
    fn row_by_row(&self, text: &str) -> String {
        let joined = |rest: &str| matches!(rest.split_whitespace().next(), Some("JOIN" | "LEFT"));
        if self.cols.is_empty() {
            return text.to_owned();
        }
        if text.split("{b}").skip(1).any(joined) {
            // In which order rows are locked: there is one, and no lock.
            let order = text.rfind(" ORDER BY ").filter(|_| text.ends_with("{wait}"));
            return text[..order.unwrap_or(text.len())].replace("{b}", &self.row());
        }
        let text =
            text.replace(" IN (SELECT b.", " = (SELECT b.").replace("FROM {b}", "").replace("USING {b}", "");
        let mut text = self.parameters(&text);
        if self.gives_its_key() {
            text.truncate(text.rfind("RETURNING").unwrap_or(text.len()));
        }
        for (word, with) in [("INSERT ", "INSERT OR FAIL "), ("UPDATE ", "UPDATE OR FAIL ")] {
            if let Some(rest) = text.strip_prefix(word) {
                return format!("{with}{rest}");
            }
        }
        text
    }

    /// Whether what it gives is the first cell of each row that it touched. SQLite makes a table for `RETURNING` too, so
    /// there the cell is given back instead ([`super::db`]).
    pub fn gives_its_key(&self) -> bool {
        let given = self.text.rsplit_once("RETURNING ").map(|(_, given)| given);
        let named = |given: &str| given.split_once('.').map_or(given, |(_, column)| column) == self.cols[0].0;
        !self.cols.is_empty() && given.is_some_and(named)
    }

    /// The text with a parameter for each `b.column`.
    fn parameters(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("b.") {
            let (before, from) = rest.split_at(at);
            let name = from[2..].split(|c| !part(c)).next().unwrap_or_default();
            out.push_str(before);
            match self.cols.iter().position(|(col, _)| *col == name) {
                Some(i) if !before.ends_with(part) => {
                    let _ = write!(out, "${}", self.scalars + 1 + i);
                }
                _ => out.push_str(&from[..2 + name.len()]),
            }
            rest = &from[2 + name.len()..];
        }
        out + rest
    }

    fn row(&self) -> String {
        let place = |(i, (name, _)): (usize, &(&str, Col))| format!("${} AS {name}", self.scalars + 1 + i);
        let places: Vec<_> = self.cols.iter().enumerate().map(place).collect();
        format!("(SELECT {}) AS b", places.join(", "))
    }

    /// The table that it writes to.
    pub fn table(&self) -> Option<&'static str> {
        let target = ["INSERT INTO ", "UPDATE ", "DELETE FROM "];
        let rest = target.iter().find_map(|verb| self.text.strip_prefix(verb))?;
        rest.split(|c| !part(c)).next()
    }

    /// Whether it makes rows and leaves alone those that are there.
    pub fn inserts(&self) -> bool {
        self.text.starts_with("INSERT ") && !self.text.contains("DO UPDATE")
    }

    /// The parameters for PostgreSQL: `scalars`, then the columns of `rows`.
    pub fn arrays(&self, mut scalars: Vec<Value>, rows: Vec<Vec<Value>>) -> Result<Vec<Value>> {
        scalars.extend(columns(self.cols, rows)?);
        Ok(scalars)
    }
}

/// Whether `text` names the table, or anything that is called like it.
pub fn names(text: &str, table: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find(table) {
        let (before, from) = rest.split_at(at);
        rest = &from[table.len()..];
        if !before.ends_with(part) && !rest.starts_with(part) {
            return true;
        }
    }
    false
}

fn part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// One text of several statements for PostgreSQL, where each call is a way there and back. Their parameters come one
/// after the other. All see what was there before any of them, so none may depend on what another one writes.
pub fn together(statements: &[&'static Sql]) -> &'static str {
    static TEXTS: Mutex<Option<HashMap<Vec<usize>, &'static str>>> = Mutex::new(None);
    let key = statements.iter().map(|sql| std::ptr::from_ref(*sql).addr()).collect();
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    // As many as there are ways to mix a handful of verbs.
    texts.get_or_insert_default().entry(key).or_insert_with(|| {
        let mut text = String::new();
        let mut offset = 0;
        for (i, sql) in statements.iter().enumerate() {
            let own = shifted(sql.text(Engine::Postgres), offset);
            offset += sql.scalars + sql.cols.len();
            let _ = match (i, i + 1 == statements.len()) {
                (0, true) => write!(text, "{own}"),
                (0, false) => write!(text, "WITH w0 AS (\n{own}\n)"),
                (_, false) => write!(text, ", w{i} AS (\n{own}\n)"),
                (_, true) => write!(text, "\n{own}"),
            };
        }
        Box::leak(text.into_boxed_str())
    })
}

/// The text with each parameter's number raised by `by`.
fn shifted(text: &str, by: usize) -> String {
    let mut parts = text.split('$');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = part.split_at(digits);
        let _ = match number.parse::<usize>() {
            Ok(n) => write!(out, "${}{rest}", n + by),
            Err(_) => write!(out, "${part}"),
        };
    }
    out
}

/// Writes each `{is x}` as `x` between `before` and `after`.
fn by_key(text: &str, before: &str, after: &str) -> String {
    let mut parts = text.split("{is ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (key, rest) = part.split_once('}').unwrap_or((part, ""));
        for piece in [before, key, after, rest] {
            out.push_str(piece);
        }
    }
    out
}

fn columns(cols: &[(&str, Col)], rows: Vec<Vec<Value>>) -> Result<Vec<Value>> {
    let n = rows.len();
    let mut out: Vec<Value> = cols
        .iter()
        .map(|(_, col)| match col {
            Col::Uuid => Value::Uuids(Vec::with_capacity(n)),
            Col::Int => Value::Ints(Vec::with_capacity(n)),
            Col::Text => Value::Texts(Vec::with_capacity(n)),
            Col::Bytes => Value::Blobs(Vec::with_capacity(n)),
        })
        .collect();
    for row in rows {
        if row.len() != cols.len() {
            return Err(Error::Bug(format!("a row of {} for {} columns", row.len(), cols.len())));
        }
        for (column, value) in out.iter_mut().zip(row) {
            match (column, value) {
                (Value::Uuids(c), Value::Uuid(v)) => c.push(v),
                (Value::Ints(c), Value::Int(v)) => c.push(v),
                (Value::Texts(c), Value::Text(v)) => c.push(v),
                (Value::Blobs(c), Value::Bytes(v)) => c.push(v),
                _ => return Err(Error::Bug("a batch cell has the wrong type".to_owned())),
            }
        }
    }
    Ok(out)
}
