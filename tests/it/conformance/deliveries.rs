//! Deliveries on their way: made, due, claimed, listed.

mod by_hand;
mod recorded;

use std::time::Duration;

use ringback::store::DeliveryFilter;
use ringback::types::delivery::{DeadReason, DeliveryState, Verdict};
use ringback::types::job::{CallbackSecrets, JobEvent};
use ringback::types::{LaneId, Millis};

use crate::support::store::{Bed, attempted, both_stores, callback, complete, failure, heartbeat, page};

both_stores! {
    a_row_that_cannot_be_read_keeps_no_other_from_being_sent,
    an_ended_job_makes_one_frozen_delivery,
    every_event_asked_for_is_delivered,
    a_callback_has_its_own_secrets_and_format,
    what_is_due_is_found_by_time_and_by_lane,
    two_claimers_one_wins,
    deliveries_are_listed_by_every_filter,
}

const AGAIN: i64 = 5_000;

fn in_five(bed: &Bed) -> Verdict {
    Verdict::RetryAt(Millis(bed.now().0 + AGAIN))
}

async fn a_row_that_cannot_be_read_keeps_no_other_from_being_sent(bed: &Bed) {
    let policy =
        |job: &str, text: &str| format!("UPDATE deliveries SET policy = '{text}' WHERE job_id = {job}");
    let body = |job: &str, variant: &str| {
        let event = format!("SELECT d.event_id FROM deliveries d WHERE d.job_id = {job}");
        format!("UPDATE bodies SET variant = '{variant}' WHERE event_id IN ({event})")
    };
    type Damage<'d> = &'d dyn Fn(&str, &str) -> String;
    for (damage, odd, right) in [(&policy as Damage, "no JSON", "{}"), (&body, "lost", "standard")] {
        let broken = bed.completed().await.id;
        let well = bed.completed().await.id;
        assert_eq!(
            bed.count("deliveries WHERE policy IS NULL AND state = 'owed'").await,
            2,
            "the usual is not stored"
        );
        let literal = bed.literal(broken.uuid());
        bed.rows(&damage(&literal, odd)).await;

        let claimed = bed.claim_one().await;

        assert_eq!(claimed.job_id, Some(well));
        assert!(bed.record(attempted(&claimed, 200, Verdict::Delivered)).await);
        bed.pass_seconds(31);
        assert!(bed.claim().await.is_empty(), "it is put off for longer than a lease");
        bed.rows(&damage(&literal, right)).await;
        bed.pass_seconds(300 - 31);
        let claimed = bed.claim_one().await;
        assert_eq!(
            (claimed.job_id, claimed.number, claimed.used, claimed.unknowns),
            (Some(broken), 1, 0, 0),
            "it has cost no attempt"
        );
        assert!(bed.record(attempted(&claimed, 200, Verdict::Delivered)).await);
    }
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
        let got = bed.store.deliveries(bed.tenant, &filter, page(200), bed.now()).await.unwrap().rows;
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
