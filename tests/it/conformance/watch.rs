//! How far watched jobs are: asked in one statement, and told after each commit.

use std::sync::{Arc, Mutex};

use ringback::store::{Observer, Standing, What};

use crate::support::store::{Bed, both_stores, cancel, complete, failure, heartbeat};

both_stores! {
    standings_tell_what_has_moved_and_what_has_ended,
    a_standing_is_never_ahead_of_the_events,
    an_observer_hears_of_every_move_before_its_caller,
}

async fn standings_tell_what_has_moved_and_what_has_ended(bed: &Bed) {
    let done = bed.completed().await.id;
    let waiting = bed.submit(bed.job()).await.job.id;
    let cancelled = bed.submit(bed.job()).await.job.id;
    bed.owner(cancelled, cancel()).await.unwrap();
    let missing = bed.dice.id(bed.now());
    let ask = async |seen: i64| {
        let all = [waiting, done, cancelled, missing].map(|id| (id, seen));
        let mut found = bed.store.standings(&all).await.unwrap();
        found.sort_by_key(|(id, _)| *id);
        found
    };
    let told = |id, sequence, ended| (id, Some(Standing { id, sequence, ended }));
    let mut wanted =
        vec![told(waiting, 1, false), told(done, 3, true), told(cancelled, 2, true), (missing, None)];
    wanted.sort_by_key(|(id, _)| *id);

    assert_eq!(ask(0).await, wanted);
    wanted.retain(|(id, _)| *id != waiting);
    assert_eq!(ask(1).await, wanted, "it stands where it was seen");
    assert_eq!(bed.store.standings(&[]).await.unwrap(), []);
}

async fn a_standing_is_never_ahead_of_the_events(bed: &Bed) {
    let id = bed.submit(bed.job()).await.job.id;
    let check = async |ended| {
        let standing = bed.store.standings(&[(id, 0)]).await.unwrap()[0].1.unwrap();
        let events = bed.events(id).await;
        assert_eq!((standing.sequence, standing.ended), (events.last().unwrap().0, ended), "{events:?}");
    };
    check(false).await;
    let held = bed.lease_one().await;
    check(false).await;
    bed.held(&held, heartbeat(Some(5))).await.unwrap();
    check(false).await;
    bed.held(&held, failure(false)).await.unwrap();
    check(true).await;
    bed.owner(id, What::Retry).await.unwrap();
    check(false).await;
    let held = bed.lease_one().await;
    check(false).await;
    bed.held(&held, complete()).await.unwrap();
    check(true).await;
}

#[derive(Default)]
struct Ear(Mutex<Vec<Standing>>);

impl Observer for Ear {
    fn moved(&self, jobs: &[Standing]) {
        self.0.lock().unwrap().extend(jobs);
    }
}

async fn an_observer_hears_of_every_move_before_its_caller(bed: &Bed) {
    let ear = Arc::new(Ear::default());
    bed.store.observed_by(ear.clone());
    let id = bed.submit(bed.job()).await.job.id;
    let heard = || std::mem::take(&mut *ear.0.lock().unwrap());
    let told = |sequence, ended| vec![Standing { id, sequence, ended }];
    heard();

    let held = bed.lease_one().await;
    assert_eq!(heard(), told(2, false));
    bed.held(&held, heartbeat(Some(5))).await.unwrap();
    assert_eq!(heard(), told(3, false));
    bed.held(&held, failure(false)).await.unwrap();
    assert_eq!(heard(), told(4, true));
    bed.owner(id, What::Retry).await.unwrap();
    assert_eq!(heard(), told(5, false));
    let held = bed.lease_one().await;
    assert_eq!(heard(), told(6, false));
    bed.held(&held, complete()).await.unwrap();
    assert_eq!(heard(), told(7, true));
    bed.held(&held, complete()).await.unwrap();
    assert_eq!(heard(), [], "the same report again moves nothing");

    assert!(bed.lease(1).await.is_empty());
    let mut waits = bed.store.offer(&bed.wish(1));
    let taken = bed.submit(bed.job()).await;
    assert!(taken.taken);
    assert_eq!(
        heard(),
        [Standing { id: taken.job.id, sequence: 2, ended: false }],
        "claimed as it was stored"
    );
    // Left unread it would be given back, and move once more.
    assert_eq!(waits.answered().await.unwrap().len(), 1);
}
