//! Dead letters: filters, discarding, redrives.

use std::time::Duration;

use ringback::store::{DeliveryFilter, Error, Narrow, PageOf, ReplayOf};
use ringback::types::api::ReplayFilter;
use ringback::types::delivery::{DeadReason, DeliveryState, Verdict};
use ringback::types::{DeliveryId, JobId, Millis};

use crate::support::store::{Bed, attempted, both_stores, callback, complete, open, page};

both_stores! {
    letters_are_found_by_every_filter,
    a_discarded_letter_is_gone_and_its_delivery_stays_dead,
    a_redrive_queues_what_matches,
    a_redrive_keeps_its_rate,
    a_redrive_may_be_cancelled,
    a_redrive_survives_a_restart,
    letters_that_die_again_are_not_sent_by_the_same_redrive,
    a_redrive_leaves_alone_what_others_took,
}

/// A job whose callback died.
async fn dead(bed: &Bed, host: &str, reason: DeadReason) -> (JobId, DeliveryId) {
    let new = bed.job_with(|j| j.callback = Some(callback(&format!("https://{host}/a"))));
    let id = bed.submit(new).await.job.id;
    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    (id, bed.deliver(500, Verdict::Dead(reason)).await.id)
}

async fn die(bed: &Bed, n: usize) {
    for _ in 0..n {
        bed.submit(bed.called_back()).await;
    }
    for held in bed.lease(500).await {
        bed.held(&held, complete()).await.unwrap();
    }
    for sent in bed.claim().await {
        assert!(bed.record(attempted(&sent, 500, Verdict::Dead(DeadReason::Exhausted))).await);
    }
}

async fn letters_are_found_by_every_filter(bed: &Bed) {
    let (_, one) = dead(bed, "a.example.com", DeadReason::Gone).await;
    bed.pass_seconds(10);
    let (job, two) = dead(bed, "b.example.com", DeadReason::Exhausted).await;
    let find = async |change: &dyn Fn(&mut ReplayFilter)| {
        let mut filter = ReplayFilter::default();
        change(&mut filter);
        let got =
            bed.store.dead_letters(bed.tenant, &filter, &Narrow::default(), page(200)).await.unwrap().rows;
        let n = bed.store.count_matching(bed.tenant, ReplayOf::Letters, &filter).await.unwrap().count;
        assert_eq!(n, got.len() as u64);
        got.into_iter().map(|l| l.delivery_id).collect::<Vec<_>>()
    };
    let both = if one > two { [one, two] } else { [two, one] };
    assert_eq!(find(&|_| {}).await, both, "newest first");
    assert_eq!(find(&|f| f.ids = Some(vec![two])).await, [two]);
    assert_eq!(find(&|f| f.ids = Some(vec![])).await, []);
    assert_eq!(find(&|f| f.ids = Some(vec![one, two])).await, both);
    assert_eq!(find(&|f| f.job_id = Some(job)).await, [two]);
    assert_eq!(find(&|f| f.host = Some("a.example.com".to_owned())).await, [one]);
    assert_eq!(find(&|f| f.reason = Some("gone".to_owned())).await, [one]);
    assert_eq!(find(&|f| f.reason = Some("status 500".to_owned())).await, both, "its last error");
    assert_eq!(find(&|f| f.kind = Some("job.completed".to_owned())).await, both);
    assert_eq!(find(&|f| f.kind = Some("job.failed".to_owned())).await, []);
    assert_eq!(find(&|f| f.since = Some(bed.now())).await, [two]);
    assert_eq!(find(&|f| f.until = Some(bed.now())).await, [one]);
    assert_eq!(find(&|f| f.account = Some("a".to_owned())).await, []);
    assert_eq!(find(&|f| f.endpoint_id = Some(bed.dice.id(bed.now()))).await, []);
    let at = PageOf { after: Some(both[0]), limit: 1 };
    let rest = bed
        .store
        .dead_letters(bed.tenant, &ReplayFilter::default(), &Narrow::default(), at)
        .await
        .unwrap()
        .rows;
    assert_eq!(rest[0].delivery_id, both[1]);
}

async fn a_discarded_letter_is_gone_and_its_delivery_stays_dead(bed: &Bed) {
    let (_, id) = dead(bed, "a.example.com", DeadReason::Gone).await;
    bed.store.discard(bed.tenant, id, bed.now()).await.unwrap();
    assert!(matches!(bed.store.discard(bed.tenant, id, bed.now()).await, Err(Error::NotFound)));
    assert!(matches!(bed.store.dead_letter(bed.tenant, id).await, Err(Error::NotFound)));
    let told = bed.store.delivery(bed.tenant, id, bed.now()).await.unwrap();
    assert_eq!(told.state, DeliveryState::Dead);
    bed.sound().await;
    let again = bed.store.retry_delivery(bed.tenant, id, bed.now()).await.unwrap();
    assert_eq!(again.state, DeliveryState::Pending, "it may still be sent again");
    bed.deliver(500, Verdict::Dead(DeadReason::Exhausted)).await;
    assert_eq!(bed.store.dead_letter(bed.tenant, id).await.unwrap().attempts, 2, "and die again");
}

async fn a_redrive_queues_what_matches(bed: &Bed) {
    die(bed, 250).await;
    let (_, other) = dead(bed, "b.example.com", DeadReason::Gone).await;
    bed.pass_seconds(1);
    let filter = ReplayFilter { host: Some("hooks.example.com".to_owned()), ..ReplayFilter::default() };
    let begun =
        bed.store.start_redrive(bed.tenant, (ReplayOf::Letters, &filter), None, bed.now()).await.unwrap();
    assert_eq!((begun.state.as_str(), begun.matched, begun.redriven), ("running", 250, 0));
    let mut steps = 0;
    while bed.store.step_redrive(bed.now()).await.unwrap() {
        steps += 1;
        assert!(steps < 5);
    }
    assert_eq!(steps, 2, "in bounded steps");
    let done = bed.store.redrive(bed.tenant, begun.redrive_id).await.unwrap();
    assert_eq!((done.state.as_str(), done.redriven, done.ended_at), ("done", 250, Some(bed.now())));
    let left = bed
        .store
        .dead_letters(bed.tenant, &ReplayFilter::default(), &Narrow::default(), page(9))
        .await
        .unwrap()
        .rows;
    assert_eq!(left.iter().map(|l| l.delivery_id).collect::<Vec<_>>(), [other]);
    let sent = bed.claim().await;
    assert_eq!((sent.len(), sent[0].number, sent[0].used), (250, 2, 0));
    assert_eq!(bed.store.redrives(bed.tenant, None, page(9)).await.unwrap().len(), 1);
}

async fn a_redrive_keeps_its_rate(bed: &Bed) {
    die(bed, 5).await;
    bed.store
        .start_redrive(bed.tenant, (ReplayOf::Letters, &ReplayFilter::default()), Some(2), bed.now())
        .await
        .unwrap();
    let mut queued = Vec::new();
    for _ in 0..3 {
        while bed.store.step_redrive(bed.now()).await.unwrap() {}
        queued.push(bed.count("delivery_queue").await);
        bed.pass_seconds(1);
    }
    assert_eq!(queued, [1, 3, 5], "two a second");
}

async fn a_redrive_may_be_cancelled(bed: &Bed) {
    die(bed, 3).await;
    let begun = bed
        .store
        .start_redrive(bed.tenant, (ReplayOf::Letters, &ReplayFilter::default()), Some(1), bed.now())
        .await
        .unwrap();
    assert!(bed.store.step_redrive(bed.now()).await.unwrap());
    let ended = bed.store.cancel_redrive(bed.tenant, begun.redrive_id, bed.now()).await.unwrap();
    assert_eq!((ended.state.as_str(), ended.redriven), ("cancelled", 1));
    bed.pass_seconds(60);
    assert!(!bed.store.step_redrive(bed.now()).await.unwrap());
    assert_eq!(bed.count("delivery_queue").await, 1, "what it queued stays queued");
    let again = bed.store.cancel_redrive(bed.tenant, begun.redrive_id, bed.now()).await.unwrap();
    assert_eq!((again.state.as_str(), again.ended_at), ("cancelled", ended.ended_at));
}

async fn a_redrive_survives_a_restart(bed: &Bed) {
    die(bed, 3).await;
    let begun = bed
        .store
        .start_redrive(bed.tenant, (ReplayOf::Letters, &ReplayFilter::default()), Some(1), bed.now())
        .await
        .unwrap();
    assert!(bed.store.step_redrive(bed.now()).await.unwrap());
    bed.store.close().await;
    let reopened = open(&bed.url, 5).await.unwrap();
    for _ in 0..3 {
        bed.pass_seconds(1);
        reopened.step_redrive(bed.now()).await.unwrap();
    }
    let done = reopened.redrive(bed.tenant, begun.redrive_id).await.unwrap();
    assert_eq!((done.state.as_str(), done.redriven), ("done", 3));
    let owed = DeliveryFilter { state: Some(DeliveryState::Pending), ..DeliveryFilter::default() };
    assert_eq!(reopened.deliveries(bed.tenant, &owed, page(9), bed.now()).await.unwrap().rows.len(), 3);
    for finding in ringback::store::check(&bed.url).await.unwrap() {
        assert!(finding.broken.is_empty(), "{finding:?}");
    }
    bed.spoil(); // the store of this bed is closed
}

async fn letters_that_die_again_are_not_sent_by_the_same_redrive(bed: &Bed) {
    die(bed, 4).await;
    let begun = bed
        .store
        .start_redrive(bed.tenant, (ReplayOf::Letters, &ReplayFilter::default()), Some(1), bed.now())
        .await
        .unwrap();
    for _ in 0..20 {
        bed.store.step_redrive(bed.now()).await.unwrap();
        for sent in bed.claim().await {
            bed.record(attempted(&sent, 500, Verdict::Dead(DeadReason::Exhausted))).await;
        }
        bed.pass(Duration::from_millis(500));
    }
    let done = bed.store.redrive(bed.tenant, begun.redrive_id).await.unwrap();
    assert_eq!((done.state.as_str(), done.redriven), ("done", 4));
    assert_eq!(bed.count("attempts").await, 8, "each letter was sent once more");
    assert_eq!(bed.count("dead_letters").await, 4);
}

async fn a_redrive_leaves_alone_what_others_took(bed: &Bed) {
    die(bed, 3).await;
    let letters = bed
        .store
        .dead_letters(bed.tenant, &ReplayFilter::default(), &Narrow::default(), page(9))
        .await
        .unwrap()
        .rows;
    let ids: Vec<DeliveryId> = letters.into_iter().map(|l| l.delivery_id).collect();
    bed.store
        .start_redrive(bed.tenant, (ReplayOf::Letters, &ReplayFilter::default()), None, bed.now())
        .await
        .unwrap();
    bed.store.discard(bed.tenant, ids[0], bed.now()).await.unwrap();
    bed.store.retry_delivery(bed.tenant, ids[1], bed.now()).await.unwrap();
    while bed.store.step_redrive(bed.now()).await.unwrap() {}
    assert_eq!(bed.count("delivery_queue").await, 2);
    let told = bed.store.delivery(bed.tenant, ids[0], bed.now()).await.unwrap();
    assert_eq!(told.state, DeliveryState::Dead);
    assert_eq!(bed.store.next_due(Millis(0), bed.now()).await.unwrap(), Some(bed.now()));
}
