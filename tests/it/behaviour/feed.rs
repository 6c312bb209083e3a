//! The tenant's feed over HTTP.

use serde_json::{Value, json};

use crate::support::app::{Site, TestApp, both_engines, id, until};
use crate::support::stream::Sse;

both_engines! {
    a_reader_comes_back_with_its_cursor,
    types_and_account_narrow_it,
    a_stream_goes_on_where_it_was_cut,
    a_stream_from_now_begins_with_its_place,
    a_stream_of_some_types_tells_how_far_it_is,
    what_is_past_its_retention_is_gone,
    a_revoked_key_and_a_stop_end_it,
    what_is_not_understood_is_refused,
}

/// Publishes an event, and waits until the feed tells of it: what other tests do on the same server may hold it up for a
/// moment.
async fn publish(app: &TestApp, kind: &str) -> String {
    let event =
        id(&app.post("/v1/events", &json!({"type": kind, "data": {"k": kind}})).await.ok(202)["eventId"]);
    until("the feed tells of it", async || {
        let page = app.get("/v1/events?limit=200").await.ok(200).clone();
        let told = page["items"].as_array().unwrap().iter().any(|told| told["eventId"] == json!(event));
        if told { Ok(()) } else { Err(page) }
    })
    .await;
    event
}

fn kinds(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect()
}

async fn a_reader_comes_back_with_its_cursor(site: &Site) {
    let app = site.start().await;
    let empty = app.get("/v1/events").await;
    assert_eq!(empty.header("link"), "");
    let start = id(&empty.ok(200)["nextCursor"]);
    for kind in ["a", "b"] {
        publish(&app, kind).await;
    }
    let job = app.completed(json!({"type": "t"})).await;

    let first = app.get(&format!("/v1/events?limit=2&after={start}")).await;
    let page = first.ok(200);
    assert_eq!((kinds(&page), &page["items"][0]["data"]), (vec!["a", "b"], &json!({"k": "a"})));
    let cursor = id(&page["nextCursor"]);
    assert!(
        first.header("link").contains(&format!("after={cursor}>; rel=\"next\"")),
        "{}",
        first.header("link")
    );
    assert_eq!(first.header("vary"), "Accept, Authorization");
    let last = app.get(&format!("/v1/events?limit=2&after={cursor}")).await;
    let page = last.ok(200);
    assert_eq!((kinds(&page), last.header("link")), (vec!["job.completed"], ""));
    let event = &page["items"][0];
    assert_eq!((&event["jobId"], &event["data"]["jobId"]), (&json!(job), &json!(job)));
    let told = app.items(&format!("/v1/jobs/{job}/events")).await;
    assert_eq!((&told[2]["eventId"], &told[2]["sequence"]), (&event["eventId"], &event["sequence"]));
    let end = id(&page["nextCursor"]);
    let page = app.get(&format!("/v1/events?after={end}")).await.ok(200);
    assert_eq!((kinds(&page).len(), &page["nextCursor"]), (0, &json!(end)), "the same, to come back with");
    publish(&app, "c").await;
    assert_eq!(kinds(&app.get(&format!("/v1/events?after={end}")).await.ok(200)), ["c"]);
    let now = app.get("/v1/events?after=now").await.ok(200);
    assert_eq!(kinds(&now).len(), 0);
    publish(&app, "d").await;
    let now = id(&now["nextCursor"]);
    assert_eq!(kinds(&app.get(&format!("/v1/events?after={now}")).await.ok(200)), ["d"]);
}

async fn types_and_account_narrow_it(site: &Site) {
    let app = site.start().await;
    for (kind, account) in [("a.x", None), ("b", Some("acme")), ("a.y", Some("acme"))] {
        let event = json!({"type": kind, "data": 1, "account": account});
        app.post("/v1/events", &event).await.ok(202);
    }
    for (query, wanted) in [
        ("types=a.*", "a.x a.y"),
        ("types=b,%20a.x", "a.x b"),
        ("account=acme", "b a.y"),
        ("types=a.*&account=acme", "a.y"),
        ("types=none", ""),
        ("types=*", "a.x b a.y"),
    ] {
        let page = app.get(&format!("/v1/events?{query}")).await.ok(200);
        assert_eq!(kinds(&page).join(" "), wanted, "{query}");
    }
}

/// `id`, `event` and `data` of the next event.
async fn event(stream: &mut Sse) -> (String, String, Value) {
    loop {
        let block = stream.block().await.expect("an event");
        let field = |name: &str| {
            block
                .lines()
                .filter_map(|line| line.strip_prefix(&format!("{name}: ")))
                .collect::<Vec<_>>()
                .join("\n")
        };
        if !field("event").is_empty() {
            return (field("id"), field("event"), serde_json::from_str(&field("data")).unwrap());
        }
    }
}

async fn open(app: &TestApp, query: &str, last: Option<&str>) -> Sse {
    let last = last.map(|last| ("last-event-id", last.to_owned()));
    Sse::ask(app, &format!("/v1/events{query}"), Some(&app.key), last).await
}

async fn a_stream_goes_on_where_it_was_cut(site: &Site) {
    let app = site.start().await;
    let first = publish(&app, "a").await;
    let mut stream = open(&app, "", None).await;
    assert_eq!((stream.status, stream.header("content-type")), (200, "text/event-stream"));
    let (_, kind, data) = event(&mut stream).await;
    assert_eq!((kind.as_str(), &data["eventId"]), ("a", &json!(first)));
    publish(&app, "b").await;
    let (cursor, kind, _) = event(&mut stream).await;
    assert_eq!(kind, "b");
    drop(stream);
    let missed = publish(&app, "c").await;
    let mut stream = open(&app, "?after=now", Some(&cursor)).await;
    let (_, _, data) = event(&mut stream).await;
    assert_eq!(data["eventId"], missed, "Last-Event-ID goes first");
    let job = app.completed(json!({"type": "t"})).await;
    let (_, kind, data) = event(&mut stream).await;
    assert_eq!((kind.as_str(), &data["jobId"]), ("job.completed", &json!(job)));
    let page = app.get(&format!("/v1/events?after={cursor}")).await.ok(200);
    assert_eq!(kinds(&page), ["c", "job.completed"], "a stream's id is a cursor");
    let mut now = open(&app, "?after=now&types=d", None).await;
    publish(&app, "e").await;
    publish(&app, "d").await;
    assert_eq!(event(&mut now).await.1, "d");
}

/// Who was cut off before the first event would begin at a later `now` without a place to come back to.
async fn a_stream_from_now_begins_with_its_place(site: &Site) {
    let app = site.start().await;
    publish(&app, "a").await;
    let mut now = open(&app, "?after=now", None).await;
    let hello = now.block().await.unwrap();
    let place = hello.strip_prefix("retry: 2000\nid: ").unwrap_or_else(|| panic!("{hello}"));
    drop(now);
    publish(&app, "b").await;
    let mut again = open(&app, "?after=now", Some(place)).await;
    assert_eq!(event(&mut again).await.1, "b");
}

async fn a_stream_of_some_types_tells_how_far_it_is(site: &Site) {
    let app = site.start().await;
    publish(&app, "a").await;
    let mut stream = open(&app, "?types=b", None).await.patient();
    assert!(stream.block().await.unwrap().starts_with("retry: "));
    let alive = stream.block().await.unwrap();
    let cursor = alive.strip_prefix(": alive\nid: ").unwrap_or_else(|| panic!("{alive}"));
    let page = app.get(&format!("/v1/events?after={cursor}")).await.ok(200);
    assert!(kinds(&page).is_empty());
}

async fn what_is_past_its_retention_is_gone(site: &Site) {
    let app = site.start_still().await;
    let start = id(&app.get("/v1/events").await.ok(200)["nextCursor"]);
    publish(&app, "a").await;
    app.pass(8 * 86_400);
    until("the sweep has come", async || {
        let reply = app.get(&format!("/v1/events?after={start}")).await;
        if reply.status == 410 { Ok(()) } else { Err(reply) }
    })
    .await;
    app.get(&format!("/v1/events?after={start}")).await.refused(410, "cursor-expired", "");
    let stream = open(&app, "", Some(&start)).await;
    assert_eq!(stream.status, 410);
    assert!(app.items("/v1/events").await.is_empty());
}

async fn a_revoked_key_and_a_stop_end_it(site: &Site) {
    let app = site.start().await;
    let made = app.post("/v1/keys", &json!({"scopes": ["deliveries:read"]})).await.ok(201);
    let mut theirs = Sse::ask(&app, "/v1/events", made["key"].as_str(), []).await.patient();
    let mut ours = open(&app, "", None).await;
    app.delete(&format!("/v1/keys/{}", id(&made["keyId"]))).await.ok(204);
    while theirs.block().await.is_some() {}
    site.stop().await;
    while ours.block().await.is_some() {}
}

async fn what_is_not_understood_is_refused(site: &Site) {
    let app = site.start().await;
    for (query, pointer) in [
        ("after=x", "?after"),
        ("after=0", "?after"),
        ("limit=0", "?limit"),
        ("types=a**", "?types"),
        ("types=job.started", "?types"),
        ("cursor=x", "?cursor"),
    ] {
        app.get(&format!("/v1/events?{query}")).await.refused(400, "invalid-request", pointer);
    }
    let stream = app.get("/v1/events").header("accept", "text/event-stream");
    stream.header("last-event-id", "12").await.refused(400, "invalid-request", "Last-Event-ID");
    app.get("/v1/events").header("accept", "text/html").await.refused(406, "not-acceptable", "");
    let narrow = json!({"scopes": ["deliveries:read"], "queues": ["q"]});
    let narrow = id(&app.post("/v1/keys", &narrow).await.ok(201)["key"]);
    app.get("/v1/events").key(&narrow).await.refused(403, "forbidden", "");
}
