//! What the store's verbs take and give, beside the domain's own types.

mod lanes;

use bytes::Bytes;

use crate::types::delivery::DeadReason;
use crate::types::job::{Change, Job};
use crate::types::key::{LeaseToken, Scopes};
use crate::types::{DeliveryId, EndpointId, EventId, JobId, KeyId, LaneId, Millis, RedriveId, TenantId, api};
pub use lanes::{
    InLane, LaneFilter, LaneOrder, LaneSettings, LaneState, Matched, OutageFilter, OwnedLane, ReplayOf,
};

/// A page of a list: at most `limit` rows after the row named by `after`.
#[derive(Clone, Copy)]
pub struct PageOf<K> {
    /// The last row of the page before.
    pub after: Option<crate::types::Id<K>>,
    /// 1..200.
    pub limit: u32,
}

/// An API key as stored; the secret itself is not.
#[derive(Debug, Clone)]
pub struct KeyRecord {
    /// Names it.
    pub id: KeyId,
    /// Whose it is.
    pub tenant: TenantId,
    /// For people.
    pub name: Option<String>,
    /// The first characters of the secret.
    pub prefix: String,
    /// SHA-256 of the whole text.
    pub hash: [u8; 32],
    /// What it allows.
    pub scopes: Scopes,
    /// Only these queues.
    pub queues: Option<Vec<String>>,
    /// Only these accounts.
    pub accounts: Option<Vec<String>>,
    /// When it was made.
    pub created_at: Millis,
    /// When it stops working.
    pub expires_at: Option<Millis>,
}

impl KeyRecord {
    /// What the key is narrowed to.
    pub fn narrow(&self) -> Narrow {
        Narrow { queues: self.queues.clone(), accounts: self.accounts.clone() }
    }
}

/// What a key is narrowed to; it hides the rest of the tenant. Nothing where it is for all.
#[derive(Debug, Clone, Default)]
pub struct Narrow {
    /// Only what belongs to jobs of these queues.
    pub queues: Option<Vec<String>>,
    /// Only what belongs to these accounts.
    pub accounts: Option<Vec<String>>,
}

/// What became of a submission.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// The stored job; that of the first request if it was replayed.
    pub job: Job,
    /// The lease of an external job, while it is the first one.
    pub lease: Option<(LeaseToken, Millis)>,
    /// An earlier request with the same idempotency key made this job.
    pub replayed: bool,
    /// A claim has it already.
    pub taken: bool,
}

/// Which jobs a list shows.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Any of these states; all when empty.
    pub states: Vec<crate::types::job::JobState>,
    /// Of this type.
    pub kind: Option<String>,
    /// In this queue.
    pub queue: Option<String>,
    /// With this client name.
    pub reference: Option<String>,
    /// Accepted at or after.
    pub created_after: Option<Millis>,
    /// Accepted before.
    pub created_before: Option<Millis>,
    /// Only in these queues (the key is narrowed).
    pub only_queues: Option<Vec<String>>,
}

/// The result of a complete job.
#[derive(Debug, Clone)]
pub struct StoredResult {
    /// The job it belongs to.
    pub job: Job,
    /// The bytes; None if the result is kept elsewhere or the job has none.
    pub bytes: Option<Bytes>,
}

/// A worker's wish for jobs.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// From the key.
    pub tenant: TenantId,
    /// The queue.
    pub queue: String,
    /// Only these types; all when empty.
    pub types: Vec<String>,
    /// 1..500.
    pub max: u32,
    /// How long the lease holds, seconds.
    pub lease_seconds: u32,
    /// How long a heartbeat renews it for that does not say; as long again when None.
    pub renew_seconds: Option<u32>,
    /// Who asks.
    pub worker_id: Option<String>,
}

/// A job in a worker's hands.
#[derive(Debug, Clone)]
pub struct LeasedJob {
    /// As the API shows it.
    pub job: api::ClaimedJob,
}

/// How a claimed job stands, for who waits for its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// Names it.
    pub id: JobId,
    /// The fence of its last claim.
    pub fence: i64,
    /// The client wants it to end.
    pub cancel_requested: bool,
}

/// Who wants to change an owed job, and by what right.
#[derive(Debug, Clone)]
pub enum Right {
    /// The holder of the lease.
    Lease(LeaseToken),
    /// The client or an operator.
    Owner,
    /// The sweep, which saw the row under this fence.
    Sweep(i64),
}

/// One change of one job.
#[derive(Debug, Clone)]
pub struct JobChange {
    /// The job.
    pub id: JobId,
    /// Whose it must be; None if a lease token alone authorises.
    pub tenant: Option<TenantId>,
    /// By what right.
    pub right: Right,
    /// What is to happen.
    pub what: What,
}

/// From tenant to tenant, in search of due work.
#[derive(Debug, Clone, Copy)]
pub struct Tour {
    /// The tenant where the last one ended.
    pub after: Option<TenantId>,
    /// How many tenants with due work are enough.
    pub most: u32,
    /// How many tenants with any work are looked at.
    pub visits: u32,
}

/// What is to happen to a job.
#[derive(Debug, Clone)]
pub enum What {
    /// A transition.
    Change(Change),
    /// A sign of life.
    Heartbeat {
        /// 0-100.
        progress: Option<u8>,
        /// For people.
        message: Option<String>,
        /// The new lease in seconds, longer or shorter than what is left of the old one. None: at least as long as the
        /// claim's.
        extend_seconds: Option<u32>,
    },
    /// The lease holds for at least so many seconds more; nothing is told, and a longer one stays.
    Keep {
        /// From now on.
        seconds: u32,
    },
    /// A failed, cancelled or expired job is queued again.
    Retry,
    /// Whatever the clock says is due: deadline, time-out, cancel grace, lost lease.
    Overdue,
}

/// What became of a change.
#[derive(Debug, Clone)]
pub struct Changed {
    /// The job afterwards.
    pub job: Box<Job>,
    /// When its lease runs out, while someone holds it.
    pub lease_until: Option<Millis>,
}

/// What is to be set for a queue; what is `None` stays as it is, `Some(None)` takes it away.
#[derive(Debug, Clone, Copy, Default)]
pub struct QueueChange {
    /// Until when it hands out no jobs; [`Millis::MAX`] until someone resumes it.
    pub paused_until: Option<Option<Millis>>,
    /// How many of its jobs may be leased at once.
    pub max_in_flight: Option<Option<u32>>,
}

/// A delivery in this node's hands, ready to be signed and sent.
#[derive(Debug, Clone)]
pub struct ClaimedDelivery {
    /// Names it; the `webhook-id`.
    pub id: DeliveryId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its lane.
    pub lane: LaneId,
    /// Its turn within the lane.
    pub turn: i64,
    /// Only its holder may write.
    pub fence: i64,
    /// Which request this is, over all rounds, from 1.
    pub number: u32,
    /// Attempts of this round that the policy counts, without this one.
    pub used: u32,
    /// Attempts in a row before this one whose outcome nobody saw.
    pub unknowns: u32,
    /// When the intent was committed to.
    pub started_at: Millis,
    /// When the lease runs out.
    pub lease_until: Millis,
    /// The event.
    pub event_id: EventId,
    /// The event's type.
    pub event_kind: String,
    /// When the event happened.
    pub event_at: Millis,
    /// `standard` or `cloudevents`.
    pub variant: String,
    /// The frozen bytes.
    pub body: Bytes,
    /// Where it goes; checked at registration, checked again by the sender.
    pub url: String,
    /// Sealed [`crate::types::job::CallbackSecrets`] and the row they are sealed for.
    pub sealed: Option<(Vec<u8>, uuid::Uuid)>,
    /// When a failed attempt is repeated.
    pub policy: crate::types::retry::RetryPolicy,
    /// Nothing is sent after this.
    pub expires_at: Option<Millis>,
    /// Sent on (W3C Trace Context).
    pub traceparent: Option<String>,
    /// The job it speaks of.
    pub job_id: Option<JobId>,
    /// Whose it is, of those that the tenant keeps apart: its endpoint's when it was made.
    pub account: Option<String>,
    /// The endpoint whose secrets sign where the delivery brings none.
    pub signer: Option<EndpointId>,
    /// The standing endpoint it goes to, as it is now.
    pub endpoint: Option<Receiver>,
}

/// What a delivery needs to know of the endpoint it goes to.
#[derive(Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Names it.
    pub id: EndpointId,
    /// Its headers, sealed.
    pub sealed: Option<Vec<u8>>,
    /// How long one attempt may take.
    pub timeout: std::time::Duration,
    /// The signatures it wants.
    pub schemes: Vec<crate::types::endpoint::Scheme>,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("id", &self.id)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// An endpoint that was checked and is ready to be stored.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// From the key.
    pub tenant: TenantId,
    /// What its owner sets.
    pub settings: crate::types::endpoint::Settings,
    /// Recognises a repeated request.
    pub idempotency: Option<crate::types::job::Idempotency>,
}

/// Which endpoints a list shows.
#[derive(Debug, Clone, Default)]
pub struct EndpointFilter {
    /// Of this account.
    pub account: Option<String>,
    /// In this state.
    pub state: Option<crate::types::endpoint::EndpointState>,
    /// Only of these accounts (the key is narrowed).
    pub only_accounts: Option<Vec<String>>,
}

/// A delivery that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueDelivery {
    /// Names it.
    pub id: DeliveryId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its lane.
    pub lane: LaneId,
    /// What takes turns within the lane: the hash of an ad-hoc URL, the number in an ordered lane.
    pub turn: i64,
    /// The fence seen; a claim compares and sets it.
    pub fence: i64,
    /// When it was due.
    pub due_at: Millis,
    /// Requests begun so far.
    pub attempt: u32,
    /// Attempts the policy counted.
    pub used: u32,
    /// Unknown outcomes in a row, with this one if it is leased.
    pub unknowns: u32,
    /// Set if an attempt was begun and its outcome never written.
    pub lost_at: Option<Millis>,
}

/// The outcome of one attempt, ready to be written.
#[derive(Debug, Clone)]
pub struct Attempted {
    /// What was claimed.
    pub id: DeliveryId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Under this fence.
    pub fence: i64,
    /// Which request it was.
    pub number: u32,
    /// When the intent was committed to.
    pub started_at: Millis,
    /// What was seen; None if nothing was sent, which leaves no attempt.
    pub exchange: Option<crate::types::delivery::Exchange>,
    /// What follows from it.
    pub verdict: crate::types::delivery::Verdict,
    /// Whether the policy counts it.
    pub counts: bool,
    /// The endpoint it went to, and the URL that it had.
    pub endpoint: Option<(EndpointId, String)>,
}

impl Attempted {
    /// That it could not be signed: nothing else spends an attempt without a request.
    pub fn unsignable(&self) -> Option<DeadReason> {
        (self.exchange.is_none() && self.counts).then_some(DeadReason::Unsignable)
    }
}

/// A redrive that is running.
#[derive(Debug, Clone)]
pub struct RunningRedrive {
    /// Names it.
    pub id: RedriveId,
    /// When its next step is due.
    pub next_at: Millis,
}

/// Which deliveries a list shows.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// Of this job.
    pub job_id: Option<JobId>,
    /// To this endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// Of this account.
    pub account: Option<String>,
    /// To this host.
    pub host: Option<String>,
    /// In this state.
    pub state: Option<crate::types::delivery::DeliveryState>,
    /// What the key that asks may see.
    pub only: Narrow,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The job.
    pub id: JobId,
    /// Of its last event.
    pub sequence: i64,
    /// Nothing follows unless it is retried.
    pub ended: bool,
}
