//! The tenant's feed: what happened, in the order of the commits.
//!
//! A page ends below everything that may still be committed (PostgreSQL: the oldest running transaction; SQLite has one
//! writer), so nothing ever appears behind a cursor that was given. What a retention took away raises the tenant's mark,
//! and a cursor below the mark has missed something.

use std::collections::HashMap;

use uuid::Uuid;

use super::Store;
use super::batch::{Col, Sql};
use super::db::{Engine, Row};
use super::error::{Error, Result};
use super::pool::Tx;
use crate::args;
use crate::types::event::{Cursor, FeedFilter};
use crate::types::{EventId, Millis, TenantId, api};

/// Rows looked through at once for those that a filter wants.
const LOOK: u32 = 1_000;
/// Looks of one page; then it says how far it came.
const LOOKS: u32 = 10;

// The first `job.queued` and the `job.started` of a running attempt are told by the job's own columns, and tests of
// an endpoint are nobody else's news: none of these is in any feed. Word by word, as the index has it (see the migration).
macro_rules! told {
    () => {
        "kind <> 'job.queued' AND kind <> 'job.started' AND kind <> 'webhook.test' AND kind <> 'webhook.verify'"
    };
}
/// Of events that are removed, what [`raise_marks`] has to know.
macro_rules! removed {
    () => {
        concat!(
            " RETURNING tenant_id, position, id, CAST(CASE WHEN ",
            $crate::store::feed::told!(),
            " THEN 1 ELSE 0 END AS BIGINT)"
        )
    };
}
pub(super) use {removed, told};

static SCAN: Sql = Sql::plain(concat!(
    "SELECT e.position, e.id, e.kind, e.account FROM events e
     WHERE e.tenant_id = $1 AND (e.position, e.id) > ($2, $3) AND e.position < {horizon} AND ",
    told!(),
    " ORDER BY e.position, e.id LIMIT $4"
));
static HELD: Sql = Sql::plain(concat!(
    "SELECT 1 FROM events e WHERE e.tenant_id = $1 AND (e.position, e.id) > ($2, $3) AND ",
    told!(),
    " LIMIT 1"
));
static DOCUMENTS: Sql = Sql::batch(
    "SELECT e.id, e.job_id, e.sequence, e.kind, e.account, e.created_at, e.data FROM {b} JOIN events e ON e.id = b.id",
    0,
    &[("id", Col::Uuid)],
);
static MARK: Sql = Sql::plain("SELECT m.position, m.event_id FROM feed_marks m WHERE m.tenant_id = $1");
static HEADS: Sql = Sql::batch(
    concat!(
        "SELECT b.tenant_id,
           (SELECT e.position FROM events e WHERE e.tenant_id = b.tenant_id AND e.position < {horizon} AND ",
        told!(),
        " ORDER BY e.position DESC LIMIT 1)
         FROM {b}"
    ),
    0,
    &[("tenant_id", Col::Uuid)],
);
// What of all that was begun the oldest that is still running, or prepared, holds back, on the whole server.
const HOLDS: &str = "SELECT pg_snapshot_xmax(s)::text::bigint - pg_snapshot_xmin(s)::text::bigint FROM pg_current_snapshot() s";
static RAISE: Sql = Sql::batch(
    "INSERT INTO feed_marks (tenant_id, position, event_id) SELECT b.tenant_id, b.position, b.event_id FROM {b}
     WHERE true
     ORDER BY b.tenant_id
     ON CONFLICT (tenant_id) DO UPDATE SET position = excluded.position, event_id = excluded.event_id
     WHERE (excluded.position, excluded.event_id) > (feed_marks.position, feed_marks.event_id)",
    0,
    &[("tenant_id", Col::Uuid), ("position", Col::Int), ("event_id", Col::Uuid)],
);

/// A page of the feed.
#[derive(Debug)]
pub struct FeedPage {
    /// Its events, each with the place behind it.
    pub events: Vec<(Cursor, api::FeedEvent)>,
    /// Where the next page begins; the given one if nothing has come since.
    pub end: Cursor,
    /// Whether more is there already.
    pub more: bool,
    /// Whether there is something that waits for what may still be committed before it.
    pub held: bool,
}

/// The position of the last commit that told a tenant something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Whose.
    pub tenant: TenantId,
    /// 0 where there was none.
    pub position: i64,
}

impl Store {
    /// The events behind `after` that the filter wants, oldest first, at most `limit`.
    ///
    /// `CursorExpired` if some behind the cursor are past their retention; from the beginning means behind the last
    /// that was removed: what is kept before that, because something still needs it, is an island between gaps.
    pub async fn feed(
        &self,
        tenant: TenantId,
        filter: &FeedFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<FeedPage> {
        let begin = match after {
            Some(after) => after,
            None => self.feed_mark(tenant).await?.unwrap_or(Cursor::START),
        };
        let (places, end, more) = self.look_through(tenant, filter, begin, limit).await?;
        let ids = places.iter().map(|place| args![place.event]).collect();
        let rows = self.read_batch(&DOCUMENTS, vec![], ids).await?;
        let mut found =
            rows.iter().map(|r| Ok((r.uuid(0)?, event(r)?))).collect::<Result<HashMap<_, _>>>()?;
        // Asked last: what the retention takes away while this page is read has raised it.
        if let (Some(after), Some(mark)) = (after, self.feed_mark(tenant).await?)
            && after < mark
        {
            return Err(Error::CursorExpired);
        }
        let events = places.into_iter().filter_map(|place| Some((place, found.remove(&place.event)?)));
        let events = events.collect();
        let held = !more && self.store_is_ahead(tenant, end).await?;
        Ok(FeedPage { events, end, more, held })
    }

    /// The last event that was removed from the feed.
    async fn feed_mark(&self, tenant: TenantId) -> Result<Option<Cursor>> {
        let rows = self.read(MARK.text(self.0.readers.engine()), args![tenant]).await?;
        rows.first().map(|row| Ok(Cursor { position: row.int(0)?, event: row.uuid(1)? })).transpose()
    }

    /// Whether something is committed behind the end of the feed: a running transaction holds it back.
    async fn store_is_ahead(&self, tenant: TenantId, end: Cursor) -> Result<bool> {
        let engine = self.0.readers.engine();
        let args = args![tenant, end.position, end.event];
        Ok(engine == Engine::Postgres && !self.read(HELD.text(engine), args).await?.is_empty())
    }

    /// How many transactions may be held back from every feed by the oldest that is still running. 0 where one writer
    /// is all there is.
    pub(super) async fn feed_holds(&self) -> Result<i64> {
        match self.0.readers.engine() {
            Engine::Sqlite => Ok(0),
            Engine::Postgres => self.read(HOLDS, vec![]).await?.first().map_or(Ok(0), |row| row.int(0)),
        }
    }

    /// The places of the wanted events, how far that was looked, and whether there may be more.
    async fn look_through(
        &self,
        tenant: TenantId,
        filter: &FeedFilter,
        after: Cursor,
        limit: u32,
    ) -> Result<(Vec<Cursor>, Cursor, bool)> {
        let (mut places, mut end) = (Vec::new(), after);
        let at_once = if filter.is_open() { limit + 1 } else { LOOK };
        for _ in 0..LOOKS {
            let sql = SCAN.text(self.0.readers.engine());
            let rows = self.read(sql, args![tenant, end.position, end.event, at_once]).await?;
            for row in &rows {
                let place = Cursor { position: row.int(0)?, event: row.uuid(1)? };
                if filter.wants(&row.text(2)?, row.text_opt(3)?.as_deref()) {
                    if places.len() == limit as usize {
                        return Ok((places, end, true));
                    }
                    places.push(place);
                }
                end = place;
            }
            if rows.len() < at_once as usize {
                return Ok((places, end, false));
            }
        }
        Ok((places, end, true))
    }

    /// Behind all that the feed has told so far, also where the newest of it is gone.
    pub async fn feed_end(&self, tenant: TenantId) -> Result<Cursor> {
        let heads = self.feed_heads(&[tenant]).await?;
        let head = Cursor::behind(heads.first().map_or(0, |head| head.position));
        // Asked last: what the retention took away since has raised it.
        Ok(self.feed_mark(tenant).await?.map_or(head, |mark| mark.max(head)))
    }

    /// How far the feeds of these tenants are.
    ///
    /// For the loop that wakes a node's followers: it tells nothing but numbers.
    pub async fn feed_heads(&self, tenants: &[TenantId]) -> Result<Vec<Head>> {
        let rows = tenants.iter().map(|tenant| args![*tenant]).collect();
        let rows = self.scout_batch(&HEADS, vec![], rows).await?;
        let head = |r: &Row| Ok(Head { tenant: r.id(0)?, position: r.int_opt(1)?.unwrap_or_default() });
        rows.iter().map(head).collect()
    }
}

fn event(row: &Row) -> Result<api::FeedEvent> {
    let timestamp: Millis = row.time(5)?;
    Ok(api::FeedEvent {
        event_id: row.id(0)?,
        job_id: row.id_opt(1)?,
        sequence: row.int_opt(2)?,
        kind: row.text(3)?,
        account: row.text_opt(4)?,
        timestamp,
        data: api::raw(row.text(6)?),
    })
}

/// Remembers that these rows were removed, as `removed!` gives them. Nobody misses what no feed tells.
pub(super) async fn raise_marks(tx: &mut Tx, removed: &[Row]) -> Result<()> {
    let mut marks: HashMap<Uuid, Cursor> = HashMap::new();
    for row in removed {
        if row.int(3)? == 0 {
            continue;
        }
        let at = Cursor::at(row.int(1)?, EventId::from_uuid(row.uuid(2)?));
        let mark = marks.entry(row.uuid(0)?).or_insert(at);
        *mark = at.max(*mark);
    }
    let rows = marks.iter().map(|(tenant, mark)| args![*tenant, mark.position, mark.event]).collect();
    tx.batch(&RAISE, vec![], rows).await.map(drop)
}
