//! Who gets how many of the node's slots.
//!
//! A receiver that answers gives a slot back within milliseconds, one that hangs after its whole
//! time-out. A node with many of the latter would soon have no slot left, each of them in the hands
//! of a lane that keeps to its own bounds. So lanes that have not answered lately share a part of the
//! node (a half), and those whose last request failed another part (an eighth): with what they may have
//! beyond one each (an eighth again) a quarter of the node is left to lanes that answer. Neither part
//! depends on what the other lanes do, and in each of them turns are taken: nobody waits for ever.
//!
//! A tenant has no more than three times what it leaves free of such a part. So what is new of others finds a slot,
//! however many receivers of one hang, and none has to be kept for tenants that have nothing to send.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use super::{NODE_SLOTS, PATIENCE};
use crate::types::TenantId;
use crate::types::delivery::Outcome;
use crate::types::lane::Sign;

/// What is known of how soon a lane gives its slots back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Standing {
    /// Its last answer came soon, and nothing has been waited for since.
    Answers,
    /// Nothing was heard of it yet, or it takes its time.
    Unknown,
    /// Its last request was not answered.
    Failing,
}

impl Standing {
    /// After a request that came to `outcome`.
    pub(super) fn after(self, outcome: &Outcome, took: Duration) -> Standing {
        match Sign::of(outcome) {
            Sign::Well if took < PATIENCE => Standing::Answers,
            Sign::Well => Standing::Unknown,
            Sign::Down => Standing::Failing,
            Sign::None => self,
        }
    }

    /// While a request is under way that takes long.
    pub(super) fn waiting(self) -> Standing {
        match self {
            Standing::Answers | Standing::Unknown => Standing::Unknown,
            Standing::Failing => Standing::Failing,
        }
    }
}

/// Slots in the hands of lanes that are not known to answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Slots {
    unknown: usize,
    failing: usize,
}

impl Slots {
    /// Whether these are fewer than `before`, so that more may be taken.
    pub(super) fn eases(self, before: Slots) -> bool {
        self.unknown < before.unknown || self.failing < before.failing
    }

    fn of(&mut self, standing: Standing) -> Option<&mut usize> {
        match standing {
            Standing::Answers => None,
            Standing::Unknown => Some(&mut self.unknown),
            Standing::Failing => Some(&mut self.failing),
        }
    }
}

/// The same, all of them and by tenant.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    all: Slots,
    /// Those that have some.
    tenants: HashMap<TenantId, Slots>,
}

impl Held {
    /// How many requests a lane of `tenant` may have under way, while the node has `in_flight`.
    ///
    /// None where those are all it may. A lane that answers takes at most a quarter of what is free, so that a few
    /// that fall silent at once leave something. All others have one, and more only while all of them together have few.
    pub(super) fn share(&self, tenant: TenantId, standing: Standing, in_flight: usize) -> usize {
        if in_flight >= NODE_SLOTS {
            return 0;
        }
        let own = || self.tenants.get(&tenant).copied().unwrap_or_default();
        let (own, held, most) = match standing {
            Standing::Answers => return ((NODE_SLOTS - in_flight) / 4).max(1),
            Standing::Unknown => (own().unknown, self.all.unknown, NODE_SLOTS / 2),
            Standing::Failing => (own().failing, self.all.failing, NODE_SLOTS / 8),
        };
        // What an unknown lane has beyond one goes over to the failing ones with it: one bound for both.
        let few = self.all.unknown + self.all.failing < NODE_SLOTS / 8;
        match own < most.saturating_sub(held) * 3 {
            true if few => NODE_SLOTS,
            free => usize::from(free),
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> Slots {
        self.all
    }

    pub(super) fn take(&mut self, tenant: TenantId, standing: Standing, slots: usize) {
        let Some(held) = self.all.of(standing).filter(|_| slots > 0) else { return };
        *held += slots;
        if let Some(held) = self.tenants.entry(tenant).or_default().of(standing) {
            *held += slots;
        }
    }

    pub(super) fn give_back(&mut self, tenant: TenantId, standing: Standing, slots: usize) {
        let Some(held) = self.all.of(standing) else { return };
        *held = held.saturating_sub(slots);
        let Entry::Occupied(mut entry) = self.tenants.entry(tenant) else { return };
        if let Some(held) = entry.get_mut().of(standing) {
            *held = held.saturating_sub(slots);
        }
        if *entry.get() == Slots::default() {
            entry.remove();
        }
    }
}
