//! Nudges between the doors and the loops of one process. They carry no data.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

/// The nudges: "there may be work to claim", "there may be something to deliver".
///
/// Losing one costs time, never work: every waiter also polls.
#[derive(Clone, Debug, Default)]
pub struct Wake {
    /// A job may have become claimable, or has changed.
    pub jobs: Nudge,
    /// A delivery may have become due.
    pub deliveries: Nudge,
}

/// Wakes everyone who waits at this moment.
#[derive(Clone, Debug, Default)]
pub struct Nudge(Arc<Notify>);

impl Nudge {
    /// Wakes all waiters.
    pub fn nudge(&self) {
        self.0.notify_waiters();
    }

    /// Registers before the caller looks, so that a nudge between look and wait is not missed.
    pub fn listen(&self) -> Listener {
        let mut waiting = Box::pin(self.0.clone().notified_owned());
        waiting.as_mut().enable();
        Listener(waiting)
    }
}

/// A place in the queue for the next nudge.
pub struct Listener(std::pin::Pin<Box<tokio::sync::futures::OwnedNotified>>);

impl Listener {
    /// Waits for the nudge, `limit` at the longest. True if nudged.
    pub async fn wait(self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.0).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_nudge_between_look_and_wait_is_not_missed() {
        let nudge = Nudge::default();
        let listener = nudge.listen();
        nudge.nudge();
        assert!(listener.wait(Duration::from_secs(5)).await);
        assert!(!nudge.listen().wait(Duration::ZERO).await);
    }
}
