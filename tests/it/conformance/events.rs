//! Published events and their deliveries.

mod crowds;
pub(super) mod damage;
mod fan_out;
mod kept;

use std::time::Duration;

use futures_util::future::join_all;
use ringback::store::{DeliveryFilter, Error, NewEvent, Publication, Published, Reused, Store};
use ringback::types::EventId;
use ringback::types::api::{Delivery, PublishEvent};
use ringback::types::delivery::{DeliveryState, HeldReason, Verdict};
use ringback::types::event::check;
use ringback::types::problem::ProblemCode;
use serde_json::{Value, json};

use super::endpoints::endpoint_of;
use crate::support::store::{Bed, both_stores, key, open, page};

both_stores! {
    an_event_goes_to_the_endpoints_of_its_account_that_want_it,
    a_body_holds_the_data_byte_for_byte,
    a_paused_endpoint_is_owed_its_events,
    an_event_of_an_own_id_is_published_once,
    an_own_id_holds_across_a_restart_and_for_a_day,
    one_own_id_published_at_once_from_everywhere_is_one_event,
    all_or_none_leaves_nothing_behind,
    a_request_repeated_by_its_key_is_the_same_event,
    a_key_tells_of_the_event_that_its_request_turned_out_to_be,
}

pub(super) fn event(bed: &Bed, wish: Value) -> NewEvent {
    let wish: PublishEvent = serde_json::from_str(&wish.to_string()).unwrap();
    NewEvent {
        id: bed.dice.id(bed.now()),
        tenant: bed.tenant,
        draft: check(wish).unwrap(),
        traceparent: None,
        idempotency: None,
    }
}

pub(super) fn paid(bed: &Bed) -> NewEvent {
    event(bed, json!({"type": "invoice.paid", "data": {"n": 1}}))
}

async fn all(
    store: &Store,
    bed: &Bed,
    events: Vec<NewEvent>,
    atomic: bool,
) -> Result<Vec<Result<Published, Reused>>, Error> {
    store.publish(Publication { events, atomic }, bed.now()).await
}

pub(super) async fn publish(bed: &Bed, event: NewEvent) -> Published {
    all(&bed.store, bed, vec![event], false).await.unwrap().remove(0).unwrap()
}

pub(super) async fn deliveries(bed: &Bed, state: Option<DeliveryState>) -> Vec<Delivery> {
    let filter = DeliveryFilter { state, ..DeliveryFilter::default() };
    bed.store.deliveries(bed.tenant, &filter, page(200), bed.now()).await.unwrap().rows
}

async fn an_event_goes_to_the_endpoints_of_its_account_that_want_it(bed: &Bed) {
    let of = async |more: Value| endpoint_of(bed, bed.tenant, more).await.id;
    let all = of(json!({"events": ["*"]})).await;
    let invoices = of(json!({"events": ["invoice.*", "job.*"]})).await;
    of(json!({"events": ["invoice"]})).await;
    let acme = of(json!({"events": ["*"], "account": "acme"})).await;
    of(json!({"events": ["*"], "account": "other"})).await;
    let elsewhere = bed.store.tenant("two", bed.now()).await.unwrap();
    endpoint_of(bed, elsewhere, json!({"events": ["*"]})).await;

    let none = publish(bed, paid(bed)).await;
    let one = publish(bed, event(bed, json!({"type": "invoice.paid", "data": 1, "account": "acme"}))).await;
    let nobody = publish(bed, event(bed, json!({"type": "invoice.paid", "data": 1, "account": "new"}))).await;

    assert_eq!((none.deliveries, one.deliveries, nobody.deliveries), (2, 1, 0));
    let made = deliveries(bed, None).await;
    let of_event = |id: EventId| {
        let mut to: Vec<_> =
            made.iter().filter(|d| d.event_id == id).map(|d| d.endpoint_id.unwrap()).collect();
        to.sort_unstable();
        to
    };
    let mut wanted = vec![all, invoices];
    wanted.sort_unstable();
    assert_eq!((of_event(none.event_id), of_event(one.event_id)), (wanted, vec![acme]));
    assert_eq!((made.len(), bed.claim().await.len()), (3, 3));
    let of_acme = made.iter().find(|d| d.endpoint_id == Some(acme)).unwrap();
    assert_eq!((of_acme.account.as_deref(), of_acme.event_type.as_str()), (Some("acme"), "invoice.paid"));
}

async fn a_body_holds_the_data_byte_for_byte(bed: &Bed) {
    endpoint_of(bed, bed.tenant, json!({"account": "a", "events": ["x"]})).await;
    endpoint_of(bed, bed.tenant, json!({"account": "a", "events": ["x"], "format": "cloudevents"})).await;
    endpoint_of(bed, bed.tenant, json!({"account": "a", "events": ["x"], "payload": "thin"})).await;
    let data = "{ \"z\" : 1.50,\n\t\"a\":[\"\\u00e9\", \"ü\\u0000\"] , \"z\":2e1}";
    let mut new = event(bed, json!({"type": "x", "data": 0, "account": "a"}));
    new.draft.data = data.to_owned();
    let published = publish(bed, new).await;

    let claimed = bed.claim().await;

    assert_eq!(claimed.len(), 3);
    for one in &claimed {
        let body = std::str::from_utf8(&one.body).unwrap();
        assert_eq!((one.event_id, one.event_kind.as_str()), (published.event_id, "x"));
        match one.variant.as_str() {
            "cloudevents" => assert_eq!(body, data),
            _ => {
                let id = published.event_id;
                let head = format!(
                    "{{\"type\":\"x\",\"timestamp\":\"2026-01-01T00:00:00.000Z\",\"eventId\":\"{id}\",\"account\":\"a\",\"data\":"
                );
                assert_eq!(body, format!("{head}{data}}}"));
            }
        }
    }
    assert_eq!(bed.count("bodies").await, 2, "one body for each form");
}

async fn a_paused_endpoint_is_owed_its_events(bed: &Bed) {
    let there = endpoint_of(bed, bed.tenant, json!({"events": ["*"]})).await;
    bed.store.set_endpoint_paused(bed.tenant, there.id, true, bed.now()).await.unwrap();
    assert_eq!(publish(bed, paid(bed)).await.deliveries, 1);
    assert!(bed.claim().await.is_empty());
    let held = deliveries(bed, Some(DeliveryState::Held)).await;
    assert_eq!((held.len(), held[0].held_reason, held[0].attempt), (1, Some(HeldReason::Paused), 0));
    bed.store.set_endpoint_paused(bed.tenant, there.id, false, bed.now()).await.unwrap();
    assert_eq!(bed.store.step_drains(bed.now()).await.unwrap(), 1);
    bed.deliver(200, Verdict::Delivered).await;
}

fn owned(bed: &Bed, id: &str, data: Value) -> NewEvent {
    event(bed, json!({"type": "invoice.paid", "id": id, "data": data}))
}

async fn an_event_of_an_own_id_is_published_once(bed: &Bed) {
    endpoint_of(bed, bed.tenant, json!({"events": ["*"]})).await;
    let first = publish(bed, owned(bed, "1", json!(1))).await;
    assert!(!first.replayed);
    endpoint_of(bed, bed.tenant, json!({"events": ["*"]})).await;
    let again = publish(bed, owned(bed, "1", json!(1))).await;
    assert_eq!(again, Published { replayed: true, ..first }, "as it was answered");
    let other = all(&bed.store, bed, vec![owned(bed, "1", json!(2))], false).await.unwrap();
    assert_eq!(other, [Err(Reused)]);
    // In one request the first speaks for the others.
    let mixed =
        vec![owned(bed, "2", json!(1)), owned(bed, "2", json!(1)), owned(bed, "2", json!(2)), paid(bed)];
    let mixed = all(&bed.store, bed, mixed, false).await.unwrap();
    let [Ok(one), Ok(two), Err(Reused), Ok(last)] = mixed[..] else { panic!("{mixed:?}") };
    assert_eq!((one.event_id, one.replayed, two.replayed, last.replayed), (two.event_id, false, true, false));
    let elsewhere = bed.store.tenant("two", bed.now()).await.unwrap();
    let theirs = NewEvent { tenant: elsewhere, ..owned(bed, "1", json!(3)) };
    assert!(!publish(bed, theirs).await.replayed, "an id is the tenant's own");
    assert_eq!((bed.count("events").await, bed.count("deliveries").await), (4, 5));
}

async fn an_own_id_holds_across_a_restart_and_for_a_day(bed: &Bed) {
    let first = publish(bed, owned(bed, "1", json!(1))).await;
    bed.store.close().await;
    let again = open(&bed.url, 7).await.unwrap();
    bed.pass(Duration::from_secs(86_400) - Duration::from_millis(1));
    let one = || async {
        all(&again, bed, vec![owned(bed, "1", json!(1))], false).await.unwrap().remove(0).unwrap()
    };
    assert_eq!(one().await, Published { replayed: true, ..first });
    bed.pass(Duration::from_millis(1));
    let next = one().await;
    assert!(!next.replayed && next.event_id != first.event_id);
    again.close().await;
}

async fn one_own_id_published_at_once_from_everywhere_is_one_event(bed: &Bed) {
    endpoint_of(bed, bed.tenant, json!({"events": ["*"]})).await;
    let other = match bed.engine() {
        ringback::store::db::Engine::Sqlite => bed.store.clone(),
        ringback::store::db::Engine::Postgres => open(&bed.url, 9).await.unwrap(),
    };
    let calls = (0..60).map(|n| {
        let store = if n % 2 == 0 { &bed.store } else { &other };
        all(store, bed, vec![owned(bed, &(n % 3).to_string(), json!(1))], false)
    });
    let told = join_all(calls).await;
    let mut ids = std::collections::BTreeSet::new();
    let mut fresh = 0;
    for one in told {
        match one {
            Ok(answers) => {
                let published = answers[0].unwrap();
                ids.insert(published.event_id);
                fresh += usize::from(!published.replayed);
            }
            // Its first is held up in another node's transaction.
            Err(Error::KeyInFlight | Error::Locked(_)) => {}
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!((ids.len(), fresh), (3, 3));
    assert_eq!((bed.count("events").await, bed.count("deliveries").await), (3, 3));
}

async fn all_or_none_leaves_nothing_behind(bed: &Bed) {
    publish(bed, owned(bed, "taken", json!(1))).await;
    let bad = vec![owned(bed, "new", json!(1)), owned(bed, "taken", json!(2)), owned(bed, "taken", json!(1))];
    // Beside it others are written, before it or after it.
    let (refused, other) = tokio::join!(
        all(&bed.store, bed, bad, true),
        all(&bed.store, bed, vec![owned(bed, "new", json!(9))], false),
    );
    let Err(Error::Invalid(why)) = refused else { panic!("{refused:?}") };
    assert_eq!(why.code, ProblemCode::IdempotencyKeyReused);
    let at = why.errors.iter().map(|e| e.pointer.as_str()).collect::<Vec<_>>();
    assert!(matches!(at[..], ["/events/1/id"] | ["/events/0/id", "/events/1/id"]), "{at:?}");
    assert!(!other.unwrap()[0].unwrap().replayed, "the id of what was not stored is free");
    assert_eq!((bed.count("events").await, bed.count("idempotency").await), (2, 2));
    let good = vec![owned(bed, "a", json!(1)), owned(bed, "taken", json!(1))];
    let good = all(&bed.store, bed, good, true).await.unwrap();
    assert_eq!(good.iter().map(|one| one.unwrap().replayed).collect::<Vec<_>>(), [false, true]);
}

async fn a_request_repeated_by_its_key_is_the_same_event(bed: &Bed) {
    let keyed = |print| NewEvent { idempotency: Some(key("/v1/events", "k", print)), ..paid(bed) };
    let first = publish(bed, keyed(1)).await;
    assert_eq!(publish(bed, keyed(1)).await, Published { replayed: true, ..first });
    assert!(matches!(all(&bed.store, bed, vec![keyed(2)], false).await, Err(Error::KeyReused)));
    // Whatever else it says: nothing of it is kept.
    let both = NewEvent { idempotency: Some(key("/v1/events", "k", 2)), ..owned(bed, "1", json!(1)) };
    assert!(matches!(all(&bed.store, bed, vec![both], false).await, Err(Error::KeyReused)));
    assert!(!publish(bed, owned(bed, "1", json!(2))).await.replayed);
    assert_eq!(bed.count("events").await, 2);
}

async fn a_key_tells_of_the_event_that_its_request_turned_out_to_be(bed: &Bed) {
    let first = publish(bed, owned(bed, "1", json!(1))).await;
    bed.pass_seconds(82_800);
    let keyed = || NewEvent { idempotency: Some(key("/v1/events", "k", 1)), ..owned(bed, "1", json!(1)) };
    assert_eq!(publish(bed, keyed()).await.event_id, first.event_id);
    bed.pass_seconds(7_200);
    assert_eq!(
        publish(bed, keyed()).await.event_id,
        first.event_id,
        "the id is past its day, the key is not"
    );
    assert_eq!(publish(bed, owned(bed, "1", json!(1))).await.event_id, first.event_id);
    assert_eq!(bed.count("events").await, 1);
}
