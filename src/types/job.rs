//! A job: its states, what may happen to it next, and how it is shown.

mod decide;
mod state;

pub use decide::{CANCEL_GRACE, Change, Failure, LOST, Next, Outcome, RELEASED, decide, job_backoff_seconds};
pub use state::{CallbackState, JobEvent, JobState, Status, WorkerKind};

use serde::{Deserialize, Serialize};

use super::api::{self, Urls};
use super::key::LeaseToken;
use super::{EndpointId, JobId, Millis, TenantId};

/// A callback as checked and stored. What the contract gives to a callback that says nothing is left out: most say
/// nothing, and a job's row is written twice.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Callback {
    /// The checked URL; where it is a standing endpoint's, that at the submission.
    pub url: String,
    /// The standing endpoint, which is asked anew at each event and each attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_id: Option<EndpointId>,
    /// Bits of [`JobEvent::bit`].
    #[serde(default = "JobEvent::ends", skip_serializing_if = "JobEvent::are_ends")]
    pub wants: i64,
    /// Full or thin; as the endpoint has it when None, full where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<api::Payload>,
    /// Standard or CloudEvents; as the endpoint has it when None, standard where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<api::Format>,
    /// Comes back in `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<api::Json>,
    /// Nothing is sent after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
    /// Told when the callback is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_url: Option<String>,
    /// When a failed attempt is repeated.
    #[serde(default, skip_serializing_if = "super::retry::RetryPolicy::is_usual")]
    pub retry: super::retry::RetryPolicy,
}

/// What a callback brings that must not be readable at rest.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct CallbackSecrets {
    /// `whsec_...` of this callback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Headers to add.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

impl CallbackSecrets {
    /// Whether there is nothing to seal.
    pub fn is_empty(&self) -> bool {
        self.secret.is_none() && self.headers.is_empty()
    }
}

/// A job that was checked and is ready to be stored.
#[derive(Clone)]
pub struct NewJob {
    /// Minted before it is stored, so that a repeated write is recognised.
    pub id: JobId,
    /// From the key.
    pub tenant: TenantId,
    /// What kind of work it is.
    pub kind: String,
    /// The queue.
    pub queue: String,
    /// The client's own name for it.
    pub reference: Option<String>,
    /// -2..2.
    pub priority: i8,
    /// Who does it.
    pub worker: WorkerKind,
    /// JSON text, byte for byte.
    pub input: String,
    /// Where the reply goes.
    pub callback: Option<Callback>,
    /// The callback's secret and headers.
    pub secrets: CallbackSecrets,
    /// Not before.
    pub run_at: Option<Millis>,
    /// Not after.
    pub deadline_at: Option<Millis>,
    /// The longest one attempt may run, seconds.
    pub timeout_seconds: u32,
    /// Attempts allowed.
    pub max_attempts: u32,
    /// Seconds the lease of an external job holds.
    pub lease_seconds: u32,
    /// JSON object text.
    pub metadata: String,
    /// Seconds the ended job is kept.
    pub retain_seconds: u32,
    /// W3C Trace Context of the submission.
    pub traceparent: Option<String>,
    /// Told in the answer.
    pub estimated_seconds: u32,
    /// The lease of an external job.
    pub lease: Option<LeaseToken>,
    /// Recognises a repeated request.
    pub idempotency: Option<Idempotency>,
}

/// What recognises a repeated request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The canonical route; aliases share it.
    pub route: String,
    /// The client's key, unquoted.
    pub key: String,
    /// SHA-256 of the raw body and the `Callback-*` headers.
    pub fingerprint: [u8; 32],
}

/// A job as it stands in the store.
#[derive(Debug, Clone)]
pub struct Job {
    /// Names it.
    pub id: JobId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What kind of work it is.
    pub kind: String,
    /// The queue.
    pub queue: String,
    /// The client's own name for it.
    pub reference: Option<String>,
    /// -2..2.
    pub priority: i8,
    /// Who does it.
    pub worker: WorkerKind,
    /// The callback as JSON text; parsed where it is needed.
    pub callback: Option<String>,
    /// Sealed [`CallbackSecrets`].
    pub sealed: Option<Vec<u8>>,
    /// Not before.
    pub run_at: Option<Millis>,
    /// Not after.
    pub deadline_at: Option<Millis>,
    /// Seconds one attempt may run.
    pub timeout_seconds: u32,
    /// Attempts allowed.
    pub max_attempts: u32,
    /// JSON object text.
    pub metadata: String,
    /// Seconds the ended job is kept.
    pub retain_seconds: u32,
    /// W3C Trace Context of the submission.
    pub traceparent: Option<String>,
    /// Told in the first answer.
    pub estimated_seconds: u32,
    /// When it was accepted.
    pub created_at: Millis,
    /// Where it stands.
    pub state: JobState,
    /// Attempts begun.
    pub attempt: u32,
    /// The number of the last event.
    pub sequence: i64,
    /// Changes of the representation that are not events.
    pub version: i64,
    /// Rises with every claim; only its holder may write.
    pub fence: i64,
    /// The random part of the last lease token.
    pub token: Option<[u8; 16]>,
    /// When the current or last attempt began.
    pub started_at: Option<Millis>,
    /// The sequence number of that beginning.
    pub started_sequence: Option<i64>,
    /// When it is looked at next: due, or the end of the lease. None once it has ended.
    pub due_at: Option<Millis>,
    /// Seconds a heartbeat renews the lease for.
    pub lease_seconds: u32,
    /// 0-100.
    pub progress: Option<u8>,
    /// The worker's last message.
    pub message: Option<String>,
    /// When a cancel was asked for.
    pub cancel_at: Option<Millis>,
    /// Why it is to be cancelled.
    pub cancel_reason: Option<String>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// Why it ended without a result.
    pub error: Option<String>,
    /// The same for programs.
    pub error_info: Option<api::ErrorInfo>,
    /// The result's content type; None if there is no result here.
    pub result_type: Option<String>,
    /// The result is kept elsewhere.
    pub result_url: Option<String>,
    /// When the ended job is removed.
    pub expires_at: Option<Millis>,
    /// Its documents are gone, a stub remains.
    pub purged: bool,
    /// Where the terminal event's delivery stands.
    pub callback_state: CallbackState,
    /// Changes of that delivery's state.
    pub callback_version: i64,
}

impl Job {
    /// The callback, if there is one. The error says that the stored text cannot be read.
    pub fn callback(&self) -> Result<Option<Callback>, serde_json::Error> {
        self.callback.as_deref().map(serde_json::from_str).transpose()
    }

    /// The events that the callback wants, as bits of [`JobEvent::bit`]. None too where the stored text cannot be read.
    pub fn callback_wants(&self) -> Option<i64> {
        #[derive(Deserialize)]
        struct Wants {
            #[serde(default = "JobEvent::ends")]
            wants: i64,
        }
        serde_json::from_str::<Wants>(self.callback.as_deref()?).ok().map(|callback| callback.wants)
    }

    /// The standing endpoint that the callback names, if it names one.
    pub fn callback_endpoint(&self) -> Option<EndpointId> {
        // Most callbacks name none: these need not be read for it.
        let named = self.callback.as_deref().filter(|text| text.contains("\"endpointId\""))?;
        serde_json::from_str::<Callback>(named).ok()?.endpoint_id
    }

    /// When the current attempt must be done: the deadline or its time-out, the earlier one.
    pub fn must_end_at(&self) -> Option<Millis> {
        let timeout = match self.worker {
            WorkerKind::Pull => {
                self.started_at.map(|t| t.plus(std::time::Duration::from_secs(self.timeout_seconds.into())))
            }
            WorkerKind::External => None,
        };
        [self.deadline_at, timeout].into_iter().flatten().min()
    }

    /// Whole seconds a poller should wait before it asks again (RFC 9110, 10.2.3).
    ///
    /// The remaining estimate in six steps, within 1..30; once overdue 1, 2, 4 .. 30:
    /// the seed's backoff, given by the server.
    pub fn poll_after(&self, now: Millis) -> u32 {
        let age = (now.0 - self.owed_from().0).div_euclid(1_000);
        poll_after(i64::from(self.estimated_seconds) - age)
    }

    /// Seconds from the submission to the end, as far as is known; the time until `runAt` counts.
    pub fn estimate(&self) -> u32 {
        let until = (self.owed_from().0 - self.created_at.0).max(0).div_euclid(1_000);
        self.estimated_seconds.saturating_add(u32::try_from(until).unwrap_or(u32::MAX)).max(1)
    }

    /// From when on the client waits: a schedule is no wait.
    pub fn owed_from(&self) -> Millis {
        self.run_at.map_or(self.created_at, |at| at.max(self.created_at))
    }

    /// The entity tag (RFC 9110, 8.8.3); changes with every change of the representation.
    ///
    /// Two of them are made by the clock alone and counted nowhere: a scheduled job is queued, and a
    /// held lane is open again.
    pub fn etag(&self) -> String {
        let held = i64::from(self.callback_state == CallbackState::Held);
        let scheduled = i64::from(self.state == JobState::Scheduled);
        let n = 4 * (self.version + self.callback_version) + 2 * held + scheduled;
        format!("\"{}.{n}\"", self.sequence)
    }

    /// The job as clients see it.
    pub fn view(&self, urls: &Urls) -> api::Job {
        let processing = self.state == JobState::Processing;
        let waiting = matches!(self.state, JobState::Scheduled | JobState::Retrying);
        api::Job {
            job_id: self.id,
            status: self.state.status(),
            progress: self.progress.filter(|_| processing),
            message: self.message.clone().filter(|_| processing),
            result_url: self.result_link(urls),
            error: self.error.clone(),
            created_at: self.created_at,
            completed_at: self.ended_at,
            state: self.state,
            error_info: self.error_info.clone(),
            kind: self.kind.clone(),
            queue: self.queue.clone(),
            reference: self.reference.clone(),
            priority: self.priority,
            worker: self.worker,
            attempt: self.attempt,
            max_attempts: self.max_attempts,
            sequence: self.sequence,
            run_at: if waiting { self.due_at } else { None },
            deadline_at: self.deadline_at,
            started_at: self.started_at,
            expires_at: self.expires_at,
            cancel_requested: self.cancel_at.filter(|_| processing).map(|_| true),
            metadata: api::raw(self.metadata.clone()),
            callback_state: Some(self.callback_state),
            estimated_seconds: Some(self.estimate()),
        }
    }

    fn result_link(&self, urls: &Urls) -> Option<String> {
        if self.state != JobState::Complete {
            return None;
        }
        match (&self.result_url, &self.result_type) {
            (Some(elsewhere), _) => Some(elsewhere.clone()),
            (None, Some(content_type)) => Some(urls.result(self.id, content_type)),
            (None, None) => None,
        }
    }
}

/// See [`Job::poll_after`]. `left` is what is left of the estimate, seconds; negative once overdue.
fn poll_after(left: i64) -> u32 {
    let seconds = u32::try_from(left.unsigned_abs()).unwrap_or(u32::MAX);
    if left > 0 {
        return seconds.div_ceil(6).clamp(1, 30);
    }
    // Overdue by 0, 1, 3, 7 .. seconds: a poller that obeys waits 1, 2, 4 .. 30.
    seconds.saturating_add(1).checked_next_power_of_two().unwrap_or(32).min(30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_poller_sees_only_the_four_words_and_always_ends() {
        for state in JobState::ALL {
            let ended = matches!(state.status(), Status::Complete | Status::Failed);
            assert_eq!(state.ended(), ended, "{state:?}");
            assert_eq!(state.terminal_event().is_some(), ended, "{state:?}");
        }
    }

    #[test]
    fn polling_follows_the_estimate_and_then_backs_off() {
        assert_eq!(poll_after(30), 5, "the seed's example: an estimate of 30 asks for 5");
        assert_eq!([15, 1, 1_000, i64::MAX].map(poll_after), [3, 1, 30, 30]);
        assert_eq!([0, -1, -3, -7, -15, -31, -500].map(poll_after), [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(poll_after(i64::MIN), 30);
    }

    #[test]
    fn a_job_waits_longer_after_each_attempt() {
        assert_eq!([1, 2, 3, 4, 5, 99].map(job_backoff_seconds), [5, 20, 80, 320, 600, 600]);
    }

    #[test]
    fn event_bits_are_distinct() {
        let all = JobEvent::ALL.iter().fold(0, |set, e| set | e.bit());
        assert_eq!(all.count_ones(), 8);
    }
}
