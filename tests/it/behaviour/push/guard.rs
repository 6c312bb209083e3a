//! A worker's own egress profile.

use ringback::app::Mode;
use ringback::clock::Clock;
use serde_json::json;

use super::{ended, requests, submit, worker};
use crate::support::app::{Site, TestApp, both_engines};
use crate::support::receiver::Receiver;

both_engines! {
    an_inner_address_is_refused_unless_the_profile_opens_it,
    what_a_profile_opens_stays_closed_to_callbacks,
    a_name_that_the_operator_vouches_for_is_reached,
}

async fn serving(site: &Site, toml: &str) -> TestApp {
    let key = site.key_of("default").await;
    let file = site.file(toml);
    let mut app = site
        .start_with(Clock::system(), |config| {
            config.mode = Mode::Serve;
            config.file = Some(file);
        })
        .await;
    app.key = key;
    app
}

async fn an_inner_address_is_refused_unless_the_profile_opens_it(site: &Site) {
    let receiver = Receiver::start().await;
    site.key_of("default").await;
    for (opens, why) in [
        ("", "queues.q.worker.url: plain http needs `allow_http = true`"),
        ("allow_http = true", "queues.q.worker.url: a loopback address must lie in `allow_cidrs`"),
        ("allow_http = true\nallow_cidrs = ['10.0.0.0/8']", "queues.q.worker.url: a loopback address"),
    ] {
        let file = site.file(&worker(&receiver, opens));
        let said = site
            .refuses(|config| {
                config.mode = Mode::Serve;
                config.file = Some(file);
            })
            .await;
        assert!(said.starts_with(why), "{said}");
    }
    assert!(receiver.log().is_empty());
}

async fn what_a_profile_opens_stays_closed_to_callbacks(site: &Site) {
    let receiver = Receiver::start().await;
    let opens = "allow_http = true\nallow_cidrs = ['127.0.0.0/8']";
    let app = serving(site, &worker(&receiver, opens)).await;

    let job = submit(&app, json!({})).await;
    assert_eq!(ended(&app, &job).await["state"], "complete");

    let port = receiver.addr.port();
    for url in [receiver.url("/hook"), format!("https://127.0.0.1:{port}/"), "https://127.0.0.1/".to_owned()]
    {
        let wish = json!({"type": "t", "queue": "q", "callbackUrl": url});
        app.post("/v1/jobs", &wish).await.refused(422, "callback-url-blocked", "/callbackUrl");
    }
    assert_eq!(receiver.log().len(), 1);
}

async fn a_name_that_the_operator_vouches_for_is_reached(site: &Site) {
    let receiver = Receiver::start().await;
    let url = format!("http://localhost:{}/work", receiver.addr.port());
    let toml = format!("[queues.q.worker]\nurl = '{url}'\nallow_http = true\nallow_hosts = ['localhost']\n");
    let app = serving(site, &toml).await;

    let job = submit(&app, json!({})).await;

    assert_eq!(ended(&app, &job).await["state"], "complete");
    assert!(requests(&receiver, 1).await[0].header("host").starts_with("localhost:"));
    let wish = json!({"type": "t", "callbackUrl": url.replace("http:", "https:")});
    app.post("/v1/jobs", &wish).await.refused(422, "callback-url-blocked", "/callbackUrl");
}
