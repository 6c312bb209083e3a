//! `check` finds each violation of the invariants that is planted.

use ringback::store::check;
use ringback::store::db::Engine;
use ringback::types::delivery::{DeadReason, Verdict};

use crate::support::store::{Bed, both_stores};

both_stores! { each_planted_violation_is_found }

/// The invariants that are broken now, one word each, with the rows.
async fn broken(bed: &Bed) -> Vec<(&'static str, usize)> {
    let found = check(&bed.url).await.unwrap();
    assert!(found.iter().any(|f| f.rows > 0));
    found.into_iter().filter(|f| !f.broken.is_empty()).map(|f| (f.invariant, f.broken.len())).collect()
}

async fn each_planted_violation_is_found(bed: &Bed) {
    let dead = bed.completed().await.id;
    let letter = bed.deliver(500, Verdict::Dead(DeadReason::Exhausted)).await.id;
    let done = bed.completed().await.id;
    let delivered = bed.deliver(200, Verdict::Delivered).await.id;
    let ended = bed.completed().await.id;
    let owed = bed.store.due(ringback::types::Millis(0), bed.now(), 1).await.unwrap()[0].id;
    let queued = bed.submit_n(1).await[0];
    bed.sound().await;
    assert_eq!(broken(bed).await, []);
    bed.spoil();
    let of = |id: uuid::Uuid| bed.literal(id);
    let (dead, done, ended, queued) = (of(dead.uuid()), of(done.uuid()), of(ended.uuid()), of(queued.uuid()));
    let (letter, delivered, owed) = (of(letter.uuid()), of(delivered.uuid()), of(owed.uuid()));
    let nobody = match bed.engine() {
        Engine::Sqlite => "x''",
        Engine::Postgres => "''",
    };
    let plants = [
        (1, format!("UPDATE jobs SET state = 'complete' WHERE id = {queued}")),
        (1, format!("UPDATE jobs SET state = 'owed' WHERE id = {done}")),
        (1, format!("UPDATE job_queue SET job_id = {letter} WHERE job_id = {queued}")),
        (1, format!("UPDATE deliveries SET state = 'owed' WHERE id = {delivered}")),
        (1, format!("DELETE FROM delivery_queue WHERE delivery_id = {owed}")),
        (
            1,
            format!(
                "DELETE FROM bodies WHERE event_id = (SELECT event_id FROM deliveries WHERE id = {owed})"
            ),
        ),
        (
            1,
            format!(
                "INSERT INTO fan_outs VALUES ({letter}, 'standard', {dead}, NULL, NULL, 0, 0, 0, {nobody})"
            ),
        ),
        (4, format!("DELETE FROM events WHERE job_id = {ended}")),
        (4, format!("UPDATE events SET sequence = 99 WHERE job_id = {ended}")),
        (4, format!("UPDATE attempts SET number = 7 WHERE delivery_id = {delivered}")),
        (4, format!("UPDATE attempts SET started_at = started_at + 9 WHERE delivery_id = {delivered}")),
        (5, format!("DELETE FROM dead_letters WHERE delivery_id = {letter}")),
        (5, format!("UPDATE dead_letters SET delivery_id = {dead} WHERE delivery_id = {letter}")),
        (5, format!("UPDATE deliveries SET state = 'delivered' WHERE id = {letter}")),
    ];
    for (invariant, plant) in plants {
        let found = bed.planted(&plant).await;
        let expected = format!("I{invariant}:");
        assert!(found.iter().any(|(i, n)| i.starts_with(&expected) && *n == 1), "{plant}: {found:?}");
    }
    assert_eq!(broken(bed).await, [], "each was taken back");
}

impl Bed {
    /// What `check` finds while the statement stands; afterwards the tables are as they were.
    async fn planted(&self, plant: &str) -> Vec<(&'static str, usize)> {
        const TABLES: [&str; 7] =
            ["jobs", "job_queue", "deliveries", "delivery_queue", "events", "bodies", "attempts"];
        let tables = TABLES.iter().chain(&["dead_letters", "fan_outs"]);
        for table in tables.clone() {
            self.rows(&format!("CREATE TABLE kept_{table} AS SELECT * FROM {table}")).await;
        }
        // What is computed cannot be put back.
        self.rows("ALTER TABLE kept_delivery_queue DROP COLUMN rank").await;
        self.rows(plant).await;
        let found = broken(self).await;
        for table in tables {
            self.rows(&format!("DELETE FROM {table}")).await;
            self.rows(&format!("INSERT INTO {table} SELECT * FROM kept_{table}")).await;
            self.rows(&format!("DROP TABLE kept_{table}")).await;
        }
        found
    }
}
