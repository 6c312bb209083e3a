//! Submissions and their idempotency keys.

use std::collections::HashSet;

use futures_util::future::join_all;
use ringback::store::{Error, Store, What};
use ringback::types::Millis;
use ringback::types::job::{CallbackState, JobState, WorkerKind};

use crate::support::store::{Bed, both_stores, cancel, complete, failure, heartbeat, key, release};

both_stores! {
    one_job_is_stored_as_it_was_given,
    a_batch_of_a_thousand_is_one_submission,
    concurrent_submissions_share_transactions,
    the_same_write_twice_makes_one_job,
    a_write_that_comes_again_after_its_job_has_ended_owes_nothing,
    a_key_replays_its_request_and_refuses_another,
    duplicates_within_one_flush_make_one_job,
    a_batch_with_a_reused_key_stores_nothing,
    keys_of_tenants_and_routes_are_apart,
    a_key_lives_a_day_and_until_its_job_ends,
    an_external_job_is_leased_to_its_submitter,
    an_external_job_fails_when_its_lease_runs_out,
    estimates_are_learned_from_completed_jobs,
}

async fn one_job_is_stored_as_it_was_given(bed: &Bed) {
    let now = bed.now();
    let new = bed.job_with(|j| {
        j.reference = Some("build-4711".to_owned());
        j.metadata = r#"{"team": "Größe ✓"}"#.to_owned();
        j.priority = -2;
        j.run_at = Some(Millis(now.0 + 60_000));
        j.deadline_at = Some(Millis(now.0 + 120_000));
        j.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    });
    let id = new.id;
    let told = bed.submit(new).await;
    assert!(!told.replayed && told.lease.is_none());
    let read = bed.get(id).await;
    assert_eq!(format!("{:?}", told.job), format!("{read:?}"), "the answer is what is stored");
    assert_eq!((read.state, read.sequence, read.attempt), (JobState::Scheduled, 1, 0));
    assert_eq!(read.callback_state, CallbackState::None);
    assert_eq!((read.created_at, read.due_at), (now, Some(Millis(now.0 + 60_000))));
    assert_eq!(bed.kinds(id).await, ["queued"]);
}

async fn a_batch_of_a_thousand_is_one_submission(bed: &Bed) {
    let jobs: Vec<_> = (0..1_000).map(|_| bed.called_back()).collect();
    let ids: Vec<_> = jobs.iter().map(|j| j.id).collect();
    let told = bed.store.submit(jobs, bed.now()).await.unwrap();
    assert_eq!(told.iter().map(|s| s.job.id).collect::<Vec<_>>(), ids, "one answer each, in order");
    assert_eq!([bed.count("jobs").await, bed.count("job_queue").await], [1_000, 1_000]);
}

async fn concurrent_submissions_share_transactions(bed: &Bed) {
    // A job bears the time of its flush: the latest among the calls that share it.
    let calls = (0..400).map(|i| bed.store.submit(vec![bed.job()], Millis(bed.now().0 + i)));
    let told = join_all(calls).await;
    let flushes: HashSet<Millis> = told.into_iter().map(|t| t.unwrap()[0].job.created_at).collect();
    assert!(flushes.len() <= 20, "{} transactions for 400 calls", flushes.len());
    assert_eq!(bed.count("job_queue").await, 400);
}

async fn the_same_write_twice_makes_one_job(bed: &Bed) {
    let new = bed.called_back();
    bed.submit(new.clone()).await;
    let again = bed.submit(new.clone()).await;
    assert_eq!((again.job.id, again.job.sequence), (new.id, 1));
    assert_eq!([bed.count("jobs").await, bed.count("job_queue").await], [1, 1]);
}

async fn a_write_that_comes_again_after_its_job_has_ended_owes_nothing(bed: &Bed) {
    let new = bed.called_back();
    let (other, last) = (bed.job(), bed.job());
    bed.submit(new.clone()).await;
    let held = bed.lease(1).await.remove(0);
    bed.held(&held, complete()).await.unwrap();
    let (first, again, second) = tokio::join!(bed.submit(other), bed.submit(new.clone()), bed.submit(last));
    assert_eq!(again.job.id, new.id);
    assert!(first.job.id != new.id && second.job.id != new.id);
    assert_eq!([bed.count("jobs").await, bed.count("job_queue").await], [3, 2]);
    assert_eq!(bed.get(new.id).await.state, JobState::Complete);
    bed.sound().await;
}

async fn a_key_replays_its_request_and_refuses_another(bed: &Bed) {
    let keyed = |f| bed.job_with(|j| j.idempotency = Some(key("/v1/jobs", "k-1", f)));
    let first = bed.submit(keyed(1)).await;
    let again = bed.submit(keyed(1)).await;
    assert!(again.replayed && again.job.id == first.job.id);
    let other = bed.store.submit(vec![keyed(2)], bed.now()).await;
    assert!(matches!(other, Err(Error::KeyReused)), "{other:?}");
    assert_eq!([bed.count("jobs").await, bed.count("job_queue").await], [1, 1]);
}

async fn duplicates_within_one_flush_make_one_job(bed: &Bed) {
    let keyed = |f| bed.job_with(|j| j.idempotency = Some(key("/v1/jobs", "k-1", f)));
    let calls = (0..50).map(|i| bed.store.submit(vec![keyed(u8::from(i % 10 == 9))], bed.now()));
    let told = join_all(calls).await;
    let first: HashSet<_> = told.iter().flatten().map(|t| t[0].job.id).collect();
    assert_eq!(first.len(), 1, "everyone hears of the same job");
    assert_eq!(told.iter().flatten().filter(|t| !t[0].replayed).count(), 1);
    assert_eq!(told.iter().filter(|t| matches!(t, Err(Error::KeyReused))).count(), 5);
    assert_eq!([bed.count("jobs").await, bed.count("idempotency").await], [1, 1]);
}

async fn a_batch_with_a_reused_key_stores_nothing(bed: &Bed) {
    let keyed = |k, f| bed.job_with(|j| j.idempotency = Some(key("/v1/jobs", k, f)));
    bed.submit(keyed("k-1", 1)).await;
    let refused = bed.store.submit(vec![keyed("k-2", 1), bed.job(), keyed("k-1", 2)], bed.now());
    let other = bed.store.submit(vec![keyed("k-2", 1)], bed.now());
    let (refused, other) = tokio::join!(refused, other);
    assert!(matches!(refused, Err(Error::KeyReused)), "all or none: {refused:?}");
    assert!(!other.unwrap()[0].replayed, "the refused batch left no key behind");
    assert_eq!([bed.count("jobs").await, bed.count("idempotency").await], [2, 2]);
}

async fn keys_of_tenants_and_routes_are_apart(bed: &Bed) {
    let two = bed.store.tenant("two", bed.now()).await.unwrap();
    bed.submit(bed.job_with(|j| j.idempotency = Some(key("/v1/jobs", "k", 1)))).await;
    for (tenant, route) in [(two, "/v1/jobs"), (bed.tenant, "/v1/jobs/batch")] {
        let job = bed.job_with(|j| (j.tenant, j.idempotency) = (tenant, Some(key(route, "k", 2))));
        assert!(!bed.submit(job).await.replayed);
    }
}

async fn a_key_lives_a_day_and_until_its_job_ends(bed: &Bed) {
    let keyed = || bed.job_with(|j| j.idempotency = Some(key("/v1/jobs", "k", 1)));
    let first = bed.submit(keyed()).await.job.id;
    bed.pass_seconds(25 * 3_600);
    assert_eq!(bed.retain(Store::BITE).await.unwrap(), 1, "its job is still owed: it is put off");
    assert_eq!(bed.submit(keyed()).await.job.id, first);
    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    bed.pass_seconds(3_600);
    let second = bed.submit(keyed()).await;
    assert!(!second.replayed && second.job.id != first, "over a day old and its job has ended");
    assert!(bed.submit(keyed()).await.replayed);
}

async fn an_external_job_is_leased_to_its_submitter(bed: &Bed) {
    let external = || {
        bed.job_with(|j| {
            (j.worker, j.lease_seconds) = (WorkerKind::External, 3_600);
            j.idempotency = Some(key("/v1/jobs", "k", 1));
        })
    };
    let told = bed.submit(external()).await;
    let (token, until) = told.lease.expect("the submitter holds it");
    assert_eq!(until, Millis(bed.now().0 + 3_600_000));
    assert_eq!((told.job.state, told.job.sequence, told.job.attempt), (JobState::Processing, 2, 1));
    assert_eq!(format!("{:?}", bed.get(told.job.id).await.state), "Processing");
    let again = bed.submit(external()).await;
    assert_eq!(again.lease.map(|l| l.0.to_string()), Some(token.to_string()), "the first answer again");
    assert!(bed.lease(10).await.is_empty(), "no worker gets it");

    bed.pass_seconds(3_000);
    let renewed = bed.by_lease(told.job.id, token, heartbeat(Some(10))).await.unwrap();
    assert_eq!(renewed.lease_until, Some(Millis(bed.now().0 + 3_600_000)));
    bed.pass_seconds(3_000);
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 0, "no time-out applies");
    let done = bed.by_lease(told.job.id, token, complete()).await.unwrap();
    assert_eq!(done.job.state, JobState::Complete);
    assert!(bed.submit(external()).await.lease.is_none(), "the lease has ended");
    assert_eq!(bed.kinds(told.job.id).await, ["queued", "started", "progress", "completed"]);
    let back = bed.by_lease(told.job.id, token, release(0)).await;
    assert!(matches!(back, Err(Error::LeaseLost)));

    for (what, again) in [(release(0), true), (failure(false), false)] {
        let held = bed.submit(bed.job_with(|j| j.worker = WorkerKind::External)).await;
        let (id, token) = (held.job.id, held.lease.unwrap().0);
        assert_eq!(bed.by_lease(id, token, what).await.unwrap().job.state, JobState::Failed);
        let repeated = bed.by_lease(id, token, release(0)).await;
        assert_eq!(repeated.is_ok(), again, "the same report again, and no other: {repeated:?}");
    }
}

async fn an_external_job_fails_when_its_lease_runs_out(bed: &Bed) {
    let new = bed.job_with(|j| (j.worker, j.lease_seconds) = (WorkerKind::External, 60));
    let (lost, failed) = (bed.submit(new).await, bed.job_with(|j| j.worker = WorkerKind::External));
    bed.pass_seconds(61);
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 1);
    let job = bed.get(lost.job.id).await;
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.error_info.unwrap().code.as_deref(), Some("worker-lost"));
    let again = bed.owner(job.id, ringback::store::What::Retry).await;
    assert!(matches!(again, Err(Error::NotRetryable)), "it has no queue to go back to");

    let told = bed.submit(failed).await;
    let ended = bed.by_lease(told.job.id, told.lease.unwrap().0, failure(true)).await.unwrap();
    assert_eq!(ended.job.state, JobState::Failed, "nobody would claim it again");
}

async fn estimates_are_learned_from_completed_jobs(bed: &Bed) {
    assert_eq!(bed.store.estimate(bed.tenant, "report.generate", bed.now()).await, 30);
    for seconds in [8, 2, 4] {
        bed.submit_n(1).await;
        bed.pass_seconds(seconds);
        let held = bed.lease_one().await;
        bed.held(&held, complete()).await.unwrap();
    }
    assert_eq!(bed.store.estimate(bed.tenant, "report.generate", bed.now()).await, 4);
    assert_eq!(bed.store.estimate(bed.tenant, "other", bed.now()).await, 30);

    for _ in 0..9 {
        let id = bed.submit_n(1).await[0];
        bed.owner(id, cancel()).await.unwrap();
        bed.pass_seconds(86_400);
        bed.owner(id, What::Retry).await.unwrap();
        let held = bed.lease_one().await;
        bed.held(&held, complete()).await.unwrap();
    }
    assert_eq!(
        bed.store.estimate(bed.tenant, "report.generate", bed.now()).await,
        4,
        "days that it lay are no wait"
    );
}
