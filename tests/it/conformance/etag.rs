//! The entity tag tells every change of what a client sees.

use ringback::store::What;
use ringback::types::Millis;

use crate::support::store::{Bed, both_stores, callback, cancel, complete, failure, heartbeat, release};

both_stores! { every_change_of_the_view_changes_the_etag, what_the_clock_changes_changes_the_etag }

async fn every_change_of_the_view_changes_the_etag(bed: &Bed) {
    use ringback::types::delivery::{DeadReason, Verdict};
    let id = bed.submit(bed.job_with(|j| {
        j.callback = Some(callback("https://hooks.example.com/a"));
    }));
    let id = id.await.job.id;
    let mut seen: Vec<(String, String)> = Vec::new();
    let mut look = async || {
        let job = bed.get(id).await;
        let view = serde_json::to_string(&job.view(bed.store.urls())).unwrap();
        for (tag, other) in &seen {
            assert!(*tag != job.etag() || *other == view, "{tag}: {other} and {view}");
        }
        seen.push((job.etag(), view));
    };
    look().await;
    let held = bed.lease_one().await;
    look().await;
    bed.held(&held, heartbeat(Some(1))).await.unwrap();
    look().await;
    bed.held(&held, heartbeat(Some(2))).await.unwrap();
    look().await;
    bed.held(&held, release(0)).await.unwrap();
    look().await;
    let held = bed.lease_one().await;
    bed.owner(id, cancel()).await.unwrap();
    look().await;
    bed.held(&held, failure(true)).await.unwrap();
    look().await;
    bed.deliver(500, Verdict::Dead(DeadReason::Exhausted)).await;
    look().await;
    let delivery = bed.rows("SELECT id FROM deliveries").await[0].id(0).unwrap();
    bed.store.retry_delivery(bed.tenant, delivery, bed.now()).await.unwrap();
    look().await;
    bed.deliver(200, Verdict::Delivered).await;
    look().await;
    bed.owner(id, What::Retry).await.unwrap();
    look().await;
    assert_eq!(seen.len(), 11);
    let states: Vec<bool> = seen.iter().map(|s| s.1.contains(r#""callbackState":"delivered""#)).collect();
    assert_eq!(states.iter().filter(|s| **s).count(), 1, "{states:?}");
}

async fn what_the_clock_changes_changes_the_etag(bed: &Bed) {
    let look = async |id| {
        let job = bed.get(id).await;
        (job.etag(), job.state.as_str(), job.callback_state.as_str())
    };
    let id = bed.submit(bed.called_back()).await.job.id;
    let held = bed.lease_one().await;
    bed.held(&held, release(60)).await.unwrap();
    let scheduled = look(id).await;
    bed.pass_seconds(61);
    let queued = look(id).await;
    assert_eq!((scheduled.1, queued.1), ("scheduled", "queued"));
    assert_ne!(scheduled.0, queued.0);

    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    let pending = look(id).await;
    let due = bed.store.due(Millis(0), bed.now(), 9).await.unwrap().remove(0);
    let mut lane =
        bed.store.own_lanes(bed.node, &[(due.lane, due.id)], bed.now()).await.unwrap().remove(0).state;
    (lane.held_until, lane.held_reason) = (Some(Millis(bed.now().0 + 60_000)), Some("breaker".to_owned()));
    bed.store.save_lanes(bed.node, &[(lane, false)]).await.unwrap();
    let closed = look(id).await;
    bed.pass_seconds(61);
    assert_eq!((pending.2, closed.2), ("pending", "held"));
    assert_ne!(pending.0, closed.0);
    assert_eq!(look(id).await, pending, "the lane is open again");
}
