//! Events that have more endpoints than one transaction tells.

use std::collections::BTreeSet;

use ringback::store::{Error, NewEvent, Publication};
use ringback::types::delivery::DeliveryState;
use ringback::types::problem::ProblemCode;
use ringback::types::{EndpointId, TenantId};
use serde_json::{Value, json};

use super::{deliveries, event, paid, publish};
use crate::conformance::endpoints::endpoint_of;
use crate::support::store::{Bed, beside, both_stores, open};

both_stores! {
    beyond_a_thousand_the_endpoints_of_that_moment_are_told_in_chunks,
    two_nodes_never_tell_one_endpoint_twice,
    a_batch_with_too_many_deliveries_in_order_is_refused_alone,
    a_batch_that_too_many_are_to_hear_of_is_refused_alone,
    tenants_take_turns,
    how_long_the_oldest_waits_to_be_told_is_a_figure,
}

async fn endpoints(bed: &Bed, n: usize) -> BTreeSet<EndpointId> {
    endpoints_of(bed, bed.tenant, json!({"events": ["*"]}), n).await
}

/// An endpoint and its copies; gives the ids of all of them.
pub(super) async fn endpoints_of(bed: &Bed, tenant: TenantId, like: Value, n: usize) -> BTreeSet<EndpointId> {
    let first = endpoint_of(bed, tenant, like).await;
    let mut conn = beside(&bed.url).await;
    conn.run("BEGIN", vec![]).await.unwrap();
    let mut ids = BTreeSet::from([first.id]);
    for _ in 1..n {
        let id: EndpointId = bed.dice.id(bed.now());
        let copy = "INSERT INTO endpoints (id, tenant_id, account, url, patterns, timeout_seconds, ordered, policy, payload,
                        format, schemes, state, state_since, failed, told, created_at, updated_at, drain_step)
                    SELECT $1, tenant_id, account, url, patterns, timeout_seconds, ordered, policy, payload, format, schemes,
                        state, state_since, failed, told, created_at, updated_at, drain_step
                    FROM endpoints WHERE id = $2";
        conn.run(copy, ringback::args![id, first.id]).await.unwrap();
        ids.insert(id);
    }
    conn.run("COMMIT", vec![]).await.unwrap();
    bed.pass_seconds(2);
    ids
}

async fn told(bed: &Bed) -> Vec<EndpointId> {
    let rows = bed.rows("SELECT endpoint_id FROM deliveries ORDER BY endpoint_id").await;
    rows.iter().map(|row| row.id(0).unwrap()).collect()
}

async fn beyond_a_thousand_the_endpoints_of_that_moment_are_told_in_chunks(bed: &Bed) {
    let ids = endpoints(bed, 2_300).await;
    let published = publish(bed, event(bed, json!({"type": "a", "data": [1]}))).await;
    assert_eq!((published.deliveries, bed.count("deliveries").await), (2_300, 1_000));
    // What changes now changes nothing for it: neither who comes, nor who goes, but for how it ends.
    endpoint_of(bed, bed.tenant, json!({"events": ["*"]})).await;
    let done: BTreeSet<EndpointId> = told(bed).await.into_iter().collect();
    let gone = *ids.difference(&done).next().unwrap();
    bed.store.delete_endpoint(bed.tenant, gone, bed.now()).await.unwrap();
    bed.store.close().await;

    let again = open(&bed.url, 5).await.unwrap();
    assert_eq!(again.step_fan_outs(bed.now()).await.unwrap(), 1_000);
    assert_eq!(bed.count("fan_outs").await, 1);
    assert_eq!(again.step_fan_outs(bed.now()).await.unwrap(), 300);
    assert_eq!(again.step_fan_outs(bed.now()).await.unwrap(), 0);

    assert_eq!(told(bed).await, ids.into_iter().collect::<Vec<_>>(), "each once");
    assert_eq!((bed.count("fan_outs").await, bed.count("bodies").await), (0, 1));
    let cancelled =
        format!("deliveries WHERE state = 'cancelled' AND endpoint_id = {}", bed.literal(gone.uuid()));
    assert_eq!((bed.count(&cancelled).await, bed.count("delivery_queue").await), (1, 2_299));
    again.close().await;
}

async fn two_nodes_never_tell_one_endpoint_twice(bed: &Bed) {
    let ids = endpoints(bed, 1_700).await;
    for _ in 0..2 {
        publish(bed, paid(bed)).await;
    }
    let other = match bed.engine() {
        ringback::store::db::Engine::Sqlite => bed.store.clone(),
        ringback::store::db::Engine::Postgres => open(&bed.url, 9).await.unwrap(),
    };
    for _ in 0..20 {
        let steps = tokio::join!(bed.store.step_fan_outs(bed.now()), other.step_fan_outs(bed.now()));
        if (steps.0.unwrap(), steps.1.unwrap()) == (0, 0) && bed.count("fan_outs").await == 0 {
            break;
        }
    }
    let both: Vec<EndpointId> = ids.iter().flat_map(|id| [*id, *id]).collect();
    assert_eq!(told(bed).await, both);
    assert_eq!(deliveries(bed, Some(DeliveryState::Cancelled)).await.len(), 0);
}

async fn refused_beside_few(bed: &Bed) {
    let batch = |n: usize| {
        let events = (0..n).map(|i| event(bed, json!({"type": "a", "data": i}))).collect();
        bed.store.publish(Publication { events, atomic: false }, bed.now())
    };
    let (crowd, few) = tokio::join!(batch(1_000), batch(2));
    match crowd {
        Err(Error::Invalid(refused)) => assert_eq!(refused.code, ProblemCode::PayloadTooLarge),
        other => panic!("{other:?}"),
    }
    assert_eq!(few.unwrap().len(), 2, "who comes with it does not pay for it");
}

async fn a_batch_that_too_many_are_to_hear_of_is_refused_alone(bed: &Bed) {
    endpoints(bed, 4_001).await;
    refused_beside_few(bed).await;
    assert_eq!((bed.count("events").await, bed.count("fan_outs").await), (2, 2));
}

async fn a_batch_with_too_many_deliveries_in_order_is_refused_alone(bed: &Bed) {
    for _ in 0..11 {
        endpoint_of(bed, bed.tenant, json!({"events": ["*"], "ordered": true})).await;
    }
    refused_beside_few(bed).await;
    assert_eq!((bed.count("events").await, bed.count("deliveries").await), (2, 22));
}

async fn tenants_take_turns(bed: &Bed) {
    bed.pass_seconds(1);
    let other = bed.store.tenant("other", bed.now()).await.unwrap();
    endpoints(bed, 2_300).await;
    endpoints_of(bed, other, json!({"events": ["*"]}), 1_200).await;
    publish(bed, paid(bed)).await;
    publish(bed, NewEvent { tenant: other, ..paid(bed) }).await;
    for told in [1_000, 200, 300, 0] {
        assert_eq!(bed.store.step_fan_outs(bed.now()).await.unwrap(), told);
    }
}

async fn how_long_the_oldest_waits_to_be_told_is_a_figure(bed: &Bed) {
    let waits = async || {
        let figures = bed.store.figures(bed.now()).await.unwrap();
        figures.into_iter().find(|(name, _)| *name == "fan_outs_oldest_seconds").unwrap().1
    };
    endpoints(bed, 1_010).await;
    assert_eq!(waits().await, 0);
    publish(bed, paid(bed)).await;
    bed.pass_seconds(30);
    publish(bed, paid(bed)).await;
    bed.pass_seconds(5);
    assert_eq!(waits().await, 35);
    while bed.store.step_fan_outs(bed.now()).await.unwrap() > 0 {}
    assert_eq!(waits().await, 0);
}
