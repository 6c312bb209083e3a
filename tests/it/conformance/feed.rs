//! The tenant's feed.

use std::collections::BTreeMap;
use std::time::Duration;

use ringback::store::db::Engine;
use ringback::store::{Error, FeedPage, Publication, Store};
use ringback::types::delivery::{DeadReason, Verdict};
use ringback::types::event::{Cursor, FeedFilter};
use ringback::types::{EventId, JobId};
use serde_json::json;

use super::endpoints::endpoint_of;
use super::events::{event, publish};
use crate::support::store::{Bed, attempted, beside, both_stores, complete, failure};

both_stores! {
    the_feed_tells_of_events_and_jobs_in_the_order_of_the_commits,
    a_reader_at_the_end_is_given_its_cursor_again,
    a_filter_leaves_out_and_goes_on,
    a_long_search_says_how_far_it_came,
    what_commits_late_is_never_behind_a_cursor,
    readers_miss_nothing_and_see_nothing_twice,
    a_cursor_that_missed_something_is_refused,
    the_beginning_is_behind_the_last_gap,
    a_quiet_feed_expires_no_cursor,
    a_short_retention_empties_an_event_and_leaves_it,
    what_was_removed_gives_its_place_to_nobody,
}

const DAY: u64 = 86_400;

async fn read(bed: &Bed, after: Option<Cursor>, limit: u32) -> FeedPage {
    look(bed, &FeedFilter::default(), after, limit).await
}

/// Looks until no transaction of another test on the same server holds something back.
async fn look(bed: &Bed, filter: &FeedFilter, after: Option<Cursor>, limit: u32) -> FeedPage {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let page = bed.store.feed(bed.tenant, filter, after, limit).await.unwrap();
        if !page.held {
            return page;
        }
        assert!(tokio::time::Instant::now() < deadline, "{page:?}");
        tokio::task::yield_now().await;
    }
}

fn kinds(page: &FeedPage) -> Vec<&str> {
    page.events.iter().map(|(_, event)| event.kind.as_str()).collect()
}

async fn tell(bed: &Bed, kind: &str) -> EventId {
    publish(bed, event(bed, json!({"type": kind, "data": {"of": kind}}))).await.event_id
}

async fn the_feed_tells_of_events_and_jobs_in_the_order_of_the_commits(bed: &Bed) {
    // Whoever subscribes to them has them as rows: the feed is the same.
    let there = endpoint_of(bed, bed.tenant, json!({"events": ["*"]})).await;
    let first = tell(bed, "a").await;
    let id = bed.submit(bed.job()).await.job.id;
    let job = bed.lease_one().await;
    bed.held(&job, failure(true)).await.unwrap();
    bed.pass_seconds(60);
    let job = bed.lease_one().await;
    bed.held(&job, complete()).await.unwrap();
    bed.store.begin_probe(&there, "webhook.test", &json!({}), bed.now()).await.unwrap();
    publish(bed, event(bed, json!({"type": "b", "data": [1], "account": "acme"}))).await;
    let elsewhere = bed.store.tenant("two", bed.now()).await.unwrap();
    let mut theirs = event(bed, json!({"type": "c", "data": 1}));
    theirs.tenant = elsewhere;
    publish(bed, theirs).await;

    let page = read(bed, None, 50).await;

    assert_eq!(kinds(&page), ["a", "job.retrying", "job.completed", "b"]);
    let events: Vec<_> = page.events.iter().map(|(_, event)| event).collect();
    assert_eq!((events[0].event_id, events[0].data.get()), (first, "{\"of\":\"a\"}"));
    assert_eq!(
        (events[0].job_id, events[0].sequence, events[3].account.as_deref()),
        (None, None, Some("acme"))
    );
    assert_eq!((events[2].job_id, events[2].sequence), (Some(id), Some(bed.get(id).await.sequence)));
    let told = bed.store.job_events(bed.tenant, id, 0, 50, bed.now()).await.unwrap();
    assert_eq!(told.last().unwrap().event_id, events[2].event_id, "one event, wherever it is read");
    let data: serde_json::Value = serde_json::from_str(events[2].data.get()).unwrap();
    assert_eq!((&data["jobId"], &data["state"]), (&json!(id), &json!("complete")));
}

async fn a_reader_at_the_end_is_given_its_cursor_again(bed: &Bed) {
    let empty = read(bed, None, 5).await;
    assert_eq!((empty.events.len(), empty.end, empty.more), (0, Cursor::START, false));
    assert_eq!(read(bed, Some(empty.end), 5).await.end, empty.end);
    for n in 0..5 {
        tell(bed, &format!("e{n}")).await;
    }
    let one = read(bed, Some(empty.end), 3).await;
    assert_eq!((kinds(&one), one.more, one.end), (vec!["e0", "e1", "e2"], true, one.events[2].0));
    let two = read(bed, Some(one.end), 2).await;
    assert_eq!((kinds(&two), two.more), (vec!["e3", "e4"], false));
    let end = read(bed, Some(two.end), 2).await;
    assert_eq!((end.events.len(), end.end, end.more), (0, two.end, false));
    let now = bed.store.feed_heads(&[bed.tenant]).await.unwrap()[0].position;
    assert!(two.end < Cursor::behind(now));
    assert!(read(bed, Some(Cursor::behind(now)), 5).await.events.is_empty());
    tell(bed, "e5").await;
    assert_eq!(kinds(&read(bed, Some(two.end), 2).await), ["e5"]);
    assert_eq!(kinds(&read(bed, Some(Cursor::behind(now)), 5).await), ["e5"]);
}

async fn a_filter_leaves_out_and_goes_on(bed: &Bed) {
    for (kind, account) in [("a.x", None), ("b", Some("acme")), ("a.y", Some("acme")), ("a.z", Some("other"))]
    {
        publish(bed, event(bed, json!({"type": kind, "data": 1, "account": account}))).await;
    }
    let of = async |types: &[&str], account: Option<&str>, only: Option<&[&str]>| {
        let filter = FeedFilter {
            types: types.iter().map(|t| t.parse().unwrap()).collect(),
            account: account.map(str::to_owned),
            only_accounts: only.map(|o| o.iter().map(|&a| a.to_owned()).collect()),
        };
        let page = look(bed, &filter, None, 2).await;
        (kinds(&page).join(" "), page.more)
    };
    assert_eq!(of(&["a.*"], None, None).await, ("a.x a.y".to_owned(), true));
    assert_eq!(of(&["a.*"], Some("acme"), None).await, ("a.y".to_owned(), false));
    assert_eq!(of(&[], None, Some(&["other", "third"])).await, ("a.z".to_owned(), false));
    assert_eq!(of(&["job.*"], None, None).await, (String::new(), false));
    let none = FeedFilter { types: vec!["job.*".parse().unwrap()], ..FeedFilter::default() };
    let page = look(bed, &none, None, 2).await;
    assert_eq!(page.end, read(bed, None, 9).await.end, "what was looked through is not looked through again");
}

async fn a_long_search_says_how_far_it_came(bed: &Bed) {
    for _ in 0..11 {
        let events = (0..1_000).map(|_| event(bed, json!({"type": "a", "data": 1}))).collect();
        bed.store.publish(Publication { events, atomic: false }, bed.now()).await.unwrap();
    }
    tell(bed, "b").await;
    let filter = FeedFilter { types: vec!["b".parse().unwrap()], ..FeedFilter::default() };
    let one = look(bed, &filter, None, 5).await;
    assert_eq!((one.events.len(), one.more), (0, true));
    let two = look(bed, &filter, Some(one.end), 5).await;
    assert_eq!((kinds(&two), two.more), (vec!["b"], false));
}

async fn what_commits_late_is_never_behind_a_cursor(bed: &Bed) {
    let holds = async || {
        let figures = bed.store.figures(bed.now()).await.unwrap();
        figures.into_iter().find(|(name, _)| *name == "feed_held_transactions").unwrap().1
    };
    if bed.engine() == Engine::Sqlite {
        assert_eq!(holds().await, 0);
        return; // one writer: nothing commits late
    }
    tell(bed, "before").await;
    read(bed, None, 9).await;
    let mut late = beside(&bed.url).await;
    late.run("BEGIN", vec![]).await.unwrap();
    let id: EventId = bed.dice.id(bed.now());
    let insert =
        "INSERT INTO events (id, tenant_id, kind, created_at, data) VALUES ($1, $2, 'late', $3, '1')";
    late.run(insert, ringback::args![id, bed.tenant, bed.now()]).await.unwrap();
    tell(bed, "after").await;

    let page = bed.store.feed(bed.tenant, &FeedFilter::default(), None, 9).await.unwrap();
    assert!(page.held && holds().await >= 1);
    assert_eq!(kinds(&page), ["before"], "what stands behind the late one waits for it");
    let head = bed.store.feed_heads(&[bed.tenant]).await.unwrap()[0].position;
    late.run("COMMIT", vec![]).await.unwrap();

    assert_eq!(kinds(&read(bed, Some(page.end), 9).await), ["late", "after"]);
    assert_eq!(kinds(&read(bed, Some(Cursor::behind(head)), 9).await), ["late", "after"]);
}

async fn readers_miss_nothing_and_see_nothing_twice(bed: &Bed) {
    const EACH: usize = 60;
    let publishers = 6;
    let other = match bed.engine() {
        Engine::Sqlite => bed.store.clone(),
        Engine::Postgres => crate::support::store::open(&bed.url, 9).await.unwrap(),
    };
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..publishers {
        let store = if n % 2 == 0 { bed.store.clone() } else { other.clone() };
        let events: Vec<_> =
            (0..EACH).map(|i| event(bed, json!({"type": format!("p{n}"), "data": i}))).collect();
        let now = bed.now();
        tasks.spawn(async move {
            let mut ids = Vec::new();
            for chunk in events.chunks(3) {
                let publication = Publication { events: chunk.to_vec(), atomic: false };
                let told = store.publish(publication, now).await.unwrap();
                ids.extend(told.iter().map(|one| one.unwrap().event_id));
            }
            ids
        });
    }
    let (mut seen, mut after) = (Vec::new(), Cursor::START);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while seen.len() < publishers * EACH {
        assert!(tokio::time::Instant::now() < deadline, "{} of {}", seen.len(), publishers * EACH);
        let page = read(bed, Some(after), 7).await;
        seen.extend(page.events.into_iter().map(|(_, event)| event));
        after = page.end;
        tokio::task::yield_now().await;
    }
    let mut published: Vec<EventId> = tasks.join_all().await.into_iter().flatten().collect();
    assert!(read(bed, Some(after), 7).await.events.is_empty());
    let mut of_each: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in &seen {
        let n = event.data.get().parse().unwrap();
        of_each.entry(event.kind.clone()).or_default().push(n);
    }
    for (kind, told) in of_each {
        let steps: Vec<u64> = told.chunks(3).map(|chunk| *chunk.iter().max().unwrap()).collect();
        assert!(steps.is_sorted(), "{kind}: what was answered before is told before: {told:?}");
    }
    let mut seen: Vec<EventId> = seen.iter().map(|event| event.event_id).collect();
    published.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, published);
}

async fn retain(bed: &Bed) {
    while bed.retain(Store::BITE).await.unwrap() > 0 {}
}

async fn a_cursor_that_missed_something_is_refused(bed: &Bed) {
    let start = read(bed, None, 1).await.end;
    tell(bed, "a").await;
    tell(bed, "b").await;
    let one = read(bed, None, 1).await.end;
    let two = read(bed, Some(one), 1).await.end;
    bed.pass(Duration::from_secs(7 * DAY) - Duration::from_millis(1));
    retain(bed).await;
    assert_eq!(read(bed, Some(start), 9).await.events.len(), 2);
    bed.pass(Duration::from_millis(1));
    retain(bed).await;
    tell(bed, "c").await;
    for missed in [start, one] {
        let refused = bed.store.feed(bed.tenant, &FeedFilter::default(), Some(missed), 9).await;
        assert!(matches!(refused, Err(Error::CursorExpired)), "{refused:?}");
    }
    assert_eq!(kinds(&read(bed, Some(two), 9).await), ["c"], "it has had all that is gone");
    assert_eq!(kinds(&read(bed, None, 9).await), ["c"], "what is kept");
}

async fn the_beginning_is_behind_the_last_gap(bed: &Bed) {
    endpoint_of(bed, bed.tenant, json!({"events": ["kept"]})).await;
    tell(bed, "kept").await;
    bed.deliver(500, Verdict::Dead(DeadReason::Exhausted)).await;
    tell(bed, "gone").await;
    bed.pass_seconds(8 * DAY);
    retain(bed).await;
    assert_eq!(bed.count("events WHERE kind = 'kept'").await, 1, "its dead letter needs it");
    tell(bed, "a").await;
    tell(bed, "b").await;
    let one = read(bed, None, 1).await;
    assert_eq!(kinds(&one), ["a"]);
    assert_eq!(kinds(&read(bed, Some(one.end), 1).await), ["b"], "it goes on where it began");
}

async fn a_quiet_feed_expires_no_cursor(bed: &Bed) {
    let start = read(bed, None, 1).await.end;
    let there = endpoint_of(bed, bed.tenant, json!({"events": ["x"]})).await;
    let probe = bed.store.begin_probe(&there, "webhook.test", &json!({}), bed.now()).await.unwrap();
    assert!(bed.record(attempted(&probe, 200, Verdict::Delivered)).await);
    bed.pass_seconds(8 * DAY);
    retain(bed).await;
    assert_eq!(bed.count("events").await, 0);
    assert!(read(bed, Some(start), 9).await.events.is_empty(), "no feed has told of a test");

    tell(bed, "a").await;
    let read_to = read(bed, None, 9).await.end;
    bed.pass_seconds(8 * DAY);
    retain(bed).await;
    let now = bed.store.feed_end(bed.tenant).await.unwrap();
    let anew = read(bed, None, 9).await.end;
    for cursor in [read_to, now, anew] {
        assert!(read(bed, Some(cursor), 9).await.events.is_empty(), "nothing is behind it");
    }
    tell(bed, "b").await;
    assert_eq!(kinds(&read(bed, Some(now), 9).await), ["b"]);
}

async fn a_short_retention_empties_an_event_and_leaves_it(bed: &Bed) {
    let id: JobId = bed.submit(bed.job_with(|j| j.retain_seconds = 60)).await.job.id;
    let job = bed.lease_one().await;
    bed.held(&job, complete()).await.unwrap();
    let start = Cursor::START;
    bed.pass_seconds(3_600);
    retain(bed).await;
    assert!(matches!(bed.store.job(bed.tenant, id, bed.now()).await, Err(Error::Expired)));
    let page = read(bed, Some(start), 9).await;
    let (_, told) = &page.events[0];
    assert_eq!((page.events.len(), told.kind.as_str(), told.data.get()), (1, "job.completed", "{}"));
    assert_eq!(told.job_id, Some(id));
    bed.pass_seconds(7 * DAY);
    retain(bed).await;
    assert_eq!(bed.count("events").await, 0);
    let refused = bed.store.feed(bed.tenant, &FeedFilter::default(), Some(start), 9).await;
    assert!(matches!(refused, Err(Error::CursorExpired)));
}

async fn what_was_removed_gives_its_place_to_nobody(bed: &Bed) {
    tell(bed, "a").await;
    let end = read(bed, None, 9).await.end;
    bed.pass_seconds(8 * DAY);
    retain(bed).await;
    assert_eq!(bed.count("events").await, 0);
    tell(bed, "b").await;
    assert_eq!(kinds(&read(bed, Some(end), 9).await), ["b"]);
}
