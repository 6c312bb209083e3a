//! What a node does about its lanes from time to time: a sign of life, how they stand written down, what was set for them,
//! and a pass without a floor over all that owe anything.

use std::time::Duration;

use tokio::time::Instant;

use super::{ALIVE, BEAT, Dispatcher, HEED, HEED_AGAIN};
use crate::store::{LaneState, Result};
use crate::types::{DeliveryId, LaneId, Millis};

/// Lanes that one step of the pass without a floor goes by.
const STIR: u32 = 2_000;
/// So many times as long as a step takes the next one is waited for: claims come first.
const STIR_REST: u32 = 3;

/// How far the pass without a floor has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stir {
    /// Behind which lane its next step begins; None: with the first.
    after: Option<LaneId>,
    /// When that is.
    at: Instant,
    /// It was asked for again meanwhile.
    again: bool,
}

impl Stir {
    /// One more, from the first lane on. One that is under way comes to its end before, or no lane behind would have its turn.
    fn anew(under_way: Option<Stir>) -> Stir {
        match under_way {
            Some(stir) => Stir { again: true, ..stir },
            None => Stir { after: None, at: Instant::now(), again: false },
        }
    }

    /// After a step that began then and came up to that lane; None: to the end.
    fn further(self, began: Instant, after: Option<LaneId>) -> Option<Stir> {
        let at = Instant::now() + began.elapsed() * STIR_REST;
        match after {
            Some(_) => Some(Stir { after, at, ..self }),
            None => self.again.then_some(Stir { after, at, again: false }),
        }
    }

    /// How long its next step is waited for.
    pub(super) fn rests(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

impl Dispatcher {
    /// Every five seconds: a sign of life, lanes written down, a pass without a floor.
    pub(super) async fn beat(&self, now: Millis) -> Result<()> {
        let inner = &self.0;
        let (last, anew) = {
            let looked = inner.looked();
            (looked.beat, looked.anew)
        };
        if !anew && last.is_some_and(|at| now >= at && now.since(at) < BEAT) {
            return Ok(());
        }
        if last.is_some_and(|at| now.since(at) >= ALIVE) {
            // Taken for dead: others may have the lanes by now, and who has them is asked anew.
            inner.lanes().forget();
        }
        inner.store.keep_alive(inner.node, now.plus(ALIVE)).await?;
        inner.store.heed_nodes(now).await?;
        if inner.lanes().crowded() {
            let share = inner.store.fair_share(now).await?;
            inner.lanes().shed(share);
        }
        let save = inner.lanes().to_save(now);
        inner.metrics.lanes_owned(inner.lanes().len());
        self.save(save).await?;
        let mut looked = inner.looked();
        looked.stir = Some(Stir::anew(looked.stir));
        (looked.beat, looked.anew) = (Some(now), false);
        Ok(())
    }

    /// The next step of the pass without a floor, if it is time for one.
    pub(super) async fn stir(&self, now: Millis) -> Result<()> {
        let inner = &self.0;
        let Some(stir) = inner.looked().stir.filter(|stir| stir.rests().is_zero()) else { return Ok(()) };
        let began = Instant::now();
        let (due, after) = inner.store.lanes_due(inner.node, now, stir.after, STIR).await?;
        let unowned = inner.lanes().stir(&due, now);
        self.own(unowned, false, now).await?;
        inner.looked().stir = stir.further(began, after);
        Ok(())
    }

    /// What must not wait for the next beat.
    pub(super) async fn save_urgent(&self) -> Result<()> {
        let save = self.0.lanes().to_save_now();
        self.save(save).await
    }

    /// Writes down how lanes stand, or with the next what cannot be now.
    pub(super) async fn save(&self, lanes: Vec<(LaneState, bool)>) -> Result<()> {
        if lanes.is_empty() {
            return Ok(());
        }
        let saved = self.0.store.save_lanes(self.0.node, &lanes).await;
        self.0.lanes().saved(lanes, saved.as_ref().ok());
        saved.map(drop)
    }

    /// Every second: what someone set for lanes of this node, pauses and limits.
    pub(super) async fn heed(&self, now: Millis) -> Result<()> {
        let inner = &self.0;
        let last = inner.looked().heeded;
        if last.is_some_and(|at| now >= at && now.since(at) < HEED) {
            return Ok(());
        }
        let since = last.unwrap_or(now).min(now).minus(HEED_AGAIN);
        for (lane, set, set_at) in inner.store.lanes_set(inner.node, since).await? {
            inner.lanes().set(lane, set, now);
            // Where this node did it, its hand was emptied at once.
            if !inner.lanes().was_emptied(lane, set_at) {
                inner.empty_hand(lane, set_at);
            }
        }
        inner.looked().heeded = Some(now);
        Ok(())
    }

    /// `offered`: all that is due in them and was not passed over is offered next.
    pub(super) async fn own(&self, of: Vec<(LaneId, DeliveryId)>, offered: bool, now: Millis) -> Result<()> {
        if of.is_empty() {
            return Ok(());
        }
        let inner = &self.0;
        // Those that are not had are asked for again as those of other nodes are.
        let mut owned = inner.store.own_lanes(inner.node, &of, now).await?;
        owned.iter_mut().for_each(|lane| lane.more |= !offered);
        let asked: Vec<LaneId> = of.into_iter().map(|(lane, _)| lane).collect();
        inner.lanes().own(&asked, owned, now);
        Ok(())
    }
}
