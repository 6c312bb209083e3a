//! Lists of which one request sees a part: it looks at 2,000 rows of those that an index tells apart, whatever fits.

use ringback::store::db::Engine;
use ringback::store::{EndpointFilter, LaneFilter, LaneOrder, PageOf};
use ringback::types::endpoint::{EndpointState, lane_of};
use ringback::types::{EndpointId, LaneId, api};

use super::endpoints::endpoint;
use crate::support::store::{Bed, both_stores};

both_stores! {
    endpoints_of_a_state_are_looked_for_among_so_many,
    broken_lanes_are_looked_for_among_those_that_are_held,
}

const MANY: u32 = 2_000;

/// What stands in an endpoint's row, but for its id.
pub(super) const OF_ENDPOINT: &str =
    "tenant_id, account, url, patterns, timeout_seconds, ordered, policy, payload, format,
    schemes, state, state_since, failed, told, created_at, updated_at, drain_step";

/// Copies the one row of a table so often, but for its id: these are younger.
pub(super) async fn plant(bed: &Bed, table: &str, columns: &str, copies: u32) {
    bed.spoil();
    let id = match bed.engine() {
        Engine::Sqlite => "unhex(printf('ff%030x', n.i))",
        Engine::Postgres => "CAST('ff' || lpad(to_hex(n.i), 30, '0') AS UUID)",
    };
    let rows = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {copies})");
    bed.rows(&format!("INSERT INTO {table} (id, {columns}) {rows} SELECT {id}, {columns} FROM n, {table}"))
        .await;
}

/// The ids on one page of five, and where the look ended.
async fn endpoints(
    bed: &Bed,
    state: EndpointState,
    after: Option<EndpointId>,
) -> (Vec<EndpointId>, Option<EndpointId>) {
    let filter = EndpointFilter { state: Some(state), ..EndpointFilter::default() };
    let found = bed.store.endpoints(bed.tenant, &filter, PageOf { after, limit: 5 }).await.unwrap();
    (found.rows.iter().map(|e| e.id).collect(), found.looked_to)
}

async fn endpoints_of_a_state_are_looked_for_among_so_many(bed: &Bed) {
    let one = endpoint(bed, serde_json::json!({})).await.id;
    // It is the last one that the first look sees.
    plant(bed, "endpoints", OF_ENDPOINT, MANY - 1).await;
    bed.store.set_endpoint_paused(bed.tenant, one, true, bed.now()).await.unwrap();
    assert_eq!(endpoints(bed, EndpointState::Paused, None).await, (vec![one], None), "an index leads there");
    let (enabled, looked_to) = endpoints(bed, EndpointState::Enabled, None).await;
    assert_eq!((enabled.len(), looked_to), (5, None));

    bed.rows("UPDATE endpoints SET state = 'disabled' WHERE state = 'enabled'").await;
    bed.store.set_endpoint_paused(bed.tenant, one, false, bed.now()).await.unwrap();
    assert_eq!(endpoints(bed, EndpointState::Paused, None).await, (vec![], None), "the index ends before");
    assert_eq!(endpoints(bed, EndpointState::Enabled, None).await, (vec![one], Some(one)));
    assert_eq!(endpoints(bed, EndpointState::Enabled, Some(one)).await, (vec![], None), "and is told once");
}

async fn broken(bed: &Bed, after: Option<LaneId>) -> (Vec<LaneId>, Option<LaneId>) {
    let filter = LaneFilter { state: Some(api::LaneState::Broken), order: LaneOrder::Youngest(after) };
    let found = bed.store.lanes(bed.tenant, &filter, 5, bed.now()).await.unwrap();
    (found.rows.iter().map(|lane| lane.lane_id).collect(), found.looked_to)
}

async fn broken_lanes_are_looked_for_among_those_that_are_held(bed: &Bed) {
    let one = lane_of(endpoint(bed, serde_json::json!({})).await.id);
    plant(bed, "lanes", "tenant_id, endpoint_id, concurrency, failures, opened, used_at", MANY).await;
    let until = bed.now().0 + 60_000;
    let lane = bed.literal(one.uuid());
    let held = |by: &str, whom: &str| {
        format!("UPDATE lanes SET held_until = {until}, held_reason = '{by}' WHERE id {whom} {lane}")
    };
    bed.rows(&held("breaker", "=")).await;
    assert_eq!(broken(bed, None).await, (vec![one], None), "an index leads there");

    bed.rows(&held("retry-after", "<>")).await;
    let (none, looked_to) = broken(bed, None).await;
    assert_eq!((none, looked_to.is_some()), (vec![], true));
    assert_eq!(broken(bed, looked_to).await, (vec![one], None));
}
