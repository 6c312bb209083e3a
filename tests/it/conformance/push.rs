//! What push workers ask of the store.

use ringback::store::{Holding, LeaseRequest, Tour, What};
use ringback::types::TenantId;
use ringback::types::job::{Change, JobState};

use crate::support::store::{Bed, both_stores, complete};

both_stores! {
    tenants_with_due_work_are_found_from_where_the_last_turn_ended,
    a_short_tour_goes_on_where_it_ended_until_every_tenant_had_its_turn,
    holdings_tell_whose_a_job_is_and_whether_it_is_to_end,
    a_claim_may_say_how_long_a_heartbeat_holds_it,
    a_renewal_never_cuts_a_lease,
}

async fn tenants_with_due_work_are_found_from_where_the_last_turn_ended(bed: &Bed) {
    let mut tenants: Vec<TenantId> = vec![bed.tenant];
    for name in ["a", "b", "c", "elsewhere", "later"] {
        tenants.push(bed.store.tenant(name, bed.now()).await.unwrap());
    }
    let due = async |after, most| {
        let tour = Tour { after, most, visits: 10_000 };
        bed.store.tenants_due("default", tour, bed.now()).await.unwrap()
    };
    assert_eq!(due(None, 10).await, []);
    for (n, tenant) in tenants.iter().enumerate() {
        for priority in [-2, 2] {
            let job = bed.job_with(|j| {
                (j.tenant, j.priority) = (*tenant, priority);
                j.queue = if n == 4 { "elsewhere" } else { "default" }.to_owned();
                j.run_at = (n == 5).then(|| bed.now().plus(std::time::Duration::from_secs(5)));
            });
            bed.submit(job).await;
        }
    }
    let mut wanted = tenants[..4].to_vec();
    wanted.sort();
    assert_eq!(due(None, 10).await, wanted);
    assert_eq!(due(None, 2).await, wanted[..2]);
    let after = |n: usize| Some(wanted[n]);
    assert_eq!(due(after(1), 10).await, [wanted[2], wanted[3], wanted[0], wanted[1]]);
    assert_eq!(due(after(3), 1).await, wanted[..1]);
    assert_eq!(due(after(2), 2).await, [wanted[3], wanted[0]]);
    for tenant in &wanted[..2] {
        let all = LeaseRequest { tenant: *tenant, ..bed.wish(10) };
        assert_eq!(bed.store.lease(all, bed.now()).await.unwrap().len(), 2);
    }
    assert_eq!(due(None, 10).await, wanted[2..], "what is held is not due");
    bed.pass_seconds(5);
    assert_eq!(due(None, 10).await.len(), 3);
    bed.pass_seconds(26);
    assert_eq!(due(None, 10).await.len(), 5, "a lease that ran out is");
}

async fn a_short_tour_goes_on_where_it_ended_until_every_tenant_had_its_turn(bed: &Bed) {
    let mut tenants: Vec<TenantId> = Vec::new();
    for n in 0..7 {
        tenants.push(bed.store.tenant(&format!("t{n}"), bed.now()).await.unwrap());
    }
    tenants.sort();
    // Only the last one has work in this queue; the others have some elsewhere.
    for (n, tenant) in tenants.iter().enumerate() {
        let job = bed.job_with(|j| {
            j.tenant = *tenant;
            j.queue = if n == 6 { "default" } else { "elsewhere" }.to_owned();
        });
        bed.submit(job).await;
    }
    let tour = async |after| {
        let tour = Tour { after, most: 10, visits: 3 };
        bed.store.tenants_due("default", tour, bed.now()).await.unwrap()
    };
    assert_eq!(tour(None).await, [tenants[2]], "where it was cut short");
    assert_eq!(tour(Some(tenants[2])).await, [tenants[5]]);
    assert_eq!(tour(Some(tenants[5])).await, [tenants[6], tenants[2]], "the end, and from the beginning on");
    let few = Tour { after: None, most: 1, visits: 3 };
    assert_eq!(bed.store.tenants_due("elsewhere", few, bed.now()).await.unwrap(), [tenants[0]]);
}

async fn holdings_tell_whose_a_job_is_and_whether_it_is_to_end(bed: &Bed) {
    let ids = bed.submit_n(4).await;
    assert_eq!(bed.store.holdings(&ids).await.unwrap(), [], "nobody holds them");
    let mut held = bed.lease(3).await;
    held.sort_by_key(|job| job.job_id);
    bed.owner(held[1].job_id, What::Change(Change::Cancel { reason: None })).await.unwrap();
    bed.held(&held[2], complete()).await.unwrap();
    let mut found = bed.store.holdings(&ids).await.unwrap();
    found.sort_by_key(|h| h.id);
    let holding = |n: usize, cancel_requested| Holding { id: held[n].job_id, fence: 1, cancel_requested };
    assert_eq!(found, [holding(0, false), holding(1, true)]);
    assert_eq!(bed.store.holdings(&[]).await.unwrap(), []);
}

async fn a_claim_may_say_how_long_a_heartbeat_holds_it(bed: &Bed) {
    bed.submit_n(1).await;
    let wish = LeaseRequest { renew_seconds: Some(600), ..bed.wish(1) };
    let held = bed.store.lease(wish, bed.now()).await.unwrap().remove(0).job;
    assert_eq!(held.lease_expires_at.since(bed.now()).as_secs(), 30);
    let beat = What::Heartbeat { progress: None, message: None, extend_seconds: None };
    let changed = bed.held(&held, beat).await.unwrap();
    assert_eq!(changed.lease_until.unwrap().since(bed.now()).as_secs(), 600);
    assert_eq!(changed.job.state, JobState::Processing);
}

async fn a_renewal_never_cuts_a_lease(bed: &Bed) {
    bed.submit_n(1).await;
    let held = bed.lease_one().await;
    let left = async |what| {
        let changed = bed.held(&held, what).await.unwrap();
        assert_eq!((changed.job.sequence, changed.job.progress), (2, None), "nothing is told");
        changed.lease_until.unwrap().since(bed.now()).as_secs()
    };
    let beat = |extend_seconds| What::Heartbeat { progress: None, message: None, extend_seconds };
    // A worker that completes later holds the job for long; a renewal built before it is written after it.
    assert_eq!(left(What::Keep { seconds: 600 }).await, 600);
    assert_eq!(left(What::Keep { seconds: 30 }).await, 600);
    bed.pass_seconds(10);
    assert_eq!(left(beat(None)).await, 590, "as long as the claim's, or what is left");
    assert_eq!(left(beat(Some(40))).await, 40, "who asks for less gets it");
    assert_eq!(left(What::Keep { seconds: 41 }).await, 41);
    bed.pass_seconds(40);
    assert_eq!(left(beat(None)).await, 30, "what is over begins anew");
}
