//! The key ring of a running store, which may be changed under it.

use std::sync::{Arc, PoisonError, RwLock};

use super::Store;
use super::seal::KeyRing;
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

impl Store {
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
