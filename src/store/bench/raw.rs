//! What the database alone can do: the rows of whole jobs, written in full batches and nothing else.
//!
//! The writes are the service's own statements. What is left out is all that a rule, a look-up or a wait costs, so
//! this is the limit for a service with these tables and indexes, not for some other schema.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use uuid::Uuid;

use crate::args;
use crate::dice::Dice;
use crate::store::batch::{Col, Sql};
use crate::store::change::write::{END_JOBS, END_QUEUE as END_JOB};
use crate::store::commit::committers;
use crate::store::db::{Call, Row, Target, Value};
use crate::store::emit::rows::{
    INSERT_BODIES, INSERT_DELIVERIES, INSERT_EVENTS, INSERT_QUEUE as OWE_DELIVERY,
};
use crate::store::error::{Error, Result};
use crate::store::pool::{Pool, Tx};
use crate::store::record::{END_QUEUE as END_DELIVERY, INSERT_ATTEMPTS, UPDATE_DELIVERIES};
use crate::store::submit::{INSERT_JOBS, INSERT_QUEUE as OWE_JOB};
use crate::store::{WAIT, migrate};
use crate::types::Millis;
use crate::types::id::Id;

/// Rows of one statement.
const BATCH: usize = 200;

// The claim of jobs that are known, without looking for them.
static LEASE: Sql = Sql::batch(
    "UPDATE job_queue
     SET phase = 'leased', fence = fence + 1, token = $1, attempt = attempt + 1, attempts_left = attempts_left - 1,
         due_at = $2, lease_seconds = 60, worker_id = 'bench', sequence = sequence + 1, started_at = $3,
         started_sequence = sequence + 1, watch_at = $2
     FROM {b} WHERE job_queue.job_id {is b.job_id}",
    3,
    &[("job_id", Col::Uuid)],
);

static LAST_JOB: Sql = Sql::plain(
    "SELECT j.tenant_id, j.kind, j.queue, j.worker, j.input, j.callback, j.metadata, j.traceparent, j.created_at,
            j.result, j.result_type, e.kind, e.data, o.variant, o.body, d.lane_id, d.turn, d.url, d.host, d.policy,
            a.phases, a.address, a.headers
     FROM jobs j
     LEFT JOIN deliveries d ON d.id = j.delivery_id
     LEFT JOIN events e ON e.id = d.event_id
     LEFT JOIN bodies o ON o.event_id = d.event_id AND o.variant = d.variant
     LEFT JOIN attempts a ON a.delivery_id = d.id
     WHERE $1 = 0 OR d.state = 'delivered'
     ORDER BY j.id DESC LIMIT 1",
);

/// What one job of a run wrote, so that the like can be written again.
pub struct Sample {
    tenant: Uuid,
    kind: String,
    queue: String,
    worker: String,
    input: String,
    callback: Option<String>,
    metadata: String,
    traceparent: Option<String>,
    now: Millis,
    end: Option<End>,
}

struct End {
    result: Option<Vec<u8>>,
    result_type: Option<String>,
    event_kind: String,
    data: String,
    variant: String,
    body: String,
    lane: Uuid,
    turn: i64,
    url: String,
    host: String,
    policy: Option<String>,
    phases: Option<String>,
    address: Option<String>,
    headers: Option<String>,
}

impl Sample {
    /// The last job in a store: the last that was called back, if `whole`.
    pub async fn last(url: &str, whole: bool) -> Result<Sample> {
        let target = Target::parse(url)?;
        let last = Call::All(LAST_JOB.text(target.engine()), args![i64::from(whole)]);
        let (_, done) = target.connect(true).await?.call(last).await?;
        let row = done.rows.first().ok_or(Error::NotFound)?;
        let end = if whole { Some(end(row)?) } else { None };
        Ok(Sample {
            tenant: row.uuid(0)?,
            kind: row.text(1)?,
            queue: row.text(2)?,
            worker: row.text(3)?,
            input: row.text_opt(4)?.unwrap_or_default(),
            callback: row.text_opt(5)?,
            metadata: row.text(6)?,
            traceparent: row.text_opt(7)?,
            now: row.time(8)?,
            end,
        })
    }

    /// Bytes of the callback's body; 0 where there is none.
    pub fn body_bytes(&self) -> usize {
        self.end.as_ref().map_or(0, |end| end.body.len())
    }
}

fn end(row: &Row) -> Result<End> {
    Ok(End {
        result: row.bytes_opt(9)?,
        result_type: row.text_opt(10)?,
        event_kind: row.text(11)?,
        data: row.text(12)?,
        variant: row.text(13)?,
        body: row.text(14)?,
        lane: row.uuid(15)?,
        turn: row.int(16)?,
        url: row.text(17)?,
        host: row.text(18)?,
        policy: row.text_opt(19)?,
        phases: row.text_opt(20)?,
        address: row.text_opt(21)?,
        headers: row.text_opt(22)?,
    })
}

/// A store that takes such rows.
pub struct Raw {
    pool: Pool,
    writers: usize,
    sample: Arc<Sample>,
}

impl Raw {
    /// Opens the empty store at `url` with as many writers as a node has.
    pub async fn open(url: &str, sample: Sample) -> Result<Raw> {
        let target = Target::parse(url)?;
        migrate::migrate(&target).await?;
        let writers = committers(target.engine());
        let pool = Pool::new(target.pinned(), 1, false, WAIT);
        Ok(Raw { pool, writers, sample: Arc::new(sample) })
    }

    /// Writes all that `jobs` jobs write, and returns when the last is durable.
    pub async fn write(&self, jobs: usize) -> Result<()> {
        let mut writers = JoinSet::new();
        for n in 0..self.writers {
            let share = jobs / self.writers + usize::from(n < jobs % self.writers);
            self.pool.spawn(&mut writers, |pool| write(pool, Arc::clone(&self.sample), share))?;
        }
        while let Some(ended) = writers.join_next().await {
            ended.map_err(|e| Error::Bug(e.to_string()))??;
        }
        Ok(())
    }
}

/// The ids of one job's rows.
struct Ids {
    job: Uuid,
    event: Uuid,
    delivery: Uuid,
}

/// One after the other, in one transaction each: submitted, claimed, completed, recorded.
async fn write(pool: Pool, sample: Arc<Sample>, mut jobs: usize) -> Result<()> {
    let mut at = sample.now;
    while jobs > 0 {
        let batch = jobs.min(BATCH);
        jobs -= batch;
        // Ids grow, as those of a service do.
        at = at.plus(Duration::from_millis(1));
        let new = || Id::<()>::mint(at, Dice::Os.bytes()).uuid();
        let ids: Vec<Ids> = (0..batch).map(|_| Ids { job: new(), event: new(), delivery: new() }).collect();
        let mut tx = pool.open().await?;
        submit(&mut tx, &sample, &ids).await?;
        tx.commit().await?;
        let Some(end) = &sample.end else { continue };
        let mut tx = pool.open().await?;
        let until = sample.now.plus(Duration::from_secs(60));
        let scalars = args![TOKEN.to_vec(), until, sample.now];
        tx.batch(&LEASE, scalars, ids.iter().map(|i| args![i.job]).collect()).await?;
        tx.commit().await?;
        let mut tx = pool.open().await?;
        complete(&mut tx, &sample, end, &ids).await?;
        tx.commit().await?;
        let mut tx = pool.open().await?;
        record(&mut tx, &sample, end, &ids).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// The seed of a lease.
const TOKEN: [u8; 16] = [7; 16];
const NO_TEXT: Option<String> = None;
const NO_INT: Option<i64> = None;
const NO_BYTES: Option<Vec<u8>> = None;
const NO_ID: Option<Uuid> = None;

/// One row for each job.
fn each(ids: &[Ids], row: impl FnMut(&Ids) -> Vec<Value>) -> Vec<Vec<Value>> {
    ids.iter().map(row).collect()
}

async fn submit(tx: &mut Tx, s: &Sample, ids: &[Ids]) -> Result<()> {
    let (kind, queue) = (s.kind.as_str(), s.queue.as_str());
    let document = |i: &Ids| {
        let (worker, input, callback) = (s.worker.as_str(), s.input.as_str(), s.callback.clone());
        args![
            i.job,
            s.tenant,
            kind,
            queue,
            NO_TEXT,
            0i64,
            worker,
            input,
            callback,
            NO_BYTES,
            NO_INT,
            NO_INT,
            900i64,
            5i64,
            s.metadata.as_str(),
            86_400i64,
            s.traceparent.clone(),
            1i64
        ]
    };
    tx.later(&INSERT_JOBS, args![s.now], each(ids, document)).await?;
    let owed = |i: &Ids| {
        args![
            i.job, s.tenant, queue, 2i64, s.now, kind, "ready", 0i64, NO_BYTES, 0i64, 5i64, 1i64, 0i64, 0i64,
            60i64, 900_000i64, NO_INT, NO_INT, NO_INT, NO_INT, NO_TEXT
        ]
    };
    tx.later(&OWE_JOB, vec![], each(ids, owed)).await
}

async fn complete(tx: &mut Tx, s: &Sample, e: &End, ids: &[Ids]) -> Result<()> {
    tx.later(&END_JOB, vec![], each(ids, |i| args![i.job])).await?;
    let document = |i: &Ids| {
        args![
            i.job,
            "complete",
            1i64,
            3i64,
            1i64,
            1i64,
            TOKEN.to_vec(),
            s.now,
            2i64,
            s.now,
            NO_TEXT,
            NO_TEXT,
            NO_INT,
            e.result.clone(),
            e.result_type.clone(),
            NO_TEXT,
            i.delivery,
            s.now
        ]
    };
    tx.later(&END_JOBS, vec![], each(ids, document)).await?;
    let event = |i: &Ids| {
        args![i.event, s.tenant, i.job, 3i64, e.event_kind.as_str(), NO_TEXT, s.now, e.data.as_str(), NO_INT]
    };
    tx.later(&INSERT_EVENTS, vec![], each(ids, event)).await?;
    let body = |i: &Ids| args![i.event, e.variant.as_str(), e.body.as_str()];
    tx.later(&INSERT_BODIES, vec![], each(ids, body)).await?;
    let delivery = |i: &Ids| {
        args![
            i.delivery,
            s.tenant,
            i.event,
            e.variant.as_str(),
            e.event_kind.as_str(),
            i.job,
            NO_ID,
            NO_TEXT,
            e.lane,
            e.turn,
            e.url.as_str(),
            e.host.as_str(),
            NO_BYTES,
            NO_ID,
            NO_ID,
            e.policy.as_deref(),
            NO_TEXT,
            s.traceparent.clone(),
            NO_INT,
            s.now,
            "owed",
            NO_INT,
            NO_INT
        ]
    };
    tx.later(&INSERT_DELIVERIES, vec![], each(ids, delivery)).await?;
    let owed =
        |i: &Ids| args![i.delivery, s.tenant, e.lane, e.turn, s.now, "leased", 1i64, 1i64, s.now, e.lane];
    tx.later(&OWE_DELIVERY, vec![], each(ids, owed)).await
}

async fn record(tx: &mut Tx, s: &Sample, e: &End, ids: &[Ids]) -> Result<()> {
    tx.later(&END_DELIVERY, vec![], each(ids, |i| args![i.delivery, 1i64, 0i64])).await?;
    let attempt = |i: &Ids| {
        let (phases, address, headers) = (e.phases.clone(), e.address.clone(), e.headers.clone());
        args![i.delivery, 1i64, s.now, 1i64, phases, address, 200i64, NO_TEXT, headers, NO_BYTES, NO_INT]
    };
    tx.later(&INSERT_ATTEMPTS, vec![], each(ids, attempt)).await?;
    let document =
        |i: &Ids| args![i.delivery, "delivered", 1i64, 1i64, 200i64, NO_TEXT, s.now, s.now, NO_TEXT, NO_TEXT];
    tx.later(&UPDATE_DELIVERIES, vec![], each(ids, document)).await
}
