//! A published event on its way to its endpoints.

use super::body::Envelope;
use super::later::Later;
use super::{Group, NewDelivery, Outbox, To};
use crate::args;
use crate::store::error::Result;
use crate::store::subscribers::Audience;
use crate::types::api::Format;
use crate::types::endpoint::Endpoint;
use crate::types::{EventId, Millis, TenantId};

/// A published event.
pub(in crate::store) struct Published<'a> {
    pub(in crate::store) tenant: TenantId,
    pub(in crate::store) id: EventId,
    pub(in crate::store) kind: &'a str,
    pub(in crate::store) account: Option<&'a str>,
    pub(in crate::store) data: &'a str,
    pub(in crate::store) at: Millis,
    pub(in crate::store) traceparent: Option<&'a str>,
}

impl Outbox<'_> {
    /// The endpoints of an account that [`Outbox::know`] was asked for.
    pub(in crate::store) fn group(&self, of: &Audience) -> Group {
        self.groups.get(of).cloned().unwrap_or_default()
    }

    /// A delivery of the event to each of these, now or later.
    pub(in crate::store) fn publish(&mut self, event: &Published<'_>, to: Vec<&Endpoint>) -> Result<()> {
        let wanted = |format: Format| to.iter().any(|e| e.settings.format == format);
        let (kind, timestamp, account) = (event.kind, event.at, event.account);
        let envelope = Envelope { kind, timestamp, event_id: event.id, sequence: None, account };
        let standard = wanted(Format::Standard).then(|| envelope.around(event.data)).transpose()?;
        let cloudevents = wanted(Format::Cloudevents).then(|| event.data.to_owned());
        let frozen = |format: Format| match format {
            Format::Standard => ("standard", standard.as_deref().unwrap_or_default()),
            Format::Cloudevents => ("cloudevents", event.data),
        };
        let (now, later) = self.part(to);
        for endpoint in now {
            self.delivery(&to_endpoint(event, endpoint, frozen(endpoint.settings.format)))?;
        }
        let (event_id, tenant, traceparent) = (event.id, event.tenant, event.traceparent);
        let later = later.into_iter().map(|e| (frozen(e.settings.format).0, e.id));
        self.tell_later(&Later { event_id, tenant, job_id: None, traceparent }, later);
        for (variant, body) in [("standard", standard), ("cloudevents", cloudevents)] {
            self.bodies.extend(body.map(|body| args![event.id, variant, body]));
        }
        Ok(())
    }
}

fn to_endpoint<'n>(
    event: &Published<'n>,
    endpoint: &'n Endpoint,
    (variant, body): (&'static str, &'n str),
) -> NewDelivery<'n> {
    NewDelivery {
        event_id: event.id,
        event_kind: event.kind,
        event_at: event.at,
        variant,
        body,
        signer: Some(endpoint.id),
        policy: endpoint.settings.retry,
        traceparent: event.traceparent,
        ..NewDelivery::of(event.tenant, To::Endpoint(endpoint))
    }
}
