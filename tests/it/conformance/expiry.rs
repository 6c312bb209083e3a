//! What may not be sent any more ends, also where nobody would look at it again.

use ringback::store::Store;
use ringback::types::delivery::{DeadReason, DeliveryState, Verdict};
use ringback::types::job::{Callback, JobEvent, JobState};

use super::endpoints::endpoint;
use crate::support::store::{Bed, attempted, both_stores, callback};

both_stores! {
    a_parked_delivery_ends_when_it_expires_and_its_failure_url_is_told,
    a_request_under_way_is_left_to_its_holder_until_the_lease_is_over,
    what_is_sent_again_expires_no_more,
    who_held_it_before_has_no_say_in_a_new_round,
    one_step_ends_so_many_and_no_more,
}

/// Told of the beginning, within a minute.
fn short(bed: &Bed, url: &str) -> Callback {
    Callback {
        wants: JobEvent::Queued.bit(),
        expires_at: Some(bed.now().plus(std::time::Duration::from_secs(60))),
        ..callback(url)
    }
}

async fn a_parked_delivery_ends_when_it_expires_and_its_failure_url_is_told(bed: &Bed) {
    let there = endpoint(bed, serde_json::json!({"events": []})).await;
    bed.store.set_endpoint_paused(bed.tenant, there.id, true, bed.now()).await.unwrap();
    let told = Callback {
        endpoint_id: Some(there.id),
        failure_url: Some("https://failures.example.com/".to_owned()),
        ..short(bed, &there.settings.url)
    };
    let job = bed.submit(bed.job_with(|j| j.callback = Some(told))).await.job.id;
    let forever =
        Callback { expires_at: None, endpoint_id: Some(there.id), ..short(bed, "https://x.example.com/") };
    bed.submit(bed.job_with(|j| j.callback = Some(forever))).await;
    bed.pass_seconds(59);
    assert_eq!(bed.store.end_expired(bed.now()).await.unwrap(), 0, "its time has not come");
    bed.pass_seconds(1);
    assert_eq!(bed.store.end_expired(bed.now()).await.unwrap(), 1);
    assert_eq!(bed.store.end_expired(bed.now()).await.unwrap(), 0, "each ends once");
    let letters = bed.rows("SELECT reason, attempts FROM dead_letters").await;
    let seen: Vec<_> = letters.iter().map(|r| (r.text(0).unwrap(), r.int(1).unwrap())).collect();
    assert_eq!(seen, [("expired".to_owned(), 0)]);
    let notice = bed.claim_one().await;
    assert_eq!(
        (notice.event_kind.as_str(), notice.url.as_str(), notice.job_id),
        ("delivery.dead", "https://failures.example.com/", Some(job))
    );
    assert!(notice.body.windows(18).any(|part| part == br#""reason":"expired""#), "{:?}", notice.body);
    assert_eq!(bed.get(job).await.state, JobState::Queued, "the job itself goes on");
}

async fn a_request_under_way_is_left_to_its_holder_until_the_lease_is_over(bed: &Bed) {
    bed.submit(bed.job_with(|j| j.callback = Some(short(bed, "https://hooks.example.com/a")))).await;
    bed.pass_seconds(50);
    let held = bed.claim_one().await;
    bed.pass_seconds(20);
    assert_eq!(bed.store.end_expired(bed.now()).await.unwrap(), 0);
    bed.pass_seconds(10);
    assert_eq!(bed.store.end_expired(bed.now()).await.unwrap(), 1);
    assert!(!bed.record(attempted(&held, 200, Verdict::Delivered)).await, "a zombie changes nothing");
    let told = bed.store.delivery(bed.tenant, held.id, bed.now()).await.unwrap();
    assert_eq!((told.state, told.attempt), (DeliveryState::Dead, 1));
    assert_eq!(told.last_error.as_deref(), Some(DeadReason::Expired.as_str()));
    let attempts = told.attempts.unwrap();
    assert_eq!(attempts.len(), 1, "the request that may have been seen stands there");
    assert_eq!((attempts[0].number, attempts[0].error.as_deref()), (1, Some("unknown")));
}

/// Who sends it again means it, though its time is over.
async fn what_is_sent_again_expires_no_more(bed: &Bed) {
    bed.submit(bed.job_with(|j| j.callback = Some(short(bed, "https://hooks.example.com/a")))).await;
    bed.pass_seconds(60);
    assert_eq!(bed.store.end_expired(bed.now()).await.unwrap(), 1);
    let id = bed.rows("SELECT delivery_id FROM dead_letters").await[0].id(0).unwrap();
    bed.store.retry_delivery(bed.tenant, id, bed.now()).await.unwrap();
    assert_eq!(bed.store.end_expired(bed.now()).await.unwrap(), 0);
    let again = bed.claim_one().await;
    assert_eq!((again.id, again.expires_at), (id, None));
}

async fn who_held_it_before_has_no_say_in_a_new_round(bed: &Bed) {
    for ends in ["expires", "is cancelled"] {
        bed.submit(bed.job_with(|j| j.callback = Some(short(bed, "https://hooks.example.com/a")))).await;
        bed.pass_seconds(50);
        let held = bed.claim_one().await;
        if ends == "expires" {
            bed.pass_seconds(30);
            assert_eq!(bed.store.end_expired(bed.now()).await.unwrap(), 1);
        } else {
            bed.store.cancel_delivery(bed.tenant, held.id, bed.now()).await.unwrap();
        }
        bed.store.retry_delivery(bed.tenant, held.id, bed.now()).await.unwrap();
        assert!(!bed.record(attempted(&held, 200, Verdict::Delivered)).await, "{ends}: an answer of before");
        let again = bed.claim_one().await;
        assert_eq!(again.id, held.id, "{ends}: it is sent again, as was asked");
        assert!(bed.record(attempted(&again, 200, Verdict::Delivered)).await);
    }
}

async fn one_step_ends_so_many_and_no_more(bed: &Bed) {
    let one = || bed.job_with(|j| j.callback = Some(short(bed, "https://hooks.example.com/a")));
    const BITE: usize = Store::BITE as usize;
    let jobs = (0..=BITE).map(|_| one()).collect();
    bed.store.submit(jobs, bed.now()).await.unwrap();
    bed.pass_seconds(60);
    for ended in [BITE, 1, 0] {
        assert_eq!(bed.store.end_expired(bed.now()).await.unwrap(), ended);
    }
    assert!(bed.claim().await.is_empty());
}
