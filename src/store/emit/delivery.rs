//! A delivery as it is made: its rows, and its way into this node's hands.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::Outbox;
use crate::args;
use crate::store::db::Value;
use crate::store::error::Result;
use crate::store::lanes::{lane_of, origin_of, turn_of};
use crate::store::model::{ClaimedDelivery, Receiver};
use crate::store::rows::policy_text;
use crate::store::sweep::KEEP_DELIVERIES;
use crate::store::{HandOver, Place, seconds};
use crate::types::endpoint::{Endpoint, EndpointState, PARKED, TIMEOUT_SECONDS, lane_of as lane_of_endpoint};
use crate::types::id::NodeId;
use crate::types::retry::RetryPolicy;
use crate::types::{DeliveryId, EndpointId, EventId, JobId, LaneId, Millis, TenantId};

/// By how much a lease outlasts the attempt.
const MARGIN: Duration = Duration::from_secs(15);

/// A delivery born in this node's hands. Dropped before the commit it gives its place back.
pub(in crate::store) struct Handed {
    desk: Arc<dyn HandOver>,
    claimed: Option<ClaimedDelivery>,
    place: Place,
}

impl Handed {
    pub(super) fn new(desk: Arc<dyn HandOver>, claimed: ClaimedDelivery, place: Place) -> Handed {
        Handed { desk, claimed: Some(claimed), place }
    }

    /// After the commit: the dispatcher sends it.
    pub(in crate::store) fn pass(mut self) {
        if let Some(claimed) = self.claimed.take() {
            self.desk.take(claimed, self.place);
        }
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Some(claimed) = &self.claimed {
            self.desk.give_back(claimed.lane, claimed.turn, self.place);
        }
    }
}

/// A delivery to be made.
pub(in crate::store) struct NewDelivery<'a> {
    pub(in crate::store) tenant: TenantId,
    pub(in crate::store) event_id: EventId,
    pub(in crate::store) event_kind: &'a str,
    pub(in crate::store) event_at: Millis,
    pub(in crate::store) variant: &'a str,
    pub(in crate::store) body: &'a str,
    pub(in crate::store) job_id: Option<JobId>,
    pub(in crate::store) to: To<'a>,
    pub(in crate::store) sealed: Option<(&'a [u8], Uuid)>,
    /// The endpoint whose secrets sign where nothing sealed does.
    pub(in crate::store) signer: Option<EndpointId>,
    pub(in crate::store) policy: RetryPolicy,
    pub(in crate::store) failure_url: Option<&'a str>,
    pub(in crate::store) traceparent: Option<&'a str>,
    pub(in crate::store) expires_at: Option<Millis>,
    /// In whose hands it is born; where None, in those of the dispatcher that has room for it, or in nobody's.
    pub(in crate::store) born: Option<NodeId>,
}

impl<'a> NewDelivery<'a> {
    /// One of an event that is still to be named, with nothing that its receiver or its event brings.
    pub(in crate::store) fn of(tenant: TenantId, to: To<'a>) -> NewDelivery<'a> {
        NewDelivery {
            tenant,
            event_id: EventId::from_uuid(Uuid::nil()),
            event_kind: "",
            event_at: Millis::default(),
            variant: "",
            body: "",
            job_id: None,
            to,
            sealed: None,
            signer: None,
            policy: RetryPolicy::default(),
            failure_url: None,
            traceparent: None,
            expires_at: None,
            born: None,
        }
    }
}

/// Where a delivery goes.
#[derive(Clone, Copy)]
pub(in crate::store) enum To<'a> {
    /// To a URL of its own.
    Url(&'a str),
    /// To a standing endpoint.
    Endpoint(&'a Endpoint),
    /// To one that is deleted, and the URL that it had: the delivery is made cancelled.
    Gone(EndpointId, &'a str),
}

/// Where a delivery stands in line, and where it goes.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) lane: LaneId,
    turn: i64,
    url: &'a str,
}

/// A delivery to an ordered endpoint, which gets its number when all is written.
pub(super) struct Ordered {
    pub(super) lane: LaneId,
    pub(super) tenant: TenantId,
    pub(super) endpoint: EndpointId,
    /// Which row it is among the deliveries, and in the queue.
    pub(super) at: (usize, usize),
}

impl Outbox<'_> {
    /// A delivery of an event that is told in the same transaction.
    pub(in crate::store) fn delivery(&mut self, new: &NewDelivery<'_>) -> Result<DeliveryId> {
        let id: DeliveryId = self.inner.dice.id(self.now);
        let (url, endpoint) = match new.to {
            To::Url(url) => (url, None),
            To::Endpoint(endpoint) => (endpoint.settings.url.as_str(), Some(endpoint.id)),
            To::Gone(id, url) => (url, Some(id)),
        };
        // An ordered endpoint's turn is numbered when all is written.
        let (lane, turn, host) = match new.to {
            To::Url(url) => {
                let (origin, host) = origin_of(url)?;
                (lane_of(new.tenant, origin), turn_of(url), host)
            }
            To::Endpoint(endpoint) => (endpoint.lane(), 0, endpoint.host.as_str()),
            To::Gone(id, url) => (lane_of_endpoint(id), 0, origin_of(url)?.1),
        };
        let way = Way { lane, turn, url };
        let gone = matches!(new.to, To::Gone(..)).then_some(self.now);
        self.deliveries.push(args![
            id,
            new.tenant,
            new.event_id,
            new.variant,
            new.event_kind,
            new.job_id,
            endpoint,
            account_of(new.to),
            lane,
            turn,
            url,
            host,
            new.sealed.map(|(bytes, _)| bytes.to_vec()),
            new.sealed.map(|(_, row)| row),
            new.signer,
            policy_text(&new.policy)?,
            new.failure_url,
            new.traceparent,
            new.expires_at,
            // ... of its event: what a receiver is told of the time is the same at every attempt
            new.event_at,
            if gone.is_some() { "cancelled" } else { "owed" },
            gone,
            gone.map(|at| at.plus(KEEP_DELIVERIES)),
        ]);
        if gone.is_none() {
            self.queue(id, way, new);
        }
        Ok(id)
    }

    fn queue(&mut self, id: DeliveryId, way: Way<'_>, new: &NewDelivery<'_>) {
        let Way { lane, turn, .. } = way;
        let waits = |due: Millis| {
            args![id, new.tenant, lane, turn, due, "ready", 0i64, 0i64, None::<Millis>, None::<Uuid>]
        };
        if let To::Endpoint(endpoint) = new.to
            && endpoint.settings.limits.ordered
        {
            let at = (self.deliveries.len() - 1, self.queue.len());
            self.ordered.push(Ordered { lane, tenant: new.tenant, endpoint: endpoint.id, at });
        }
        let parked = matches!(new.to, To::Endpoint(e) if e.state != EndpointState::Enabled);
        let row = match new.born {
            Some(node) => {
                let claimed = self.in_hand(id, way, new, seconds(TIMEOUT_SECONDS) + MARGIN);
                let row = leased(&claimed, node);
                self.born.push(claimed);
                row
            }
            None if parked => waits(Millis(self.now.0 + PARKED)),
            None => match self.hand_over(id, way, new) {
                Some(row) => row,
                None => waits(self.now),
            },
        };
        self.queue.push(row);
    }

    // Born claimed: attempt 1 is counted and its lease set, so the callback leaves right after the commit, to where its
    // endpoint was when this node last read it, within the last second.
    fn hand_over(&mut self, id: DeliveryId, way: Way<'_>, new: &NewDelivery<'_>) -> Option<Vec<Value>> {
        let desk = self.inner.desk.get()?.clone();
        // It has no number yet, and others may wait before it; or how it is to be sent could not be read.
        if matches!(new.to, To::Endpoint(e) if e.settings.limits.ordered || !e.readable) {
            return None;
        }
        let Some(reserved) = desk.reserve(way.lane, way.turn, new.body.len()) else {
            self.note_unowned(id, way, new, &*desk);
            return None;
        };
        let claimed = self.in_hand(id, way, new, reserved.lease);
        let row = leased(&claimed, desk.node());
        self.handed.push(Handed::new(desk, claimed, reserved.place));
        Some(row)
    }

    pub(super) fn in_hand(
        &self,
        id: DeliveryId,
        Way { lane, turn, url }: Way<'_>,
        new: &NewDelivery<'_>,
        lease: Duration,
    ) -> ClaimedDelivery {
        let endpoint = match new.to {
            To::Endpoint(endpoint) => Some(receiver(endpoint)),
            To::Url(_) | To::Gone(..) => None,
        };
        let longer = endpoint.as_ref().map_or(Duration::ZERO, Receiver::longer);
        ClaimedDelivery {
            id,
            tenant: new.tenant,
            lane,
            turn,
            fence: 1,
            number: 1,
            used: 0,
            unknowns: 0,
            started_at: self.now,
            lease_until: self.now.plus(lease + longer),
            event_id: new.event_id,
            event_kind: new.event_kind.to_owned(),
            event_at: new.event_at,
            variant: new.variant.to_owned(),
            body: new.body.to_owned().into(),
            url: url.to_owned(),
            sealed: new.sealed.map(|(bytes, row)| (bytes.to_vec(), row)),
            policy: new.policy,
            expires_at: new.expires_at,
            traceparent: new.traceparent.map(str::to_owned),
            job_id: new.job_id,
            account: account_of(new.to),
            signer: new.signer,
            endpoint,
        }
    }
}

/// The row in the queue of what is born claimed.
pub(super) fn leased(claimed: &ClaimedDelivery, node: NodeId) -> Vec<Value> {
    let ClaimedDelivery { id, tenant, lane, turn, lease_until, started_at, .. } = *claimed;
    args![id, tenant, lane, turn, lease_until, "leased", 1i64, 1i64, started_at, node]
}

pub(super) fn account_of(to: To<'_>) -> Option<String> {
    match to {
        To::Endpoint(endpoint) => endpoint.settings.account.clone(),
        To::Url(_) | To::Gone(..) => None,
    }
}

/// What an attempt needs to know of an endpoint.
fn receiver(endpoint: &Endpoint) -> Receiver {
    Receiver {
        id: endpoint.id,
        sealed: endpoint.sealed.clone(),
        timeout: seconds(endpoint.settings.limits.timeout_seconds),
        schemes: endpoint.settings.schemes.clone(),
    }
}

impl Receiver {
    /// By how much its lease must be longer than the usual one.
    pub(in crate::store) fn longer(&self) -> Duration {
        self.timeout.saturating_sub(seconds(TIMEOUT_SECONDS))
    }
}
