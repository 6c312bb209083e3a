//! What leaves a node: the dispatcher's loop, and its way of sending for who waits for an answer.

use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Node, supervise};
use crate::dice::Dice;
use crate::dispatch::{self, Dispatcher};
use crate::egress::Sender;
use crate::http;

/// Starts the loop that sends what is due.
pub(super) async fn start(
    node: &Node<'_>,
    dice: &Dice,
    sender: Sender,
    options: dispatch::Options,
    (stop, tasks): (&CancellationToken, &TaskTracker),
) -> anyhow::Result<()> {
    let (store, clock, wake) = (node.store.clone(), node.clock.clone(), node.wake.clone());
    let id = dice.id(clock.now());
    let dispatcher = Dispatcher::new(store, sender, clock, wake, node.metrics.clone(), id, options);
    dispatcher.arrive().await.context("cannot write to the store")?;
    let token = stop.clone();
    supervise(tasks, stop, "dispatcher", move || {
        let (dispatcher, token) = (dispatcher.clone(), token.clone());
        async move { dispatcher.run(token).await }
    });
    Ok(())
}

/// What sends at once for the API: the dispatcher's way of sending, under the same guard.
pub(super) fn courier(node: &Node<'_>, sender: Sender, options: dispatch::Options) -> http::Courier {
    let courier = dispatch::Courier::new(node.store.clone(), sender, node.clock.clone(), options);
    Arc::new(move |claimed| {
        let courier = courier.clone();
        Box::pin(async move { courier.attempt(&claimed).await })
    })
}
