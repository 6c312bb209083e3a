//! One attempt of a delivery that is in hand, whoever claimed it.

use std::time::Duration;

use super::Options;
use super::attempt::{self, Tools};
use crate::clock::Clock;
use crate::egress::{BootTime, Sender};
use crate::store::{Attempted, ClaimedDelivery, Store};

/// Signs, sends and judges. Cheap to clone.
#[derive(Clone)]
pub struct Courier {
    store: Store,
    sender: Sender,
    clock: Clock,
    options: Options,
}

impl Courier {
    /// A courier over one egress policy.
    pub fn new(store: Store, sender: Sender, clock: Clock, options: Options) -> Courier {
        Courier { store, sender, clock, options }
    }

    /// Makes the attempt; its caller records it.
    pub async fn attempt(&self, d: &ClaimedDelivery) -> Attempted {
        let left = d.lease_until.since(self.clock.now());
        // The lease must outlast the attempt, which ends a deadline from now wherever it spends the time;
        // what is late is left to whoever claims it next.
        let deadline = d.endpoint.as_ref().map_or(self.options.deadline, |to| to.timeout);
        let needed = deadline + self.options.margin / 2;
        let spare = if left >= needed { left - self.options.margin / 2 } else { Duration::ZERO };
        let tools = Tools {
            store: &self.store,
            sender: &self.sender,
            policy: &self.options.policy,
            deadline,
            not_after: BootTime::now().plus(spare),
        };
        attempt::attempt(&tools, d, || self.clock.now()).await
    }
}
