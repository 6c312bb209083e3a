//! One lane in this node's hands: whether it may send, and what.

mod hand;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::super::BEAT;
use super::ready::Ready;
use super::trust::Standing;
use super::turns::TurnTaking;
use super::{BLOCKED, is_left};
use crate::store::{DueDelivery, LaneSettings, LaneState};
use crate::types::delivery::Outcome;
use crate::types::lane::{Breaker, Bucket, Leave, Sign};
use crate::types::{DeliveryId, LaneId, Millis, TenantId};

/// What one turn of a lane is allowed at first, and how many turns are remembered.
const WINDOW: f64 = 10.0;
const PATHS: usize = 256;
/// How long a 429 without `Retry-After` pauses an endpoint's lane the first time in a row, and at the most.
const HINTED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Where several URLs share a lane, it keeps so many slots however badly one of them behaves.
const SHARED_SLOTS: f64 = 4.0;

/// How one turn of a lane, which is one URL, behaves.
#[derive(Debug, Clone, Copy)]
struct Path {
    in_flight: usize,
    /// How many of its requests may be under way.
    window: f64,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) tenant: TenantId,
    /// How many requests may be under way; adapts between 1 and the lane's ceiling.
    slots: f64,
    pub(super) in_flight: usize,
    /// How many of them are retries.
    retrying: usize,
    /// What was handed over and waits in memory for a slot.
    pub(super) in_hand: usize,
    /// What was claimed by then is not taken in hand: something was set since.
    pub(super) emptied_at: Millis,
    pub(super) standing: Standing,
    /// How soon its receiver answers of late.
    answers_in: Duration,
    pub(super) ready: Ready,
    pub(super) turn_taking: TurnTaking,
    /// The store may hold more that is due than is kept in mind.
    pub(super) more: bool,
    /// A turn has nothing in mind any more while others do.
    pub(super) dry: bool,
    /// The store may hold first attempts that are not in mind.
    pub(super) firsts: bool,
    /// Turns of which the store holds more than is in mind.
    pub(super) behind: HashSet<i64>,
    /// Behind which turn the next read of the store looks for others.
    pub(super) turn: Option<i64>,
    /// When the store was last read for it, counted in reads.
    pub(super) fed: u64,
    /// In an ordered lane: the turn of the next one, which waits until then, and all others for it.
    pub(super) waits: Option<(i64, Millis)>,
    paths: HashMap<i64, Path>,
    /// Several URLs have been seen since the lane is owned here.
    shared: bool,
    breaker: Breaker,
    /// The request that shows how the receiver is.
    probe: Option<DeliveryId>,
    /// The receiver asked for a pause until then.
    busy_until: Option<Millis>,
    /// Pauses in a row that it asked for without saying how long.
    hints: u32,
    bucket: Bucket,
    pub(super) set: LaneSettings,
    /// Changed since it was last written down.
    pub(super) dirty: bool,
    /// ... in a way that a node which dies must not take with it.
    pub(super) urgent: bool,
    /// Sends nothing new and is let go once nothing is in flight: another node has room for it.
    pub(super) leaving: bool,
    pub(super) idle_since: Millis,
}

impl Lane {
    pub(super) fn new(state: LaneState, tenant: TenantId, set: LaneSettings, now: Millis) -> Lane {
        let broken = state.opened > 0;
        Lane {
            tenant,
            slots: f64::from(state.concurrency).clamp(1.0, f64::from(set.limits.ceiling())),
            in_flight: 0,
            retrying: 0,
            in_hand: 0,
            emptied_at: Millis::default(),
            standing: if state.failures > 0 { Standing::Failing } else { Standing::Unknown },
            answers_in: Duration::ZERO,
            ready: Ready::default(),
            turn_taking: TurnTaking::None,
            more: true,
            dry: false,
            firsts: false,
            behind: HashSet::new(),
            turn: None,
            fed: 0,
            waits: None,
            paths: HashMap::new(),
            shared: false,
            breaker: Breaker::restore(state.failures, state.opened, state.held_until),
            probe: None,
            busy_until: state.held_until.filter(|_| !broken),
            hints: 0,
            bucket: Bucket::restore(state.rate_at),
            set,
            dirty: false,
            urgent: false,
            leaving: false,
            idle_since: now,
        }
    }

    pub(super) fn state(&self, id: LaneId) -> LaneState {
        let broken = self.broken_until();
        let reason = match (broken, self.busy_until) {
            (Some(broken), Some(busy)) if busy > broken => Some("retry-after"),
            (Some(_), _) => Some("breaker"),
            (None, Some(_)) => Some("retry-after"),
            (None, None) => None,
        };
        LaneState {
            id,
            concurrency: self.slots as u32,
            failures: self.breaker.failures(),
            opened: self.breaker.opened(),
            held_until: self.held_until(),
            held_reason: reason.map(str::to_owned),
            rate_at: self.set.limits.rate_per_second.map(|_| self.bucket.full_at()),
            cleared_at: self.set.cleared_at,
        }
    }

    /// What an answer may change of that.
    fn kept(&self) -> (u32, u32, u32, Option<Millis>) {
        (self.slots as u32, self.breaker.failures(), self.breaker.opened(), self.held_until())
    }

    /// Takes over what was set. What was held starts with one request at a time.
    pub(super) fn set(&mut self, set: LaneSettings, now: Millis) {
        let paused = |set: &LaneSettings| set.paused_until.is_some_and(|until| until > now);
        let mut resumed = paused(&self.set) && !paused(&set);
        if self.set.cleared_at != set.cleared_at {
            resumed |= self.breaker.opened() > 0 || self.busy_until.is_some_and(|until| until > now);
            (self.breaker, self.probe, self.busy_until) = (Breaker::restore(0, 0, None), None, None);
            (self.dirty, self.urgent) = (true, true);
        }
        if resumed {
            self.slots = 1.0;
            self.dirty = true;
        }
        self.slots = self.slots.min(f64::from(set.limits.ceiling()));
        self.waits = None;
        self.set = set;
    }

    /// When it sends again, as far as that is known; an instant that is not later than `now` means at once.
    pub(super) fn opens_at(&self, now: Millis) -> Option<Millis> {
        let broken = match self.breaker.leave(now) {
            Leave::Freely | Leave::Probe => None,
            Leave::At(at) => Some(at),
            Leave::AfterProbe => return None,
        };
        let rate = self.set.limits.rate_per_second.map(|rate| self.bucket.opens_at(rate, now));
        [self.set.paused_until, self.busy_until, broken, rate].into_iter().max().flatten().or(Some(now))
    }

    /// How many requests may begin now.
    pub(super) fn room(&self, now: Millis) -> usize {
        if self.leaving || self.opens_at(now).is_none_or(|at| at > now) {
            return 0;
        }
        match self.breaker.leave(now) {
            Leave::Probe => 1,
            Leave::Freely => (self.slots as usize).saturating_sub(self.in_flight),
            Leave::At(_) | Leave::AfterProbe => 0,
        }
    }

    /// Whether it has something in mind to send, or the store may hold some.
    pub(super) fn has_work(&self) -> bool {
        self.more || !self.ready.is_empty()
    }

    /// Whether it can do nothing with what it may have to send: only time, or a change of its own, helps.
    pub(super) fn is_stuck(&self, now: Millis) -> bool {
        self.room(now) == 0 && !self.has_hand(now)
    }

    /// Whether it could send something that the store may hold.
    pub(super) fn hungry(&self, now: Millis) -> bool {
        let empty = self.ready.is_empty();
        let wants = match self.set.limits.ordered {
            true => {
                empty
                    && self.in_flight == 0
                    && self.waits.is_none_or(|(_, until)| !is_left(until, now, BLOCKED))
            }
            false => empty || self.dry,
        };
        self.more && wants && !self.is_stuck(now)
    }

    /// Whether the store holds something older of its kind that is not in mind, which it would overtake.
    pub(super) fn holds_older(&self, due: &DueDelivery) -> bool {
        self.more && self.behind.contains(&due.turn) && (due.attempt > 0 || self.firsts)
    }

    /// Takes what is sent next, if the lane has fewer than `of_node` slots. Retries leave a quarter of its own to first
    /// attempts, which leave them as many, and one URL leaves it to the others.
    pub(super) fn take(&mut self, now: Millis, retries: bool, of_node: usize) -> Option<DueDelivery> {
        if self.in_flight >= of_node || self.room(now) == 0 {
            return None;
        }
        let (most, share) = self.shares();
        let probing = self.breaker.leave(now) == Leave::Probe;
        let kept = self.in_flight >= most && self.retrying >= (self.slots as usize - most).max(1);
        let first_only = !retries || (kept && !probing);
        let (paths, fresh) = (&self.paths, self.fresh());
        let under_way = |turn| {
            let path = paths.get(&turn).copied().unwrap_or(fresh);
            (probing || path.in_flight < share.min(path.window as usize)).then_some(path.in_flight)
        };
        let taken = self.ready.take(under_way, first_only);
        // Only retries are in mind, and may not go.
        self.dry |= taken.is_none() && first_only && self.firsts && !self.ready.is_empty();
        let (due, dry) = taken?;
        self.dry |= dry;
        self.begin(due.turn, now);
        self.retrying += usize::from(due.attempt > 0);
        let (breaker, probe) = self.breaker.sent(now);
        self.breaker = breaker;
        if probe {
            self.probe = Some(due.id);
        }
        Some(due)
    }

    /// Whether it sends, and not only to see how its receiver is.
    fn is_open(&self, now: Millis) -> bool {
        !self.leaving
            && self.breaker.leave(now) == Leave::Freely
            && self.opens_at(now).is_some_and(|at| at <= now)
    }

    fn is_free(&self, turn: i64, now: Millis, of_node: usize) -> bool {
        let free = self.is_open(now) && self.in_flight < of_node.min(self.slots as usize);
        let path = self.paths.get(&turn).copied().unwrap_or(self.fresh());
        free && path.in_flight < self.shares().1.min(path.window as usize)
    }

    /// How many slots retries may take, and how many one URL.
    fn shares(&self) -> (usize, usize) {
        let slots = self.slots as usize;
        let most = slots - slots / 4;
        (most, if self.shared { most } else { slots })
    }

    /// A turn that nothing is known of.
    fn fresh(&self) -> Path {
        Path { in_flight: 0, window: self.slots.max(WINDOW) }
    }

    /// Notes that there is a turn.
    pub(super) fn seen(&mut self, turn: i64) {
        if self.paths.len() >= PATHS {
            self.paths.retain(|_, path| path.in_flight > 0);
        }
        let fresh = self.fresh();
        self.paths.entry(turn).or_insert(fresh);
        self.shared |= self.paths.len() > 1;
    }

    fn begin(&mut self, turn: i64, now: Millis) {
        self.seen(turn);
        if let Some(path) = self.paths.get_mut(&turn) {
            path.in_flight += 1;
        }
        if let Some(rate) = self.set.limits.rate_per_second {
            self.bucket = self.bucket.take(rate, now);
            self.dirty = true;
        }
        self.in_flight += 1;
        self.idle_since = now;
    }

    /// What had a slot was not sent: it takes nothing of what goes in a second.
    pub(super) fn unsent(&mut self) {
        if let Some(rate) = self.set.limits.rate_per_second {
            self.bucket = self.bucket.give_back(rate);
            self.dirty = true;
        }
    }

    /// A request is over, whatever came of it.
    pub(super) fn end(&mut self, turn: i64, (id, retry): (Option<DeliveryId>, bool), now: Millis) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.retrying = self.retrying.saturating_sub(usize::from(retry));
        self.idle_since = now;
        if let Some(path) = self.paths.get_mut(&turn) {
            path.in_flight = path.in_flight.saturating_sub(1);
        }
        // The next one in order is known only now.
        self.more |= self.set.limits.ordered;
        self.waits = None;
        if id.is_some() && self.probe == id {
            self.probe = None;
            self.breaker = self.breaker.heard(Sign::None, true, now);
        }
    }

    /// What is known of how soon its receiver answers, after a request that took so long.
    pub(super) fn answered(&mut self, outcome: &Outcome, took: Duration) {
        self.standing = self.standing.after(outcome, took);
        if Sign::of(outcome) == Sign::Well {
            let before = if self.answers_in.is_zero() { took } else { self.answers_in };
            self.answers_in = (before * 7 + took) / 8;
        }
    }

    /// What a receiver did shapes its lane: additive increase, multiplicative decrease on trouble, for the
    /// lane and for the URL; 429 and 503 with `Retry-After` pause the lane, and so does an
    /// endpoint's 429 without; failures in a row open its breaker.
    pub(super) fn learn(&mut self, turn: i64, id: DeliveryId, outcome: &Outcome, now: Millis) {
        let before = self.kept();
        let held = self.held_until();
        let probe = self.probe == Some(id);
        if probe {
            self.probe = None;
        }
        let was_open = self.breaker.opened() > 0;
        self.breaker = self.breaker.heard(Sign::of(outcome), probe, now);
        if was_open && self.breaker.opened() == 0 {
            self.slots = 1.0;
        }
        match outcome {
            Outcome::Answered { status: status @ (429 | 503), retry_after, .. } => {
                self.adapt(turn, false);
                // A lane of several URLs goes on: only one of them said so.
                let hint = *status == 429 && (turn == 0 || self.set.limits.ordered);
                if let Some(wait) = retry_after.or_else(|| hint.then(|| self.hinted(now))) {
                    self.busy_until = self.busy_until.max(Some(now.plus(wait)));
                }
            }
            Outcome::Answered { status: 500.., .. } => self.adapt(turn, false),
            Outcome::Answered { .. } => {
                self.adapt(turn, true);
                self.hints = 0;
            }
            Outcome::Failed(fault) if fault.infrastructure() => self.adapt(turn, false),
            Outcome::Failed(_) => {}
        }
        self.busy_until = self.busy_until.filter(|until| *until > now);
        // One more answer as it was expected changes nothing that is written down.
        self.dirty |= self.kept() != before;
        // What is over by the next time that all lanes are written down is not worth a write of its own.
        self.urgent |=
            self.held_until() != held && self.held_until().is_some_and(|until| until > now.plus(BEAT));
    }

    /// How long a 429 that does not say it pauses the lane: a second, and twice as long each time in a row.
    fn hinted(&mut self, now: Millis) -> Duration {
        // Several were under way.
        if self.busy_until.is_some_and(|until| until > now) {
            return Duration::ZERO;
        }
        self.hints += 1;
        HINTED.0.saturating_mul(1 << (self.hints - 1).min(16)).min(HINTED.1)
    }

    fn broken_until(&self) -> Option<Millis> {
        match self.breaker {
            Breaker::Open { until, .. } => Some(until),
            Breaker::Closed { .. } | Breaker::Probing { .. } => None,
        }
    }

    /// Until when nothing is sent, as far as the receiver made it so.
    fn held_until(&self) -> Option<Millis> {
        self.broken_until().max(self.busy_until)
    }

    fn adapt(&mut self, turn: i64, good: bool) {
        let ceiling = f64::from(self.set.limits.ceiling());
        let step = |n: f64, least: f64| if good { n + 1.0 / n } else { (n / 2.0).max(least) };
        let least = if self.shared { SHARED_SLOTS } else { 1.0 };
        self.slots = step(self.slots, least).clamp(1.0, ceiling);
        if let Some(path) = self.paths.get_mut(&turn) {
            path.window = step(path.window, 1.0).clamp(1.0, ceiling.max(1.0));
        }
    }
}
