//! The webhook, and the record of what was sent.

use serde_json::json;

use crate::support::app::{LIMIT, Site, both_engines};
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    a_callback_is_signed_and_repeated_byte_for_byte,
}

async fn a_callback_is_signed_and_repeated_byte_for_byte(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let cookie = ("set-cookie", "session=canary".to_owned());
    receiver.script("/x", vec![Answer::With(500, vec![cookie]), Answer::Status(204)]);
    let retry = json!({"maxAttempts": 3, "initialSeconds": 1, "factor": 1, "maxSeconds": 1});

    let job = app.completed(json!({"type": "t", "callback": {"url": receiver.url("/x"), "retry": retry}}));
    let job = job.await;

    let seen = receiver.wait("/x", 2, LIMIT).await;
    seen.iter().for_each(|request| request.verify(&app.secret));
    assert_eq!((seen[0].webhook_id(), &seen[0].body), (seen[1].webhook_id(), &seen[1].body));
    let told = app.delivery_in(&job, "delivered").await;
    assert_eq!(told["deliveryId"], seen[0].webhook_id());
    let shown = told.to_string();
    assert!(shown.contains("redacted") && !shown.contains("canary"), "{told}");
}
