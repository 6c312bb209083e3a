//! What one push queue has in flight, and when it may take more.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::{Holding, JobChange, Right, What};
use crate::types::delivery::Outcome;
use crate::types::key::LeaseToken;
use crate::types::push::{is_away, slows_down};
use crate::types::{JobId, Millis, TenantId};

/// The longest pause because the worker is away: 1 s, doubling up to this.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Between two requests that find out whether it is back.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// One claim of one job: the job and the fence.
pub(super) type Hold = (JobId, i64);

/// A request under way.
pub(super) struct Running {
    pub(super) tenant: TenantId,
    pub(super) token: LeaseToken,
    /// When the lease was last renewed.
    pub(super) renewed: Instant,
    /// Drops the request.
    pub(super) drop: CancellationToken,
}

/// The state of one queue on this node.
#[derive(Default)]
pub(super) struct Desk {
    running: HashMap<Hold, Running>,
    /// The tenant that was served last.
    pub(super) turn: Option<TenantId>,
    /// The worker asked for it.
    slowed_until: Option<Millis>,
    /// Requests in a row that nobody answered, and until when none is made for it.
    failures: u32,
    paused_until: Option<Millis>,
    /// Meanwhile one request at a time finds out whether it is back.
    probed_until: Option<Millis>,
}

impl Desk {
    /// How many jobs may be claimed now.
    pub(super) fn free(&self, most: usize, now: Millis) -> usize {
        let waits = |until: Option<Millis>| until.is_some_and(|at| at > now);
        if waits(self.slowed_until) || waits(self.paused_until) || waits(self.probed_until) {
            return 0;
        }
        let room = most.saturating_sub(self.running.len());
        // While the worker is away each try costs a job an attempt.
        if self.failures > 0 { room.min(1) } else { room }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.running.len()
    }

    pub(super) fn start(&mut self, hold: Hold, running: Running, now: Millis) {
        if self.failures > 0 {
            self.probed_until = Some(now.plus(PROBE_EVERY));
        }
        self.running.insert(hold, running);
    }

    pub(super) fn done(&mut self, hold: Hold) {
        self.running.remove(&hold);
    }

    /// What an outcome says about the worker.
    pub(super) fn learn(&mut self, outcome: &Outcome, now: Millis) {
        if let Some(wait) = slows_down(outcome) {
            self.slowed_until = self.slowed_until.max(Some(now.plus(wait)));
        }
        match is_away(outcome) {
            Some(false) => {
                (self.failures, self.paused_until, self.probed_until) = (0, None, None);
            }
            // Those that failed together count once.
            Some(true) if self.paused_until.is_none_or(|at| at <= now) => {
                self.failures = self.failures.saturating_add(1);
                let pause = Duration::from_secs(1 << (self.failures - 1).min(5)).min(PAUSE_MAX);
                self.paused_until = Some(now.plus(pause));
            }
            Some(true) | None => {}
        }
    }

    pub(super) fn jobs(&self) -> Vec<JobId> {
        self.running.keys().map(|(id, _)| *id).collect()
    }

    /// Drops the requests of jobs that are to end or belong to someone else by now.
    pub(super) fn compare(&self, asked: &[JobId], found: &[Holding]) {
        let kept: HashMap<Hold, bool> =
            found.iter().map(|h| ((h.id, h.fence), !h.cancel_requested)).collect();
        let asked: HashSet<JobId> = asked.iter().copied().collect();
        for (hold, running) in self.running.iter().filter(|(hold, _)| asked.contains(&hold.0)) {
            if kept.get(hold) != Some(&true) {
                running.drop.cancel();
            }
        }
    }

    /// The signs of life of leases that were last renewed `every` ago.
    pub(super) fn renewals(&self, every: Duration, seconds: u32, at: Instant) -> Vec<JobChange> {
        let old = self.running.iter().filter(|(_, r)| at.duration_since(r.renewed) >= every);
        let renewal = |(hold, running): (&Hold, &Running)| JobChange {
            id: hold.0,
            tenant: Some(running.tenant),
            right: Right::Lease(running.token),
            what: What::Keep { seconds },
        };
        old.map(renewal).collect()
    }

    /// These leases stand again from `at` on.
    pub(super) fn renewed(&mut self, changes: &[JobChange], at: Instant) {
        for change in changes {
            if let Right::Lease(token) = &change.right
                && let Some(running) = self.running.get_mut(&(change.id, token.fence))
            {
                running.renewed = at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::delivery::Fault;

    const NOW: Millis = Millis(1_000_000);

    fn later(seconds: u64) -> Millis {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn answered(status: u16, wait: Option<u64>) -> Outcome {
        Outcome::Answered { status, retry_after: wait.map(Duration::from_secs), abort: false }
    }

    #[test]
    fn a_worker_that_is_away_is_asked_ever_more_seldom_and_by_one_job_at_a_time() {
        let mut desk = Desk::default();
        assert_eq!(desk.free(10, NOW), 10);
        for _ in 0..10 {
            desk.learn(&Outcome::Failed(Fault::Connect), NOW);
        }
        let mut at = NOW;
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            let back = at.plus(Duration::from_secs(pause));
            assert_eq!(desk.free(10, Millis(back.0 - 1)), 0, "{pause}");
            assert_eq!(desk.free(10, back), 1, "{pause}");
            desk.learn(&Outcome::Failed(Fault::Connect), back);
            at = back;
        }
        desk.learn(&answered(500, None), at);
        assert_eq!(desk.free(10, at), 10, "it answers");
    }

    #[test]
    fn retry_after_slows_the_queue_and_an_answer_does_not_undo_it() {
        let mut desk = Desk::default();
        desk.learn(&answered(429, Some(60)), NOW);
        desk.learn(&answered(503, Some(5)), NOW);
        desk.learn(&answered(200, None), NOW);
        assert_eq!((desk.free(10, later(59)), desk.free(10, later(60))), (0, 10));
    }

    #[test]
    fn a_request_is_dropped_when_its_job_is_to_end_or_is_no_longer_held() {
        let mut desk = Desk::default();
        let id = |n: u128| JobId::from_uuid(uuid::Uuid::from_u128(n));
        let mut drops = Vec::new();
        for n in 1..=4 {
            let drop = CancellationToken::new();
            drops.push(drop.clone());
            let running = Running {
                tenant: TenantId::from_uuid(uuid::Uuid::nil()),
                token: LeaseToken { fence: 7, random: [0; 16] },
                renewed: Instant::now(),
                drop,
            };
            desk.start((id(n), 7), running, NOW);
        }
        let holding = |n, fence, cancel_requested| Holding { id: id(n), fence, cancel_requested };
        let asked = [id(1), id(2), id(3), id(4)];
        desk.compare(&asked, &[holding(1, 7, false), holding(2, 8, false), holding(3, 7, true)]);
        let dropped: Vec<bool> = drops.iter().map(CancellationToken::is_cancelled).collect();
        assert_eq!(dropped, [false, true, true, true]);
        assert_eq!(desk.free(4, NOW), 0);
        desk.done((id(4), 7));
        assert_eq!((desk.free(4, NOW), desk.in_flight()), (1, 3));
    }

    #[test]
    fn a_lease_is_renewed_when_it_is_old_and_then_not_for_a_while() {
        let mut desk = Desk::default();
        let begun = Instant::now();
        let id = JobId::from_uuid(uuid::Uuid::from_u128(1));
        let (tenant, token) =
            (TenantId::from_uuid(uuid::Uuid::nil()), LeaseToken { fence: 7, random: [0; 16] });
        let running = Running { tenant, token, renewed: begun, drop: CancellationToken::new() };
        desk.start((id, 7), running, NOW);
        let every = Duration::from_secs(10);
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(desk.renewals(every, 30, after(9)).len(), 0);
        let due = desk.renewals(every, 30, after(10));
        assert!(matches!(due[0].what, What::Keep { seconds: 30 }), "{due:?}");
        desk.renewed(&due, after(10));
        let left = [11, 19, 20].map(|at| desk.renewals(every, 30, after(at)).len());
        assert_eq!(left, [0, 0, 1]);
    }
}
