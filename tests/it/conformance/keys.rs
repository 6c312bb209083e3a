//! Tenants, API keys and default secrets.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use ringback::store::{Error, KeyRecord, PageOf, Store};
use ringback::types::Millis;

use crate::support::store::{Bed, both_stores, open, page};

both_stores! {
    a_tenant_is_made_once_by_its_name,
    keys_are_stored_found_listed_and_revoked,
    the_first_use_makes_one_default_secret,
    rotated_secrets_overlap_and_end,
}

async fn a_tenant_is_made_once_by_its_name(bed: &Bed) {
    let again = join_all((0..8).map(|_| bed.store.tenant("two", bed.now()))).await;
    let ids: HashSet<_> = again.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(bed.store.tenant("one", bed.now()).await.unwrap(), bed.tenant);
    let all = bed.store.tenants(page(10)).await.unwrap();
    assert_eq!(all.len(), 2);
    assert!(all[0].tenant_id > all[1].tenant_id || all[0].created_at == all[1].created_at, "newest first");
    let first = bed.store.tenants(page(1)).await.unwrap();
    let rest = bed.store.tenants(PageOf { after: Some(first[0].tenant_id), limit: 9 }).await.unwrap();
    assert_eq!((rest.len(), rest[0].tenant_id), (1, all[1].tenant_id));
}

async fn keys_are_stored_found_listed_and_revoked(bed: &Bed) {
    assert!(!bed.store.has_keys().await.unwrap());
    let record = |n: u8, queues: Option<Vec<String>>| KeyRecord {
        id: bed.dice.id(Millis(bed.now().0 + i64::from(n))),
        tenant: bed.tenant,
        name: (n == 1).then(|| "ci".to_owned()),
        prefix: format!("rbk_{n}"),
        hash: [n; 32],
        scopes: "jobs:read,work".parse().unwrap(),
        queues,
        accounts: None,
        created_at: bed.now(),
        expires_at: Some(Millis(bed.now().0 + 1_000)),
    };
    let keys =
        [record(1, Some(vec!["a,b".to_owned(), "c".to_owned()])), record(2, None), record(3, Some(vec![]))];
    for key in &keys {
        bed.store.put_key(key).await.unwrap();
        bed.store.put_key(key).await.unwrap();
    }
    assert!(bed.store.has_keys().await.unwrap());
    for key in &keys {
        let found = bed.store.key_by_hash(key.hash).await.unwrap().unwrap();
        assert_eq!(format!("{found:?}"), format!("{key:?}"));
    }
    assert!(bed.store.key_by_hash([9; 32]).await.unwrap().is_none());
    let listed = bed.store.keys(bed.tenant, page(10)).await.unwrap();
    assert_eq!(listed.iter().map(|k| k.hash[0]).collect::<Vec<_>>(), [3, 2, 1]);
    let two = bed.store.tenant("two", bed.now()).await.unwrap();
    assert!(bed.store.keys(two, page(10)).await.unwrap().is_empty());
    assert!(matches!(bed.store.revoke_key(two, keys[0].id, bed.now()).await, Err(Error::NotFound)));
    bed.store.revoke_key(bed.tenant, keys[0].id, bed.now()).await.unwrap();
    let again = bed.store.revoke_key(bed.tenant, keys[0].id, bed.now()).await;
    assert!(matches!(again, Err(Error::NotFound)));
    assert!(bed.store.key_by_hash([1; 32]).await.unwrap().is_none());
    assert_eq!(bed.store.keys(bed.tenant, page(10)).await.unwrap().len(), 2);
    for (seconds, left) in [(30 * 86_400, 2), (1, 0)] {
        bed.pass_seconds(seconds);
        bed.retain(Store::BITE).await.unwrap();
        assert_eq!(bed.count("api_keys").await, left, "a month after they ended");
    }
}

async fn the_first_use_makes_one_default_secret(bed: &Bed) {
    // Another node, where the engine allows one.
    let other = open(&bed.url, 9).await.unwrap_or_else(|_| bed.store.clone());
    let calls = (0..8).map(|i| if i % 2 == 0 { &bed.store } else { &other });
    let told = join_all(calls.map(|s| s.default_secrets(bed.tenant, bed.now()))).await;
    let secrets: HashSet<String> = told.into_iter().map(|s| s.unwrap()[0].0.reveal().clone()).collect();
    assert_eq!((secrets.len(), bed.count("secrets").await), (1, 1));
    let sealed = bed.rows("SELECT sealed FROM secrets").await[0].bytes(0).unwrap();
    let secret = bed.store.default_secrets(bed.tenant, bed.now()).await.unwrap().remove(0).0;
    assert!(!sealed.windows(32).any(|w| w == secret.secret().bytes()), "sealed at rest");
    let two = bed.store.tenant("two", bed.now()).await.unwrap();
    let theirs = bed.store.default_secrets(two, bed.now()).await.unwrap().remove(0).0;
    assert_ne!(theirs.secret().bytes(), secret.secret().bytes());
}

async fn rotated_secrets_overlap_and_end(bed: &Bed) {
    let live = async || {
        let secrets = bed.store.default_secrets(bed.tenant, bed.now()).await.unwrap();
        secrets.into_iter().map(|(s, until)| (s.secret().bytes().to_vec(), until)).collect::<Vec<_>>()
    };
    let day = Duration::from_secs(86_400);
    let first = live().await.remove(0).0;
    for _ in 0..2 {
        // In the same millisecond: the order must not hang on the clock.
        let told = bed.store.rotate_default_secret(bed.tenant, day, bed.now()).await.unwrap();
        assert_eq!(told.live[0].1, None, "the new one comes first and does not end");
    }
    let three = live().await;
    assert_eq!((three.len(), three.iter().any(|s| s.0 == first)), (3, true));
    assert!(three[1..].iter().all(|s| s.1 == Some(bed.now().plus(day))));
    bed.pass_seconds(60);
    bed.store.rotate_default_secret(bed.tenant, Duration::ZERO, bed.now()).await.unwrap();
    let now = live().await;
    assert_eq!((now.len(), now[0].1), (1, None), "no overlap, no other secret");
    assert_ne!(now[0].0, three[0].0);
    bed.store.rotate_default_secret(bed.tenant, day, bed.now()).await.unwrap();
    bed.pass(day - Duration::from_millis(1));
    assert_eq!(live().await.len(), 2);
    bed.pass(Duration::from_millis(1));
    assert_eq!(live().await.len(), 1);
}
