//! What stays the same when a callback is sent again, and what a delivery changes of its job.

use std::time::Duration;

use serde_json::json;

use crate::support::app::{LIMIT, Site, both_engines, instant};
use crate::support::receiver::{Answer, Received, Receiver};

both_engines! {
    a_repeat_is_byte_equal_and_has_the_same_id,
    a_repeated_cloudevent_has_the_same_headers,
    a_delivery_changes_the_tag_and_not_the_sequence,
    whoever_watches_a_job_hears_of_its_delivery,
}

async fn a_repeat_is_byte_equal_and_has_the_same_id(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500), Answer::Status(503), Answer::Status(200)]);
    let callback = json!({"url": receiver.url("/x"), "events": ["job.failed"]});
    let job = app.submit_id(json!({"type": "t", "callback": callback})).await;
    let claimed = app.claim_one().await;
    app.report(&claimed, "fail", json!({"error": "x", "retryable": false})).await.ok(200);
    let mut sent_at = vec![app.clock.now()];

    for n in 1..3 {
        let waiting = app.delivery_after(&job, n).await;
        if n == 1 {
            // The job moves on; what was told of it does not.
            app.ask("POST", &format!("/v1/jobs/{job}/retry")).await.ok(202);
            app.complete(&job).await;
        }
        app.pass_until(instant(&waiting["nextAttemptAt"]));
        sent_at.push(app.clock.now());
        receiver.wait("/x", n as usize + 1, LIMIT).await;
    }

    let done = app.delivery_in(&job, "delivered").await;
    let got = receiver.log();
    assert_eq!(got.len(), 3, "{got:?}");
    for (n, (again, at)) in got.iter().zip(sent_at).enumerate() {
        assert_eq!(again.webhook_id(), done["deliveryId"]);
        assert_eq!(again.header("idempotency-key"), format!("\"{}\"", again.webhook_id()));
        assert_eq!(again.header("webhook-attempt"), (n + 1).to_string());
        assert_eq!(again.header("webhook-timestamp"), at.seconds().to_string(), "of this attempt");
        assert_eq!(again.body, got[0].body);
        again.verify(&app.secret);
    }
    assert_eq!(got[2].json()["data"]["state"], "failed");
    assert_eq!(app.job(&job).await["state"], "complete");
}

async fn a_repeated_cloudevent_has_the_same_headers(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500), Answer::Status(200)]);
    let own = json!({"format": "cloudevents", "headers": {"x-env": "prod"}});
    let job = app.called_back(&receiver.url("/x"), own).await;

    let waiting = app.delivery_after(&job, 1).await;
    app.pass_until(instant(&waiting["nextAttemptAt"]));
    let got = receiver.wait("/x", 2, LIMIT).await;

    let stable = |r: &Received| {
        let mut headers = r.headers.clone();
        for name in ["webhook-attempt", "webhook-timestamp", "webhook-signature"] {
            headers.remove(name).unwrap_or_else(|| panic!("no {name}: {r:?}"));
        }
        headers
    };
    assert_eq!(stable(&got[0]), stable(&got[1]));
    assert_eq!(got[0].body, got[1].body);
    assert_eq!((got[1].header("x-env"), got[1].header("webhook-attempt")), ("prod", "2"));
}

async fn a_delivery_changes_the_tag_and_not_the_sequence(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500), Answer::Status(200)]);
    let job = app.called_back(&receiver.url("/x"), json!({})).await;
    let waiting = app.delivery_after(&job, 1).await;
    let (path, history) = (format!("/v1/jobs/{job}"), format!("/v1/jobs/{job}/events"));
    let (before, events) = (app.get(&path).await, app.items(&history).await);
    assert_eq!(before.ok(200)["callbackState"], "pending");

    app.pass_until(instant(&waiting["nextAttemptAt"]));
    app.delivery_in(&job, "delivered").await;

    let after = app.get(&path).header("if-none-match", before.header("etag")).await;
    let mut wanted = before.json();
    wanted["callbackState"] = json!("delivered");
    assert_eq!(after.ok(200), wanted, "nothing else has changed");
    for reply in [&before, &after] {
        let tag = reply.header("etag");
        let numbers = tag.trim_matches('"').split_once('.').unwrap_or_else(|| panic!("{tag}"));
        assert_eq!(numbers.0, "3", "the sequence: {tag}");
        assert!(numbers.1.parse::<u32>().is_ok(), "{tag}");
    }
    assert_ne!(before.header("etag"), after.header("etag"));
    assert_eq!(app.items(&history).await, events);
}

async fn whoever_watches_a_job_hears_of_its_delivery(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Hang]);
    let job = app.called_back(&receiver.url("/x"), json!({})).await;
    receiver.wait("/x", 1, LIMIT).await;
    let path = format!("/v1/jobs/{job}");
    let tag = app.get(&path).await.header("etag").to_owned();

    let poll = app.get(&path).header("if-none-match", &tag).header("prefer", "wait=10");
    let (reply, ()) = tokio::join!(poll.into_future(), async { receiver.let_go() });

    assert_eq!(reply.ok(200)["callbackState"], "delivered");
    assert_eq!(app.delivery_in(&job, "delivered").await["attempt"], 1);
    let unchanged = app.get(&path).header("if-none-match", reply.header("etag"));
    let began = tokio::time::Instant::now();
    unchanged.header("prefer", "wait=1").await.ok(304);
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}
