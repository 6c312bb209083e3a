//! How late what waits is, over all lanes.

use ringback::args;
use ringback::store::LaneState;
use ringback::store::db::Engine;
use ringback::types::Millis;

use crate::support::store::{Bed, beside, both_stores, callback, complete};

both_stores! {
    what_waits_in_a_held_lane_is_not_late,
    what_others_are_owed_is_late_behind_however_much_a_held_lane_owes,
}

/// Completes a job with a callback to `https://NAME.example.com`, and owns its lane.
async fn told(bed: &Bed, name: &str) -> LaneState {
    let to = Some(callback(&format!("https://{name}.example.com/")));
    let id = bed.submit(bed.job_with(|j| j.callback = to)).await.job.id;
    let held = bed.lease_one().await;
    assert_eq!(held.job_id, id);
    bed.held(&held, complete()).await.unwrap();
    let due = bed.store.due(Millis(bed.now().0 - 1), bed.now(), 1).await.unwrap()[0];
    bed.store.own_lanes(bed.node, &[(due.lane, due.id)], bed.now()).await.unwrap().remove(0).state
}

async fn late(bed: &Bed) -> i64 {
    let figures = bed.store.figures(bed.now()).await.unwrap();
    figures.into_iter().find(|(name, _)| *name == "deliveries_oldest_due_seconds").unwrap().1
}

async fn save(bed: &Bed, lane: LaneState) {
    bed.store.save_lanes(bed.node, &[(lane, false)]).await.unwrap();
}

async fn what_waits_in_a_held_lane_is_not_late(bed: &Bed) {
    assert_eq!(late(bed).await, 0, "nothing waits");
    let dead = told(bed, "dead").await;
    bed.pass_seconds(100);
    assert_eq!(late(bed).await, 100, "nobody sends it");
    told(bed, "well").await;
    bed.pass_seconds(20);
    assert_eq!(late(bed).await, 120);

    let soon = Some(Millis(bed.now().0 + 1_000));
    for (opened, held_until, reason) in
        [(1, soon, Some("breaker")), (1, None, None), (0, soon, Some("retry-after"))]
    {
        let held_reason = reason.map(str::to_owned);
        save(bed, LaneState { opened, held_until, held_reason, ..dead.clone() }).await;
        assert_eq!(late(bed).await, 20, "of the other one: {reason:?}");
    }
    bed.pass_seconds(60);
    assert_eq!(late(bed).await, 80, "what was held a moment ago had no time to go");
    bed.pass_seconds(1);
    assert_eq!(late(bed).await, 181, "nobody sends it");

    bed.store.pause_lane(bed.tenant, dead.id, Some(Millis::MAX), bed.now()).await.unwrap();
    assert_eq!(late(bed).await, 81);
    bed.store.pause_lane(bed.tenant, dead.id, None, bed.now()).await.unwrap();
    bed.pass_seconds(59);
    assert_eq!(late(bed).await, 140);
    bed.pass_seconds(1);
    assert_eq!(late(bed).await, 241);
}

async fn what_others_are_owed_is_late_behind_however_much_a_held_lane_owes(bed: &Bed) {
    bed.spoil();
    let dead = told(bed, "dead").await;
    let id = match bed.engine() {
        Engine::Sqlite => "randomblob(16)",
        Engine::Postgres => "gen_random_uuid()",
    };
    let more = format!(
        "INSERT INTO delivery_queue (delivery_id, tenant_id, lane_id, turn, due_at, phase, fence, attempt, used, unknowns)
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
         SELECT {id}, q.tenant_id, q.lane_id, q.turn, q.due_at + n.i, q.phase, q.fence, q.attempt, q.used, q.unknowns
         FROM n, delivery_queue q"
    );
    beside(&bed.url).await.all(Box::leak(more.into_boxed_str()), args![]).await.unwrap();
    bed.pass_seconds(50);
    let (opened, held_until) = (1, Some(Millis(bed.now().0 + 600_000)));
    save(bed, LaneState { opened, held_until, held_reason: Some("breaker".to_owned()), ..dead }).await;
    assert_eq!(late(bed).await, 0, "all of it is held");
    told(bed, "well").await;
    bed.pass_seconds(90);
    assert_eq!(late(bed).await, 90);
}
