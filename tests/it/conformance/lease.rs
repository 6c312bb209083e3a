//! Claims of jobs: order, limits, floors and lost leases.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use ringback::store::{Error, LeaseRequest, Right, What};
use ringback::types::job::JobState;
use ringback::types::{JobId, Millis};

use crate::support::store::{Bed, both_stores, cancel, complete, failure, heartbeat, release};

both_stores! {
    a_worker_gets_the_job_as_it_was_submitted,
    the_more_urgent_and_the_older_come_first,
    only_the_wanted_types_queue_and_tenant,
    a_scheduled_job_waits_for_its_time,
    eight_claimers_share_the_jobs_and_no_limit_is_passed,
    a_straggler_below_the_floor_is_found,
    a_clock_that_steps_back_hides_nothing,
    an_expired_lease_is_claimed_again_under_a_new_fence,
    a_late_holder_whom_nobody_replaced_may_finish,
    the_last_attempt_lost_is_a_lost_worker,
    tokens_of_one_claim_do_not_tell_each_other,
    wanted_types_share_what_a_claim_may_take,
    a_claim_ends_with_the_bytes_that_it_may_read,
    what_is_submitted_beside_a_claim_passes_nothing_that_found_no_room,
    claims_of_more_than_one_transaction_reads_get_all_there_is,
    each_type_has_its_turn_where_there_is_room_for_one_job,
    what_nobody_waited_for_is_claimed_by_the_next,
    who_waits_is_told_without_a_claim,
}

async fn a_worker_gets_the_job_as_it_was_submitted(bed: &Bed) {
    let new = bed.job_with(|j| {
        j.input = r#"{ "b":1,  "a" : [1.50] }"#.to_owned();
        j.reference = Some("r".to_owned());
        j.metadata = r#"{"team":"billing"}"#.to_owned();
        j.traceparent = Some("00-1".to_owned());
        j.timeout_seconds = 10;
        j.deadline_at = Some(Millis(bed.now().0 + 5_000));
    });
    let id = bed.submit(new).await.job.id;
    let got = bed.lease_one().await;
    assert_eq!((got.job_id, got.attempt, got.kind.as_str()), (id, 1, "report.generate"));
    assert_eq!(got.input.get(), r#"{ "b":1,  "a" : [1.50] }"#, "byte for byte");
    assert_eq!(got.metadata.get(), r#"{"team":"billing"}"#);
    assert_eq!((got.reference.as_deref(), got.traceparent.as_deref()), (Some("r"), Some("00-1")));
    assert_eq!(got.lease_expires_at, Millis(bed.now().0 + 30_000));
    assert_eq!(got.deadline_at, Some(Millis(bed.now().0 + 5_000)), "the earlier of deadline and time-out");
    let job = bed.get(id).await;
    assert_eq!((job.state, job.attempt, job.sequence), (JobState::Processing, 1, 2));
    assert_eq!((job.started_at, job.fence), (Some(bed.now()), 1));
    assert_eq!(bed.kinds(id).await, ["queued", "started"]);
}

async fn the_more_urgent_and_the_older_come_first(bed: &Bed) {
    let mut wanted = Vec::new();
    for (priority, age) in [(0, 2), (2, 0), (-2, 9), (0, 1), (1, 0)] {
        bed.set_now(Millis(crate::support::store::START.0 + 10_000 - age * 1_000));
        let id = bed.submit(bed.job_with(|j| j.priority = priority)).await.job.id;
        wanted.push((-priority, -age, id));
    }
    wanted.sort_by_key(|(p, a, _)| (*p, *a));
    let wanted: Vec<JobId> = wanted.into_iter().map(|w| w.2).collect();
    bed.set_now(Millis(crate::support::store::START.0 + 10_000));
    let first = bed.lease(1).await;
    let rest = bed.lease(10).await;
    let got: Vec<JobId> = first.iter().chain(&rest).map(|j| j.job_id).collect();
    assert_eq!(got, wanted);
}

async fn only_the_wanted_types_queue_and_tenant(bed: &Bed) {
    let two = bed.store.tenant("two", bed.now()).await.unwrap();
    let kinds = ["a", "b", "a.b", "ab"].map(|k| bed.job_with(|j| j.kind = k.to_owned()));
    let other = bed.job_with(|j| j.queue = "other".to_owned());
    let foreign = bed.job_with(|j| j.tenant = two);
    bed.store.submit([kinds.to_vec(), vec![other, foreign]].concat(), bed.now()).await.unwrap();
    let want = |types: &[&str], queue: &str| LeaseRequest {
        types: types.iter().map(|t| (*t).to_owned()).collect(),
        queue: queue.to_owned(),
        ..bed.wish(10)
    };
    let kinds = async |want| {
        let got = bed.store.lease(want, bed.now()).await.unwrap();
        let mut kinds: Vec<String> = got.into_iter().map(|l| l.job.kind).collect();
        kinds.sort();
        kinds
    };
    assert_eq!(kinds(want(&["c"], "default")).await, [""; 0]);
    assert_eq!(kinds(want(&["a", "b"], "default")).await, ["a", "b"]);
    assert_eq!(kinds(want(&[], "default")).await, ["a.b", "ab"], "a filtered claim hides nothing");
    assert_eq!(kinds(want(&[], "other")).await, ["report.generate"]);
    assert_eq!(kinds(LeaseRequest { tenant: two, ..bed.wish(10) }).await, ["report.generate"]);
}

async fn a_scheduled_job_waits_for_its_time(bed: &Bed) {
    let id = bed.submit(bed.job_with(|j| j.run_at = Some(Millis(bed.now().0 + 5_000)))).await.job.id;
    assert!(bed.lease(1).await.is_empty());
    bed.pass_seconds(4);
    assert!(bed.lease(1).await.is_empty());
    assert_eq!(bed.get(id).await.state, JobState::Scheduled);
    bed.pass_seconds(1);
    assert_eq!(bed.get(id).await.state, JobState::Queued);
    assert_eq!(bed.lease_one().await.job_id, id);
}

async fn eight_claimers_share_the_jobs_and_no_limit_is_passed(bed: &Bed) {
    bed.submit_n(1_000).await;
    let claimer = async || {
        let mut mine = Vec::new();
        loop {
            let got = bed.lease(37).await;
            assert!(got.len() <= 37);
            // A claimer that skips what the others lock may come away empty before the end.
            if got.is_empty() && bed.count("job_queue WHERE phase = 'ready'").await == 0 {
                return mine;
            }
            mine.extend(got.into_iter().map(|j| j.job_id));
        }
    };
    let all: Vec<JobId> = join_all((0..8).map(|_| claimer())).await.concat();
    assert_eq!(all.len(), 1_000);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 1_000, "no job was claimed twice");
}

async fn a_straggler_below_the_floor_is_found(bed: &Bed) {
    bed.submit_n(1).await;
    assert_eq!(bed.lease(10).await.len(), 1, "drained: the floor rises");
    let late = Millis(bed.now().0 - 60_000);
    let id = bed.store.submit(vec![bed.job()], late).await.unwrap()[0].job.id;
    assert!(bed.lease(10).await.is_empty(), "below the floor");
    bed.pass_seconds(3);
    assert_eq!(bed.lease_one().await.job_id, id, "the pass without a floor finds it");
}

async fn a_clock_that_steps_back_hides_nothing(bed: &Bed) {
    bed.submit_n(1).await;
    assert_eq!(bed.lease(10).await.len(), 1);
    bed.set_now(Millis(bed.now().0 - 3_600_000));
    bed.submit_n(1).await;
    assert_eq!(bed.lease(10).await.len(), 1);
}

async fn an_expired_lease_is_claimed_again_under_a_new_fence(bed: &Bed) {
    let id = bed.submit_n(1).await[0];
    let zombie = bed.lease_one().await;
    bed.pass_seconds(29);
    assert!(bed.lease(1).await.is_empty(), "still held");
    bed.pass_seconds(1);
    let holder = bed.lease_one().await;
    assert_eq!((holder.job_id, holder.attempt), (id, 2));
    assert_eq!((zombie.lease_token.fence, holder.lease_token.fence), (1, 2));
    let before = format!("{:?}", bed.get(id).await);
    for what in [complete(), failure(true), heartbeat(Some(1)), release(0)] {
        let answer = bed.held(&zombie, what).await;
        assert!(matches!(answer, Err(Error::LeaseLost)), "{answer:?}");
    }
    let mut forged = holder.lease_token;
    forged.random[0] ^= 1;
    assert!(matches!(bed.by_lease(id, forged, complete()).await, Err(Error::LeaseLost)));
    assert_eq!(format!("{:?}", bed.get(id).await), before, "the zombie changed nothing");
    assert_eq!(bed.kinds(id).await, ["queued", "started", "retrying", "started"]);
    bed.held(&holder, complete()).await.unwrap();
    assert!(matches!(bed.held(&zombie, complete()).await, Err(Error::LeaseLost)));
}

async fn a_late_holder_whom_nobody_replaced_may_finish(bed: &Bed) {
    bed.submit_n(3).await;
    let late = bed.lease(3).await;
    bed.pass_seconds(300);
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 0, "attempts are left");
    assert_eq!(bed.held(&late[0], complete()).await.unwrap().job.state, JobState::Complete);
    assert_eq!(bed.held(&late[1], failure(true)).await.unwrap().job.state, JobState::Retrying);
    let renewed = bed.held(&late[2], heartbeat(None)).await.unwrap();
    assert_eq!(renewed.lease_until, Some(Millis(bed.now().0 + 30_000)));
    assert!(bed.lease(3).await.is_empty());
}

async fn the_last_attempt_lost_is_a_lost_worker(bed: &Bed) {
    let id = bed.submit(bed.job_with(|j| j.max_attempts = 2)).await.job.id;
    bed.lease_one().await;
    bed.pass_seconds(31);
    let last = bed.lease_one().await;
    bed.pass_seconds(31);
    assert!(bed.lease(1).await.is_empty(), "no attempt is left");
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 1);
    let job = bed.get(id).await;
    assert_eq!((job.state, job.attempt), (JobState::Failed, 2));
    assert_eq!(job.error_info.unwrap().code.as_deref(), Some("worker-lost"));
    assert!(job.error.is_some());
    assert!(matches!(bed.held(&last, complete()).await, Err(Error::LeaseLost)));
    assert_eq!(bed.kinds(id).await, ["queued", "started", "retrying", "started", "failed"]);
    assert_eq!(bed.store.end_overdue(bed.now()).await.unwrap(), 0);
}

async fn tokens_of_one_claim_do_not_tell_each_other(bed: &Bed) {
    bed.submit_n(2).await;
    let got = bed.lease(2).await;
    assert_ne!(got[0].lease_token.random, got[1].lease_token.random);
    let crossed = bed.by_lease(got[0].job_id, got[1].lease_token, complete()).await;
    assert!(matches!(crossed, Err(Error::LeaseLost)));
    let swept = ringback::store::JobChange {
        id: got[0].job_id,
        tenant: None,
        right: Right::Sweep(0),
        what: What::Overdue,
    };
    assert!(matches!(bed.change(swept).await, Err(Error::LeaseLost)), "the sweep saw an older row");
}

async fn wanted_types_share_what_a_claim_may_take(bed: &Bed) {
    for kind in ["a", "a", "a", "a", "b", "c"] {
        bed.submit(bed.job_with(|j| j.kind = kind.to_owned())).await;
    }
    let wish = LeaseRequest { types: vec!["a".to_owned(), "b".to_owned()], ..bed.wish(4) };
    let claim = async || {
        let got = bed.store.lease(wish.clone(), bed.now()).await.unwrap();
        let mut kinds: Vec<_> = got.into_iter().map(|l| l.job.kind).collect();
        kinds.sort();
        kinds
    };
    assert_eq!(claim().await, ["a", "a", "a", "b"], "what one type leaves the other may have");
    assert_eq!(claim().await, ["a"]);
    assert_eq!(bed.lease_one().await.kind, "c");
}

/// Submits so many jobs with inputs of so many KiB.
async fn large(bed: &Bed, kind: &str, jobs: usize, kib: usize) {
    for _ in 0..jobs {
        let input = format!("\"{}\"", "x".repeat(kib << 10));
        bed.submit(bed.job_with(|j| (j.kind, j.input) = (kind.to_owned(), input))).await;
        bed.pass(Duration::from_millis(1));
    }
}

async fn a_claim_ends_with_the_bytes_that_it_may_read(bed: &Bed) {
    large(bed, "a", 5, 1_500).await;
    large(bed, "a", 2, 5_000).await;
    large(bed, "a", 9, 0).await;
    let mut got = Vec::new();
    for _ in 0..4 {
        got.push(bed.lease(500).await.len());
    }
    assert_eq!(got, [3, 3, 1, 9], "4 MiB, and the job that goes beyond them");
}

async fn what_is_submitted_beside_a_claim_passes_nothing_that_found_no_room(bed: &Bed) {
    large(bed, "a", 12, 1_500).await;
    for _ in 0..4 {
        let submits = (0..8).map(|_| bed.submit(bed.job()));
        let (leased, _) = tokio::join!(bed.lease(100), join_all(submits));
        assert_eq!(leased.iter().map(|job| job.kind.as_str()).collect::<Vec<_>>(), ["a", "a", "a"]);
    }
    assert_eq!(bed.lease(100).await.len(), 32);
}

async fn claims_of_more_than_one_transaction_reads_get_all_there_is(bed: &Bed) {
    large(bed, "a", 24, 1_500).await;
    let got = join_all((0..8).map(|_| bed.lease(3))).await;
    let ids: HashSet<JobId> = got.iter().flatten().map(|job| job.job_id).collect();
    assert_eq!((got.iter().map(Vec::len).max(), ids.len()), (Some(3), 24));
    bed.sound().await;
}

async fn each_type_has_its_turn_where_there_is_room_for_one_job(bed: &Bed) {
    for kind in ["a", "b", "c"] {
        large(bed, kind, 4, 4_200).await;
    }
    let want = LeaseRequest { types: ["a", "b", "c"].map(str::to_owned).to_vec(), ..bed.wish(100) };
    let mut got = Vec::new();
    while let [one, rest @ ..] = &bed.store.lease(want.clone(), bed.now()).await.unwrap()[..] {
        assert!(rest.len() < 3);
        got.extend([one].into_iter().chain(rest).map(|leased| leased.job.kind.clone()));
    }
    assert_eq!(got.len(), 12);
    assert_eq!(got[..8].iter().collect::<HashSet<_>>().len(), 3, "{got:?}");
}

async fn what_nobody_waited_for_is_claimed_by_the_next(bed: &Bed) {
    let ids: HashSet<JobId> = bed.submit_n(50).await.into_iter().collect();
    for n in 0..50 {
        // Dropped while it waits in the queue, while it is written, or just after.
        let limit = std::time::Duration::from_micros(n * 60);
        let _ = tokio::time::timeout(limit, bed.store.lease(bed.wish(1), bed.now())).await;
    }
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let mut got = HashSet::new();
    loop {
        for job in bed.lease(50).await {
            assert_eq!(job.attempt, 1, "no attempt is used");
            got.insert(job.job_id);
        }
        // What was answered in time is in someone's hands; the test threw it away.
        let held = bed.count("job_queue WHERE phase = 'leased'").await;
        if held == 50 {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{} of 50 claimed again", got.len());
    }
    assert!(got.is_subset(&ids) && !got.is_empty());
}

async fn who_waits_is_told_without_a_claim(bed: &Bed) {
    let (any, rare) = (bed.wish(1), LeaseRequest { types: vec!["rare".to_owned()], ..bed.wish(1) });
    let due = async |wish: &LeaseRequest| bed.store.any_due(wish, bed.now()).await.unwrap();
    assert!(!due(&any).await);
    let id = bed.submit(bed.job_with(|j| j.run_at = Some(Millis(bed.now().0 + 5_000)))).await.job.id;
    assert!(!due(&any).await);
    bed.pass_seconds(5);
    assert!(due(&any).await && !due(&rare).await);
    assert_eq!(bed.get(id).await.attempt, 0, "nothing was taken");
    bed.submit(bed.job_with(|j| j.kind = "rare".to_owned())).await;
    assert!(due(&rare).await);
    for job in bed.lease(2).await {
        bed.owner(job.job_id, cancel()).await.unwrap();
    }
    bed.pass_seconds(20);
    assert!(
        bed.lease(2).await.is_empty() && !due(&any).await && !due(&rare).await,
        "no claim takes a cancelled job"
    );
}
