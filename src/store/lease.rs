//! `lease`: gives due jobs to a worker.

mod floors;
mod offers;
mod taker;

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::batch::Sql;
use super::db::{Row, Value};
use super::emit::Outbox;
use super::error::Result;
use super::limits;
use super::model::{LeaseRequest, Standing};
use super::pool::Tx;
use super::rows::held;
use super::submit::READ_JOBS;
use super::{Inner, Store, seconds};
use crate::args;
use crate::types::job::{Job, JobEvent, JobState, LOST};
use crate::types::{JobId, Millis, TenantId, api};
use floors::Floor;
pub(super) use floors::Floors;
pub use offers::Offer;
pub(super) use offers::{Offers, Waiting};
pub(super) use taker::{LeasedRow, Taker};
use taker::{Room, document_bytes};

/// Tenant, queue, and the type if only one is looked for.
type QueueKey = (TenantId, String, Option<String>);

// Of any type, or of one: each has its own index, so that a rare type is not looked for among a million others.
macro_rules! claim {
    ($of_kind:literal) => {
        concat!(
            "WITH due AS MATERIALIZED (
                 SELECT q.job_id, q.due_at FROM job_queue q
                 WHERE q.tenant_id = $1 AND q.queue = $2 AND q.level = $3
                   AND q.due_at > $4  -- the first that was found: before it lie dead index entries, and stragglers for the next pass
                   AND q.due_at <= $5
                   AND q.attempts_left > 0  -- the sweep ends a job whose last attempt was lost
                   AND q.cancel_at IS NULL
                   AND (q.deadline_at IS NULL OR q.deadline_at > $5) ",
            $of_kind,
            " ORDER BY q.due_at
                 LIMIT $6
                 {lock}
             ),
             -- what follows once the documents have so many bytes waits for another claim
             picked AS MATERIALIZED (
                 SELECT s.job_id
                 FROM (SELECT d.job_id, SUM(",
            document_bytes!(),
            ") OVER (ORDER BY d.due_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
                       FROM due d LEFT JOIN jobs j ON j.id {is d.job_id}) AS s
                 WHERE COALESCE(s.before, 0) < CAST($12 AS BIGINT)
             )
             UPDATE job_queue
             SET phase = 'leased', fence = fence + 1, token = $7, attempt = attempt + 1, attempts_left = attempts_left - 1,
                 due_at = $8, lease_seconds = $9, worker_id = $10,
                 -- an endpoint asks for the beginning: that its row is written must be known later on
                 wants = wants | $11,
                 lost_at = CASE WHEN phase = 'leased' THEN started_at END,
                 lost_sequence = CASE WHEN phase = 'leased' THEN started_sequence END,
                 sequence = sequence + CASE WHEN phase = 'leased' THEN 2 ELSE 1 END,
                 started_at = $5,
                 started_sequence = sequence + CASE WHEN phase = 'leased' THEN 2 ELSE 1 END,
                 progress = NULL, progress_at = NULL, progress_due = NULL, message = NULL, error = NULL, error_code = NULL,
                 watch_at = CASE WHEN deadline_at < $5 + timeout_ms THEN deadline_at ELSE $5 + timeout_ms END
             FROM picked WHERE job_queue.job_id {is picked.job_id}
             RETURNING job_queue.job_id, fence, attempt, wants, lost_at, lost_sequence, timeout_ms, deadline_at, sequence"
        )
    };
}
pub(super) static CLAIM: Sql = Sql::plain(claim!(""));
pub(super) static CLAIM_KIND: Sql = Sql::plain(claim!("AND q.kind = $13"));

// Five probes of the index, each above its floor, for the first that is due; without them each claim would try five
// levels. Where it asked whether one EXISTS, PostgreSQL made a join of them that began without the floors; without the LIMIT it
// would probe once more for the condition.
macro_rules! levels {
    ($of_kind:literal) => {
        concat!(
            "SELECT f.level, f.due_at
             FROM (SELECT l.column1 AS level,
                          (SELECT q.due_at FROM job_queue q
                           WHERE q.tenant_id = $1 AND q.queue = $2 AND q.level = l.column1
                             AND q.due_at > l.column2 AND q.due_at <= $3
                             -- what no claim takes must not wake one
                             AND q.attempts_left > 0 AND q.cancel_at IS NULL
                             AND (q.deadline_at IS NULL OR q.deadline_at > $3) ",
            $of_kind,
            "              ORDER BY q.due_at LIMIT 1) AS due_at
                   FROM (VALUES (CAST(0 AS BIGINT), $4), (1, $5), (2, $6), (3, $7), (4, $8)) AS l LIMIT 5) AS f
             WHERE f.due_at IS NOT NULL ORDER BY f.level"
        )
    };
}
static LEVELS: Sql = Sql::plain(levels!(""));
static LEVELS_KIND: Sql = Sql::plain(levels!("AND q.kind = $9"));

/// Bytes of the documents that one claim looks for; the last one may go beyond. The claims of a transaction get
/// [`TOGETHER_BYTES`]: while they are read nobody writes.
const CLAIM_BYTES: i64 = 4 << 20;
/// See [`CLAIM_BYTES`].
pub(super) const TOGETHER_BYTES: i64 = 16 << 20;

/// Jobs that one statement looks for: it locks what it finds, though not all of it may fit.
const BITE: usize = 128;

/// Claims due jobs, the higher levels first. What it has room for beyond them it may take of what is submitted beside it;
/// that is all for a claim that does not `look`, as it knows that nothing else is due.
pub(super) async fn lease<'w>(
    inner: &Inner,
    tx: &mut Tx,
    out: &mut Outbox<'_>,
    (want, look): (&'w LeaseRequest, bool),
    held: &mut limits::Held,
    now: Millis,
) -> Result<Taker<'w>> {
    let most = limits::room(tx, held, want, now).await? as usize;
    let mut room = Room { jobs: most, bytes: CLAIM_BYTES };
    let mut taker = Taker::new(want, inner.dice.bytes(), now);
    // Others may count on the same room: where it is limited, what is submitted waits for the next look.
    let beside = !held.contains_key(&want.of_queue());
    if !look {
        taker.has(room, beside);
        return Ok(taker);
    }
    out.know(tx, [(want.tenant, String::new())]).await?;
    let mut kinds = want.kinds();
    // With any of them: where few jobs are all that there is room for, each type has its turn.
    let begin = usize::from(taker.seed[0]) % kinds.len();
    kinds.rotate_left(begin);
    let mut more = Vec::new();
    for (i, kind) in kinds.iter().enumerate() {
        // Its share, so that a busy type does not keep the next one waiting for ever; what one leaves the next may have.
        let share = room.share(kinds.len() - i);
        let left = claim(inner, tx, out, &mut taker, kind.as_deref(), share, now).await?;
        // Of those with less there is nothing to be had a second time.
        if left.is_none() && kinds.len() > 1 {
            more.push(kind);
        }
        room = room.less(share.less(left));
    }
    for kind in more {
        room = claim(inner, tx, out, &mut taker, kind.as_deref(), room, now).await?;
    }
    limits::taken(held, want, most - room.jobs);
    taker.has(room, beside);
    Ok(taker)
}

impl LeaseRequest {
    /// Each type that is looked for by itself; `None` stands for any.
    pub(super) fn kinds(&self) -> Vec<Option<String>> {
        if self.types.is_empty() { vec![None] } else { self.types.iter().cloned().map(Some).collect() }
    }

    pub(super) fn of_queue(&self) -> (TenantId, String) {
        (self.tenant, self.queue.clone())
    }

    pub(super) fn key(&self, kind: Option<&str>) -> QueueKey {
        (self.tenant, self.queue.clone(), kind.map(str::to_owned))
    }

    /// What asks at which levels something is due, and since when.
    fn probe(&self, kind: Option<&str>, floor: &Floor, now: Millis) -> (&'static Sql, Vec<Value>) {
        let mut args = args![self.tenant, self.queue.as_str(), now];
        args.extend(floor.levels.map(Value::from));
        match kind {
            None => (&LEVELS, args),
            Some(kind) => {
                args.push(kind.into());
                (&LEVELS_KIND, args)
            }
        }
    }
}

/// The levels at which something is due, the more urgent first, and since when.
fn firsts(found: &[Row]) -> Result<Vec<(usize, i64)>> {
    found.iter().map(|row| Ok((usize::try_from(row.int(0)?).unwrap_or(0).min(4), row.int(1)?))).collect()
}

/// Claims the jobs of one type, or of any, that there is room for, and gives what is left of it.
async fn claim(
    inner: &Inner,
    tx: &mut Tx,
    out: &mut Outbox<'_>,
    taker: &mut Taker<'_>,
    kind: Option<&str>,
    mut room: Room,
    now: Millis,
) -> Result<Room> {
    if room.is_none() {
        return Ok(room);
    }
    let want = taker.want;
    let key = want.key(kind);
    let floor = inner.floors.get(&key, now);
    let (levels, probe) = want.probe(kind, &floor, now);
    let began = Instant::now();
    let firsts = firsts(&tx.all(levels, probe).await?)?;
    inner.floors.found(&key, &floor, &firsts, began.elapsed(), now);
    let mut firsts = firsts.into_iter().peekable();
    while let Some((level, due_at)) = firsts.peek().copied()
        && !room.is_none()
    {
        let asked = room.jobs.min(BITE);
        let mut args = args![
            want.tenant,
            want.queue.as_str(),
            i64::try_from(level).unwrap_or(2),
            due_at - 1,
            now,
            i64::try_from(asked).unwrap_or(i64::MAX),
            taker.seed.to_vec(),
            now.plus(seconds(want.lease_seconds)),
            want.renew_seconds.unwrap_or(want.lease_seconds),
            want.worker_id.clone(),
            out.wanted(want.tenant) & JobEvent::Started.bit(),
            room.bytes,
        ];
        args.extend(kind.map(Value::from));
        let sql = if kind.is_some() { &CLAIM_KIND } else { &CLAIM };
        let mut rows = tx.all(sql, args).await?;
        if rows.len() < asked {
            firsts.next();
        }
        // `RETURNING` has no order; ids rise with the time of submission.
        rows.sort_by_cached_key(|row| row.uuid(0).ok());
        tell(tx, out, &rows, now).await?;
        room = room.less(taker.found(tx, rows, now).await?);
    }
    Ok(room)
}

impl Store {
    /// Whether a claim would find something now. Takes nothing and writes nothing: for who waits.
    pub async fn any_due(&self, want: &LeaseRequest, now: Millis) -> Result<bool> {
        if !self.lets_through(want, now).await? {
            return Ok(false);
        }
        for kind in want.kinds() {
            let key = want.key(kind.as_deref());
            let floor = self.0.floors.get(&key, now);
            let (levels, probe) = want.probe(kind.as_deref(), &floor, now);
            let engine = self.0.scouts.engine();
            let firsts = firsts(&self.scout(levels.text(engine), probe).await?)?;
            // How long it took says nothing: it may have waited for a connection.
            self.0.floors.found(&key, &floor, &firsts, Duration::ZERO, now);
            if !firsts.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Events that must be rows: a lost attempt's, and beginnings that a receiver asked for.
async fn tell(tx: &mut Tx, out: &mut Outbox<'_>, rows: &[Row], now: Millis) -> Result<()> {
    let mut lost: HashMap<JobId, (Millis, i64)> = HashMap::new();
    let mut ids = Vec::new();
    for row in rows {
        let id: JobId = row.id(0)?;
        out.job_moved(Standing { id, sequence: row.int(8)?, ended: false });
        if let (Some(at), Some(sequence)) = (row.time_opt(4)?, row.int_opt(5)?) {
            lost.insert(id, (at, sequence));
        }
        if lost.contains_key(&id) || row.int(3)? & JobEvent::Started.bit() != 0 {
            ids.push(args![id]);
        }
    }
    let rows = tx.batch(&READ_JOBS, vec![], ids).await?;
    let jobs = rows.iter().map(|row| held(row, now)).collect::<Result<Vec<_>>>()?;
    out.know_jobs(tx, jobs.iter().map(|held| &held.job)).await?;
    for held in jobs {
        let told = held.wants & JobEvent::Started.bit() != 0;
        if let Some((at, sequence)) = lost.get(&held.job.id) {
            retrying(out, &held.job, *at, *sequence, now)?;
        }
        if told {
            out.job_event(&held.job, JobEvent::Started, now, None)?;
        }
    }
    Ok(())
}

/// The holder before was lost: its beginning and its end come before the new beginning.
fn retrying(out: &mut Outbox<'_>, job: &Job, at: Millis, sequence: i64, now: Millis) -> Result<()> {
    let mut before = super::change::as_started(job, sequence, at);
    before.attempt = job.attempt.saturating_sub(1);
    out.history(&before, JobEvent::Started, at)?;
    before.state = JobState::Retrying;
    before.sequence = job.sequence - 1;
    before.error_info = Some(api::ErrorInfo {
        code: Some("worker-lost".to_owned()),
        message: Some(LOST.to_owned()),
        retryable: true,
        attempt: before.attempt,
    });
    out.job_event(&before, JobEvent::Retrying, now, None).map(drop)
}
