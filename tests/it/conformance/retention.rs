//! What is past its retention goes, and nothing else.

use std::time::Duration;

use ringback::clock::Clock;
use ringback::store::{DeliveryFilter, Error, ReplayOf, Store, What};
use ringback::sweep::Sweep;
use ringback::types::delivery::{DeadReason, Verdict};
use ringback::types::id::NodeId;
use ringback::types::job::NewJob;
use ringback::types::{JobId, Millis};
use ringback::wake::Wake;

use super::endpoints::endpoint;
use crate::support::store::{Bed, both_stores, callback, complete, failure, heartbeat, page};

const DAY: u64 = 86_400;

both_stores! {
    an_ended_job_is_purged_then_forgotten,
    owed_jobs_stay_however_old,
    a_job_that_a_dead_letter_needs_stays_with_it,
    a_job_goes_soon_after_its_last_delivery,
    what_stays_owed_is_looked_at_ever_less_often,
    more_than_one_bite_spares_what_is_needed,
    what_is_needed_is_found_among_many_that_pass,
    a_kept_job_keeps_its_callback_state,
    a_retried_job_is_not_purged,
    a_job_of_many_events_goes_step_by_step_and_the_feed_keeps_them_empty,
    of_what_is_needed_no_event_is_emptied,
    what_cannot_be_removed_keeps_nothing_else,
    what_is_past_its_time_is_gone_before_the_sweep_comes,
    a_lane_is_forgotten_a_week_after_its_last_use,
    quiet_endpoints_keep_no_other_lane,
    redrives_and_secrets_go_bite_by_bite_a_month_after_their_end,
}

/// Bites until nothing is left to remove; gives how many rows went.
pub(super) async fn retain(bed: &Bed) -> u64 {
    let mut gone = 0;
    loop {
        match bed.retain(Store::BITE).await.unwrap() {
            0 => return gone,
            n => gone += n,
        }
        bed.sound().await;
    }
}

async fn an_ended_job_is_purged_then_forgotten(bed: &Bed) {
    let id = bed.completed().await.id;
    let sent = bed.deliver(200, Verdict::Delivered).await;
    bed.pass(Duration::from_secs(7 * DAY) - Duration::from_millis(1));
    assert_eq!(retain(bed).await, 0);
    bed.pass(Duration::from_millis(1));
    assert!(retain(bed).await > 0);
    assert!(matches!(bed.store.job(bed.tenant, id, bed.now()).await, Err(Error::Expired)));
    assert!(matches!(bed.store.job_result(bed.tenant, id, bed.now()).await, Err(Error::Expired)));
    assert!(matches!(bed.store.job_events(bed.tenant, id, 0, 9, bed.now()).await, Err(Error::Expired)));
    assert!(matches!(bed.owner(id, What::Retry).await, Err(Error::Expired)));
    assert!(
        bed.store.jobs(bed.tenant, &Default::default(), page(9), bed.now()).await.unwrap().rows.is_empty()
    );
    let gone = bed.store.delivery(bed.tenant, sent.id, bed.now()).await;
    assert!(matches!(gone, Err(Error::NotFound)), "{gone:?}");
    for table in ["deliveries", "bodies", "attempts", "events"] {
        assert_eq!(bed.count(table).await, 0, "{table}");
    }
    assert_eq!(bed.count("jobs WHERE input IS NULL AND result IS NULL").await, 1, "a stub remains");
    bed.pass_seconds(31 * DAY);
    retain(bed).await;
    assert!(matches!(bed.store.job(bed.tenant, id, bed.now()).await, Err(Error::NotFound)));
    assert_eq!(bed.count("jobs").await, 0);
}

async fn owed_jobs_stay_however_old(bed: &Bed) {
    let new = bed.job_with(|j| {
        j.idempotency = Some(crate::support::store::key("/v1/jobs", "k", 1));
        j.retain_seconds = 60;
    });
    let id = bed.submit(new).await.job.id;
    let owed = bed.completed().await.id;
    bed.pass_seconds(400 * DAY);
    assert_eq!(retain(bed).await, 2, "the job with an owed callback and the owed job's key are put off");
    assert_eq!(bed.count("idempotency").await, 1);
    assert_eq!(bed.get(owed).await.callback_state.as_str(), "pending");
    let held = bed.lease_one().await;
    assert_eq!(held.job_id, id);
    bed.held(&held, complete()).await.unwrap();
    bed.deliver(200, Verdict::Delivered).await;
    bed.pass_seconds(61);
    retain(bed).await;
    assert!(matches!(bed.store.job(bed.tenant, id, bed.now()).await, Err(Error::Expired)), "retainSeconds");
    bed.pass_seconds(3_600);
    retain(bed).await;
    assert_eq!(bed.count("idempotency").await, 0);
}

async fn a_job_that_a_dead_letter_needs_stays_with_it(bed: &Bed) {
    let id = bed.completed().await.id;
    let letter = bed.deliver(500, Verdict::Dead(DeadReason::Exhausted)).await.id;
    bed.pass_seconds(29 * DAY);
    retain(bed).await;
    assert_eq!(bed.get(id).await.callback_state.as_str(), "dead");
    let result = bed.store.job_result(bed.tenant, id, bed.now()).await.unwrap();
    assert!(result.bytes.is_some(), "the letter refers to it");
    assert!(bed.store.dead_letter(bed.tenant, letter).await.is_ok());
    bed.pass_seconds(DAY);
    retain(bed).await;
    assert!(matches!(bed.store.dead_letter(bed.tenant, letter).await, Err(Error::NotFound)));
    assert_eq!(bed.get(id).await.expires_at, Some(bed.now().minus(Duration::from_secs(23 * DAY))), "as told");
    bed.pass_seconds(DAY + 120);
    retain(bed).await;
    assert!(matches!(bed.store.job(bed.tenant, id, bed.now()).await, Err(Error::Expired)));
    assert_eq!([bed.count("deliveries").await, bed.count("bodies").await, bed.count("events").await], [0; 3]);
}

/// Completes a job that is kept for a minute and has a callback.
async fn kept_for_a_minute(bed: &Bed) -> JobId {
    let id = bed.submit(NewJob { retain_seconds: 60, ..bed.called_back() }).await.job.id;
    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    id
}

async fn a_job_goes_soon_after_its_last_delivery(bed: &Bed) {
    let id = kept_for_a_minute(bed).await;
    bed.store.keep_needed(bed.now()).await.unwrap();
    bed.pass_seconds(90);
    retain(bed).await;
    assert_eq!(bed.get(id).await.callback_state.as_str(), "pending");
    bed.deliver(200, Verdict::Delivered).await;
    bed.pass_seconds(330);
    retain(bed).await;
    assert!(matches!(bed.store.job(bed.tenant, id, bed.now()).await, Err(Error::Expired)));
}

async fn what_stays_owed_is_looked_at_ever_less_often(bed: &Bed) {
    let id = kept_for_a_minute(bed).await;
    let due = bed.now().plus(Duration::from_secs(60));
    let mut looks = 0;
    while bed.now().since(due) < Duration::from_secs(3 * DAY) {
        bed.store.keep_needed(bed.now()).await.unwrap();
        looks += 1;
        let next = bed.rows("SELECT remove_at FROM jobs").await[0].time(0).unwrap();
        let (overdue, wait) = (bed.now().since(due).as_secs(), next.since(bed.now()).as_secs());
        assert!(wait <= (overdue + 240).clamp(420, DAY + 120), "{wait} s at {overdue} s");
        bed.set_now(next.minus(Duration::from_secs(60)));
    }
    assert!(looks < 15, "{looks}");
    assert_eq!(bed.get(id).await.callback_state.as_str(), "pending");
}

async fn more_than_one_bite_spares_what_is_needed(bed: &Bed) {
    // Six hundred jobs whose callbacks are owed, all past their retention: more than a bite.
    let jobs = (0..600).map(|_| bed.called_back()).collect();
    bed.store.submit(jobs, bed.now()).await.unwrap();
    for _ in 0..2 {
        let held = bed.lease(500).await;
        let all = held.iter().map(|j| bed.held(j, complete()));
        futures_util::future::join_all(all).await.into_iter().for_each(|a| drop(a.unwrap()));
    }
    bed.pass_seconds(8 * DAY);
    assert_eq!(bed.retain(Store::BITE).await.unwrap(), 500, "a bite is put off");
    assert_eq!(retain(bed).await, 100);
    assert_eq!(bed.count("jobs WHERE purged_at IS NULL").await, 600);
}

async fn what_is_needed_is_found_among_many_that_pass(bed: &Bed) {
    const MANY: usize = 2_100;
    for _ in 0..3 {
        bed.submit_n(MANY / 3).await;
        let held = bed.lease(1_000).await;
        let all = held.iter().map(|j| bed.held(j, complete()));
        futures_util::future::join_all(all).await.into_iter().for_each(|a| drop(a.unwrap()));
    }
    bed.pass(Duration::from_millis(1));
    let needed = bed.completed().await.id;
    bed.pass_seconds(7 * DAY - 60);
    bed.store.keep_needed(bed.now()).await.unwrap();
    bed.pass_seconds(61);
    assert_eq!(bed.get(needed).await.callback_state.as_str(), "pending", "its callback is owed");
    assert_eq!(bed.count(&format!("jobs WHERE remove_at > {}", bed.now().0)).await, 1);
}

async fn a_kept_job_keeps_its_callback_state(bed: &Bed) {
    let new = ringback::types::job::NewJob { retain_seconds: 2_592_000, ..bed.called_back() };
    let id = bed.submit(new).await.job.id;
    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    bed.deliver(200, Verdict::Delivered).await;
    let before = bed.get(id).await.etag();
    bed.pass_seconds(20 * DAY);
    retain(bed).await;
    let job = bed.get(id).await;
    assert_eq!((job.callback_state.as_str(), job.etag()), ("delivered", before));
    let of = DeliveryFilter { job_id: Some(id), ..DeliveryFilter::default() };
    assert_eq!(bed.store.deliveries(bed.tenant, &of, page(9), bed.now()).await.unwrap().rows.len(), 1);
}

async fn a_retried_job_is_not_purged(bed: &Bed) {
    let id = bed.submit(bed.job()).await.job.id;
    let held = bed.lease_one().await;
    bed.held(&held, failure(false)).await.unwrap();
    bed.pass_seconds(6 * DAY);
    bed.owner(id, What::Retry).await.unwrap();
    bed.pass_seconds(6 * DAY);
    assert_eq!(retain(bed).await, 0);
    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    bed.pass_seconds(8 * DAY);
    assert_eq!(retain(bed).await, 5, "the job, and then its four events");
    assert!(matches!(bed.store.job(bed.tenant, id, bed.now()).await, Err(Error::Expired)));
}

async fn a_job_of_many_events_goes_step_by_step_and_the_feed_keeps_them_empty(bed: &Bed) {
    let long = bed.submit(bed.job_with(|j| j.retain_seconds = 60)).await.job.id;
    let held = bed.lease_one().await;
    for n in 0..40 {
        bed.pass_seconds(2);
        bed.held(&held, heartbeat(Some(n))).await.unwrap();
    }
    bed.held(&held, complete()).await.unwrap();
    let others = bed.submit_n(3).await;
    bed.pass_seconds(61);
    let kept = "events WHERE remove_at IS NULL";
    let before = bed.count(kept).await;
    assert!(before > 40, "{before}");
    // A bite of one row takes ten events at a time.
    let gone = bed.retain(1).await.unwrap();
    assert!(gone > 0, "{gone}");
    assert!(matches!(bed.store.job(bed.tenant, long, bed.now()).await, Err(Error::Expired)));
    assert_eq!(bed.count(kept).await, 0);
    assert_eq!(bed.count("events WHERE data = '{}'").await, before);
    assert_eq!(others.len() as i64, bed.count("job_queue").await);
    bed.pass_seconds(7 * DAY);
    retain(bed).await;
    assert_eq!(bed.count("events").await, 0);
}

/// The node was away when their time came, so none was put off before; and a bite puts off only the first of them.
async fn of_what_is_needed_no_event_is_emptied(bed: &Bed) {
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let id = bed.submit(NewJob { retain_seconds: 60, ..bed.called_back() }).await.job.id;
        let held = bed.lease_one().await;
        for n in 0..15 {
            bed.pass_seconds(2);
            bed.held(&held, heartbeat(Some(n))).await.unwrap();
        }
        bed.held(&held, complete()).await.unwrap();
        jobs.push(id);
    }
    bed.pass_seconds(600);
    assert_eq!(bed.retain(1).await.unwrap(), 1, "the first is put off");
    assert_eq!(bed.count("events WHERE remove_at IS NOT NULL AND job_id IS NOT NULL").await, 0);
    retain(bed).await;
    for id in jobs {
        assert_eq!(bed.get(id).await.callback_state.as_str(), "pending");
        assert_eq!(bed.store.job_events(bed.tenant, id, 0, 99, bed.now()).await.unwrap().len(), 18);
    }
}

/// Idempotency keys go with the letters, before all else.
async fn what_cannot_be_removed_keeps_nothing_else(bed: &Bed) {
    let id = bed.completed().await.id;
    bed.deliver(200, Verdict::Delivered).await;
    // Far more than a bite that has shrunk takes at a time.
    bed.submit_n(1_000).await;
    for _ in 0..2 {
        let held = bed.lease(500).await;
        futures_util::future::join_all(held.iter().map(|j| bed.held(j, complete()))).await;
    }
    bed.pass_seconds(7 * DAY);
    bed.rows("ALTER TABLE idempotency RENAME TO idempotency_away").await;
    let clock = Clock::manual(bed.now());
    let mut sweep = Sweep::new(bed.store.clone(), clock, Wake::default());
    for _ in 0..3 {
        assert!(sweep.tick().await.is_err(), "it is told");
    }
    assert!(sweep.tick().await.is_ok(), "as small as it gets, it is tried again after a minute");
    bed.rows("ALTER TABLE idempotency_away RENAME TO idempotency").await;
    assert!(matches!(bed.store.job(bed.tenant, id, bed.now()).await, Err(Error::Expired)));
    for table in ["deliveries", "events", "jobs WHERE purged_at IS NULL"] {
        assert_eq!(bed.count(table).await, 0, "{table}");
    }
}

async fn what_is_past_its_time_is_gone_before_the_sweep_comes(bed: &Bed) {
    let id = bed.submit(bed.job_with(|j| j.retain_seconds = 60)).await.job.id;
    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    bed.pass(Duration::from_millis(59_999));
    assert_eq!(bed.get(id).await.state.as_str(), "complete");
    bed.pass(Duration::from_millis(1));
    assert!(matches!(bed.store.job(bed.tenant, id, bed.now()).await, Err(Error::Expired)));
    assert!(matches!(bed.owner(id, What::Retry).await, Err(Error::Expired)));
    assert!(
        bed.store.jobs(bed.tenant, &Default::default(), page(9), bed.now()).await.unwrap().rows.is_empty()
    );
}

async fn a_lane_is_forgotten_a_week_after_its_last_use(bed: &Bed) {
    let used = async |url: &str, owner: NodeId| {
        bed.store.keep_alive(owner, bed.now().plus(Duration::from_secs(15))).await.unwrap();
        bed.submit(bed.job_with(|j| j.callback = Some(callback(url)))).await;
        let job = bed.lease_one().await;
        bed.held(&job, complete()).await.unwrap();
        let due = bed.store.due(Millis(0), bed.now(), 9).await.unwrap().remove(0);
        bed.store.own_lanes(owner, &[(due.lane, due.id)], bed.now()).await.unwrap().remove(0).state
    };
    let idle = used("https://a.example.com/", bed.node).await;
    bed.deliver(200, Verdict::Delivered).await;
    bed.store.save_lanes(bed.node, &[(idle, true)]).await.unwrap();
    bed.pass_seconds(3 * DAY);
    let other: NodeId = bed.dice.id(bed.now());
    let owned = used("https://b.example.com/", other).await;
    bed.deliver(200, Verdict::Delivered).await;
    bed.pass(Duration::from_secs(4 * DAY) - Duration::from_millis(1));
    retain(bed).await;
    assert_eq!(bed.count("lanes").await, 2);
    bed.pass(Duration::from_millis(1));
    assert!(retain(bed).await > 0);
    assert_eq!(bed.count("lanes").await, 1, "the one that was let go of a week ago");
    bed.pass_seconds(3 * DAY);
    retain(bed).await;
    assert_eq!(bed.count("lanes").await, 1, "it has an owner");
    bed.store.leave(other).await.unwrap();
    used("https://b.example.com/", bed.node).await;
    bed.store.leave(bed.node).await.unwrap();
    bed.pass_seconds(8 * DAY);
    retain(bed).await;
    assert_eq!(bed.count("lanes").await, 1, "something waits in it");
    bed.deliver(200, Verdict::Delivered).await;
    bed.pass_seconds(7 * DAY);
    assert!(retain(bed).await > 0);
    assert_eq!(bed.count("lanes").await, 0);
    assert_eq!(owned.concurrency, 10);
}

async fn quiet_endpoints_keep_no_other_lane(bed: &Bed) {
    for _ in 0..3 {
        endpoint(bed, serde_json::json!({"events": ["x.y"]})).await;
    }
    bed.pass_seconds(1);
    bed.submit(bed.job_with(|j| j.callback = Some(callback("https://a.example.com/")))).await;
    let job = bed.lease_one().await;
    bed.held(&job, complete()).await.unwrap();
    let due = bed.store.due(Millis(0), bed.now(), 9).await.unwrap().remove(0);
    let owned = bed.store.own_lanes(bed.node, &[(due.lane, due.id)], bed.now()).await.unwrap().remove(0);
    bed.deliver(200, Verdict::Delivered).await;
    bed.store.save_lanes(bed.node, &[(owned.state, true)]).await.unwrap();
    assert_eq!(bed.count("lanes").await, 4);
    bed.pass_seconds(8 * DAY);
    for left in [4, 4, 3] {
        bed.retain(1).await.unwrap();
        assert_eq!(bed.count("lanes").await, left, "one is put off at a time");
    }
}

async fn redrives_and_secrets_go_bite_by_bite_a_month_after_their_end(bed: &Bed) {
    let filter = ringback::types::api::ReplayFilter::default();
    for _ in 0..3 {
        bed.store.start_redrive(bed.tenant, (ReplayOf::Letters, &filter), None, bed.now()).await.unwrap();
        bed.store.rotate_default_secret(bed.tenant, Duration::ZERO, bed.now()).await.unwrap();
    }
    while bed.store.step_redrive(bed.now()).await.unwrap() {}
    bed.pass_seconds(30 * DAY - 1);
    bed.retain(Store::BITE).await.unwrap();
    assert_eq!((bed.count("redrives").await, bed.count("secrets").await), (3, 3));
    bed.pass_seconds(1);
    for left in [2, 1, 0] {
        bed.retain(1).await.unwrap();
        assert_eq!((bed.count("redrives").await, bed.count("secrets").await), (left, 1.max(left)));
    }
}
