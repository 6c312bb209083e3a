//! Standing endpoints and their deliveries.

mod health;
mod parked;
mod settings;

use std::time::Duration;

use ringback::store::{ClaimedDelivery, DeliveryFilter, Error, NewEndpoint, PageOf, Store};
use ringback::types::delivery::{DeadReason, DeliveryState, Verdict};
use ringback::types::endpoint::{Endpoint, check};
use ringback::types::job::CallbackState;
use ringback::types::target::UrlPolicy;
use ringback::types::{EndpointId, JobId, TenantId};

use serde_json::json;

use crate::support::store::{Bed, attempted, both_stores, callback, complete, failure, page};

both_stores! {
    a_subscriber_is_told_of_each_event_in_its_transaction,
    a_beginning_is_told_once_whatever_comes_after_it,
    an_endpoint_of_an_account_is_not_told_of_jobs,
    a_callback_to_an_endpoint_goes_where_that_is_now,
    a_callbacks_endpoint_is_told_once,
    a_slow_endpoints_lease_outlasts_its_attempt,
    a_dead_callback_to_an_endpoint_is_told_under_its_secret,
    another_nodes_endpoint_is_honoured_within_a_second,
    a_failed_test_leaves_no_letter_and_is_told_to_nobody,
    an_endpoints_deliveries_are_listed_whatever_accounts_it_had,
}

/// An endpoint with these members beside its URL.
pub async fn endpoint_of(bed: &Bed, tenant: TenantId, more: serde_json::Value) -> Endpoint {
    let mut wish = serde_json::json!({"url": "https://standing.example.com/in"});
    wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let settings = check(serde_json::from_value(wish).unwrap(), &UrlPolicy::default()).unwrap();
    let new = NewEndpoint { tenant, settings, idempotency: None };
    let (id, earlier) = bed.store.put_endpoint(new, 5_000, bed.now()).await.unwrap();
    assert!(!earlier);
    bed.store.endpoint(tenant, id).await.unwrap()
}

pub(super) async fn endpoint(bed: &Bed, more: serde_json::Value) -> Endpoint {
    endpoint_of(bed, bed.tenant, more).await
}

fn events(patterns: &[&str]) -> serde_json::Value {
    serde_json::json!({ "events": patterns })
}

pub(super) async fn change(bed: &Bed, id: EndpointId, members: serde_json::Value) -> Endpoint {
    try_change(bed, id, members).await.unwrap()
}

pub(super) async fn try_change(
    bed: &Bed,
    id: EndpointId,
    members: serde_json::Value,
) -> Result<Endpoint, Error> {
    let change = serde_json::from_value(members).unwrap();
    let edit =
        |settings: ringback::types::endpoint::Settings| settings.changed(change, &UrlPolicy::default());
    bed.store.change_endpoint(bed.tenant, id, edit, 50, bed.now()).await
}

/// A job whose callback names the endpoint.
async fn submit_to(bed: &Bed, endpoint: &Endpoint) -> JobId {
    let mut callback = callback(&endpoint.settings.url);
    callback.endpoint_id = Some(endpoint.id);
    (callback.payload, callback.format) = (None, None);
    bed.submit(bed.job_with(|j| j.callback = Some(callback))).await.job.id
}

fn kinds(claimed: &[ClaimedDelivery]) -> Vec<&str> {
    let mut kinds: Vec<&str> = claimed.iter().map(|d| d.event_kind.as_str()).collect();
    kinds.sort_unstable();
    kinds
}

async fn a_failed_test_leaves_no_letter_and_is_told_to_nobody(bed: &Bed) {
    endpoint(bed, events(&["delivery.dead"])).await;
    let there = endpoint(bed, events(&[])).await;
    for kind in ["webhook.test", "webhook.verify"] {
        let probe = bed.store.begin_probe(&there, kind, &serde_json::json!({}), bed.now()).await.unwrap();
        assert!(bed.record(attempted(&probe, 500, Verdict::Dead(DeadReason::Exhausted))).await);
    }
    assert_eq!(bed.count("deliveries WHERE state = 'dead'").await, 2);
    assert_eq!(bed.count("dead_letters").await, 0, "nothing that a replay would send again");
    assert!(bed.claim().await.is_empty());
}

async fn a_subscriber_is_told_of_each_event_in_its_transaction(bed: &Bed) {
    let all = endpoint(bed, events(&["job.*"])).await;
    let ends =
        endpoint(bed, serde_json::json!({"events": ["job.completed", "invoice.*"], "payload": "thin"})).await;
    let elsewhere = bed.store.tenant("two", bed.now()).await.unwrap();
    endpoint_of(bed, elsewhere, events(&["*"])).await;
    let id = bed.submit(bed.job()).await.job.id;
    assert_eq!(kinds(&bed.claim().await), ["job.queued"]);
    let job = bed.lease_one().await;
    assert_eq!(kinds(&bed.claim().await), ["job.started"]);
    bed.held(&job, complete()).await.unwrap();
    let told = bed.claim().await;
    assert_eq!(kinds(&told), ["job.completed", "job.completed"]);
    let to = |id| told.iter().find(|d| d.endpoint.as_ref().unwrap().id == id).unwrap();
    assert_eq!((to(all.id).lane, to(ends.id).lane), (all.lane(), ends.lane()));
    assert_eq!((to(all.id).signer, to(all.id).job_id), (Some(all.id), Some(id)));
    let body = |d: &ClaimedDelivery| serde_json::from_slice::<serde_json::Value>(&d.body).unwrap();
    assert_eq!(body(to(all.id))["data"]["result"]["ok"], true);
    assert!(body(to(ends.id))["data"].get("result").is_none(), "thin");
    assert_eq!(body(to(all.id))["eventId"], body(to(ends.id))["eventId"], "one event");
    assert_eq!(bed.get(id).await.callback_state, CallbackState::None, "it has no callback of its own");
}

async fn a_beginning_is_told_once_whatever_comes_after_it(bed: &Bed) {
    let starts = endpoint(bed, events(&["job.started"])).await;
    let id = bed.submit(bed.job()).await.job.id;
    bed.lease_one().await;
    bed.pass_seconds(31);
    let job = bed.lease_one().await;
    assert_eq!(bed.claim().await.len(), 2, "the lost attempt's beginning and the next one's");
    // Nobody subscribes any more; what was told stays told.
    bed.store.delete_endpoint(bed.tenant, starts.id, bed.now()).await.unwrap();
    bed.held(&job, failure(true)).await.unwrap();
    bed.pass_seconds(60);
    let job = bed.lease_one().await;
    bed.held(&job, failure(false)).await.unwrap();
    bed.owner(id, ringback::store::What::Retry).await.unwrap();
    let starts = endpoint(bed, events(&["job.started"])).await;
    let job = bed.lease_one().await;
    bed.held(&job, complete()).await.unwrap();
    let told = bed.claim().await;
    assert_eq!(kinds(&told), ["job.started"]);
    assert_eq!(told[0].endpoint.as_ref().unwrap().id, starts.id);
    let started = bed.kinds(id).await.iter().filter(|kind| *kind == "started").count();
    assert_eq!(started, 4);
}

async fn an_endpoint_of_an_account_is_not_told_of_jobs(bed: &Bed) {
    endpoint(bed, serde_json::json!({"account": "acme", "events": ["*"]})).await;
    bed.completed().await;
    let claimed = bed.claim_one().await;
    assert_eq!(claimed.endpoint, None, "the callback's own");
}

async fn a_callback_to_an_endpoint_goes_where_that_is_now(bed: &Bed) {
    let given = serde_json::json!({"account": "acme", "events": [], "headers": {"X-Env": "one"},
        "format": "cloudevents", "retry": {"maxAttempts": 2}});
    let there = endpoint(bed, given).await;
    let id = submit_to(bed, &there).await;
    let job = bed.lease_one().await;
    bed.held(&job, complete()).await.unwrap();
    let seen = async || {
        let filter = ringback::store::DeliveryFilter::default();
        bed.store.deliveries(bed.tenant, &filter, page(10), bed.now()).await.unwrap().rows.remove(0)
    };
    let before = seen().await;
    assert_eq!((before.endpoint_id, before.account.as_deref()), (Some(there.id), Some("acme")));
    assert_eq!((before.url.as_str(), before.max_attempts), ("https://standing.example.com/in", 2));
    let members = serde_json::json!({"url": "https://other.example.com/new", "headers": {"X-Env": "two"},
        "timeoutSeconds": 3, "schemes": ["github"]});
    change(bed, there.id, members).await;
    assert_eq!(seen().await.url, "https://other.example.com/new", "what it will use");
    let claimed = bed.claim_one().await;
    let to = claimed.endpoint.clone().unwrap();
    assert_eq!((claimed.url.as_str(), to.timeout), ("https://other.example.com/new", Duration::from_secs(3)));
    assert_eq!((to.schemes.len(), claimed.variant.as_str()), (2, "cloudevents"));
    let headers = bed.store.open_endpoint_headers(bed.tenant, to.id, to.sealed.as_deref()).unwrap();
    assert_eq!(headers, [("x-env".to_owned(), "two".to_owned())]);
    let mut done = attempted(&claimed, 200, Verdict::Delivered);
    done.endpoint = Some((there.id, claimed.url.clone()));
    assert!(bed.record(done).await);
    bed.store.delete_endpoint(bed.tenant, there.id, bed.now()).await.unwrap();
    let after = seen().await;
    assert_eq!(
        (after.state, after.url.as_str()),
        (DeliveryState::Delivered, "https://other.example.com/new")
    );
    assert_eq!(bed.get(id).await.callback_state, CallbackState::Delivered);
}

async fn a_callbacks_endpoint_is_told_once(bed: &Bed) {
    let there = endpoint(bed, events(&["job.*"])).await;
    submit_to(bed, &there).await;
    let job = bed.lease_one().await;
    bed.held(&job, complete()).await.unwrap();
    assert_eq!(kinds(&bed.claim().await), ["job.completed", "job.queued", "job.started"]);
}

async fn a_slow_endpoints_lease_outlasts_its_attempt(bed: &Bed) {
    endpoint(bed, serde_json::json!({"events": ["job.queued"], "timeoutSeconds": 30})).await;
    bed.submit(bed.job()).await;
    let claimed = bed.claim_one().await;
    assert_eq!(claimed.lease_until, bed.now().plus(Duration::from_secs(45)), "15 s more than the usual 30");
    bed.pass_seconds(44);
    assert!(bed.claim().await.is_empty());
    bed.pass_seconds(1);
    assert_eq!(bed.claim_one().await.unknowns, 1);
}

async fn a_dead_callback_to_an_endpoint_is_told_under_its_secret(bed: &Bed) {
    let there = endpoint(bed, events(&[])).await;
    let mut to = callback(&there.settings.url);
    to.endpoint_id = Some(there.id);
    to.failure_url = Some("https://hooks.example.com/dead".to_owned());
    bed.submit(bed.job_with(|j| j.callback = Some(to))).await;
    let job = bed.lease_one().await;
    bed.held(&job, complete()).await.unwrap();
    bed.deliver(500, Verdict::Dead(DeadReason::Exhausted)).await;
    let letters = bed
        .store
        .dead_letters(bed.tenant, &Default::default(), &Default::default(), page(5))
        .await
        .unwrap()
        .rows;
    assert_eq!(letters[0].endpoint_id, Some(there.id));
    let notice = bed.claim_one().await;
    assert_eq!(
        (notice.event_kind.as_str(), notice.url.as_str()),
        ("delivery.dead", "https://hooks.example.com/dead")
    );
    assert_eq!((notice.signer, notice.endpoint), (Some(there.id), None));
}

async fn another_nodes_endpoint_is_honoured_within_a_second(bed: &Bed) {
    if bed.engine() == ringback::store::db::Engine::Sqlite {
        return; // one process, one node
    }
    let other: Store = crate::support::store::open(&bed.url, 9).await.unwrap();
    other.submit(vec![bed.job()], bed.now()).await.unwrap();
    endpoint(bed, events(&["job.queued"])).await;
    other.submit(vec![bed.job()], bed.now()).await.unwrap();
    assert!(bed.claim().await.is_empty(), "it goes by what it read just now");
    bed.pass(Duration::from_millis(1_000));
    other.submit(vec![bed.job()], bed.now()).await.unwrap();
    assert_eq!(bed.claim().await.len(), 1);
}

async fn an_endpoints_deliveries_are_listed_whatever_accounts_it_had(bed: &Bed) {
    let there = endpoint(bed, json!({"account": "acme", "events": []})).await;
    let mut made = Vec::new();
    for account in [json!("acme"), json!("beta"), json!(null), json!("acme")] {
        let now = change(bed, there.id, json!({ "account": account })).await;
        for _ in 0..2 {
            bed.pass_seconds(1);
            submit_to(bed, &now).await;
            bed.held(&bed.lease_one().await, complete()).await.unwrap();
            made.push(now.settings.account.clone());
        }
    }
    made.reverse();
    let of = DeliveryFilter { endpoint_id: Some(there.id), ..DeliveryFilter::default() };
    let list = async |page| bed.store.deliveries(bed.tenant, &of, page, bed.now()).await.unwrap().rows;
    let whole = list(page(10)).await;
    let accounts = whole.iter().map(|d| d.account.clone()).collect::<Vec<_>>();
    assert_eq!(accounts, made, "newest first over all of its accounts");
    let mut paged = Vec::new();
    for _ in 0..3 {
        let after = paged.last().copied();
        paged.extend(list(PageOf { after, limit: 3 }).await.into_iter().map(|d| d.delivery_id));
    }
    assert_eq!(paged, whole.iter().map(|d| d.delivery_id).collect::<Vec<_>>());

    // What is made for it afterwards is made without its account, and listed all the same.
    bed.pass_seconds(1);
    let job = submit_to(bed, &there).await;
    bed.store.delete_endpoint(bed.tenant, there.id, bed.now()).await.unwrap();
    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    let all = list(page(10)).await;
    assert_eq!((all.len(), all[0].job_id), (9, Some(job)));
    bed.rows(&format!("DELETE FROM endpoints WHERE id = {}", bed.literal(there.id.uuid()))).await;
    assert_eq!(list(page(10)).await.len(), 9, "nor are they lost with the endpoint's own row");
}
