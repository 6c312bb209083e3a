//! A dump of PostgreSQL, restored into a server whose transactions are numbered anew.

use std::process::Command;
use std::time::Duration;

use ringback::store::FeedPage;
use ringback::types::EventId;
use ringback::types::event::{Cursor, FeedFilter};
use serde_json::json;

use super::events::{event, publish};
use crate::support::postgres::Server;
use crate::support::store::{Bed, beside, open};

async fn tell(bed: &Bed, n: u32) -> EventId {
    publish(bed, event(bed, json!({"type": "t", "data": n}))).await.event_id
}

/// A page of the feed, once no running transaction holds anything back.
async fn read(bed: &Bed, after: Option<Cursor>) -> FeedPage {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let page = bed.store.feed(bed.tenant, &FeedFilter::default(), after, 100).await.unwrap();
        if !page.held {
            return page;
        }
        assert!(tokio::time::Instant::now() < deadline, "{page:?}");
        tokio::task::yield_now().await;
    }
}

fn ids(page: &FeedPage) -> Vec<EventId> {
    page.events.iter().map(|(_, event)| event.event_id).collect()
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn a_restored_feed_goes_on_behind_every_cursor_that_was_given() {
    let (before, after) = (Server::start("").await, Server::start("").await);
    let first = Bed::on(before.database().await, None).await;
    // The new server's numbers are smaller.
    let mut conn = beside(&first.url).await;
    for _ in 0..2_000 {
        conn.all("SELECT CAST(pg_current_xact_id() AS TEXT)", vec![]).await.unwrap();
    }
    let mut told = vec![tell(&first, 1).await, tell(&first, 2).await];
    let dumped = read(&first, None).await.end;
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump.sql");
    run(Command::new("pg_dump").args(["--no-owner", "--file"]).arg(&dump).arg(&first.url));
    // What is told after the dump is lost, but a follower has read it.
    tell(&first, 3).await;
    let ahead = read(&first, None).await.end;
    assert!(ahead > dumped);
    first.store.close().await;

    let url = after.database().await;
    run(Command::new("psql").args(["--quiet", "--set", "ON_ERROR_STOP=1", "--file"]).arg(&dump).arg(&url));
    let second = Bed::on(url, None).await;
    assert_eq!(ids(&read(&second, None).await), told, "all that was dumped is there at once");
    // The same dice give the same ids within one millisecond.
    second.pass_seconds(60);
    told.push(tell(&second, 4).await);

    for cursor in [dumped, ahead] {
        assert_eq!(ids(&read(&second, Some(cursor)).await), told[2..], "{cursor}");
    }
    assert_eq!(ids(&read(&second, None).await), told);
    // Opened once more where it is, it goes on as it was.
    let there = read(&second, None).await.end;
    second.store.close().await;
    let again = open(&second.url, 3).await.unwrap();
    let page = again.feed(second.tenant, &FeedFilter::default(), Some(ahead), 100).await.unwrap();
    assert_eq!((ids(&page), page.end), (told[2..].to_vec(), there));
    second.spoil(); // its store is closed
}
