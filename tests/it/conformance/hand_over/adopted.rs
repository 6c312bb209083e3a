//! Lanes that come with what is made for them.

use std::collections::HashSet;

use ringback::types::delivery::Verdict;
use ringback::types::job::{Callback, JobEvent};
use serde_json::json;

use super::super::endpoints::endpoint;
use super::{Desk, State};
use crate::support::app::until;
use crate::support::postgres::Server;
use crate::support::store::{Bed, attempted, both_stores, callback, complete};

both_stores! {
    one_transaction_owns_so_many_lanes_and_leaves_the_rest,
    what_is_parked_and_what_is_in_order_own_no_lane,
}

/// Told of a job's beginning, which is told in the transaction that submits it.
fn told_at_once(url: &str) -> Option<Callback> {
    Some(Callback { wants: JobEvent::Queued.bit(), ..callback(url) })
}

async fn one_transaction_owns_so_many_lanes_and_leaves_the_rest(bed: &Bed) {
    let desk = Desk::with(bed, State { slots: 1_000, lanes: Some(HashSet::new()), ..State::default() });
    let to = |n| told_at_once(&format!("https://hooks{n}.example.com/"));
    let jobs = (0..300).map(|n| bed.job_with(|j| j.callback = to(n))).collect();
    bed.store.submit(jobs, bed.now()).await.unwrap();
    {
        let state = desk.state.lock().unwrap();
        assert_eq!((state.owned.len(), state.taken.len(), state.slots), (256, 256, 1_000 - 256));
    }
    assert_eq!(bed.count("lanes WHERE owner_id IS NOT NULL").await, 256);
    assert_eq!(bed.count("delivery_queue WHERE phase = 'leased' AND attempt = 1").await, 256);
    assert_eq!(bed.claim().await.len(), 300 - 256, "a look finds them");
}

async fn what_is_parked_and_what_is_in_order_own_no_lane(bed: &Bed) {
    let desk = Desk::bare(bed);
    let ordered = endpoint(bed, json!({"events": ["job.queued"], "ordered": true})).await;
    let paused = endpoint(bed, json!({"events": ["job.queued"]})).await;
    let plain = endpoint(bed, json!({"events": ["job.queued"]})).await;
    bed.store.set_endpoint_paused(bed.tenant, paused.id, true, bed.now()).await.unwrap();
    let submit = async || {
        bed.submit(bed.job_with(|j| j.callback = told_at_once("https://hooks.example.com/a"))).await;
        let mut state = desk.state.lock().unwrap();
        let owned: HashSet<_> = std::mem::take(&mut state.owned).iter().map(|lane| lane.state.id).collect();
        (std::mem::take(&mut state.taken), owned)
    };

    // Lanes are locked in one order: who numbers deliveries owns none beside.
    let (taken, owned) = submit().await;
    assert!(taken.is_empty() && owned.is_empty());
    let numbered =
        format!("delivery_queue WHERE turn = 1 AND lane_id = {}", bed.literal(ordered.lane().uuid()));
    assert_eq!(bed.count(&numbered).await, 1);
    assert_eq!(bed.claim().await.len(), 3, "all but what is parked");

    bed.store.delete_endpoint(bed.tenant, ordered.id, bed.now()).await.unwrap();
    let (taken, owned) = submit().await;
    let lanes: HashSet<_> = taken.iter().map(|d| d.lane).collect();
    assert_eq!((taken.len(), &lanes), (2, &owned));
    assert!(owned.contains(&plain.lane()) && !owned.contains(&paused.lane()));
    assert_eq!(bed.count("lanes WHERE owner_id IS NOT NULL").await, 2);
    bed.store.set_endpoint_paused(bed.tenant, paused.id, false, bed.now()).await.unwrap();
    assert_eq!(bed.store.step_drains(bed.now()).await.unwrap(), 2, "what was parked in both");
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_sends_nothing_and_owns_no_lane_here() {
    let server = Server::start("").await;
    let bed = Bed::on(server.database().await, None).await;
    let desk = Desk::bare(&bed);
    bed.submit(bed.called_back()).await;
    let held = bed.lease_one().await;
    // Commits stand and wait for one who is not there to say so, until their session is ended.
    bed.rows("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    bed.rows("SELECT pg_reload_conf()").await;
    let reporting = bed.held(&held, complete());
    let lose = async {
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        until("the commit stands", async || match bed.rows(ended).await.len() {
            0 => Err("none"),
            _ => Ok(()),
        })
        .await;
        bed.rows("ALTER SYSTEM RESET synchronous_standby_names").await;
        bed.rows("SELECT pg_reload_conf()").await;
    };
    let (reported, ()) = tokio::join!(reporting, lose);
    assert!(reported.is_ok(), "the same report again changes nothing: {reported:?}");

    let owned = format!("lanes WHERE owner_id = {} AND owners = 1", bed.literal(bed.node.uuid()));
    assert_eq!(bed.count(&owned).await, 1, "it was owned in what was committed");
    {
        let state = desk.state.lock().unwrap();
        assert!(state.taken.is_empty() && state.lanes.as_ref().unwrap().is_empty(), "nobody knows that");
        assert_eq!((state.slots, state.reserved), (5, state.given_back));
    }
    // What is made next owns the lane anew, and is told that something waits in it.
    let next = bed.completed().await.id;
    {
        let state = desk.state.lock().unwrap();
        assert!(state.owned.last().unwrap().more);
        assert_eq!(state.taken.iter().map(|d| d.job_id).collect::<Vec<_>>(), [Some(next)]);
    }
    assert!(bed.claim().await.is_empty(), "the first is leased");
    bed.pass_seconds(30);
    let mut again = bed.claim().await;
    again.retain(|d| d.job_id == Some(held.job_id));
    assert_eq!((again.len(), again[0].number, again[0].unknowns), (1, 2, 1));
    assert!(bed.record(attempted(&again[0], 200, Verdict::Delivered)).await);
    bed.sound().await;
}
