//! One job at its worker: sign, send, judge, report.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Body, Inner, LEASE, SPARE, Slot};
use crate::egress::{Answer, BootTime, Limits};
use crate::store::{Error, JobChange, Right, What};
use crate::types::TenantId;
use crate::types::api::{ClaimedJob, RESULT_MAX};
use crate::types::delivery::{Exchange, Fault, Outcome};
use crate::types::job::Change;
use crate::types::push::{Verdict, judge};
use crate::types::signature::sign;

/// When a job that could not be prepared is looked at again.
const NOT_NOW_SECONDS: u32 = 5;
/// The same of one that was not sent: not at once, or a node that is too full would do nothing else.
const UNSENT_SECONDS: u32 = 1;
/// Added to what the attempt may take when the worker completes later: the time-out must come first.
const MARGIN: Duration = Duration::from_secs(30);
/// Between two tries to report while the store is away ...
const REPORT_EVERY: Duration = Duration::from_millis(250);
/// ... and how long it is tried; then the lease brings the job back.
const REPORT_FOR: Duration = Duration::from_secs(120);

/// A claimed job on its way to the worker and back.
pub(super) struct Errand {
    pub(super) inner: Arc<Inner>,
    pub(super) slot: Slot,
    pub(super) tenant: TenantId,
    pub(super) job: ClaimedJob,
    /// The job is to end, or is no longer ours.
    pub(super) drop: CancellationToken,
}

/// What is to be told to the store.
struct Report {
    right: Right,
    what: What,
    exchange: Option<Exchange>,
}

impl Errand {
    pub(super) async fn run(self) {
        let begun = Instant::now();
        let report = tokio::select! {
            biased;
            // The stop waits no longer: the job goes back, and its attempt is not used up.
            () = self.inner.over.cancelled() => self.release(0, None),
            // Ends the job if its client wished so, and changes nothing if someone else holds it.
            () = self.drop.cancelled() => self.release(0, None),
            report = self.attempt() => report,
        };
        let state = tokio::select! {
            () = self.inner.over() => return,
            state = self.tell(&report) => state,
        };
        self.log(&report, state);
        let tools = &self.inner.tools;
        if let Some(exchange) = &report.exchange {
            self.inner.learn(&exchange.outcome);
        }
        tools.metrics.pushed(&self.inner.options.queue, state, begun.elapsed());
        tools.wake.jobs.nudge();
        tools.wake.deliveries.nudge();
        drop(self.slot);
    }

    async fn attempt(&self) -> Report {
        if self.inner.stopping.is_cancelled() {
            return self.release(0, None);
        }
        let now = self.inner.tools.clock.now();
        let Some((headers, body)) = self.prepare().await else {
            return self.release(NOT_NOW_SECONDS, None);
        };
        let end = self.job.deadline_at.unwrap_or_else(|| now.plus(LEASE));
        let deadline = end.since(now);
        let left = self.job.lease_expires_at.since(now).saturating_sub(SPARE);
        let limits =
            Limits { deadline, not_after: BootTime::now().plus(left), answer: Answer::Whole(RESULT_MAX) };
        let url = &self.inner.options.url;
        let exchange = self.inner.sender.post(url, headers, body, limits, now).await;
        let (right, what) = match judge(&exchange, deadline) {
            Verdict::Done(outcome) => self.by_lease(What::Change(Change::Complete(outcome))),
            Verdict::Failed(failure) => self.by_lease(What::Change(Change::Fail(failure))),
            Verdict::Later => self.by_lease(self.stays()),
            Verdict::Overdue => (Right::Sweep(self.job.lease_token.fence), What::Overdue),
            Verdict::Unsent => return self.release(UNSENT_SECONDS, Some(exchange)),
        };
        Report { right, what, exchange: Some(exchange) }
    }

    fn by_lease(&self, what: What) -> (Right, What) {
        (Right::Lease(self.job.lease_token), what)
    }

    /// Nothing was sent, or nobody wants to know what comes of it.
    fn release(&self, delay_seconds: u32, exchange: Option<Exchange>) -> Report {
        let (right, what) = self.by_lease(What::Change(Change::Release { delay_seconds }));
        Report { right, what, exchange }
    }

    /// The worker completes later: the lease stays with it until the attempt's own time-out.
    fn stays(&self) -> What {
        let left = self.job.deadline_at.map_or(LEASE, |at| at.since(self.inner.tools.clock.now()));
        What::Keep { seconds: super::whole_seconds(left + MARGIN) }
    }

    async fn prepare(&self) -> Option<(HeaderMap, Bytes)> {
        let body = match self.inner.options.body {
            Body::Input => Bytes::from(self.job.input.get().to_owned()),
            Body::Job => serde_json::to_vec(&self.job).ok()?.into(),
        };
        let now = self.inner.tools.clock.now();
        let secrets = match self.inner.tools.store.default_secrets(self.tenant, now).await {
            Ok(secrets) => secrets.iter().map(|(key, _)| key.secret().clone()).collect::<Vec<_>>(),
            Err(e) => {
                tracing::error!(job.id = %self.job.job_id, error = %e, "a job cannot be signed");
                return None;
            }
        };
        let (id, seconds) = (self.job.job_id.to_string(), now.seconds());
        let signature = sign(&secrets, &id, seconds, &body);
        Some((self.headers(&id, seconds, &signature)?, body))
    }

    /// What a worker is told beside the body.
    fn headers(&self, id: &str, seconds: i64, signature: &str) -> Option<HeaderMap> {
        let value = |text: &str| HeaderValue::from_str(text).ok();
        let mut map = HeaderMap::with_capacity(12);
        map.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        map.insert(
            http::header::USER_AGENT,
            HeaderValue::from_static(concat!("Ringback/", env!("CARGO_PKG_VERSION"))),
        );
        // The answer is the result as it stands: a compressed one would be given out without saying so.
        map.insert(http::header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        map.insert("ringback-job-id", value(id)?);
        map.insert("ringback-attempt", HeaderValue::from(self.job.attempt));
        let mut token = value(&self.job.lease_token.to_string())?;
        token.set_sensitive(true);
        map.insert("ringback-lease-token", token);
        // The fence, for attempts are counted anew when a failed job is queued again.
        map.insert("idempotency-key", value(&format!("\"{id}:{}\"", self.job.lease_token.fence))?);
        map.insert("webhook-id", value(id)?);
        map.insert("webhook-timestamp", HeaderValue::from(seconds));
        map.insert("webhook-signature", value(signature)?);
        if let Some(trace) = self.job.traceparent.as_deref().and_then(value) {
            map.insert("traceparent", trace);
        }
        Some(map)
    }

    /// Writes what came of it; gives the state of the job then.
    async fn tell(&self, report: &Report) -> &'static str {
        let until = Instant::now() + REPORT_FOR;
        loop {
            let change = JobChange {
                id: self.job.job_id,
                tenant: Some(self.tenant),
                right: report.right.clone(),
                what: report.what.clone(),
            };
            let answer = self.inner.tools.store.change(vec![change], self.inner.tools.clock.now()).await;
            match answer.map(|mut one| one.pop().unwrap_or(Err(Error::NotFound))) {
                Ok(Ok(changed)) => return changed.job.state.as_str(),
                Ok(Err(_)) => return LOST,
                // Whatever it is, it may be another call's fault; without its report the attempt is repeated.
                Err(_) if Instant::now() < until => sleep(REPORT_EVERY).await,
                Err(e) => {
                    tracing::error!(job.id = %self.job.job_id, error = %e, "an outcome could not be reported");
                    return LOST;
                }
            }
        }
    }

    /// One line per attempt that tells it all.
    fn log(&self, report: &Report, state: &'static str) {
        let (status, error) = match report.exchange.as_ref().map(|e| e.outcome) {
            Some(Outcome::Answered { status, .. }) => (Some(status), None),
            Some(Outcome::Failed(fault)) => (None, Some(fault.kind())),
            None => (None, Some(if self.drop.is_cancelled() { "dropped" } else { "not-sent" })),
        };
        let fault = report.exchange.as_ref().and_then(|e| e.outcome.fault());
        let ms = report.exchange.as_ref().map(|e| u64::try_from(e.duration.as_millis()).unwrap_or(u64::MAX));
        tracing::info!(
            job.id = %self.job.job_id,
            job.type = %self.job.kind,
            tenant = %self.tenant,
            queue = %self.inner.options.queue,
            attempt = self.job.attempt,
            status,
            error,
            refused = fault.and_then(Fault::refused),
            duration_ms = ms,
            bytes = report.exchange.as_ref().map(|e| e.body.len()),
            state,
            "push.attempted"
        );
    }
}

/// In place of a state: someone else holds the job by now, or it has ended.
const LOST: &str = "lost";
