//! What an event writes: its row, its frozen bodies, its deliveries.

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::batch::{Col, Sql};
use super::db::Value;
use super::error::{Error, Result};
use super::lanes::{lane_of, origin_of};
use super::model::ClaimedDelivery;
use super::pool::Tx;
use super::{HandOver, Inner};
use crate::args;
use crate::types::job::{Callback, Job, JobEvent, Outcome};
use crate::types::key::AccessToken;
use crate::types::retry::RetryPolicy;
use crate::types::{DeliveryId, EventId, JobId, LaneId, Millis, TenantId, api};

/// A JSON result up to this size stands in the webhook itself, bytes.
const INLINE_RESULT: usize = 64 * 1024;

/// Everything that the events of one transaction write, gathered for one statement per table.
pub(super) struct Outbox<'a> {
    inner: &'a Inner,
    now: Millis,
    events: Vec<Vec<Value>>,
    bodies: Vec<Vec<Value>>,
    deliveries: Vec<Vec<Value>>,
    queue: Vec<Vec<Value>>,
    handed: Vec<Handed>,
    ended: Vec<Job>,
}

/// What is still to be done once the transaction is durable.
pub(super) struct After {
    /// Deliveries to send.
    pub(super) handed: Vec<Handed>,
    /// Jobs that have ended.
    pub(super) ended: Vec<Job>,
}

/// A delivery born in this node's hands. Dropped before the commit it gives its slot back.
pub(super) struct Handed {
    desk: Arc<dyn HandOver>,
    claimed: Option<ClaimedDelivery>,
    lane: LaneId,
}

impl Handed {
    /// After the commit: the dispatcher sends it.
    pub(super) fn pass(mut self) {
        if let Some(claimed) = self.claimed.take() {
            self.desk.take(claimed);
        }
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if self.claimed.is_some() {
            self.desk.give_back(self.lane);
        }
    }
}

/// A delivery to be made.
pub(super) struct NewDelivery<'a> {
    pub(super) tenant: TenantId,
    pub(super) event_id: EventId,
    pub(super) event_kind: &'a str,
    pub(super) event_at: Millis,
    pub(super) variant: &'static str,
    pub(super) body: &'a str,
    pub(super) job_id: Option<JobId>,
    pub(super) url: &'a str,
    pub(super) sealed: Option<(&'a [u8], Uuid)>,
    pub(super) policy: RetryPolicy,
    pub(super) failure_url: Option<&'a str>,
    pub(super) traceparent: Option<&'a str>,
    pub(super) expires_at: Option<Millis>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a, D> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: Millis,
    event_id: EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<i64>,
    data: &'a D,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JobData<'a> {
    #[serde(flatten)]
    job: &'a api::Job,
    access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<api::Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a api::Json>,
}

impl<'a> Outbox<'a> {
    pub(super) fn new(inner: &'a Inner, now: Millis) -> Outbox<'a> {
        Outbox {
            inner,
            now,
            events: vec![],
            bodies: vec![],
            deliveries: vec![],
            queue: vec![],
            handed: vec![],
            ended: vec![],
        }
    }

    /// A job has ended; counted, and learned from, once that is durable.
    pub(super) fn job_ended(&mut self, job: &Job) {
        self.ended.push(job.clone());
    }

    /// Tells of `event`, which gave `job` its present sequence number; `at` is when it happened.
    ///
    /// Gives the delivery, if the job's callback wants the event.
    pub(super) fn job_event(
        &mut self,
        job: &Job,
        event: JobEvent,
        at: Millis,
        outcome: Option<&Outcome>,
    ) -> Result<Option<DeliveryId>> {
        let view = api::Job { callback_state: None, ..job.view(&self.inner.urls) };
        let event_id = match event {
            // What readers may have seen derived from the job's columns keeps its id as a row.
            JobEvent::Started => derived_id(job.id, job.sequence),
            JobEvent::Queued if job.sequence == 1 => derived_id(job.id, job.sequence),
            _ => self.inner.dice.id(self.now),
        };
        let text = json(&view)?;
        let kind = event.as_str();
        self.events.push(args![event_id, job.tenant, job.id, job.sequence, kind, None::<String>, at, text]);
        let Some(callback) = callback_of(job)?.filter(|c| c.wants & event.bit() != 0) else {
            return Ok(None);
        };
        let data = JobData {
            job: &view,
            access_token: AccessToken::mint(&self.inner.token_keys[0], job.tenant, job.id),
            result: outcome.and_then(|o| inline(o, callback.payload)),
            context: callback.context.as_ref(),
        };
        let (variant, body) = match callback.format {
            api::Format::Standard => {
                let sequence = Some(job.sequence);
                ("standard", json(&Envelope { kind, timestamp: at, event_id, sequence, data: &data })?)
            }
            api::Format::Cloudevents => ("cloudevents", json(&data)?),
        };
        self.bodies.push(args![event_id, variant, body.clone()]);
        let new = NewDelivery {
            tenant: job.tenant,
            event_id,
            event_kind: kind,
            event_at: at,
            variant,
            body: &body,
            job_id: Some(job.id),
            url: &callback.url,
            sealed: job.sealed.as_deref().map(|s| (s, job.id.uuid())),
            policy: callback.retry,
            failure_url: callback.failure_url.as_deref(),
            traceparent: job.traceparent.as_deref(),
            expires_at: callback.expires_at,
        };
        self.delivery(&new).map(Some)
    }

    /// Tells of an event that belongs to no job's history, with one delivery.
    pub(super) fn notice<D: Serialize>(
        &mut self,
        kind: &'static str,
        data: &D,
        new: NewDelivery<'_>,
    ) -> Result<()> {
        let event_id = self.inner.dice.id(self.now);
        let none = None::<Uuid>;
        let text = json(data)?;
        self.events.push(args![
            event_id,
            new.tenant,
            none,
            None::<i64>,
            kind,
            None::<String>,
            self.now,
            text
        ]);
        let body = json(&Envelope { kind, timestamp: self.now, event_id, sequence: None, data })?;
        self.bodies.push(args![event_id, "standard", body.clone()]);
        self.delivery(&NewDelivery { event_id, event_kind: kind, event_at: self.now, body: &body, ..new })
            .map(drop)
    }

    fn delivery(&mut self, new: &NewDelivery<'_>) -> Result<DeliveryId> {
        let id: DeliveryId = self.inner.dice.id(self.now);
        let (origin, host) = origin_of(new.url)?;
        let lane = lane_of(new.tenant, &origin);
        let none = None::<Uuid>;
        self.deliveries.push(args![
            id,
            new.tenant,
            new.event_id,
            new.variant,
            new.event_kind,
            new.job_id,
            none,
            None::<String>,
            lane,
            new.url,
            host,
            new.sealed.map(|(bytes, _)| bytes.to_vec()),
            new.sealed.map(|(_, row)| row),
            json(&new.policy)?,
            new.failure_url,
            new.traceparent,
            new.expires_at,
            self.now,
        ]);
        let handed = self.hand_over(id, lane, new);
        let queue = match handed {
            Some((node, until)) => {
                args![id, new.tenant, lane, until, "leased", 1i64, 1i64, self.now, node]
            }
            None => args![id, new.tenant, lane, self.now, "ready", 0i64, 0i64, None::<Millis>, none],
        };
        self.queue.push(queue);
        Ok(id)
    }

    // Born claimed: attempt 1 is counted and its lease set, so the callback leaves right after the commit.
    fn hand_over(&mut self, id: DeliveryId, lane: LaneId, new: &NewDelivery<'_>) -> Option<(Uuid, Millis)> {
        let desk = self.inner.desk.get()?;
        let lease = desk.reserve(lane)?;
        let lease_until = self.now.plus(lease);
        let claimed = ClaimedDelivery {
            id,
            tenant: new.tenant,
            lane,
            fence: 1,
            number: 1,
            used: 0,
            unknowns: 0,
            started_at: self.now,
            lease_until,
            event_id: new.event_id,
            event_kind: new.event_kind.to_owned(),
            event_at: new.event_at,
            variant: new.variant.to_owned(),
            body: new.body.to_owned().into(),
            url: new.url.to_owned(),
            sealed: new.sealed.map(|(bytes, row)| (bytes.to_vec(), row)),
            policy: new.policy,
            expires_at: new.expires_at,
            traceparent: new.traceparent.map(str::to_owned),
            job_id: new.job_id,
        };
        self.handed.push(Handed { desk: desk.clone(), claimed: Some(claimed), lane });
        Some((desk.node().uuid(), lease_until))
    }

    /// Writes it all. What comes back is done after the commit.
    pub(super) async fn write(self, tx: &mut Tx) -> Result<After> {
        tx.batch(&INSERT_EVENTS, vec![], self.events).await?;
        tx.batch(&INSERT_BODIES, vec![], self.bodies).await?;
        tx.batch(&INSERT_DELIVERIES, vec![], self.deliveries).await?;
        tx.batch(&INSERT_QUEUE, vec![], self.queue).await?;
        Ok(After { handed: self.handed, ended: self.ended })
    }
}

static INSERT_EVENTS: Sql = Sql::batch(
    "INSERT INTO events (id, tenant_id, job_id, sequence, kind, account, created_at, data)
     SELECT b.id, b.tenant_id, b.job_id, b.sequence, b.kind, b.account, b.created_at, b.data FROM {b}",
    0,
    &[
        ("id", Col::Uuid),
        ("tenant_id", Col::Uuid),
        ("job_id", Col::Uuid),
        ("sequence", Col::Int),
        ("kind", Col::Text),
        ("account", Col::Text),
        ("created_at", Col::Int),
        ("data", Col::Text),
    ],
);

static INSERT_BODIES: Sql = Sql::batch(
    "INSERT INTO bodies (event_id, variant, body) SELECT b.event_id, b.variant, b.body FROM {b}",
    0,
    &[("event_id", Col::Uuid), ("variant", Col::Text), ("body", Col::Text)],
);

static INSERT_DELIVERIES: Sql = Sql::batch(
    "INSERT INTO deliveries (id, tenant_id, event_id, variant, event_kind, job_id, endpoint_id, account, lane_id, url,
                             host, sealed, sealed_row, policy, failure_url, traceparent, expires_at, created_at,
                             state, version, fence, attempt)
     SELECT b.id, b.tenant_id, b.event_id, b.variant, b.event_kind, b.job_id, b.endpoint_id, b.account, b.lane_id, b.url,
            b.host, b.sealed, b.sealed_row, b.policy, b.failure_url, b.traceparent, b.expires_at, b.created_at,
            'owed', 0, 0, 0
     FROM {b}",
    0,
    &[
        ("id", Col::Uuid),
        ("tenant_id", Col::Uuid),
        ("event_id", Col::Uuid),
        ("variant", Col::Text),
        ("event_kind", Col::Text),
        ("job_id", Col::Uuid),
        ("endpoint_id", Col::Uuid),
        ("account", Col::Text),
        ("lane_id", Col::Uuid),
        ("url", Col::Text),
        ("host", Col::Text),
        ("sealed", Col::Bytes),
        ("sealed_row", Col::Uuid),
        ("policy", Col::Text),
        ("failure_url", Col::Text),
        ("traceparent", Col::Text),
        ("expires_at", Col::Int),
        ("created_at", Col::Int),
    ],
);

static INSERT_QUEUE: Sql = Sql::batch(
    "INSERT INTO delivery_queue (delivery_id, tenant_id, lane_id, due_at, phase, fence, attempt, used, unknowns,
                                 started_at, node_id)
     SELECT b.delivery_id, b.tenant_id, b.lane_id, b.due_at, b.phase, b.fence, b.attempt, 0, 0, b.started_at, b.node_id
     FROM {b}",
    0,
    &[
        ("delivery_id", Col::Uuid),
        ("tenant_id", Col::Uuid),
        ("lane_id", Col::Uuid),
        ("due_at", Col::Int),
        ("phase", Col::Text),
        ("fence", Col::Int),
        ("attempt", Col::Int),
        ("started_at", Col::Int),
        ("node_id", Col::Uuid),
    ],
);

/// The callback wants the result inline and it is JSON of a size that fits.
fn inline(outcome: &Outcome, payload: api::Payload) -> Option<api::Json> {
    let Outcome::Bytes { content_type, bytes } = outcome else { return None };
    let json = api::ending(content_type) == Some("json");
    if payload == api::Payload::Thin || !json || bytes.len() > INLINE_RESULT {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}

fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Bug(e.to_string()))
}

/// The same id at every look: the job's own, with the sequence number mixed into its random bits.
pub(super) fn derived_id(job: JobId, sequence: i64) -> EventId {
    let mut bytes = *job.uuid().as_bytes();
    for (b, s) in bytes[8..].iter_mut().zip((sequence ^ 0x5bd1_e995_5bd1_e995).to_be_bytes()) {
        *b ^= s;
    }
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    EventId::from_uuid(uuid::Uuid::from_bytes(bytes))
}

/// What a dead callback's `failureUrl` is told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeadNotice {
    pub(super) delivery_id: DeliveryId,
    pub(super) event_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job_id: Option<JobId>,
    pub(super) url: String,
    pub(super) reason: &'static str,
    pub(super) attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_error: Option<String>,
}

/// The callback of a stored job. One that cannot be read is no reason to send nothing.
pub(super) fn callback_of(job: &Job) -> Result<Option<Callback>> {
    job.callback().map_err(|e| Error::Bug(format!("stored callback of {}: {e}", job.id)))
}

/// The stored form of a callback.
pub(super) fn callback_text(callback: &Callback) -> Result<String> {
    json(callback)
}
