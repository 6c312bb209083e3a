//! A published event on its way to its endpoints.

use super::body::Envelope;
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

    /// A delivery of the event to each of these.
    pub(in crate::store) fn publish(&mut self, event: &Published<'_>, to: &[To<'_>]) -> Result<()> {
        let (mut standard, mut cloudevents) = (None, None);
        for to in to {
            let (variant, body) = match to {
                To::Endpoint(e) if e.settings.format == Format::Cloudevents => {
                    ("cloudevents", &*cloudevents.get_or_insert_with(|| event.data.to_owned()))
                }
                To::Endpoint(_) | To::Gone(..) | To::Url(_) => {
                    if standard.is_none() {
                        let (kind, timestamp, account) = (event.kind, event.at, event.account);
                        let envelope =
                            Envelope { kind, timestamp, event_id: event.id, sequence: None, account };
                        standard = Some(envelope.around(event.data)?);
                    }
                    ("standard", &*standard.get_or_insert_default())
                }
            };
            self.delivery(&to_endpoint(event, *to, (variant, body)))?;
        }
        for (variant, body) in [("standard", standard), ("cloudevents", cloudevents)] {
            if let Some(body) = body {
                self.bodies.push(args![event.id, variant, body]);
            }
        }
        Ok(())
    }
}

fn to_endpoint<'n>(
    event: &Published<'n>,
    to: To<'n>,
    (variant, body): (&'static str, &'n str),
) -> NewDelivery<'n> {
    let endpoint: Option<&Endpoint> = match to {
        To::Endpoint(endpoint) => Some(endpoint),
        To::Url(_) | To::Gone(..) => None,
    };
    NewDelivery {
        tenant: event.tenant,
        event_id: event.id,
        event_kind: event.kind,
        event_at: event.at,
        variant,
        body,
        job_id: None,
        to,
        sealed: None,
        signer: endpoint.map(|e| e.id),
        policy: endpoint.map(|e| e.settings.retry).unwrap_or_default(),
        failure_url: None,
        traceparent: event.traceparent,
        expires_at: None,
        born: None,
    }
}
