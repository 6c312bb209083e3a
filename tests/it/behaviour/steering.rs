//! When a callback is tried again, and how a receiver steers it.

mod answers;
mod busy;
mod lanes;
mod standing;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{Site, TestApp, both_engines, instant};
use crate::support::probe::Probe;
use crate::support::receiver::{Answer, Receiver};
use ringback::types::Millis;

both_engines! {
    a_policy_is_kept_to_the_millisecond,
    the_default_policy_takes_fourteen_attempts,
    jitter_is_never_longer_than_fifteen_minutes,
    each_submission_has_its_own_policy,
    nothing_is_sent_that_would_come_after_expires_at,
    what_has_expired_before_it_was_due_is_never_sent,
    everything_but_2xx_is_tried_again,
    a_gone_receiver_ends_it,
    an_abort_ends_it,
}

/// Waits until attempt `n` has failed, and gives when the next one is: in the jitter of `seconds`, never early.
async fn waits(app: &TestApp, job: &str, n: u32, seconds: u128) -> Millis {
    let seen = app.delivery_after(job, n).await;
    assert_eq!(seen["state"], "pending", "{seen}");
    let next = instant(&seen["nextAttemptAt"]);
    assert_eq!(seen["attempts"].as_array().unwrap().len(), n as usize, "{seen}");
    assert_eq!(instant(&seen["attempts"][n as usize - 1]["nextAttemptAt"]), next);
    let wait = next.since(app.clock.now()).as_millis();
    assert!((seconds * 1_000..=seconds * 1_250).contains(&wait), "{wait} ms after attempt {n}: {seen}");
    next
}

/// Waits for the end of a delivery that dies; gives its dead letter.
async fn dead(app: &TestApp, job: &str, reason: &str) -> Value {
    let seen = app.delivery_in(job, "dead").await;
    assert!(seen.get("nextAttemptAt").is_none() && seen["endedAt"].is_string(), "{seen}");
    let path = format!("/v1/dead-letters/{}", seen["deliveryId"].as_str().unwrap());
    let letter = app.get(&path).await.ok(200);
    assert_eq!((&letter["reason"], &letter["attempts"]), (&json!(reason), &seen["attempt"]), "{letter}");
    assert_eq!(app.job(job).await["callbackState"], "dead");
    letter
}

async fn a_policy_is_kept_to_the_millisecond(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500)]);
    let probe = Probe::start(&app).await;
    let policy = json!({"maxAttempts": 5, "initialSeconds": 10, "factor": 3, "maxSeconds": 50});
    let job = app.called_back(&receiver.url("/x"), json!({"retry": policy})).await;

    for (n, seconds) in [(1, 10), (2, 30), (3, 50), (4, 50)] {
        let next = waits(&app, &job, n, seconds).await;

        app.pass_until(Millis(next.0 - 1));
        probe.looked(&app).await;

        let early = app.delivery_after(&job, n).await;
        assert_eq!((instant(&early["nextAttemptAt"]), &early["state"]), (next, &json!("pending")));
        assert_eq!(receiver.log().len(), n as usize, "nothing is sent a millisecond early");

        app.clock.advance(Duration::from_millis(1));
        let sent = app.delivery_after(&job, n + 1).await;
        assert_eq!(instant(&sent["attempts"][n as usize]["startedAt"]), next);
    }
    let letter = dead(&app, &job, "exhausted").await;
    assert_eq!(letter["attempts"], 5);
    assert_eq!(receiver.log().len(), 5);
}

async fn the_default_policy_takes_fourteen_attempts(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500)]);
    let job = app.completed(json!({"type": "t", "callbackUrl": receiver.url("/x")})).await;

    for (n, seconds) in [(1, 5), (2, 20), (3, 80), (4, 320), (5, 1_280), (6, 5_120), (7, 20_480)] {
        let next = waits(&app, &job, n, seconds).await;
        app.pass_until(next);
    }
    for n in 8..14 {
        let next = instant(&app.delivery_after(&job, n).await["nextAttemptAt"]);
        let wait = next.since(app.clock.now()).as_secs();
        assert!((43_200..=44_100).contains(&wait), "{wait} s after attempt {n}: at most 12 h and 15 min");
        app.pass_until(next);
    }
    assert_eq!(dead(&app, &job, "exhausted").await["attempts"], 14);
    assert_eq!(app.delivery_of(&job).await["maxAttempts"], 14);
}

async fn jitter_is_never_longer_than_fifteen_minutes(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500)]);
    let retry = json!({"retry": {"initialSeconds": 86_400, "factor": 1, "maxSeconds": 86_400}});
    let mut waits = Vec::new();
    for _ in 0..8 {
        let job = app.called_back(&receiver.url("/x"), retry.clone()).await;
        let next = instant(&app.delivery_after(&job, 1).await["nextAttemptAt"]);
        waits.push(next.since(app.clock.now()).as_millis());
    }
    assert!(waits.iter().all(|ms| (86_400_000..=87_300_000).contains(ms)), "{waits:?}");
}

async fn each_submission_has_its_own_policy(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500)]);
    let with = |retry: Value| json!({"retry": retry});
    for (retry, attempts, seconds) in [
        (json!({"initialSeconds": 7}), 14, 7),
        (json!({"maxAttempts": 2, "initialSeconds": null}), 2, 5),
        (json!({"maxAttempts": 100, "initialSeconds": 60, "factor": 10, "maxSeconds": 60}), 100, 60),
    ] {
        let job = app.called_back(&receiver.url("/x"), with(retry)).await;
        waits(&app, &job, 1, seconds).await;
        assert_eq!(app.delivery_of(&job).await["maxAttempts"], attempts);
    }
    let once = app.called_back(&receiver.url("/x"), with(json!({"maxAttempts": 1}))).await;
    assert_eq!(dead(&app, &once, "exhausted").await["attempts"], 1);
}

async fn nothing_is_sent_that_would_come_after_expires_at(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500)]);
    let expires = app.clock.now().plus(Duration::from_secs(30));
    let retry = json!({"maxAttempts": 9, "initialSeconds": 20, "factor": 1, "maxSeconds": 20});
    let job = app.called_back(&receiver.url("/x"), json!({"retry": retry, "expiresAt": expires})).await;

    let next = waits(&app, &job, 1, 20).await;
    app.pass_until(next);

    let letter = dead(&app, &job, "expired").await;
    assert_eq!((&letter["attempts"], &letter["lastError"]), (&json!(2), &json!("status 500")));
    assert_eq!(instant(&letter["diedAt"]), next, "nobody waits for a time that would be too late");
    assert_eq!(receiver.log().len(), 2);
}

async fn what_has_expired_before_it_was_due_is_never_sent(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let expires = app.clock.now().plus(Duration::from_secs(30));
    let callback = json!({"url": receiver.url("/x"), "expiresAt": expires});
    let job = app.submit_id(json!({"type": "t", "callback": callback})).await;

    app.pass(31);
    app.complete(&job).await;

    assert_eq!(dead(&app, &job, "expired").await["attempts"], 0);
    assert_eq!(app.delivery_in(&job, "dead").await["attempts"], json!([]));
    assert_eq!(receiver.log().len(), 0);
}

async fn everything_but_2xx_is_tried_again(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    for status in [400, 401, 403, 404, 408, 409, 413, 429, 451, 500, 502, 503, 504, 599] {
        let path = format!("/{status}");
        receiver.script(&path, vec![Answer::Status(status)]);
        let job = app.called_back(&receiver.url(&path), json!({})).await;
        waits(&app, &job, 1, 5).await;
        let seen = app.delivery_of(&job).await;
        let told = (&seen["lastStatus"], &seen["lastError"]);
        assert_eq!(told, (&json!(status), &json!(format!("status {status}"))));
        assert_eq!(app.job(&job).await["callbackState"], "pending");
    }
    for status in [200, 201, 202, 204, 299] {
        let path = format!("/{status}");
        receiver.script(&path, vec![Answer::Status(status)]);
        let job = app.called_back(&receiver.url(&path), json!({})).await;
        let seen = app.delivery_in(&job, "delivered").await;
        assert_eq!((&seen["lastStatus"], &seen["attempt"]), (&json!(status), &json!(1)));
        assert!(seen.get("lastError").is_none(), "{seen}");
        assert_eq!(app.job(&job).await["callbackState"], "delivered");
    }
}

async fn a_gone_receiver_ends_it(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    // A 410 ends it whatever else the answer says.
    let gone = Answer::With(410, vec![("retry-after", "60".to_owned())]);
    receiver.script("/x", vec![Answer::Status(500), gone]);
    let job = app.called_back(&receiver.url("/x"), json!({})).await;
    app.pass_until(waits(&app, &job, 1, 5).await);

    let letter = dead(&app, &job, "gone").await;

    assert_eq!(letter["attempts"], 2);
    assert_eq!((&letter["firstError"], &letter["lastError"]), (&json!("status 500"), &json!("status 410")));
    let attempts = app.delivery_in(&job, "dead").await["attempts"].clone();
    assert!(attempts[1].get("nextAttemptAt").is_none(), "{attempts}");
}

async fn an_abort_ends_it(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let with = |status, word: &str| vec![Answer::With(status, vec![("webhook-delivery", word.to_owned())])];
    for status in [302, 400, 429, 500] {
        let path = format!("/{status}");
        receiver.script(&path, with(status, "abort"));
        let job = app.called_back(&receiver.url(&path), json!({})).await;
        let letter = dead(&app, &job, "aborted").await;
        assert_eq!(
            (&letter["attempts"], &letter["lastError"]),
            (&json!(1), &json!(format!("status {status}")))
        );
    }
    receiver.script("/other", with(500, "abortive"));
    let job = app.called_back(&receiver.url("/other"), json!({})).await;
    waits(&app, &job, 1, 5).await;
    receiver.script("/ok", with(200, "abort"));
    let job = app.called_back(&receiver.url("/ok"), json!({})).await;
    app.delivery_in(&job, "delivered").await;
}
