use super::*;
use crate::store::bench::Scratch;
use crate::store::change::write;
use crate::store::db::{Call, Target};
use crate::store::emit::rows as emit;
use crate::store::{
    Store, change, deliveries, expiry, fan_out, health, idempotency, lanes, lanes::fleet, lease, record,
    secrets, submit, subscribers, sweep,
};

/// What SQLite says of a statement, in one column of its answer.
fn explained(how: &str, sql: &Sql, column: usize) -> Vec<String> {
    let conn = rusqlite::Connection::open_in_memory().unwrap();
    conn.execute_batch(include_str!("../../../migrations/sqlite/0001_init.sql")).unwrap();
    let mut explained = conn.prepare(&format!("{how} {}", sql.text(Engine::Sqlite))).unwrap();
    let lines = explained.raw_query().mapped(|row| row.get(column));
    lines.collect::<rusqlite::Result<_>>().unwrap()
}

/// The operations of the program that SQLite makes of a statement.
fn program(sql: &Sql) -> Vec<String> {
    explained("EXPLAIN", sql, 1)
}

#[test]
fn what_is_written_for_every_job_and_read_of_endpoints_makes_no_table_on_sqlite() {
    let written: [&Sql; 11] = [
        &submit::INSERT_JOBS,
        &submit::INSERT_QUEUE,
        &write::END_QUEUE,
        &write::END_JOBS,
        &emit::INSERT_EVENTS,
        &emit::INSERT_BODIES,
        &emit::INSERT_DELIVERIES,
        &emit::INSERT_QUEUE,
        &record::END_QUEUE,
        &record::UPDATE_DELIVERIES,
        &record::INSERT_ATTEMPTS,
    ];
    // What is read of an endpoint. It may be sorted: only with a limit would that take a table.
    let read: [&Sql; 6] = [
        &subscribers::NAMED,
        &subscribers::GROUPS,
        &subscribers::SIZES,
        &secrets::LIVE_OF,
        &health::FAILING,
        &health::CONCERNED,
    ];
    let sorts = |sql: &Sql| program(sql).iter().filter(|op| *op == "SorterOpen").count();
    for sql in written.into_iter().chain(read) {
        let tables = program(sql).iter().filter(|op| *op == "OpenEphemeral").count();
        assert_eq!(tables, 0, "{}", sql.text(Engine::Sqlite));
    }
    let sorted: Vec<_> =
        written.iter().filter(|sql| sorts(sql) > 0).map(|sql| sql.text(Engine::Sqlite)).collect();
    assert_eq!(sorted, [""; 0]);
}

#[test]
fn a_delivery_asks_only_for_endpoints_that_fail_on_sqlite() {
    let plan = explained("EXPLAIN QUERY PLAN", &health::FAILING, 3);
    let searches: Vec<_> = plan.iter().filter(|line| line.contains("SEARCH")).collect();
    assert!(searches.len() == 1 && searches[0].contains("INDEX endpoints_failing (id=?)"), "{plan:#?}");
}

#[test]
fn a_row_alone_is_its_parameters() {
    static UPDATE: Sql = Sql::batch(
        "UPDATE t SET a = b.a, blob.a = a_b.a FROM {b} WHERE t.id = b.id RETURNING id",
        1,
        &[("id", Col::Uuid), ("a", Col::Int)],
    );
    let text = "UPDATE OR FAIL t SET a = $3, blob.a = a_b.a  WHERE t.id = $2 ";
    assert_eq!(UPDATE.text(Engine::Sqlite), text);
    static DELETE: Sql = Sql::batch(
        "DELETE FROM t WHERE (id, n) IN (SELECT b.id, b.n FROM {b}) AND b.idle = $1",
        1,
        &[("id", Col::Uuid), ("n", Col::Int)],
    );
    assert_eq!(DELETE.text(Engine::Sqlite), "DELETE FROM t WHERE (id, n) = (SELECT $2, $3 ) AND b.idle = $1");
    static USING: Sql = Sql::batch(
        "DELETE FROM t USING {b} WHERE t.id {is b.id} AND t.n = b.n RETURNING t.id",
        0,
        &[("id", Col::Uuid), ("n", Col::Int)],
    );
    assert_eq!(USING.text(Engine::Sqlite), "DELETE FROM t  WHERE t.id = $1 AND t.n = $2 ");
    static LOCK: Sql = Sql::batch(
        "SELECT q.id FROM {b} JOIN t q ON q.id = b.id ORDER BY q.id {wait}",
        0,
        &[("id", Col::Uuid)],
    );
    assert_eq!(LOCK.text(Engine::Sqlite), "SELECT q.id FROM (SELECT $1 AS id) AS b JOIN t q ON q.id = b.id");
}

#[test]
fn statements_together_keep_their_parameters_apart() {
    static ONE: Sql = Sql::batch("INSERT INTO t (id, at) SELECT b.id, $1 FROM {b}", 1, &[("id", Col::Uuid)]);
    static TWO: Sql = Sql::batch(
        "UPDATE u SET n = b.n || '$' FROM {b} WHERE u.id = b.id AND u.at < $2 -- $1 dollar",
        2,
        &[("id", Col::Uuid), ("n", Col::Text)],
    );
    assert_eq!(together(&[&ONE]), ONE.text(Engine::Postgres));
    let text = "WITH w0 AS (\nINSERT INTO t (id, at) SELECT b.id, $1 FROM UNNEST($2::uuid[]) AS b(id)\n), \
                w1 AS (\nUPDATE u SET n = b.n || '$' FROM UNNEST($5::uuid[], $6::text[]) AS b(id, n) \
                WHERE u.id = b.id AND u.at < $4 -- $3 dollar\n)\n\
                INSERT INTO t (id, at) SELECT b.id, $7 FROM UNNEST($8::uuid[]) AS b(id)";
    assert_eq!(together(&[&ONE, &TWO, &ONE]), text);
    assert!(std::ptr::eq(together(&[&ONE, &TWO]), together(&[&ONE, &TWO])), "made once");
}

#[test]
fn a_table_is_named_by_its_whole_name() {
    let text = "SELECT q.id FROM job_queue q JOIN jobs_of_old j ON j.jobs = q.id";
    assert!(names(text, "job_queue") && names(text, "jobs") && names(text, "id"));
    assert!(!names(text, "queue") && !names(text, "job") && !names(text, "deliveries"));
    assert_eq!(submit::INSERT_JOBS.table(), Some("jobs"));
    assert_eq!(write::END_QUEUE.table(), Some("job_queue"));
    assert_eq!(record::UPDATE_DELIVERIES.table(), Some("deliveries"));
    assert_eq!(lease::CLAIM.table(), None);
}

/// The plan of a statement for any number of rows, on a connection of the hot verbs.
async fn plan(url: &str, sql: &Sql) -> String {
    plan_on(Target::parse(url).unwrap().pinned(), sql).await
}

async fn plan_on(target: Target, sql: &Sql) -> String {
    let text = sql.text(Engine::Postgres);
    let parameters = (1..).take_while(|n| text.contains(&format!("${n}"))).count();
    let nulls = vec!["NULL"; parameters].join(", ");
    let prepare = format!("SET plan_cache_mode = force_generic_plan; PREPARE p AS {text}");
    let explain: &'static str = Box::leak(format!("EXPLAIN (COSTS OFF) EXECUTE p({nulls})").into_boxed_str());
    let conn = target.connect(false).await.unwrap();
    let (conn, _) = conn.call(Call::Script(prepare)).await.unwrap();
    let (_, done) = conn.call(Call::All(explain, vec![])).await.unwrap();
    done.rows.iter().map(|row| row.text(0).unwrap()).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn rows_that_are_named_by_their_keys_are_found_by_these_on_postgres() {
    let server = std::env::var("RINGBACK_TEST_POSTGRES").expect("tests run in tests/with-postgres");
    let scratch = Scratch::beside(&server, &format!("plans_{}", std::process::id())).await.unwrap();
    Store::migrate(&scratch.url).await.unwrap();
    let by_key: [(&Sql, &str); 11] = [
        (&write::END_JOBS, "jobs_pkey"),
        (&record::UPDATE_DELIVERIES, "deliveries_pkey"),
        (&deliveries::CLAIM, "delivery_queue_pkey"),
        (&record::END_QUEUE, "delivery_queue_pkey"),
        (&health::CONCERNED, "endpoints_pkey"),
        (&health::FAILING, "endpoints_failing"),
        (&subscribers::NAMED, "endpoints_pkey"),
        (&subscribers::GROUPS, "endpoints_account"),
        (&subscribers::SIZES, "endpoints_account"),
        (&secrets::LIVE_OF, "secrets_owner"),
        (&lanes::SAVE, "lanes_pkey"),
    ];
    for (sql, key) in by_key {
        let plan = plan(&scratch.url, sql).await;
        let lines: Vec<_> = plan.lines().chain([""]).collect();
        let scans = lines.windows(2).filter(|pair| pair[0].contains(" using "));
        let probes = scans.map(|pair| pair[0].contains(key) && pair[1].contains("Index Cond"));
        let probes: Vec<bool> = probes.collect();
        assert!(!probes.is_empty() && probes.iter().all(|probe| *probe), "{plan}");
    }
    scratch.remove().await.unwrap();
}

/// What the statistics say of a queue whose rows are mostly dead, as under a snapshot that someone holds.
const NEXT_TO_EMPTY: &str = "UPDATE pg_class SET reltuples = 1, relpages = 10000
                             WHERE relname LIKE 'job_queue%' OR relname LIKE 'delivery_queue%'";

#[tokio::test]
async fn a_queue_that_looks_empty_is_not_walked_for_its_keys_on_postgres() {
    let server = std::env::var("RINGBACK_TEST_POSTGRES").expect("tests run in tests/with-postgres");
    let scratch = Scratch::beside(&server, &format!("empty_{}", std::process::id())).await.unwrap();
    Store::migrate(&scratch.url).await.unwrap();
    let conn = Target::parse(&scratch.url).unwrap().connect(false).await.unwrap();
    conn.call(Call::Script(NEXT_TO_EMPTY.to_owned())).await.unwrap();
    let statements: [&Sql; 11] = [
        &lease::CLAIM,
        &lease::CLAIM_KIND,
        &change::LOCK_JOBS,
        &write::END_QUEUE,
        &submit::READ_JOBS,
        &deliveries::CLAIM,
        &record::END_QUEUE,
        &record::RETRY_QUEUE,
        &idempotency::DROP_DEAD_KEYS,
        &expiry::EXPIRED,
        &expiry::TAKE,
    ];
    for sql in statements {
        let plan = plan(&scratch.url, sql).await;
        let lines: Vec<_> = plan.lines().collect();
        let probed = |i: usize| lines.get(i + 1).is_some_and(|next| next.contains("= ANY (ARRAY["));
        let walked = (0..lines.len()).any(|i| lines[i].contains("_queue_pkey") && !probed(i));
        assert!(plan.contains("_queue_pkey") && !walked, "{plan}");
    }
    scratch.remove().await.unwrap();
}

static ANYTHING: Sql = Sql::plain(sweep::ANYTHING);
static PASSING: Sql = Sql::plain(sweep::PASSING);

/// What makes the deliveries of fan-outs, and what asks whether one still stands.
fn of_fan_outs() -> [&'static Sql; 15] {
    [
        &fan_out::NEXT,
        &fan_out::ADVANCE,
        &fan_out::FINISH,
        &fan_out::POSTPONE,
        &fan_out::URLS,
        &sweep::POSTPONE,
        &sweep::PURGE,
        &sweep::STILL_OVER,
        &sweep::EMPTY_EVENTS,
        &sweep::POSTPONE_EVENTS,
        &sweep::OLD_EVENTS,
        &sweep::DROP_BODIES,
        &sweep::DROP_EVENTS,
        &ANYTHING,
        &PASSING,
    ]
}

/// Whether one is due is asked of one after the other, for most are.
fn looks(sql: &Sql) -> bool {
    std::ptr::eq(sql, &ANYTHING)
}

#[test]
fn fan_outs_read_no_table_whole_on_sqlite() {
    for sql in of_fan_outs() {
        let plan = explained("EXPLAIN QUERY PLAN", sql, 3);
        let mut scans: Vec<_> = plan.iter().filter_map(|line| line.strip_prefix("SCAN ")).collect();
        scans.retain(|of| !matches!(*of, "CONSTANT ROW" | "b"));
        // An index made for the one statement reads the whole table.
        scans.extend(plan.iter().filter(|line| line.contains("AUTOMATIC")).map(String::as_str));
        assert_eq!(scans, ["q"][..usize::from(looks(sql))], "{}\n{plan:#?}", sql.text(Engine::Sqlite));
    }
}

/// A row in each table, and statistics by which there are a million.
const FULL: &str = "
    DO $$ DECLARE one record; BEGIN
        FOR one IN SELECT conrelid::regclass AS of, conname FROM pg_constraint
                   WHERE contype = 'c' AND connamespace = current_schema()::regnamespace LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', one.of, one.conname);
        END LOOP;
        FOR one IN SELECT format('INSERT INTO %I (%s) VALUES (%s)', table_name, string_agg(column_name, ', '),
                              string_agg(CASE data_type WHEN 'uuid' THEN 'gen_random_uuid()' WHEN 'bigint' THEN '0'
                                         ELSE '''x''' END, ', ')) AS line
                   FROM information_schema.columns
                   WHERE table_schema = current_schema() AND is_generated = 'NEVER' AND table_name NOT LIKE '\\_%'
                   GROUP BY table_name LOOP
            EXECUTE one.line;
        END LOOP;
        UPDATE pg_class SET reltuples = 1000000, relpages = CASE relkind WHEN 'r' THEN 1 ELSE 2 END
        WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'i');
    END $$";

/// A database that is [`FULL`].
async fn full(name: &str) -> (Scratch, Target) {
    let server = std::env::var("RINGBACK_TEST_POSTGRES").expect("tests run in tests/with-postgres");
    let scratch = Scratch::beside(&server, &format!("{name}_{}", std::process::id())).await.unwrap();
    Store::migrate(&scratch.url).await.unwrap();
    let target = Target::parse(&scratch.url).unwrap();
    target.connect(false).await.unwrap().call(Call::Script(FULL.to_owned())).await.unwrap();
    (scratch, target)
}

#[tokio::test]
async fn fan_outs_read_no_table_whole_on_postgres() {
    let (scratch, target) = full("fan_outs").await;
    for sql in of_fan_outs() {
        let scouted = looks(sql) || std::ptr::eq(sql, &PASSING);
        let plan = plan_on(if scouted { target.clone().pinned() } else { target.clone() }, sql).await;
        let lines: Vec<_> = plan.lines().chain([""]).collect();
        for pair in lines.windows(2) {
            let walked = pair[0].contains(" using ") && !pair[1].contains("Index Cond");
            let scanned = pair[0].contains("Seq Scan") && !(looks(sql) && pair[0].contains("fan_outs"));
            assert!(!walked && !scanned, "{}\n{plan}", sql.text(Engine::Postgres));
        }
    }
    scratch.remove().await.unwrap();
}

static FIGURES: Sql = Sql::plain(fleet::FIGURES);

#[test]
fn the_oldest_that_waits_is_found_by_indexes_on_sqlite() {
    let plan = explained("EXPLAIN QUERY PLAN", &FIGURES, 3);
    let queues = plan.iter().filter(|line| ["SEARCH q ", "SCAN q"].iter().any(|scan| line.starts_with(scan)));
    assert!(
        queues.clone().count() >= 7 && queues.clone().all(|line| line.contains("delivery_queue_")),
        "{plan:#?}"
    );
    let lanes: Vec<_> = plan.iter().filter(|line| line.contains(" l ")).collect();
    assert!(lanes.len() == 2 && lanes.iter().all(|line| line.contains("lanes_1 (id=?)")), "{plan:#?}");
}

#[tokio::test]
async fn the_oldest_that_waits_is_found_by_indexes_on_postgres() {
    let (scratch, target) = full("oldest").await;
    let plan = plan_on(target, &FIGURES).await;
    let lines: Vec<_> = plan.lines().collect();
    for pair in lines.windows(2) {
        let asked = [" on delivery_queue", " on lanes"].iter().any(|of| pair[0].contains(of));
        assert!(!asked || pair[0].contains(" using ") && pair[1].contains("Index Cond"), "{plan}");
    }
    assert!(!plan.contains("Sort"), "{plan}");
    assert!(plan.contains("delivery_queue_due") && plan.contains("delivery_queue_lane"), "{plan}");
    scratch.remove().await.unwrap();
}
