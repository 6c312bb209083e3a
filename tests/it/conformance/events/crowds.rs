//! What many jobs tell many endpoints at once: one transaction makes so much and no more, and nothing is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use ringback::store::db::Engine;
use ringback::store::{Error, JobChange, Observer, Publication, Right, Standing};
use ringback::types::delivery::{DeadReason, Verdict};
use ringback::types::problem::ProblemCode;
use ringback::types::{EndpointId, JobId};
use serde_json::json;

use super::event;
use super::fan_out::endpoints_of;
use crate::conformance::endpoints::endpoint_of;
use crate::conformance::lists::{OF_ENDPOINT, plant};
use crate::support::store::{Bed, attempted, both_stores, callback, cancel};

both_stores! {
    events_to_accounts_with_more_endpoints_than_are_read_at_once_are_refused,
    many_ends_that_many_hear_of_are_told_in_chunks,
    many_deliveries_in_order_are_made_in_transactions_of_their_own,
    many_deaths_that_many_hear_of_are_told_in_chunks,
    many_deaths_that_many_hear_of_in_order_are_made_in_transactions_of_their_own,
}

pub(super) fn cancelled(bed: &Bed, id: JobId) -> JobChange {
    JobChange { id, tenant: Some(bed.tenant), right: Right::Owner, what: cancel() }
}

/// Steps until all is told, none larger than it may be.
pub(super) async fn told_to_all(bed: &Bed) {
    loop {
        match bed.store.step_fan_outs(bed.now()).await.unwrap() {
            0 => break,
            step => assert!(step <= 1_000, "{step}"),
        }
    }
    assert_eq!(bed.count("fan_outs").await, 0);
}

async fn many_ends_that_many_hear_of_are_told_in_chunks(bed: &Bed) {
    let mut all = endpoints_of(bed, bed.tenant, json!({"events": ["job.cancelled"]}), 48).await;
    all.insert(
        endpoint_of(bed, bed.tenant, json!({"events": ["job.cancelled"], "payload": "thin"})).await.id,
    );
    let wish = json!({"events": ["job.cancelled"], "ordered": true});
    let ordered = endpoint_of(bed, bed.tenant, wish).await.id;
    all.insert(ordered);
    endpoint_of(bed, bed.tenant, json!({"events": ["job.failed"]})).await;
    let jobs = bed.submit_n(100).await;
    // Of another second, so that what is told later can be seen to tell of this one.
    let at = bed.now();

    let changes = jobs.iter().map(|id| cancelled(bed, *id)).collect();
    let answers = bed.store.change(changes, at).await.unwrap();

    assert!(answers.iter().all(Result::is_ok));
    // As many whole events as there is room for, and of the others what goes in order.
    assert_eq!(bed.count("deliveries").await, 80 * 50 + 20);
    let in_order = format!("deliveries WHERE endpoint_id = {}", bed.literal(ordered.uuid()));
    assert_eq!(bed.count(&in_order).await, 100);
    assert_eq!(bed.count("fan_outs").await, 20 * 2, "one for each variant of the body");
    bed.pass_seconds(5);
    told_to_all(bed).await;
    let rows = bed
        .rows("SELECT d.job_id, d.endpoint_id, d.variant, d.created_at, e.job_id FROM deliveries d JOIN events e ON e.id = d.event_id")
        .await;
    let mut seen: BTreeMap<JobId, BTreeSet<EndpointId>> = BTreeMap::new();
    for row in &rows {
        assert!(seen.entry(row.id(0).unwrap()).or_default().insert(row.id(1).unwrap()), "each once");
        assert_eq!(
            (row.time(3).unwrap(), row.id::<ringback::types::id::Job>(4).unwrap()),
            (at, row.id(0).unwrap())
        );
    }
    assert_eq!(seen, jobs.into_iter().map(|id| (id, all.clone())).collect());
    assert_eq!(bed.count("deliveries WHERE variant = 'standard-thin'").await, 100);
}

async fn events_to_accounts_with_more_endpoints_than_are_read_at_once_are_refused(bed: &Bed) {
    let to = |account: &str| event(bed, json!({"type": "invoice.paid", "data": 1, "account": account}));
    endpoint_of(bed, bed.tenant, json!({"account": "large", "events": ["refund.*"]})).await;
    plant(bed, "endpoints", OF_ENDPOINT, 20_000).await;
    let publish = async |accounts: &[&str]| {
        let events = accounts.iter().map(|account| to(account)).collect();
        bed.store.publish(Publication { events, atomic: false }, bed.now()).await
    };
    match publish(&["large", "small"]).await {
        Err(Error::Invalid(e)) => assert_eq!(e.code, ProblemCode::PayloadTooLarge),
        other => panic!("{other:?}"),
    }
    assert_eq!(bed.count("events").await, 0);
    // The first goes alone, the others meanwhile come together.
    let each = join_all(["large", "small"].repeat(4).chunks(1).map(|one| publish(one))).await;
    assert!(each.iter().all(Result::is_ok), "none is refused for another's sake");
    assert_eq!(bed.count("events").await, 8);
}

/// How many jobs each commit moved.
#[derive(Default)]
struct Commits(Mutex<Vec<usize>>);

impl Observer for Commits {
    fn moved(&self, moved: &[Standing]) {
        self.0.lock().unwrap().push(moved.len());
    }
}

async fn many_deliveries_in_order_are_made_in_transactions_of_their_own(bed: &Bed) {
    let wish = json!({"events": ["job.cancelled"], "ordered": true});
    for _ in 0..45 {
        endpoint_of(bed, bed.tenant, wish.clone()).await;
    }
    let jobs = bed.submit_n(250).await;
    let commits = Arc::new(Commits::default());
    bed.store.observed_by(commits.clone());

    let ends = jobs.iter().map(|id| bed.store.change(vec![cancelled(bed, *id)], bed.now()));
    for end in join_all(ends).await {
        end.unwrap().remove(0).unwrap();
    }

    let moved = commits.0.lock().unwrap().clone();
    assert_eq!(moved.iter().sum::<usize>(), 250);
    assert!(moved.iter().all(|jobs| jobs * 45 <= 4_000), "{moved:?}");
    assert_eq!((bed.count("deliveries").await, bed.count("fan_outs").await), (250 * 45, 0));
}

/// Jobs whose first event dies in a minute, because nobody has sent it.
pub(super) async fn short_lived(bed: &Bed, n: usize) {
    let expires_at = Some(bed.now().plus(std::time::Duration::from_secs(60)));
    let one = || {
        let wants = ringback::types::job::JobEvent::Queued.bit();
        bed.job_with(|j| {
            j.callback = Some(ringback::types::job::Callback {
                wants,
                expires_at,
                ..callback("https://a.example.com/")
            })
        })
    };
    bed.store.submit((0..n).map(|_| one()).collect(), bed.now()).await.unwrap();
}

async fn many_deaths_that_many_hear_of_in_order_are_made_in_transactions_of_their_own(bed: &Bed) {
    short_lived(bed, 100).await;
    endpoints_of(bed, bed.tenant, json!({"events": ["delivery.dead"], "ordered": true}), 45).await;
    bed.pass_seconds(60);
    assert_eq!(bed.store.end_expired(bed.now()).await.unwrap(), 100);
    assert_eq!(bed.count("deliveries WHERE event_kind = 'delivery.dead'").await, 100 * 45);
    assert_eq!(bed.count("dead_letters").await, 100);
    if bed.engine() == Engine::Postgres {
        // Each row is as its transaction has left it.
        let made = bed.rows("SELECT COUNT(*) FROM deliveries GROUP BY xmin").await;
        let made: Vec<i64> = made.iter().map(|row| row.int(0).unwrap()).collect();
        assert!(made.len() > 1 && made.iter().all(|n| *n <= 4_000), "{made:?}");
    }
}

async fn many_deaths_that_many_hear_of_are_told_in_chunks(bed: &Bed) {
    short_lived(bed, 100).await;
    endpoints_of(bed, bed.tenant, json!({"events": ["delivery.dead"]}), 50).await;
    bed.pass_seconds(60);
    assert_eq!(bed.store.end_expired(bed.now()).await.unwrap(), 100);
    assert_eq!((bed.count("deliveries").await, bed.count("fan_outs").await), (100 + 80 * 50, 20));
    told_to_all(bed).await;
    let told = "deliveries WHERE event_kind = 'delivery.dead' AND job_id IS NOT NULL";
    assert_eq!(bed.count(told).await, 100 * 50);
    // One that was told later dies like any other.
    let last = bed.claim().await.into_iter().max_by_key(|d| d.id).unwrap();
    assert!(bed.record(attempted(&last, 500, Verdict::Dead(DeadReason::Exhausted))).await);
}
