//! Which of the jobs that someone watches at this node have moved.
//!
//! A thousand streams must not ask the store a thousand times. They register what they watch and how far
//! they are. The store says after each commit of this node which jobs moved, and whoever is behind is rung. What
//! other nodes change one loop asks for, for all that is watched in one statement. What is rung and not answered
//! is rung again by that loop, so no news is lost.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::app::App;
use super::feed::{self, Heads};
use super::problem::Problem;
use crate::store::{Observer, Standing};
use crate::types::JobId;
use crate::types::problem::ProblemCode;

/// Between two looks on a shared store, which other nodes change too.
pub const SHARED: Duration = Duration::from_millis(60);
/// The same where every change comes from this process: only what the store could not say is made good.
pub const ALONE: Duration = Duration::from_secs(1);
/// Jobs in one statement.
const BITE: usize = 10_000;
/// What all of a node's clients watch at once, and who watches one job besides; two that watch the same job count twice.
const WATCHED_MAX: usize = 200_000;

/// Who watches what. Cheap to clone.
#[derive(Clone, Default)]
pub struct Hub(Arc<Inner>);

#[derive(Default)]
struct Inner {
    watched: Mutex<Watched>,
    /// Somebody watches something.
    begun: Notify,
    /// The number of the next watcher.
    next: AtomicU64,
    /// The feeds move with the jobs.
    feeds: Heads,
}

/// By job and then by watcher, so that thousands may watch one job and come and go in any order.
type Watched = BTreeMap<(JobId, u64), Place>;

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
    /// A look may have begun before the commit that was told already: the further standing counts, and a job
    /// that is gone stays so.
    fn ring(&self, id: JobId, standing: Option<Standing>) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let known = rung.entry(id).or_insert(standing);
        if let (Some(before), Some(now)) = (&*known, standing)
            && before.sequence > now.sequence
        {
            return;
        }
        *known = known.and(standing);
        drop(rung);
        self.news.notify_one();
    }

    fn answer(&self) -> Option<(JobId, Option<Standing>)> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).pop_first()
    }
}

impl Hub {
    /// The feeds of this node.
    pub fn feeds(&self) -> Heads {
        self.0.feeds.clone()
    }

    /// A watcher of nothing yet.
    pub fn watcher(&self) -> Watcher {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        Watcher { hub: self.clone(), number, bell: Arc::default(), jobs: HashSet::new() }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Watched) -> T) -> T {
        act(&mut self.0.watched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Each watched job, and how far the last of its watchers is.
    fn seen(&self) -> Vec<(JobId, i64)> {
        self.with(|watched| {
            let mut all: Vec<(JobId, i64)> = Vec::with_capacity(watched.len());
            for ((id, _), place) in watched {
                match all.last_mut() {
                    Some((last, seen)) if last == id => *seen = (*seen).min(place.seen),
                    Some(_) | None => all.push((*id, place.seen)),
                }
            }
            all
        })
    }

    /// Rings whoever is behind.
    fn tell(&self, news: impl IntoIterator<Item = (JobId, Option<Standing>)>) {
        self.with(|watched| {
            for (id, standing) in news {
                for (_, place) in watched.range((id, 0)..=(id, u64::MAX)) {
                    if standing.is_none_or(|now| now.ended || now.sequence > place.seen) {
                        place.bell.ring(id, standing);
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

impl Observer for Hub {
    fn moved(&self, jobs: &[Standing]) {
        self.tell(jobs.iter().map(|one| (one.id, Some(*one))));
        if !jobs.is_empty() {
            self.0.feeds.nudge();
        }
    }
}

/// Watches jobs until it is dropped.
pub struct Watcher {
    hub: Hub,
    number: u64,
    bell: Arc<Bell>,
    jobs: HashSet<JobId>,
}

impl Watcher {
    /// Watches a job, or goes on doing so, having seen its events up to `seen`.
    ///
    /// To be called before the first look at the job, so that nothing is missed after it. The only job of a watcher is watched
    /// however many are: those who wait for one have a connection each, and what a tenant follows over sockets must not end their
    /// waits.
    pub fn watch(&mut self, id: JobId, seen: i64) -> Result<(), Problem> {
        let new = !self.jobs.contains(&id);
        self.hub.with(|watched| {
            if new && !self.jobs.is_empty() && watched.len() >= WATCHED_MAX {
                return Err(Problem::new(ProblemCode::ServiceOverloaded)
                    .detail(format!("this node watches {WATCHED_MAX} jobs already")));
            }
            watched.insert((id, self.number), Place { bell: self.bell.clone(), seen });
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
            self.hub.with(|watched| watched.remove(&(id, self.number)));
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
        self.hub.with(|watched| {
            for id in &self.jobs {
                watched.remove(&(*id, self.number));
            }
        });
    }
}

/// The loop: looks for all watchers of this node, until `stop`.
pub async fn watch(app: App, stop: CancellationToken) {
    let both = async { tokio::join!(keep_looking(&app), feed::keep_looking(&app)) };
    let _ = stop.run_until_cancelled(both).await;
}

async fn keep_looking(app: &App) {
    let every = if app.store.is_shared() { SHARED } else { ALONE };
    loop {
        app.hub.begun().await;
        let began = app.real.now();
        if let Err(e) = look(app).await {
            tracing::warn!(error = %e, "cannot ask the store for the jobs that are watched");
        }
        // A look over many jobs takes its time, and must leave the store as much.
        let took = app.real.now().since(began);
        tokio::time::sleep(every.saturating_sub(took).max(took)).await;
    }
}

async fn look(app: &App) -> crate::store::Result<()> {
    for bite in app.hub.seen().chunks(BITE) {
        app.hub.tell(app.store.standings(bite).await?);
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

    fn told(n: u8, sequence: i64, ended: bool) -> (JobId, Option<Standing>) {
        (job(n), Some(at(n, sequence, ended)))
    }

    #[test]
    fn only_those_are_rung_whose_job_is_ahead_of_them_or_at_its_end() {
        let hub = Hub::default();
        let (mut one, mut two) = (hub.watcher(), hub.watcher());
        one.watch(job(1), 3).unwrap();
        two.watch(job(1), 4).unwrap();
        two.watch(job(2), 9).unwrap();
        assert_eq!(hub.seen(), [(job(1), 3), (job(2), 9)]);

        hub.moved(&[at(1, 4, false), at(2, 2, true), at(3, 1, false)]);

        assert_eq!(one.bell.answer(), Some(told(1, 4, false)));
        assert_eq!(two.bell.answer(), Some(told(2, 2, true)));
        assert!(one.bell.answer().is_none() && two.bell.answer().is_none());
        one.watch(job(1), 4).unwrap();
        hub.moved(&[at(1, 4, false)]);
        assert!(one.bell.answer().is_none(), "it has what there is");
        hub.tell([(job(1), None)]);
        assert_eq!(one.bell.answer(), Some((job(1), None)), "gone");
    }

    #[test]
    fn an_older_look_takes_nothing_back() {
        let hub = Hub::default();
        let mut one = hub.watcher();
        one.watch(job(1), 1).unwrap();
        hub.moved(&[at(1, 5, true)]);
        hub.tell([told(1, 3, false)]);
        assert_eq!(one.bell.answer(), Some(told(1, 5, true)));
        hub.tell([(job(1), None), told(1, 5, true)]);
        assert_eq!(one.bell.answer(), Some((job(1), None)));
    }

    #[test]
    fn who_watches_one_job_has_a_place_however_many_are_watched() {
        let hub = Hub::default();
        let mut many = hub.watcher();
        for n in 0..200_000 {
            many.watch(JobId::mint(Millis(n), [0; 10]), 0).unwrap();
        }
        assert!(many.watch(job(1), 0).is_err());
        let mut one = hub.watcher();
        one.watch(job(1), 0).unwrap();
        one.watch(job(1), 1).unwrap();
        assert!(one.watch(job(2), 0).is_err());
    }

    #[test]
    fn who_leaves_is_forgotten() {
        let hub = Hub::default();
        let (mut one, mut two) = (hub.watcher(), hub.watcher());
        one.watch(job(1), 0).unwrap();
        one.watch(job(2), 0).unwrap();
        two.watch(job(1), 2).unwrap();
        assert_eq!(hub.seen(), [(job(1), 0), (job(2), 0)]);
        one.leave(job(2));
        assert_eq!(hub.seen(), [(job(1), 0)]);
        drop(one);
        assert_eq!(hub.seen(), [(job(1), 2)]);
        drop(two);
        assert!(hub.seen().is_empty());
    }

    #[tokio::test]
    async fn news_between_two_waits_are_kept() {
        let hub = Hub::default();
        let mut watcher = hub.watcher();
        watcher.watch(job(1), 0).unwrap();
        hub.moved(&[at(1, 1, false)]);
        hub.moved(&[at(1, 2, false)]);
        assert_eq!(watcher.moved().await, (job(1), Some(at(1, 2, false))), "the newest, once");
        let waits = tokio::time::timeout(Duration::from_millis(20), watcher.moved());
        assert!(waits.await.is_err());
    }
}
