//! Published events over HTTP.

use serde_json::{Value, json};

use crate::support::app::{LIMIT, Site, TestApp, both_engines, id, until};
use crate::support::ask::Reply;
use crate::support::receiver::Receiver;

both_engines! {
    an_event_reaches_the_endpoints_of_its_account_signed,
    a_cloudevents_endpoint_gets_the_binary_form,
    an_id_and_an_idempotency_key_publish_once,
    a_batch_answers_each_event_or_none,
    a_batch_is_known_again_by_its_key,
    a_batch_that_another_key_repeats_publishes_what_that_may_and_nothing_twice,
    a_narrowed_key_publishes_for_its_accounts_alone,
    what_is_not_understood_is_refused,
}

async fn endpoint(app: &TestApp, url: &str, more: Value) -> Value {
    let mut wish = json!({"url": url, "events": ["*"]});
    wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    app.post("/v1/endpoints", &wish).await.ok(201)
}

async fn publish(app: &TestApp, event: Value) -> Reply {
    app.post("/v1/events", &event).await
}

async fn an_event_reaches_the_endpoints_of_its_account_signed(site: &Site) {
    let (app, receiver) = (site.start().await, Receiver::start().await);
    let none = endpoint(&app, &receiver.url("/none"), json!({})).await;
    let acme =
        endpoint(&app, &receiver.url("/acme"), json!({"account": "acme", "events": ["invoice.*"]})).await;
    let body = "{\"type\":\"invoice.paid\",\"account\":\"acme\",\"data\":{ \"n\" : 1.0e2 }}";

    let accepted = app.ask("POST", "/v1/events").text("application/json", body).await;
    let told = accepted.ok(202);
    assert_eq!((&told["deliveries"], accepted.header("idempotent-replayed")), (&json!(1), ""));
    let got = receiver.wait("/acme", 1, LIMIT).await.remove(0);
    got.verify(acme["secret"].as_str().unwrap());
    let text = std::str::from_utf8(&got.body).unwrap();
    let event = id(&told["eventId"]);
    assert!(
        text.contains(&format!(
            "\"eventId\":\"{event}\",\"account\":\"acme\",\"data\":{{ \"n\" : 1.0e2 }}}}"
        )),
        "{text}"
    );
    assert!(
        text.starts_with("{\"type\":\"invoice.paid\",\"timestamp\":\"")
            && got.json().get("sequence").is_none()
    );

    assert_eq!(
        publish(&app, json!({"type": "x", "data": null})).await.refused(422, "validation-failed", "/data")["status"],
        422
    );
    assert_eq!(publish(&app, json!({"type": "x", "data": [1]})).await.ok(202)["deliveries"], 1);
    receiver.wait("/none", 1, LIMIT).await.remove(0).verify(none["secret"].as_str().unwrap());
    assert_eq!(receiver.log().len(), 2, "and nobody else");
    assert_eq!(
        publish(&app, json!({"type": "x", "data": 1, "account": "new"})).await.ok(202)["deliveries"],
        0
    );
    let deliveries = app.items("/v1/deliveries?account=acme").await;
    assert_eq!((deliveries.len(), &deliveries[0]["eventType"]), (1, &json!("invoice.paid")));
    assert_eq!(deliveries[0]["eventId"], event);
}

async fn a_cloudevents_endpoint_gets_the_binary_form(site: &Site) {
    let (app, receiver) = (site.start().await, Receiver::start().await);
    endpoint(&app, &receiver.url("/ce"), json!({"format": "cloudevents"})).await;
    let told = publish(&app, json!({"type": "invoice.paid", "data": {"n": 1}})).await.ok(202);
    let got = receiver.wait("/ce", 1, LIMIT).await.remove(0);
    assert_eq!((got.header("ce-specversion"), got.header("ce-type")), ("1.0", "invoice.paid"));
    assert_eq!((got.header("ce-id"), got.header("ce-subject")), (told["eventId"].as_str().unwrap(), ""));
    assert_eq!((&got.body[..], got.header("ce-account")), (&b"{\"n\":1}"[..], ""));

    let of = json!({"format": "cloudevents", "account": "Ürümqi 1"});
    endpoint(&app, &receiver.url("/of"), of).await;
    publish(&app, json!({"type": "x", "data": 1, "account": "Ürümqi 1"})).await.ok(202);
    let got = receiver.wait("/of", 1, LIMIT).await.remove(0);
    assert_eq!(got.header("ce-account"), "%C3%9Cr%C3%BCmqi%201");
    // Claimed from the store like any other that is sent again.
    let delivery = format!("/v1/deliveries/{}", got.webhook_id());
    until("it is delivered", async || {
        let seen = app.get(&delivery).await.ok(200);
        if seen["state"] == "delivered" { Ok(()) } else { Err(seen) }
    })
    .await;
    app.ask("POST", &format!("{delivery}/retry")).await.ok(202);
    assert_eq!(receiver.wait("/of", 2, LIMIT).await[1].header("ce-account"), "%C3%9Cr%C3%BCmqi%201");
}

async fn an_id_and_an_idempotency_key_publish_once(site: &Site) {
    let app = site.start().await;
    endpoint(&app, "http://127.0.0.1:9/x", json!({})).await;
    let wish = json!({"type": "a", "data": {"n": 1}, "id": "in-7/paid"});
    let first = publish(&app, wish.clone()).await.ok(202);
    let again = publish(&app, wish).await;
    assert_eq!((again.ok(202), again.header("idempotent-replayed")), (first.clone(), "true"));
    publish(&app, json!({"type": "a", "data": {"n": 2}, "id": "in-7/paid"})).await.refused(
        422,
        "idempotency-key-reused",
        "/id",
    );
    let keyed = async |data: i32| {
        app.post("/v1/events", &json!({"type": "a", "data": data})).header("idempotency-key", "k").await
    };
    let first = keyed(1).await.ok(202);
    let again = keyed(1).await;
    assert_eq!((again.ok(202), again.header("idempotent-replayed")), (first, "true"));
    keyed(2).await.refused(422, "idempotency-key-reused", "");
    assert_eq!(app.items("/v1/deliveries").await.len(), 2);
    // Another node, another process: the same answer.
    site.stop().await;
    let app = site.start().await;
    let wish = json!({"type": "a", "data": {"n": 1}, "id": "in-7/paid"});
    assert_eq!(publish(&app, wish).await.header("idempotent-replayed"), "true");
}

async fn batch(app: &TestApp, atomic: bool, events: Value) -> Reply {
    app.post("/v1/events/batch", &json!({"atomic": atomic, "events": events})).await
}

async fn a_batch_answers_each_event_or_none(site: &Site) {
    let app = site.start().await;
    endpoint(&app, "http://127.0.0.1:9/x", json!({"events": ["a.*"]})).await;
    let mixed = json!([
        {"type": "a.b", "data": 1, "id": "1"}, {"type": "job.done", "data": 1}, {"type": "c", "data": 1},
        {"type": "a.b", "data": 2, "id": "1"}, 7, {"type": "c", "data": 1, "more": 1},
    ]);
    batch(&app, true, mixed.clone()).await.refused(422, "validation-failed", "/events/1/type");
    assert!(app.items("/v1/events").await.is_empty(), "none");
    let told = batch(&app, false, mixed).await.ok(202);
    let items = told["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["deliveries"], &items[2]["deliveries"]), (6, &json!(1), &json!(0)));
    for (i, code, pointer) in [
        (1, "validation-failed", "/events/1/type"),
        (3, "idempotency-key-reused", "/events/3/id"),
        (4, "validation-failed", "/events/4"),
        (5, "validation-failed", "/events/5/more"),
    ] {
        assert_eq!(
            (&items[i]["code"], &items[i]["errors"][0]["pointer"]),
            (&json!(code), &json!(pointer)),
            "{told}"
        );
    }
    let taken = json!([{"type": "c", "data": 5, "id": "2"}, {"type": "a.b", "data": 9, "id": "1"}]);
    batch(&app, true, taken).await.refused(422, "idempotency-key-reused", "/events/1/id");
    assert_eq!(app.items("/v1/events").await.len(), 2, "the two of the mixed batch");
    batch(&app, false, json!([])).await.refused(422, "validation-failed", "/events");
    let many: Vec<Value> = (0..1_001).map(|n| json!({"type": "n", "data": n})).collect();
    batch(&app, false, json!(many)).await.refused(422, "validation-failed", "/events");
    let told = batch(&app, true, json!(many[..1_000])).await.ok(202);
    assert_eq!(told["items"].as_array().unwrap().len(), 1_000);
    let large = json!({"events": [{"type": "n", "data": "x".repeat(4 << 20)}]});
    app.post("/v1/events/batch", &large).await.refused(413, "payload-too-large", "");
}

async fn a_batch_is_known_again_by_its_key(site: &Site) {
    let app = site.start().await;
    let events =
        json!({"events": [{"type": "job.x", "data": 1}, {"type": "a", "data": 1}, {"type": "b", "data": 1}]});
    let keyed = async |body: &Value| app.post("/v1/events/batch", body).header("idempotency-key", "k").await;
    let first = keyed(&events).await;
    let again = keyed(&events).await;
    assert_eq!((first.header("idempotent-replayed"), again.header("idempotent-replayed")), ("", "true"));
    let ids = |reply: &Reply| [1, 2].map(|i| id(&reply.ok(202)["items"][i]["eventId"]));
    assert_eq!(ids(&first), ids(&again));
    keyed(&json!({"events": [{"type": "z", "data": 1}]})).await.refused(422, "idempotency-key-reused", "");
    assert_eq!(app.items("/v1/events").await.len(), 2);
}

async fn a_batch_that_another_key_repeats_publishes_what_that_may_and_nothing_twice(site: &Site) {
    let app = site.start_serving().await;
    let wish = json!({"scopes": ["events:write"], "accounts": ["acme"]});
    let narrow = id(&app.post("/v1/keys", &wish).await.ok(201)["key"]);
    let events = json!({"events": [
        {"type": "a", "data": 1, "account": "other", "id": "mine"}, {"type": "b", "data": 1, "account": "acme"},
    ]});
    let keyed = || app.post("/v1/events/batch", &events).header("idempotency-key", "k");
    let first = keyed().key(&narrow).await.ok(202);
    assert_eq!((&first["items"][0]["status"], app.items("/v1/events").await.len()), (&json!(403), 1));
    let wide = keyed().await.ok(202);
    let ids = [0, 1].map(|i| id(&wide["items"][i]["eventId"]));
    assert_eq!(ids[1], id(&first["items"][1]["eventId"]));
    let told: Vec<_> = app.items("/v1/events").await.iter().map(|e| id(&e["eventId"])).collect();
    assert_eq!((told.len(), told.contains(&ids[0])), (2, true), "the refused one is published now");
    assert_eq!(keyed().await.ok(202), wide);
    let again = keyed().key(&narrow).await.ok(202);
    assert_eq!((&again["items"][0]["status"], &again["items"][1]), (&json!(403), &wide["items"][1]));
    assert_eq!(app.items("/v1/events").await.len(), 2);
}

async fn a_narrowed_key_publishes_for_its_accounts_alone(site: &Site) {
    let app = site.start_serving().await;
    let wish = json!({"scopes": ["events:write", "deliveries:read"], "accounts": ["acme"]});
    let narrow = id(&app.post("/v1/keys", &wish).await.ok(201)["key"]);
    for (account, status) in [(json!("acme"), 202), (json!("other"), 403), (Value::Null, 403)] {
        let event = json!({"type": "a", "data": 1, "account": account});
        assert_eq!(app.post("/v1/events", &event).key(&narrow).await.status, status, "{account}");
        let many = json!({"events": [event]});
        let told = app.post("/v1/events/batch", &many).key(&narrow).await.ok(202);
        assert_eq!(told["items"][0].get("eventId").is_some(), status == 202, "{told}");
    }
    publish(&app, json!({"type": "a", "data": 1, "account": "other"})).await.ok(202);
    let seen = app.get("/v1/events").key(&narrow).await.ok(200);
    let accounts: Vec<&Value> = seen["items"].as_array().unwrap().iter().map(|e| &e["account"]).collect();
    assert_eq!(accounts, ["acme", "acme"]);
    assert_eq!(app.items("/v1/events").await.len(), 3);
}

async fn what_is_not_understood_is_refused(site: &Site) {
    let app = site.start().await;
    for (event, pointer) in [
        (json!({"data": 1}), "/type"),
        (json!({"type": "x"}), "/data"),
        (json!({"type": "webhook.test", "data": 1}), "/type"),
        (json!({"type": "delivery.dead", "data": 1}), "/type"),
        (json!({"type": "a*", "data": 1}), "/type"),
        (json!({"type": 1, "data": 1}), "/type"),
        (json!({"type": "a", "data": 1, "account": 7}), "/account"),
        (json!({"type": "a", "data": 1, "id": ""}), "/id"),
        (json!({"type": "a", "data": 1, "key": "x"}), "/key"),
    ] {
        publish(&app, event).await.refused(422, "validation-failed", pointer);
    }
    let ask = |text: &str| app.ask("POST", "/v1/events").text("application/json", text.to_owned());
    ask("{\"type\":\"a\",\"data\":{\"x\":1,\"x\":2}}").await.refused(400, "invalid-request", "");
    ask("{\"type\":\"a\",\"data\":").await.refused(400, "invalid-request", "");
    app.ask("POST", "/v1/events").text("text/plain", "{}").await.refused(415, "unsupported-media-type", "");
    publish(&app, json!({"type": "a", "data": "x".repeat(300_000)})).await.refused(
        413,
        "payload-too-large",
        "",
    );
    app.post("/v1/events", &json!({"type": "a", "data": 1})).header("idempotency-key", "\"").await.refused(
        400,
        "idempotency-key-invalid",
        "Idempotency-Key",
    );
    assert!(app.items("/v1/events").await.is_empty());
}
