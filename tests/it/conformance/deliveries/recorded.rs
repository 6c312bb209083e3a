//! What came of an attempt, written down.

use ringback::store::Attempted;
use ringback::types::Millis;
use ringback::types::delivery::{DeadReason, DeliveryState, Fault, Outcome, Verdict};

use super::{AGAIN, in_five};
use crate::support::store::{Bed, attempted, both_stores, callback, complete, exchange};

both_stores! {
    a_delivered_callback_ends,
    a_failed_attempt_is_repeated_when_it_is_due,
    a_dead_callback_leaves_a_letter_and_tells_the_failure_url,
    an_old_fence_changes_nothing,
    a_repeated_record_counts_once,
    a_lost_attempt_is_written_as_unknown,
    what_was_not_sent_is_no_attempt,
}

async fn a_delivered_callback_ends(bed: &Bed) {
    bed.completed().await;
    let sent = bed.deliver(200, Verdict::Delivered).await;
    let told = bed.store.delivery(bed.tenant, sent.id, bed.now()).await.unwrap();
    assert_eq!((told.state, told.attempt, told.last_status), (DeliveryState::Delivered, 1, Some(200)));
    assert_eq!((told.ended_at, told.next_attempt_at, told.last_error), (Some(bed.now()), None, None));
    let attempt = told.attempts.unwrap().remove(0);
    assert_eq!((attempt.number, attempt.status, attempt.duration_ms), (1, Some(200), Some(12)));
    assert_eq!(attempt.response_body.as_deref(), Some("thanks"));
    let headers = attempt.response_headers.unwrap();
    assert_eq!(headers[1], ("Set-Cookie".to_owned(), "redacted".to_owned()));
    assert_eq!(attempt.phases.unwrap().connect_ms, Some(3));
    assert!(bed.claim().await.is_empty());
    assert_eq!(bed.get(sent.job_id.unwrap()).await.callback_state.as_str(), "delivered");
    assert_eq!(bed.count("delivery_queue").await, 0);
}

async fn a_failed_attempt_is_repeated_when_it_is_due(bed: &Bed) {
    bed.completed().await;
    let first = bed.deliver(503, in_five(bed)).await;
    let told = bed.store.delivery(bed.tenant, first.id, bed.now()).await.unwrap();
    assert_eq!((told.state, told.attempt, told.last_status), (DeliveryState::Pending, 1, Some(503)));
    assert_eq!(told.last_error.as_deref(), Some("status 503"));
    assert_eq!(told.next_attempt_at, Some(Millis(bed.now().0 + AGAIN)));
    assert_eq!(told.attempts.unwrap()[0].next_attempt_at, told.next_attempt_at);
    assert!(bed.claim().await.is_empty(), "not yet due");
    bed.pass_seconds(5);
    let second = bed.claim_one().await;
    assert_eq!((second.number, second.used, second.fence, second.unknowns), (2, 1, 2, 0));
    let timeout = Attempted {
        exchange: Some(exchange(Outcome::Failed(Fault::Timeout(ringback::types::delivery::Phase::Head)))),
        ..attempted(&second, 0, in_five(bed))
    };
    assert!(bed.record(timeout).await);
    let told = bed.store.delivery(bed.tenant, first.id, bed.now()).await.unwrap();
    assert_eq!((told.last_error.as_deref(), told.last_status), (Some("timeout"), Some(503)));
    let attempts = told.attempts.unwrap();
    assert_eq!(
        (attempts.len(), attempts[1].error.as_deref(), attempts[1].status),
        (2, Some("timeout"), None)
    );
}

async fn a_dead_callback_leaves_a_letter_and_tells_the_failure_url(bed: &Bed) {
    let mut to = callback("https://hooks.example.com/a");
    to.failure_url = Some("https://ops.example.com/dead".to_owned());
    let new = bed.job_with(|j| {
        j.callback = Some(to);
        j.secrets.secret = Some("whsec_x".to_owned());
    });
    let id = bed.submit(new).await.job.id;
    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    bed.deliver(503, in_five(bed)).await;
    bed.pass_seconds(5);
    let last = bed.deliver(410, Verdict::Dead(DeadReason::Gone)).await;
    let letter = bed.store.dead_letter(bed.tenant, last.id).await.unwrap();
    assert_eq!((letter.reason.as_str(), letter.attempts, letter.job_id), ("gone", 2, Some(id)));
    assert_eq!(letter.first_error.as_deref(), Some("status 503"));
    assert_eq!(letter.last_error.as_deref(), Some("status 410"));
    assert_eq!((letter.died_at, letter.event_type.as_str()), (bed.now(), "job.completed"));
    assert_eq!(bed.get(id).await.callback_state.as_str(), "dead");

    let notice = bed.claim_one().await;
    assert_eq!(
        (notice.url.as_str(), notice.event_kind.as_str()),
        ("https://ops.example.com/dead", "delivery.dead")
    );
    let body: serde_json::Value = serde_json::from_slice(&notice.body).unwrap();
    assert_eq!((&body["type"], &body["data"]["reason"]), (&"delivery.dead".into(), &"gone".into()));
    assert_eq!(body["data"]["deliveryId"], last.id.to_string());
    assert!(body.get("sequence").is_none(), "it belongs to no job's history");
    let opened = bed.store.open_sealed(bed.tenant, &notice.sealed.clone().unwrap()).unwrap();
    assert_eq!(opened.secret.as_deref(), Some("whsec_x"), "signed with the callback's secret");
    assert!(bed.record(attempted(&notice, 500, Verdict::Dead(DeadReason::Exhausted))).await);
    assert!(bed.claim().await.is_empty(), "a dead notice tells nobody");
    assert_eq!(bed.kinds(id).await, ["queued", "started", "completed"]);
}

async fn an_old_fence_changes_nothing(bed: &Bed) {
    bed.completed().await;
    let zombie = bed.claim_one().await;
    bed.pass_seconds(31);
    let holder = bed.claim_one().await;
    let look = async || format!("{:?}", bed.store.delivery(bed.tenant, holder.id, bed.now()).await.unwrap());
    let before = look().await;
    for verdict in [Verdict::Delivered, in_five(bed), Verdict::Dead(DeadReason::Gone)] {
        assert!(!bed.record(attempted(&zombie, 410, verdict)).await);
    }
    assert_eq!(look().await, before);
    assert!(bed.record(attempted(&holder, 200, Verdict::Delivered)).await);
    assert!(!bed.record(attempted(&zombie, 410, Verdict::Dead(DeadReason::Gone))).await);
    assert_eq!([bed.count("attempts").await, bed.count("dead_letters").await], [2, 0]);
}

async fn a_repeated_record_counts_once(bed: &Bed) {
    bed.completed().await;
    let sent = bed.deliver(503, in_five(bed)).await;
    let later = Verdict::RetryAt(Millis(bed.now().0 + 60_000));
    assert!(!bed.record(attempted(&sent, 503, later)).await, "it is written already");
    bed.pass_seconds(5);
    assert_eq!(bed.claim_one().await.used, 1);
}

async fn a_lost_attempt_is_written_as_unknown(bed: &Bed) {
    bed.completed().await;
    bed.deliver(503, in_five(bed)).await;
    bed.pass_seconds(5);
    for lost in 0..3 {
        let sent = bed.claim_one().await;
        assert_eq!((sent.number, sent.used, sent.unknowns), (2 + lost, 1, lost), "unknowns spend no attempt");
        bed.pass_seconds(30);
    }
    let sent = bed.claim_one().await;
    let told = bed.store.delivery(bed.tenant, sent.id, bed.now()).await.unwrap();
    assert_eq!((told.state, told.attempt), (DeliveryState::InFlight, 5));
    let errors: Vec<_> = told.attempts.unwrap().into_iter().map(|a| a.error).collect();
    assert_eq!(errors, [None, Some("unknown".into()), Some("unknown".into()), Some("unknown".into())]);
    assert!(bed.record(attempted(&sent, 503, in_five(bed))).await);
    bed.pass_seconds(5);
    let sent = bed.claim_one().await;
    assert_eq!((sent.number, sent.used, sent.unknowns), (6, 2, 0), "a known outcome breaks the row");
}

async fn what_was_not_sent_is_no_attempt(bed: &Bed) {
    bed.completed().await;
    bed.deliver(503, in_five(bed)).await;
    bed.pass_seconds(5);
    let held = bed.claim_one().await;
    let unsent = |verdict| Attempted { exchange: None, counts: false, ..attempted(&held, 0, verdict) };
    assert!(bed.record(unsent(in_five(bed))).await);
    let told = bed.store.delivery(bed.tenant, held.id, bed.now()).await.unwrap();
    assert_eq!((told.attempt, told.last_status, told.attempts.unwrap().len()), (1, Some(503), 1));
    bed.pass_seconds(5);
    let held = bed.claim_one().await;
    assert_eq!((held.number, held.used), (2, 1), "the number is given again");
    let unsigned = Attempted { exchange: None, counts: true, ..attempted(&held, 0, in_five(bed)) };
    assert!(bed.record(unsigned).await);
    let told = bed.store.delivery(bed.tenant, held.id, bed.now()).await.unwrap();
    assert_eq!((told.last_error.as_deref(), told.attempt), (Some("unsignable"), 1), "it spent an attempt");
    bed.pass_seconds(5);
    let held = bed.claim_one().await;
    assert_eq!((held.number, held.used), (2, 2));
    let dead = Attempted {
        exchange: None,
        counts: false,
        ..attempted(&held, 0, Verdict::Dead(DeadReason::Unsignable))
    };
    assert!(bed.record(dead).await);
    let letter = bed.store.dead_letter(bed.tenant, held.id).await.unwrap();
    assert_eq!((letter.attempts, letter.last_error.as_deref()), (1, Some("unsignable")));
}
