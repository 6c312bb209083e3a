//! One look for all: which of the feeds that someone follows at this node have moved.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::http::app::App;
use crate::http::watch::{ALONE, SHARED};
use crate::types::TenantId;
use crate::wake::Nudge;

/// The shortest time between two looks: under load every commit nudges.
const GAP: Duration = Duration::from_millis(10);

/// How far each feed is that someone follows. Cheap to clone.
#[derive(Clone, Default)]
pub struct Heads(Arc<Inner>);

#[derive(Default)]
struct Inner {
    followed: Mutex<HashMap<TenantId, watch::Sender<i64>>>,
    /// Somebody follows something.
    begun: Notify,
    /// Some feed may have moved.
    news: Nudge,
}

impl Heads {
    /// Tells of each move of the tenant's feed until it is dropped. To be called before the first look at it.
    pub fn follow(&self, tenant: TenantId) -> watch::Receiver<i64> {
        let head = self
            .with(|followed| followed.entry(tenant).or_insert_with(|| watch::Sender::new(-1)).subscribe());
        self.0.begun.notify_one();
        head
    }

    /// Some feed may have moved by a commit of this node. Losing it costs time alone: the loop also polls.
    pub fn nudge(&self) {
        self.0.news.nudge();
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<TenantId, watch::Sender<i64>>) -> T) -> T {
        act(&mut self.0.followed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The tenants that are followed still.
    fn tenants(&self) -> Vec<TenantId> {
        self.with(|followed| {
            followed.retain(|_, head| head.receiver_count() > 0);
            followed.keys().copied().collect()
        })
    }

    fn tell(&self, tenant: TenantId, position: i64) {
        self.with(|followed| {
            if let Some(head) = followed.get(&tenant) {
                head.send_if_modified(|known| std::mem::replace(known, position) != position);
            }
        });
    }

    async fn begun(&self) {
        loop {
            let begun = self.0.begun.notified();
            if !self.tenants().is_empty() {
                return;
            }
            begun.await;
        }
    }
}

/// The loop, for ever.
pub async fn keep_looking(app: &App) {
    let longest = if app.store.is_shared() { SHARED } else { ALONE };
    loop {
        app.heads.begun().await;
        // Registered before the look: a nudge during it is not missed.
        let nudge = app.heads.0.news.listen();
        let began = app.real.now();
        match app.store.feed_heads(&app.heads.tenants()).await {
            Ok(heads) => heads.iter().for_each(|head| app.heads.tell(head.tenant, head.position)),
            Err(e) => tracing::warn!(error = %e, "cannot ask the store for the feeds that are followed"),
        }
        // A look over many tenants takes its time, and must leave the store as much.
        let gap = app.real.now().since(began).clamp(GAP, SHARED);
        tokio::time::sleep(gap).await;
        nudge.wait(longest.saturating_sub(gap)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_follows_is_told_of_each_move_and_forgotten_when_gone() {
        let heads = Heads::default();
        let tenant = TenantId::from_uuid(uuid::Uuid::from_u128(1));
        let mut one = heads.follow(tenant);
        assert!(!one.has_changed().unwrap());
        heads.tell(tenant, 4);
        assert!(one.has_changed().unwrap());
        one.mark_unchanged();
        heads.tell(tenant, 4);
        assert!(!one.has_changed().unwrap(), "it stands where it stood");
        heads.tell(tenant, 5);
        assert!(one.has_changed().unwrap());
        one.mark_unchanged();
        assert_eq!(heads.tenants(), [tenant]);
        drop(one);
        assert!(heads.tenants().is_empty());
    }
}
