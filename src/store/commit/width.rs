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
pub(in crate::store) struct Width {
    shared: AtomicBool,
    /// The one that has the place took so many calls.
    full: AtomicBool,
    /// It has been waited for in vain.
    hangs: AtomicBool,
    place: Mutex<()>,
}

/// Kept while a transaction is under way. None: without the place, beside whichever has it.
pub(super) type Place<'w> = Option<MutexGuard<'w, ()>>;

impl Width {
    /// Whether other nodes write to the same database.
    pub(in crate::store) fn share(&self, shared: bool) {
        self.shared.store(shared, Ordering::Relaxed);
    }

    /// So many calls go with the transaction that has the place.
    pub(super) fn filled(&self, calls: usize) {
        self.full.store(calls >= FULL, Ordering::Relaxed);
    }

    /// Waits until one more may begin.
    pub(super) async fn place(&self) -> Place<'_> {
        if !self.shared.load(Ordering::Relaxed) {
            return None;
        }
        if let Ok(place) = self.place.try_lock() {
            self.hangs.store(false, Ordering::Relaxed);
            return Some(place);
        }
        if self.full.load(Ordering::Relaxed) || self.hangs.load(Ordering::Relaxed) {
            return None;
        }
        let place = timeout(LONG, self.place.lock()).await.ok();
        self.hangs.store(place.is_none(), Ordering::Relaxed);
        place
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn beside_other_nodes_one_transaction_is_under_way_unless_it_is_full_or_hangs() {
        let width = Width::default();
        let begins = || width.place().now_or_never();
        assert!(begins().is_some() && begins().is_some(), "alone on the database");
        width.share(true);
        let one = begins();
        assert!(one.is_some() && begins().is_none());
        drop(one);
        let next = begins();
        assert!(next.is_some());
        width.filled(FULL);
        assert!(begins().is_some(), "beside one that is full");
        width.filled(FULL - 1);
        assert!(begins().is_none());
        let began = Instant::now();
        assert!(width.place().await.is_none() && began.elapsed() >= LONG, "beside one that hangs");
        assert!(begins().is_some(), "which is waited for once");
        drop(next);
        let next = begins();
        assert!(next.is_some() && begins().is_none());
        width.share(false);
        assert!(begins().is_some(), "the other nodes have left");
    }
}
