//! What a node knows while its store is away.

use std::time::Duration;

use ringback::clock::Clock;
use ringback::store::Error;

use super::stop::dispatcher;
use crate::support::app::LIMIT;
use crate::support::postgres::Server;
use crate::support::receiver::{Answer, Receiver};
use crate::support::store::{Bed, callback, complete};

#[tokio::test]
async fn an_outcome_is_taken_from_a_node_whose_store_was_away_for_longer_than_its_lease() {
    let server = Server::start("").await;
    let bed = Bed::on(server.database().await, None).await;
    let receiver = Receiver::start().await;
    receiver.script("/x", vec![Answer::Hang]);
    bed.submit(bed.job_with(|j| j.callback = Some(callback(&receiver.url("/x"))))).await;
    let held = bed.lease_one().await;
    bed.held(&held, complete()).await.unwrap();
    let clock = Clock::manual(bed.now());
    let dispatcher = dispatcher(&bed, clock.clone());
    while !dispatcher.tick().await.unwrap() {}
    receiver.wait("/x", 1, LIMIT).await;

    server.stop_immediate().await;
    clock.advance(Duration::from_secs(60));
    receiver.let_go();
    // The second of them is told so after the outcome was.
    for _ in 0..2 {
        let told = bed.store.submit(vec![bed.job()], clock.now()).await;
        assert!(matches!(told, Err(Error::Down(_))), "{told:?}");
    }
    server.resume().await;
    tokio::time::timeout(LIMIT, dispatcher.settle()).await.expect("the outcome is written");

    assert_eq!(bed.count("deliveries WHERE state = 'delivered'").await, 1);
    assert_eq!((bed.count("delivery_queue").await, receiver.at("/x").len()), (0, 1));
    bed.sound().await;
}
