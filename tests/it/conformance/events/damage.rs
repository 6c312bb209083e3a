//! One row that cannot be read harms nobody but itself.

use std::time::Duration;

use ringback::store::NewEvent;
use serde_json::json;

use super::fan_out::endpoints_of;
use super::{paid, publish};
use crate::support::store::{Bed, both_stores};

both_stores! { a_fan_out_that_cannot_be_told_is_put_off_and_keeps_no_other }

async fn a_fan_out_that_cannot_be_told_is_put_off_and_keeps_no_other(bed: &Bed) {
    bed.pass_seconds(1);
    let other = bed.store.tenant("other", bed.now()).await.unwrap();
    for tenant in [bed.tenant, other] {
        endpoints_of(bed, tenant, json!({"events": ["*"]}), 1_010).await;
    }
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
