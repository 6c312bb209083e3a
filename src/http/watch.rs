//! One look for all: which of the jobs that someone watches at this node have moved.
//!
//! A thousand streams must not ask the store a thousand times. They register what they watch and how far
//! they are; one loop asks for all of them in one statement, on a nudge or after a while, and rings only
//! those whose job is ahead of them. What is rung and not answered is rung again, so no news is lost.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::app::App;
use super::problem::Problem;
use crate::store::Standing;
use crate::types::JobId;
use crate::types::problem::ProblemCode;

/// The shortest time between two looks: under load every commit nudges.
const GAP: Duration = Duration::from_millis(10);
/// The longest on a shared store, where another node's change brings no nudge.
const SHARED: Duration = Duration::from_millis(80);
/// The same where every change comes from this process: only a lost nudge is made good.
const ALONE: Duration = Duration::from_secs(1);
/// Jobs in one statement.
const BITE: usize = 10_000;
/// Jobs watched at once by all of a node's clients.
const WATCHED_MAX: usize = 200_000;

/// Who watches what. Cheap to clone.
#[derive(Clone, Default)]
pub struct Hub(Arc<Inner>);

#[derive(Default)]
struct Inner {
    watched: Mutex<HashMap<JobId, Vec<Place>>>,
    /// Somebody watches something.
    begun: Notify,
}

/// One watcher of one job.
struct Place {
    bell: Arc<Bell>,
    /// The last sequence it has.
    seen: i64,
}

/// Where a watcher is told of its jobs; it holds each of them once at most.
#[derive(Default)]
struct Bell {
    rung: Mutex<BTreeMap<JobId, Option<Standing>>>,
    news: Notify,
}

impl Bell {
    fn ring(&self, id: JobId, standing: Option<Standing>) {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).insert(id, standing);
        self.news.notify_one();
    }

    fn answer(&self) -> Option<(JobId, Option<Standing>)> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).pop_first()
    }
}

impl Hub {
    /// A watcher of nothing yet.
    pub fn watcher(&self) -> Watcher {
        Watcher { hub: self.clone(), bell: Arc::default(), jobs: HashSet::new() }
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<JobId, Vec<Place>>) -> T) -> T {
        act(&mut self.0.watched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ids(&self) -> Vec<JobId> {
        self.with(|watched| watched.keys().copied().collect())
    }

    /// Rings whoever is behind what was found of `asked`.
    fn tell(&self, asked: &[JobId], found: &[Standing]) {
        let found: HashMap<JobId, Standing> = found.iter().map(|one| (one.id, *one)).collect();
        self.with(|watched| {
            for id in asked {
                let standing = found.get(id).copied();
                for place in watched.get(id).into_iter().flatten() {
                    if standing.is_none_or(|now| now.ended || now.sequence > place.seen) {
                        place.bell.ring(*id, standing);
                    }
                }
            }
        });
    }

    /// Waits until somebody watches something.
    async fn begun(&self) {
        loop {
            let begun = self.0.begun.notified();
            if self.with(|watched| !watched.is_empty()) {
                return;
            }
            begun.await;
        }
    }
}

/// Watches jobs until it is dropped.
pub struct Watcher {
    hub: Hub,
    bell: Arc<Bell>,
    jobs: HashSet<JobId>,
}

impl Watcher {
    /// Watches a job, or goes on doing so, having seen its events up to `seen`.
    ///
    /// To be called before the first look at the job, so that nothing is missed after it.
    pub fn watch(&mut self, id: JobId, seen: i64) -> Result<(), Problem> {
        let new = !self.jobs.contains(&id);
        self.hub.with(|watched| {
            if new && watched.len() >= WATCHED_MAX && !watched.contains_key(&id) {
                return Err(Problem::new(ProblemCode::ServiceOverloaded)
                    .detail(format!("this node watches {WATCHED_MAX} jobs already")));
            }
            let places = watched.entry(id).or_default();
            match places.iter_mut().find(|place| Arc::ptr_eq(&place.bell, &self.bell)) {
                Some(place) => place.seen = seen,
                None => places.push(Place { bell: self.bell.clone(), seen }),
            }
            Ok(())
        })?;
        if new {
            self.jobs.insert(id);
            self.hub.0.begun.notify_one();
        }
        Ok(())
    }

    /// Watches the job no longer.
    pub fn leave(&mut self, id: JobId) {
        if self.jobs.remove(&id) {
            self.hub.with(|watched| strike(watched, id, &self.bell));
        }
    }

    /// A job that is ahead of what was seen of it, or has ended; None of it if it is gone.
    ///
    /// Cancelled it loses nothing.
    pub async fn moved(&self) -> (JobId, Option<Standing>) {
        loop {
            if let Some(news) = self.bell.answer() {
                return news;
            }
            self.bell.news.notified().await;
        }
    }

    /// Waits until the watcher's only job is beyond `sequence`, has ended or is gone.
    pub async fn passed(&self, sequence: i64) {
        while self.moved().await.1.is_some_and(|now| !now.ended && now.sequence <= sequence) {}
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.hub.with(|watched| self.jobs.iter().for_each(|id| strike(watched, *id, &self.bell)));
    }
}

fn strike(watched: &mut HashMap<JobId, Vec<Place>>, id: JobId, bell: &Arc<Bell>) {
    let Some(places) = watched.get_mut(&id) else { return };
    places.retain(|place| !Arc::ptr_eq(&place.bell, bell));
    if places.is_empty() {
        watched.remove(&id);
    }
}

/// The loop: looks for all watchers of this node, until `stop`.
pub async fn watch(app: App, stop: CancellationToken) {
    let _ = stop.run_until_cancelled(keep_looking(&app)).await;
}

async fn keep_looking(app: &App) {
    let longest = if app.store.is_shared() { SHARED } else { ALONE };
    loop {
        app.hub.begun().await;
        // Registered before the look: a nudge during it is not missed.
        let nudge = app.wake.events.listen();
        let began = app.real.now();
        if let Err(e) = look(app).await {
            tracing::warn!(error = %e, "cannot ask the store for the jobs that are watched");
        }
        // A look over many jobs takes its time, and must leave the store as much.
        let gap = app.real.now().since(began).clamp(GAP, SHARED);
        tokio::time::sleep(gap).await;
        nudge.wait(longest.saturating_sub(gap)).await;
    }
}

async fn look(app: &App) -> crate::store::Result<()> {
    for bite in app.hub.ids().chunks(BITE) {
        app.hub.tell(bite, &app.store.standings(bite).await?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Millis;

    fn job(n: u8) -> JobId {
        JobId::mint(Millis(0), [n; 10])
    }

    fn at(n: u8, sequence: i64, ended: bool) -> Standing {
        Standing { id: job(n), sequence, ended }
    }

    #[test]
    fn only_those_are_rung_whose_job_is_ahead_of_them_or_at_its_end() {
        let hub = Hub::default();
        let (mut one, mut two) = (hub.watcher(), hub.watcher());
        one.watch(job(1), 3).unwrap();
        two.watch(job(1), 4).unwrap();
        two.watch(job(2), 9).unwrap();

        hub.tell(&[job(1), job(2)], &[at(1, 4, false), at(2, 2, true)]);

        assert_eq!(one.bell.answer(), Some((job(1), Some(at(1, 4, false)))));
        assert_eq!(two.bell.answer(), Some((job(2), Some(at(2, 2, true)))));
        assert!(one.bell.answer().is_none() && two.bell.answer().is_none());
        one.watch(job(1), 4).unwrap();
        hub.tell(&[job(1)], &[at(1, 4, false)]);
        assert!(one.bell.answer().is_none(), "it has what there is");
        hub.tell(&[job(1)], &[]);
        assert_eq!(one.bell.answer(), Some((job(1), None)), "gone");
    }

    #[test]
    fn who_leaves_is_forgotten() {
        let hub = Hub::default();
        let (mut one, mut two) = (hub.watcher(), hub.watcher());
        one.watch(job(1), 0).unwrap();
        one.watch(job(2), 0).unwrap();
        two.watch(job(1), 0).unwrap();
        assert_eq!(hub.ids().len(), 2);
        one.leave(job(2));
        assert_eq!(hub.ids(), [job(1)]);
        drop(one);
        assert_eq!(hub.ids(), [job(1)]);
        drop(two);
        assert!(hub.ids().is_empty());
    }

    #[tokio::test]
    async fn news_between_two_waits_are_kept() {
        let hub = Hub::default();
        let mut watcher = hub.watcher();
        watcher.watch(job(1), 0).unwrap();
        hub.tell(&[job(1)], &[at(1, 1, false)]);
        hub.tell(&[job(1)], &[at(1, 2, false)]);
        assert_eq!(watcher.moved().await, (job(1), Some(at(1, 2, false))), "the newest, once");
        let waits = tokio::time::timeout(Duration::from_millis(20), watcher.moved());
        assert!(waits.await.is_err());
    }
}
