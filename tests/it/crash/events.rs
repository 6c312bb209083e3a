//! Events published while the node is killed: none is lost, none is told twice under two ids, and an ordered endpoint is
//! told the first time in the order of the publications.

use std::sync::Arc;

use ringback::client::{Client, SubmitOptions};
use ringback::types::api::{self, NewEndpoint, PublishEvent};
use ringback::types::retry::RetryPolicy;

use super::{JOBS, Oracle, answered, told};
use crate::support::receiver::{Answer, Receiver};

pub const EVENTS: usize = 60;
/// Of the requests to an endpoint every fifteenth fails.
const FAILS: usize = 15;

pub struct Standing {
    path: &'static str,
    ordered: bool,
    secret: String,
}

/// Two endpoints that are told of every event, each at a path of its own that fails now and then.
pub async fn endpoints(client: &Client, receiver: &Receiver) -> Vec<Standing> {
    let mut made = Vec::new();
    for (path, ordered) in [("/events", false), ("/in-order", true)] {
        let fails = |n: usize| Answer::Status(if n % FAILS == FAILS - 1 { 500 } else { 200 });
        receiver.script(path, (0..=EVENTS).map(fails).collect());
        let retry = RetryPolicy { max_attempts: 50, initial_seconds: 1, factor: 1.0, max_seconds: 1 };
        let wish = NewEndpoint {
            url: receiver.url(path),
            events: Some(vec!["crash.*".to_owned()]),
            ordered: Some(ordered),
            retry: Some(retry),
            ..NewEndpoint::default()
        };
        let endpoint = client.create_endpoint(&wish, SubmitOptions::default()).await.unwrap();
        made.push(Standing { path, ordered, secret: endpoint.secret.unwrap() });
    }
    made
}

/// Publishes one after the other, each until it is acknowledged, under a name by which a repeat is recognised.
pub async fn publish(client: Client, oracle: Arc<Oracle>) {
    for n in 0..EVENTS as u64 {
        // Spread over the kills.
        oracle.acknowledged(JOBS * n as usize / EVENTS).await;
        let event = PublishEvent {
            kind: "crash.event".to_owned(),
            data: Some(api::raw(format!("{{\"n\":{n}}}"))),
            account: None,
            id: Some(format!("event-{n}")),
        };
        answered("an event", || client.publish(&event, SubmitOptions::default())).await;
        oracle.published.lock().unwrap().push(n);
    }
}

impl Standing {
    pub async fn judge(&self, client: &Client, receiver: &Receiver) {
        let seen = told(client, receiver.at(self.path), &self.secret).await;
        let mut numbers: Vec<u64> =
            seen.iter().map(|(_, requests)| requests[0].json()["data"]["n"].as_u64().unwrap()).collect();
        if !self.ordered {
            numbers.sort_unstable();
        }
        assert!(numbers.into_iter().eq(0..EVENTS as u64), "{}: each event once, and in order", self.path);
        let requests: usize = seen.iter().map(|(_, requests)| requests.len()).sum();
        let failed = EVENTS / FAILS;
        assert!(requests >= EVENTS + failed, "{}: what failed came again", self.path);
        println!("{}: {EVENTS} events, {failed} failed, {requests} requests seen", self.path);
    }
}
