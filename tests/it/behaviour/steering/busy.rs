//! `Retry-After`: a floor for one callback, and a pause of the whole lane.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, instant, until};
use crate::support::probe::Probe;
use crate::support::receiver::{Answer, Receiver};
use ringback::types::Millis;

both_engines! {
    retry_after_is_a_floor,
    retry_after_is_capped_at_a_day,
    a_malformed_retry_after_is_ignored,
    a_busy_receiver_pauses_its_whole_lane,
    a_pause_is_written_down_at_once,
    trouble_without_retry_after_pauses_nothing,
}

/// The time that a callback waits after an answer of 500 with that `Retry-After`, in milliseconds.
async fn wait_after(app: &TestApp, retry_after: &str) -> u128 {
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::With(500, vec![("retry-after", retry_after.to_owned())])]);
    let retry = json!({"maxAttempts": 3, "initialSeconds": 60, "factor": 1, "maxSeconds": 60});
    let job = app.called_back(&receiver.url("/x"), json!({"retry": retry})).await;
    let seen = app.delivery_after(&job, 1).await;
    instant(&seen["nextAttemptAt"]).since(app.clock.now()).as_millis()
}

fn date(at: Millis) -> String {
    let since = Duration::from_secs(u64::try_from(at.seconds()).unwrap());
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since)
}

async fn retry_after_is_a_floor(site: &Site) {
    let app = site.start_still().await;
    let wait = wait_after(&app, "120").await;
    assert!((120_000..=150_000).contains(&wait), "{wait}");
    let wait = wait_after(&app, "62").await;
    assert!((62_000..=77_500).contains(&wait), "{wait}");
    // The date has whole seconds.
    let wait = wait_after(&app, &date(app.clock.now().plus(Duration::from_secs(300)))).await;
    assert!((299_001..=375_000).contains(&wait), "{wait}");
    for short in ["0", "59", &date(app.clock.now()), &date(Millis(0))] {
        let wait = wait_after(&app, short).await;
        assert!((60_000..=75_000).contains(&wait), "{short}: the policy is longer: {wait}");
    }
}

async fn retry_after_is_capped_at_a_day(site: &Site) {
    let app = site.start_still().await;
    let next_week = date(app.clock.now().plus(Duration::from_secs(7 * 86_400)));
    for long in ["86401", "4000000000", "99999999999999999999999999", &next_week] {
        assert_eq!(wait_after(&app, long).await, 86_400_000, "{long}");
    }
}

async fn a_malformed_retry_after_is_ignored(site: &Site) {
    let app = site.start_still().await;
    for text in ["", "soon", "-600", "+600", "600.5", "600 seconds", "1e9", "Thu, 99 Foo 2099 00:00:00 GMT"] {
        let wait = wait_after(&app, text).await;
        assert!((60_000..=75_000).contains(&wait), "{text}: {wait}");
    }
}

/// Waits until the deliveries of these jobs are held, and gives them.
async fn held(app: &TestApp, jobs: [&str; 2]) -> Vec<Value> {
    // Lanes are written down every five seconds.
    app.pass(5);
    until("both are held", async || {
        let found = app.items("/v1/deliveries?state=held").await;
        if found.len() == 2 { Ok(()) } else { Err(found) }
    })
    .await;
    let mut held = Vec::new();
    for job in jobs {
        let delivery = app.delivery_of(job).await;
        assert_eq!((&delivery["state"], &delivery["heldReason"]), (&json!("held"), &json!("paused")));
        assert_eq!(app.job(job).await["callbackState"], "held");
        held.push(delivery);
    }
    held
}

async fn a_busy_receiver_pauses_its_whole_lane(site: &Site) {
    let app = site.start_still().await;
    let probe = Probe::start(&app).await;
    for status in [429, 503] {
        let (busy, free) = (Receiver::start().await, Receiver::start().await);
        let answer = Answer::With(status, vec![("retry-after", "60".to_owned())]);
        busy.script("/busy", vec![answer, Answer::Status(200)]);
        let until = app.clock.now().plus(Duration::from_secs(60));
        let first = app.called_back(&busy.url("/busy"), json!({})).await;
        app.delivery_after(&first, 1).await;

        let other = app.called_back(&busy.url("/other"), json!({})).await;
        app.called_back(&free.url("/x"), json!({})).await;

        free.wait("/x", 1, LIMIT).await;
        let waiting = held(&app, [&first, &other]).await;
        assert_eq!((&waiting[0]["attempt"], &waiting[1]["attempt"]), (&json!(1), &json!(0)));
        assert!(waiting.iter().all(|d| instant(&d["nextAttemptAt"]) >= until), "{waiting:?}");
        let lane = app.items("/v1/lanes?state=paused").await.remove(0);
        assert_eq!(
            (&lane["origin"], instant(&lane["heldUntil"])),
            (&json!(format!("http://{}", busy.addr)), until)
        );

        app.pass_until(Millis(until.0 - 1));
        probe.looked(&app).await;
        assert_eq!(busy.log().len(), 1, "nothing is sent a millisecond early");

        app.clock.advance(Duration::from_millis(1));
        let sent = busy.wait("/other", 1, LIMIT).await.remove(0);
        assert_eq!(sent.header("webhook-attempt"), "1", "waiting costs no attempt");
        let due = instant(&waiting[0]["nextAttemptAt"]);
        if due > app.clock.now() {
            // Not sooner: the time must not pass between a claim and its request.
            app.pass_until(due);
        }
        for job in [&first, &other] {
            app.delivery_in(job, "delivered").await;
        }
        assert_eq!(app.items("/v1/lanes?state=paused").await, Vec::<Value>::new());
    }
}

async fn a_pause_is_written_down_at_once(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::With(503, vec![("retry-after", "60".to_owned())])]);
    let ends = app.clock.now().plus(Duration::from_secs(60));
    app.called_back(&receiver.url("/x"), json!({})).await;

    // The clock stands still: all lanes are written down only in five seconds.
    let lane =
        until("the lane waits", async || app.items("/v1/lanes?state=paused").await.pop().ok_or("open")).await;

    assert_eq!((instant(&lane["heldUntil"]), &lane["heldReason"]), (ends, &json!("retry-after")), "{lane}");
}

async fn trouble_without_retry_after_pauses_nothing(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/500", vec![Answer::With(500, vec![("retry-after", "60".to_owned())])]);
    for status in [429, 503] {
        receiver.script(&format!("/{status}"), vec![Answer::Status(status)]);
    }
    for status in [429, 503, 500] {
        let job = app.called_back(&receiver.url(&format!("/{status}")), json!({})).await;
        app.delivery_after(&job, 1).await;
        let other = app.called_back(&receiver.url("/other"), json!({})).await;
        let seen = app.delivery_in(&other, "delivered").await;
        assert_eq!(seen["attempt"], 1, "after {status}: {}", id(&seen["deliveryId"]));
    }
}
