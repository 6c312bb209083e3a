//! What may happen to a job once it is there.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use ringback::store::{Error, Right, What};
use ringback::types::job::{CallbackState, Change, Failure, Job, JobState, Outcome};
use ringback::types::{Millis, TenantId};

use crate::support::store::{Bed, both_stores, cancel, complete, failure, heartbeat, open, release};

both_stores! {
    a_heartbeat_extends_the_lease_and_tells_progress,
    progress_is_told_twice_a_second_at_the_most,
    results_are_bytes_json_or_elsewhere,
    the_same_report_again_gives_the_same_answer,
    a_failed_attempt_waits_5_20_80_seconds,
    a_failure_may_be_final_or_ask_for_time,
    a_released_job_keeps_its_attempt,
    what_waits_is_cancelled_at_once,
    the_holder_of_a_cancelled_job_is_told,
    a_holder_may_complete_a_job_that_is_being_cancelled,
    a_cancel_needs_no_answer_after_its_grace,
    a_cancelled_job_whose_worker_is_lost_is_cancelled,
    a_deadline_ends_the_job_wherever_it_stands,
    one_that_cannot_be_ended_keeps_no_other_from_its_end,
    an_attempt_that_takes_too_long_is_repeated,
    a_retry_goes_on_where_the_job_ended,
    an_expired_job_that_is_retried_lives_on,
    concurrent_retries_queue_the_job_once,
    many_changes_of_one_job_in_one_call,
}

/// What a client sees, with the entity tag.
fn view(bed: &Bed, job: &Job) -> String {
    format!("{} {}", job.etag(), serde_json::to_string(&job.view(bed.store.urls())).unwrap())
}

async fn a_heartbeat_extends_the_lease_and_tells_progress(bed: &Bed) {
    let id = bed.submit_n(1).await[0];
    let held = bed.lease_one().await;
    bed.pass_seconds(20);
    let alive = bed.held(&held, heartbeat(Some(40))).await.unwrap();
    assert_eq!(alive.lease_until, Some(Millis(bed.now().0 + 30_000)), "as long as the claim's");
    assert_eq!((alive.job.progress, alive.job.sequence), (Some(40), 3));
    let what =
        What::Heartbeat { progress: None, message: Some("half".to_owned()), extend_seconds: Some(300) };
    bed.pass_seconds(1);
    let alive = bed.held(&held, what).await.unwrap();
    assert_eq!(alive.lease_until, Some(Millis(bed.now().0 + 300_000)));
    let job = bed.get(id).await;
    assert_eq!((job.progress, job.message.as_deref(), job.sequence), (Some(40), Some("half"), 4));
    bed.pass_seconds(299);
    assert!(bed.lease(1).await.is_empty(), "held as long as was asked for");
    bed.pass_seconds(1);
    let next = bed.lease_one().await;
    assert_eq!((next.attempt, bed.get(id).await.progress), (2, None), "a new attempt begins at nothing");
}

async fn progress_is_told_twice_a_second_at_the_most(bed: &Bed) {
    let id = bed.submit_n(1).await[0];
    let held = bed.lease_one().await;
    let mut tags = vec![bed.get(id).await.etag()];
    for percent in 1..=10 {
        bed.held(&held, heartbeat(Some(percent))).await.unwrap();
        let job = bed.get(id).await;
        assert_eq!(job.progress, Some(percent), "a poller sees it at once");
        tags.push(job.etag());
        bed.pass(Duration::from_millis(100));
    }
    bed.held(&held, heartbeat(Some(10))).await.unwrap();
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 11, "the entity tag follows");
    // At 0, 500 and 1,000 ms; the last says what came after the second, though the heartbeat itself is no news.
    assert_eq!(bed.kinds(id).await, ["queued", "started", "progress", "progress", "progress"]);
    bed.held(&held, complete()).await.unwrap();
}

async fn results_are_bytes_json_or_elsewhere(bed: &Bed) {
    let bytes = |content_type: &str, bytes: &'static [u8]| {
        Outcome::raw(content_type.to_owned(), Bytes::from_static(bytes))
    };
    for (outcome, stored, link) in [
        (bytes("application/json", b"{\"n\": 1.0}"), Some(&b"{\"n\": 1.0}"[..]), ".json"),
        (bytes("application/pdf", b"%PDF\0\xff\xfe"), Some(&b"%PDF\0\xff\xfe"[..]), ".pdf"),
        (bytes("text/plain", b""), Some(&b""[..]), ".txt"),
        (Outcome::Elsewhere("https://cdn.example.com/x".to_owned()), None, "https://cdn.example.com/x"),
    ] {
        let id = bed.submit_n(1).await[0];
        let held = bed.lease_one().await;
        let done = bed.held(&held, What::Change(Change::Complete(outcome))).await.unwrap();
        let read = bed.store.job_result(bed.tenant, id, bed.now()).await.unwrap();
        assert_eq!(view(bed, &done.job), view(bed, &read.job), "the answer is what is stored");
        assert_eq!(read.bytes.as_deref(), stored);
        let view = read.job.view(bed.store.urls());
        assert!(view.result_url.unwrap().ends_with(link));
        assert_eq!((read.job.state, read.job.ended_at), (JobState::Complete, Some(bed.now())));
        assert_eq!(read.job.expires_at, Some(bed.now().plus(Duration::from_secs(604_800))));
    }
}

async fn the_same_report_again_gives_the_same_answer(bed: &Bed) {
    bed.submit_n(3).await;
    let held = bed.lease(3).await;
    for (job, what) in held.iter().zip([complete(), failure(true), release(0)]) {
        let first = bed.held(job, what.clone()).await.unwrap();
        let again = bed.held(job, what).await.unwrap();
        assert_eq!(view(bed, &first.job), view(bed, &again.job));
    }
    for (job, what) in held.iter().zip([failure(true), complete(), complete()]) {
        let other = bed.held(job, what).await;
        assert!(matches!(other, Err(Error::LeaseLost)), "another report comes too late: {other:?}");
    }
    let done = bed.get(held[0].job_id).await;
    let mut token = held[0].lease_token;
    token.random[3] ^= 1;
    assert!(matches!(bed.by_lease(done.id, token, complete()).await, Err(Error::LeaseLost)));
    assert_eq!(bed.kinds(done.id).await, ["queued", "started", "completed"]);
}

async fn a_failed_attempt_waits_5_20_80_seconds(bed: &Bed) {
    let id = bed.submit(bed.job_with(|j| j.max_attempts = 4)).await.job.id;
    for (attempt, wait) in [(1, 5), (2, 20), (3, 80)] {
        let held = bed.lease_one().await;
        let failed = bed.held(&held, failure(true)).await.unwrap().job;
        assert_eq!((failed.state, failed.attempt), (JobState::Retrying, attempt));
        assert_eq!(failed.due_at, Some(Millis(bed.now().0 + wait * 1_000)));
        let job = bed.get(id).await;
        assert_eq!(view(bed, &job), view(bed, &failed));
        assert_eq!((job.error, job.error_info.unwrap().attempt), (None, attempt));
        bed.pass(Duration::from_millis(u64::try_from(wait).unwrap() * 1_000 - 1));
        assert!(bed.lease(1).await.is_empty());
        bed.pass(Duration::from_millis(1));
    }
    let held = bed.lease_one().await;
    let failed = bed.held(&held, failure(true)).await.unwrap().job;
    assert_eq!((failed.state, failed.error.as_deref()), (JobState::Failed, Some("no data")));
    let info = bed.get(id).await.error_info.unwrap();
    assert_eq!((info.code.as_deref(), info.retryable, info.attempt), (Some("no_data"), true, 4));
    assert_eq!(
        bed.kinds(id).await.join(" "),
        "queued started retrying started retrying started retrying started failed"
    );
}

async fn a_failure_may_be_final_or_ask_for_time(bed: &Bed) {
    bed.submit_n(2).await;
    let held = bed.lease(2).await;
    let last = bed.held(&held[0], failure(false)).await.unwrap().job;
    assert_eq!((last.state, last.attempt), (JobState::Failed, 1));
    assert!(!bed.get(last.id).await.error_info.unwrap().retryable);
    let later = What::Change(Change::Fail(Failure {
        error: "busy".to_owned(),
        code: None,
        retryable: true,
        retry_after_seconds: Some(3_600),
    }));
    let waits = bed.held(&held[1], later).await.unwrap().job;
    assert_eq!(waits.due_at, Some(Millis(bed.now().0 + 3_600_000)));
}

async fn a_released_job_keeps_its_attempt(bed: &Bed) {
    let id = bed.submit(bed.job_with(|j| j.max_attempts = 1)).await.job.id;
    let held = bed.lease_one().await;
    let back = bed.held(&held, release(0)).await.unwrap().job;
    assert_eq!((back.state, back.attempt), (JobState::Queued, 0));
    let held = bed.lease_one().await;
    assert_eq!((held.attempt, held.lease_token.fence), (1, 2));
    let back = bed.held(&held, release(60)).await.unwrap().job;
    assert_eq!((back.state, back.due_at), (JobState::Scheduled, Some(Millis(bed.now().0 + 60_000))));
    assert!(bed.lease(1).await.is_empty());
    bed.pass_seconds(60);
    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    let told = ["queued", "started", "queued", "started", "queued", "started", "completed"];
    assert_eq!(bed.kinds(id).await, told);
}

async fn what_waits_is_cancelled_at_once(bed: &Bed) {
    let queued = bed.submit(bed.called_back()).await.job.id;
    let scheduled = bed.submit(bed.job_with(|j| j.run_at = Some(Millis(bed.now().0 + 9_000)))).await.job.id;
    let retrying = bed.submit(bed.job_with(|j| j.priority = 2)).await.job.id;
    let held = bed.lease_one().await;
    bed.held(&held, failure(true)).await.unwrap();
    for id in [queued, scheduled, retrying] {
        let job = bed.owner(id, cancel()).await.unwrap().job;
        assert_eq!((job.state, job.error.as_deref()), (JobState::Cancelled, Some("cancelled: not needed")));
        let again = bed.owner(id, cancel()).await;
        assert!(matches!(again, Err(Error::AlreadyFinished)), "{again:?}");
    }
    assert!(matches!(bed.held(&held, complete()).await, Err(Error::LeaseLost)));
    bed.pass_seconds(60);
    assert!(bed.lease(9).await.is_empty());
    assert_eq!(bed.kinds(retrying).await, ["queued", "started", "retrying", "cancelled"]);
    assert_eq!(bed.owner(retrying, What::Retry).await.unwrap().job.state, JobState::Queued);
    assert_eq!(bed.get(queued).await.callback_state, CallbackState::Pending);
    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    let late = bed.owner(held.job_id, cancel()).await;
    assert!(matches!(late, Err(Error::AlreadyFinished)), "{late:?}");
}

async fn the_holder_of_a_cancelled_job_is_told(bed: &Bed) {
    bed.submit_n(2).await;
    let held = bed.lease(2).await;
    for (job, what) in held.iter().zip([failure(true), release(0)]) {
        let asked = bed.owner(job.job_id, cancel()).await.unwrap().job;
        assert_eq!((asked.state, asked.cancel_at), (JobState::Processing, Some(bed.now())));
        assert_eq!(asked.view(bed.store.urls()).cancel_requested, Some(true));
        bed.pass_seconds(1);
        bed.owner(job.job_id, cancel()).await.unwrap();
        let told = bed.held(job, heartbeat(None)).await.unwrap().job;
        assert!(told.cancel_at.is_some_and(|at| at < bed.now()), "the grace runs from the first request");
        assert_eq!(bed.held(job, what.clone()).await.unwrap().job.state, JobState::Cancelled);
        assert!(bed.held(job, what).await.is_ok(), "the same report again");
    }
}

async fn a_holder_may_complete_a_job_that_is_being_cancelled(bed: &Bed) {
    let id = bed.submit_n(1).await[0];
    let held = bed.lease_one().await;
    bed.owner(id, cancel()).await.unwrap();
    bed.pass_seconds(29);
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 0);
    assert_eq!(bed.held(&held, complete()).await.unwrap().job.state, JobState::Complete);
}

async fn a_cancel_needs_no_answer_after_its_grace(bed: &Bed) {
    let id = bed.submit_n(1).await[0];
    let held = bed.lease_one().await;
    bed.owner(id, cancel()).await.unwrap();
    bed.pass_seconds(30);
    bed.held(&held, heartbeat(Some(3))).await.unwrap();
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 1);
    assert_eq!(bed.get(id).await.state, JobState::Cancelled);
    for what in [complete(), heartbeat(None)] {
        assert!(matches!(bed.held(&held, what).await, Err(Error::LeaseLost)), "a zombie's report");
    }
}

async fn a_cancelled_job_whose_worker_is_lost_is_cancelled(bed: &Bed) {
    let id = bed.submit(bed.job_with(|j| j.max_attempts = 1)).await.job.id;
    bed.lease_one().await;
    bed.pass_seconds(20);
    bed.owner(id, cancel()).await.unwrap();
    bed.pass_seconds(15);
    bed.store.end_overdue(bed.now()).await.unwrap();
    assert_eq!(bed.get(id).await.state, JobState::Processing, "the grace is not over");
    assert!(bed.lease(1).await.is_empty(), "nobody wants another attempt");
    bed.pass_seconds(15);
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 1);
    assert_eq!(bed.get(id).await.state, JobState::Cancelled);
}

async fn a_deadline_ends_the_job_wherever_it_stands(bed: &Bed) {
    let due = || bed.job_with(|j| j.deadline_at = Some(Millis(bed.now().0 + 10_000)));
    let (waits, retries) = (bed.submit(due()).await.job.id, due());
    let retries = bed.submit(ringback::types::job::NewJob { priority: 2, ..retries }).await.job.id;
    let held = bed.lease_one().await;
    bed.held(&held, failure(true)).await.unwrap();
    let runs = bed.submit(ringback::types::job::NewJob { priority: 1, ..due() }).await.job.id;
    let held = bed.lease_one().await;
    assert_eq!(held.job_id, runs);
    bed.pass_seconds(10);
    assert!(bed.lease(9).await.is_empty(), "nothing begins after its deadline");
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 3);
    for id in [waits, retries, runs] {
        let job = bed.get(id).await;
        assert_eq!(job.state, JobState::Expired);
        assert_eq!(job.error_info.unwrap().code.as_deref(), Some("deadline-passed"));
    }
    assert!(matches!(bed.held(&held, complete()).await, Err(Error::LeaseLost)));
}

async fn one_that_cannot_be_ended_keeps_no_other_from_its_end(bed: &Bed) {
    let due = |n: i64| bed.job_with(|j| j.deadline_at = Some(Millis(bed.now().0 + 10_000 + n)));
    let mut jobs = Vec::new();
    for n in 0..100 {
        jobs.push(bed.submit(due(n)).await.job.id);
    }
    let broken = bed.literal(jobs[0].uuid());
    bed.rows(&format!("UPDATE jobs SET callback = '{{' WHERE id = {broken}")).await;
    bed.spoil();
    bed.pass_seconds(11);
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 100);
    assert_eq!(bed.count("jobs WHERE state = 'expired'").await, 99);
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 0, "it is put off");
    bed.pass_seconds(300);
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 1);
    bed.rows(&format!("UPDATE jobs SET callback = NULL WHERE id = {broken}")).await;
    bed.pass_seconds(300);
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 1);
    assert_eq!(bed.get(jobs[0]).await.state, JobState::Expired);
}

async fn an_attempt_that_takes_too_long_is_repeated(bed: &Bed) {
    let id = bed.submit(bed.job_with(|j| (j.timeout_seconds, j.max_attempts) = (60, 2))).await.job.id;
    for state in [JobState::Retrying, JobState::Failed] {
        let held = bed.lease_one().await;
        for _ in 0..6 {
            bed.held(&held, heartbeat(None)).await.unwrap();
            bed.pass_seconds(10);
        }
        assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 1);
        let job = bed.get(id).await;
        assert_eq!((job.state, job.error_info.unwrap().code.as_deref()), (state, Some("timeout")));
        assert!(matches!(bed.held(&held, complete()).await, Err(Error::LeaseLost)));
        assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 0);
        bed.pass_seconds(5);
    }
}

async fn a_retry_goes_on_where_the_job_ended(bed: &Bed) {
    let ended = async |what: What| {
        let id = bed.submit(bed.called_back()).await.job.id;
        let held = bed.lease_one().await;
        bed.held(&held, what).await.unwrap();
        (id, held)
    };
    let (done, _) = ended(complete()).await;
    assert!(matches!(bed.owner(done, What::Retry).await, Err(Error::NotRetryable)));
    let (id, old) = ended(failure(false)).await;
    let before = bed.get(id).await;
    let again = bed.owner(id, What::Retry).await.unwrap().job;
    let read = bed.get(id).await;
    assert_eq!(view(bed, &again), view(bed, &read), "the answer is what is stored");
    assert_eq!((again.state, again.attempt, again.fence), (JobState::Queued, 0, before.fence));
    assert_eq!(again.sequence, before.sequence + 1);
    assert_eq!((again.error, again.ended_at, again.expires_at), (None, None, None));
    assert_eq!(again.callback_state, CallbackState::Pending);
    for what in [complete(), failure(false), heartbeat(None)] {
        assert!(matches!(bed.held(&old, what).await, Err(Error::LeaseLost)), "the old token is dead");
    }
    assert!(matches!(bed.owner(id, What::Retry).await, Err(Error::NotRetryable)), "it is queued already");
    let held = bed.lease_one().await;
    assert_eq!((held.job_id, held.attempt), (id, 1));
    assert_eq!(held.lease_token.fence, old.lease_token.fence + 1);
    bed.held(&held, complete()).await.unwrap();
    assert_eq!(bed.kinds(id).await, ["queued", "started", "failed", "queued", "started", "completed"]);
    assert_eq!(bed.count("deliveries").await, 3, "each end is delivered");
    let foreign = ringback::store::JobChange {
        id,
        tenant: Some(TenantId::from_uuid(uuid::Uuid::nil())),
        right: Right::Owner,
        what: What::Retry,
    };
    assert!(matches!(bed.change(foreign).await, Err(Error::NotFound)));
}

async fn an_expired_job_that_is_retried_lives_on(bed: &Bed) {
    let id = bed.submit(bed.job_with(|j| j.deadline_at = Some(Millis(bed.now().0 + 1_000)))).await.job.id;
    bed.pass_seconds(1);
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 1);
    assert_eq!(bed.owner(id, What::Retry).await.unwrap().job.deadline_at, None);
    let held = bed.lease_one().await;
    bed.held(&held, heartbeat(Some(1))).await.unwrap();
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 0, "the past deadline is forgotten");
    assert_eq!(bed.held(&held, complete()).await.unwrap().job.deadline_at, None);
}

async fn concurrent_retries_queue_the_job_once(bed: &Bed) {
    let ids = bed.submit_n(20).await;
    for held in bed.lease(20).await {
        bed.held(&held, failure(false)).await.unwrap();
    }
    // Another node, where the engine allows one.
    let other = open(&bed.url, 9).await.unwrap_or_else(|_| bed.store.clone());
    let retry = async |store: &ringback::store::Store, id| {
        let change = ringback::store::JobChange {
            id,
            tenant: Some(bed.tenant),
            right: Right::Owner,
            what: What::Retry,
        };
        store.change(vec![change], bed.now()).await.unwrap().remove(0)
    };
    let calls = ids.iter().flat_map(|id| [retry(&bed.store, *id), retry(&other, *id)]);
    let answers = join_all(calls).await;
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 20);
    assert_eq!(answers.iter().filter(|a| matches!(a, Err(Error::NotRetryable))).count(), 20);
    assert_eq!(bed.lease(100).await.len(), 20);
}

async fn many_changes_of_one_job_in_one_call(bed: &Bed) {
    let id = bed.submit_n(1).await[0];
    let held = bed.lease_one().await;
    let by =
        |what| ringback::store::JobChange { id, tenant: None, right: Right::Lease(held.lease_token), what };
    let changes = vec![by(heartbeat(Some(5))), by(complete()), by(complete()), by(failure(true))];
    let answers = bed.store.change(changes, bed.now()).await.unwrap();
    let states: Vec<_> =
        answers.iter().map(|a| a.as_ref().map(|c| c.job.state).map_err(|e| e.to_string())).collect();
    assert_eq!(states[..3], [Ok(JobState::Processing), Ok(JobState::Complete), Ok(JobState::Complete)]);
    assert!(matches!(answers[3], Err(Error::LeaseLost)));
    assert_eq!(bed.kinds(id).await, ["queued", "started", "progress", "completed"]);
}
