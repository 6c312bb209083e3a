//! How many transactions a node has under way at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

/// So many calls bear what a transaction costs by itself: one more beside it makes neither of them dear.
const FULL: usize = 64;
/// So long a transaction is waited for: one that hangs, by a lock or its connection, is not to hold up all others.
const LONG: Duration = Duration::from_millis(100);

/// As many as there are committers, where the node has the database for itself. The transactions of another node run beside
/// one of this node as its own second one would; with that too, each carries half as many calls and all cost more.
#[derive(Default)]
pub(in crate::store) struct Turns {
    shared: AtomicBool,
    full: AtomicBool,
    turn: Mutex<()>,
}

impl Turns {
    /// Whether other nodes write to the same database.
    pub(in crate::store) fn shared(&self, shared: bool) {
        self.shared.store(shared, Ordering::Relaxed);
    }

    /// So many calls were waiting for a transaction just now.
    pub(super) fn waited(&self, calls: usize) {
        self.full.store(calls >= FULL, Ordering::Relaxed);
    }

    /// Waits until a committer may take the next calls. What it gives is kept until they are written.
    pub(super) async fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        if self.shared.load(Ordering::Relaxed) && !self.full.load(Ordering::Relaxed) {
            return timeout(LONG, self.turn.lock()).await.ok();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn beside_other_nodes_one_transaction_is_under_way_unless_many_calls_wait() {
        let turns = Turns::default();
        let begins = || turns.turn().now_or_never();
        let (one, two) = (begins(), begins());
        assert!(one.is_some() && two.is_some(), "alone on the database");
        turns.shared(true);
        let one = begins();
        assert!(one.is_some() && begins().is_none());
        drop(one);
        let next = begins();
        assert!(next.is_some());
        turns.waited(FULL);
        assert!(begins().is_some(), "beside a transaction that is full");
        turns.waited(FULL - 1);
        assert!(begins().is_none());
        let began = Instant::now();
        assert!(turns.turn().await.is_none() && began.elapsed() >= LONG, "beside one that hangs");
        turns.shared(false);
        assert!(begins().is_some(), "the other nodes have left");
    }
}
