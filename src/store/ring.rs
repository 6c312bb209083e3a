//! The key ring of a running store, which may be changed under it.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use super::Store;
use super::error;
use super::seal::{KeyRing, sealed_by, sealed_head};
use crate::types::key::TokenKey;

/// The ring, and what is derived from it.
pub(super) struct Keys {
    pub(super) ring: KeyRing,
    /// The active key's first; never empty.
    pub(super) tokens: Vec<TokenKey>,
}

/// Replaced as a whole: who has taken it goes on with it to the end.
pub(super) struct LiveKeys(RwLock<Arc<Keys>>);

impl LiveKeys {
    pub(super) fn new(ring: KeyRing) -> LiveKeys {
        LiveKeys(RwLock::new(Arc::new(Keys { tokens: ring.token_keys(), ring })))
    }

    pub(super) fn now(&self) -> Arc<Keys> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The new ring does not hold the key that seals now, so it is not the old one's heir.
#[derive(Debug, thiserror::Error)]
#[error("it lacks the key {0}, which seals now; the ring in use stays")]
pub struct NotAnHeir(pub String);

/// Heads of sealed values that are still needed, of the oldest and the newest 20 of each kind. The index of the key takes
/// it there: to look at all would take longer than a start may.
macro_rules! needed {
    ($of:literal, $id:literal, $document:literal, $and:literal) => {
        [needed!(@ $of, $id, $document, $and, ""), needed!(@ $of, $id, $document, $and, " DESC")]
    };
    (@ $of:literal, $id:literal, $document:literal, $and:literal, $order:literal) => {
        concat!(
            "SELECT ", sealed_head!("d.sealed"), " FROM (SELECT ", $id, " FROM ", $of, " ORDER BY ", $id, $order,
            " LIMIT 20) q JOIN ", $document, " d ON d.id = q.", $id, " WHERE d.sealed IS NOT NULL", $and
        )
    };
}

const NEEDED: [[&str; 2]; 3] = [
    // One that was rotated signs for a while more at the most, and is not missed then.
    needed!("secrets", "id", "secrets", " AND d.expires_at IS NULL"),
    needed!("job_queue", "job_id", "jobs", ""),
    needed!("delivery_queue", "delivery_id", "deliveries", ""),
];

impl Store {
    /// The ids of keys that the ring lacks although they sealed what is still needed: signing secrets, and what is owed has
    /// with it. Told by the oldest and the newest of these.
    pub async fn lacking_keys(&self) -> error::Result<BTreeSet<String>> {
        let keys = self.0.keys.now();
        let mut lacking = BTreeSet::new();
        for sql in NEEDED.as_flattened() {
            for row in self.scout(sql, vec![]).await? {
                // One that is damaged says nothing of the ring.
                if let Ok(key) = sealed_by(&row.bytes(0)?)
                    && !keys.ring.holds(&key)
                {
                    lacking.insert(key);
                }
            }
        }
        Ok(lacking)
    }

    /// Goes on with another ring. Gives the id of the key that seals from now on.
    ///
    /// The key that sealed so far must be in it: a ring of another deployment would open nothing.
    pub fn use_ring(&self, ring: KeyRing) -> Result<String, NotAnHeir> {
        let active = self.0.keys.now().ring.active_id().to_owned();
        if !ring.holds(&active) {
            return Err(NotAnHeir(active));
        }
        let next = Arc::new(Keys { tokens: ring.token_keys(), ring });
        let seals = next.ring.active_id().to_owned();
        *self.0.keys.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(seals)
    }
}
