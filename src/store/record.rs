//! `record`: writes what attempts came to. A dead letter is laid down in the same transaction.

use std::collections::{HashMap, HashSet};

use super::batch::{Col, Sql};
use super::db::{Row, Value};
use super::emit::{DeadNotice, NewDelivery, News, Outbox, To};
use super::error::{Error, Result};
use super::health;
use super::lanes::origin_of;
use super::model::Attempted;
use super::pool::Tx;
use super::probe::probes;
use super::sweep::{KEEP_DELIVERIES, KEEP_LETTERS};
use crate::args;
use crate::types::delivery::{DeadReason, Exchange, Fault, Outcome, Verdict};
use crate::types::{DeliveryId, Millis};

pub(super) static END_QUEUE: Sql = Sql::batch(
    "DELETE FROM delivery_queue USING {b}
     WHERE delivery_queue.delivery_id {is b.delivery_id} AND delivery_queue.fence = b.fence AND delivery_queue.again = b.again
       AND phase = 'leased'
     RETURNING delivery_queue.delivery_id",
    0,
    &[("delivery_id", Col::Uuid), ("fence", Col::Int), ("again", Col::Int)],
);

pub(super) static RETRY_QUEUE: Sql = Sql::batch(
    "UPDATE delivery_queue
     SET phase = 'ready', attempt = b.attempt, again = 0,
         -- a new round that was asked for meanwhile begins at once
         due_at = CASE WHEN again = 1 THEN $1 ELSE b.due_at END,
         used = CASE WHEN again = 1 THEN 0 ELSE used + b.counts END,
         unknowns = CASE WHEN b.counts = 1 OR again = 1 THEN 0 ELSE unknowns END
     FROM {b} WHERE delivery_queue.delivery_id {is b.delivery_id} AND delivery_queue.fence = b.fence
       AND delivery_queue.phase = 'leased'  -- written once: a repeat must not count the attempt again
     RETURNING delivery_queue.delivery_id, delivery_queue.due_at",
    1,
    &[
        ("delivery_id", Col::Uuid),
        ("fence", Col::Int),
        ("due_at", Col::Int),
        ("counts", Col::Int),
        ("attempt", Col::Int),
    ],
);

// A test or a challenge that fails dies without a letter, as if that were discarded already: who asked for it is told,
// and nothing of it is to be sent again or told to others.
pub(super) static UPDATE_DELIVERIES: Sql = Sql::batch(
    concat!(
        "UPDATE deliveries
         SET state = b.state, version = version + CASE WHEN b.state = 'owed' THEN 0 ELSE 1 END, fence = b.fence,
             attempt = b.attempt, last_status = COALESCE(b.last_status, deliveries.last_status),
             first_error = COALESCE(first_error, b.error), last_error = COALESCE(b.error, last_error),
             ended_at = b.ended_at, remove_at = b.remove_at,
             discarded_at = CASE WHEN b.state = 'dead' AND event_kind IN (",
        probes!(),
        ") THEN b.ended_at END,
             -- an endpoint's may have changed since
             url = COALESCE(b.url, deliveries.url), host = COALESCE(b.host, deliveries.host)
         FROM {b}
         WHERE deliveries.id = b.id
           AND deliveries.state || '' = 'owed'"
    ),
    0,
    &[
        ("id", Col::Uuid),
        ("state", Col::Text),
        ("fence", Col::Int),
        ("attempt", Col::Int),
        ("last_status", Col::Int),
        ("error", Col::Text),
        ("ended_at", Col::Int),
        ("remove_at", Col::Int),
        ("url", Col::Text),
        ("host", Col::Text),
    ],
);

pub(super) static INSERT_ATTEMPTS: Sql = Sql::batch(
    "INSERT INTO attempts (delivery_id, number, started_at, duration_ms, phases, address, status, error, headers, body,
                           next_at)
     SELECT b.delivery_id, b.number, b.started_at, b.duration_ms, b.phases, b.address, b.status, b.error, b.headers,
            b.body, b.next_at
     FROM {b}
     WHERE true ON CONFLICT (delivery_id, number) DO NOTHING",
    0,
    &[
        ("delivery_id", Col::Uuid),
        ("number", Col::Int),
        ("started_at", Col::Int),
        ("duration_ms", Col::Int),
        ("phases", Col::Text),
        ("address", Col::Text),
        ("status", Col::Int),
        ("error", Col::Text),
        ("headers", Col::Text),
        ("body", Col::Bytes),
        ("next_at", Col::Int),
    ],
);

static LAY_DOWN: Sql = Sql::batch(
    concat!(
        "INSERT INTO dead_letters (delivery_id, tenant_id, event_kind, job_id, endpoint_id, account, url, host, reason,
                                   attempts, first_error, last_error, died_at)
         SELECT d.id, d.tenant_id, d.event_kind, d.job_id, d.endpoint_id, d.account, d.url, d.host, b.reason,
                d.attempt, d.first_error, d.last_error, $1
         FROM {b} JOIN deliveries d ON d.id = b.delivery_id
         WHERE d.event_kind NOT IN (",
        probes!(),
        ") ON CONFLICT (delivery_id) DO NOTHING"
    ),
    1,
    &[("delivery_id", Col::Uuid), ("reason", Col::Text)],
);

// The end of what tells of a death is not told again, or two dead receivers would speak of each other for ever.
static DEAD: Sql = Sql::batch(
    concat!(
        "SELECT d.id, d.tenant_id, d.event_kind, d.job_id, d.endpoint_id, d.account, d.url, b.reason, d.attempt, d.last_error,
                d.failure_url, d.sealed, d.sealed_row, d.signer_id, d.traceparent
         FROM {b} JOIN deliveries d ON d.id = b.delivery_id
         WHERE d.event_kind NOT IN ('delivery.dead', ",
        probes!(),
        ") ORDER BY d.id"
    ),
    0,
    &[("delivery_id", Col::Uuid), ("reason", Col::Text)],
);

/// Answer headers that a receiver may use for secrets.
const REDACTED: &[&str] = &[
    "api-key",
    "apikey",
    "authentication-info",
    "authorization",
    "cookie",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "set-cookie",
    "set-cookie2",
    "www-authenticate",
    "x-access-token",
    "x-amz-security-token",
    "x-api-key",
    "x-api-token",
    "x-auth-token",
    "x-csrf-token",
    "x-refresh-token",
    "x-session-token",
    "x-xsrf-token",
];

/// An attempt whose lease was held, and the verdict as it is written: a new round that was asked for
/// meanwhile lets go on what would have ended.
struct Ours<'a> {
    attempted: &'a Attempted,
    verdict: Verdict,
}

/// Writes the outcomes; gives the verdicts as written. None where the lease was lost: a zombie changes nothing.
pub(super) async fn record(
    tx: &mut Tx,
    out: &mut Outbox<'_>,
    attempted: &[&Attempted],
    now: Millis,
) -> Result<Vec<Option<Verdict>>> {
    let mut all: Vec<&Attempted> = attempted.to_vec();
    all.sort_unstable_by_key(|a| a.id);
    let (again, ended): (Vec<&Attempted>, Vec<&Attempted>) =
        all.iter().partition(|a| next_at(a.verdict).is_some());
    let mut held: HashSet<DeliveryId> = HashSet::new();
    let mut next: HashMap<DeliveryId, Millis> = HashMap::new();
    let end = |a: &&Attempted, asked: i64| args![a.id, a.fence, asked];
    for row in tx.batch(&END_QUEUE, vec![], ended.iter().map(|a| end(a, 0)).collect()).await? {
        held.insert(row.id(0)?);
    }
    // What was not ended is another's by now, or someone has asked for a new round while it was under way.
    let left: Vec<&Attempted> = ended.into_iter().filter(|a| !held.contains(&a.id)).collect();
    let (dead, delivered): (Vec<_>, Vec<_>) =
        left.into_iter().partition(|a| dead_reason(a.verdict).is_some());
    for row in tx.batch(&END_QUEUE, vec![], delivered.iter().map(|a| end(a, 1)).collect()).await? {
        held.insert(row.id(0)?);
    }
    let rows = again.iter().chain(&dead).map(|a| retry_row(a)).collect();
    for row in tx.batch(&RETRY_QUEUE, args![now], rows).await? {
        held.insert(row.id(0)?);
        next.insert(row.id(0)?, row.time(1)?);
    }
    let written = |a: &Attempted| {
        let verdict = next.get(&a.id).map_or(a.verdict, |at| Verdict::RetryAt(*at));
        held.contains(&a.id).then_some(verdict)
    };
    let ours: Vec<Ours<'_>> = all
        .into_iter()
        .filter_map(|attempted| Some(Ours { attempted, verdict: written(attempted)? }))
        .collect();
    let attempts = ours.iter().filter_map(|a| Some(attempt_row(a, a.attempted.exchange.as_ref()?))).collect();
    tx.later(&INSERT_ATTEMPTS, vec![], attempts).await?;
    tx.later(&UPDATE_DELIVERIES, vec![], ours.iter().map(|a| delivery_row(a, now)).collect()).await?;
    let dead = ours.iter().filter_map(|a| Some((a.attempted.id, dead_reason(a.verdict)?))).collect();
    bury(tx, out, dead, now).await?;
    health::note(tx, out, ours.iter().map(|a| (a.attempted, a.verdict)), now).await?;
    Ok(attempted.iter().map(|a| written(a)).collect())
}

/// Lays down a letter for each delivery that has just ended dead, and tells of it.
pub(super) async fn bury(
    tx: &mut Tx,
    out: &mut Outbox<'_>,
    dead: Vec<(DeliveryId, DeadReason)>,
    now: Millis,
) -> Result<()> {
    let rows = || dead.iter().map(|(id, reason)| args![*id, reason.as_str()]).collect::<Vec<_>>();
    tx.batch(&LAY_DOWN, args![now], rows()).await?;
    tell_of_dead(tx, out, rows()).await
}

fn next_at(verdict: Verdict) -> Option<Millis> {
    match verdict {
        Verdict::RetryAt(at) => Some(at),
        Verdict::Delivered | Verdict::Dead(_) => None,
    }
}

fn dead_reason(verdict: Verdict) -> Option<DeadReason> {
    match verdict {
        Verdict::Dead(reason) => Some(reason),
        Verdict::Delivered | Verdict::RetryAt(_) => None,
    }
}

/// Requests begun so far: an attempt that was never sent is none.
fn begun(a: &Attempted) -> u32 {
    if a.exchange.is_some() { a.number } else { a.number.saturating_sub(1) }
}

fn retry_row(a: &Attempted) -> Vec<Value> {
    args![a.id, a.fence, next_at(a.verdict), i64::from(a.counts), begun(a)]
}

fn status_and_error(exchange: &Exchange) -> (Option<u16>, Option<String>) {
    match exchange.outcome {
        Outcome::Answered { status: status @ 200..=299, .. } => (Some(status), None),
        Outcome::Answered { status, .. } => (Some(status), Some(format!("status {status}"))),
        Outcome::Failed(fault) => (None, Some(fault.kind().to_owned())),
    }
}

fn delivery_row(ours: &Ours<'_>, now: Millis) -> Vec<Value> {
    let a = ours.attempted;
    let (status, error) = match &a.exchange {
        Some(exchange) => status_and_error(exchange),
        None => {
            let reason = dead_reason(ours.verdict).or(a.unsignable());
            (None, reason.map(|r| r.as_str().to_owned()))
        }
    };
    let (state, ended, kept) = match ours.verdict {
        Verdict::Delivered => ("delivered", Some(now), KEEP_DELIVERIES),
        Verdict::RetryAt(_) => ("owed", None, KEEP_DELIVERIES),
        Verdict::Dead(_) => ("dead", Some(now), KEEP_LETTERS),
    };
    let remove = ended.map(|at| at.plus(kept));
    let url = a.endpoint.as_ref().map(|(_, url)| url.clone());
    let host = url.as_deref().and_then(|url| origin_of(url).ok()).map(|(_, host)| host.to_owned());
    args![a.id, state, a.fence, begun(a), status.map(i64::from), error, ended, remove, url, host]
}

fn attempt_row(ours: &Ours<'_>, exchange: &Exchange) -> Vec<Value> {
    let a = ours.attempted;
    let status = match exchange.outcome {
        Outcome::Answered { status, .. } => Some(i64::from(status)),
        Outcome::Failed(_) => None,
    };
    let error = match exchange.outcome {
        Outcome::Answered { .. } => None,
        Outcome::Failed(fault) => Some(fault.kind()),
    };
    let refused = matches!(exchange.outcome, Outcome::Failed(Fault::Refused(_)));
    let headers: Vec<(&str, &str)> =
        exchange.headers.iter().map(|(n, v)| (n.as_str(), redact(n, v))).collect();
    args![
        a.id,
        a.number,
        a.started_at,
        i64::try_from(exchange.duration.as_millis()).unwrap_or(i64::MAX),
        // Where the time of a refused attempt went, and where to, would tell one refused address from another.
        if refused { None } else { serde_json::to_string(&exchange.phases).ok() },
        exchange.address.filter(|_| !refused).map(|address| address.to_string()),
        status,
        error,
        if headers.is_empty() { None } else { serde_json::to_string(&headers).ok() },
        if exchange.body.is_empty() { None } else { Some(exchange.body.to_vec()) },
        next_at(ours.verdict),
    ]
}

fn redact<'a>(name: &str, value: &'a str) -> &'a str {
    if REDACTED.contains(&name.to_ascii_lowercase().as_str()) { "redacted" } else { value }
}

/// Whoever subscribes to it is told what died, and so is who was named for it with the callback.
async fn tell_of_dead(tx: &mut Tx, out: &mut Outbox<'_>, dead: Vec<Vec<Value>>) -> Result<()> {
    let rows = tx.batch(&DEAD, vec![], dead).await?;
    let tenants = rows.iter().map(|row| Ok((row.id(1)?, String::new()))).collect::<Result<Vec<_>>>()?;
    out.know(tx, tenants).await?;
    for row in &rows {
        // It is dead all the same, and so are the others.
        if let Err(e) = tell_of_one(out, row) {
            let id: DeliveryId = row.id(0)?;
            tracing::error!(delivery.id = %id, error = %e, "nobody can be told that a delivery is dead");
        }
    }
    Ok(())
}

fn tell_of_one(out: &mut Outbox<'_>, row: &Row) -> Result<()> {
    let (tenant, data, trace) = (row.id(1)?, dead_notice(row)?, row.text_opt(14)?);
    let (url, sealed, sealed_row) = (row.text_opt(10)?, row.bytes_opt(11)?, row.uuid_opt(12)?);
    let named = url.as_deref().filter(|url| origin_of(url).is_ok());
    if url.is_some() && named.is_none() {
        tracing::error!(delivery.id = %data.delivery_id, "the failure URL of a dead delivery is none: only who subscribes is told");
    }
    // The callback's own secret signs, or its endpoint's.
    let signer = row.id_opt(13)?;
    let asked = named.map(|url| NewDelivery {
        job_id: data.job_id,
        signer,
        sealed: sealed.as_deref().zip(sealed_row),
        traceparent: trace.as_deref(),
        ..NewDelivery::of(tenant, To::Url(url))
    });
    let news = News {
        tenant,
        kind: "delivery.dead",
        data: &data,
        about: data.endpoint_id,
        job_id: data.job_id,
        traceparent: trace.as_deref(),
    };
    out.news(&news, asked)
}

fn dead_notice(row: &Row) -> Result<DeadNotice> {
    let reason = row.text(7)?;
    Ok(DeadNotice {
        delivery_id: row.id(0)?,
        event_type: row.text(2)?,
        job_id: row.id_opt(3)?,
        endpoint_id: row.id_opt(4)?,
        account: row.text_opt(5)?,
        url: row.text(6)?,
        reason: reason.parse::<DeadReason>().map_err(|_| Error::Bug(reason))?.as_str(),
        attempts: row.count(8)?,
        last_error: row.text_opt(9)?,
    })
}
