//! Callbacks that were given up: looking at them, throwing them away, telling of them.

mod by_hand;
mod outages;
mod refused;
mod replay;

use serde_json::{Value, json};

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, instant, until};
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    an_exhausted_callback_becomes_a_dead_letter,
    letters_are_found_by_every_filter,
    pages_show_every_letter_once,
    a_discarded_letter_is_gone_and_its_delivery_stays_dead,
    the_failure_url_is_told,
    a_failure_url_that_fails_is_a_letter_and_not_a_loop,
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A job whose callback to `url` died at its first attempt; gives its id and its delivery's.
async fn died(app: &TestApp, url: &str) -> (String, String) {
    let job = app.called_back(url, json!({"retry": {"maxAttempts": 1}})).await;
    let seen = app.delivery_in(&job, "dead").await;
    (job, id(&seen["deliveryId"]))
}

/// How often each letter has been tried, by delivery.
async fn letters(app: &TestApp) -> Vec<(String, u64)> {
    let found = app.items("/v1/dead-letters").await;
    found.iter().map(|l| (id(&l["deliveryId"]), l["attempts"].as_u64().unwrap())).collect()
}

/// Three letters with ten seconds between them, oldest first: exhausted, gone, and at another host.
async fn three(app: &TestApp, receiver: &Receiver) -> [(String, String); 3] {
    receiver.script("/500", vec![Answer::Status(500)]);
    receiver.script("/410", vec![Answer::Status(410)]);
    let exhausted = died(app, &receiver.url("/500")).await;
    app.pass(10);
    let gone = died(app, &receiver.url("/410")).await;
    app.pass(10);
    // Nobody listens there.
    let elsewhere = died(app, &format!("http://127.0.0.2:{}/x", receiver.addr.port())).await;
    app.pass(10);
    [exhausted, gone, elsewhere]
}

async fn an_exhausted_callback_becomes_a_dead_letter(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(500), Answer::Status(404)]);
    let retry = json!({"maxAttempts": 2, "initialSeconds": 5});
    let job = app.called_back(&receiver.url("/x"), json!({"retry": retry})).await;
    let waiting = app.delivery_after(&job, 1).await;
    assert_eq!(letters(&app).await, [], "not before the last attempt");
    app.pass_until(instant(&waiting["nextAttemptAt"]));

    let dead = app.delivery_in(&job, "dead").await;

    let delivery = id(&dead["deliveryId"]);
    let wanted = json!({"deliveryId": delivery, "eventType": "job.completed", "jobId": job,
        "url": receiver.url("/x"), "reason": "exhausted", "attempts": 2, "firstError": "status 500",
        "lastError": "status 404", "diedAt": app.clock.now()});
    assert_eq!(app.get(&format!("/v1/dead-letters/{delivery}")).await.ok(200), wanted);
    assert_eq!(app.get("/v1/dead-letters").await.ok(200), json!({"items": [wanted], "nextCursor": null}));
    assert_eq!(instant(&dead["endedAt"]), app.clock.now());
    assert_eq!(app.job(&job).await["callbackState"], "dead");
    app.pass(86_400);
    assert_eq!(letters(&app).await, [(delivery, 2)]);
    assert_eq!(receiver.log().len(), 2, "and nothing more is sent");
}

async fn letters_are_found_by_every_filter(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let [(job, a), (_, b), (_, c)] = three(&app, &receiver).await;
    let told = app.get(&format!("/v1/dead-letters/{b}")).await.ok(200);
    let at = told["diedAt"].as_str().unwrap();
    let all = [c, b, a];
    for (query, wanted) in [
        (String::new(), &all[..]),
        (format!("jobId={job}"), &all[2..]),
        ("host=127.0.0.1".to_owned(), &all[1..]),
        ("host=127.0.0.2".to_owned(), &all[..1]),
        ("host=example.com".to_owned(), &[]),
        ("type=job.completed".to_owned(), &all),
        ("type=job.failed".to_owned(), &[]),
        ("reason=gone".to_owned(), &all[1..2]),
        ("reason=exhausted&host=127.0.0.1".to_owned(), &all[2..]),
        (format!("since={at}"), &all[..2]),
        (format!("until={at}"), &all[2..]),
        (format!("since={at}&until={at}"), &[]),
        ("account=acme".to_owned(), &[]),
    ] {
        let found = app.items(&format!("/v1/dead-letters?{query}")).await;
        let found: Vec<_> = found.iter().map(|l| id(&l["deliveryId"])).collect();
        assert_eq!(found, wanted, "newest first: {query}");
        // A replay means the same by the same words.
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let filter: Value = pairs.map(|(name, value)| (name.to_owned(), json!(value))).collect();
        let count = app.post("/v1/dead-letters/replay", &json!({"filter": filter, "dryRun": true})).await;
        assert_eq!(count.ok(200), json!({"matched": wanted.len()}), "{query}");
    }
    assert_eq!(letters(&app).await.len(), 3, "counting changes nothing");
    assert_eq!(app.items("/v1/redrives").await, Vec::<Value>::new());
}

async fn pages_show_every_letter_once(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let [(_, a), (_, b), (_, c)] = three(&app, &receiver).await;
    for (query, wanted) in [
        ("limit=2", vec![vec![&c, &b], vec![&a]]),
        ("limit=1&host=127.0.0.1", vec![vec![&b], vec![&a]]),
        ("limit=3", vec![vec![&c, &b, &a]]),
    ] {
        let pages = app.pages(&format!("/v1/dead-letters?{query}")).await;
        let ids = pages.iter().map(|p| p.iter().map(|l| id(&l["deliveryId"])).collect::<Vec<_>>());
        let wanted = wanted.iter().map(|p| p.iter().map(|id| (*id).clone()).collect::<Vec<_>>());
        assert!(ids.eq(wanted), "{query}: {pages:?}");
    }
}

async fn a_discarded_letter_is_gone_and_its_delivery_stays_dead(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let [(job, one), (_, two), (_, three)] = three(&app, &receiver).await;
    let before = app.delivery_of(&job).await;
    let path = format!("/v1/dead-letters/{one}");

    let reply = app.delete(&path).await;

    reply.ok(204);
    assert_eq!(reply.body.len(), 0);
    app.get(&path).await.refused(404, "not-found", "");
    app.delete(&path).await.refused(404, "not-found", "");
    assert_eq!(letters(&app).await, [(three, 1), (two, 1)]);
    assert_eq!(app.delivery_of(&job).await, before, "still dead");
    assert_eq!(app.job(&job).await["callbackState"], "dead");
    let ids = json!({"filter": {"ids": [one]}, "dryRun": true});
    assert_eq!(app.post("/v1/dead-letters/replay", &ids).await.ok(200)["matched"], 0);
    assert_eq!(receiver.at("/500").len(), 1);
}

/// The deliveries of a job that tell of a dead one, once there are any.
async fn notices(app: &TestApp, job: &str, state: &str) -> Vec<Value> {
    until("a notice", async || {
        let mut found = app.items(&format!("/v1/deliveries?jobId={job}")).await;
        found.retain(|d| d["eventType"] == "delivery.dead" && d["state"] == state);
        if found.is_empty() { Err(()) } else { Ok(found) }
    })
    .await
}

async fn the_failure_url_is_told(site: &Site) {
    let app = site.start_still().await;
    let (receiver, watcher) = (Receiver::start().await, Receiver::start().await);
    receiver.script("/x", vec![Answer::Status(410)]);
    let headers = json!({"authorization": "Bearer x"});
    let callback = json!({"failureUrl": watcher.url("/dead"), "secret": SECRET, "headers": headers});
    let job = app.called_back(&receiver.url("/x"), callback).await;

    let got = watcher.wait("/dead", 1, LIMIT).await.remove(0);

    let letter = app.items("/v1/dead-letters").await.remove(0);
    let body = got.json();
    let wanted = json!({"type": "delivery.dead", "timestamp": letter["diedAt"], "eventId": body["eventId"],
        "data": {"deliveryId": letter["deliveryId"], "eventType": "job.completed", "jobId": job,
            "url": receiver.url("/x"), "reason": "gone", "attempts": 1, "lastError": "status 410"}});
    assert_eq!(body, wanted, "no sequence: it is none of the job's events");
    assert!(id(&body["eventId"]).starts_with("evt_"), "{body}");
    got.verify(SECRET);
    assert_eq!(got.header("webhook-signature"), got.signature_of(SECRET));
    assert_eq!(got.header("authorization"), "", "what the callback's own host may know");
    assert_eq!((got.header("webhook-attempt"), got.header("content-type")), ("1", "application/json"));
    let notices = notices(&app, &job, "delivered").await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(
        (&notices[0]["deliveryId"], &notices[0]["eventId"]),
        (&json!(got.webhook_id()), &body["eventId"])
    );
    assert_ne!(notices[0]["deliveryId"], letter["deliveryId"]);
    assert_eq!(app.job(&job).await["callbackState"], "dead", "the end of the job has not been told");
    let events = app.items(&format!("/v1/jobs/{job}/events")).await;
    assert_eq!((events.len(), &app.job(&job).await["sequence"]), (3, &json!(3)));
}

async fn a_failure_url_that_fails_is_a_letter_and_not_a_loop(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Status(410)]);
    receiver.script("/dead", vec![Answer::Status(410)]);
    let job = app.called_back(&receiver.url("/x"), json!({"failureUrl": receiver.url("/dead")})).await;

    let notice = notices(&app, &job, "dead").await.remove(0);

    let found = app.items("/v1/dead-letters?type=delivery.dead").await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0]["deliveryId"], &found[0]["reason"]), (&notice["deliveryId"], &json!("gone")));
    assert_eq!((&found[0]["jobId"], &found[0]["url"]), (&json!(job), &json!(receiver.url("/dead"))));
    receiver.log()[1].verify(&app.secret);
    assert_eq!(app.items(&format!("/v1/jobs/{job}/deliveries")).await.len(), 2);
    assert_eq!((letters(&app).await.len(), receiver.log().len()), (2, 2));
}
