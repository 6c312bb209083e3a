//! `publish`: events, their deliveries and their idempotency keys, in one transaction.

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;

use super::Store;
use super::batch::{Col, Sql};
use super::commit::{Op, Reply};
use super::db::Value;
use super::emit::{AT_ONCE, Outbox, Published as Told};
use super::error::{Error, Result};
use super::idempotency::{Claim, Claimed, claim_keys, pass_keys};
use super::pool::Tx;
use super::subscribers::Audience;
use super::sweep::KEEP_EVENTS;
use crate::args;
use crate::types::endpoint::{Endpoint, any_matches};
use crate::types::event::Draft;
use crate::types::job::Idempotency;
use crate::types::problem::{FieldError, Invalid, ProblemCode};
use crate::types::{EventId, Millis, TenantId};

/// Deliveries to ordered endpoints that the events of one request may make: these cannot follow later, for what is
/// published meanwhile would go before them.
const ORDERED_IN_ALL: usize = 10_000;
/// Deliveries that they may make in all, most of them later: who is to be told is written with the events, 16 bytes each.
const TOLD_IN_ALL: usize = 4_000_000;

static INSERT: Sql = Sql::batch(
    "INSERT INTO events (id, tenant_id, kind, account, created_at, data, deliveries, remove_at)
     SELECT b.id, b.tenant_id, b.kind, b.account, $1, b.data, b.deliveries, $2 FROM {b}
     WHERE true  -- a repeated write after a lost answer must not tell it twice
     ON CONFLICT (id) DO NOTHING
     RETURNING id",
    2,
    &[
        ("id", Col::Uuid),
        ("tenant_id", Col::Uuid),
        ("kind", Col::Text),
        ("account", Col::Text),
        ("data", Col::Text),
        ("deliveries", Col::Int),
    ],
);

static EARLIER: Sql =
    Sql::batch("SELECT e.id, e.deliveries FROM {b} JOIN events e ON e.id = b.id", 0, &[("id", Col::Uuid)]);

/// Endpoints of the accounts of one request's events, where these are several: they are read by the writer.
const READ_IN_ALL: usize = 20_000;

/// An event to publish.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Minted before, so that a repeated write is known.
    pub id: EventId,
    /// From the key.
    pub tenant: TenantId,
    /// What it says; checked.
    pub draft: Draft,
    /// W3C Trace Context of the request.
    pub traceparent: Option<String>,
    /// Recognises a repeated request.
    pub idempotency: Option<Idempotency>,
}

/// The events of one request.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The events.
    pub events: Vec<NewEvent>,
    /// All or none.
    pub atomic: bool,
}

impl Publication {
    pub(super) fn bytes(&self) -> usize {
        self.events.iter().map(|e| e.draft.data.len()).sum()
    }
}

/// An event that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Names it.
    pub event_id: EventId,
    /// To how many endpoints it goes.
    pub deliveries: u64,
    /// An earlier request had published it.
    pub replayed: bool,
}

/// The event's own id is that of an event that says something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reused;

pub(super) type Answer = std::result::Result<Published, Reused>;

impl Store {
    /// A fresh event id.
    pub fn mint_event_id(&self, now: Millis) -> EventId {
        self.0.dice.id(now)
    }

    /// Stores events that were checked, with their deliveries. One answer per event, in order.
    ///
    /// `KeyReused` or `KeyInFlight` if an idempotency key says so; `Invalid` if all or none were to be stored and
    /// one's own id is another event's.
    pub async fn publish(&self, publication: Publication, now: Millis) -> Result<Vec<Answer>> {
        let about = |e: &NewEvent| self.0.subscribers.about(&audience(e)).clamp(1, AT_ONCE);
        let rows = publication.events.iter().map(about).sum();
        match self.0.committer.call(Op::Publish(publication, rows), now).await? {
            Reply::Publish(answers) => Ok(answers),
            _ => Err(Error::Bug("the answer belongs to another verb".to_owned())),
        }
    }
}

fn audience(event: &NewEvent) -> Audience {
    (event.tenant, event.draft.account.clone().unwrap_or_default())
}

/// Publishes several requests' events. One answer per event of each, in order.
pub(super) async fn publish(
    tx: &mut Tx,
    out: &mut Outbox<'_>,
    many: &[&Publication],
    now: Millis,
) -> Result<Vec<Vec<Answer>>> {
    let events: Vec<&NewEvent> = many.iter().flat_map(|p| &p.events).collect();
    let owners = owners(tx, many, &events, now).await?;
    let fresh: Vec<&NewEvent> =
        events.iter().zip(&owners).filter(|(e, o)| **o == Ok(e.id)).map(|(e, _)| *e).collect();
    let accounts: BTreeSet<Audience> = fresh.iter().map(|e| audience(e)).collect();
    // What comes together with others is halved until it stands alone. One account is read whatever it has.
    if accounts.len() > 1 && out.count(tx, &accounts).await? > READ_IN_ALL {
        return Err(too_much(format!("the accounts of the events have more than {READ_IN_ALL} endpoints")));
    }
    out.know(tx, accounts).await?;
    let groups: Vec<_> = fresh.iter().map(|e| out.group(&audience(e))).collect();
    let mut room = TOLD_IN_ALL;
    let mut matching = Vec::with_capacity(fresh.len());
    for (event, group) in fresh.iter().zip(&groups) {
        let to = matching_of(group, &event.draft.kind);
        room = room.checked_sub(to.len()).ok_or_else(|| crowd(TOLD_IN_ALL, "endpoints"))?;
        matching.push(to);
    }
    refuse_crowds(many, &fresh, &matching)?;
    let rows = fresh.iter().zip(&matching).map(|(e, to)| event_row(e, to.len())).collect::<Result<_>>()?;
    let made = tx.batch(&INSERT, args![now, now.plus(KEEP_EVENTS)], rows).await?;
    let made: HashMap<Uuid, ()> = made.iter().map(|r| Ok((r.uuid(0)?, ()))).collect::<Result<_>>()?;
    for (event, to) in fresh.iter().zip(matching).filter(|(e, _)| made.contains_key(&e.id.uuid())) {
        out.publish(&told(event, now), to)?;
    }
    let counts = counts(tx, &owners).await?;
    let answer = |event: &NewEvent, owner: std::result::Result<EventId, Reused>| {
        let event_id = owner?;
        let deliveries = counts.get(&event_id.uuid()).copied().unwrap_or_default();
        Ok(Published { event_id, deliveries, replayed: event_id != event.id })
    };
    let mut answers = events.iter().zip(owners).map(|(event, owner)| answer(event, owner));
    Ok(many.iter().map(|p| answers.by_ref().take(p.events.len()).collect()).collect())
}

/// The event that each of these is: itself, or the one that an earlier request published.
///
/// First the events' own ids, then the requests' keys: a key tells of what its event turned out to be.
async fn owners(
    tx: &mut Tx,
    many: &[&Publication],
    events: &[&NewEvent],
    now: Millis,
) -> Result<Vec<std::result::Result<EventId, Reused>>> {
    let mut owners: Vec<_> = events.iter().map(|e| Ok(e.id)).collect();
    let own: Vec<(usize, Claim<'_>)> = events
        .iter()
        .enumerate()
        .filter_map(|(i, e)| Some((i, claim(e, e.draft.own.as_ref()?, e.id))))
        .collect();
    let answers = claim_keys(tx, &own.iter().map(|(_, claim)| *claim).collect::<Vec<_>>(), now).await?;
    for ((i, _), answer) in own.iter().zip(answers) {
        owners[*i] = match answer {
            Claimed::First => Ok(events[*i].id),
            Claimed::Repeats(first) => Ok(EventId::from_uuid(first)),
            Claimed::Refused => Err(Reused),
        };
    }
    refuse_whole(many, &owners)?;
    let keyed: Vec<(usize, Claim<'_>)> = events
        .iter()
        .enumerate()
        .filter_map(|(i, e)| Some((i, claim(e, e.idempotency.as_ref()?, owners[i].ok()?))))
        .collect();
    let answers = claim_keys(tx, &keyed.iter().map(|(_, claim)| *claim).collect::<Vec<_>>(), now).await?;
    let mut passed = Vec::new();
    for ((i, _), answer) in keyed.iter().zip(answers) {
        match answer {
            Claimed::First => {}
            // Its own id was claimed just now, for an event that is another one after all.
            Claimed::Repeats(first) => {
                let first = EventId::from_uuid(first);
                passed.extend(events[*i].draft.own.as_ref().map(|key| claim(events[*i], key, first)));
                owners[*i] = Ok(first);
            }
            // The flush is halved until that request stands alone and takes nothing with it.
            Claimed::Refused => return Err(Error::KeyReused),
        }
    }
    pass_keys(tx, &passed).await?;
    Ok(owners)
}

fn claim<'e>(event: &NewEvent, key: &'e Idempotency, makes: EventId) -> Claim<'e> {
    Claim { tenant: event.tenant, key, makes: makes.uuid() }
}

/// All or none: the flush is halved until the request stands alone, and takes nothing with it.
fn refuse_whole(many: &[&Publication], owners: &[std::result::Result<EventId, Reused>]) -> Result<()> {
    let mut rest = owners;
    for publication in many {
        let (own, others) = rest.split_at(publication.events.len());
        rest = others;
        let at = |i: usize| FieldError { pointer: format!("/events/{i}/id"), detail: REUSED.to_owned() };
        let errors: Vec<FieldError> = (0..own.len()).filter(|i| own[*i].is_err()).map(at).collect();
        if publication.atomic && !errors.is_empty() {
            let code = ProblemCode::IdempotencyKeyReused;
            return Err(Invalid { code, detail: REUSED.to_owned(), errors }.into());
        }
    }
    Ok(())
}

/// Refuses a request whose events are more than one transaction bears; in smaller batches they can be published.
fn refuse_crowds(many: &[&Publication], fresh: &[&NewEvent], matching: &[Vec<&Endpoint>]) -> Result<()> {
    let ordered = |to: &Vec<&Endpoint>| to.iter().filter(|e| e.settings.limits.ordered).count();
    let each: HashMap<Uuid, usize> =
        fresh.iter().zip(matching).map(|(event, to)| (event.id.uuid(), ordered(to))).collect();
    let all = |p: &Publication| p.events.iter().filter_map(|e| each.get(&e.id.uuid())).sum::<usize>();
    if each.values().sum::<usize>() <= ORDERED_IN_ALL
        || !many.iter().any(|p| p.events.len() > 1 && all(p) > ORDERED_IN_ALL)
    {
        return Ok(());
    }
    Err(crowd(ORDERED_IN_ALL, "ordered endpoints"))
}

fn crowd(most: usize, to: &str) -> Error {
    too_much(format!("the events make more than {most} deliveries to {to}"))
}

fn too_much(what: String) -> Error {
    let detail = format!("{what}; publish fewer at once");
    Invalid { code: ProblemCode::PayloadTooLarge, detail, errors: Vec::new() }.into()
}

/// Why an event's own id is refused.
const REUSED: &str = "is the id of an event that says something else";

impl Reused {
    /// Why, in words.
    pub const WHY: &'static str = REUSED;
}

fn matching_of<'g>(group: &'g [std::sync::Arc<Endpoint>], kind: &str) -> Vec<&'g Endpoint> {
    let wanted = |e: &&'g Endpoint| any_matches(&e.settings.patterns, kind);
    group.iter().map(|e| &**e).filter(wanted).collect()
}

fn told(event: &NewEvent, now: Millis) -> Told<'_> {
    Told {
        tenant: event.tenant,
        id: event.id,
        kind: &event.draft.kind,
        account: event.draft.account.as_deref(),
        data: &event.draft.data,
        at: now,
        traceparent: event.traceparent.as_deref(),
    }
}

fn event_row(event: &NewEvent, deliveries: usize) -> Result<Vec<Value>> {
    let deliveries = i64::try_from(deliveries).map_err(|_| Error::Bug("too many endpoints".to_owned()))?;
    let draft = &event.draft;
    Ok(args![
        event.id,
        event.tenant,
        draft.kind.as_str(),
        draft.account.clone(),
        draft.data.as_str(),
        deliveries
    ])
}

/// How many deliveries each of these events has had from the beginning.
async fn counts(tx: &mut Tx, owners: &[std::result::Result<EventId, Reused>]) -> Result<HashMap<Uuid, u64>> {
    let ids: std::collections::BTreeSet<EventId> = owners.iter().flatten().copied().collect();
    let rows = tx.batch(&EARLIER, vec![], ids.iter().map(|id| args![*id]).collect()).await?;
    let count = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
    rows.iter().map(|r| Ok((r.uuid(0)?, count(r.int_opt(1)?)))).collect()
}
