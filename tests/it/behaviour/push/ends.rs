//! Requests that do not end by themselves: a cancel, a worker that reports itself, a stop of the node.

use serde_json::json;

use super::{SOON, ended, figure, in_state, requests, running, still, submit};
use crate::support::app::{Site, both_engines};
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    a_cancel_drops_the_request_and_ends_the_job,
    a_worker_may_report_before_it_answers,
    a_lease_that_ran_out_brings_another_attempt_and_drops_the_first_request,
    a_stop_lets_a_request_end_and_begins_no_other,
}

async fn a_cancel_drops_the_request_and_ends_the_job(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![Answer::Hang]);
    let app = running(site, &receiver, "").await;
    let job = submit(&app, json!({"callbackUrl": receiver.url("/hook")})).await;
    requests(&receiver, 1).await;

    let wish = json!({"reason": "not needed"});
    app.post(&format!("/v1/jobs/{job}/cancel"), &wish).await.ok(202);

    let seen = in_state(&app, &job, "cancelled").await;
    assert_eq!(seen["error"], "cancelled: not needed");
    figure(&app, "ringback_push_attempts_total{queue=\"q\",word=\"cancelled\"} 1").await;
    figure(&app, "ringback_push_in_flight{queue=\"q\"} 0").await;
    let told = receiver.wait("/hook", 1, SOON).await.remove(0);
    assert_eq!(told.json()["type"], "job.cancelled");
    assert_eq!(receiver.at("/work").len(), 1);
}

async fn a_worker_may_report_before_it_answers(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![Answer::Hang]);
    let app = running(site, &receiver, "").await;
    let job = submit(&app, json!({})).await;
    let got = requests(&receiver, 1).await.remove(0);

    let claimed = json!({"jobId": job, "leaseToken": got.header("ringback-lease-token")});
    app.report(&claimed, "heartbeat", json!({"progress": 50})).nobody().await.ok(200);
    app.report(&claimed, "complete", json!({"result": "early"})).nobody().await.ok(200);

    figure(&app, "ringback_push_attempts_total{queue=\"q\",word=\"lost\"} 1").await;
    assert_eq!(app.get(&format!("/v1/jobs/{job}/result")).await.ok(200), "early");
}

async fn a_lease_that_ran_out_brings_another_attempt_and_drops_the_first_request(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![Answer::Hang, Answer::Status(200)]);
    let app = still(site, &receiver, "").await;
    let job = submit(&app, json!({})).await;
    requests(&receiver, 1).await;

    // The node sleeps as long as a lease holds: what it held may belong to another one by now.
    app.pass(31);

    assert_eq!(requests(&receiver, 2).await[1].header("ringback-attempt"), "2");
    let seen = ended(&app, &job).await;
    assert_eq!((&seen["state"], &seen["attempt"]), (&json!("complete"), &json!(2)));
    figure(&app, "ringback_push_attempts_total{queue=\"q\",word=\"lost\"} 1").await;
}

async fn a_stop_lets_a_request_end_and_begins_no_other(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![Answer::Hang, Answer::Status(204)]);
    let app = running(site, &receiver, "max_in_flight = 1").await;
    let under_way = submit(&app, json!({})).await;
    requests(&receiver, 1).await;
    let waiting = submit(&app, json!({})).await;

    let stopped = async {
        // Until the doors are shut: from then on the loops are told to end.
        while tokio::net::TcpStream::connect(app.addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
        receiver.let_go();
    };
    let both = async { tokio::join!(site.stop(), stopped) };
    tokio::time::timeout(2 * SOON, both).await.expect("a stop in 20 s");

    assert_eq!(receiver.at("/work").len(), 1, "nothing was begun");
    let app = running(site, &receiver, "").await;
    let seen = app.job(&under_way).await;
    assert_eq!((&seen["state"], &seen["attempt"]), (&json!("complete"), &json!(1)));
    let seen = ended(&app, &waiting).await;
    assert_eq!((&seen["state"], &seen["attempt"]), (&json!("complete"), &json!(1)));
}
