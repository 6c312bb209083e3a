//! Whose turn it is, where tenants are served one after the other.

use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

/// The tenant that this node served last. The one behind it has its turn next, however much is left of this one.
#[derive(Default)]
pub(super) struct LastTenant(Mutex<Uuid>);

impl LastTenant {
    /// Nil where none was served yet.
    pub(super) fn get(&self) -> Uuid {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It had its turn.
    pub(super) fn set(&self, tenant: Uuid) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = tenant;
    }
}
