//! Keeps one lease while its job runs, and learns when the work is to be stopped.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::task::Mark;
use super::{Failure, Reply, over, passing, whole_seconds};
use crate::client::{self, Client, Error};
use crate::types::key::LeaseToken;
use crate::types::{JobId, api};

/// How long a handler whose result nobody wants may take to stop before it is dropped.
const PATIENCE: Duration = Duration::from_secs(8);
/// The longest between two heartbeats: a cancel that its holder does not confirm within 30 s is enforced.
const BEAT: Duration = Duration::from_secs(20);
/// How long a heartbeat is waited for: a quarter of the lease, within these.
const ANSWER_MIN: Duration = Duration::from_secs(1);
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Progress is sent at most so often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Beats until it is dropped. In a task of its own, so that a handler which is slow to yield keeps its lease.
pub(super) struct Keeper {
    lost: CancellationToken,
    reporting: CancellationToken,
    _beating: AbortOnDropHandle<()>,
}

impl Keeper {
    /// Starts to beat every third of `lease`, every 20 s at least; fires `stop` when the client cancels or the lease is lost.
    pub(super) fn start(
        client: &Client,
        id: JobId,
        token: LeaseToken,
        lease: Duration,
        marks: watch::Receiver<Mark>,
        stop: CancellationToken,
    ) -> Keeper {
        let (lost, reporting) = (CancellationToken::new(), CancellationToken::new());
        let (on_lost, on_report) = (lost.clone(), reporting.clone());
        let heart = Heart {
            client: client.clone(),
            id,
            token,
            lease,
            marks,
            stop,
            lost: on_lost,
            reporting: on_report,
        };
        Keeper { lost, reporting, _beating: AbortOnDropHandle::new(tokio::spawn(heart.beat())) }
    }

    /// From now on it only holds the lease, for as long as the report takes: what the handler said last is told by that.
    pub(super) fn report(&self) {
        self.reporting.cancel();
    }

    /// Fires when the lease is lost.
    pub(super) fn lost(&self) -> &CancellationToken {
        &self.lost
    }
}

struct Heart {
    client: Client,
    id: JobId,
    token: LeaseToken,
    lease: Duration,
    marks: watch::Receiver<Mark>,
    stop: CancellationToken,
    lost: CancellationToken,
    reporting: CancellationToken,
}

impl Heart {
    async fn beat(mut self) {
        let usual = usual(self.lease);
        let mut every = usual;
        loop {
            // News of the handler goes out at once, the next ones not before this pause is over.
            let rest = rest(every);
            self.news(every - rest).await;
            match self.beat_once().await {
                Ok(alive) => {
                    every = usual;
                    if alive.cancel_requested {
                        self.stop.cancel();
                    }
                }
                // The report came first, and its answer is on its way.
                Err(error) if over(&error) && self.reporting.is_cancelled() => return,
                Err(error) if over(&error) => {
                    tracing::warn!(job.id = %self.id, "the lease is lost: {error}");
                    self.lost.cancel();
                    self.stop.cancel();
                    return;
                }
                // While nobody can reach the service nobody else can get the job: go on, and knock more often.
                Err(error) => {
                    tracing::warn!(job.id = %self.id, "no heartbeat: {error}");
                    every = hurried(self.lease);
                }
            }
            tokio::time::sleep(rest).await;
        }
    }

    /// One heartbeat, with the handler's last word; a word that is refused must not cost the lease.
    async fn beat_once(&mut self) -> Result<api::Alive, Error> {
        let mark = self.marks.borrow_and_update().clone();
        match self.tell(mark).await {
            Err(error) if !passing(&error) && !over(&error) => {
                tracing::warn!(job.id = %self.id, "the progress was refused: {error}");
                self.tell(Mark::default()).await
            }
            told => told,
        }
    }

    async fn tell(&self, mark: Mark) -> Result<api::Alive, Error> {
        let beat = api::Heartbeat {
            lease_token: self.token,
            progress: mark.percent,
            message: mark.message,
            extend_seconds: Some(whole_seconds(self.lease)),
        };
        client::within(patience(self.lease), self.client.heartbeat(self.id, &beat)).await
    }

    /// Waits for a word of the handler, `longest` at the most.
    async fn news(&mut self, longest: Duration) {
        let news = async {
            let heard = self.reporting.run_until_cancelled(self.marks.changed()).await;
            if !matches!(heard, Some(Ok(()))) {
                // The handler has ended or let go of its Progress; only time counts now.
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout(longest, news).await;
    }
}

/// Between two heartbeats.
fn usual(lease: Duration) -> Duration {
    (lease / 3).min(BEAT)
}

/// Between two where the last one was not answered.
fn hurried(lease: Duration) -> Duration {
    usual(lease) / 3
}

/// How much of the time between two nothing is told in.
fn rest(every: Duration) -> Duration {
    PROGRESS_EVERY.min(every / 2)
}

/// How long one is waited for: one that hangs must leave the lease time for another.
fn patience(lease: Duration) -> Duration {
    (lease / 4).clamp(ANSWER_MIN, ANSWER_MAX).min(lease / 3)
}

/// Runs the handler to its end. `None` if it was stopped and did not come to one in time.
///
/// A cancelled job may take as long as its lease holds: its handler may still complete it.
pub(super) async fn watch(
    hurry: &CancellationToken,
    stop: &CancellationToken,
    lost: &CancellationToken,
    work: impl Future<Output = Result<Reply, Failure>>,
) -> Option<Result<Reply, Failure>> {
    let unwanted = async {
        tokio::select! {
            () = hurry.cancelled() => stop.cancel(),
            () = lost.cancelled() => {}
        }
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        ended = work => Some(ended),
        () = unwanted => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_that_hangs_leaves_time_for_another() {
        for lease in [1, 2, 3, 4, 6, 9, 30, 60, 3_600].map(Duration::from_secs) {
            let (usual, hurried) = (usual(lease), hurried(lease));
            let next = usual + patience(lease) + rest(usual) + (hurried - rest(hurried));
            assert!(next < lease * 9 / 10, "{lease:?}: {next:?}");
        }
    }

    #[test]
    fn one_that_fails_is_followed_sooner_than_one_that_does_not() {
        for lease in [1, 2, 3, 9, 30, 3_600].map(Duration::from_secs) {
            assert!(hurried(lease) < usual(lease), "{lease:?}");
        }
        let rhythm = |seconds| {
            let lease = Duration::from_secs(seconds);
            [usual(lease), hurried(lease), patience(lease)].map(|time| time.as_millis())
        };
        assert_eq!(rhythm(1), [333, 111, 333]);
        assert_eq!(rhythm(30), [10_000, 3_333, 7_500]);
        assert_eq!(rhythm(3_600), [20_000, 6_666, 30_000]);
    }
}
