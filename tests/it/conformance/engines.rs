//! What the engines themselves bring: bad data, outages, locks, schemas, plans.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use ringback::dice::Dice;
use ringback::store::db::{Engine, Target};
use ringback::store::seal::KeyRing;
use ringback::store::{Error, Rotation, Store, census, check};
use ringback::types::Millis;
use tokio::time::Instant;

use crate::support::postgres::Server;
use crate::support::store::{Bed, both_stores, hold, key, open};

both_stores! {
    bad_data_fails_only_the_call_that_brought_it,
    migrations_run_twice_change_nothing,
    a_store_of_a_later_release_is_left_alone,
    a_store_of_an_earlier_release_is_gone_to_once_it_is_migrated,
}

async fn bad_data_fails_only_the_call_that_brought_it(bed: &Bed) {
    let calls = (0..40).map(|i| {
        let job = bed.job_with(|j| match i % 20 {
            7 => j.kind = "a\0b".to_owned(),
            _ => j.idempotency = Some(key("/v1/jobs", &i.to_string(), 1)),
        });
        bed.store.submit(vec![job], bed.now())
    });
    let told = join_all(calls).await;
    let refused = told.iter().filter(|t| matches!(t, Err(Error::Data(_)))).count();
    let stored = told.iter().filter(|t| t.is_ok()).count();
    match bed.engine() {
        // SQLite stores the NUL, or cuts the text there: text is checked before it comes here.
        Engine::Sqlite => assert_eq!(stored + refused, 40),
        Engine::Postgres => assert_eq!((stored, refused), (38, 2)),
    }
    assert_eq!(bed.count("idempotency").await, 38);
}

async fn migrations_run_twice_change_nothing(bed: &Bed) {
    bed.submit_n(1).await;
    bed.store.close().await;
    Store::migrate(&bed.url).await.unwrap();
    Store::migrate(&bed.url).await.unwrap();
    let again = open(&bed.url, 3).await.unwrap();
    assert_eq!(
        again
            .jobs(bed.tenant, &Default::default(), crate::support::store::page(9), bed.now())
            .await
            .unwrap()
            .rows
            .len(),
        1
    );
    bed.spoil(); // the store of this bed is closed
}

async fn a_store_of_a_later_release_is_left_alone(bed: &Bed) {
    bed.store.close().await;
    bed.rows(match bed.engine() {
        Engine::Sqlite => "PRAGMA user_version = 99",
        Engine::Postgres => {
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (99, 'later', true, '', 0)"
        }
    })
    .await;
    let refused = Store::migrate(&bed.url).await.unwrap_err();
    assert!(matches!(refused, Error::Newer { at: 99, known: 1 }), "{refused}");
    for refused in gone_to(&bed.url).await {
        assert!(matches!(refused, Err(Error::Newer { at: 99, known: 1 })), "{refused:?}");
    }
    bed.spoil(); // the store of this bed is closed
}

async fn a_store_of_an_earlier_release_is_gone_to_once_it_is_migrated(bed: &Bed) {
    bed.store.close().await;
    let versions: &[&str] = match bed.engine() {
        Engine::Sqlite => &["PRAGMA user_version = 0"],
        // As far as it ever came, and before it came to that.
        Engine::Postgres => &["DELETE FROM _sqlx_migrations", "DROP TABLE _sqlx_migrations"],
    };
    for version in versions {
        bed.rows(version).await;
        for refused in gone_to(&bed.url).await {
            let refused = refused.unwrap_err();
            assert!(matches!(refused, Error::Older { at: 0, known: 1 }), "{refused}");
            assert!(refused.to_string().contains("`ringback migrate --store URL`"), "{refused}");
        }
    }
    bed.spoil(); // it is no store any more

    let fresh = match bed.engine() {
        Engine::Sqlite => format!("{}.fresh", bed.url),
        Engine::Postgres => crate::support::postgres::database().await,
    };
    Store::migrate(&fresh).await.unwrap();
    for fine in gone_to(&fresh).await {
        fine.unwrap();
    }
}

/// What those come to who go to a store as it is.
async fn gone_to(url: &str) -> [Result<(), Error>; 3] {
    let rotated = Rotation::begin(url, KeyRing::generate([7; 32]), Dice::seeded(9)).await;
    [check(url).await.map(drop), census(url).await.map(drop), rotated.map(drop)]
}

#[tokio::test]
async fn both_engines_have_the_same_tables_columns_and_indexes() {
    let (sqlite, postgres) = (Bed::sqlite().await, Bed::postgres().await);
    let set = async |bed: &Bed, sql| {
        let rows = bed.rows(sql).await;
        rows.iter().map(|r| r.text(0).unwrap()).collect::<BTreeSet<String>>()
    };
    let ours = "SELECT m.name || '.' || c.name || ' ' || CASE WHEN c.\"notnull\" = 1 OR c.pk > 0 THEN 'NO' ELSE 'YES' END
                || ' ' || CASE c.type WHEN 'INTEGER' THEN 'int' WHEN 'TEXT' THEN 'text' ELSE 'bytes' END
                FROM sqlite_schema m JOIN pragma_table_xinfo(m.name) c
                WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%'";
    let theirs = "SELECT CAST(table_name || '.' || column_name || ' ' || is_nullable || ' ' ||
                  CASE data_type WHEN 'bigint' THEN 'int' WHEN 'text' THEN 'text' ELSE 'bytes' END AS TEXT)
                  FROM information_schema.columns
                  WHERE table_schema = 'public' AND table_name NOT LIKE '\\_sqlx%'";
    assert_eq!(set(&sqlite, ours).await, set(&postgres, theirs).await);
    let ours = "SELECT name FROM sqlite_schema WHERE type = 'index' AND name NOT LIKE 'sqlite%'";
    let theirs = "SELECT CAST(indexname AS TEXT) FROM pg_indexes WHERE schemaname = 'public'
                  AND indexname NOT LIKE '%\\_pkey' AND indexname NOT LIKE '%\\_key'";
    assert_eq!(set(&sqlite, ours).await, set(&postgres, theirs).await);
    let ours = "SELECT CAST(user_version AS TEXT) FROM pragma_user_version";
    let theirs = "SELECT CAST(MAX(version) AS TEXT) FROM _sqlx_migrations WHERE success";
    let (ours, theirs) = (set(&sqlite, ours).await, set(&postgres, theirs).await);
    assert!(!ours.is_empty() && ours == theirs);
}

#[tokio::test]
async fn a_second_handle_on_one_file_is_refused() {
    let bed = Bed::sqlite().await;
    let second = open(&bed.url, 2).await.err();
    assert!(matches!(&second, Some(Error::Down(why)) if why.contains("another process")), "{second:?}");
    bed.store.close().await;
    open(&bed.url, 2).await.unwrap().ping().await.unwrap();
    assert!(open("sqlite::memory:", 2).await.is_err());
    assert!(open("mysql://x", 2).await.is_err());
}

#[tokio::test]
async fn a_stopped_server_is_down_and_comes_back() {
    let server = Server::start("").await;
    let bed = Bed::on(server.database().await, None).await;
    bed.submit_n(3).await;
    server.stop_immediate().await;
    let began = Instant::now();
    let new = bed.job();
    let (wrote, read, pinged) = tokio::join!(
        bed.store.submit(vec![new.clone()], bed.now()),
        bed.store.job(bed.tenant, new.id, bed.now()),
        bed.store.ping(),
    );
    assert!(matches!(wrote, Err(Error::Down(_))), "{wrote:?}");
    assert!(matches!(read, Err(Error::Down(_))) && matches!(pinged, Err(Error::Down(_))));
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    server.resume().await;
    bed.submit(new.clone()).await;
    bed.submit(new).await;
    assert_eq!(bed.lease(9).await.len(), 4, "nothing acknowledged is lost, nothing made twice");

    // An outage shorter than the patience is not noticed.
    let held = bed.submit_n(1);
    let (_, restarted) = tokio::join!(server.restart_immediate(), held);
    assert_eq!(restarted.len(), 1);
    assert!(bed.store.server_time().await.unwrap().is_some());
    bed.sound().await;
}

#[tokio::test]
async fn claims_walk_their_indexes() {
    let bed = Bed::postgres().await;
    let jobs = (0..1_000).map(|_| bed.called_back()).collect();
    bed.store.submit(jobs, bed.now()).await.unwrap();
    let held = bed.lease(100).await;
    let all = held.iter().map(|j| bed.held(j, crate::support::store::complete()));
    join_all(all).await.into_iter().for_each(|a| drop(a.unwrap()));
    let tenant = bed.literal(bed.tenant.uuid());
    let now = bed.now().0;
    let claim = format!(
        "WITH picked AS MATERIALIZED (
             SELECT q.job_id FROM job_queue q
             WHERE q.tenant_id = {tenant} AND q.queue = 'default' AND q.level = 2 AND q.due_at > 0 AND q.due_at <= {now}
               AND q.attempts_left > 0 AND q.cancel_at IS NULL
             ORDER BY q.due_at LIMIT 10 FOR NO KEY UPDATE OF q SKIP LOCKED)
         UPDATE job_queue SET fence = fence FROM picked WHERE job_queue.job_id = picked.job_id"
    );
    let due = format!(
        "SELECT delivery_id FROM delivery_queue WHERE due_at > 0 AND due_at <= {now} ORDER BY due_at LIMIT 10"
    );
    let lane = bed.literal(bed.store.due(Millis(0), bed.now(), 1).await.unwrap()[0].lane.uuid());
    let in_lane = format!(
        "SELECT delivery_id FROM delivery_queue WHERE (lane_id, rank, due_at) >= ({lane}, 2, 0)
         AND (lane_id, rank, due_at) <= ({lane}, 2, {now}) ORDER BY lane_id, rank, due_at LIMIT 10"
    );
    for (sql, index) in
        [(claim, "job_queue_due"), (due, "delivery_queue_due"), (in_lane, "delivery_queue_lane")]
    {
        let plan = explain(&bed, &sql).await;
        assert!(plan.contains(index), "{plan}");
        assert!(!plan.contains("Seq Scan"), "{plan}");
        for line in plan.lines() {
            let rows = line.split("rows=").last().and_then(|r| r.split(' ').next()?.parse::<f64>().ok());
            assert!(rows.is_none_or(|n| n <= 10.0), "no step touches more rows than the limit: {plan}");
        }
    }
    assert_eq!(bed.lease(7).await.len(), 7, "never more than was asked for");
}

/// Events of this tenant and more of another one, put there behind the store's back.
async fn many_events(bed: &Bed, tenant: ringback::types::TenantId, n: usize) {
    let id = match bed.engine() {
        Engine::Sqlite => "randomblob(16)",
        Engine::Postgres => "gen_random_uuid()",
    };
    let tenant = bed.literal(tenant.uuid());
    bed.rows(&format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n})
         INSERT INTO events (id, tenant_id, kind, created_at, data)
         SELECT {id}, {tenant}, CASE WHEN n.i % 3 = 0 THEN 'job.started' ELSE 'a.b' END, {}, '{{}}' FROM n",
        bed.now().0
    ))
    .await;
}

/// What the feed asks for a page, and for how far it is; the horizon is of PostgreSQL.
fn feed_statements(tenant: &str, below: &str) -> [String; 2] {
    let told = "kind <> 'job.queued' AND kind <> 'job.started' AND kind <> 'webhook.test' AND kind <> 'webhook.verify'";
    let of = format!("FROM events e WHERE e.tenant_id = {tenant}");
    [
        format!(
            "SELECT e.position, e.id, e.kind, e.account {of} AND (e.position, e.id) > (10, {tenant})
             AND e.position < {below} AND {told} ORDER BY e.position, e.id LIMIT 10"
        ),
        format!(
            "SELECT e.position {of} AND e.position < {below} AND {told} ORDER BY e.position DESC LIMIT 1"
        ),
    ]
}

#[tokio::test]
async fn the_feed_walks_its_index_on_postgres() {
    let bed = Bed::postgres().await;
    let other = bed.store.tenant("two", bed.now()).await.unwrap();
    for (tenant, n) in [(bed.tenant, 2_000), (other, 10_000)] {
        many_events(&bed, tenant, n).await;
    }
    bed.rows("ANALYZE events").await;
    let horizon = "(pg_snapshot_xmin(pg_current_snapshot())::text::bigint + feed_base())";
    for sql in feed_statements(&bed.literal(bed.tenant.uuid()), horizon) {
        let plan = explain(&bed, &sql).await;
        assert!(plan.contains("events_feed") && plan.contains("Index Cond"), "{plan}");
        for no in ["Seq Scan", "Sort", "Bitmap"] {
            assert!(!plan.contains(no), "{plan}");
        }
        for line in plan.lines() {
            let rows = line.split("rows=").last().and_then(|r| r.split(' ').next()?.parse::<f64>().ok());
            assert!(rows.is_none_or(|n| n <= 10.0), "no step touches more rows than the limit: {plan}");
        }
    }
    bed.spoil(); // they are nobody's
}

#[tokio::test]
async fn the_feed_walks_its_index_on_sqlite() {
    let bed = Bed::sqlite().await;
    many_events(&bed, bed.tenant, 200).await;
    for sql in feed_statements(&bed.literal(bed.tenant.uuid()), "9223372036854775807") {
        let rows = bed.rows(&query_plan(&sql)).await;
        let plan: Vec<_> = rows.iter().map(|r| r.text(3).unwrap()).collect();
        let wanted = "SEARCH e USING INDEX events_feed (tenant_id=? AND ";
        assert!(plan.len() == 1 && plan[0].starts_with(wanted), "{plan:?}");
    }
    bed.spoil(); // they are nobody's
}

/// What is asked for a page of deliveries of one endpoint, or of one account.
fn delivery_lists(bed: &Bed) -> [String; 2] {
    let tenant = bed.literal(bed.tenant.uuid());
    let of = format!("SELECT d.id FROM deliveries d WHERE d.tenant_id = {tenant} AND d.account = 'acme'");
    [
        format!("{of} AND d.endpoint_id = {tenant} ORDER BY d.id DESC LIMIT 10"),
        format!("{of} AND d.endpoint_id IS NOT NULL ORDER BY d.id DESC LIMIT 10"),
    ]
}

#[tokio::test]
async fn lists_of_deliveries_walk_the_index_of_their_account() {
    let bed = Bed::sqlite().await;
    for sql in delivery_lists(&bed) {
        let rows = bed.rows(&query_plan(&sql)).await;
        let plan: Vec<_> = rows.iter().map(|r| r.text(3).unwrap()).collect();
        let wanted = "SEARCH d USING COVERING INDEX deliveries_account (tenant_id=? AND account=?)";
        assert_eq!(plan, [wanted]);
    }
    let bed = Bed::postgres().await;
    for sql in delivery_lists(&bed) {
        let plan = explain(&bed, &sql).await;
        assert!(plan.contains("deliveries_account") && !plan.contains("Sort"), "{plan}");
    }
}

/// Asks SQLite how it would do that. Like a bound one, how many rows are wanted is nothing that it knows beforehand.
fn query_plan(sql: &str) -> String {
    format!("EXPLAIN QUERY PLAN {}", sql.replace("LIMIT 10", "LIMIT abs(10)"))
}

/// The plan as the pinned connections of the hot verbs would make it, run.
async fn explain(bed: &Bed, sql: &str) -> String {
    let text: &'static str =
        Box::leak(format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {sql}").into_boxed_str());
    let mut conn = hold(Target::parse(&bed.url).unwrap().pinned()).await;
    let rows = conn.all(text, vec![]).await.unwrap();
    rows.iter().map(|r| r.text(0).unwrap()).collect::<Vec<_>>().join("\n")
}
