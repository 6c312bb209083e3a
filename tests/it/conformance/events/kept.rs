//! What is still to be told outlasts every retention.

use std::time::Duration;

use ringback::store::Error;
use ringback::types::JobId;
use serde_json::json;

use super::crowds::{cancelled, short_lived, told_to_all};
use super::fan_out::endpoints_of;
use super::{paid, publish};
use crate::conformance::retention::retain;
use crate::support::store::{Bed, both_stores};

const DAY: u64 = 86_400;

both_stores! {
    an_event_that_nobody_has_heard_of_yet_stays_however_old,
    a_body_stays_until_all_have_their_delivery,
    a_body_goes_where_nobody_is_left_to_be_told,
    a_job_stays_until_all_have_heard_of_it,
}

/// All deliveries that are owed have reached their receivers.
async fn delivered(bed: &Bed) {
    let (now, remove_at) = (bed.now().0, bed.now().plus(Duration::from_secs(7 * DAY)).0);
    bed.rows(&format!(
        "UPDATE deliveries SET state = 'delivered', ended_at = {now}, remove_at = {remove_at} WHERE state = 'owed'"
    ))
    .await;
    bed.rows("DELETE FROM delivery_queue").await;
}

async fn an_event_that_nobody_has_heard_of_yet_stays_however_old(bed: &Bed) {
    short_lived(bed, 100).await;
    endpoints_of(bed, bed.tenant, json!({"events": ["delivery.dead"]}), 50).await;
    bed.pass_seconds(60);
    assert_eq!(bed.store.end_expired(bed.now()).await.unwrap(), 100);
    assert_eq!(bed.count("fan_outs").await, 20, "put off whole: no delivery holds these events");
    delivered(bed).await;
    bed.pass_seconds(8 * DAY);
    retain(bed).await;
    told_to_all(bed).await;
    assert_eq!(bed.count("deliveries WHERE event_kind = 'delivery.dead'").await, 100 * 50);
}

async fn a_body_stays_until_all_have_their_delivery(bed: &Bed) {
    endpoints_of(bed, bed.tenant, json!({"events": ["*"]}), 1_010).await;
    publish(bed, paid(bed)).await;
    delivered(bed).await;
    bed.pass_seconds(8 * DAY);
    retain(bed).await;
    assert_eq!((bed.count("deliveries").await, bed.count("bodies").await), (0, 1));
    told_to_all(bed).await;
    assert_eq!(bed.count("delivery_queue").await, 10);
    delivered(bed).await;
    bed.pass_seconds(8 * DAY);
    retain(bed).await;
    assert_eq!((bed.count("events").await, bed.count("bodies").await), (0, 0));
}

async fn a_body_goes_where_nobody_is_left_to_be_told(bed: &Bed) {
    endpoints_of(bed, bed.tenant, json!({"events": ["*"]}), 1_010).await;
    publish(bed, paid(bed)).await;
    delivered(bed).await;
    bed.pass_seconds(8 * DAY);
    retain(bed).await;
    bed.rows("DELETE FROM endpoints").await;
    told_to_all(bed).await;
    assert_eq!((bed.count("deliveries").await, bed.count("bodies").await), (0, 1));
    bed.pass_seconds(8 * DAY);
    retain(bed).await;
    assert_eq!((bed.count("events").await, bed.count("bodies").await), (0, 0));
}

async fn a_job_stays_until_all_have_heard_of_it(bed: &Bed) {
    endpoints_of(bed, bed.tenant, json!({"events": ["job.cancelled"], "payload": "thin"}), 1_010).await;
    let id: JobId = bed.submit(bed.job_with(|j| j.retain_seconds = 60)).await.job.id;
    bed.change(cancelled(bed, id)).await.unwrap();
    delivered(bed).await;
    bed.store.keep_needed(bed.now()).await.unwrap();
    bed.pass_seconds(61);
    retain(bed).await;
    assert_eq!(bed.get(id).await.id, id);
    told_to_all(bed).await;
    delivered(bed).await;
    bed.pass_seconds(2 * DAY);
    retain(bed).await;
    assert!(matches!(bed.store.job(bed.tenant, id, bed.now()).await, Err(Error::Expired)));
}
