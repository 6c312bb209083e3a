//! What a node that stops leaves to the others.

use std::time::Duration;

use ringback::clock::Clock;
use ringback::dispatch::{Dispatcher, Options};
use ringback::egress::{self, Sender};
use ringback::metrics::Metrics;
use ringback::types::Millis;
use ringback::types::target::UrlPolicy;
use ringback::wake::Wake;
use tokio_util::sync::CancellationToken;

use crate::support::app::{LIMIT, until};
use crate::support::receiver::{Answer, Receiver};
use crate::support::store::{Bed, both_stores, callback, complete};

both_stores! {
    a_node_that_stops_keeps_only_the_lanes_of_what_is_under_way,
}

/// A dispatcher that goes by `clock`.
pub(super) fn dispatcher(bed: &Bed, clock: Clock) -> Dispatcher {
    let policy = UrlPolicy { dev: true, ..UrlPolicy::default() };
    let sender = Sender::new(egress::Options { policy: policy.clone(), ..egress::Options::default() });
    let options = Options { policy, ..Options::default() };
    let (wake, metrics) = (Wake::default(), Metrics::default());
    Dispatcher::new(bed.store.clone(), sender.unwrap(), clock, wake, metrics, bed.node, options)
}

async fn a_node_that_stops_keeps_only_the_lanes_of_what_is_under_way(bed: &Bed) {
    let (slow, quick) = (Receiver::start().await, Receiver::start().await);
    slow.script("/x", vec![Answer::Hang]);
    for receiver in [&slow, &quick] {
        bed.submit(bed.job_with(|j| j.callback = Some(callback(&receiver.url("/x"))))).await;
        let held = bed.lease_one().await;
        bed.held(&held, complete()).await.unwrap();
    }
    let (dispatcher, shutdown) = (dispatcher(bed, Clock::manual(bed.now())), CancellationToken::new());
    let running = tokio::spawn({
        let (dispatcher, shutdown) = (dispatcher.clone(), shutdown.clone());
        async move { dispatcher.run(shutdown).await }
    });
    slow.wait("/x", 1, LIMIT).await;
    until("the other is told", async || match bed.count("deliveries WHERE state = 'delivered'").await {
        1 => Ok(()),
        n => Err(n),
    })
    .await;

    shutdown.cancel();

    let owned = async || {
        let rows = bed.rows("SELECT origin FROM lanes WHERE owner_id IS NOT NULL").await;
        rows.iter().map(|row| row.text(0).unwrap()).collect::<Vec<_>>()
    };
    let one = [format!("http://{}", slow.addr)];
    until("the other lane is free", async || match owned().await {
        lanes if lanes == one => Ok(()),
        lanes => Err(lanes),
    })
    .await;
    let alive = bed.rows("SELECT alive_until FROM nodes").await[0].time(0).unwrap();
    assert!(
        alive >= bed.now().plus(Duration::from_secs(20)),
        "nobody takes over what is under way: {alive:?}"
    );
    assert!(bed.store.due(Millis(0), bed.now(), 9).await.unwrap().is_empty(), "it is still under way");
    slow.let_go();
    running.await.unwrap();
    assert_eq!(owned().await, Vec::<String>::new());
    assert_eq!((bed.count("nodes").await, bed.count("delivery_queue").await), (0, 0));
}
