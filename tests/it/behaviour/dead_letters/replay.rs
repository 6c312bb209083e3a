//! Replays: what they send again, how fast, and that they outlive their node.

use std::time::Duration;

use serde_json::{Value, json};

use super::{died, letters, three};
use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, instant, until};
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    a_replay_sends_the_same_bytes_under_the_same_id,
    a_replay_takes_what_its_filter_matches,
    a_replay_keeps_its_rate,
    a_cancelled_replay_stops,
    a_replay_goes_on_after_a_restart,
}

/// Starts a replay; gives where its progress is read.
async fn start(app: &TestApp, wish: &Value, matched: usize) -> String {
    let started = app.post("/v1/dead-letters/replay", wish).await.ok(202);
    let redrive = id(&started["redriveId"]);
    assert!(redrive.starts_with("rdr_"), "{started}");
    assert_eq!(started, json!({"redriveId": redrive, "matched": matched}));
    format!("/v1/redrives/{redrive}")
}

/// Waits until the replay is in that state and has sent so many again.
async fn redriven(app: &TestApp, path: &str, state: &str, n: u64) -> Value {
    until(&format!("{path} is {state} at {n}"), async || {
        let seen = app.get(path).await.ok(200);
        if seen["state"] == state && seen["redriven"] == n { Ok(seen) } else { Err(seen) }
    })
    .await
}

/// Shows that the sweep has looked: a replay of nothing is done.
async fn swept(app: &TestApp) {
    let nothing = start(app, &json!({"filter": {"ids": []}}), 0).await;
    redriven(app, &nothing, "done", 0).await;
}

async fn a_replay_sends_the_same_bytes_under_the_same_id(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500), Answer::Status(503), Answer::Status(200)]);
    let retry = json!({"maxAttempts": 2, "initialSeconds": 5});
    let job = app.called_back(&receiver.url("/x"), json!({"retry": retry})).await;
    app.pass_until(instant(&app.delivery_after(&job, 1).await["nextAttemptAt"]));
    let dead = app.delivery_in(&job, "dead").await;
    let delivery = id(&dead["deliveryId"]);
    app.pass(100);
    let began = app.clock.now();

    let redrive = start(&app, &json!({"filter": {"ids": [delivery]}}), 1).await;

    let done = redriven(&app, &redrive, "done", 1).await;
    let wanted = json!({"redriveId": done["redriveId"], "of": "deadLetters", "state": "done", "matched": 1, "redriven": 1, "skipped": 0,
        "filter": {"ids": [delivery]}, "createdAt": began, "endedAt": began});
    assert_eq!(done, wanted);
    assert_eq!(app.items("/v1/redrives").await, [wanted]);
    let got = receiver.wait("/x", 3, LIMIT).await;
    assert!(got.iter().all(|r| r.webhook_id() == delivery && r.body == got[0].body), "{got:?}");
    assert_eq!(got[2].header("webhook-attempt"), "3");
    assert_eq!(got[2].header("webhook-timestamp"), began.seconds().to_string());
    got[2].verify(&app.secret);
    let after = app.delivery_in(&job, "delivered").await;
    assert_eq!((&after["attempt"], instant(&after["endedAt"])), (&json!(3), began));
    let attempts = after["attempts"].as_array().unwrap();
    assert_eq!(attempts[..2], dead["attempts"].as_array().unwrap()[..], "its history stays");
    assert_eq!((attempts.len(), &attempts[2]["number"], &attempts[2]["status"]), (3, &json!(3), &json!(200)));
    assert_eq!(letters(&app).await, []);
    app.get(&format!("/v1/dead-letters/{delivery}")).await.refused(404, "not-found", "");
    assert_eq!(app.job(&job).await["callbackState"], "delivered");
}

async fn a_replay_takes_what_its_filter_matches(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    // None of them is ever answered well: each replay ends in the same letters with one more attempt.
    let [(_, a), (gone_job, b), (_, c)] = three(&app, &receiver).await;
    let before = app.items("/v1/dead-letters").await;
    for (filter, matched, wanted) in [
        (json!({"ids": [a, c]}), 2, [2, 1, 2]),
        (json!({"jobId": gone_job}), 1, [2, 2, 2]),
        (json!({"host": "127.0.0.2"}), 1, [2, 2, 3]),
        (json!({"reason": "gone"}), 1, [2, 3, 3]),
        (json!({"type": "job.failed"}), 0, [2, 3, 3]),
        (json!({"since": "2099-01-01T00:00:00Z"}), 0, [2, 3, 3]),
        (json!({"ids": [a], "reason": "gone"}), 0, [2, 3, 3]),
        (Value::Null, 3, [3, 4, 4]),
    ] {
        let redrive = start(&app, &json!({"filter": filter}), matched).await;
        redriven(&app, &redrive, "done", matched as u64).await;
        let [x, y, z] = wanted;
        let wanted = [(c.clone(), z), (b.clone(), y), (a.clone(), x)];
        until(&format!("replayed by {filter}"), async || {
            let found = letters(&app).await;
            if found == wanted { Ok(()) } else { Err(found) }
        })
        .await;
        app.pass(10);
    }
    let after = app.items("/v1/dead-letters").await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before["reason"], &before["firstError"]), (&after["reason"], &after["firstError"]));
        assert!(instant(&before["diedAt"]) < instant(&after["diedAt"]), "{after}");
    }
    let round = app.get(&format!("/v1/deliveries/{b}")).await.ok(200);
    let numbers: Vec<_> = round["attempts"].as_array().unwrap().iter().map(|a| a["number"].clone()).collect();
    assert_eq!(numbers, [1, 2, 3, 4], "numbers go on over the rounds");
    assert_eq!(app.items("/v1/redrives").await.len(), 8);
}

/// Three letters of callbacks that would be delivered now.
async fn healed(app: &TestApp, receiver: &Receiver) {
    receiver.script("/x", vec![Answer::Status(500)]);
    for _ in 0..3 {
        died(app, &receiver.url("/x")).await;
    }
    receiver.script("/x", vec![Answer::Status(200)]);
}

async fn a_replay_keeps_its_rate(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    healed(&app, &receiver).await;

    let redrive = start(&app, &json!({"ratePerSecond": 1}), 3).await;

    for n in 1..4 {
        let seen = redriven(&app, &redrive, "running", n).await;
        assert!(seen.get("endedAt").is_none(), "{seen}");
        assert_eq!((&seen["filter"], &seen["ratePerSecond"]), (&json!({}), &json!(1)), "what it does");
        app.clock.advance(Duration::from_millis(999));
        swept(&app).await;
        assert_eq!(app.get(&redrive).await.ok(200), seen, "no faster than one a second");
        assert_eq!(letters(&app).await.len(), 3 - n as usize);
        receiver.wait("/x", 3 + n as usize, LIMIT).await;
        app.clock.advance(Duration::from_millis(1));
    }
    redriven(&app, &redrive, "done", 3).await;
    assert_eq!(receiver.log().len(), 6);
}

async fn a_cancelled_replay_stops(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    healed(&app, &receiver).await;
    let redrive = start(&app, &json!({"ratePerSecond": 1}), 3).await;
    redriven(&app, &redrive, "running", 1).await;

    let cancelled = app.delete(&redrive).await.ok(200);

    assert_eq!((&cancelled["state"], &cancelled["redriven"]), (&json!("cancelled"), &json!(1)));
    assert_eq!(instant(&cancelled["endedAt"]), app.clock.now());
    receiver.wait("/x", 4, LIMIT).await;
    until("what was queued is delivered", async || {
        let found = app.items("/v1/deliveries?state=delivered").await;
        if found.len() == 1 { Ok(()) } else { Err(found) }
    })
    .await;
    app.pass(60);
    swept(&app).await;
    assert_eq!(app.get(&redrive).await.ok(200), cancelled);
    assert_eq!((letters(&app).await.len(), receiver.log().len()), (2, 4));

    let rest = start(&app, &json!({}), 2).await;
    let done = redriven(&app, &rest, "done", 2).await;
    assert_eq!(app.delete(&rest).await.ok(200), done, "what is done cannot be stopped");
}

async fn a_replay_goes_on_after_a_restart(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    healed(&app, &receiver).await;
    let first = receiver.log();
    let redrive = start(&app, &json!({"ratePerSecond": 1}), 3).await;
    redriven(&app, &redrive, "running", 1).await;
    receiver.wait("/x", 4, LIMIT).await;
    site.stop().await;

    let app = site.start_with(app.clock, |_| {}).await;

    for n in 2..4 {
        app.pass(1);
        redriven(&app, &redrive, "running", n).await;
        receiver.wait("/x", 3 + n as usize, LIMIT).await;
    }
    app.pass(1);
    redriven(&app, &redrive, "done", 3).await;
    until("all are delivered", async || {
        let found = app.items("/v1/deliveries?state=delivered").await;
        if found.len() == 3 { Ok(()) } else { Err(found) }
    })
    .await;
    let got = receiver.log();
    let mut sent: Vec<_> = got[3..].iter().map(|r| (r.webhook_id(), &r.body)).collect();
    let mut wanted: Vec<_> = first.iter().map(|r| (r.webhook_id(), &r.body)).collect();
    sent.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(sent, wanted, "each once, as it was");
    assert_eq!(letters(&app).await, []);
}
