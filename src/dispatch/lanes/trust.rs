//! Who gets how many of the node's slots.
//!
//! A receiver that answers gives a slot back within milliseconds, one that hangs after its whole
//! time-out. A node with many of the latter would soon have no slot left, each of them in the hands
//! of a lane that keeps to its own bounds. So lanes that have not answered lately share a part of the
//! node (a half), and those whose last request failed another part (an eighth): with what they may have
//! beyond one each (an eighth again) a quarter of the node is left to lanes that answer. Neither part
//! depends on what the other lanes do, and in each of them turns are taken: nobody waits for ever.

use std::time::Duration;

use super::{NODE_SLOTS, PATIENCE};
use crate::types::delivery::Outcome;
use crate::types::lane::Sign;

/// What is known of how soon a lane gives its slots back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// The slots in the hands of lanes that are not known to answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    unknown: usize,
    failing: usize,
}

impl Held {
    /// How many requests a lane may have under way, while the node has `in_flight`.
    ///
    /// None where those are all it may. A lane that answers takes at most a quarter of what is free, so that a few
    /// that fall silent at once leave something. All others have one, and more only while all of them together have few.
    pub(super) fn share(self, standing: Standing, in_flight: usize) -> usize {
        if in_flight >= NODE_SLOTS {
            return 0;
        }
        let (held, most) = match standing {
            Standing::Answers => return ((NODE_SLOTS - in_flight) / 4).max(1),
            Standing::Unknown => (self.unknown, NODE_SLOTS / 2),
            Standing::Failing => (self.failing, NODE_SLOTS / 8),
        };
        // What an unknown lane has beyond one goes over to the failing ones with it: one bound for both.
        let few = self.unknown + self.failing < NODE_SLOTS / 8;
        if few { NODE_SLOTS } else { usize::from(held < most) }
    }

    /// Whether these are fewer than `before`, so that more may be taken.
    pub(super) fn eases(self, before: Held) -> bool {
        self.unknown < before.unknown || self.failing < before.failing
    }

    pub(super) fn take(&mut self, standing: Standing, slots: usize) {
        if let Some(held) = self.of(standing) {
            *held += slots;
        }
    }

    pub(super) fn give_back(&mut self, standing: Standing, slots: usize) {
        if let Some(held) = self.of(standing) {
            *held = held.saturating_sub(slots);
        }
    }

    fn of(&mut self, standing: Standing) -> Option<&mut usize> {
        match standing {
            Standing::Answers => None,
            Standing::Unknown => Some(&mut self.unknown),
            Standing::Failing => Some(&mut self.failing),
        }
    }
}
