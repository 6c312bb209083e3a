//! Checkpoints: what SQLite's log holds is copied into the file beside the writer, not by it.
//!
//! By default the connection whose commit makes the log long copies all of it, thousands of pages and two fsyncs, and its
//! callers wait. Here a connection of its own copies it while the writer goes on. The writer copies what it has
//! added meanwhile: then all is copied, and SQLite begins the log anew instead of making it longer.

use std::cell::Cell;
use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::hooks::Wal;
use rusqlite::{Connection, OpenFlags};
use tokio::runtime::Handle;

/// Pages in the log that are not copied when a checkpoint begins, some 16 MiB: the pages that every commit changes, such as
/// the ends of indexes, stand there many times and are copied once.
const BEGIN: c_int = 4_000;
/// So many are copied by the writer: the checkpoint beside it has failed or cannot keep up.
const LONGEST: c_int = 4 * BEGIN;

thread_local! {
    /// Pages in the log after the last commit on this thread.
    static PAGES: Cell<Option<c_int>> = const { Cell::new(None) };
}

/// The checkpoints of the one connection that writes to a file.
pub(super) struct Checkpoints {
    path: PathBuf,
    /// Pages in the log at the last checkpoint that ended. They may not all be copied, where a reader needs the file as it was.
    at: Cell<c_int>,
    pass: Arc<Pass>,
}

/// One checkpoint beside the writer.
#[derive(Default)]
struct Pass {
    runs: AtomicBool,
    /// It has ended, and the writer has not copied the rest.
    ended: AtomicBool,
}

impl Checkpoints {
    /// In place of those that SQLite makes by itself.
    pub(super) fn of(conn: &Connection, path: PathBuf) -> Checkpoints {
        conn.wal_hook(Some(noted));
        Checkpoints { path, at: Cell::new(0), pass: Arc::default() }
    }

    /// To be called after a statement on this thread, which may have been a commit.
    pub(super) fn follow(&self, conn: &Connection) {
        let Some(pages) = PAGES.take() else { return };
        // No more: the log has begun anew.
        let at = Some(self.at.get()).filter(|at| *at < pages).unwrap_or(0);
        self.at.set(at);
        let rest = self.pass.ended.swap(false, Ordering::Acquire);
        if rest || pages - at >= LONGEST {
            copy(conn);
            self.at.set(pages);
        } else if pages - at >= BEGIN && !self.pass.runs.swap(true, Ordering::Acquire) {
            self.begin();
        }
    }

    fn begin(&self) {
        let (path, ends) = (self.path.clone(), Ends(self.pass.clone()));
        let pass = move || {
            let _ends = ends;
            // If it fails the writer copies all of it.
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let _ = Connection::open_with_flags(path, flags).map(|conn| copy(&conn));
        };
        // Without a runtime nobody waits for the writer.
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(pass)),
            Err(_) => pass(),
        }
    }
}

/// Dropped it says that a pass has ended, however it did.
struct Ends(Arc<Pass>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.runs.store(false, Ordering::Release);
    }
}

/// SQLite says after each commit how long the log is. An error would be the commit's, which has succeeded.
fn noted(_: &Wal, pages: c_int) -> rusqlite::Result<()> {
    PAGES.set(Some(pages));
    Ok(())
}

/// Copies what no reader stands in the way of, and waits for nobody. What could not be copied stays in the log, where it is
/// as safe, and the next checkpoint copies it.
fn copy(conn: &Connection) {
    if let Err(e) = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
        tracing::warn!(error = %e, "the log could not be copied into the file");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Call, sqlite};
    use super::*;

    const PAGE: u64 = 4_096;

    /// A file, and the length of its log.
    struct Kept {
        dir: tempfile::TempDir,
        file: sqlite::File,
    }

    impl Kept {
        fn new() -> Kept {
            let dir = tempfile::tempdir().unwrap();
            let file = sqlite::open(&dir.path().join("x.db"), false).unwrap();
            file.call(Call::Script("CREATE TABLE t (b BLOB NOT NULL)".to_owned())).unwrap();
            Kept { dir, file }
        }

        fn pages(&self, name: &str) -> c_int {
            let bytes = std::fs::metadata(self.dir.path().join(name)).unwrap().len();
            c_int::try_from(bytes / PAGE).unwrap()
        }

        /// One transaction that changes some 500 pages.
        fn write(&self) {
            let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
                        INSERT INTO t SELECT zeroblob(3500) FROM n";
            for sql in ["BEGIN IMMEDIATE", many, "COMMIT"] {
                self.file.call(Call::Run(sql, vec![])).unwrap();
            }
        }

        fn checkpoints(&self) -> &Checkpoints {
            self.file.checkpoints.as_ref().unwrap()
        }

        /// Writes until a pass has begun, and waits for its end.
        async fn pass(&self) {
            let runs = || self.checkpoints().pass.runs.load(Ordering::Acquire);
            let ended = || self.checkpoints().pass.ended.load(Ordering::Acquire);
            for _ in 0..2 * BEGIN / 500 {
                self.write();
                if runs() || ended() {
                    break;
                }
            }
            let waited = async {
                while !ended() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(60), waited).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_log_is_copied_beside_the_writer_and_begins_anew() {
        let kept = Kept::new();
        kept.pass().await;
        assert!(kept.pages("x.db") >= BEGIN - 500, "a pass has copied it");
        let all: c_int = kept.pages("x.db-wal");
        kept.write();
        assert!(kept.pages("x.db") > all - 500, "the writer has copied the rest");
        (0..3).for_each(|_| kept.write());
        assert_eq!(kept.checkpoints().at.get(), 0, "it has begun anew");
        for _ in 0..4 {
            kept.pass().await;
        }
        assert!(kept.pages("x.db") > 4 * BEGIN && kept.pages("x.db-wal") < 2 * BEGIN, "it grows no longer");
    }

    #[tokio::test]
    async fn while_a_reader_stands_in_the_way_nothing_is_tried_at_each_commit() {
        let kept = Kept::new();
        kept.write();
        let reader = sqlite::open(&kept.dir.path().join("x.db"), true).unwrap();
        reader.call(Call::Script("BEGIN; SELECT COUNT(*) FROM t".to_owned())).unwrap();
        kept.pass().await;
        kept.write();
        let (at, log) = (kept.checkpoints().at.get(), kept.pages("x.db-wal"));
        assert!(at >= BEGIN && kept.pages("x.db") < BEGIN / 2, "it is not copied");
        kept.write();
        assert_eq!(kept.checkpoints().at.get(), at);
        assert!(!kept.checkpoints().pass.runs.load(Ordering::Acquire), "it is too early");
        assert!(kept.pages("x.db-wal") > log);
        drop(reader);
        kept.pass().await;
        (0..2).for_each(|_| kept.write());
        assert_eq!(kept.checkpoints().at.get(), 0, "all is copied and it has begun anew");
    }

    #[test]
    fn without_anyone_beside_it_the_writer_copies_the_log_itself() {
        let kept = Kept::new();
        // As if one had begun and never ended.
        kept.checkpoints().pass.runs.store(true, Ordering::Release);
        (0..2 * LONGEST / 500).for_each(|_| kept.write());
        assert!(kept.pages("x.db") >= LONGEST && kept.pages("x.db-wal") < LONGEST + 1_000);
    }
}
