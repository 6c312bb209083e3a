//! Fan-outs: the endpoints of a published event that its transaction had no room for, told in chunks.
//!
//! Who is told was fixed when the event was published; a step only makes what is still missing. Any node takes it.

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;

use super::batch::{Col, Sql};
use super::db::{Row, Value};
use super::emit::{Outbox, Published, To};
use super::error::Result;
use super::pool::Tx;
use super::publish::{AT_ONCE, NewEvent};
use super::{Store, subscribers};
use crate::args;
use crate::types::endpoint::Endpoint;
use crate::types::{EndpointId, Millis};

static PUT_OFF: Sql = Sql::batch(
    "INSERT INTO fan_outs (event_id, tenant_id, traceparent, endpoints, done)
     SELECT b.event_id, b.tenant_id, b.traceparent, b.endpoints, 0 FROM {b}",
    0,
    &[
        ("event_id", Col::Uuid),
        ("tenant_id", Col::Uuid),
        ("traceparent", Col::Text),
        ("endpoints", Col::Bytes),
    ],
);
// The oldest first; each is locked for as long as its step lasts, so two nodes never make one chunk twice.
static NEXT: Sql = Sql::plain(
    "SELECT q.event_id, q.tenant_id, q.traceparent, q.endpoints, q.done, e.kind, e.account, e.created_at, e.data
     FROM fan_outs q JOIN events e ON e.id = q.event_id
     ORDER BY q.event_id LIMIT 20 {lock}",
);
static ADVANCE: Sql = Sql::plain("UPDATE fan_outs SET done = $2 WHERE event_id = $1");
static FINISH: Sql = Sql::plain("DELETE FROM fan_outs WHERE event_id = $1");
static URLS: Sql =
    Sql::batch("SELECT e.id, e.url FROM {b} JOIN endpoints e ON e.id = b.id", 0, &[("id", Col::Uuid)]);

/// The bytes of an id.
const WIDTH: usize = 16;

pub(super) fn row(event: &NewEvent, later: &[&Endpoint]) -> Vec<Value> {
    let ids: Vec<u8> = later.iter().flat_map(|e| e.id.uuid().into_bytes()).collect();
    args![event.id, event.tenant, event.traceparent.clone(), ids]
}

pub(super) async fn put_off(tx: &mut Tx, rows: Vec<Vec<Value>>) -> Result<()> {
    tx.batch(&PUT_OFF, vec![], rows).await.map(drop)
}

impl Store {
    /// One chunk of the oldest fan-outs; gives how many deliveries that were. Zero: none is left, or another node
    /// has them in hand.
    pub async fn step_fan_outs(&self, now: Millis) -> Result<usize> {
        let mut tx = self.0.writers.begin().await?;
        let rows = tx.all(&NEXT, vec![]).await?;
        let chunks = chunks(&rows)?;
        if chunks.is_empty() {
            tx.rollback().await?;
            return Ok(0);
        }
        let ids: BTreeSet<EndpointId> = chunks.iter().flat_map(|c| c.ids.iter().copied()).collect();
        let gone_urls = urls(&mut tx, &ids).await?;
        let known = subscribers::named(&self.0, &mut tx, ids, now).await?;
        let mut out = Outbox::new(&self.0, now);
        // Nobody repeats it without, if others hold their rows.
        out.leaves_lanes();
        for chunk in &chunks {
            let to: Vec<To<'_>> =
                chunk.ids.iter().filter_map(|id| receiver(*id, &known, &gone_urls)).collect();
            chunk.tell(&mut out, &to)?;
            match chunk.last {
                true => tx.run(&FINISH, args![chunk.row.uuid(0)?]).await?,
                false => tx.run(&ADVANCE, args![chunk.row.uuid(0)?, chunk.done]).await?,
            };
        }
        let mut after = out.write(&mut tx).await?;
        tx.commit().await?;
        after.pass();
        Ok(chunks.iter().map(|c| c.ids.len()).sum())
    }
}

/// What one step makes of one fan-out.
struct Chunk<'r> {
    row: &'r Row,
    ids: Vec<EndpointId>,
    /// How many will have been told.
    done: i64,
    last: bool,
}

/// As many as one transaction makes, over the oldest fan-outs.
fn chunks(rows: &[Row]) -> Result<Vec<Chunk<'_>>> {
    let mut room = AT_ONCE;
    let mut chunks = Vec::new();
    for row in rows.iter() {
        if room == 0 {
            break;
        }
        let all = row.bytes(3)?;
        let done = usize::try_from(row.int(4)?).unwrap_or_default();
        let ids: Vec<EndpointId> = all
            .chunks_exact(WIDTH)
            .skip(done)
            .take(room)
            .filter_map(|bytes| Some(EndpointId::from_uuid(Uuid::from_slice(bytes).ok()?)))
            .collect();
        room -= ids.len();
        let told = done + ids.len();
        let done = i64::try_from(told).unwrap_or(i64::MAX);
        chunks.push(Chunk { row, ids, done, last: told * WIDTH >= all.len() });
    }
    Ok(chunks)
}

impl Chunk<'_> {
    fn tell(&self, out: &mut Outbox<'_>, to: &[To<'_>]) -> Result<()> {
        let row = self.row;
        let (kind, account, data, trace) = (row.text(5)?, row.text_opt(6)?, row.text(8)?, row.text_opt(2)?);
        let event = Published {
            tenant: row.id(1)?,
            id: row.id(0)?,
            kind: &kind,
            account: account.as_deref(),
            data: &data,
            at: row.time(7)?,
            traceparent: trace.as_deref(),
        };
        out.publish(&event, to)
    }
}

/// Where the endpoint is; a deleted one's delivery is made cancelled, and none once all traces of it are gone.
fn receiver<'k>(
    id: EndpointId,
    known: &'k HashMap<EndpointId, Option<std::sync::Arc<Endpoint>>>,
    gone_urls: &'k HashMap<EndpointId, String>,
) -> Option<To<'k>> {
    match known.get(&id).and_then(Option::as_deref) {
        Some(endpoint) => Some(To::Endpoint(endpoint)),
        None => gone_urls.get(&id).map(|url| To::Gone(id, url)),
    }
}

async fn urls(tx: &mut Tx, ids: &BTreeSet<EndpointId>) -> Result<HashMap<EndpointId, String>> {
    let rows = tx.batch(&URLS, vec![], ids.iter().map(|id| args![*id]).collect()).await?;
    rows.iter().map(|r| Ok((r.id(0)?, r.text(1)?))).collect()
}
