//! Lists with filters: how their statements are put together, and how far one request looks.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::Store;
use super::db::Value;
use super::error::Result;
use super::model::PageOf;
use crate::types::Id;

/// What a page of a filtered list found.
pub struct Found<T, K> {
    /// The rows that fit the filter, at most `limit`.
    pub rows: Vec<T>,
    /// The last row that was looked at, where the look ended before the list and the page did.
    pub looked_to: Option<Id<K>>,
}

impl<T, K> Found<T, K> {
    /// What a look found that ended at `end`; None: at the end of the list.
    pub(super) fn new(rows: Vec<T>, limit: u32, end: Option<Id<K>>) -> Found<T, K> {
        let full = rows.len() >= limit as usize;
        Found { rows, looked_to: end.filter(|_| !full) }
    }
}

/// Rows that one request for a list looks at: behind them it goes on with the next page, whether or not this one is full. A
/// filter may fit none of a million rows, and whoever asks must not keep the others' readers meanwhile.
const LOOK: u32 = 2_000;

/// A list's statement, put together from fixed pieces; values are always bound.
///
/// The shapes of a filter are few, so each text is built once and kept: the prepared
/// statement of a shape is found again.
pub(super) struct Filter {
    sql: String,
    pub(super) args: Vec<Value>,
}

impl Filter {
    pub(super) fn new(base: &'static str, args: Vec<Value>) -> Filter {
        Filter { sql: base.to_owned(), args }
    }

    /// The same conditions under another beginning.
    pub(super) fn under(&self, select: &'static str) -> Filter {
        Filter { sql: format!("{select}{}", self.sql), args: self.args.clone() }
    }

    /// Adds a condition in which `{}` stands for the bound value.
    pub(super) fn and(&mut self, condition: &'static str, value: impl Into<Value>) {
        self.args.push(value.into());
        let place = format!("${}", self.args.len());
        self.sql.push_str(" AND ");
        self.sql.push_str(&condition.replace("{}", &place));
    }

    /// Adds a condition if there is a value for it.
    pub(super) fn and_some<T: Into<Value>>(&mut self, condition: &'static str, value: Option<T>) {
        if let Some(value) = value {
            self.and(condition, value);
        }
    }

    /// Adds a condition that the value is one of several.
    pub(super) fn any(&mut self, column: &'static str, values: &[String]) {
        let places: Vec<String> = values
            .iter()
            .map(|v| {
                self.args.push(Value::from(v.clone()));
                format!("${}", self.args.len())
            })
            .collect();
        let list = if places.is_empty() { "NULL".to_owned() } else { places.join(", ") };
        self.sql.push_str(&format!(" AND {column} IN ({list})"));
    }

    /// Adds fixed text.
    pub(super) fn push(&mut self, text: &str) {
        self.sql.push_str(text);
    }

    /// Only what stands behind `after`, newest first.
    fn behind<K>(&mut self, id: &'static str, after: Option<Id<K>>) {
        if let Some(after) = after {
            self.args.push(Value::from(after));
            self.sql.push_str(&format!(" AND {id} < ${}", self.args.len()));
        }
    }

    /// The statement, ordered and cut to a page: newest first, below `after`.
    pub(super) fn page<K>(mut self, id: &'static str, page: PageOf<K>) -> (&'static str, Vec<Value>) {
        self.behind(id, page.after);
        self.args.push(Value::from(page.limit));
        self.sql.push_str(&format!(" ORDER BY {id} DESC LIMIT ${}", self.args.len()));
        self.finish()
    }

    /// The statement for the one that lies `offset` behind the first.
    pub(super) fn nth(mut self, id: &'static str, order: &str, offset: u32) -> (&'static str, Vec<Value>) {
        self.args.push(Value::from(offset));
        self.sql.push_str(&format!(" ORDER BY {id} {order} LIMIT 1 OFFSET ${}", self.args.len()));
        self.finish()
    }

    /// The statement as it stands.
    pub(super) fn finish(self) -> (&'static str, Vec<Value>) {
        static SHAPES: LazyLock<Mutex<HashMap<String, &'static str>>> = LazyLock::new(Mutex::default);
        let mut shapes = SHAPES.lock().unwrap_or_else(PoisonError::into_inner);
        let text = match shapes.get(self.sql.as_str()) {
            Some(text) => *text,
            None => {
                let text: &'static str = Box::leak(self.sql.clone().into_boxed_str());
                shapes.insert(self.sql, text);
                text
            }
        };
        (text, self.args)
    }
}

impl Store {
    /// Where one look ends at those that `walked` names, which an index has in the order of `id`. None: where the list does.
    pub(super) async fn end_of_look<K>(
        &self,
        mut walked: Filter,
        id: &'static str,
        after: Option<Id<K>>,
    ) -> Result<Option<Id<K>>> {
        walked.behind(id, after);
        let (sql, args) = walked.nth(id, "DESC", LOOK - 1);
        self.read(sql, args).await?.first().map(|row| row.id(0)).transpose()
    }
}
