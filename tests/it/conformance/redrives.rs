//! Replays of deliveries that have ended, and which dead letters belong together.

use futures_util::future::join_all;
use ringback::store::db::Engine;
use ringback::store::{Error, Narrow, OutageFilter, PageOf, ReplayOf, Store};
use ringback::types::api::ReplayFilter;
use ringback::types::delivery::{DeadReason, DeliveryState, Verdict};
use ringback::types::endpoint::Endpoint;
use ringback::types::outage::outages;
use ringback::types::{DeliveryId, Millis};

use super::endpoints::{change, endpoint};
use crate::support::store::{Bed, both_stores, callback, complete};

both_stores! {
    deliveries_are_matched_by_state_error_and_time,
    a_replay_takes_what_was_delivered_before_it_and_each_once,
    a_replay_leaves_alone_what_changed_meanwhile,
    letters_are_told_by_receiver_error_and_time,
    an_outage_of_callbacks_leaves_endpoints_at_the_same_host_alone,
    what_went_to_a_deleted_endpoint_stays_a_letter,
    a_lane_made_anew_for_a_deleted_endpoint_is_forgotten,
    a_redrive_that_fails_keeps_back_no_other,
    a_step_looks_at_so_many_however_few_match,
    what_came_after_a_replays_end_is_not_looked_at,
    of_very_many_the_newest_are_counted,
    one_look_at_the_letters_ends_somewhere_and_the_next_goes_on,
    so_many_redrives_of_a_tenant_run_at_once,
    tenants_take_turns_and_what_has_a_rate_goes_before_what_has_none,
}

/// A callback to that host that has ended so.
async fn ended(bed: &Bed, host: &str, status: u16, verdict: Verdict) -> DeliveryId {
    let new = bed.job_with(|j| j.callback = Some(callback(&format!("https://{host}/a"))));
    let id = bed.submit(new).await.job.id;
    let held = bed.lease(500).await.into_iter().find(|j| j.job_id == id).unwrap();
    bed.held(&held, complete()).await.unwrap();
    bed.deliver(status, verdict).await.id
}

/// Before anything that a test makes.
const LONG_AGO: Millis = Millis(1);

fn only(change: impl FnOnce(&mut ReplayFilter)) -> ReplayFilter {
    let mut filter = ReplayFilter::default();
    change(&mut filter);
    filter
}

async fn deliveries_are_matched_by_state_error_and_time(bed: &Bed) {
    let dead = Verdict::Dead(DeadReason::Gone);
    ended(bed, "a.example.com", 410, dead).await;
    bed.pass_seconds(10);
    ended(bed, "a.example.com", 200, Verdict::Delivered).await;
    let first = bed.now();
    bed.pass_seconds(10);
    ended(bed, "b.example.com", 204, Verdict::Delivered).await;
    let count = async |filter: ReplayFilter| {
        bed.store.count_matching(bed.tenant, ReplayOf::Deliveries, &filter).await.unwrap().count
    };
    let in_state = |state| only(|f| f.state = Some(state));
    let delivered = || in_state(DeliveryState::Delivered);
    assert_eq!(count(ReplayFilter::default()).await, 1, "dead ones");
    assert_eq!(count(in_state(DeliveryState::Dead)).await, 1);
    assert_eq!(count(delivered()).await, 2);
    assert_eq!(count(in_state(DeliveryState::Cancelled)).await, 0);
    assert_eq!(count(in_state(DeliveryState::Pending)).await, 0);
    assert_eq!(count(ReplayFilter { host: Some("b.example.com".to_owned()), ..delivered() }).await, 1);
    assert_eq!(count(ReplayFilter { since: Some(Millis(first.0 + 1)), ..delivered() }).await, 1);
    assert_eq!(count(ReplayFilter { until: Some(first), ..delivered() }).await, 0);
    assert_eq!(count(ReplayFilter { until: Some(Millis(first.0 + 1)), ..delivered() }).await, 1);
    for (reason, n) in [("gone", 1), ("status 410", 1), ("exhausted", 0)] {
        assert_eq!(count(only(|f| f.reason = Some(reason.to_owned()))).await, n, "{reason}");
    }
    let two = bed.store.tenant("two", bed.now()).await.unwrap();
    assert_eq!(bed.store.count_matching(two, ReplayOf::Deliveries, &delivered()).await.unwrap().count, 0);
}

async fn a_replay_takes_what_was_delivered_before_it_and_each_once(bed: &Bed) {
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(ended(bed, "a.example.com", 200, Verdict::Delivered).await);
    }
    ids.sort();
    bed.pass_seconds(1);
    let filter = only(|f| f.state = Some(DeliveryState::Delivered));
    let begun =
        bed.store.start_redrive(bed.tenant, (ReplayOf::Deliveries, &filter), Some(5), bed.now()).await;
    let begun = begun.unwrap();
    assert_eq!((begun.of.as_str(), begun.matched), ("deliveries", 3));
    let mut sent = Vec::new();
    for _ in 0..50 {
        if !bed.store.step_redrive(bed.now()).await.unwrap() {
            bed.pass_seconds(1);
            if bed.store.redrive(bed.tenant, begun.redrive_id).await.unwrap().state == "done" {
                break;
            }
            continue;
        }
        for d in bed.claim().await {
            assert_eq!(d.number, 2, "the same delivery");
            let done = crate::support::store::attempted(&d, 200, Verdict::Delivered);
            assert!(bed.record(done).await);
            sent.push(d.id);
        }
    }
    assert_eq!(sent, ids, "each once, the oldest first");
    let done = bed.store.redrive(bed.tenant, begun.redrive_id).await.unwrap();
    assert_eq!((done.state.as_str(), done.redriven), ("done", 3));
}

async fn a_replay_leaves_alone_what_changed_meanwhile(bed: &Bed) {
    let id = ended(bed, "a.example.com", 200, Verdict::Delivered).await;
    let filter = only(|f| f.state = Some(DeliveryState::Delivered));
    let of = (ReplayOf::Deliveries, &filter);
    let begun = bed.store.start_redrive(bed.tenant, of, None, bed.now()).await.unwrap();
    bed.store.retry_delivery(bed.tenant, id, bed.now()).await.unwrap();
    while bed.store.step_redrive(bed.now()).await.unwrap() {}
    let done = bed.store.redrive(bed.tenant, begun.redrive_id).await.unwrap();
    assert_eq!((done.state.as_str(), done.matched, done.redriven), ("done", 1, 0));
    assert_eq!(bed.count("delivery_queue").await, 1, "it is owed once");
}

async fn letters_are_told_by_receiver_error_and_time(bed: &Bed) {
    let dead = Verdict::Dead(DeadReason::Exhausted);
    for (host, status) in [("a.example.com", 500), ("a.example.com", 503), ("b.example.com", 500)] {
        ended(bed, host, status, dead).await;
        bed.pass_seconds(60);
    }
    bed.pass_seconds(3_600);
    ended(bed, "a.example.com", 500, dead).await;
    let find = async |filter: OutageFilter| {
        let spans = bed.store.letter_spans(bed.tenant, &filter, &Narrow::default()).await.unwrap();
        outages(spans)
    };
    let all = find(OutageFilter::default()).await;
    let told: Vec<_> = all.iter().map(|o| (o.host.as_str(), o.letters)).collect();
    assert_eq!(told, [("a.example.com", 1), ("b.example.com", 1), ("a.example.com", 2)]);
    for outage in &all {
        let n = bed.store.count_matching(bed.tenant, ReplayOf::Letters, &outage.filter).await.unwrap().count;
        assert_eq!(n, outage.letters, "its filter is of exactly these: {outage:?}");
    }
    assert_eq!(
        find(OutageFilter { host: Some("b.example.com".to_owned()), ..Default::default() }).await.len(),
        1
    );
    assert_eq!(find(OutageFilter { since: Some(bed.now()), ..Default::default() }).await.len(), 1);
    assert_eq!(find(OutageFilter { until: Some(bed.now()), ..Default::default() }).await.len(), 2);
    let narrowed = Narrow { queues: Some(vec!["other".to_owned()]), accounts: None };
    assert!(
        bed.store.letter_spans(bed.tenant, &OutageFilter::default(), &narrowed).await.unwrap().is_empty()
    );
    let two = bed.store.tenant("two", bed.now()).await.unwrap();
    assert!(
        bed.store.letter_spans(two, &OutageFilter::default(), &Narrow::default()).await.unwrap().is_empty()
    );
}

/// An endpoint with a dead letter.
async fn with_letter(bed: &Bed) -> (Endpoint, DeliveryId) {
    let there = endpoint(bed, serde_json::json!({"events": ["job.queued"]})).await;
    bed.submit_n(1).await;
    let letter = bed.deliver(500, Verdict::Dead(DeadReason::Exhausted)).await.id;
    (there, letter)
}

async fn what_went_to_a_deleted_endpoint_stays_a_letter(bed: &Bed) {
    let (there, letter) = with_letter(bed).await;
    bed.store.delete_endpoint(bed.tenant, there.id, bed.now()).await.unwrap();
    bed.lease(9).await;
    ended(bed, "a.example.com", 500, Verdict::Dead(DeadReason::Exhausted)).await;
    let retried = bed.store.retry_delivery(bed.tenant, letter, bed.now()).await;
    assert!(matches!(retried, Err(Error::NotRetryable)), "{retried:?}");
    for of in [ReplayOf::Letters, ReplayOf::Deliveries] {
        let filter = only(|f| f.ids = Some(vec![letter]));
        let begun = bed.store.start_redrive(bed.tenant, (of, &filter), None, bed.now()).await.unwrap();
        while bed.store.step_redrive(bed.now()).await.unwrap() {}
        let done = bed.store.redrive(bed.tenant, begun.redrive_id).await.unwrap();
        assert_eq!(
            (done.state.as_str(), done.matched, done.redriven, done.skipped),
            ("done", 1, 0, 1),
            "{of:?}"
        );
    }
    assert_eq!((bed.count("dead_letters").await, bed.count("delivery_queue").await), (2, 0));
    let of = (ReplayOf::Letters, &ReplayFilter::default());
    let begun = bed.store.start_redrive(bed.tenant, of, None, bed.now()).await.unwrap();
    while bed.store.step_redrive(bed.now()).await.unwrap() {}
    let done = bed.store.redrive(bed.tenant, begun.redrive_id).await.unwrap();
    assert_eq!((done.matched, done.redriven, done.skipped), (2, 1, 1), "it keeps no other back");
    assert_eq!((bed.count("dead_letters").await, bed.count("delivery_queue").await), (1, 1));
}

async fn a_lane_made_anew_for_a_deleted_endpoint_is_forgotten(bed: &Bed) {
    let (there, letter) = with_letter(bed).await;
    bed.store.delete_endpoint(bed.tenant, there.id, bed.now()).await.unwrap();
    bed.pass_seconds(86_400);
    bed.store.step_drains(bed.now()).await.unwrap();
    assert_eq!((bed.count("endpoints").await, bed.count("lanes").await), (0, 0));
    // A node that had read what was due before makes it anew.
    bed.store.own_lanes(bed.node, &[(there.lane(), letter)], bed.now()).await.unwrap();
    assert_eq!(bed.count("lanes").await, 1);
    bed.pass_seconds(8 * 24 * 3_600);
    while bed.retain(Store::BITE).await.unwrap() > 0 {}
    assert_eq!(bed.count("lanes").await, 0);
}

async fn a_redrive_that_fails_keeps_back_no_other(bed: &Bed) {
    ended(bed, "a.example.com", 500, Verdict::Dead(DeadReason::Exhausted)).await;
    let of = (ReplayOf::Letters, &ReplayFilter::default());
    let broken = bed.store.start_redrive(bed.tenant, of, None, bed.now()).await.unwrap().redrive_id;
    bed.pass_seconds(1);
    let sound = bed.store.start_redrive(bed.tenant, of, None, bed.now()).await.unwrap().redrive_id;
    let filter = async |text: &str| {
        let which = bed.literal(broken.uuid());
        bed.rows(&format!("UPDATE redrives SET filter = '{text}' WHERE id = {which}")).await;
    };
    filter("broken").await;
    while bed.store.step_redrive(bed.now()).await.unwrap() {}
    let told = async |id| bed.store.redrive(bed.tenant, id).await.unwrap();
    assert_eq!((told(sound).await.state.as_str(), told(sound).await.redriven), ("done", 1));
    assert_eq!(told(broken).await.state, "running");
    filter("{}").await;
    assert!(!bed.store.step_redrive(bed.now()).await.unwrap(), "it is put off");
    bed.pass_seconds(5);
    while bed.store.step_redrive(bed.now()).await.unwrap() {}
    assert_eq!(told(broken).await.state, "done", "and goes on once it can");
}

/// Letters without their deliveries, made and given up at that time.
async fn plant(bed: &Bed, n: u32, at: Millis) {
    bed.spoil();
    let made = format!("{:012x}", at.0);
    let id = match bed.engine() {
        Engine::Sqlite => format!("unhex('{made}' || printf('%020x', n))"),
        Engine::Postgres => format!("CAST('{made}' || lpad(to_hex(n), 20, '0') AS UUID)"),
    };
    let at = at.0;
    let tenant = bed.literal(bed.tenant.uuid());
    bed.rows(&format!(
        "INSERT INTO dead_letters (delivery_id, tenant_id, event_kind, url, host, reason, attempts, died_at)
         WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {n})
         SELECT {id}, {tenant}, 'x', 'https://old.example.com/', 'old.example.com', 'gone', 1, {at} FROM c"
    ))
    .await;
}

async fn a_step_looks_at_so_many_however_few_match(bed: &Bed) {
    plant(bed, 10_000, LONG_AGO).await;
    ended(bed, "a.example.com", 500, Verdict::Dead(DeadReason::Exhausted)).await;
    let filter = only(|f| f.host = Some("a.example.com".to_owned()));
    let begun = bed.store.start_redrive(bed.tenant, (ReplayOf::Letters, &filter), None, bed.now()).await;
    let begun = begun.unwrap();
    assert_eq!((begun.matched, begun.at_least), (1, false));
    for (state, redriven) in [("running", 0), ("done", 1)] {
        assert!(bed.store.step_redrive(bed.now()).await.unwrap());
        let seen = bed.store.redrive(bed.tenant, begun.redrive_id).await.unwrap();
        assert_eq!((seen.state.as_str(), seen.redriven), (state, redriven));
    }
}

async fn what_came_after_a_replays_end_is_not_looked_at(bed: &Bed) {
    ended(bed, "a.example.com", 500, Verdict::Dead(DeadReason::Exhausted)).await;
    bed.pass_seconds(1);
    let until = bed.now();
    bed.pass_seconds(1);
    plant(bed, 100_000, bed.now()).await;
    let filter = only(|f| f.until = Some(until));
    let started = bed.store.start_redrive(bed.tenant, (ReplayOf::Letters, &filter), None, bed.now()).await;
    let started = started.unwrap();
    assert_eq!((started.matched, started.at_least), (1, false));
    assert!(bed.store.step_redrive(bed.now()).await.unwrap());
    let seen = bed.store.redrive(bed.tenant, started.redrive_id).await.unwrap();
    assert_eq!((seen.state.as_str(), seen.redriven), ("done", 1), "in one step");
}

async fn of_very_many_the_newest_are_counted(bed: &Bed) {
    plant(bed, 100_000, LONG_AGO).await;
    let id = ended(bed, "a.example.com", 500, Verdict::Dead(DeadReason::Exhausted)).await;
    let count = async |filter: ReplayFilter| {
        let found = bed.store.count_matching(bed.tenant, ReplayOf::Letters, &filter).await.unwrap();
        (found.count, found.at_least)
    };
    assert_eq!(count(ReplayFilter::default()).await, (100_000, true));
    assert_eq!(count(only(|f| f.host = Some("a.example.com".to_owned()))).await, (1, true));
    assert_eq!(count(only(|f| f.ids = Some(vec![id]))).await, (1, false), "found without a search");
    let job = bed.store.dead_letter(bed.tenant, id).await.unwrap().job_id;
    assert!(job.is_some());
    assert_eq!(count(only(|f| f.job_id = job)).await, (1, false), "and so are a job's");
    let spans =
        bed.store.letter_spans(bed.tenant, &OutageFilter::default(), &Narrow::default()).await.unwrap();
    assert_eq!(spans.iter().map(|span| span.letters).sum::<u64>(), 100_000, "the newest make the outages");
}

async fn one_look_at_the_letters_ends_somewhere_and_the_next_goes_on(bed: &Bed) {
    plant(bed, 4_500, LONG_AGO).await;
    ended(bed, "a.example.com", 500, Verdict::Dead(DeadReason::Exhausted)).await;
    for (host, found) in
        [("a.example.com", &[1, 0, 0][..]), ("nowhere.example.com", &[0, 0, 0]), ("old.example.com", &[9])]
    {
        let filter = only(|f| f.host = Some(host.to_owned()));
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let at = PageOf { after, limit: 9 };
            let look = bed.store.dead_letters(bed.tenant, &filter, &Narrow::default(), at).await.unwrap();
            seen.push(look.rows.len());
            match look.looked_to {
                Some(end) => after = Some(end),
                None => break,
            }
        }
        assert_eq!(seen, found, "{host}");
    }
}

async fn tenants_take_turns_and_what_has_a_rate_goes_before_what_has_none(bed: &Bed) {
    plant(bed, 2_000, LONG_AGO).await;
    let two = bed.store.tenant("two", bed.now()).await.unwrap();
    let start = async |tenant, rate| {
        let of = (ReplayOf::Letters, &ReplayFilter::default());
        bed.store.start_redrive(tenant, of, rate, bed.now()).await.unwrap().redrive_id
    };
    let all = start(bed.tenant, None).await;
    let (at_a_rate, others) = (start(bed.tenant, Some(5)).await, start(two, None).await);
    bed.pass_seconds(1);
    for _ in 0..2 {
        assert!(bed.store.step_redrive(bed.now()).await.unwrap());
    }
    assert_eq!(bed.store.redrive(two, others).await.unwrap().state, "done", "it had nothing to do");
    for _ in 0..5 {
        assert!(bed.store.step_redrive(bed.now()).await.unwrap());
    }
    let skipped = async |id| bed.store.redrive(bed.tenant, id).await.unwrap().skipped;
    assert_eq!(
        (skipped(at_a_rate).await, skipped(all).await),
        (5, 200),
        "a second's five go before the others' next"
    );
}

async fn an_outage_of_callbacks_leaves_endpoints_at_the_same_host_alone(bed: &Bed) {
    let (there, _) = with_letter(bed).await;
    bed.lease(9).await;
    change(bed, there.id, serde_json::json!({"events": []})).await;
    ended(bed, "standing.example.com", 500, Verdict::Dead(DeadReason::Exhausted)).await;
    let spans =
        bed.store.letter_spans(bed.tenant, &OutageFilter::default(), &Narrow::default()).await.unwrap();
    let found = outages(spans);
    let told: Vec<_> = found.iter().map(|o| (o.host.as_str(), o.letters, o.endpoint_id.is_some())).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told.iter().all(|(host, letters, _)| (*host, *letters) == ("standing.example.com", 1)),
        "{told:?}"
    );
    for outage in &found {
        for of in [ReplayOf::Letters, ReplayOf::Deliveries] {
            let n = bed.store.count_matching(bed.tenant, of, &outage.filter).await.unwrap().count;
            assert_eq!(n, 1, "{of:?} of {:?}", outage.filter);
        }
    }
    let standing = only(|f| f.ad_hoc = Some(false));
    assert_eq!(bed.store.count_matching(bed.tenant, ReplayOf::Letters, &standing).await.unwrap().count, 1);
}

async fn so_many_redrives_of_a_tenant_run_at_once(bed: &Bed) {
    let filter = ReplayFilter::default();
    let start =
        async |tenant| bed.store.start_redrive(tenant, (ReplayOf::Letters, &filter), None, bed.now()).await;
    let first = start(bed.tenant).await.unwrap();
    for _ in 2..100 {
        start(bed.tenant).await.unwrap();
    }
    let last = join_all((0..8).map(|_| start(bed.tenant))).await;
    assert_eq!(last.iter().flatten().count(), 1, "of those that ask at once");
    let refused = |one: &Result<_, _>| matches!(one, Err(Error::TooManyRedrives(100)));
    assert_eq!(last.iter().filter(|one| refused(one)).count(), 7);
    let other = bed.store.tenant("other", bed.now()).await.unwrap();
    start(other).await.unwrap();
    bed.store.cancel_redrive(bed.tenant, first.redrive_id, bed.now()).await.unwrap();
    start(bed.tenant).await.unwrap();
    assert!(start(bed.tenant).await.is_err());
    while bed.store.step_redrive(bed.now()).await.unwrap() {}
    start(bed.tenant).await.unwrap();
}
