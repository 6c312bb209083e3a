//! Deliveries on their way: due, claimed, recorded, lost.

use std::time::Duration;

use ringback::store::{Attempted, DeliveryFilter, Error};
use ringback::types::delivery::{DeadReason, DeliveryState, Fault, Outcome, Verdict};
use ringback::types::job::{CallbackSecrets, JobEvent};
use ringback::types::{LaneId, Millis};

use crate::support::store::{
    Bed, attempted, both_stores, callback, complete, exchange, failure, heartbeat, page,
};

both_stores! {
    a_row_that_cannot_be_read_keeps_no_other_from_being_sent,
    an_ended_job_makes_one_frozen_delivery,
    every_event_asked_for_is_delivered,
    a_callback_has_its_own_secrets_and_format,
    what_is_due_is_found_by_time_and_by_lane,
    two_claimers_one_wins,
    a_delivered_callback_ends,
    a_failed_attempt_is_repeated_when_it_is_due,
    a_dead_callback_leaves_a_letter_and_tells_the_failure_url,
    an_old_fence_changes_nothing,
    a_repeated_record_counts_once,
    a_lost_attempt_is_written_as_unknown,
    what_was_not_sent_is_no_attempt,
    a_delivery_may_be_retried_from_any_state,
    a_new_round_that_is_asked_for_under_way_begins_after_it,
    a_delivery_may_be_cancelled_while_it_is_owed,
    deliveries_are_listed_by_every_filter,
}

const AGAIN: i64 = 5_000;

fn in_five(bed: &Bed) -> Verdict {
    Verdict::RetryAt(Millis(bed.now().0 + AGAIN))
}

async fn a_row_that_cannot_be_read_keeps_no_other_from_being_sent(bed: &Bed) {
    let broken = bed.completed().await.id;
    let well = bed.completed().await.id;
    assert_eq!(bed.count("deliveries WHERE policy IS NULL").await, 2, "the contract's own is not stored");
    let literal = bed.literal(broken.uuid());
    bed.rows(&format!("UPDATE deliveries SET policy = 'no JSON' WHERE job_id = {literal}")).await;

    let claimed = bed.claim_one().await;

    assert_eq!(claimed.job_id, Some(well));
    assert!(bed.record(attempted(&claimed, 200, Verdict::Delivered)).await);
    assert!(bed.claim().await.is_empty(), "it is put off");
    bed.rows(&format!("UPDATE deliveries SET policy = '{{}}' WHERE job_id = {literal}")).await;
    bed.pass_seconds(300);
    let claimed = bed.claim_one().await;
    assert_eq!(
        (claimed.job_id, claimed.number, claimed.used),
        (Some(broken), 1, 0),
        "it has cost no attempt"
    );
}

async fn an_ended_job_makes_one_frozen_delivery(bed: &Bed) {
    let job = bed.completed().await;
    let sent = bed.claim_one().await;
    assert_eq!((sent.job_id, sent.number, sent.fence, sent.used, sent.unknowns), (Some(job.id), 1, 1, 0, 0));
    assert_eq!(
        (sent.event_kind.as_str(), sent.event_at, sent.started_at),
        ("job.completed", bed.now(), bed.now())
    );
    assert_eq!((sent.url.as_str(), sent.variant.as_str()), ("https://hooks.example.com/a", "standard"));
    assert_eq!(sent.lease_until, Millis(bed.now().0 + 30_000));
    let body: serde_json::Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(body["type"], "job.completed");
    assert_eq!(body["eventId"], sent.event_id.to_string());
    assert_eq!((&body["sequence"], &body["data"]["result"]["ok"]), (&3.into(), &true.into()));
    let token = body["data"]["accessToken"].as_str().unwrap();
    assert_eq!(bed.store.open_access_token(token), Some((bed.tenant, job.id)));
    assert!(body["data"].get("callbackState").is_none(), "it would be frozen wrong");
    bed.pass_seconds(31);
    let again = bed.claim_one().await;
    assert_eq!((again.id, &again.body), (sent.id, &sent.body), "byte-equal on every attempt");
}

async fn every_event_asked_for_is_delivered(bed: &Bed) {
    let all = JobEvent::ALL.iter().fold(0, |set, e| set | e.bit());
    let mut wants = callback("https://hooks.example.com/a");
    wants.wants = all;
    let id = bed.submit(bed.job_with(|j| j.callback = Some(wants))).await.job.id;
    let held = bed.lease_one().await;
    bed.held(&held, heartbeat(Some(1))).await.unwrap();
    bed.held(&held, failure(true)).await.unwrap();
    bed.pass_seconds(5);
    bed.lease_one().await;
    bed.pass_seconds(31);
    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    let mut sent: Vec<(i64, String)> = Vec::new();
    for claimed in bed.claim().await {
        let body: serde_json::Value = serde_json::from_slice(&claimed.body).unwrap();
        assert_eq!(body["type"], claimed.event_kind.as_str());
        sent.push((body["sequence"].as_i64().unwrap(), claimed.event_kind));
    }
    sent.sort();
    assert_eq!(sent, bed.events(id).await);
    assert_eq!(sent.len(), 8);
}

async fn a_callback_has_its_own_secrets_and_format(bed: &Bed) {
    let secrets = CallbackSecrets {
        secret: Some("whsec_canary".to_owned()),
        headers: vec![("X-Env".to_owned(), "prod".to_owned())],
    };
    let new = bed.job_with(|j| {
        let mut cloud = callback("https://hooks.example.com/a");
        cloud.format = Some(ringback::types::api::Format::Cloudevents);
        cloud.payload = Some(ringback::types::api::Payload::Thin);
        cloud.context = Some(ringback::types::api::raw(r#"{"orderId": "o-1"}"#.to_owned()));
        (j.callback, j.secrets) = (Some(cloud), secrets);
    });
    bed.submit(new).await;
    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    let sent = bed.claim_one().await;
    let opened = bed.store.open_sealed(bed.tenant, &sent.sealed.clone().unwrap()).unwrap();
    assert_eq!(opened.secret.as_deref(), Some("whsec_canary"));
    assert_eq!(opened.headers, [("X-Env".to_owned(), "prod".to_owned())]);
    let two = bed.store.tenant("two", bed.now()).await.unwrap();
    assert!(bed.store.open_sealed(two, &sent.sealed.unwrap()).is_err(), "sealed for its tenant");
    let body: serde_json::Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(
        (sent.variant.as_str(), body["context"]["orderId"].as_str()),
        ("cloudevents-thin-context", Some("o-1"))
    );
    assert!(body.get("result").is_none() && body.get("type").is_some(), "thin, and `data` alone: {body}");
}

async fn what_is_due_is_found_by_time_and_by_lane(bed: &Bed) {
    let mut lanes: Vec<(LaneId, Millis)> = Vec::new();
    for host in ["a", "b", "a"] {
        let url = format!("https://{host}.example.com/x");
        bed.submit(bed.job_with(|j| j.callback = Some(callback(&url)))).await;
        let held = bed.lease_one().await;
        bed.held(&held, complete()).await.unwrap();
        bed.pass_seconds(1);
    }
    let due = bed.store.due(Millis(0), bed.now(), 10).await.unwrap();
    lanes.extend(due.iter().map(|d| (d.lane, d.due_at)));
    assert_eq!(lanes.len(), 3);
    assert!(lanes.windows(2).all(|w| w[0].1 < w[1].1), "oldest first");
    assert_eq!((lanes[0].0, lanes[0].0 == lanes[1].0), (lanes[2].0, false), "one lane an origin");
    assert_eq!(bed.store.due(Millis(0), bed.now(), 2).await.unwrap(), due[..2]);
    assert_eq!(bed.store.due(lanes[0].1, bed.now(), 9).await.unwrap(), due[1..], "above the floor");
    assert_eq!(bed.store.due(Millis(0), lanes[0].1, 9).await.unwrap(), due[..1], "not yet due");
    let mine = bed.store.due_in_lane(lanes[0].0, bed.now(), 9, None).await.unwrap().oldest;
    assert_eq!(mine, [due[0], due[2]]);
    assert_eq!(bed.store.due_in_lane(lanes[0].0, bed.now(), 1, None).await.unwrap().oldest, due[..1]);
    let mut two = vec![(due[0].lane, due[0].id), (due[1].lane, due[1].id)];
    two.sort();
    let lanes_due =
        async |node, now, after, limit| bed.store.lanes_due(node, now, after, limit).await.unwrap();
    let stirred = async |node, now, after, limit| lanes_due(node, now, after, limit).await.0;
    assert_eq!(stirred(bed.node, bed.now(), None, 9).await, two, "each with its oldest delivery");
    assert_eq!(stirred(bed.node, lanes[0].1, None, 9).await, [(due[0].lane, due[0].id)]);
    assert_eq!(stirred(bed.node, bed.now(), None, 1).await, two[..1]);
    assert_eq!(stirred(bed.node, bed.now(), Some(two[0].0), 9).await, two[1..]);
    let first = |at: Millis| Millis(at.0 - 1);
    assert_eq!(
        lanes_due(bed.node, first(lanes[0].1), None, 1).await,
        (vec![], Some(two[0].0)),
        "nothing is due yet"
    );
    assert_eq!(lanes_due(bed.node, bed.now(), None, 3).await, (two.clone(), None), "that is all of them");
    bed.store.keep_alive(bed.node, Millis(bed.now().0 + 9_000)).await.unwrap();
    assert_eq!(bed.store.own_lanes(bed.node, &two[..1], bed.now()).await.unwrap().len(), 1);
    let other = bed.dice.id(bed.now());
    assert_eq!(stirred(other, bed.now(), None, 9).await, two[1..], "another living node has the first");
    assert_eq!(stirred(bed.node, bed.now(), None, 9).await, two);
    let dead = Millis(bed.now().0 + 9_000);
    assert_eq!(stirred(other, dead, None, 9).await, two, "a dead one has nothing");
    let next = async |at: Millis| bed.store.next_due(at, Millis(at.0 + 60_000)).await.unwrap();
    assert_eq!(next(Millis(lanes[0].1.0 - 1)).await, Some(lanes[0].1));
    assert_eq!(next(lanes[2].1).await, None);
    bed.claim().await;
    assert!(bed.store.due(Millis(0), bed.now(), 9).await.unwrap().is_empty());
    assert_eq!(next(bed.now()).await, Some(Millis(bed.now().0 + 30_000)), "when the leases run out");
    assert_eq!(
        bed.store.next_due(bed.now(), Millis(bed.now().0 + 29_999)).await.unwrap(),
        None,
        "not by then"
    );
}

async fn two_claimers_one_wins(bed: &Bed) {
    for _ in 0..20 {
        bed.completed().await;
    }
    let due = bed.store.due(Millis(0), bed.now(), 100).await.unwrap();
    let claim = || bed.store.claim(due.clone(), bed.node, Duration::from_secs(30), bed.now());
    let (one, two, three) = tokio::join!(claim(), claim(), claim());
    let mut ids: Vec<_> = [one, two, three].into_iter().flat_map(|c| c.unwrap()).map(|c| c.id).collect();
    ids.sort();
    assert_eq!(
        ids,
        due.iter().map(|d| d.id).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    );
    assert!(claim().await.unwrap().is_empty());
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
    let dead = Attempted {
        exchange: None,
        counts: false,
        ..attempted(&held, 0, Verdict::Dead(DeadReason::Unsignable))
    };
    assert!(bed.record(dead).await);
    let letter = bed.store.dead_letter(bed.tenant, held.id).await.unwrap();
    assert_eq!((letter.attempts, letter.last_error.as_deref()), (1, Some("unsignable")));
}

async fn a_delivery_may_be_retried_from_any_state(bed: &Bed) {
    let id = {
        bed.completed().await;
        bed.deliver(503, in_five(bed)).await.id
    };
    let retry = async || bed.store.retry_delivery(bed.tenant, id, bed.now()).await.unwrap();
    assert_eq!(retry().await.next_attempt_at, Some(bed.now()), "pending: due now");
    let sent = bed.claim_one().await;
    assert_eq!((sent.id, sent.number, sent.used), (id, 2, 0), "a new round of attempts");
    assert!(bed.record(attempted(&sent, 410, Verdict::Dead(DeadReason::Gone))).await);
    assert_eq!(bed.count("dead_letters").await, 1);
    assert_eq!(retry().await.state, DeliveryState::Pending);
    assert_eq!(bed.count("dead_letters").await, 0, "a replayed letter leaves the list");
    let sent = bed.deliver(200, Verdict::Delivered).await;
    assert_eq!((sent.id, sent.number), (id, 3));
    assert_eq!(retry().await.state, DeliveryState::Pending, "delivered ones too");
    let sent = bed.deliver(200, Verdict::Delivered).await;
    assert_eq!((sent.number, sent.fence), (4, 4));
    let told = bed.store.delivery(bed.tenant, id, bed.now()).await.unwrap();
    assert_eq!((told.state, told.attempts.unwrap().len()), (DeliveryState::Delivered, 4), "history stays");
}

async fn a_new_round_that_is_asked_for_under_way_begins_after_it(bed: &Bed) {
    bed.completed().await;
    let id = bed.deliver(503, in_five(bed)).await.id;
    bed.pass_seconds(5);
    let retry = async || bed.store.retry_delivery(bed.tenant, id, bed.now()).await.unwrap();
    for verdict in [Verdict::Dead(DeadReason::Exhausted), in_five(bed)] {
        let sent = bed.claim_one().await;
        assert_eq!(retry().await.state, DeliveryState::InFlight);
        assert!(bed.record(attempted(&sent, 500, verdict)).await);
        let told = bed.store.delivery(bed.tenant, id, bed.now()).await.unwrap();
        assert_eq!((told.state, told.next_attempt_at), (DeliveryState::Pending, Some(bed.now())));
        assert_eq!(bed.count("dead_letters").await, 0);
    }
    let sent = bed.claim_one().await;
    assert_eq!((sent.number, sent.used), (4, 0), "a round of its own");
    retry().await;
    assert!(bed.record(attempted(&sent, 200, Verdict::Delivered)).await);
    let told = bed.store.delivery(bed.tenant, id, bed.now()).await.unwrap();
    assert_eq!(
        (told.state, told.attempts.unwrap().len()),
        (DeliveryState::Delivered, 4),
        "what was wished came"
    );
    assert!(bed.store.due(Millis(0), bed.now(), 9).await.unwrap().is_empty());
}

async fn a_delivery_may_be_cancelled_while_it_is_owed(bed: &Bed) {
    bed.completed().await;
    let sent = bed.claim_one().await;
    let cancel = || bed.store.cancel_delivery(bed.tenant, sent.id, bed.now());
    assert_eq!(cancel().await.unwrap().state, DeliveryState::Cancelled);
    assert_eq!(cancel().await.unwrap().state, DeliveryState::Cancelled, "again is no error");
    assert!(!bed.record(attempted(&sent, 200, Verdict::Delivered)).await, "too late");
    assert_eq!(bed.get(sent.job_id.unwrap()).await.callback_state.as_str(), "cancelled");
    bed.pass_seconds(60);
    assert!(bed.claim().await.is_empty());
    bed.store.retry_delivery(bed.tenant, sent.id, bed.now()).await.unwrap();
    bed.deliver(200, Verdict::Delivered).await;
    assert!(matches!(cancel().await, Err(Error::AlreadyFinished)));
}

async fn deliveries_are_listed_by_every_filter(bed: &Bed) {
    for verdict in [Verdict::Delivered, Verdict::Dead(DeadReason::Gone), in_five(bed)] {
        bed.completed().await;
        bed.deliver(200, verdict).await;
    }
    let cancelled = bed.completed().await.id;
    let owed = bed.claim_one().await;
    bed.store.cancel_delivery(bed.tenant, owed.id, bed.now()).await.unwrap();
    bed.completed().await;
    let flying = bed.claim_one().await;
    let list = async |filter: DeliveryFilter| {
        let got = bed.store.deliveries(bed.tenant, &filter, page(200), bed.now()).await.unwrap();
        got.into_iter().map(|d| (d.delivery_id, d.state)).collect::<Vec<_>>()
    };
    let state = |state| DeliveryFilter { state: Some(state), ..DeliveryFilter::default() };
    for wanted in [
        DeliveryState::Delivered,
        DeliveryState::Dead,
        DeliveryState::Pending,
        DeliveryState::InFlight,
        DeliveryState::Cancelled,
    ] {
        let got = list(state(wanted)).await;
        assert_eq!(got.iter().map(|d| d.1).collect::<Vec<_>>(), [wanted]);
    }
    assert_eq!(list(state(DeliveryState::Held)).await, []);
    assert_eq!(list(DeliveryFilter::default()).await.len(), 5);
    let of = DeliveryFilter { job_id: Some(cancelled), ..DeliveryFilter::default() };
    assert_eq!(list(of).await, [(owed.id, DeliveryState::Cancelled)]);
    let host = |host: &str| DeliveryFilter { host: Some(host.to_owned()), ..DeliveryFilter::default() };
    assert_eq!((list(host("hooks.example.com")).await.len(), list(host("x")).await.len()), (5, 0));
    let account = DeliveryFilter { account: Some("a".to_owned()), ..DeliveryFilter::default() };
    assert_eq!(list(account).await, []);
    let endpoint = DeliveryFilter { endpoint_id: Some(bed.dice.id(bed.now())), ..DeliveryFilter::default() };
    assert_eq!(list(endpoint).await, []);

    // A held lane: what waits in it is held, what is under way is not.
    let lanes = [(flying.lane, flying.id)];
    let mut lane = bed.store.own_lanes(bed.node, &lanes, bed.now()).await.unwrap().remove(0).state;
    (lane.held_until, lane.held_reason) = (Some(Millis(bed.now().0 + 60_000)), Some("breaker".to_owned()));
    bed.store.save_lanes(bed.node, &[(lane, false)]).await.unwrap();
    assert_eq!(list(state(DeliveryState::Pending)).await, []);
    assert_eq!(list(state(DeliveryState::Held)).await.len(), 1);
    assert_eq!(list(state(DeliveryState::InFlight)).await.len(), 1);
    bed.pass_seconds(31);
    assert_eq!(list(state(DeliveryState::Held)).await.len(), 2, "its lease ran out");
    bed.pass_seconds(30);
    assert_eq!(list(state(DeliveryState::Pending)).await.len(), 2);
}
