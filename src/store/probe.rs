//! An event for one endpoint, sent at once by who asks for it.

use serde::Serialize;

use super::Store;
use super::emit::{NewDelivery, Outbox, To};
use super::error::{Error, Result};
use super::model::ClaimedDelivery;
use crate::types::Millis;
use crate::types::endpoint::Endpoint;
use crate::types::retry::RetryPolicy;

/// What a test of an endpoint tells it.
pub const TEST: &str = "webhook.test";
/// What asks an endpoint to echo a challenge.
pub const VERIFY: &str = "webhook.verify";

/// The two as SQL lists them.
macro_rules! probes {
    () => {
        "'webhook.test', 'webhook.verify'"
    };
}
pub(super) use probes;

impl Store {
    /// Stores an event for this endpoint alone, whatever it subscribes to and however it stands, with a delivery that
    /// is born in the caller's hands: its one attempt is committed to, to be sent now and recorded.
    pub async fn begin_probe<D: Serialize>(
        &self,
        endpoint: &Endpoint,
        kind: &'static str,
        data: &D,
        now: Millis,
    ) -> Result<ClaimedDelivery> {
        let mut tx = self.0.writers.begin().await?;
        let mut out = Outbox::new(&self.0, now);
        let new = NewDelivery {
            signer: Some(endpoint.id),
            policy: RetryPolicy { max_attempts: 1, ..endpoint.settings.retry },
            born: Some(self.0.dice.id(now)),
            ..NewDelivery::of(endpoint.tenant, To::Endpoint(endpoint))
        };
        out.notice(kind, data, new)?;
        let claimed = out.born().ok_or_else(|| Error::Bug("nothing was born".to_owned()))?;
        out.write(&mut tx).await?;
        tx.commit().await?;
        Ok(claimed)
    }
}
