//! What a replay's filter finds, in the order in which a redrive works it off.

use crate::args;
use crate::store::db::Value;
use crate::store::list::Filter;
use crate::store::model::ReplayOf;
use crate::store::probe::probes;
use crate::types::delivery::DeliveryState;
use crate::types::{DeliveryId, TenantId, api};

/// Where a replay's matches are, and the conditions of its key.
struct Source {
    rows: &'static str,
    count: &'static str,
    key: &'static str,
    behind: &'static str,
    before: &'static str,
    up_to: &'static str,
}

static LETTERS: Source = Source {
    rows: "SELECT delivery_id FROM dead_letters WHERE tenant_id = $1",
    count: "SELECT COUNT(*) FROM dead_letters WHERE tenant_id = $1",
    key: "delivery_id",
    behind: "delivery_id > {}",
    before: "delivery_id < {}",
    up_to: "delivery_id <= {}",
};
// Tests and challenges are over when they are answered: nobody waits for one of yesterday.
static DELIVERIES: Source = Source {
    rows: concat!("SELECT id FROM deliveries WHERE tenant_id = $1 AND event_kind NOT IN (", probes!(), ")"),
    count: concat!(
        "SELECT COUNT(*) FROM deliveries WHERE tenant_id = $1 AND event_kind NOT IN (",
        probes!(),
        ")"
    ),
    key: "id",
    behind: "id > {}",
    before: "id < {}",
    up_to: "id <= {}",
};

fn source(of: ReplayOf) -> &'static Source {
    match of {
        ReplayOf::Letters => &LETTERS,
        ReplayOf::Deliveries => &DELIVERIES,
    }
}

/// Whether what it matches is found by an index, and not by looking at all there is.
pub(in crate::store) fn is_direct(filter: &api::ReplayFilter) -> bool {
    filter.ids.is_some() || filter.job_id.is_some()
}

/// The one that lies `offset` behind the cursor, whatever else the filter asks for.
pub(super) fn edge(
    tenant: TenantId,
    of: ReplayOf,
    filter: &api::ReplayFilter,
    cursor: Option<DeliveryId>,
    (order, offset): (&str, u32),
) -> (&'static str, Vec<Value>) {
    let source = source(of);
    let mut f = Filter::new(source.rows, args![tenant]);
    match (of, wanted(filter)) {
        // There are few, and they have indexes of their own.
        (ReplayOf::Deliveries, DeliveryState::Dead) => f.push(" AND state = 'dead'"),
        (ReplayOf::Deliveries, DeliveryState::Cancelled) => f.push(" AND state = 'cancelled'"),
        (
            ReplayOf::Deliveries,
            DeliveryState::Delivered | DeliveryState::Pending | DeliveryState::InFlight | DeliveryState::Held,
        )
        | (ReplayOf::Letters, _) => {}
    }
    made_before(&mut f, source, filter);
    f.and_some(source.behind, cursor);
    f.nth(source.key, order, offset)
}

/// Nothing ends before it is made, which its id tells: so what came after `until` is not looked at.
fn made_before(f: &mut Filter, source: &Source, filter: &api::ReplayFilter) {
    f.and_some(source.before, filter.until.map(|at| DeliveryId::mint(at, [0; 10])));
}

/// The next `step` that match, behind the cursor and up to what was seen.
pub(super) fn bite(
    tenant: TenantId,
    of: ReplayOf,
    filter: &api::ReplayFilter,
    (cursor, seen): (Option<DeliveryId>, Option<DeliveryId>),
    step: u32,
) -> (&'static str, Vec<Value>) {
    let source = source(of);
    let mut f = matching(source.rows, tenant, of, filter);
    f.and_some(source.behind, cursor);
    f.and_some(source.up_to, seen);
    f.args.push(step.into());
    let n = f.args.len();
    f.push(&format!(" ORDER BY {} LIMIT ${n}", source.key));
    f.finish()
}

/// How many match that are newer than that one.
pub(super) fn count(
    tenant: TenantId,
    of: ReplayOf,
    filter: &api::ReplayFilter,
    older: Option<DeliveryId>,
) -> (&'static str, Vec<Value>) {
    let source = source(of);
    let mut f = matching(source.count, tenant, of, filter);
    f.and_some(source.behind, older);
    f.finish()
}

pub(super) fn wanted(filter: &api::ReplayFilter) -> DeliveryState {
    filter.state.unwrap_or(DeliveryState::Dead)
}

/// What a replay's filter finds in `base`, which is dead letters or deliveries.
pub(in crate::store) fn matching(
    base: &'static str,
    tenant: TenantId,
    of: ReplayOf,
    filter: &api::ReplayFilter,
) -> Filter {
    let mut f = Filter::new(base, args![tenant]);
    f.and_some(
        match of {
            // A job has few deliveries, and letters no index of their own for it.
            ReplayOf::Letters => "delivery_id IN (SELECT m.id FROM deliveries m WHERE m.job_id = {})",
            ReplayOf::Deliveries => "job_id = {}",
        },
        filter.job_id,
    );
    f.and_some("endpoint_id = {}", filter.endpoint_id);
    match filter.ad_hoc {
        Some(true) => f.push(" AND endpoint_id IS NULL"),
        Some(false) => f.push(" AND endpoint_id IS NOT NULL"),
        None => {}
    }
    f.and_some("account = {}", filter.account.clone());
    f.and_some("host = {}", filter.host.clone());
    f.and_some("event_kind = {}", filter.kind.clone());
    match of {
        ReplayOf::Letters => {
            f.and_some("(reason = {} OR last_error = {})", filter.reason.clone());
            f.and_some("died_at >= {}", filter.since);
            f.and_some("died_at < {}", filter.until);
        }
        ReplayOf::Deliveries => {
            // As literals, or the partial indexes are not taken.
            f.push(match wanted(filter) {
                DeliveryState::Delivered => " AND state = 'delivered'",
                DeliveryState::Cancelled => " AND state = 'cancelled'",
                DeliveryState::Dead => " AND state = 'dead'",
                DeliveryState::Pending | DeliveryState::InFlight | DeliveryState::Held => " AND 1 = 0",
            });
            f.and_some(
                "(last_error = {} OR EXISTS (SELECT 1 FROM dead_letters m WHERE m.delivery_id = deliveries.id
                                             AND m.reason = {}))",
                filter.reason.clone(),
            );
            f.and_some("ended_at >= {}", filter.since);
            f.and_some("ended_at < {}", filter.until);
        }
    }
    made_before(&mut f, source(of), filter);
    if let Some(ids) = &filter.ids {
        among(&mut f, source(of).key, ids);
    }
    f
}

/// Padded to a few lengths with one that is there already: each length is a statement of its own, kept for good.
fn among(f: &mut Filter, key: &str, ids: &[DeliveryId]) {
    let length = [1, 10, 100, 1_000].into_iter().find(|n| *n >= ids.len()).unwrap_or(ids.len());
    let places: Vec<String> = ids
        .iter()
        .cycle()
        .take(if ids.is_empty() { 0 } else { length })
        .map(|id| {
            f.args.push((*id).into());
            format!("${}", f.args.len())
        })
        .collect();
    let list = if places.is_empty() { "NULL".to_owned() } else { places.join(", ") };
    f.push(&format!(" AND {key} IN ({list})"));
}
