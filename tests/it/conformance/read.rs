//! Lists with their filters and pages, and the walls between tenants.

use std::time::Duration;

use ringback::store::{
    DeliveryFilter, Error, JobChange, JobFilter, PageOf, ReplayOf, Right, Submitted, What,
};
use ringback::types::delivery::{DeadReason, DeliveryState, Verdict};
use ringback::types::job::{JobState, NewJob};
use ringback::types::{Id, JobId, Millis, TenantId};

use crate::support::store::{Bed, both_stores, callback, cancel, complete, failure, page};

both_stores! {
    jobs_are_listed_by_every_filter,
    pages_have_no_gap_and_no_repeat,
    what_fits_is_found_behind_what_one_look_saw,
    nothing_crosses_tenants,
    the_store_answers_and_knows_the_time,
    access_tokens_open_their_job,
}

async fn listed(bed: &Bed, filter: JobFilter) -> Vec<JobId> {
    let jobs = bed.store.jobs(bed.tenant, &filter, page(200), bed.now()).await.unwrap().rows;
    let ids: Vec<JobId> = jobs.iter().map(|j| j.id).collect();
    assert!(ids.windows(2).all(|w| w[0] > w[1]), "newest first");
    for job in jobs {
        assert_eq!(format!("{job:?}"), format!("{:?}", bed.get(job.id).await), "a list tells no other story");
    }
    ids
}

async fn jobs_are_listed_by_every_filter(bed: &Bed) {
    // One job in each state.
    let expired = bed.submit(bed.job_with(|j| j.deadline_at = Some(Millis(bed.now().0 + 1)))).await.job.id;
    bed.pass(Duration::from_millis(1));
    bed.store.end_overdue(bed.now()).await.unwrap();
    bed.submit_n(4).await;
    for (held, what) in bed.lease(4).await.iter().zip([complete(), failure(false), failure(true)]) {
        bed.held(held, what).await.unwrap();
    }
    let cancelled = bed.submit_n(1).await[0];
    bed.owner(cancelled, cancel()).await.unwrap();
    let later = Some(Millis(bed.now().0 + 60_000));
    let scheduled = bed.job_with(|j| (j.run_at, j.queue) = (later, "slow".to_owned()));
    let scheduled = bed.submit(scheduled).await.job.id;
    bed.pass_seconds(2);
    let queued = bed.job_with(|j| (j.kind, j.reference) = ("b".to_owned(), Some("r-1".to_owned())));
    let queued = bed.submit(queued).await.job.id;

    let mut all = Vec::new();
    for (state, wanted) in [
        (JobState::Scheduled, scheduled),
        (JobState::Queued, queued),
        (JobState::Expired, expired),
        (JobState::Cancelled, cancelled),
    ] {
        let got = listed(bed, JobFilter { states: vec![state], ..JobFilter::default() }).await;
        assert_eq!(got, [wanted], "{state:?}");
    }
    for state in JobState::ALL {
        let got = listed(bed, JobFilter { states: vec![*state], ..JobFilter::default() }).await;
        assert_eq!(got.len(), 1, "{state:?}");
        assert_eq!(bed.get(got[0]).await.state, *state);
        all.extend(got);
    }
    all.sort_by(|a, b| b.cmp(a));
    assert_eq!(listed(bed, JobFilter::default()).await, all);
    assert_eq!(listed(bed, JobFilter { states: JobState::ALL.to_vec(), ..JobFilter::default() }).await, all);
    let by = async |change: fn(&mut JobFilter)| {
        let mut filter = JobFilter::default();
        change(&mut filter);
        listed(bed, filter).await
    };
    assert_eq!(by(|f| f.kind = Some("b".to_owned())).await, [queued]);
    assert_eq!(by(|f| f.queue = Some("slow".to_owned())).await, [scheduled]);
    assert_eq!(by(|f| f.reference = Some("r-1".to_owned())).await, [queued]);
    assert_eq!(by(|f| f.only_queues = Some(vec!["slow".to_owned(), "x".to_owned()])).await, [scheduled]);
    assert_eq!(by(|f| f.only_queues = Some(vec![])).await, [], "no queue allowed, no job seen");
    let created = bed.get(queued).await.created_at;
    let after = JobFilter { created_after: Some(created), ..JobFilter::default() };
    assert_eq!(listed(bed, after).await, [queued]);
    let before = JobFilter { created_before: Some(created), ..JobFilter::default() };
    assert_eq!(listed(bed, before).await, all[1..]);
}

async fn pages_have_no_gap_and_no_repeat(bed: &Bed) {
    for _ in 0..23 {
        bed.submit(bed.called_back()).await;
        bed.pass(Duration::from_millis(1));
    }
    for held in bed.lease(23).await {
        bed.held(&held, complete()).await.unwrap();
    }
    let mut jobs: Vec<JobId> = Vec::new();
    let mut deliveries = Vec::new();
    loop {
        let at = PageOf { after: jobs.last().copied(), limit: 5 };
        let got = bed.store.jobs(bed.tenant, &JobFilter::default(), at, bed.now()).await.unwrap().rows;
        let at = PageOf { after: deliveries.last().copied(), limit: 5 };
        let sent =
            bed.store.deliveries(bed.tenant, &DeliveryFilter::default(), at, bed.now()).await.unwrap().rows;
        assert_eq!(got.len(), sent.len());
        if got.is_empty() {
            break;
        }
        jobs.extend(got.iter().map(|j| j.id));
        deliveries.extend(sent.iter().map(|d| d.delivery_id));
    }
    assert_eq!((jobs.len(), deliveries.len()), (23, 23));
    assert!(jobs.windows(2).all(|w| w[0] > w[1]) && deliveries.windows(2).all(|w| w[0] > w[1]));
}

/// One look sees 2,000: what a filter leaves out is passed over in steps, and none of them is long.
async fn what_fits_is_found_behind_what_one_look_saw(bed: &Bed) {
    let rare = bed.job_with(|j| {
        (j.queue, j.callback) = ("rare".to_owned(), Some(callback("https://rare.example.com/a")));
    });
    let ended = async |jobs: Vec<NewJob>| {
        let made = bed.store.submit(jobs, bed.now()).await.unwrap();
        let change = |s: &Submitted| JobChange {
            id: s.job.id,
            tenant: Some(bed.tenant),
            right: Right::Owner,
            what: cancel(),
        };
        for changed in bed.store.change(made.iter().map(change).collect(), bed.now()).await.unwrap() {
            changed.unwrap();
        }
        bed.pass(Duration::from_millis(1));
        made.into_iter().map(|s| s.job.id).collect::<Vec<_>>()
    };
    let rare = ended(vec![rare]).await[0];
    let others = ended((0..2_000).map(|_| bed.called_back()).collect()).await;

    let jobs = async |after| {
        let filter = JobFilter { queue: Some("rare".to_owned()), ..JobFilter::default() };
        let at = PageOf { after, limit: 5 };
        let found = bed.store.jobs(bed.tenant, &filter, at, bed.now()).await.unwrap();
        (found.rows.iter().map(|j| j.id).collect::<Vec<_>>(), found.looked_to)
    };
    let oldest = others.into_iter().min();
    assert_eq!(jobs(None).await, (vec![], oldest));
    assert_eq!(jobs(oldest).await, (vec![rare], None));
    let before = JobFilter {
        created_before: Some(bed.get(rare).await.created_at.plus(Duration::from_millis(1))),
        ..JobFilter::default()
    };
    assert_eq!(listed(bed, before).await, [rare], "an instant leads there at once");

    let host = || DeliveryFilter { host: Some("rare.example.com".to_owned()), ..DeliveryFilter::default() };
    let state = |state| DeliveryFilter { state: Some(state), ..DeliveryFilter::default() };
    let found = async |filter: &DeliveryFilter, after| {
        let at = PageOf { after, limit: 5 };
        let found = bed.store.deliveries(bed.tenant, filter, at, bed.now()).await.unwrap();
        (found.rows.len(), found.looked_to)
    };
    for (filter, fit) in [(host(), 1), (state(DeliveryState::Held), 0), (state(DeliveryState::InFlight), 0)] {
        let (none, seen) = found(&filter, None).await;
        assert_eq!(none, 0, "{filter:?}");
        assert_eq!(found(&filter, Some(seen.unwrap())).await, (fit, None), "{filter:?}");
    }
    assert_eq!(
        found(&state(DeliveryState::Pending), None).await,
        (5, None),
        "a full page needs no other end"
    );
    assert_eq!(
        found(&state(DeliveryState::Dead), None).await,
        (0, None),
        "an index has them, and there are none"
    );
}

async fn nothing_crosses_tenants(bed: &Bed) {
    let done = bed.completed().await.id;
    let dead = bed.deliver(500, Verdict::Dead(DeadReason::Exhausted)).await.id;
    let redrive = bed
        .store
        .start_redrive(bed.tenant, (ReplayOf::Letters, &Default::default()), None, bed.now())
        .await
        .unwrap();
    let owed = bed.submit(bed.job()).await.job.id;
    let two = bed.store.tenant("two", bed.now()).await.unwrap();

    // The other tenant's object and one that never was: the answers are equal.
    for (job, delivery, redrive) in [
        (done, dead, redrive.redrive_id),
        (owed, dead, redrive.redrive_id),
        (missing(), missing(), missing()),
    ] {
        let (s, now) = (&bed.store, bed.now());
        let change = |what| JobChange { id: job, tenant: Some(two), right: Right::Owner, what };
        let changed = s.change(vec![change(cancel()), change(What::Retry)], now).await.unwrap();
        let mut answers: Vec<Option<Error>> = changed.into_iter().map(Result::err).collect();
        answers.push(s.job(two, job, now).await.err());
        answers.push(s.job_result(two, job, now).await.err());
        answers.push(s.job_events(two, job, 0, 9, now).await.err());
        answers.push(s.delivery(two, delivery, now).await.err());
        answers.push(s.retry_delivery(two, delivery, now).await.err());
        answers.push(s.cancel_delivery(two, delivery, now).await.err());
        answers.push(s.dead_letter(two, delivery).await.err());
        answers.push(s.discard(two, delivery, now).await.err());
        answers.push(s.redrive(two, redrive).await.err());
        answers.push(s.cancel_redrive(two, redrive, now).await.err());
        assert!(answers.iter().all(|e| matches!(e, Some(Error::NotFound))), "{answers:?}");
    }
    let (s, now) = (&bed.store, bed.now());
    assert!(s.jobs(two, &JobFilter::default(), page(9), now).await.unwrap().rows.is_empty());
    assert!(s.deliveries(two, &DeliveryFilter::default(), page(9), now).await.unwrap().rows.is_empty());
    assert!(
        s.dead_letters(two, &Default::default(), &Default::default(), page(9)).await.unwrap().rows.is_empty()
    );
    assert!(s.redrives(two, None, page(9)).await.unwrap().is_empty());
    assert_eq!(s.count_matching(two, ReplayOf::Letters, &Default::default()).await.unwrap().count, 0);
    assert!(s.lanes(two, &ringback::store::LaneFilter::default(), 9, now).await.unwrap().rows.is_empty());
    let letter = s.dead_letter(bed.tenant, dead).await.unwrap();
    assert_eq!(letter.job_id, Some(done), "untouched");
    assert_eq!(s.delivery(bed.tenant, dead, now).await.unwrap().state, DeliveryState::Dead);
}

fn missing<K>() -> Id<K> {
    Id::from_uuid(uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001))
}

async fn the_store_answers_and_knows_the_time(bed: &Bed) {
    bed.store.ping().await.unwrap();
    let time = bed.store.server_time().await.unwrap();
    match bed.engine() {
        ringback::store::db::Engine::Sqlite => assert_eq!(time, None, "the machine's own clock serves"),
        ringback::store::db::Engine::Postgres => assert!(time.unwrap() > Millis(1_600_000_000_000)),
    }
    ringback::store::Store::migrate(&bed.url).await.err().into_iter().for_each(|e| {
        assert!(matches!(e, Error::Down(_)), "only another process's file is refused: {e}");
    });
    bed.store.close().await;
    let closed = bed.store.submit(vec![bed.job()], bed.now()).await;
    assert!(matches!(closed, Err(Error::Down(_))));
    assert!(matches!(bed.store.ping().await, Err(Error::Down(_))));
}

async fn access_tokens_open_their_job(bed: &Bed) {
    let id = bed.store.mint_job_id(bed.now());
    let token = bed.store.access_token(bed.tenant, id);
    assert_eq!(bed.store.open_access_token(&token), Some((bed.tenant, id)));
    let other = bed.store.access_token(TenantId::from_uuid(uuid::Uuid::nil()), id);
    assert_ne!(token, other);
    assert_eq!(bed.store.open_access_token("rbj_x"), None);
}
