//! What an event writes: its row, its frozen bodies, its deliveries.

mod adopt;
mod body;
mod delivery;
mod later;
mod news;
mod published;
pub(super) mod rows;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Inner;
use super::db::Value;
use super::error::{Error, Result};
use super::learn::Ended;
use super::model::{ClaimedDelivery, Standing};
use super::pool::Tx;
use super::rows::json;
use super::subscribers::{self, Audience, Group};
use crate::args;
use crate::types::api::{Format, Payload};
use crate::types::endpoint::{Endpoint, any_matches};
use crate::types::job::{Callback, Job, JobEvent, Outcome};
use crate::types::key::TokenKey;
use crate::types::{DeliveryId, EndpointId, EventId, JobId, Millis, TenantId, api};
use adopt::Adopted;
pub(super) use body::{DeadNotice, EndpointNotice};
use body::{Envelope, Shape, Told};
use delivery::Handed;
pub(super) use delivery::{NewDelivery, To};
pub(super) use later::AT_ONCE;
use later::Later;
pub(super) use news::News;
pub(super) use published::Published;

/// Everything that the events of one transaction write, gathered for one statement per table.
pub(super) struct Outbox<'a> {
    inner: &'a Inner,
    now: Millis,
    /// The endpoints that events of these accounts may go to.
    groups: HashMap<Audience, Group>,
    /// The endpoints that callbacks name; None for one that is gone.
    named: HashMap<EndpointId, Option<Arc<Endpoint>>>,
    events: Vec<Vec<Value>>,
    bodies: Vec<Vec<Value>>,
    deliveries: Vec<Vec<Value>>,
    queue: Vec<Vec<Value>>,
    handed: Vec<Handed>,
    /// For deliveries to lanes that this node does not own. None: it is not to own any.
    unowned: Option<Vec<adopt::Unowned>>,
    // Behind what is handed over: lanes are left once nothing of them is under way.
    adopted: Option<Adopted>,
    born: Vec<ClaimedDelivery>,
    ordered: Vec<delivery::Ordered>,
    /// Deliveries to subscribers that there is still room for.
    room: usize,
    /// Rows of fan-outs: who is told later.
    fan_outs: Vec<Vec<Value>>,
    /// The bytes of the lists in them.
    listed: usize,
    ended: Vec<Ended>,
    moved: Vec<Standing>,
    disabled: Vec<EndpointId>,
}

/// What is still to be done once the transaction is durable.
pub(super) struct After {
    /// Deliveries to send.
    handed: Vec<Handed>,
    /// The lanes of some of them, which this node owns from here on.
    adopted: Option<Adopted>,
    /// Jobs that have ended.
    pub(super) ended: Vec<Ended>,
    /// How far the jobs are now that have a new event or an end.
    pub(super) moved: Vec<Standing>,
    /// Endpoints that were given up.
    pub(super) disabled: Vec<EndpointId>,
}

impl After {
    /// What was handed over is sent.
    pub(super) fn pass(&mut self) {
        if let Some(adopted) = self.adopted.take() {
            adopted.keep();
        }
        self.handed.drain(..).for_each(Handed::pass);
    }
}

/// The bodies of one event made so far.
type Made = Vec<(&'static str, String)>;

impl<'a> Outbox<'a> {
    pub(super) fn new(inner: &'a Inner, now: Millis) -> Outbox<'a> {
        Outbox {
            inner,
            now,
            groups: HashMap::new(),
            named: HashMap::new(),
            events: vec![],
            bodies: vec![],
            deliveries: vec![],
            queue: vec![],
            handed: vec![],
            unowned: Some(vec![]),
            adopted: None,
            born: vec![],
            ordered: vec![],
            room: later::IN_ALL,
            fan_outs: vec![],
            listed: 0,
            ended: vec![],
            moved: vec![],
            disabled: vec![],
        }
    }

    /// Learns of the endpoints that events of these accounts may go to. Before an event of theirs is told.
    pub(super) async fn know(&mut self, tx: &mut Tx, of: impl IntoIterator<Item = Audience>) -> Result<()> {
        let unknown: BTreeSet<Audience> = of.into_iter().filter(|a| !self.groups.contains_key(a)).collect();
        if !unknown.is_empty() {
            self.groups.extend(subscribers::groups(self.inner, tx, unknown, self.now).await?);
        }
        Ok(())
    }

    /// How many endpoints these accounts have together.
    pub(super) async fn count(&self, tx: &mut Tx, of: &BTreeSet<Audience>) -> Result<usize> {
        subscribers::count(self.inner, tx, of, self.now).await
    }

    /// Learns of these endpoints, which callbacks name.
    pub(super) async fn know_named(
        &mut self,
        tx: &mut Tx,
        ids: impl IntoIterator<Item = EndpointId>,
    ) -> Result<()> {
        let unknown: BTreeSet<EndpointId> =
            ids.into_iter().filter(|id| !self.named.contains_key(id)).collect();
        if !unknown.is_empty() {
            self.named.extend(subscribers::named(self.inner, tx, unknown, self.now).await?);
        }
        Ok(())
    }

    /// The same for the events of these jobs.
    pub(super) async fn know_jobs<'j>(
        &mut self,
        tx: &mut Tx,
        jobs: impl Iterator<Item = &'j Job> + Clone,
    ) -> Result<()> {
        self.know(tx, jobs.clone().map(|job| (job.tenant, String::new()))).await?;
        self.know_named(tx, jobs.filter_map(Job::callback_endpoint)).await
    }

    /// The job events that an endpoint of the tenant wants, as bits of [`JobEvent::bit`].
    pub(super) fn wanted(&self, tenant: TenantId) -> i64 {
        self.groups.get(&(tenant, String::new())).map_or(0, |group| subscribers::job_events(group))
    }

    /// A job has ended; counted, and learned from, once that is durable.
    pub(super) fn job_ended(&mut self, job: &Job) {
        self.ended.push(Ended::of(job));
    }

    /// A job may have come further; whoever watches it is told once that is durable.
    pub(super) fn job_moved(&mut self, standing: Standing) {
        self.moved.push(standing);
    }

    /// An endpoint was given up in this transaction.
    pub(super) fn disabled(&mut self, id: EndpointId) {
        self.disabled.push(id);
    }

    /// Writes a beginning down for the job's history, once. Nobody asked for it when it happened.
    pub(super) fn history(&mut self, job: &Job, event: JobEvent, at: Millis) -> Result<()> {
        let view = api::Job { callback_state: None, ..job.view(&self.inner.urls) };
        self.event(job, event, derived_id(job.id, job.sequence), at, json(&view)?);
        Ok(())
    }

    fn event(&mut self, job: &Job, event: JobEvent, id: EventId, at: Millis, data: String) {
        let none = None::<String>;
        let kept = None::<Millis>;
        self.events.push(args![id, job.tenant, job.id, job.sequence, event.as_str(), none, at, data, kept]);
    }

    /// Tells of `event`, which gave `job` its present sequence number; `at` is when it happened.
    ///
    /// Gives the delivery of the job's callback, if that wants the event.
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
        let data = json(&view)?;
        let keys = self.inner.keys.now();
        let told = Told { job, data: &data, event, event_id, at, outcome, token_key: &keys.tokens[0] };
        let mut made = Made::new();
        let callback = callback_of(job)?.filter(|c| c.wants & event.bit() != 0);
        let reply = callback.as_ref().map(|c| self.reply(&told, c, &mut made)).transpose()?;
        let answered = callback.and_then(|c| c.endpoint_id);
        self.subscribers(&told, answered, &mut made)?;
        self.event(job, event, event_id, at, data);
        Ok(reply)
    }

    /// One event to the job's callback.
    fn reply(&mut self, told: &Told<'_>, callback: &Callback, made: &mut Made) -> Result<DeliveryId> {
        let named = callback.endpoint_id.map(|id| (id, self.named.get(&id).cloned().flatten()));
        // A callback's endpoint was held against its tenant at the submission; an id is never given twice.
        let endpoint = named.as_ref().and_then(|(_, e)| e.clone()).filter(|e| e.tenant == told.job.tenant);
        let (payload, format) = endpoint
            .as_ref()
            .map_or((Default::default(), Default::default()), |e| (e.settings.payload, e.settings.format));
        let shape = Shape {
            format: callback.format.unwrap_or(format),
            payload: callback.payload.unwrap_or(payload),
            context: callback.context.as_ref(),
        };
        let to = match (&endpoint, callback.endpoint_id) {
            (Some(endpoint), _) => To::Endpoint(endpoint),
            (None, Some(id)) => To::Gone(id, &callback.url),
            (None, None) => To::Url(&callback.url),
        };
        let new = NewDelivery {
            sealed: told.job.sealed.as_deref().map(|s| (s, told.job.id.uuid())),
            signer: callback.endpoint_id,
            policy: endpoint.as_ref().map_or(callback.retry, |e| e.settings.retry),
            failure_url: callback.failure_url.as_deref(),
            expires_at: callback.expires_at,
            ..of_job(told, to, self.body(told, shape, made)?)
        };
        self.delivery(&new)
    }

    /// One event to whoever subscribes to it, but for the endpoint that the callback names.
    fn subscribers(&mut self, told: &Told<'_>, answered: Option<EndpointId>, made: &mut Made) -> Result<()> {
        let group = self.groups.get(&(told.job.tenant, String::new())).cloned().unwrap_or_default();
        let subscribes =
            |e: &&Endpoint| Some(e.id) != answered && any_matches(&e.settings.patterns, told.event.as_str());
        let (now, later) = self.part(group.iter().map(|e| &**e).filter(subscribes).collect());
        for endpoint in now {
            self.forward(told, endpoint, made)?;
        }
        let mut to = Vec::with_capacity(later.len());
        for endpoint in later {
            to.push((self.body(told, Shape::of(endpoint), made)?.0, endpoint.id));
        }
        let Told { job, event_id, .. } = *told;
        let traceparent = job.traceparent.as_deref();
        self.tell_later(&Later { event_id, tenant: job.tenant, job_id: Some(job.id), traceparent }, to);
        Ok(())
    }

    /// One event to an endpoint that subscribes to it.
    fn forward(&mut self, told: &Told<'_>, endpoint: &Endpoint, made: &mut Made) -> Result<DeliveryId> {
        let body = self.body(told, Shape::of(endpoint), made)?;
        self.delivery(&NewDelivery {
            signer: Some(endpoint.id),
            policy: endpoint.settings.retry,
            ..of_job(told, To::Endpoint(endpoint), body)
        })
    }

    /// The event's body in that shape, frozen once.
    fn body<'m>(
        &mut self,
        told: &Told<'_>,
        shape: Shape<'_>,
        made: &'m mut Made,
    ) -> Result<(&'static str, &'m str)> {
        self.freeze(told.event_id, shape.variant(), made, || told.body(shape))
    }

    /// The body of an event that has no job, in that format.
    fn in_format<'m>(
        &mut self,
        envelope: &Envelope<'_>,
        data: &str,
        format: Format,
        made: &'m mut Made,
    ) -> Result<(&'static str, &'m str)> {
        let variant = Shape { format, payload: Payload::Full, context: None }.variant();
        self.freeze(envelope.event_id, variant, made, || match format {
            Format::Standard => envelope.around(data),
            Format::Cloudevents => Ok(data.to_owned()),
        })
    }

    /// The body of that variant; made and written the first time.
    fn freeze<'m>(
        &mut self,
        event_id: EventId,
        variant: &'static str,
        made: &'m mut Made,
        make: impl FnOnce() -> Result<String>,
    ) -> Result<(&'static str, &'m str)> {
        let place = match made.iter().position(|(known, _)| *known == variant) {
            Some(place) => place,
            None => {
                let body = make()?;
                self.bodies.push(args![event_id, variant, body.clone()]);
                made.push((variant, body));
                made.len() - 1
            }
        };
        Ok((variant, &made[place].1))
    }

    /// What was born in its caller's hands.
    pub(super) fn born(&mut self) -> Option<ClaimedDelivery> {
        self.born.pop()
    }
}

/// A delivery of a job's event, with nothing that its receiver brings.
fn of_job<'n>(told: &Told<'n>, to: To<'n>, (variant, body): (&'static str, &'n str)) -> NewDelivery<'n> {
    NewDelivery {
        event_id: told.event_id,
        event_kind: told.event.as_str(),
        event_at: told.at,
        variant,
        body,
        job_id: Some(told.job.id),
        traceparent: told.job.traceparent.as_deref(),
        ..NewDelivery::of(told.job.tenant, to)
    }
}

/// The full body of a job's event, as a callback without wishes of its own gets it.
pub(super) fn usual_body(
    job: &Job,
    view: &api::Job,
    event: JobEvent,
    outcome: Option<&Outcome>,
    token_key: &TokenKey,
) -> Result<String> {
    let shape = Shape { format: api::Format::Standard, payload: api::Payload::Full, context: None };
    let (event_id, at) = (derived_id(job.id, job.sequence), job.created_at);
    Told { job, data: &json(view)?, event, event_id, at, outcome, token_key }.body(shape)
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

/// The callback of a stored job. One that cannot be read is no reason to send nothing.
pub(super) fn callback_of(job: &Job) -> Result<Option<Callback>> {
    job.callback().map_err(|e| Error::Bug(format!("stored callback of {}: {e}", job.id)))
}

/// The stored form of a callback.
pub(super) fn callback_text(callback: &Callback) -> Result<String> {
    json(callback)
}
