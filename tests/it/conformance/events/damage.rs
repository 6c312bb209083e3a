//! One row that cannot be read harms nobody but itself.

use std::time::Duration;

use ringback::store::db::Engine;
use ringback::store::{Error, NewEvent, Store, check};
use ringback::types::job::{Callback, JobEvent};
use ringback::types::{EndpointId, TenantId};
use serde_json::json;

use super::fan_out::endpoints_of;
use super::{event, paid, publish};
use crate::conformance::endpoints::endpoint_of;
use crate::support::store::{Bed, beside, both_stores, callback, complete};

both_stores! {
    an_endpoint_that_cannot_be_read_is_told_all_the_same_and_keeps_nobody_from_being_told,
    a_submission_that_names_an_endpoint_that_cannot_be_read_fails_whatever_was_read_before,
    a_fan_out_that_cannot_be_told_is_put_off_and_keeps_no_other,
    a_tenant_that_cannot_be_told_takes_no_turn_of_the_others,
    an_event_whose_body_is_lost_goes_once_it_is_given_up,
    a_delivery_that_the_database_refuses_keeps_no_other,
    an_ordered_lane_that_is_held_keeps_no_other_fan_out,
    what_expires_ends_whatever_is_damaged_of_those_who_are_told,
}

/// Nothing of its settings can be read any more but where it is and what it subscribes to.
pub async fn damage(bed: &Bed, id: EndpointId) {
    let odd = "policy = '{', payload = 'odd', format = '7', schemes = '[3]', timeout_seconds = -1";
    bed.rows(&format!("UPDATE endpoints SET {odd} WHERE id = {}", bed.literal(id.uuid()))).await;
    // No endpoint is as it was read.
    bed.pass_seconds(2);
}

async fn an_endpoint_that_cannot_be_read_is_told_all_the_same_and_keeps_nobody_from_being_told(bed: &Bed) {
    let ids = endpoints_of(bed, bed.tenant, json!({"events": ["invoice.paid"]}), 1_010).await;
    let first = publish(bed, paid(bed)).await;
    let told = bed.rows("SELECT endpoint_id FROM deliveries").await;
    let told: Vec<EndpointId> = told.iter().map(|row| row.id(0).unwrap()).collect();
    let bad = *ids.iter().find(|id| !told.contains(id)).unwrap();
    let named = Callback { endpoint_id: Some(bad), ..callback("https://x.example.com/") };
    bed.submit(bed.job_with(|j| j.callback = Some(named))).await;
    let held = bed.lease_one().await;
    damage(bed, bad).await;

    assert_eq!(bed.store.step_fan_outs(bed.now()).await.unwrap(), 10);
    let second = publish(bed, paid(bed)).await;
    assert_eq!(bed.store.step_fan_outs(bed.now()).await.unwrap(), 10);
    bed.held(&held, complete()).await.unwrap();

    for event in [first, second] {
        let of = format!("deliveries WHERE event_id = {}", bed.literal(event.event_id.uuid()));
        assert_eq!((event.deliveries, bed.count(&of).await), (1_010, 1_010));
    }
    // It is owed what it was to hear, and sent nothing before it can be read.
    let owed = format!("deliveries WHERE state = 'owed' AND endpoint_id = {}", bed.literal(bad.uuid()));
    assert_eq!(bed.count(&owed).await, 3);
    assert!(bed.claim().await.iter().all(|d| d.endpoint.as_ref().is_none_or(|e| e.id != bad)));
}

async fn a_submission_that_names_an_endpoint_that_cannot_be_read_fails_whatever_was_read_before(bed: &Bed) {
    let id = endpoint_of(bed, bed.tenant, json!({})).await.id;
    let named = Callback { endpoint_id: Some(id), ..callback("https://x.example.com/") };
    bed.submit(bed.job_with(|j| j.callback = Some(named))).await;
    let held = bed.lease_one().await;
    damage(bed, id).await;
    let fails = async || {
        let found = bed.store.named_endpoints(bed.tenant, [id].into(), bed.now()).await;
        matches!(found, Err(Error::Bug(_)))
    };
    assert!(fails().await);
    // The transaction that tells it has read it and goes on.
    bed.held(&held, complete()).await.unwrap();
    assert!(fails().await);
    let other = bed.store.tenant("other", bed.now()).await.unwrap();
    let found = bed.store.named_endpoints(other, [id].into(), bed.now()).await;
    assert!(found.unwrap().is_empty(), "of another tenant nothing is told");
}

/// Another tenant, whose turn comes after; both have ten endpoints more than are told at once.
async fn beside_another(bed: &Bed) -> TenantId {
    bed.pass_seconds(1);
    let other = bed.store.tenant("other", bed.now()).await.unwrap();
    for tenant in [bed.tenant, other] {
        endpoints_of(bed, tenant, json!({"events": ["*"]}), 1_010).await;
    }
    other
}

async fn a_tenant_that_cannot_be_told_takes_no_turn_of_the_others(bed: &Bed) {
    let other = beside_another(bed).await;
    for _ in 0..3 {
        publish(bed, paid(bed)).await;
    }
    bed.rows("UPDATE bodies SET variant = 'lost'").await;
    publish(bed, NewEvent { tenant: other, ..paid(bed) }).await;
    // One is put off, and the next turn is not of the same tenant.
    for step in [1, 10, 1, 1, 0] {
        assert_eq!(bed.store.step_fan_outs(bed.now()).await.unwrap(), step);
    }
    bed.rows("UPDATE bodies SET variant = 'standard'").await;
}

async fn an_event_whose_body_is_lost_goes_once_it_is_given_up(bed: &Bed) {
    endpoints_of(bed, bed.tenant, json!({"events": ["*"]}), 1_010).await;
    let lost = publish(bed, paid(bed)).await.event_id;
    bed.rows("DELETE FROM bodies").await;
    bed.rows("DELETE FROM delivery_queue").await;
    let gone = bed.now().0;
    bed.rows(&format!("UPDATE deliveries SET state = 'delivered', ended_at = {gone}, remove_at = {gone}"))
        .await;
    bed.pass_seconds(8 * 86_400);
    assert_eq!(bed.store.step_fan_outs(bed.now()).await.unwrap(), 1);
    retained(bed).await;
    assert_eq!((bed.count("deliveries").await, bed.count("events").await), (0, 1));
    let found = check(&bed.url).await.unwrap();
    let named: Vec<_> = found.into_iter().flat_map(|f| f.broken).collect();
    assert_eq!(named, [lost.uuid().to_string()]);
    // As the guarantees tell an operator.
    bed.rows(&format!("DELETE FROM fan_outs WHERE event_id = {}", bed.literal(lost.uuid()))).await;
    bed.pass_seconds(2 * 86_400);
    retained(bed).await;
    assert_eq!(bed.count("events").await, 0);
}

/// Until nothing is past its time; what breaks an invariant meanwhile is known.
async fn retained(bed: &Bed) {
    while bed.retain(Store::BITE).await.unwrap() > 0 {}
}

async fn a_delivery_that_the_database_refuses_keeps_no_other(bed: &Bed) {
    let other = beside_another(bed).await;
    let odd = publish(bed, paid(bed)).await.event_id;
    publish(bed, NewEvent { tenant: other, ..paid(bed) }).await;
    bed.rows("CREATE UNIQUE INDEX odd ON deliveries (traceparent) WHERE traceparent = 'odd'").await;
    let of = format!("WHERE event_id = {}", bed.literal(odd.uuid()));
    bed.rows(&format!("UPDATE fan_outs SET traceparent = 'odd' {of}")).await;
    for step in [1, 10, 0] {
        assert_eq!(bed.store.step_fan_outs(bed.now()).await.unwrap(), step);
    }
    assert_eq!(bed.count(&format!("deliveries {of}")).await, 1_000);
    bed.rows("DROP INDEX odd").await;
    bed.pass(Duration::from_secs(300));
    assert_eq!(bed.store.step_fan_outs(bed.now()).await.unwrap(), 10);
}

async fn an_ordered_lane_that_is_held_keeps_no_other_fan_out(bed: &Bed) {
    if bed.engine() == Engine::Sqlite {
        // Who writes there holds everything.
        return;
    }
    let other = beside_another(bed).await;
    publish(bed, paid(bed)).await;
    endpoints_of(bed, bed.tenant, json!({"events": ["*"], "account": "acme"}), 1_010).await;
    publish(bed, event(bed, json!({"type": "invoice.paid", "data": 2, "account": "acme"}))).await;
    publish(bed, NewEvent { tenant: other, ..paid(bed) }).await;
    let waits = "SELECT e.id FROM endpoints e WHERE e.tenant_id = $1 AND NOT EXISTS (
                     SELECT 1 FROM deliveries d WHERE d.endpoint_id = e.id) LIMIT 1";
    let mut holder = beside(&bed.url).await;
    let ordered: EndpointId = holder.all(waits, ringback::args![bed.tenant]).await.unwrap()[0].id(0).unwrap();
    bed.rows(&format!("UPDATE endpoints SET ordered = 1 WHERE id = {}", bed.literal(ordered.uuid()))).await;
    bed.pass_seconds(2);
    holder.run("BEGIN", vec![]).await.unwrap();
    let hold =
        "INSERT INTO lanes (id, tenant_id, endpoint_id, concurrency, failures, opened, used_at, numbered)
                VALUES ($1, $2, $1, 10, 0, 0, 0, 0) ON CONFLICT (id) DO UPDATE SET numbered = lanes.numbered";
    holder.run(hold, ringback::args![ordered, bed.tenant]).await.unwrap();
    let held = bed.store.step_fan_outs(bed.now()).await;
    assert!(matches!(held, Err(Error::Locked(_))), "{held:?}");
    for step in [10, 10, 0] {
        assert_eq!(bed.store.step_fan_outs(bed.now()).await.unwrap(), step);
    }
    holder.run("ROLLBACK", vec![]).await.unwrap();
    bed.pass_seconds(30);
    for step in [10, 0] {
        assert_eq!(bed.store.step_fan_outs(bed.now()).await.unwrap(), step);
    }
}

async fn a_fan_out_that_cannot_be_told_is_put_off_and_keeps_no_other(bed: &Bed) {
    let other = beside_another(bed).await;
    let lost = publish(bed, paid(bed)).await.event_id;
    publish(bed, paid(bed)).await;
    publish(bed, NewEvent { tenant: other, ..paid(bed) }).await;
    let of = format!("WHERE event_id = {}", bed.literal(lost.uuid()));
    bed.rows(&format!("UPDATE bodies SET variant = 'lost' {of}")).await;

    while bed.store.step_fan_outs(bed.now()).await.unwrap() > 0 {}
    assert_eq!(bed.count(&format!("deliveries {of}")).await, 1_000);
    assert_eq!(
        (bed.count("deliveries").await, bed.count("fan_outs").await),
        (3 * 1_010 - 10, 1),
        "the others are told"
    );
    assert!(!bed.store.anything_overdue(bed.now()).await.unwrap(), "it is left alone for a while");

    bed.rows(&format!("UPDATE bodies SET variant = 'standard' {of}")).await;
    bed.pass(Duration::from_secs(300));
    assert!(bed.store.anything_overdue(bed.now()).await.unwrap());
    assert_eq!(bed.store.step_fan_outs(bed.now()).await.unwrap(), 10);
    assert_eq!((bed.count("deliveries").await, bed.count("fan_outs").await), (3 * 1_010, 0));
}

async fn what_expires_ends_whatever_is_damaged_of_those_who_are_told(bed: &Bed) {
    let expires_at = Some(bed.now().plus(Duration::from_secs(60)));
    let short = |failure_url: &str| {
        let (wants, failure_url) = (JobEvent::Queued.bit(), Some(failure_url.to_owned()));
        bed.job_with(|j| {
            j.callback =
                Some(Callback { wants, expires_at, failure_url, ..callback("https://a.example.com/") });
        })
    };
    for url in ["https://failures.example.com/", "https://broken.example.com/"] {
        bed.submit(short(url)).await;
    }
    bed.rows("UPDATE deliveries SET failure_url = 'nowhere' WHERE failure_url LIKE '%broken%'").await;
    let bad = endpoint_of(bed, bed.tenant, json!({"events": ["delivery.dead"]})).await.id;
    damage(bed, bad).await;
    bed.pass_seconds(60);

    assert_eq!(bed.store.end_expired(bed.now()).await.unwrap(), 2);
    assert_eq!(bed.count("dead_letters").await, 2);
    let told = "deliveries WHERE event_kind = 'delivery.dead' AND endpoint_id IS";
    assert_eq!(
        (bed.count(&format!("{told} NOT NULL")).await, bed.count(&format!("{told} NULL")).await),
        (2, 1)
    );
}
