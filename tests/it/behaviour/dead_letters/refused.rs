//! What is not understood is refused by name, and changes nothing.

use serde_json::{Value, json};

use super::three;
use crate::support::app::{Site, both_engines};
use crate::support::receiver::Receiver;

both_engines! {
    a_replay_that_breaks_a_rule_is_pointed_at,
    a_replay_that_cannot_be_read_is_refused,
    queries_that_are_not_understood_are_refused,
    what_is_not_there_is_not_found,
}

const REPLAY: &str = "/v1/dead-letters/replay";
const UNKNOWN: &str = "01H455VB4PEX5VSKNK084SN02Q";

async fn a_replay_that_breaks_a_rule_is_pointed_at(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    three(&app, &receiver).await;
    let before = app.items("/v1/dead-letters").await;
    let with = |name: &str, value: Value| json!({"filter": {name: value}});
    let many = vec![format!("dlv_{UNKNOWN}"); 1_001];
    for (wish, pointer) in [
        (json!([]), ""),
        (json!({"dryrun": true}), "/dryrun"),
        (json!({"dryRun": "yes"}), "/dryRun"),
        (json!({"ratePerSecond": 0}), "/ratePerSecond"),
        (json!({"ratePerSecond": 10_001}), "/ratePerSecond"),
        (json!({"ratePerSecond": -1}), "/ratePerSecond"),
        (json!({"ratePerSecond": 1.5, "dryRun": true}), "/ratePerSecond"),
        (json!({"filter": "all"}), "/filter"),
        (json!({"filter": []}), "/filter"),
        (json!({"filter": [null, null, null, null, null, null, null, null, null]}), "/filter"),
        (with("id", json!(many[0])), "/filter/id"),
        (with("ids", json!(many[0])), "/filter/ids"),
        (with("ids", json!(many)), "/filter/ids"),
        (with("ids", json!([many[0], "dlv_x"])), "/filter/ids/1"),
        (with("jobId", json!(many[0])), "/filter/jobId"),
        (with("endpointId", json!("ep_x")), "/filter/endpointId"),
        (with("since", json!("yesterday")), "/filter/since"),
        (with("until", json!(0)), "/filter/until"),
        (with("host", json!("x".repeat(256))), "/filter/host"),
        (with("account", json!("x".repeat(256))), "/filter/account"),
        (with("type", json!("x".repeat(129))), "/filter/type"),
        (with("reason", json!("x".repeat(65))), "/filter/reason"),
    ] {
        app.post(REPLAY, &wish).await.refused(422, "validation-failed", pointer);
    }
    assert_eq!(app.items("/v1/redrives").await, Vec::<Value>::new(), "nothing was started");
    assert_eq!(app.items("/v1/dead-letters").await, before);

    let null = json!({"filter": {"ids": null, "host": null}, "dryRun": null, "ratePerSecond": null});
    assert_eq!(app.post(REPLAY, &null).await.ok(202)["matched"], 3, "null is not given");
}

async fn a_replay_that_cannot_be_read_is_refused(site: &Site) {
    let app = site.start_still().await;
    let ask = |content_type: &str, body: &str| app.ask("POST", REPLAY).text(content_type, body.to_owned());
    for body in ["", "{", "{} {}", "{\"dryRun\":true,\"dryRun\":false}"] {
        ask("application/json", body).await.refused(400, "invalid-request", "");
    }
    ask("text/plain", "{}").await.refused(415, "unsupported-media-type", "");
    app.post(&format!("{REPLAY}?dryRun=true"), &json!({})).await.refused(400, "invalid-request", "?dryRun");
    app.ask("PUT", REPLAY).json(&json!({})).await.refused(405, "method-not-allowed", "");
    assert_eq!(app.items("/v1/redrives").await, Vec::<Value>::new());
}

async fn queries_that_are_not_understood_are_refused(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let [(_, one), _, _] = three(&app, &receiver).await;
    let (letter, delivery) = (format!("/v1/dead-letters/{one}"), format!("/v1/deliveries/{one}"));
    for (method, path, pointer) in [
        ("GET", "/v1/dead-letters?id=1".to_owned(), "?id"),
        ("GET", "/v1/dead-letters?jobId=1".to_owned(), "?jobId"),
        ("GET", "/v1/dead-letters?since=monday".to_owned(), "?since"),
        ("GET", "/v1/dead-letters?until=1".to_owned(), "?until"),
        ("GET", format!("/v1/dead-letters?reason={}", "x".repeat(65)), "?reason"),
        ("GET", "/v1/dead-letters?limit=201".to_owned(), "?limit"),
        ("GET", "/v1/dead-letters?cursor=x".to_owned(), "?cursor"),
        ("GET", "/v1/redrives?state=done".to_owned(), "?state"),
        ("GET", format!("{letter}?x=1"), "?x"),
        ("DELETE", format!("{letter}?force=1"), "?force"),
        ("POST", format!("{delivery}/retry?now=1"), "?now"),
        ("POST", format!("{delivery}/cancel?now=1"), "?now"),
    ] {
        app.ask(method, &path).await.refused(400, "invalid-request", pointer);
    }
    assert_eq!(app.items("/v1/dead-letters").await.len(), 3);
    assert_eq!(app.get(&delivery).await.ok(200)["attempt"], 1);
}

async fn what_is_not_there_is_not_found(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let job = app.called_back(&receiver.url("/x"), json!({})).await;
    let delivered = app.delivery_in(&job, "delivered").await["deliveryId"].as_str().unwrap().to_owned();
    for bad in [&*format!("dlv_{UNKNOWN}"), "dlv_x", "1", &format!("job_{UNKNOWN}")] {
        for (method, path) in [
            ("GET", format!("/v1/dead-letters/{bad}")),
            ("DELETE", format!("/v1/dead-letters/{bad}")),
            ("GET", format!("/v1/deliveries/{bad}")),
            ("POST", format!("/v1/deliveries/{bad}/retry")),
            ("POST", format!("/v1/deliveries/{bad}/cancel")),
        ] {
            app.ask(method, &path).await.refused(404, "not-found", "");
        }
    }
    for bad in [&*format!("rdr_{UNKNOWN}"), "rdr_x", &format!("dlv_{UNKNOWN}")] {
        app.get(&format!("/v1/redrives/{bad}")).await.refused(404, "not-found", "");
        app.delete(&format!("/v1/redrives/{bad}")).await.refused(404, "not-found", "");
    }
    // It is there, but it is not dead.
    app.get(&format!("/v1/dead-letters/{delivered}")).await.refused(404, "not-found", "");
    app.delete(&format!("/v1/dead-letters/{delivered}")).await.refused(404, "not-found", "");
    assert_eq!(app.delivery_of(&job).await["state"], "delivered");
}
