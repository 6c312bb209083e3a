//! What commands print: tables for people, JSON for programs.

use std::fmt::Display;
use std::io::Write;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::types::Millis;
use crate::types::api::Page;

/// Standard output in one of its two forms.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    /// One JSON document per answer instead of words and tables.
    pub json: bool,
}

impl Out {
    /// One line of words; nothing in JSON.
    pub fn say(self, line: &str) -> std::io::Result<()> {
        if self.json { Ok(()) } else { raw(&format!("{line}\n")) }
    }

    /// One thing: its members below each other, those without a value left out.
    pub fn one<T: Serialize>(self, thing: &T, members: &[(&str, Option<String>)]) -> anyhow::Result<()> {
        if self.json {
            return self.value(thing);
        }
        let mut table = plain();
        for (name, value) in members {
            if let Some(value) = value {
                table.add_row([(*name).to_owned(), clean(value)]);
            }
        }
        Ok(raw(&format!("{}\n", trimmed(&table)))?)
    }

    /// One page of a list, and on standard error how to read on.
    pub fn page<T: Serialize>(
        self,
        page: &Page<T>,
        head: &[&str],
        row: impl Fn(&T) -> Vec<String>,
    ) -> anyhow::Result<()> {
        if self.json {
            return self.value(page);
        }
        self.rows(head, page.items.iter().map(row))?;
        if let Some(cursor) = &page.next_cursor {
            err(format_args!("there is more: --cursor {}", clean(cursor)));
        }
        Ok(())
    }

    /// A table.
    pub fn rows(self, head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> anyhow::Result<()> {
        let mut table = plain();
        table.set_header(head.iter().copied());
        for row in rows {
            table.add_row(row.iter().map(|cell| clean(cell)));
        }
        Ok(raw(&format!("{}\n", trimmed(&table)))?)
    }

    /// One JSON document on one line.
    pub fn value<T: Serialize>(self, value: &T) -> anyhow::Result<()> {
        Ok(raw(&format!("{}\n", serde_json::to_string(value)?))?)
    }
}

/// Writes to standard output and flushes; unlike `println!` it does not panic when the reader has gone.
pub fn raw(text: &str) -> std::io::Result<()> {
    bytes(text.as_bytes())
}

/// As [`raw`], for bytes of any kind.
pub fn bytes(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// A line to standard error. Unlike `eprintln!` it does not panic when that cannot be written: what was asked for is done
/// all the same.
pub fn err(line: impl Display) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Text of others without what a terminal would obey.
pub fn clean(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.split('\n').map(|line| line.chars().map(visible).collect::<String>()).collect::<Vec<_>>().join("\n")
}

/// An instant for a table: to the second.
pub fn time(at: Millis) -> String {
    let text = at.to_string();
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

/// The text of a value, or a dash.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn trimmed(table: &Table) -> String {
    let lines: Vec<String> = table.lines().map(|line| line.trim().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_that_others_wrote() {
        assert_eq!(clean("a\x1b[31mb\r\n\u{9b}c"), "a\u{fffd}[31mb\u{fffd}\n\u{fffd}c");
        assert_eq!(time(Millis(1_767_225_600_123)), "2026-01-01T00:00:00Z");
        assert_eq!(or_dash(None::<u8>), "-");
    }
}
