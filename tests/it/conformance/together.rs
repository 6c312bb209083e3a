//! Changes of one job that meet in one transaction, and what the clock ends under a holder's hands.

use ringback::store::{Error, JobChange, Right, What};
use ringback::types::JobId;
use ringback::types::job::{Change, JobState};

use crate::support::store::{Bed, both_stores, cancel, complete, failure, heartbeat, release};

both_stores! {
    a_job_that_is_retried_and_cancelled_at_once_is_cancelled,
    an_end_and_a_retry_never_share_a_transaction,
    what_the_clock_ended_is_lost_to_its_holder,
    what_timed_out_is_lost_to_its_holder,
}

fn by_owner(bed: &Bed, id: JobId, what: What) -> JobChange {
    JobChange { id, tenant: Some(bed.tenant), right: Right::Owner, what }
}

async fn a_job_that_is_retried_and_cancelled_at_once_is_cancelled(bed: &Bed) {
    let id = bed.submit(bed.called_back()).await.job.id;
    let held = bed.lease_one().await;
    bed.held(&held, failure(false)).await.unwrap();
    bed.deliver(200, ringback::types::delivery::Verdict::Delivered).await;

    let both = vec![by_owner(bed, id, What::Retry), by_owner(bed, id, cancel())];
    let told = bed.store.change(both, bed.now()).await.unwrap();

    assert!(told.iter().all(Result::is_ok), "{told:?}");
    let job = bed.get(id).await;
    assert_eq!((job.state, job.sequence), (JobState::Cancelled, 5));
    assert_eq!(job.callback_state.as_str(), "pending", "of the new end, not of the old one");
    assert_eq!(bed.kinds(id).await, ["queued", "started", "failed", "queued", "cancelled"]);
    assert_eq!(bed.owner(id, What::Retry).await.unwrap().job.sequence, 6);
}

async fn an_end_and_a_retry_never_share_a_transaction(bed: &Bed) {
    let id = bed.submit(bed.job()).await.job.id;
    let held = bed.lease_one().await;
    let fails = JobChange { id, tenant: None, right: Right::Lease(held.lease_token), what: failure(false) };
    let (failed, retried) = tokio::join!(
        bed.store.change(vec![fails], bed.now()),
        bed.store.change(vec![by_owner(bed, id, What::Retry)], bed.now()),
    );
    assert!(failed.unwrap()[0].is_ok());
    match &retried.unwrap()[0] {
        Ok(changed) => assert_eq!(changed.job.state, JobState::Queued),
        Err(e) => assert!(matches!(e, Error::NotRetryable), "{e:?}"),
    }
}

/// Every report of a holder whom the clock has ended.
async fn is_lost(bed: &Bed, held: &ringback::types::api::ClaimedJob) {
    for report in [complete(), failure(true), release(0), heartbeat(Some(1))] {
        let told = bed.held(held, report).await;
        assert!(matches!(told, Err(Error::LeaseLost)), "{told:?}");
    }
}

async fn what_the_clock_ended_is_lost_to_its_holder(bed: &Bed) {
    let lost = bed.submit(bed.job_with(|j| j.max_attempts = 1)).await.job.id;
    let held = bed.lease_one().await;
    bed.pass_seconds(31);
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 1);
    assert_eq!(bed.get(lost).await.state, JobState::Failed);
    is_lost(bed, &held).await;

    let cancelled = bed.submit(bed.job()).await.job.id;
    let held = bed.lease_one().await;
    bed.owner(cancelled, cancel()).await.unwrap();
    bed.pass_seconds(31);
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 1);
    assert_eq!(bed.get(cancelled).await.state, JobState::Cancelled);
    is_lost(bed, &held).await;
}

async fn what_timed_out_is_lost_to_its_holder(bed: &Bed) {
    let id = bed.submit(bed.job_with(|j| j.timeout_seconds = 10)).await.job.id;
    let held = bed.lease_one().await;
    bed.pass_seconds(11);
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 1);
    assert_eq!(bed.get(id).await.state, JobState::Retrying);
    is_lost(bed, &held).await;
    bed.owner(id, What::Change(Change::Cancel { reason: None })).await.unwrap();
}
