//! Events that belong to no job's history: for one receiver, or for whoever subscribes to them.

use serde::Serialize;
use uuid::Uuid;

use super::body::Envelope;
use super::delivery::{NewDelivery, To, account_of};
use super::later::Later;
use super::{Made, Outbox};
use crate::args;
use crate::store::error::Result;
use crate::store::rows::json;
use crate::store::sweep::KEEP_EVENTS;
use crate::types::api::Format;
use crate::types::endpoint::{Endpoint, any_matches};
use crate::types::{DeliveryId, EndpointId, EventId, JobId, TenantId};

/// What the service has to tell a tenant. It goes to the tenant's endpoints of no account.
pub(in crate::store) struct News<'n, D> {
    pub(in crate::store) tenant: TenantId,
    pub(in crate::store) kind: &'static str,
    pub(in crate::store) data: &'n D,
    /// The endpoint it is about. That one is not told: it would be sent more the worse it fares.
    pub(in crate::store) about: Option<EndpointId>,
    pub(in crate::store) job_id: Option<JobId>,
    pub(in crate::store) traceparent: Option<&'n str>,
}

/// An event that is told, and its bodies made so far.
struct Fact {
    id: EventId,
    kind: &'static str,
    /// JSON.
    data: String,
    made: Made,
}

impl Outbox<'_> {
    /// Tells one receiver.
    pub(in crate::store) fn notice<D: Serialize>(
        &mut self,
        kind: &'static str,
        data: &D,
        new: NewDelivery<'_>,
    ) -> Result<DeliveryId> {
        let mut fact = self.fact(new.tenant, account_of(new.to), kind, data)?;
        self.tell(&mut fact, new)
    }

    /// Tells whoever subscribes to it, and `asked`, who was named for it. What befalls an endpoint stands in the feed
    /// whoever subscribes; a death that nobody wants to hear of leaves no event beside its letter.
    ///
    /// The tenant must be [known](Outbox::know).
    pub(in crate::store) fn news<D: Serialize>(
        &mut self,
        news: &News<'_, D>,
        asked: Option<NewDelivery<'_>>,
    ) -> Result<()> {
        let group = self.groups.get(&(news.tenant, String::new())).cloned().unwrap_or_default();
        let readers: Vec<_> = group.iter().map(|e| &**e).filter(|e| subscribes(e, news)).collect();
        let told = news.kind.starts_with("endpoint.");
        if !told && asked.is_none() && readers.is_empty() {
            return Ok(());
        }
        let mut fact = self.fact(news.tenant, None, news.kind, news.data)?;
        if let Some(new) = asked {
            self.tell(&mut fact, new)?;
        }
        let (now, later) = self.part(readers);
        for endpoint in now {
            let new = NewDelivery {
                job_id: news.job_id,
                signer: Some(endpoint.id),
                policy: endpoint.settings.retry,
                traceparent: news.traceparent,
                ..NewDelivery::of(news.tenant, To::Endpoint(endpoint))
            };
            self.tell(&mut fact, new)?;
        }
        let mut to = Vec::with_capacity(later.len());
        for endpoint in later {
            to.push((self.frozen(&mut fact, endpoint.settings.format)?.0, endpoint.id));
        }
        let (tenant, job_id, traceparent) = (news.tenant, news.job_id, news.traceparent);
        self.tell_later(&Later { event_id: fact.id, tenant, job_id, traceparent }, to);
        Ok(())
    }

    fn fact<D: Serialize>(
        &mut self,
        tenant: TenantId,
        account: Option<String>,
        kind: &'static str,
        data: &D,
    ) -> Result<Fact> {
        let data = json(data)?;
        let id: EventId = self.inner.dice.id(self.now);
        let (job, sequence) = (None::<Uuid>, None::<i64>);
        let kept = self.now.plus(KEEP_EVENTS);
        self.events.push(args![id, tenant, job, sequence, kind, account, self.now, data.clone(), kept]);
        Ok(Fact { id, kind, data, made: Made::new() })
    }

    fn tell(&mut self, fact: &mut Fact, new: NewDelivery<'_>) -> Result<DeliveryId> {
        let format = match new.to {
            To::Endpoint(endpoint) => endpoint.settings.format,
            To::Url(_) | To::Gone(..) => Format::Standard,
        };
        let (event_id, event_kind, event_at) = (fact.id, fact.kind, self.now);
        let (variant, body) = self.frozen(fact, format)?;
        self.delivery(&NewDelivery { event_id, event_kind, event_at, variant, body, ..new })
    }

    /// The body in that format, frozen once.
    fn frozen<'f>(&mut self, fact: &'f mut Fact, format: Format) -> Result<(&'static str, &'f str)> {
        let (kind, timestamp, event_id) = (fact.kind, self.now, fact.id);
        let envelope = Envelope { kind, timestamp, event_id, sequence: None, account: None };
        self.in_format(&envelope, &fact.data, format, &mut fact.made)
    }
}

fn subscribes<D>(endpoint: &Endpoint, news: &News<'_, D>) -> bool {
    Some(endpoint.id) != news.about && any_matches(&endpoint.settings.patterns, news.kind)
}
