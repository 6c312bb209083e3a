//! Outages: letters that belong together and are sent again by one call; and replays of what was delivered.

use serde_json::{Value, json};

use super::{died, letters, three};
use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, until};
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    one_call_sends_an_outage_again,
    what_was_delivered_is_sent_again,
    a_replay_of_deliveries_is_checked,
}

async fn done(app: &TestApp, started: &Value) -> Value {
    let path = format!("/v1/redrives/{}", id(&started["redriveId"]));
    until(&format!("{path} is done"), async || {
        let seen = app.get(&path).await.ok(200);
        if seen["state"] == "done" { Ok(seen) } else { Err(seen) }
    })
    .await
}

async fn one_call_sends_an_outage_again(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let [_, _, (_, elsewhere)] = three(&app, &receiver).await;
    app.pass(3_600);
    died(&app, &receiver.url("/500")).await;

    let page = app.get("/v1/dead-letters/outages").await.ok(200);

    let found = page["items"].as_array().unwrap().clone();
    let told: Vec<_> = found.iter().map(|o| (id(&o["host"]), o["letters"].as_u64().unwrap())).collect();
    let here = |n| ("127.0.0.1".to_owned(), n);
    assert_eq!(told, [here(1), ("127.0.0.2".to_owned(), 1), here(2)], "{page}");
    assert_eq!(page["nextCursor"], Value::Null);
    let errors = &found[2]["errors"];
    assert_eq!(
        *errors,
        json!([{"error": "status 410", "letters": 1}, {"error": "status 500", "letters": 1}])
    );
    assert_eq!(app.items("/v1/dead-letters/outages?limit=1").await, found[..1]);
    assert_eq!(app.items("/v1/dead-letters/outages?host=127.0.0.2").await, found[1..2]);

    for path in ["/500", "/410"] {
        receiver.script(path, vec![Answer::Status(200)]);
    }
    let started = app.post("/v1/dead-letters/replay", &json!({"filter": found[2]["filter"]})).await.ok(202);
    assert_eq!(started["matched"], 2);
    assert_eq!(done(&app, &started).await["of"], "deadLetters");
    until("the outage is over", async || {
        let left = letters(&app).await;
        if left.len() == 2 && left.iter().any(|(letter, _)| *letter == elsewhere) {
            Ok(())
        } else {
            Err(left)
        }
    })
    .await;
}

async fn what_was_delivered_is_sent_again(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let mut jobs = Vec::new();
    for path in ["/a", "/b"] {
        let job = app.called_back(&receiver.url(path), json!({})).await;
        app.delivery_in(&job, "delivered").await;
        jobs.push(job);
        app.pass(10);
    }
    let filter = json!({"state": "delivered", "jobId": jobs[0]});
    let wish = |dry: bool| json!({"filter": filter, "dryRun": dry, "ratePerSecond": 10});
    let counted = app.post("/v1/deliveries/replay", &wish(true)).await.ok(200);
    assert_eq!(counted, json!({"matched": 1}));
    assert_eq!(receiver.log().len(), 2, "only counted");

    let reply = app.post("/v1/deliveries/replay", &wish(false)).await;

    let started = reply.ok(202);
    assert_eq!(started["matched"], 1);
    assert!(reply.header("location").ends_with(&id(&started["redriveId"])), "{reply:?}");
    assert_eq!(done(&app, &started).await["of"], "deliveries");
    let got = receiver.wait("/a", 2, LIMIT).await;
    assert_eq!((got[0].webhook_id(), &got[0].body), (got[1].webhook_id(), &got[1].body));
    assert_eq!(got[1].header("webhook-attempt"), "2");
    app.delivery_in(&jobs[0], "delivered").await;
    assert_eq!(receiver.at("/b").len(), 1);
    assert_eq!(app.post("/v1/deliveries/replay", &json!({"dryRun": true})).await.ok(200)["matched"], 0);
}

async fn a_replay_of_deliveries_is_checked(site: &Site) {
    let app = site.start_still().await;
    let path = "/v1/deliveries/replay";
    for state in ["pending", "inFlight", "held"] {
        let wish = json!({"filter": {"state": state}});
        app.post(path, &wish).await.refused(422, "validation-failed", "/filter/state");
    }
    let wish = json!({"filter": {"state": "gone"}});
    app.post(path, &wish).await.refused(422, "validation-failed", "/filter/state");
    let wish = json!({"filter": {"state": "dead"}});
    app.post("/v1/dead-letters/replay", &wish).await.refused(422, "validation-failed", "/filter/state");
    let wish = json!({"ratePerSecond": 0});
    app.post(path, &wish).await.refused(422, "validation-failed", "/ratePerSecond");
    assert_eq!(app.items("/v1/redrives").await, Vec::<Value>::new());
    let wish = json!({"scopes": ["deadletters:replay"], "queues": ["q"]});
    let narrow = id(&app.post("/v1/keys", &wish).await.ok(201)["key"]);
    app.post(path, &json!({})).key(&narrow).await.refused(403, "forbidden", "");
}
