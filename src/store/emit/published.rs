//! A published event on its way to its endpoints.

use super::body::Envelope;
use super::later::Later;
use super::{Group, Made, NewDelivery, Outbox, To};
use crate::store::error::Result;
use crate::store::subscribers::Audience;
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
        let (event_id, kind, timestamp, account) = (event.id, event.kind, event.at, event.account);
        let envelope = Envelope { kind, timestamp, event_id, sequence: None, account };
        let mut made = Made::new();
        let (now, later) = self.part(to);
        for endpoint in now {
            let body = self.in_format(&envelope, event.data, endpoint.settings.format, &mut made)?;
            self.delivery(&to_endpoint(event, endpoint, body))?;
        }
        let mut to = Vec::with_capacity(later.len());
        for endpoint in later {
            let format = endpoint.settings.format;
            to.push((self.in_format(&envelope, event.data, format, &mut made)?.0, endpoint.id));
        }
        let (tenant, traceparent) = (event.tenant, event.traceparent);
        self.tell_later(&Later { event_id, tenant, job_id: None, traceparent }, to);
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
