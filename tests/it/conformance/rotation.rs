//! `rotate-keys`: every sealed value goes to the ring's first key, beside a store that works.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringback::dice::Dice;
use ringback::store::db::Engine;
use ringback::store::seal::KeyRing;
use ringback::store::{Rotation, Tally, census};
use ringback::types::delivery::Verdict;
use ringback::types::job::{CallbackSecrets, NewJob};

use super::endpoints::endpoint;
use crate::support::process::SECRET;
use crate::support::store::{Bed, attempted, beside, both_stores, complete};

both_stores! {
    everything_is_sealed_anew_and_opens,
    a_rotation_that_stopped_is_begun_again,
    a_store_at_work_is_not_disturbed,
    a_value_under_a_foreign_key_stays_as_it_is,
    what_is_damaged_is_named_and_passed,
    a_key_that_is_lacking_is_named_while_something_needs_it,
    a_row_that_someone_holds_is_passed_over,
    an_endpoints_headers_and_keys_are_sealed_anew,
}

/// The ring of every [`Bed`], the same with a new key on top, and that key alone.
fn rings() -> (KeyRing, KeyRing, KeyRing) {
    let old = KeyRing::generate([7; 32]);
    let both = old.with([8; 32]);
    let next = both.ids().last().unwrap().to_owned();
    let both = both.promoting(&next).unwrap();
    let new = both.without(old.active_id()).unwrap();
    (old, both, new)
}

fn sealed(bed: &Bed) -> NewJob {
    let mut job = bed.called_back();
    job.secrets = CallbackSecrets {
        secret: Some(SECRET.to_owned()),
        headers: vec![("x-key".to_owned(), "k".repeat(200))],
    };
    job
}

/// `n` jobs that hold a secret, `n` that hold none, and the deliveries of all; gives how many values are sealed.
async fn fill(bed: &Bed, n: usize) -> u64 {
    for _ in 0..n {
        bed.submit(sealed(bed)).await;
        bed.submit(bed.called_back()).await;
    }
    for job in bed.lease(500).await {
        bed.held(&job, complete()).await.unwrap();
    }
    bed.store.default_secrets(bed.tenant, bed.now()).await.unwrap();
    1 + 2 * u64::try_from(n).unwrap()
}

async fn an_endpoints_headers_and_keys_are_sealed_anew(bed: &Bed) {
    let (_, both, new) = rings();
    let made = endpoint(bed, serde_json::json!({"headers": {"authorization": "Bearer x"}})).await;
    let keys = async || bed.store.endpoint_secrets(bed.tenant, made.id, bed.now()).await.unwrap();
    let before = keys().await.remove(0).0;
    bed.store.use_ring(both.clone()).unwrap();

    assert_eq!(pass(bed, &both, 200).await.sealed_anew, 2);

    bed.store.use_ring(new).unwrap();
    bed.pass(Duration::from_secs(60));
    let after = keys().await.remove(0).0;
    assert_eq!(after.reveal(), before.reveal());
    assert_eq!(after.public().unwrap().to_string(), before.public().unwrap().to_string());
    let stored = bed.store.endpoint(bed.tenant, made.id).await.unwrap();
    let headers = bed.store.endpoint_headers(&stored).unwrap();
    assert_eq!(headers, [("authorization".to_owned(), "Bearer x".to_owned())]);
}

async fn pass(bed: &Bed, ring: &KeyRing, most: usize) -> Tally {
    let mut rotation = Rotation::begin(&bed.url, ring.clone(), Dice::seeded(99)).await.unwrap();
    let mut sum = Tally::default();
    while rotation.place().is_some() {
        sum.add(rotation.step(most).await.unwrap());
    }
    sum
}

async fn count(bed: &Bed, ring: &KeyRing) -> u64 {
    census(&bed.url).await.unwrap().get(ring.active_id()).copied().unwrap_or_default()
}

async fn everything_is_sealed_anew_and_opens(bed: &Bed) {
    let (old, both, new) = rings();
    let values = fill(bed, 25).await;
    let secrets = bed.store.default_secrets(bed.tenant, bed.now()).await.unwrap();
    assert_eq!(census(&bed.url).await.unwrap(), BTreeMap::from([(old.active_id().to_owned(), values)]));
    assert_eq!(bed.store.use_ring(both.clone()).unwrap(), new.active_id());

    let tally = pass(bed, &both, 7).await;

    assert_eq!((tally.sealed_anew, tally.is_done(), tally.is_clean()), (values, true, false), "{tally:?}");
    assert_eq!(census(&bed.url).await.unwrap(), BTreeMap::from([(new.active_id().to_owned(), values)]));
    assert!(pass(bed, &both, 200).await.is_clean(), "the second pass finds nothing to do");
    bed.store.use_ring(new).unwrap();
    bed.pass(Duration::from_secs(60));
    let again = bed.store.default_secrets(bed.tenant, bed.now()).await.unwrap();
    assert_eq!(again[0].0.reveal(), secrets[0].0.reveal());
    let claimed = bed.claim().await;
    let opened = claimed.iter().filter_map(|d| d.sealed.as_ref());
    let opened: Vec<_> = opened.map(|s| bed.store.open_sealed(bed.tenant, s).unwrap()).collect();
    assert_eq!((claimed.len(), opened.len()), (50, 25));
    assert!(opened.iter().all(|own| own.secret.as_deref() == Some(SECRET) && own.headers[0].1.len() == 200));
    assert!(bed.store.use_ring(old).is_err(), "a ring without the key that seals is no heir");
}

async fn a_rotation_that_stopped_is_begun_again(bed: &Bed) {
    let (_, both, new) = rings();
    let values = fill(bed, 20).await;
    let mut first = Rotation::begin(&bed.url, both.clone(), Dice::seeded(99)).await.unwrap();
    for _ in 0..4 {
        first.step(5).await.unwrap();
    }
    let place = first.place();
    drop(first);
    let done = count(bed, &new).await;
    assert!(done > 1 && done < values, "{done} of {values}, {place:?}");

    let tally = pass(bed, &both, 5).await;

    assert_eq!(tally.sealed_anew, values - done);
    assert_eq!(count(bed, &new).await, values);
}

async fn a_store_at_work_is_not_disturbed(bed: &Bed) {
    let (_, both, new) = rings();
    let mut values = fill(bed, 20).await;
    bed.store.use_ring(both.clone()).unwrap();
    let work = async {
        for _ in 0..15 {
            fill(bed, 2).await;
        }
    };
    let rotate = async {
        let mut busy = 0;
        let mut rotation = Rotation::begin(&bed.url, both.clone(), Dice::seeded(99)).await.unwrap();
        while rotation.place().is_some() {
            // Another's turn is no failure: the same bite is asked for again.
            busy += usize::from(rotation.step(1).await.is_err());
            assert!(busy < 100);
        }
    };
    tokio::join!(work, rotate);
    pass(bed, &both, 200).await;
    values += 15 * 4;
    assert_eq!(count(bed, &new).await, values);
    assert_eq!(census(&bed.url).await.unwrap().len(), 1);
    bed.store.use_ring(new).unwrap();
    for delivery in bed.claim().await {
        if let Some(sealed) = &delivery.sealed {
            bed.store.open_sealed(bed.tenant, sealed).unwrap();
        }
    }
}

async fn a_value_under_a_foreign_key_stays_as_it_is(bed: &Bed) {
    let (old, _, _) = rings();
    let values = fill(bed, 3).await;
    let foreign = KeyRing::generate([5; 32]);

    let tally = pass(bed, &foreign, 200).await;

    assert_eq!(tally.unknown, BTreeMap::from([(old.active_id().to_owned(), values)]));
    assert!(!tally.is_done() && tally.sealed_anew == 0);
    assert_eq!(count(bed, &old).await, values);
}

async fn what_is_damaged_is_named_and_passed(bed: &Bed) {
    bed.spoil();
    let (old, both, new) = rings();
    let values = fill(bed, 3).await;
    let short = match bed.engine() {
        Engine::Sqlite => "x'00'",
        Engine::Postgres => "'\\x00'::bytea",
    };
    // One that was moved says a key that it does not open by, one that was cut says none.
    for (table, sealed) in [("jobs", "(SELECT s.sealed FROM secrets s LIMIT 1)"), ("deliveries", short)] {
        let first = format!("SELECT id FROM {table} WHERE sealed IS NOT NULL ORDER BY id LIMIT 1");
        bed.rows(&format!("UPDATE {table} SET sealed = {sealed} WHERE id = ({first}) RETURNING 1")).await;
    }

    let tally = pass(bed, &both, 2).await;

    assert_eq!((tally.sealed_anew, tally.damaged, tally.passed_over), (values - 2, 2, 0));
    let places: Vec<_> = tally.examples.iter().map(|(place, _)| *place).collect();
    assert_eq!((places, tally.is_done()), (vec!["jobs.sealed", "deliveries.sealed"], false));
    let again = pass(bed, &both, 2).await;
    assert_eq!((again.is_clean(), again.damaged), (true, 2));
    assert_eq!((count(bed, &old).await, count(bed, &new).await), (1, values - 2));
}

async fn a_key_that_is_lacking_is_named_while_something_needs_it(bed: &Bed) {
    let (old, both, new) = rings();
    let lacking = async || bed.store.lacking_keys().await.unwrap();
    let named = BTreeSet::from([old.active_id().to_owned()]);
    bed.submit(sealed(bed)).await;
    bed.store.use_ring(both).unwrap();
    for _ in 0..25 {
        bed.submit(sealed(bed)).await;
    }
    assert_eq!(lacking().await, BTreeSet::new(), "both keys are there");
    bed.store.use_ring(new).unwrap();

    assert_eq!(lacking().await, named, "the oldest job needs it");

    for job in bed.lease(500).await {
        bed.held(&job, complete()).await.unwrap();
    }
    assert_eq!(lacking().await, named, "its callback needs it");
    for claimed in bed.claim().await {
        assert!(bed.record(attempted(&claimed, 200, Verdict::Delivered)).await);
    }
    assert_eq!(lacking().await, BTreeSet::new(), "nothing that is owed needs it");
    assert_eq!(census(&bed.url).await.unwrap()[old.active_id()], 2, "though it is there");
}

async fn a_row_that_someone_holds_is_passed_over(bed: &Bed) {
    // SQLite has one writer: whoever holds a row holds the file, and the bite waits.
    if bed.engine() == Engine::Sqlite {
        return;
    }
    let (_, both, new) = rings();
    let values = fill(bed, 3).await;
    let mut other = beside(&bed.url).await;
    other.run("BEGIN", vec![]).await.unwrap();
    let one = "SELECT id FROM jobs WHERE id = (SELECT MIN(id::text)::uuid FROM jobs WHERE sealed IS NOT NULL) FOR UPDATE";
    assert_eq!(other.all(one, vec![]).await.unwrap().len(), 1);

    let tally = pass(bed, &both, 200).await;

    assert_eq!((tally.sealed_anew, tally.passed_over, tally.is_done()), (values - 1, 1, false));
    other.run("COMMIT", vec![]).await.unwrap();
    let tally = pass(bed, &both, 200).await;
    assert_eq!((tally.sealed_anew, tally.passed_over), (1, 0));
    assert_eq!(count(bed, &new).await, values);
}
