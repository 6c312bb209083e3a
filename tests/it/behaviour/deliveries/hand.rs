//! Callbacks that are made faster than the lane of their receiver has slots for: they wait in memory.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::app::{LIMIT, Site, TestApp, both_engines, until};
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    what_waits_in_hand_is_sent_in_its_turn_and_once,
    what_waits_in_the_store_is_taken_in_hand_as_places_come_free,
    what_waits_in_hand_goes_back_when_its_receiver_asks_for_a_pause,
    what_waits_in_hand_at_a_stop_is_sent_by_the_next_node_and_costs_no_attempt,
}

/// How many slots a lane begins with.
const SLOTS: usize = 10;

/// Ends so many jobs with one request, so that their callbacks are made in one transaction. The receiver is known to
/// answer by then.
async fn ended_at_once(app: &TestApp, receiver: &Receiver, n: u32) -> Vec<String> {
    app.called_back(&receiver.url("/x"), json!({})).await;
    receiver.wait("/x", 1, LIMIT).await;
    let mut jobs = Vec::new();
    for _ in 0..n {
        jobs.push(app.submit_id(json!({"type": "t", "callbackUrl": receiver.url("/x")})).await);
    }
    let complete = |job: &serde_json::Value| json!({"op": "complete", "jobId": job["jobId"], "leaseToken": job["leaseToken"]});
    let items: Vec<_> = app.claim(n).await.iter().map(complete).collect();
    app.post("/v1/leases/ack", &json!({"items": items})).await.ok(200);
    jobs
}

async fn each_came_once_at_its_first_attempt(app: &TestApp, receiver: &Receiver, jobs: &[String]) {
    let came = receiver.wait("/x", 1 + jobs.len(), LIMIT).await;
    let ids: BTreeSet<_> = came.iter().map(|r| r.webhook_id().to_owned()).collect();
    assert_eq!((came.len(), ids.len()), (1 + jobs.len(), 1 + jobs.len()));
    for job in jobs {
        assert_eq!(app.delivery_in(job, "delivered").await["attempt"], 1);
    }
}

async fn what_waits_in_hand_is_sent_in_its_turn_and_once(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let jobs = ended_at_once(&app, &receiver, 60).await;
    each_came_once_at_its_first_attempt(&app, &receiver, &jobs).await;
}

async fn what_waits_in_the_store_is_taken_in_hand_as_places_come_free(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let mut answers = vec![Answer::Status(200)];
    answers.extend(vec![Answer::Hang; SLOTS]);
    answers.extend(vec![Answer::Status(200); 100]);
    answers.extend(vec![Answer::Hang; 64]);
    answers.push(Answer::Status(200));
    receiver.script("/x", answers);
    let jobs = ended_at_once(&app, &receiver, 220).await;
    let in_flight = async |wanted: usize| {
        until("so many are in flight", async || {
            let n = app.items("/v1/deliveries?state=inFlight&limit=200").await.len();
            if n == wanted { Ok(()) } else { Err(n) }
        })
        .await;
    };
    in_flight(9 * SLOTS).await;
    receiver.wait("/x", 1 + SLOTS, LIMIT).await;

    receiver.let_go();
    // Those that are answered have made room for all others, which hang or wait in hand.
    in_flight(jobs.len() - SLOTS - 100).await;
    assert!(receiver.log().len() < 1 + SLOTS + 100 + 64);

    until("all are let go", async || {
        receiver.let_go();
        let came = receiver.log().len();
        if came == 1 + jobs.len() { Ok(()) } else { Err(came) }
    })
    .await;
    receiver.let_go();
    each_came_once_at_its_first_attempt(&app, &receiver, &jobs).await;
}

async fn what_waits_in_hand_at_a_stop_is_sent_by_the_next_node_and_costs_no_attempt(site: &Site) {
    let app = site.start().await;
    let receiver = Receiver::start().await;
    let mut answers = vec![Answer::Status(200)];
    answers.extend(vec![Answer::Hang; SLOTS]);
    answers.push(Answer::Status(200));
    receiver.script("/x", answers);
    let jobs = ended_at_once(&app, &receiver, 40).await;
    receiver.wait("/x", 1 + SLOTS, LIMIT).await;
    assert_eq!(app.items("/v1/deliveries?state=inFlight").await.len(), jobs.len(), "the others are in hand");

    tokio::join!(site.stop(), async { receiver.let_go() });
    let app = site.start().await;
    each_came_once_at_its_first_attempt(&app, &receiver, &jobs).await;
}

async fn what_waits_in_hand_goes_back_when_its_receiver_asks_for_a_pause(site: &Site) {
    let app = site.start_still().await;
    let receiver = Receiver::start().await;
    let mut answers = vec![Answer::Status(200)];
    answers.extend(vec![Answer::With(503, vec![("retry-after", "60".to_owned())]); SLOTS]);
    answers.push(Answer::Status(200));
    receiver.script("/x", answers);
    let jobs = ended_at_once(&app, &receiver, 40).await;
    until("all of them are held", async || {
        let held = app.items("/v1/deliveries?state=held").await.len();
        if held == jobs.len() { Ok(()) } else { Err(held) }
    })
    .await;
    assert_eq!(receiver.log().len(), 1 + SLOTS, "nothing is sent that waited in hand");
    until("all have come", async || {
        app.pass(10);
        let came = app.items("/v1/deliveries?state=delivered").await.len();
        if came == 1 + jobs.len() { Ok(()) } else { Err(came) }
    })
    .await;
    assert_eq!(receiver.log().len(), 1 + SLOTS + jobs.len());
}
