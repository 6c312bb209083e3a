//! Claims that wait: what is submitted for them is theirs in the same transaction.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{join_all, join4};
use ringback::store::{Error, LeaseRequest, Offer, Submitted};
use ringback::types::api::ClaimedJob;
use ringback::types::job::{JobState, NewJob, WorkerKind};
use ringback::types::{JobId, Millis};
use tokio::time::timeout;

use super::endpoints::endpoint;
use super::queues::{limit, pause, set};
use crate::support::store::{Bed, both_stores, complete, key};

both_stores! {
    what_is_submitted_is_theirs_at_once,
    only_what_they_asked_for_is_theirs,
    who_has_waited_longest_is_served_first,
    the_more_urgent_is_theirs_first,
    its_row_is_that_of_a_job_that_was_claimed,
    a_claim_beside_the_submission_has_it_too,
    what_holds_a_queue_back_holds_it_back_from_them,
    claims_beside_each_other_pass_no_limit,
    a_withdrawn_claim_takes_nothing,
    a_claim_that_is_gone_meanwhile_costs_no_attempt,
    who_waits_beside_one_that_is_gone_is_told_of_what_it_had,
    what_is_submitted_again_is_nobodys,
    anothers_fault_is_not_theirs,
    who_asked_for_beginnings_is_told_of_them,
    a_lease_that_came_with_the_job_runs_out_like_any,
}

/// A claim that has found nothing and waits.
async fn waiting(bed: &Bed, want: &LeaseRequest) -> Offer {
    assert!(bed.store.lease(want.clone(), bed.now()).await.unwrap().is_empty(), "nothing is due");
    bed.store.offer(want)
}

async fn answer(offer: &mut Offer) -> Vec<ClaimedJob> {
    let answered = timeout(Duration::from_secs(10), offer.answered()).await.expect("it was handed something");
    answered.unwrap().into_iter().map(|leased| leased.job).collect()
}

fn still_waits(offer: &mut Offer) -> bool {
    offer.answered().now_or_never().is_none()
}

async fn submit(bed: &Bed, jobs: Vec<NewJob>) -> Vec<Submitted> {
    bed.store.submit(jobs, bed.now()).await.unwrap()
}

async fn what_is_submitted_is_theirs_at_once(bed: &Bed) {
    let want = LeaseRequest { lease_seconds: 40, renew_seconds: Some(50), ..bed.wish(2) };
    let mut offer = waiting(bed, &want).await;
    let new = bed.job_with(|j| {
        j.input = r#"{ "b":1,  "a" : [1.50] }"#.to_owned();
        j.metadata = r#"{"team":"billing"}"#.to_owned();
        (j.reference, j.traceparent) = (Some("r".to_owned()), Some("00-1".to_owned()));
        (j.timeout_seconds, j.deadline_at) = (60, Some(Millis(bed.now().0 + 5_000)));
    });
    let submitted = submit(bed, vec![new]).await.remove(0);
    assert!(submitted.taken);
    assert_eq!((submitted.job.state, submitted.job.sequence), (JobState::Queued, 1), "as it was accepted");
    let got = answer(&mut offer).await.remove(0);
    assert_eq!((got.job_id, got.attempt, got.kind.as_str()), (submitted.job.id, 1, "report.generate"));
    assert_eq!(got.input.get(), r#"{ "b":1,  "a" : [1.50] }"#, "byte for byte");
    assert_eq!(got.metadata.get(), r#"{"team":"billing"}"#);
    assert_eq!((got.reference.as_deref(), got.traceparent.as_deref()), (Some("r"), Some("00-1")));
    assert_eq!(got.lease_expires_at, Millis(bed.now().0 + 40_000));
    assert_eq!(got.deadline_at, Some(Millis(bed.now().0 + 5_000)), "the earlier of deadline and time-out");
    let job = bed.get(got.job_id).await;
    assert_eq!((job.state, job.attempt, job.sequence, job.fence), (JobState::Processing, 1, 2, 1));
    assert_eq!((job.started_at, job.lease_seconds), (Some(bed.now()), 50));
    assert_eq!(bed.count("job_queue WHERE worker_id = 'w-1' AND watch_at = deadline_at").await, 1);
    assert!(!bed.submit(bed.job()).await.taken, "one answer, however much more it has room for");
    bed.held(&got, complete()).await.unwrap();
    assert_eq!(bed.kinds(got.job_id).await, ["queued", "started", "completed"]);
    bed.sound().await;
}

async fn only_what_they_asked_for_is_theirs(bed: &Bed) {
    let two = bed.store.tenant("two", bed.now()).await.unwrap();
    let mut offer =
        waiting(bed, &LeaseRequest { types: vec!["a".to_owned(), "b".to_owned()], ..bed.wish(9) }).await;
    let later = Some(Millis(bed.now().0 + 1));
    let others = vec![
        bed.job_with(|j| j.kind = "ab".to_owned()),
        bed.job_with(|j| (j.kind, j.queue) = ("a".to_owned(), "other".to_owned())),
        bed.job_with(|j| (j.kind, j.tenant) = ("a".to_owned(), two)),
        bed.job_with(|j| (j.kind, j.run_at) = ("a".to_owned(), later)),
        bed.job_with(|j| (j.kind, j.deadline_at) = ("a".to_owned(), Some(bed.now()))),
        bed.job_with(|j| (j.kind, j.worker) = ("a".to_owned(), WorkerKind::External)),
    ];
    assert!(submit(bed, others).await.iter().all(|one| !one.taken));
    assert!(still_waits(&mut offer));
    let fit = bed.job_with(|j| (j.kind, j.run_at) = ("b".to_owned(), Some(bed.now())));
    assert!(bed.submit(fit).await.taken);
    assert_eq!(answer(&mut offer).await.len(), 1);
}

async fn who_has_waited_longest_is_served_first(bed: &Bed) {
    let (mut first, mut second) = (waiting(bed, &bed.wish(2)).await, waiting(bed, &bed.wish(2)).await);
    let mut third = waiting(bed, &bed.wish(2)).await;
    let taken: Vec<JobId> = submit(bed, vec![bed.job(), bed.job(), bed.job()])
        .await
        .into_iter()
        .map(|one| {
            assert!(one.taken);
            one.job.id
        })
        .collect();
    let ids = async |offer| answer(offer).await.iter().map(|job| job.job_id).collect::<Vec<_>>();
    assert_eq!((ids(&mut first).await, ids(&mut second).await), (taken[..2].to_vec(), taken[2..].to_vec()));
    assert!(still_waits(&mut third));
    let left: Vec<bool> =
        submit(bed, vec![bed.job(), bed.job(), bed.job()]).await.iter().map(|s| s.taken).collect();
    assert_eq!(
        (left, ids(&mut third).await.len()),
        (vec![true, true, false], 2),
        "no more than it asked for"
    );
    assert_eq!(bed.lease(9).await.len(), 1, "the others are claimed as ever");
}

async fn the_more_urgent_is_theirs_first(bed: &Bed) {
    let mut offer = waiting(bed, &bed.wish(2)).await;
    let jobs = [-2, 1, 0, 2, 1].map(|priority| bed.job_with(|j| j.priority = priority));
    let taken: Vec<bool> = submit(bed, jobs.to_vec()).await.iter().map(|one| one.taken).collect();
    assert_eq!(taken, [false, true, false, true, false]);
    let ids: Vec<JobId> = answer(&mut offer).await.iter().map(|job| job.job_id).collect();
    assert_eq!(ids, [jobs[3].id, jobs[1].id]);
}

async fn its_row_is_that_of_a_job_that_was_claimed(bed: &Bed) {
    endpoint(bed, serde_json::json!({"events": ["job.started"]})).await;
    let want = LeaseRequest { lease_seconds: 40, renew_seconds: Some(50), ..bed.wish(1) };
    let rows = async || {
        let shown = "queue, kind, phase, worker_id, level, due_at, fence, CAST(length(token) AS BIGINT), attempt,
            attempts_left, sequence, version, wants, lease_seconds, timeout_ms, started_at, started_sequence, lost_at,
            lost_sequence, progress, deadline_at, cancel_at, watch_at";
        let rows = bed.rows(&format!("SELECT {shown} FROM job_queue")).await;
        assert_eq!(rows.len(), 1);
        let texts: Vec<_> = (0..4).map(|i| rows[0].text_opt(i).unwrap()).collect();
        (texts, (4..23).map(|i| rows[0].int_opt(i).unwrap()).collect::<Vec<_>>())
    };
    for deadline in [None, Some(Millis(bed.now().0 + 5_000)), Some(Millis(bed.now().0 + 86_400_000))] {
        let new = || bed.job_with(|j| (j.deadline_at, j.timeout_seconds, j.priority) = (deadline, 60, 1));
        let mut both = Vec::new();
        for waits in [false, true] {
            let held = if waits {
                let mut offer = waiting(bed, &want).await;
                bed.submit(new()).await;
                answer(&mut offer).await.remove(0)
            } else {
                bed.submit(new()).await;
                bed.store.lease(want.clone(), bed.now()).await.unwrap().remove(0).job
            };
            both.push((rows().await, held.deadline_at, held.lease_expires_at));
            bed.held(&held, complete()).await.unwrap();
        }
        assert_eq!(both[0], both[1], "{deadline:?}");
    }
}

async fn a_claim_beside_the_submission_has_it_too(bed: &Bed) {
    let mut got = Vec::new();
    let mut all = HashSet::new();
    for _ in 0..20 {
        let calls = join_all((0..5).map(|_| bed.submit(bed.job())));
        let (submitted, leased) = tokio::join!(calls, bed.lease(3));
        assert!(leased.len() <= 3);
        let taken: HashSet<JobId> = submitted.iter().filter(|one| one.taken).map(|one| one.job.id).collect();
        all.extend(submitted.iter().map(|one| one.job.id));
        got.extend(leased.iter().map(|job| job.job_id));
        assert!(taken.iter().all(|id| got.contains(id)), "who was told that it is taken knows by whom");
    }
    while let Some(job) = bed.lease(1).await.pop() {
        got.push(job.job_id);
    }
    assert_eq!((got.len(), got.into_iter().collect::<HashSet<_>>()), (100, all), "each once");
    bed.sound().await;
}

async fn what_holds_a_queue_back_holds_it_back_from_them(bed: &Bed) {
    let mut offer = waiting(bed, &bed.wish(9)).await;
    set(bed, pause(Millis(bed.now().0 + 5_000))).await;
    assert!(!bed.submit(bed.job()).await.taken && still_waits(&mut offer));
    bed.pass_seconds(5);
    assert!(!bed.lease(1).await.is_empty(), "the pause is over");
    assert!(bed.submit(bed.job()).await.taken, "and holds nobody back any more");
    assert_eq!(answer(&mut offer).await.len(), 1);
    bed.pass_seconds(31);
    bed.lease(9).await;
    let mut offer = waiting(bed, &bed.wish(9)).await;
    set(bed, limit(3)).await;
    assert!(!bed.submit(bed.job()).await.taken && still_waits(&mut offer), "it has to look, as others do");
}

async fn claims_beside_each_other_pass_no_limit(bed: &Bed) {
    set(bed, limit(1)).await;
    for _ in 0..20 {
        let all = (bed.submit(bed.job()), bed.submit(bed.job()), bed.lease(9), bed.lease(9));
        let (_, _, first, second) = join4(all.0, all.1, all.2, all.3).await;
        let mut held = [first, second].concat();
        assert!(held.len() <= 1, "{held:?}");
        let mut ended = 0;
        while ended < 2 {
            for job in held.drain(..) {
                bed.held(&job, complete()).await.unwrap();
                ended += 1;
            }
            held = bed.lease(9).await;
            assert!(held.len() <= 1, "{held:?}");
        }
    }
}

async fn a_withdrawn_claim_takes_nothing(bed: &Bed) {
    let (dropped, offer) = (waiting(bed, &bed.wish(9)).await, waiting(bed, &bed.wish(9)).await);
    drop(dropped);
    assert!(offer.withdraw().await.unwrap().is_empty());
    assert!(!bed.submit(bed.job()).await.taken);
    let offer = bed.store.offer(&bed.wish(9));
    assert!(bed.submit(bed.job()).await.taken);
    assert_eq!(offer.withdraw().await.unwrap().len(), 1, "what it has got by then it keeps");
}

async fn a_claim_that_is_gone_meanwhile_costs_no_attempt(bed: &Bed) {
    let (mut taken, mut all, mut got) = (0, HashSet::new(), HashSet::new());
    let next = async || {
        let jobs = bed.lease(50).await;
        assert!(jobs.iter().all(|job| job.attempt == 1), "no attempt is used");
        jobs.into_iter().map(|job| job.job_id)
    };
    for n in 0..50 {
        got.extend(next().await);
        let offer = bed.store.offer(&bed.wish(1));
        let mut submitting = Box::pin(bed.submit(bed.job()));
        // It goes while its job waits to be written, while it is, or, every fifth time, with its answer unread, unless it was
        // told of a job that one before it had.
        let submitted = if n % 5 == 0 {
            let submitted = submitting.await;
            drop(offer);
            submitted
        } else {
            assert!(submitting.as_mut().now_or_never().is_none());
            for _ in 0..n * 20 {
                tokio::task::yield_now().await;
            }
            drop(offer);
            submitting.await
        };
        taken += i64::from(submitted.taken);
        all.insert(submitted.job.id);
    }
    assert!(taken > 0, "some of them had it while they went");
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    while got != all {
        got.extend(next().await);
        assert!(tokio::time::Instant::now() < until, "{} of 50 came back", got.len());
    }
    bed.sound().await;
}

async fn who_waits_beside_one_that_is_gone_is_told_of_what_it_had(bed: &Bed) {
    let mut told = 0;
    for n in 0..50 {
        let (gone, mut stays) = (waiting(bed, &bed.wish(1)).await, waiting(bed, &bed.wish(1)).await);
        let mut submitting = Box::pin(bed.submit(bed.job()));
        // It goes before it has the job, while that is written, or, every fifth time, with its answer unread.
        if n % 5 == 0 {
            submitting.await;
            drop(gone);
        } else {
            assert!(submitting.as_mut().now_or_never().is_none());
            for _ in 0..n * 20 {
                tokio::task::yield_now().await;
            }
            drop(gone);
            submitting.await;
        }
        let mut got = answer(&mut stays).await;
        if got.is_empty() {
            told += 1;
            got = bed.lease(1).await;
        }
        assert_eq!(got.len(), 1, "it is there when that is told");
        bed.held(&got[0], complete()).await.unwrap();
    }
    assert!(told >= 10, "{told} of 50");
    bed.sound().await;
}

async fn what_is_submitted_again_is_nobodys(bed: &Bed) {
    let new = bed.job();
    bed.submit(new.clone()).await;
    assert_eq!(bed.lease(9).await.len(), 1);
    let mut offer = waiting(bed, &bed.wish(9)).await;
    // As after an answer of the database that was lost: the job is there already.
    assert!(!bed.submit(new).await.taken);
    assert!(answer(&mut offer).await.is_empty(), "it has to ask again");
    assert_eq!(bed.count("job_queue WHERE phase = 'leased' AND fence = 1").await, 1);
}

async fn anothers_fault_is_not_theirs(bed: &Bed) {
    let keyed = |fingerprint| bed.job_with(|j| j.idempotency = Some(key("/v1/jobs", "k", fingerprint)));
    bed.submit(keyed(1)).await;
    assert_eq!(bed.lease(9).await.len(), 1);
    let mut offer = waiting(bed, &bed.wish(9)).await;
    // All or none: the transaction that they would have shared is undone.
    let refused = bed.store.submit(vec![bed.job(), keyed(2)], bed.now()).await;
    assert!(matches!(refused, Err(Error::KeyReused)), "{refused:?}");
    assert!(answer(&mut offer).await.is_empty(), "it has to ask again");
    assert!(!bed.submit(bed.job()).await.taken);
    assert_eq!(bed.lease(9).await.len(), 1);
}

async fn who_asked_for_beginnings_is_told_of_them(bed: &Bed) {
    endpoint(bed, serde_json::json!({"events": ["job.queued", "job.started"]})).await;
    let mut offer = waiting(bed, &bed.wish(9)).await;
    let id = bed.submit(bed.job()).await.job.id;
    let got = answer(&mut offer).await.remove(0);
    assert_eq!(bed.events(id).await, [(1, "job.queued".to_owned()), (2, "job.started".to_owned())]);
    let mut told = Vec::new();
    for delivery in bed.claim().await {
        let body: serde_json::Value = serde_json::from_slice(&delivery.body).unwrap();
        told.push((delivery.event_kind, body["data"]["state"].clone(), body["data"]["attempt"].clone()));
    }
    told.sort_by(|a, b| a.0.cmp(&b.0));
    let told: Vec<_> =
        told.iter().map(|(kind, state, n)| (kind.as_str(), state.as_str(), n.as_i64())).collect();
    assert_eq!(told, [("job.queued", Some("queued"), Some(0)), ("job.started", Some("processing"), Some(1))]);
    bed.held(&got, complete()).await.unwrap();
    assert_eq!(bed.kinds(id).await, ["queued", "started", "completed"], "each once");
    bed.sound().await;
}

async fn a_lease_that_came_with_the_job_runs_out_like_any(bed: &Bed) {
    let mut offer = waiting(bed, &bed.wish(1)).await;
    let id = bed.submit(bed.job_with(|j| j.max_attempts = 2)).await.job.id;
    let lost = answer(&mut offer).await.remove(0);
    bed.pass_seconds(31);
    let again = bed.lease_one().await;
    assert_eq!((again.job_id, again.attempt), (id, 2));
    assert!(bed.held(&lost, complete()).await.is_err(), "a zombie changes nothing");
    assert_eq!(bed.kinds(id).await, ["queued", "started", "retrying", "started"]);
    bed.sound().await;
}
