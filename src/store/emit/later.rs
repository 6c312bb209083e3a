//! Who of an event's subscribers is told in its own transaction, and who later: one transaction makes so many deliveries
//! and no more, and what is left to be told is as durable as the event.

use std::collections::BTreeMap;

use super::Outbox;
use crate::args;
use crate::store::batch::{Col, Sql};
use crate::types::endpoint::Endpoint;
use crate::types::{EndpointId, EventId, JobId, TenantId};

/// Endpoints that hear of one event in its own transaction; the others follow in chunks, see `fan_out`.
pub(in crate::store) const AT_ONCE: usize = 1_000;
/// Deliveries to subscribers that all events of one transaction make.
pub(super) const IN_ALL: usize = 4_000;
/// Bytes of the lists of those who are told later, of all events of one transaction.
const LISTED: usize = 8 << 20;

pub(super) static INSERT_FAN_OUTS: Sql = Sql::batch(
    "INSERT INTO fan_outs (event_id, variant, tenant_id, job_id, traceparent, created_at, done, due_at, endpoints)
     SELECT b.event_id, b.variant, b.tenant_id, b.job_id, b.traceparent, b.created_at, 0, b.created_at, b.endpoints FROM {b}",
    0,
    &[
        ("event_id", Col::Uuid),
        ("variant", Col::Text),
        ("tenant_id", Col::Uuid),
        ("job_id", Col::Uuid),
        ("traceparent", Col::Text),
        ("created_at", Col::Int),
        ("endpoints", Col::Bytes),
    ],
);

/// An event that some of its subscribers are told of later.
pub(super) struct Later<'a> {
    pub(super) event_id: EventId,
    pub(super) tenant: TenantId,
    pub(super) job_id: Option<JobId>,
    pub(super) traceparent: Option<&'a str>,
}

impl Outbox<'_> {
    /// Who is told at once, and who later: where there is no room for all, only those whose order counts go first, for what
    /// is told meanwhile would go before them.
    pub(super) fn part<'e>(&mut self, to: Vec<&'e Endpoint>) -> (Vec<&'e Endpoint>, Vec<&'e Endpoint>) {
        if to.len() <= self.room.min(AT_ONCE) {
            self.room -= to.len();
            return (to, Vec::new());
        }
        let (mut now, mut later): (Vec<_>, Vec<_>) = to.iter().partition(|e| e.settings.limits.ordered);
        // An event is put off whole rather than in crumbs, and by its thousand where it has so many.
        let whole = self.room < later.len().min(AT_ONCE);
        let room = if whole { 0 } else { AT_ONCE.saturating_sub(now.len()) };
        let rest = later.split_off(room.min(later.len()));
        now.append(&mut later);
        self.room = self.room.saturating_sub(now.len());
        (now, rest)
    }

    /// Leaves these to the steps of a fan-out, with the variant of the body that each is to get. The bodies are frozen here.
    pub(super) fn tell_later(
        &mut self,
        of: &Later<'_>,
        whom: impl IntoIterator<Item = (&'static str, EndpointId)>,
    ) {
        let mut variants: BTreeMap<&'static str, Vec<u8>> = BTreeMap::new();
        for (variant, id) in whom {
            variants.entry(variant).or_default().extend(id.uuid().into_bytes());
        }
        for (variant, ids) in variants {
            let trace = of.traceparent.map(str::to_owned);
            self.listed += ids.len();
            self.fan_outs.push(args![of.event_id, variant, of.tenant, of.job_id, trace, self.now, ids]);
        }
    }

    /// Whether it makes more deliveries in order than a transaction should, for these cannot follow later, or lists more of
    /// those who are told later.
    pub(in crate::store) fn is_crowded(&self) -> bool {
        self.ordered.len() > IN_ALL || self.listed > LISTED
    }
}
