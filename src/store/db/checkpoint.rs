//! Checkpoints: what SQLite's log holds is copied into the file beside the writer, not by it.
//!
//! By default the connection whose commit makes the log long copies all of it, thousands of pages, and its callers wait.
//! Here a connection of its own does while the writer goes on, and the writer copies what it has added meanwhile.
//! Then all is copied and synced, and SQLite begins the log anew as soon as no reader needs it.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::sqlite::BUSY;

/// Pages that are not copied when a pass begins, some 16 MiB: those that every commit changes, such as the ends of
/// indexes, stand there many times and are copied once.
const BEGIN: i64 = 4_000;
/// While a reader keeps the log from beginning anew the writer tries again after so many pages.
const AGAIN: i64 = 500;
/// From so many on it waits for the readers, and for so long: where they are many one is always there.
const LONG: i64 = 4 * BEGIN;
const WAIT: Duration = Duration::from_millis(20);
/// With so many that are not copied, some 256 MiB, the writer waits for the pass and copies itself: the disk is slower than
/// it, or no pass can begin. Its callers wait as long, and are told to come back; a log without end would fill the disk.
const FAR: i64 = 16 * BEGIN;

/// The checkpoints of the one connection that writes to a file.
pub(super) struct Checkpoints {
    path: PathBuf,
    /// How long the log was when it was last looked at, and from when on there is something to do.
    log: Cell<i64>,
    next: Cell<i64>,
    /// The checkpoint beside the writer, until that has looked at what it has left.
    pass: RefCell<Option<JoinHandle<()>>>,
}

/// How much the log holds.
struct Log {
    pages: i64,
    copied: i64,
}

impl Checkpoints {
    /// In place of those that SQLite makes by itself.
    pub(super) fn of(conn: &Connection, path: PathBuf) -> rusqlite::Result<Checkpoints> {
        conn.execute_batch("PRAGMA wal_autocheckpoint = 0")?;
        Ok(Checkpoints { path, log: Cell::new(0), next: Cell::new(BEGIN), pass: RefCell::default() })
    }

    /// Does what is to be done after a commit. That has succeeded, whatever comes of this: what is not copied stays in the
    /// log, where it is as safe.
    pub(super) fn follow(&self, conn: &Connection) {
        match self.go_on(conn) {
            Ok(()) => {}
            // Its caller has gone.
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {}
            Err(e) => tracing::warn!(error = %e, "the log could not be copied into the file"),
        }
    }

    fn go_on(&self, conn: &Connection) -> rusqlite::Result<()> {
        let Log { pages, copied } = checkpoint(conn, "PRAGMA main.wal_checkpoint(NOOP)")?;
        if pages < self.log.replace(pages) {
            self.next.set(BEGIN);
        }
        let far = pages - copied >= FAR;
        let mut pass = self.pass.borrow_mut();
        if !far && pass.as_ref().is_some_and(|pass| !pass.is_finished()) {
            return Ok(());
        }
        let ended = pass.take().map(JoinHandle::join).is_some();
        let due = pages >= self.next.get();
        if pages - copied >= BEGIN {
            // Without the writer, too, where a reader needs the file as it was for long.
            if due {
                self.next.set(pages + BEGIN);
                if far {
                    checkpoint(conn, "PRAGMA main.wal_checkpoint(PASSIVE)")?;
                } else {
                    *pass = beside(&self.path);
                }
            }
        } else if pages >= BEGIN && (ended || due) {
            self.next.set(pages + AGAIN);
            if pages < LONG {
                checkpoint(conn, "PRAGMA main.wal_checkpoint(PASSIVE)")?;
            } else {
                conn.busy_timeout(WAIT)?;
                let waited = checkpoint(conn, "PRAGMA main.wal_checkpoint(RESTART)");
                conn.busy_timeout(BUSY)?;
                waited?;
            }
        }
        Ok(())
    }
}

impl Drop for Checkpoints {
    /// No pass outlives the connection: the last one to close folds the log into the file and removes it.
    fn drop(&mut self) {
        let _ = self.pass.take().map(JoinHandle::join);
    }
}

/// Begins to copy on a thread and a connection of its own.
fn beside(path: &Path) -> Option<JoinHandle<()>> {
    let path = path.to_owned();
    let pass = move || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let copied = Connection::open_with_flags(path, flags)
            .and_then(|conn| checkpoint(&conn, "PRAGMA main.wal_checkpoint(PASSIVE)"));
        if let Err(e) = copied {
            tracing::warn!(error = %e, "the log could not be copied beside the writer");
        }
    };
    thread::Builder::new().name("checkpoint".to_owned()).spawn(pass).ok()
}

/// Copies as the statement says, and gives what the log holds then.
fn checkpoint(conn: &Connection, sql: &str) -> rusqlite::Result<Log> {
    let mut statement = conn.prepare_cached(sql)?;
    statement.query_row([], |row| Ok(Log { pages: row.get(1)?, copied: row.get(2)? }))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::{Call, sqlite};
    use super::*;

    const PAGE: u64 = 4_096;

    /// A file, its log and the one who writes to them.
    struct Kept {
        dir: tempfile::TempDir,
        writer: sqlite::Session,
    }

    impl Kept {
        fn new() -> Kept {
            let dir = tempfile::tempdir().unwrap();
            let writer = sqlite::open(&dir.path().join("x.db"), false).unwrap();
            writer.call(Call::Script("CREATE TABLE t (b BLOB NOT NULL)".to_owned())).unwrap();
            Kept { dir, writer }
        }

        fn open(&self) -> sqlite::Session {
            sqlite::open(&self.dir.path().join("x.db"), true).unwrap()
        }

        /// One that needs the file as it is now.
        fn reader(&self) -> sqlite::Session {
            let reader = self.open();
            reader.call(Call::Script("BEGIN; SELECT COUNT(*) FROM t".to_owned())).unwrap();
            reader
        }

        fn pages(&self, name: &str) -> i64 {
            let bytes = std::fs::metadata(self.dir.path().join(name)).unwrap().len();
            i64::try_from(bytes / PAGE).unwrap()
        }

        /// One transaction that changes some 500 pages.
        fn write(&self) {
            let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
                        INSERT INTO t SELECT zeroblob(3500) FROM n";
            for sql in ["BEGIN IMMEDIATE", many, "COMMIT"] {
                self.writer.call(Call::Run(sql, vec![])).unwrap();
            }
        }

        fn checkpoints(&self) -> &Checkpoints {
            self.writer.checkpoints.as_ref().unwrap()
        }

        /// Waits for the end of the pass, if one has begun.
        fn passed(&self) -> bool {
            let pass = self.checkpoints().pass.borrow();
            while pass.as_ref().is_some_and(|pass| !pass.is_finished()) {
                thread::yield_now();
            }
            pass.is_some()
        }
    }

    #[test]
    fn the_log_is_copied_beside_the_writer_and_begins_anew() {
        let kept = Kept::new();
        (0..7).for_each(|_| kept.write());
        assert!(!kept.passed() && kept.pages("x.db") < 500, "it is short");
        kept.write();
        assert!(kept.passed() && kept.pages("x.db") > BEGIN, "a pass has copied it");
        let all = kept.pages("x.db");
        // There was nothing to add to it.
        kept.write();
        assert!(kept.checkpoints().log.get() < 1_000);
        assert_eq!(kept.checkpoints().next.get(), BEGIN);
        for _ in 0..40 {
            kept.write();
            kept.passed();
        }
        assert!(
            kept.pages("x.db") > all + 4 * BEGIN && kept.pages("x.db-wal") < 2 * BEGIN,
            "it grows no longer"
        );
    }

    #[test]
    fn the_writer_copies_what_the_pass_has_left() {
        let kept = Kept::new();
        (0..7).for_each(|_| kept.write());
        let reader = kept.reader();
        kept.write();
        assert!(kept.passed());
        let before = kept.pages("x.db");
        assert!(before < BEGIN, "the reader needs the file without the last");
        drop(reader);
        kept.write();
        assert!(!kept.passed() && kept.pages("x.db") > before + 900, "two more, without a pass");
        kept.write();
        assert!(kept.checkpoints().log.get() < 1_000, "it has begun anew");
    }

    #[test]
    fn while_a_reader_needs_the_file_as_it_was_passes_are_few_and_the_writer_does_nothing() {
        let kept = Kept::new();
        kept.write();
        let reader = kept.reader();
        let passes = (0..40).filter(|_| {
            kept.write();
            kept.passed()
        });
        assert_eq!(passes.count(), 5, "one for each 4,000 pages");
        assert!(kept.pages("x.db") < BEGIN, "nothing could be copied");
        drop(reader);
        for _ in 0..20 {
            kept.write();
            kept.passed();
        }
        assert!(
            kept.pages("x.db") > 5 * BEGIN && kept.checkpoints().log.get() < 2 * BEGIN,
            "it has begun anew"
        );
    }

    #[test]
    fn where_no_pass_can_begin_the_writer_copies_before_the_log_is_endless() {
        let mut kept = Kept::new();
        kept.writer.checkpoints.as_mut().unwrap().path = kept.dir.path().join("no/such/file");
        let write = || {
            kept.write();
            kept.passed();
            kept.checkpoints().log.get()
        };
        let logs: Vec<_> = (0..200).map(|_| write()).collect();
        assert!(logs.iter().all(|pages| *pages < FAR + 2 * BEGIN), "{logs:?}");
        assert!(kept.pages("x.db") > FAR && logs.last() < Some(&FAR), "it has begun anew");
    }

    /// Readers that overlap, each until it is out of date or for long enough: there is always one that is.
    fn read_in_turn(readers: &mut [sqlite::Session; 2], over: &AtomicBool) {
        let last = |reader: &sqlite::Session| {
            let rows = reader.call(Call::All("SELECT MAX(rowid) FROM t", vec![])).unwrap().rows;
            rows[0].int(0).unwrap()
        };
        let script =
            |reader: &sqlite::Session, text: &str| reader.call(Call::Script(text.to_owned())).unwrap();
        script(&readers[0], "BEGIN");
        let mut seen = last(&readers[0]);
        while !over.load(Ordering::Relaxed) {
            // Some milliseconds: far less than the writer waits.
            let _ = (0..200).take_while(|_| last(&readers[1]) == seen).count();
            script(&readers[1], "BEGIN");
            seen = last(&readers[1]);
            script(&readers[0], "COMMIT");
            readers.swap(0, 1);
        }
    }

    #[test]
    fn a_log_that_is_long_begins_anew_though_there_is_always_a_reader() {
        let kept = Kept::new();
        kept.write();
        let over = AtomicBool::new(false);
        let mut readers = [kept.open(), kept.open()];
        let write = || {
            kept.write();
            kept.passed();
            kept.checkpoints().log.get()
        };
        let longest = thread::scope(|scope| {
            scope.spawn(|| read_in_turn(&mut readers, &over));
            let longest = (0..200).map(|_| write()).max();
            over.store(true, Ordering::Relaxed);
            longest.unwrap()
        });
        assert!(longest < 2 * LONG, "{longest} pages of 100,000 that were written");
    }
}
