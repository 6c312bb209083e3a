use super::*;
use crate::args;
use crate::store::batch::Col;
use crate::store::bench::Scratch;
use crate::store::migrate::lock_file;
use uuid::Uuid;

static INSERT: Sql =
    Sql::batch("INSERT INTO t (id, n) SELECT b.id, b.n FROM {b}", 0, &[("id", Col::Uuid), ("n", Col::Int)]);
static DOUBLE: Sql = Sql::batch("UPDATE t SET n = n * 2 FROM {b} WHERE t.id = b.id", 0, &[("id", Col::Uuid)]);
static ADD: Sql = Sql::batch("UPDATE t SET n = n + $1 FROM {b} WHERE t.id = b.id", 1, &[("id", Col::Uuid)]);
static NOTE: Sql = Sql::batch("INSERT INTO notes (id) SELECT b.id FROM {b}", 0, &[("id", Col::Uuid)]);
static READ: Sql = Sql::plain("SELECT n FROM t ORDER BY n");
static NOTES: Sql = Sql::plain("SELECT id FROM notes");
static BACKEND: Sql = Sql::plain("SELECT CAST(pg_backend_pid() AS BIGINT)");
static BEGUN: Sql = Sql::plain(
    "SELECT CAST(COUNT(*) AS BIGINT) FROM pg_stat_activity
                                WHERE datname = current_database() AND state = 'idle in transaction'",
);

/// A pool of one connection over two tables on each engine, and one of another connection.
async fn pools(name: &str) -> Vec<(Pool, Pool, Scratch, Option<tempfile::TempDir>)> {
    let server = std::env::var("RINGBACK_TEST_POSTGRES").expect("tests run in tests/with-postgres");
    let dir = tempfile::tempdir().unwrap();
    let file = format!("sqlite://{}/ringback.db", dir.path().display());
    let mut pools = Vec::new();
    for (url, dir) in [(server, None), (file, Some(dir))] {
        let scratch = Scratch::beside(&url, &format!("{name}_{}", std::process::id())).await.unwrap();
        let target = Target::parse(&scratch.url).unwrap();
        let made = "CREATE TABLE t (id UUID PRIMARY KEY, n BIGINT); CREATE TABLE notes (id UUID PRIMARY KEY)";
        target.connect(false).await.unwrap().call(Call::Script(made.to_owned())).await.unwrap();
        let pool = |read_only| Pool::new(target.clone(), 1, read_only, Duration::from_secs(5));
        pools.push((pool(false), pool(true), scratch, dir));
    }
    pools
}

fn ids() -> [Uuid; 3] {
    [1, 2, 3].map(Uuid::from_u128)
}

async fn numbers(pool: &Pool) -> Vec<i64> {
    let rows = pool.get().await.unwrap().all(READ.text(pool.engine()), vec![]).await.unwrap();
    rows.iter().map(|row| row.int(0).unwrap()).collect()
}

#[tokio::test]
async fn writes_held_back_come_to_the_same_as_one_after_the_other() {
    for (pool, other, scratch, _dir) in pools("held_back").await {
        let [a, b, c] = ids();
        let mut tx = pool.open().await.unwrap();
        tx.later(&INSERT, vec![], vec![args![a, 1i64], args![b, 10i64]]).await.unwrap();
        tx.later(&NOTE, vec![], vec![args![a]]).await.unwrap();
        tx.later(&DOUBLE, vec![], vec![args![a], args![b]]).await.unwrap();
        tx.later(&ADD, args![5i64], vec![args![a]]).await.unwrap();
        tx.later(&INSERT, vec![], vec![args![c, 3i64]]).await.unwrap();
        tx.later(&NOTE, vec![], vec![]).await.unwrap();
        let seen = tx.all(&READ, vec![]).await.unwrap();
        let seen: Vec<i64> = seen.iter().map(|row| row.int(0).unwrap()).collect();
        assert_eq!(seen, [3, 7, 20], "what names the table sees it all");
        tx.later(&ADD, args![100i64], vec![args![c]]).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(numbers(&other).await, [7, 20, 103]);
        let notes = other.get().await.unwrap().all(NOTES.text(other.engine()), vec![]).await.unwrap();
        assert_eq!(notes.len(), 1);
        pool.close();
        other.close();
        scratch.remove().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_undone_or_fails_leaves_nothing() {
    for (pool, other, scratch, _dir) in pools("undone").await {
        let [a, b, c] = ids();
        let mut tx = pool.open().await.unwrap();
        tx.later(&INSERT, vec![], vec![args![a, 1i64]]).await.unwrap();
        tx.rollback().await.unwrap();
        let mut tx = pool.open().await.unwrap();
        tx.later(&INSERT, vec![], vec![args![b, 1i64]]).await.unwrap();
        drop(tx);
        // Two writes, of which the second fails; nothing else is in the transaction.
        let mut tx = pool.open().await.unwrap();
        tx.later(&NOTE, vec![], vec![args![c]]).await.unwrap();
        let twice = tx.later(&INSERT, vec![], vec![args![c, 1i64], args![c, 2i64]]).await;
        let failed = if twice.is_ok() { tx.commit().await } else { twice };
        assert!(matches!(failed, Err(Error::Data(_))), "{failed:?}");
        assert_eq!(numbers(&other).await, [0i64; 0]);
        assert!(other.get().await.unwrap().all(NOTES.text(other.engine()), vec![]).await.unwrap().is_empty());
        pool.close();
        other.close();
        scratch.remove().await.unwrap();
    }
}

#[tokio::test]
async fn a_transaction_begins_with_its_first_call_and_outlives_a_dead_connection_on_postgres() {
    let (pool, other, scratch, _) = pools("begins").await.swap_remove(0);
    let begun = async || {
        let rows = other.get().await.unwrap().all(BEGUN.text(Engine::Postgres), vec![]).await.unwrap();
        rows[0].int(0).unwrap()
    };
    let [a, b, _] = ids();
    let mut tx = pool.open().await.unwrap();
    tx.later(&INSERT, vec![], vec![args![a, 1i64]]).await.unwrap();
    assert_eq!(begun().await, 0);
    let backend = tx.all(&BACKEND, vec![]).await.unwrap()[0].int(0).unwrap();
    assert_eq!(begun().await, 1);
    assert_eq!(numbers(&other).await, [0i64; 0], "not before the commit");
    tx.commit().await.unwrap();
    assert_eq!((begun().await, numbers(&other).await), (0, vec![1]));

    let end = format!("SELECT pg_terminate_backend({backend}, 5000)");
    let conn = Target::parse(&scratch.url).unwrap().connect(false).await.unwrap();
    conn.call(Call::Script(end)).await.unwrap();
    let mut tx = pool.open().await.unwrap();
    assert_ne!(tx.all(&BACKEND, vec![]).await.unwrap()[0].int(0).unwrap(), backend);
    tx.later(&INSERT, vec![], vec![args![b, 2i64]]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(numbers(&other).await, [1, 2]);
    pool.close();
    other.close();
    scratch.remove().await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_rested_too_long_was_ended_by_a_database_that_is_away_not_wrong() {
    let (pool, other, scratch, _) = pools("rested").await.swap_remove(0);
    let mut tx = pool.begin().await.unwrap();
    tx.all_text("SELECT CAST(pg_try_advisory_xact_lock(7) AS TEXT)", vec![]).await.unwrap();
    tx.all_text("SET LOCAL idle_in_transaction_session_timeout = 20", vec![]).await.unwrap();
    // It can be had once the other one is ended.
    let wait = "SET lock_timeout = 0; SELECT pg_advisory_lock(7)".to_owned();
    other.get().await.unwrap().call(Call::Script(wait)).await.unwrap();
    let told = tx.all(&READ, vec![]).await;
    assert!(matches!(told, Err(Error::Down(_))), "{:?}", told.err());
    pool.close();
    other.close();
    scratch.remove().await.unwrap();
}

#[tokio::test]
async fn another_process_is_kept_off_a_file_until_its_last_writer_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::parse(&format!("sqlite://{}/ringback.db", dir.path().display())).unwrap();
    let lock = || lock_file(&target);
    let pool = Pool::new(target.clone(), 1, false, Duration::from_secs(5)).holding(lock().unwrap());
    assert!(lock().is_err(), "before it is written");
    let tx = pool.begin().await.unwrap();
    pool.close();
    assert!(lock().is_err(), "while it is written");
    tx.commit().await.unwrap();
    assert!(lock().is_ok());
}
