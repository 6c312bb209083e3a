//! How far watched jobs are, in one statement.

use ringback::store::{Standing, What};

use crate::support::store::{Bed, both_stores, cancel, complete, failure, heartbeat};

both_stores! { standings_tell_the_last_event_and_the_end, a_standing_is_never_ahead_of_the_events }

async fn standings_tell_the_last_event_and_the_end(bed: &Bed) {
    let done = bed.completed().await.id;
    let waiting = bed.submit(bed.job()).await.job.id;
    let cancelled = bed.submit(bed.job()).await.job.id;
    bed.owner(cancelled, cancel()).await.unwrap();
    let missing = bed.dice.id(bed.now());

    let mut seen = bed.store.standings(&[waiting, done, cancelled, missing, waiting]).await.unwrap();

    seen.sort_by_key(|one| one.id);
    seen.dedup();
    let standing = |id, sequence, ended| Standing { id, sequence, ended };
    let mut wanted = vec![standing(waiting, 1, false), standing(done, 3, true), standing(cancelled, 2, true)];
    wanted.sort_by_key(|one| one.id);
    assert_eq!(seen, wanted);
    assert_eq!(bed.store.standings(&[]).await.unwrap(), []);
}

async fn a_standing_is_never_ahead_of_the_events(bed: &Bed) {
    let id = bed.submit(bed.job()).await.job.id;
    let check = async |ended| {
        let standing = bed.store.standings(&[id]).await.unwrap()[0];
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
