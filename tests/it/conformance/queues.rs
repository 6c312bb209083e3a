//! Queues: their figures, their settings, and what was learned from their jobs.

use std::collections::HashSet;
use std::time::Duration;

use ringback::store::db::Engine;
use ringback::store::{LeaseRequest, QueueChange, Store};
use ringback::types::api::{Queue, QueueState};
use ringback::types::job::WorkerKind;
use ringback::types::{JobId, Millis};

use crate::support::postgres::english_database;
use crate::support::store::{Bed, both_stores, complete, failure, heartbeat, open, release};

both_stores! {
    a_queue_shows_what_waits_what_runs_and_since_when,
    queues_are_listed_by_name,
    a_paused_queue_hands_out_nothing_until_it_is_over,
    a_limit_counts_the_leases_that_hold,
    a_limit_holds_however_many_claim_at_once,
    what_is_left_out_of_a_change_stays,
    waits_and_runs_are_measured,
    what_was_learned_is_saved_and_shared,
}

async fn shown(bed: &Bed, name: &str) -> Queue {
    bed.store.queue(bed.tenant, name, bed.now()).await.unwrap()
}

pub(super) async fn set(bed: &Bed, change: QueueChange) {
    bed.store.set_queue(bed.tenant, "default", change).await.unwrap();
}

pub(super) fn limit(most: u32) -> QueueChange {
    QueueChange { max_in_flight: Some(Some(most)), ..QueueChange::default() }
}

pub(super) fn pause(until: Millis) -> QueueChange {
    QueueChange { paused_until: Some(Some(until)), ..QueueChange::default() }
}

const RESUME: QueueChange = QueueChange { paused_until: Some(None), max_in_flight: None };

async fn a_queue_shows_what_waits_what_runs_and_since_when(bed: &Bed) {
    let empty = shown(bed, "default").await;
    assert_eq!((empty.depth, empty.scheduled, empty.processing), (0, 0, 0));
    assert_eq!((empty.oldest_due, empty.oldest_age_seconds, empty.wait_p50_ms), (None, None, None));
    assert_eq!((empty.state, empty.max_in_flight), (QueueState::Open, None));

    let began = bed.now();
    bed.submit(bed.job_with(|j| j.priority = -2)).await;
    bed.pass_seconds(7);
    bed.submit(bed.job_with(|j| j.priority = 2)).await;
    let later = Millis(bed.now().0 + 60_000);
    bed.submit(bed.job_with(|j| j.run_at = Some(later))).await;
    bed.submit(bed.job_with(|j| j.queue = "other".to_owned())).await;

    let queue = shown(bed, "default").await;
    assert_eq!((queue.depth, queue.scheduled, queue.processing), (2, 1, 0));
    assert_eq!((queue.oldest_due, queue.oldest_age_seconds), (Some(began), Some(7)));
    let held = bed.lease_one().await;
    let queue = shown(bed, "default").await;
    assert_eq!((queue.depth, queue.scheduled, queue.processing), (1, 1, 1));
    bed.held(&held, release(90)).await.unwrap();
    assert_eq!((shown(bed, "default").await.scheduled, shown(bed, "other").await.depth), (2, 1));

    bed.lease_one().await;
    bed.pass_seconds(31);
    let queue = shown(bed, "default").await;
    assert_eq!((queue.depth, queue.processing), (1, 0), "its lease ran out: it waits again");
    assert_eq!(queue.oldest_age_seconds, Some(1));
}

async fn queues_are_listed_by_name(bed: &Bed) {
    for name in ["b", "a", "b", "d", "c"] {
        bed.submit(bed.job_with(|j| j.queue = name.to_owned())).await;
    }
    bed.store.set_queue(bed.tenant, "e", limit(3)).await.unwrap();
    let other = bed.store.tenant("two", bed.now()).await.unwrap();
    bed.store.set_queue(other, "theirs", limit(3)).await.unwrap();
    bed.submit(bed.job_with(|j| (j.queue, j.worker) = ("f".to_owned(), WorkerKind::External))).await;
    let names = async |only: Option<&[&str]>, after: &str, limit| {
        let only: Option<Vec<String>> = only.map(|names| names.iter().map(|n| (*n).to_owned()).collect());
        let queues = bed.store.queues(bed.tenant, only.as_deref(), after, limit, bed.now()).await.unwrap();
        queues.into_iter().map(|q| q.queue).collect::<Vec<_>>()
    };

    assert_eq!(names(None, "", 50).await, ["a", "b", "c", "d", "e", "f"]);
    assert_eq!(names(None, "", 2).await, ["a", "b"]);
    assert_eq!(names(None, "b", 3).await, ["c", "d", "e"]);
    assert!(names(None, "f", 3).await.is_empty());
    assert_eq!(names(Some(&["z", "c", "a"]), "", 2).await, ["a", "c"], "its own, used or not");
    assert_eq!(names(Some(&["z", "c", "a"]), "c", 2).await, ["z"]);

    let id = bed.store.lease(LeaseRequest { queue: "a".to_owned(), ..bed.wish(1) }, bed.now()).await.unwrap();
    bed.held(&id[0].job, complete()).await.unwrap();
    assert_eq!(names(None, "", 1).await, ["a"], "it is empty now and was worked off lately");
    bed.store.save_learned(bed.now()).await.unwrap();
    assert_eq!(names(None, "", 2).await, ["a", "b"]);
}

async fn a_paused_queue_hands_out_nothing_until_it_is_over(bed: &Bed) {
    bed.submit_n(2).await;
    let held = bed.lease_one().await;
    set(bed, pause(Millis(bed.now().0 + 5_000))).await;

    assert!(bed.lease(9).await.is_empty() && !bed.store.any_due(&bed.wish(9), bed.now()).await.unwrap());
    bed.submit_n(1).await;
    bed.held(&held, heartbeat(Some(10))).await.unwrap();
    bed.held(&held, complete()).await.unwrap();
    let queue = shown(bed, "default").await;
    assert_eq!((queue.state, queue.depth), (QueueState::Paused, 2));
    assert_eq!(queue.paused_until, Some(Millis(bed.now().0 + 5_000)));
    bed.pass_seconds(5);
    assert_eq!((shown(bed, "default").await.state, bed.lease(9).await.len()), (QueueState::Open, 2));

    set(bed, pause(Millis::MAX)).await;
    bed.submit_n(1).await;
    bed.pass_seconds(86_400);
    assert!(bed.lease(9).await.is_empty());
    assert_eq!(shown(bed, "default").await.paused_until, None, "until someone resumes it");
    set(bed, RESUME).await;
    assert!(bed.store.any_due(&bed.wish(9), bed.now()).await.unwrap());
    assert!(!bed.lease(9).await.is_empty());
}

async fn a_limit_counts_the_leases_that_hold(bed: &Bed) {
    bed.submit_n(6).await;
    set(bed, limit(2)).await;

    let held = bed.lease(9).await;
    assert_eq!(held.len(), 2);
    assert!(bed.lease(1).await.is_empty() && !bed.store.any_due(&bed.wish(1), bed.now()).await.unwrap());
    bed.held(&held[0], complete()).await.unwrap();
    assert_eq!(bed.lease(9).await.len(), 1, "one ended, one may begin");
    bed.held(&held[1], failure(false)).await.unwrap();
    bed.pass_seconds(31);
    assert_eq!(bed.lease(9).await.len(), 2, "a lease that ran out holds no place");
    assert_eq!(shown(bed, "default").await.processing, 2);

    set(bed, QueueChange { max_in_flight: Some(None), ..QueueChange::default() }).await;
    assert_eq!(bed.lease(9).await.len(), 2, "the limit is taken away");
    let other = LeaseRequest { queue: "other".to_owned(), ..bed.wish(9) };
    bed.submit(bed.job_with(|j| j.queue = "other".to_owned())).await;
    set(bed, limit(1)).await;
    assert_eq!(bed.store.lease(other, bed.now()).await.unwrap().len(), 1, "each queue for itself");
}

/// Handles as two nodes have them; SQLite has one process.
async fn nodes(bed: &Bed) -> Vec<Store> {
    let mut nodes = vec![bed.store.clone()];
    if bed.engine() == Engine::Postgres {
        nodes.push(open(&bed.url, 77).await.unwrap());
    }
    nodes
}

async fn a_limit_holds_however_many_claim_at_once(bed: &Bed) {
    bed.submit_n(60).await;
    set(bed, limit(5)).await;
    let nodes = nodes(bed).await;
    let mut seen: HashSet<JobId> = HashSet::new();
    for _ in 0..4 {
        let claims = (0..24).map(|n| nodes[n % nodes.len()].lease(bed.wish(2), bed.now()));
        let got = futures_util::future::join_all(claims).await;
        let jobs: Vec<_> = got.into_iter().flat_map(|jobs| jobs.unwrap_or_default()).map(|l| l.job).collect();
        assert_eq!(jobs.len(), 5);
        assert_eq!(bed.count("job_queue WHERE phase = 'leased'").await, 5);
        for job in jobs {
            assert!(seen.insert(job.job_id));
            bed.held(&job, complete()).await.unwrap();
        }
    }
    for node in nodes.iter().skip(1) {
        node.close().await;
    }
}

async fn what_is_left_out_of_a_change_stays(bed: &Bed) {
    set(bed, limit(4)).await;
    set(bed, pause(Millis::MAX)).await;
    let queue = shown(bed, "default").await;
    assert_eq!((queue.state, queue.max_in_flight), (QueueState::Paused, Some(4)));
    set(bed, QueueChange::default()).await;
    assert_eq!(shown(bed, "default").await, queue);
    set(bed, RESUME).await;
    assert_eq!(shown(bed, "default").await.max_in_flight, Some(4));

    for node in nodes(bed).await.iter().skip(1) {
        bed.submit_n(1).await;
        assert_eq!(node.lease(bed.wish(1), bed.now()).await.unwrap().len(), 1);
        set(bed, pause(Millis::MAX)).await;
        bed.submit_n(1).await;
        bed.pass_seconds(1);
        assert!(node.lease(bed.wish(1), bed.now()).await.unwrap().is_empty(), "heard of within a second");
        node.close().await;
    }
}

async fn waits_and_runs_are_measured(bed: &Bed) {
    for n in 1..=20u64 {
        bed.submit_n(1).await;
        bed.pass(Duration::from_millis(n * 100));
        let held = bed.lease_one().await;
        bed.pass(Duration::from_millis(n));
        bed.held(&held, complete()).await.unwrap();
    }
    let told = async || {
        let q = shown(bed, "default").await;
        (q.wait_p50_ms, q.wait_p95_ms, q.run_p50_ms, q.run_p95_ms)
    };
    let wanted = (Some(1_000), Some(1_900), Some(10), Some(19));
    assert_eq!(told().await, wanted);
    bed.store.save_learned(bed.now()).await.unwrap();
    assert_eq!(told().await, wanted, "saved, and not counted twice");

    bed.submit_n(1).await;
    let held = bed.lease_one().await;
    bed.held(&held, failure(true)).await.unwrap();
    bed.pass_seconds(3_600);
    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    bed.store.save_learned(bed.now()).await.unwrap();
    let samples = async |what: &str| {
        let rows = bed.rows(&format!("SELECT samples FROM learned WHERE what = '{what}'")).await;
        rows[0].text(0).unwrap().split(' ').count()
    };
    assert_eq!(
        (samples("wait").await, samples("run").await),
        (20, 21),
        "a pause between attempts is no wait"
    );
}

async fn what_was_learned_is_saved_and_shared(bed: &Bed) {
    for _ in 0..3 {
        bed.submit_n(1).await;
        bed.pass_seconds(7);
        let held = bed.lease_one().await;
        bed.held(&held, complete()).await.unwrap();
    }
    assert_eq!(bed.store.save_learned(bed.now()).await.unwrap(), 3, "of the type, the waits and the runs");
    assert_eq!(bed.store.save_learned(bed.now()).await.unwrap(), 0, "nothing new");
    let kept = bed.rows("SELECT samples FROM learned WHERE what = 'type'").await;
    assert_eq!(kept[0].text(0).unwrap(), "7 7 7");

    for node in nodes(bed).await.iter().skip(1) {
        assert_eq!(node.estimate(bed.tenant, "report.generate", bed.now()).await, 7);
        for _ in 0..4 {
            bed.submit_n(1).await;
            bed.pass_seconds(2);
            let held = node.lease(bed.wish(1), bed.now()).await.unwrap().remove(0).job;
            let done = ringback::store::JobChange {
                id: held.job_id,
                tenant: None,
                right: ringback::store::Right::Lease(held.lease_token),
                what: complete(),
            };
            node.change(vec![done], bed.now()).await.unwrap().remove(0).unwrap();
        }
        node.save_learned(bed.now()).await.unwrap();
        bed.pass_seconds(10);
        assert_eq!(bed.store.estimate(bed.tenant, "report.generate", bed.now()).await, 2, "of seven, four");
        node.close().await;
    }
    bed.pass_seconds(31 * 86_400);
    bed.retain(Store::BITE).await.unwrap();
    assert_eq!(bed.count("learned").await, 0, "nobody asks any more");
}

#[tokio::test]
async fn queues_are_listed_by_name_whatever_the_order_of_the_database() {
    let Some(url) = english_database().await else { return };
    let bed = &Bed::on(url, None).await;
    let order = bed.rows("SELECT CAST(CASE WHEN 'a' < 'B' THEN 1 ELSE 0 END AS BIGINT)").await;
    assert_eq!(order[0].int(0).unwrap(), 1, "it is not that of bytes");
    for name in ["b", "B"] {
        bed.submit(bed.job_with(|j| j.queue = name.to_owned())).await;
    }
    for name in ["a", "A"] {
        bed.store.set_queue(bed.tenant, name, limit(3)).await.unwrap();
    }
    let (mut after, mut seen) = (String::new(), Vec::new());
    while let Some(queue) = bed.store.queues(bed.tenant, None, &after, 1, bed.now()).await.unwrap().pop() {
        after = queue.queue;
        seen.push(after.clone());
        assert!(seen.len() < 9, "{seen:?}");
    }
    assert_eq!(seen, ["A", "B", "a", "b"]);
}
