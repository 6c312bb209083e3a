//! What a push worker's answer makes of the job.

use serde_json::{Value, json};

use super::{body, ended, figure, in_state, requests, running, still, submit};
use crate::support::app::{LIMIT, Site, both_engines};
use crate::support::receiver::{Answer, Receiver};

both_engines! {
    a_json_answer_is_the_result_and_goes_into_the_callback,
    a_json_answer_that_is_not_read_alike_everywhere_stays_out_of_the_callback,
    bytes_keep_their_content_type,
    an_empty_answer_is_the_json_value_null,
    a_202_leaves_the_lease_with_the_worker,
    a_202_that_never_completes_times_out_and_is_sent_again,
    a_4xx_fails_the_job_with_what_it_says,
    a_redirect_is_an_error_and_is_not_followed,
    a_result_that_does_not_fit_fails_the_job,
}

async fn a_json_answer_is_the_result_and_goes_into_the_callback(site: &Site) {
    let receiver = Receiver::start().await;
    let json = vec![("content-type", "application/json".to_owned())];
    receiver.script("/work", vec![Answer::Body(200, json, r#"{"pages":  12}"#.into())]);
    let app = running(site, &receiver, "").await;

    let job = submit(&app, json!({"callbackUrl": receiver.url("/hook")})).await;

    let told = receiver.wait("/hook", 1, LIMIT).await.remove(0);
    told.verify(&app.secret);
    assert_eq!(
        (&told.json()["type"], &told.json()["data"]["result"]),
        (&json!("job.completed"), &json!({"pages": 12}))
    );
    let result = app.get(&format!("/v1/jobs/{job}/result")).await;
    assert_eq!(
        (&result.body[..], result.header("content-type")),
        (&br#"{"pages":  12}"#[..], "application/json")
    );
    figure(&app, "ringback_push_attempts_total{queue=\"q\",word=\"complete\"} 1").await;
    figure(&app, "ringback_push_seconds_count{queue=\"q\"} 1").await;
    figure(&app, "ringback_push_in_flight{queue=\"q\"} 0").await;
}

async fn a_json_answer_that_is_not_read_alike_everywhere_stays_out_of_the_callback(site: &Site) {
    let twice = r#"{"paid":true,"paid":false}"#;
    let receiver = Receiver::start().await;
    let json = vec![("content-type", "application/json".to_owned())];
    receiver.script("/work", vec![Answer::Body(200, json, twice.into())]);
    let app = running(site, &receiver, "").await;

    let job = submit(&app, json!({"callbackUrl": receiver.url("/hook")})).await;

    let told = receiver.wait("/hook", 1, LIMIT).await.remove(0).json();
    assert_eq!((&told["type"], told["data"].get("result")), (&json!("job.completed"), None));
    assert_eq!(told["data"]["resultUrl"], format!("{}/results/{job}.json", app.url));
    let result = app.get(&format!("/v1/jobs/{job}/result")).await;
    assert_eq!((result.status, &result.body[..]), (200, twice.as_bytes()));
}

async fn bytes_keep_their_content_type(site: &Site) {
    let receiver = Receiver::start().await;
    let typed = |text: &str| vec![("content-type", text.to_owned())];
    receiver.script(
        "/work",
        vec![
            Answer::Body(201, typed("application/pdf"), "%PDF-1.7".into()),
            Answer::Body(200, vec![], "\u{0}x".into()),
        ],
    );
    let app = running(site, &receiver, "").await;

    for (bytes, content_type) in [(&b"%PDF-1.7"[..], "application/pdf"), (b"\0x", "application/octet-stream")]
    {
        let job = submit(&app, json!({})).await;
        ended(&app, &job).await;
        let result = app.get(&format!("/v1/jobs/{job}/result")).await;
        assert_eq!((&result.body[..], result.header("content-type")), (bytes, content_type));
    }
}

async fn an_empty_answer_is_the_json_value_null(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![Answer::Status(204), Answer::Status(200)]);
    let app = running(site, &receiver, "").await;

    for _ in 0..2 {
        let job = submit(&app, json!({})).await;
        assert_eq!(ended(&app, &job).await["state"], "complete");
        let result = app.get(&format!("/v1/jobs/{job}/result")).await;
        assert_eq!((result.ok(200), result.header("content-type")), (Value::Null, "application/json"));
    }
}

async fn a_202_leaves_the_lease_with_the_worker(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![Answer::Status(202)]);
    let app = still(site, &receiver, "").await;
    let job = submit(&app, json!({})).await;
    let got = requests(&receiver, 1).await.remove(0);
    figure(&app, "ringback_push_attempts_total{queue=\"q\",word=\"processing\"} 1").await;

    app.pass(500);
    let claimed = json!({"jobId": job, "leaseToken": got.header("ringback-lease-token")});
    let alive = app.report(&claimed, "heartbeat", json!({"progress": 40})).nobody().await.ok(200);
    assert_eq!(alive["cancelRequested"], false);
    assert_eq!(app.job(&job).await["progress"], 40);
    app.pass(90);
    app.report(&claimed, "complete", json!({"result": {"late": true}})).nobody().await.ok(200);

    assert_eq!(app.get(&format!("/v1/jobs/{job}/result")).await.ok(200), json!({"late": true}));
    let seen = app.job(&job).await;
    assert_eq!((&seen["state"], &seen["attempt"]), (&json!("complete"), &json!(1)));
    assert_eq!(receiver.at("/work").len(), 1);
}

async fn a_202_that_never_completes_times_out_and_is_sent_again(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script("/work", vec![Answer::Status(202), Answer::Status(200)]);
    let app = still(site, &receiver, "").await;
    let job = submit(&app, json!({"timeoutSeconds": 60})).await;
    requests(&receiver, 1).await;
    figure(&app, "ringback_push_attempts_total{queue=\"q\",word=\"processing\"} 1").await;

    app.pass(60);
    let seen = in_state(&app, &job, "retrying").await;
    let why = "the attempt ran longer than 60 s";
    assert_eq!(
        seen["errorInfo"],
        json!({"code": "timeout", "message": why, "retryable": true, "attempt": 1})
    );
    app.pass(5);

    assert_eq!(requests(&receiver, 2).await[1].header("ringback-attempt"), "2");
    assert_eq!(ended(&app, &job).await["state"], "complete");
}

async fn a_4xx_fails_the_job_with_what_it_says(site: &Site) {
    let receiver = Receiver::start().await;
    receiver.script(
        "/work",
        vec![body(404, "no data\u{1b} for 2025"), body(422, &"x".repeat(5_000)), Answer::Status(400)],
    );
    let app = running(site, &receiver, "").await;

    for (status, error) in [
        (404, "no data\u{fffd} for 2025".to_owned()),
        (422, "x".repeat(4_000)),
        (400, "the push worker answered 400".to_owned()),
    ] {
        let job = submit(&app, json!({"callbackUrl": receiver.url("/hook")})).await;
        let seen = ended(&app, &job).await;
        assert_eq!((&seen["state"], &seen["error"]), (&json!("failed"), &json!(error)));
        let code = format!("http-{status}");
        assert_eq!(seen["errorInfo"], json!({"code": code, "retryable": false, "attempt": 1}));
    }
    assert_eq!(receiver.at("/work").len(), 3, "none was tried again");
    let told = receiver.wait("/hook", 3, LIMIT).await;
    assert!(told.iter().all(|r| r.json()["type"] == "job.failed"), "{told:?}");
}

async fn a_redirect_is_an_error_and_is_not_followed(site: &Site) {
    let receiver = Receiver::start().await;
    let location = vec![("location", receiver.url("/elsewhere"))];
    receiver.script("/work", vec![Answer::With(307, location)]);
    let app = running(site, &receiver, "").await;

    let job = submit(&app, json!({})).await;

    assert_eq!(ended(&app, &job).await["errorInfo"]["code"], "http-307");
    assert!(receiver.at("/elsewhere").is_empty());
}

async fn a_result_that_does_not_fit_fails_the_job(site: &Site) {
    let receiver = Receiver::start().await;
    let most = 1 << 20;
    let of = |n: usize| Answer::Body(200, vec![], vec![b'x'; n].into());
    receiver.script("/work", vec![of(most), of(most + 1), Answer::Endless(200)]);
    let app = running(site, &receiver, "").await;

    let fits = submit(&app, json!({})).await;
    assert_eq!(ended(&app, &fits).await["state"], "complete");
    assert_eq!(app.get(&format!("/v1/jobs/{fits}/result")).await.body.len(), most);

    for _ in 0..2 {
        let over = submit(&app, json!({})).await;
        let seen = ended(&app, &over).await;
        assert_eq!(seen["state"], "failed");
        assert_eq!(seen["errorInfo"], json!({"code": "result-too-large", "retryable": false, "attempt": 1}));
    }
    assert_eq!(receiver.at("/work").len(), 3);
}
