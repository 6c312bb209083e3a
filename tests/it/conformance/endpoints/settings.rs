//! What an owner sets of an endpoint, its secrets and its quota.

use std::time::Duration;

use ringback::store::{EndpointFilter, Error, NewEndpoint};
use ringback::types::Millis;
use ringback::types::api::RotateSecret;
use ringback::types::endpoint::EndpointState;
use ringback::types::problem::ProblemCode;

use super::{change, endpoint, endpoint_of, try_change};
use crate::support::store::{Bed, both_stores, key, page};

both_stores! {
    an_endpoint_is_what_its_owner_sets,
    endpoints_are_listed_by_account_and_state,
    a_repeated_creation_makes_one,
    an_account_has_its_quota,
    an_endpoint_is_moved_out_of_fifty_accounts_and_no_more,
    a_rotated_secret_signs_for_its_overlap_and_three_at_the_most,
    nothing_of_an_endpoint_crosses_tenants,
    a_change_is_seen_by_who_is_just_making_the_lane,
}

async fn an_endpoint_is_what_its_owner_sets(bed: &Bed) {
    let given = serde_json::json!({"account": "acme", "events": ["invoice.*"], "description": "books",
        "headers": {"Authorization": "Bearer canary"}, "rateLimitPerSecond": 5, "maxInFlight": 3,
        "timeoutSeconds": 7, "ordered": true, "schemes": ["github", "stripe"], "payload": "thin",
        "format": "cloudevents", "retry": {"maxAttempts": 3}});
    let made = endpoint(bed, given).await;
    assert_eq!((made.state, made.since, made.verified_at), (EndpointState::Enabled, bed.now(), None));
    let headers = bed.store.endpoint_headers(&made).unwrap();
    assert_eq!(headers, [("authorization".to_owned(), "Bearer canary".to_owned())]);
    assert!(!String::from_utf8_lossy(made.sealed.as_deref().unwrap()).contains("canary"));
    bed.store.set_endpoint_verified(bed.tenant, made.id, &made.settings.url, bed.now()).await.unwrap();
    bed.pass_seconds(5);
    let same = change(bed, made.id, serde_json::json!({"description": null})).await;
    assert_eq!(same.verified_at, Some(made.created_at));
    assert_eq!((same.updated_at, same.created_at), (bed.now(), made.created_at));
    let expected = ringback::types::endpoint::Settings { description: None, ..made.settings.clone() };
    assert_eq!(same.settings, expected);
    assert_eq!(bed.store.endpoint_headers(&same).unwrap(), headers, "sealed again, the same inside");
    let moved =
        change(bed, made.id, serde_json::json!({"url": "https://new.example.com/", "headers": null})).await;
    assert_eq!((moved.verified_at, moved.sealed), (None, None), "another place is not verified");
    // Too late: the challenge was sent to the URL before.
    bed.store.set_endpoint_verified(bed.tenant, made.id, &made.settings.url, bed.now()).await.unwrap();
    assert_eq!(bed.store.endpoint(bed.tenant, made.id).await.unwrap().verified_at, None);
}

async fn endpoints_are_listed_by_account_and_state(bed: &Bed) {
    let one = endpoint(bed, serde_json::json!({"account": "acme"})).await.id;
    let two = endpoint(bed, serde_json::json!({"account": "beta"})).await.id;
    let three = endpoint(bed, serde_json::json!({})).await.id;
    bed.store.set_endpoint_paused(bed.tenant, two, true, bed.now()).await.unwrap();
    let list = async |filter: EndpointFilter| {
        let found = bed.store.endpoints(bed.tenant, &filter, page(10)).await.unwrap();
        found.rows.into_iter().map(|e| e.id).collect::<Vec<_>>()
    };
    let none = EndpointFilter::default;
    assert_eq!(list(none()).await.len(), 3);
    assert_eq!(list(EndpointFilter { account: Some("acme".to_owned()), ..none() }).await, [one]);
    assert_eq!(list(EndpointFilter { state: Some(EndpointState::Paused), ..none() }).await, [two]);
    let only = Some(vec!["acme".to_owned(), "beta".to_owned()]);
    assert!(!list(EndpointFilter { only_accounts: only, ..none() }).await.contains(&three));
    bed.store.delete_endpoint(bed.tenant, one, bed.now()).await.unwrap();
    assert!(!list(none()).await.contains(&one));
    let gone = bed.store.delete_endpoint(bed.tenant, one, bed.now()).await;
    assert!(matches!(gone, Err(Error::NotFound)));
    assert!(matches!(bed.store.endpoint(bed.tenant, one).await, Err(Error::NotFound)));
}

async fn a_repeated_creation_makes_one(bed: &Bed) {
    let settings = endpoint(bed, serde_json::json!({})).await.settings;
    let new = |print| NewEndpoint {
        tenant: bed.tenant,
        settings: settings.clone(),
        idempotency: Some(key("POST /v1/endpoints", "k", print)),
    };
    let (first, earlier) = bed.store.put_endpoint(new(1), 50, bed.now()).await.unwrap();
    assert!(!earlier);
    assert_eq!(bed.store.put_endpoint(new(1), 50, bed.now()).await.unwrap(), (first, true));
    let other = bed.store.put_endpoint(new(2), 50, bed.now()).await;
    assert!(matches!(other, Err(Error::KeyReused)), "{other:?}");
    assert_eq!(bed.count("endpoints").await, 2);
    bed.pass_seconds(24 * 3_600 + 1);
    assert!(
        !bed.store.put_endpoint(new(2), 50, bed.now()).await.unwrap().1,
        "a day later it is another request"
    );
}

async fn an_endpoint_is_moved_out_of_fifty_accounts_and_no_more(bed: &Bed) {
    let id = endpoint(bed, serde_json::json!({"account": "a0"})).await.id;
    let moved = async |account: &str| try_change(bed, id, serde_json::json!({"account": account})).await;
    for n in 1..=50 {
        moved(&format!("a{n}")).await.unwrap();
    }
    match moved("one-more").await {
        Err(Error::Invalid(e)) => assert_eq!(e.code, ProblemCode::QuotaExceeded),
        other => panic!("{other:?}"),
    }
    let one = bed.store.endpoint(bed.tenant, id).await.unwrap();
    assert_eq!(one.settings.account.as_deref(), Some("a50"), "nothing has changed");
}

async fn an_account_has_its_quota(bed: &Bed) {
    let first = endpoint(bed, serde_json::json!({"account": "acme"})).await;
    let put = async |account: Option<&str>| {
        let account = account.map(str::to_owned);
        let settings = ringback::types::endpoint::Settings { account, ..first.settings.clone() };
        let new = NewEndpoint { tenant: bed.tenant, settings, idempotency: None };
        bed.store.put_endpoint(new, 1, bed.now()).await
    };
    assert!(put(None).await.is_ok() && put(Some("beta")).await.is_ok());
    for account in [None, Some("acme")] {
        match put(account).await {
            Err(Error::Invalid(refusal)) => assert_eq!(refusal.code, ProblemCode::QuotaExceeded),
            other => panic!("{other:?}"),
        }
    }
    let to = serde_json::from_value(serde_json::json!({"account": "beta"})).unwrap();
    let edit = |s: ringback::types::endpoint::Settings| {
        s.changed(to, &ringback::types::target::UrlPolicy::default())
    };
    let moved = bed.store.change_endpoint(bed.tenant, first.id, edit, 1, bed.now()).await;
    assert!(matches!(moved, Err(Error::Invalid(_))), "{moved:?}");
    bed.store.delete_endpoint(bed.tenant, first.id, bed.now()).await.unwrap();
    assert!(put(Some("acme")).await.is_ok(), "a deleted one makes room");
}

async fn a_rotated_secret_signs_for_its_overlap_and_three_at_the_most(bed: &Bed) {
    assert_eq!(RotateSecret::default().overlap_seconds, None);
    let id = endpoint(bed, serde_json::json!({})).await.id;
    let live = async || {
        let secrets = bed.store.endpoint_secrets(bed.tenant, id, bed.now()).await.unwrap();
        secrets.into_iter().map(|(secret, until)| (secret.reveal(), until)).collect::<Vec<_>>()
    };
    let first = live().await;
    assert_eq!((first.len(), first[0].1), (1, None));
    let hour = Duration::from_secs(3_600);
    bed.pass_seconds(1);
    let second = bed.store.rotate_endpoint_secret(bed.tenant, id, hour, bed.now()).await.unwrap();
    assert_eq!(second.live[1].0.reveal(), first[0].0);
    let ends = bed.now().plus(hour);
    assert_eq!(second.live[1].1, Some(ends));
    let mut cut_off = Vec::new();
    for _ in 0..3 {
        bed.pass_seconds(1);
        let rotated = bed.store.rotate_endpoint_secret(bed.tenant, id, hour, bed.now()).await.unwrap();
        cut_off.push(rotated.cut_off);
    }
    let second_ends = ends.plus(Duration::from_secs(1));
    assert_eq!(cut_off, [None, Some(ends), Some(second_ends)], "whose end comes early is told");
    let now = live().await;
    assert_eq!((now.len(), now[0].1), (3, None), "the newest first");
    assert!(now.iter().all(|(secret, _)| *secret != first[0].0));
    // However many there are.
    let mut told = Vec::new();
    for _ in 0..20 {
        bed.pass_seconds(1);
        let rotated = bed.store.rotate_endpoint_secret(bed.tenant, id, hour, bed.now()).await.unwrap();
        told.insert(0, rotated.live[0].0.reveal());
    }
    let now: Vec<_> = live().await.into_iter().map(|(secret, _)| secret).collect();
    assert_eq!(now, told[..3]);
    // At a node whose clock is behind, or in the same millisecond.
    bed.set_now(bed.now().minus(Duration::from_secs(1_800)));
    for _ in 0..2 {
        let rotated = bed.store.rotate_endpoint_secret(bed.tenant, id, hour, bed.now()).await.unwrap();
        told.insert(0, rotated.live[0].0.reveal());
    }
    let now: Vec<_> = live().await.into_iter().map(|(secret, _)| secret).collect();
    assert_eq!(now, told[..3], "the current one signs");
    bed.pass(hour);
    assert_eq!(live().await.len(), 1);
    assert!(bed.store.default_secrets(bed.tenant, bed.now()).await.unwrap()[0].0.reveal() != now[0]);
}

/// On PostgreSQL the change and the first owner of the lane may run at once: they must meet in one row.
async fn a_change_is_seen_by_who_is_just_making_the_lane(bed: &Bed) {
    let id = endpoint(bed, serde_json::json!({})).await.id;
    assert_eq!(bed.count("lanes WHERE owner_id IS NULL").await, 1, "an endpoint has its lane from the start");
    bed.pass_seconds(1);
    change(bed, id, serde_json::json!({"maxInFlight": 3})).await;
    let job = bed.submit(bed.job()).await.job.id;
    let due = bed.store.due(Millis(0), bed.now(), 9).await.unwrap();
    let of: Vec<_> = due.iter().map(|d| (d.lane, d.id)).collect();
    assert_eq!(of.len(), 1, "{job} is queued");
    let owned = bed.store.own_lanes(bed.node, &of, bed.now()).await.unwrap();
    assert_eq!(owned[0].set.limits.max_in_flight, Some(3));
    let set = bed.store.lanes_set(bed.node, bed.now()).await.unwrap();
    assert_eq!(set.len(), 1, "there was a row to mark before anybody owned it");
    assert_eq!(set[0].1.limits.max_in_flight, Some(3));
}

async fn nothing_of_an_endpoint_crosses_tenants(bed: &Bed) {
    let theirs = bed.store.tenant("two", bed.now()).await.unwrap();
    let id = endpoint_of(bed, theirs, serde_json::json!({})).await.id;
    let overlap = Duration::ZERO;
    assert!(matches!(bed.store.endpoint(bed.tenant, id).await, Err(Error::NotFound)));
    let rotated = bed.store.rotate_endpoint_secret(bed.tenant, id, overlap, bed.now()).await;
    assert!(matches!(rotated, Err(Error::NotFound)));
    let paused = bed.store.set_endpoint_paused(bed.tenant, id, true, bed.now()).await;
    assert!(matches!(paused, Err(Error::NotFound)));
    let deleted = bed.store.delete_endpoint(bed.tenant, id, bed.now()).await;
    assert!(matches!(deleted, Err(Error::NotFound)));
    let edited = bed.store.change_endpoint(bed.tenant, id, Ok, 50, bed.now()).await;
    assert!(matches!(edited, Err(Error::NotFound)));
    let named = bed.store.named_endpoints(bed.tenant, [id].into(), bed.now()).await.unwrap();
    assert!(named.is_empty());
    assert_eq!(bed.store.named_endpoints(theirs, [id].into(), bed.now()).await.unwrap().len(), 1);
    let named = bed.store.named_endpoints(bed.tenant, [id].into(), bed.now()).await.unwrap();
    assert!(named.is_empty(), "nor of what was read for its own tenant");
    assert_eq!(bed.store.endpoint(theirs, id).await.unwrap().state, EndpointState::Enabled);
}
