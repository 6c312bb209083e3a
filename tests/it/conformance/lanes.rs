//! Lanes and the nodes that own them.

use std::time::Duration;

use ringback::args;
use ringback::store::{LaneFilter, LaneOrder, LaneState};
use ringback::types::delivery::Verdict;
use ringback::types::id::NodeId;
use ringback::types::{DeliveryId, LaneId, Millis, api};

use crate::support::store::{Bed, attempted, beside, both_stores, callback, complete};

const ALL: LaneFilter = LaneFilter { state: None, order: LaneOrder::Youngest(None) };

both_stores! {
    a_lane_has_one_owner_at_a_time,
    whether_a_lane_was_owned_before_is_told,
    what_is_owned_before_the_store_fails_is_told,
    how_a_lane_stands_outlives_its_owner,
    what_was_found_out_of_a_lane_ends_when_it_is_resumed,
    a_dead_node_loses_its_lanes_and_a_leaving_one_gives_them,
    a_lane_is_owned_whatever_became_of_the_delivery_that_named_it,
    lanes_are_shown_with_their_depth,
    lanes_are_found_by_state_and_by_what_waits_longest,
    a_list_by_what_waits_longest_goes_on_although_its_last_lane_moved,
    lanes_are_shared_out_among_living_nodes,
    old_leases_are_void_where_no_other_node_can_be,
    lanes_of_a_killed_node_are_free_where_no_other_can_be,
}

async fn lane(bed: &Bed) -> (LaneId, DeliveryId) {
    bed.completed().await;
    let due = bed.store.due(Millis(0), bed.now(), 1).await.unwrap()[0];
    (due.lane, due.id)
}

fn node(bed: &Bed) -> NodeId {
    bed.dice.id(bed.now())
}

async fn own(bed: &Bed, node: NodeId, lane: (LaneId, DeliveryId)) -> Vec<LaneState> {
    let owned = bed.store.own_lanes(node, &[lane, lane], bed.now()).await.unwrap();
    owned.into_iter().map(|lane| lane.state).collect()
}

async fn a_lane_has_one_owner_at_a_time(bed: &Bed) {
    let lane = lane(bed).await;
    let (one, two) = (node(bed), node(bed));
    for n in [one, two] {
        bed.store.keep_alive(n, Millis(bed.now().0 + 10_000)).await.unwrap();
    }
    let (a, b) = tokio::join!(own(bed, one, lane), own(bed, two, lane));
    assert_eq!(a.len() + b.len(), 1, "one of them");
    let (owner, other) = if a.is_empty() { (two, one) } else { (one, two) };
    let fresh = LaneState {
        id: lane.0,
        concurrency: 10,
        failures: 0,
        opened: 0,
        held_until: None,
        held_reason: None,
        rate_at: None,
        cleared_at: None,
    };
    assert_eq!(own(bed, owner, lane).await, [fresh], "again and again");
    assert!(own(bed, other, lane).await.is_empty());
    assert!(bed.store.own_lanes(owner, &[], bed.now()).await.unwrap().is_empty());
}

async fn whether_a_lane_was_owned_before_is_told(bed: &Bed) {
    let lane = lane(bed).await;
    let own = async |node| bed.store.own_lanes(node, &[lane], bed.now()).await.unwrap().remove(0);
    let one = node(bed);
    let lane = own(one).await;
    assert!(!lane.more);
    assert!(own(one).await.more, "by itself");
    bed.store.save_lanes(one, &[(lane.state, true)]).await.unwrap();
    assert!(own(node(bed)).await.more, "by another");
}

async fn what_is_owned_before_the_store_fails_is_told(bed: &Bed) {
    told(bed, 0).await;
    told(bed, 1).await;
    assert_eq!(own_all(bed, bed.node).await.len(), 2);
    bed.store.leave(bed.node).await.unwrap();
    // Two lanes at once that have had an owner break it, a new one does not.
    bed.rows("CREATE UNIQUE INDEX one_of_many ON lanes (owners) WHERE owners > 1").await;
    bed.pass_seconds(1);
    told(bed, 2).await;
    let all = bed.store.due(Millis(0), bed.now(), 9).await.unwrap();
    let all: Vec<_> = all.iter().map(|d| (d.lane, d.id)).collect();
    let owned = bed.store.own_lanes(bed.node, &all, bed.now()).await.unwrap();
    assert_eq!(owned.iter().map(|lane| lane.state.id).collect::<Vec<_>>(), [all[2].0]);
    let refused = bed.store.own_lanes(bed.node, &all[..2], bed.now()).await;
    assert!(refused.is_err(), "nothing is owned that the error could hide: {refused:?}");
    bed.rows("DROP INDEX one_of_many").await;
    assert_eq!(own_all(bed, bed.node).await.len(), 3);
}

async fn how_a_lane_stands_outlives_its_owner(bed: &Bed) {
    let lane = lane(bed).await;
    let (one, two) = (node(bed), node(bed));
    bed.store.keep_alive(one, Millis(bed.now().0 + 10_000)).await.unwrap();
    let mut state = own(bed, one, lane).await.remove(0);
    (state.concurrency, state.failures, state.opened) = (32, 11, 2);
    (state.held_until, state.held_reason) = (Some(Millis(bed.now().0 + 5_000)), Some("breaker".to_owned()));
    state.rate_at = Some(Millis(bed.now().0 + 7));
    bed.store.save_lanes(one, &[(state.clone(), false)]).await.unwrap();
    let other = LaneState { concurrency: 1, ..state.clone() };
    bed.store.save_lanes(two, &[(other, true)]).await.unwrap();
    assert_eq!(own(bed, one, lane).await, [state.clone()], "only its owner writes");
    assert!(own(bed, two, lane).await.is_empty());
    bed.store.save_lanes(one, &[(state.clone(), true)]).await.unwrap();
    assert_eq!(own(bed, two, lane).await, [state], "let go of, it is free at once");
    bed.store.save_lanes(two, &[]).await.unwrap();
}

async fn what_was_found_out_of_a_lane_ends_when_it_is_resumed(bed: &Bed) {
    let lane = lane(bed).await;
    let mut state = own(bed, bed.node, lane).await.remove(0);
    for (opened, reason) in [(2, "breaker"), (0, "retry-after")] {
        (state.failures, state.opened) = (11, opened);
        (state.held_until, state.held_reason) = (Some(Millis(bed.now().0 + 60_000)), Some(reason.to_owned()));
        bed.store.save_lanes(bed.node, &[(state.clone(), false)]).await.unwrap();

        bed.pass_seconds(1);
        let shown = bed.store.pause_lane(bed.tenant, lane.0, None, bed.now()).await.unwrap();

        assert_eq!((shown.state.as_str(), shown.failures), ("open", 0), "{reason}");
        let told = bed.store.lanes_set(bed.node, bed.now()).await.unwrap();
        assert_eq!(told[0].1.cleared_at, Some(bed.now()), "its owner does the same");
        // What its owner had found out before is no more, and lets the lane go all the same.
        let left = bed.store.save_lanes(bed.node, &[(state.clone(), true)]).await.unwrap();
        assert!(left.is_empty());
        let found = own(bed, node(bed), lane).await.remove(0);
        assert_eq!((found.failures, found.opened, found.held_until), (0, 0, None), "whoever has it next");
        state = own(bed, bed.node, lane).await.remove(0);
    }
}

#[tokio::test]
async fn a_lane_that_someone_holds_holds_up_no_other() {
    let bed = Bed::postgres().await;
    let mut lanes = Vec::new();
    for host in ["a", "b", "c"] {
        let url = format!("https://{host}.example.com/x");
        bed.submit(bed.job_with(|j| j.callback = Some(callback(&url)))).await;
        let held = bed.lease_one().await;
        bed.held(&held, complete()).await.unwrap();
    }
    for due in bed.store.due(Millis(0), bed.now(), 9).await.unwrap() {
        lanes.push((due.lane, due.id));
    }
    let (all, new) = lanes.split_at(2);
    let owned = bed.store.own_lanes(bed.node, all, bed.now()).await.unwrap();
    let states: Vec<_> =
        owned.into_iter().map(|lane| (LaneState { failures: 7, ..lane.state }, false)).collect();
    assert_eq!(states.len(), 2);

    let held = all[0].0;
    let mut other = beside(&bed.url).await;
    other.run("BEGIN", vec![]).await.unwrap();
    let hold = "SELECT id FROM lanes WHERE id = $1 FOR UPDATE";
    assert_eq!(other.all(hold, args![held]).await.unwrap().len(), 1);
    assert_eq!(bed.store.save_lanes(bed.node, &states).await.unwrap(), [held].into());
    assert!(bed.store.save_lanes(node(&bed), &states).await.unwrap().is_empty(), "another one's");
    let owned = bed.store.own_lanes(bed.node, &lanes, bed.now()).await.unwrap();
    let mut owned: Vec<_> = owned.iter().map(|lane| (lane.state.id, lane.state.failures)).collect();
    owned.sort_unstable_by_key(|(_, failures)| *failures);
    assert_eq!(owned, [(new[0].0, 0), (all[1].0, 7)]);

    other.run("ROLLBACK", vec![]).await.unwrap();
    assert!(bed.store.save_lanes(bed.node, &states).await.unwrap().is_empty());
    assert_eq!(own(&bed, bed.node, all[0]).await[0].failures, 7);
}

#[tokio::test]
async fn a_lane_that_is_hardly_ever_free_is_waited_for() {
    let bed = Bed::postgres().await;
    let lane = lane(&bed).await;
    let state = own(&bed, bed.node, lane).await.remove(0);
    let stop = tokio_util::sync::CancellationToken::new();
    let mut holders = tokio::task::JoinSet::new();
    // As ordered endpoints are held by those who publish to them, one after the other.
    for _ in 0..2 {
        let (mut holder, stop, id) = (beside(&bed.url).await, stop.clone(), lane.0);
        holders.spawn(async move {
            while !stop.is_cancelled() {
                holder.run("BEGIN", vec![]).await.unwrap();
                holder.all("SELECT id FROM lanes WHERE id = $1 FOR UPDATE", args![id]).await.unwrap();
                holder.run("SELECT pg_sleep(0.005)", vec![]).await.unwrap();
                holder.run("COMMIT", vec![]).await.unwrap();
            }
        });
    }
    for failures in 1..10 {
        let states = [(LaneState { failures, ..state.clone() }, false)];
        assert!(bed.store.save_lanes(bed.node, &states).await.unwrap().is_empty());
        assert_eq!(own(&bed, bed.node, lane).await[0].failures, failures);
    }
    stop.cancel();
    while let Some(done) = holders.join_next().await {
        done.unwrap();
    }
}

async fn a_dead_node_loses_its_lanes_and_a_leaving_one_gives_them(bed: &Bed) {
    let lane = lane(bed).await;
    let (one, two) = (node(bed), node(bed));
    bed.store.keep_alive(one, Millis(bed.now().0 + 10_000)).await.unwrap();
    own(bed, one, lane).await;
    bed.pass_seconds(9);
    bed.store.keep_alive(one, Millis(bed.now().0 + 10_000)).await.unwrap();
    bed.pass_seconds(9);
    assert!(own(bed, two, lane).await.is_empty(), "it is alive");
    bed.pass_seconds(1);
    bed.store.keep_alive(two, Millis(bed.now().0 + 10_000)).await.unwrap();
    assert_eq!(own(bed, two, lane).await.len(), 1, "taken over");
    assert!(own(bed, one, lane).await.is_empty());
    assert_eq!(bed.store.forget_nodes(bed.now()).await.unwrap(), 0, "dead, but not for long");
    bed.pass_seconds(1);
    assert_eq!(bed.store.forget_nodes(bed.now()).await.unwrap(), 1);
    bed.store.leave(two).await.unwrap();
    assert_eq!(own(bed, one, lane).await.len(), 1, "free at once");
    assert_eq!(bed.count("nodes").await, 0);
}

async fn a_lane_is_owned_whatever_became_of_the_delivery_that_named_it(bed: &Bed) {
    let lane = lane(bed).await;
    bed.deliver(200, Verdict::Delivered).await;
    assert_eq!(own(bed, bed.node, lane).await.len(), 1, "another one may wait behind it");
}

async fn lanes_are_shown_with_their_depth(bed: &Bed) {
    let first = lane(bed).await;
    assert!(
        bed.store.lanes(bed.tenant, &ALL, 9, bed.now()).await.unwrap().rows.is_empty(),
        "nobody owns one yet"
    );
    let mut state = own(bed, bed.node, first).await.remove(0);
    let sent = bed.claim_one().await;
    bed.completed().await;
    bed.completed().await;
    let show = async || bed.store.lanes(bed.tenant, &ALL, 9, bed.now()).await.unwrap().rows.remove(0);
    let shown = show().await;
    assert_eq!((shown.kind.as_str(), shown.state.as_str()), ("origin", "open"));
    assert_eq!(shown.origin.as_deref(), Some("https://hooks.example.com"));
    assert_eq!((shown.depth, shown.in_flight, shown.max_in_flight), (3, 1, 10));
    assert_eq!(shown.oldest_due, Some(bed.now()));
    for (reason, word) in [("breaker", "broken"), ("retry-after", "paused")] {
        (state.held_until, state.held_reason) = (Some(Millis(bed.now().0 + 1_000)), Some(reason.to_owned()));
        bed.store.save_lanes(bed.node, &[(state.clone(), false)]).await.unwrap();
        assert_eq!(show().await.state.as_str(), word);
    }
    bed.pass_seconds(1);
    let shown = show().await;
    assert_eq!((shown.state.as_str(), shown.held_until), ("open", None));
    assert!(bed.record(attempted(&sent, 200, Verdict::Delivered)).await);
    assert_eq!(show().await.depth, 2);
}

/// Completes a job with a callback to `https://hooksN.example.com`.
async fn told(bed: &Bed, n: u64) {
    let to = Some(callback(&format!("https://hooks{n}.example.com/")));
    let id = bed.submit(bed.job_with(|j| j.callback = to)).await.job.id;
    let held = bed.lease_one().await;
    assert_eq!(held.job_id, id);
    bed.held(&held, complete()).await.unwrap();
}

/// Owns the lane of everything that is due.
async fn own_all(bed: &Bed, node: NodeId) -> Vec<LaneState> {
    let due = bed.store.due(Millis(0), bed.now(), 50).await.unwrap();
    let lanes: Vec<_> = due.iter().map(|d| (d.lane, d.id)).collect();
    let owned = bed.store.own_lanes(node, &lanes, bed.now()).await.unwrap();
    owned.into_iter().map(|lane| lane.state).collect()
}

/// The origins of all lanes by what waits longest, two on a page; each page is followed by `meanwhile` with its last lane.
async fn by_oldest(bed: &Bed, meanwhile: impl AsyncFn(LaneId)) -> Vec<String> {
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let filter = LaneFilter { order: LaneOrder::OldestDue(after), ..ALL };
        let lanes = bed.store.lanes(bed.tenant, &filter, 2, bed.now()).await.unwrap().rows;
        let Some(last) = lanes.last() else { return seen };
        after = Some(last.place());
        meanwhile(last.lane_id).await;
        seen.extend(lanes.into_iter().map(|lane| lane.origin.unwrap()));
    }
}

async fn a_list_by_what_waits_longest_goes_on_although_its_last_lane_moved(bed: &Bed) {
    for n in 0..5 {
        told(bed, n).await;
        bed.pass_seconds(1);
    }
    own_all(bed, bed.node).await;
    let seen = by_oldest(bed, async |last| {
        let due = bed.store.due(Millis(0), bed.now(), 50).await.unwrap();
        let of_last = due.into_iter().filter(|d| d.lane == last).collect();
        let sent = bed.store.claim(of_last, bed.node, Duration::from_secs(30), bed.now()).await.unwrap();
        for sent in sent {
            assert!(bed.record(attempted(&sent, 200, Verdict::Delivered)).await);
        }
    })
    .await;
    for n in 0..5 {
        assert!(seen.contains(&format!("https://hooks{n}.example.com")), "{seen:?}");
    }
}

async fn lanes_are_found_by_state_and_by_what_waits_longest(bed: &Bed) {
    for n in 0..5 {
        told(bed, n).await;
        bed.pass_seconds(1);
    }
    let mut states = own_all(bed, bed.node).await;
    let wanted: Vec<String> = (0..5).map(|n| format!("https://hooks{n}.example.com")).collect();
    let seen = by_oldest(bed, async |_| {}).await;
    assert_eq!(seen, wanted);

    for (state, reason) in states.iter_mut().zip(["breaker", "retry-after"]) {
        (state.held_until, state.held_reason) = (Some(Millis(bed.now().0 + 1_000)), Some(reason.to_owned()));
        bed.store.save_lanes(bed.node, &[(state.clone(), false)]).await.unwrap();
    }
    let in_state = async |state| {
        let filter = LaneFilter { state: Some(state), ..ALL };
        let lanes = bed.store.lanes(bed.tenant, &filter, 9, bed.now()).await.unwrap().rows;
        lanes.into_iter().map(|lane| lane.lane_id).collect::<Vec<_>>()
    };
    assert_eq!(in_state(api::LaneState::Broken).await, [states[0].id]);
    assert_eq!(in_state(api::LaneState::Paused).await, [states[1].id]);
    assert_eq!(in_state(api::LaneState::Open).await.len(), 3);
    bed.pass_seconds(1);
    assert_eq!(in_state(api::LaneState::Open).await.len(), 5, "a hold that is over holds nothing");
}

async fn lanes_are_shared_out_among_living_nodes(bed: &Bed) {
    let lane = lane(bed).await;
    assert_eq!(bed.store.fair_share(bed.now()).await.unwrap(), 1, "nobody lives, nothing is owned");
    let (one, two) = (node(bed), node(bed));
    bed.store.keep_alive(one, Millis(bed.now().0 + 10_000)).await.unwrap();
    own(bed, one, lane).await;
    for n in 0..6 {
        told(bed, n).await;
    }
    assert_eq!(own_all(bed, one).await.len(), 7);
    assert_eq!(bed.store.fair_share(bed.now()).await.unwrap(), 7);
    bed.store.keep_alive(two, Millis(bed.now().0 + 10_000)).await.unwrap();
    assert_eq!(bed.store.fair_share(bed.now()).await.unwrap(), 4);
    assert_eq!(bed.store.heed_nodes(bed.now()).await.unwrap(), 2);
    assert_eq!(bed.store.heed_nodes(Millis(bed.now().0 + 11_000)).await.unwrap(), 0, "both have died");
}

async fn old_leases_are_void_where_no_other_node_can_be(bed: &Bed) {
    bed.completed().await;
    let sent = bed.claim_one().await;
    assert_eq!(bed.store.void_old_leases(bed.node, bed.now()).await.unwrap(), 0, "one's own stay");
    let reborn = node(bed);
    let voided = bed.store.void_old_leases(reborn, bed.now()).await.unwrap();
    match bed.engine() {
        ringback::store::db::Engine::Postgres => assert_eq!(voided, 0, "another node may hold it"),
        ringback::store::db::Engine::Sqlite => {
            assert_eq!(voided, 1);
            let again = bed.claim_one().await;
            assert_eq!((again.id, again.number, again.unknowns), (sent.id, 2, 1));
        }
    }
}

async fn lanes_of_a_killed_node_are_free_where_no_other_can_be(bed: &Bed) {
    let lane = lane(bed).await;
    let killed = node(bed);
    bed.store.keep_alive(killed, Millis(bed.now().0 + 15_000)).await.unwrap();
    own(bed, killed, lane).await;
    let reborn = node(bed);
    bed.store.keep_alive(reborn, Millis(bed.now().0 + 15_000)).await.unwrap();
    bed.store.void_old_leases(reborn, bed.now()).await.unwrap();
    let free = bed.engine() == ringback::store::db::Engine::Sqlite;
    assert_eq!(own(bed, reborn, lane).await.len(), usize::from(free));
    let alive = bed.store.figures(bed.now()).await.unwrap();
    let alive = alive.into_iter().find(|(name, _)| *name == "nodes_alive").unwrap().1;
    assert_eq!(alive, if free { 1 } else { 2 });
}
