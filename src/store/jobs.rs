//! Reading jobs: one, its result, a list, its events.

use std::time::Duration;

use super::Store;
use super::change::as_started;
use super::db::Value;
use super::emit::derived_id;
use super::error::{Error, Result};
use super::list::{Filter, Found};
use super::model::{JobFilter, PageOf, StoredResult};
use super::rows::{callback_source, held, job, job_columns, lease_random};
use crate::args;
use crate::types::job::{Job, JobEvent, JobState};
use crate::types::key::LeaseToken;
use crate::types::{JobId, Millis, TenantId, api, id};

const ONE: &str = concat!(
    "SELECT ",
    job_columns!(),
    " FROM jobs j LEFT JOIN job_queue q ON q.job_id = j.id ",
    callback_source!(),
    " WHERE j.id = $1 AND j.tenant_id = $2"
);

// Of a job that is owed its row in the queue knows.
const TOKEN: &str = "SELECT COALESCE(q.fence, j.fence), COALESCE(q.token, j.token)
                     FROM jobs j LEFT JOIN job_queue q ON q.job_id = j.id WHERE j.id = $1";

const RESULT: &str = "SELECT result FROM jobs WHERE id = $1 AND tenant_id = $2";

const LIST: &str = concat!(
    "SELECT ",
    job_columns!(),
    " FROM jobs j LEFT JOIN job_queue q ON q.job_id = j.id ",
    callback_source!()
);

const EVENTS: &str = "
    SELECT id, sequence, kind, created_at, data FROM events
    WHERE job_id = $1 AND tenant_id = $2 AND sequence > $3 ORDER BY sequence LIMIT $4";

/// No job is stored later than this after its id was minted: its caller has long been told to come back.
const MINTED_BEFORE: Duration = Duration::from_secs(60);

impl Store {
    /// One job. `Expired` past its retention.
    pub async fn job(&self, tenant: TenantId, id: JobId, now: Millis) -> Result<Job> {
        let rows = self.read(ONE, args![id, tenant]).await?;
        let found = job(rows.first().ok_or(Error::NotFound)?, now)?;
        if found.purged { Err(Error::Expired) } else { Ok(found) }
    }

    /// Whether that is the token of the job's last lease. Takes no lock: for who must not cost the writer anything.
    pub async fn knows(&self, id: JobId, token: LeaseToken) -> Result<bool> {
        let rows = self.read(TOKEN, args![id]).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        let seed = row.bytes_opt(1)?.and_then(|seed| <[u8; 16]>::try_from(seed).ok());
        let random = seed.map(|seed| lease_random(seed, id));
        Ok(row.int(0)? == token.fence && random == Some(token.random))
    }

    /// A job and the bytes of its result, if there are any here.
    pub async fn job_result(&self, tenant: TenantId, id: JobId, now: Millis) -> Result<StoredResult> {
        let job = self.job(tenant, id, now).await?;
        let rows = self.read(RESULT, args![id, tenant]).await?;
        let bytes = rows.first().ok_or(Error::NotFound)?.bytes_opt(0)?.map(Into::into);
        Ok(StoredResult { job, bytes })
    }

    /// Jobs, newest first. One call looks at some thousands of those that an index tells apart.
    pub async fn jobs(
        &self,
        tenant: TenantId,
        filter: &JobFilter,
        page: PageOf<id::Job>,
        now: Millis,
    ) -> Result<Found<Job, id::Job>> {
        // The partial index of a state is taken only where the text names its condition.
        let indexed = match filter.states[..] {
            [JobState::Failed] => " AND j.state = 'failed'",
            [JobState::Cancelled] => " AND j.state = 'cancelled'",
            [JobState::Expired] => " AND j.state = 'expired'",
            [_, ..] if filter.states.iter().all(|s| !s.ended()) => " AND j.state = 'owed'",
            _ => "",
        };
        let mut walked = Filter::new(" WHERE j.tenant_id = $1", args![tenant]);
        walked.and_some("j.reference = {}", filter.reference.clone());
        // Ids are minted when a request comes, shortly before its job is stored: they bound what is read.
        walked.and_some(
            "j.id >= {}",
            filter.created_after.map(|at| JobId::mint(at.minus(MINTED_BEFORE), [0; 10])),
        );
        walked.and_some("j.id < {}", filter.created_before.map(|at| JobId::mint(at, [0; 10])));
        walked.push(indexed);
        let end = self.end_of_look(walked.under("SELECT j.id FROM jobs j"), "j.id", page.after).await?;
        let mut f = walked.under(LIST);
        f.and_some("j.id >= {}", end);
        f.push(" AND j.purged_at IS NULL");
        f.and("(j.remove_at IS NULL OR j.remove_at > {})", now);
        f.and_some("j.kind = {}", filter.kind.clone());
        f.and_some("j.queue = {}", filter.queue.clone());
        f.and_some("j.created_at >= {}", filter.created_after);
        f.and_some("j.created_at < {}", filter.created_before);
        if let Some(queues) = &filter.only_queues {
            f.any("j.queue", queues);
        }
        if !filter.states.is_empty() {
            f.args.push(Value::from(now));
            let now = format!("${}", f.args.len());
            let any: Vec<String> = filter.states.iter().map(|s| in_state(*s, &now)).collect();
            // The instant is bound even where no state asks for it: one shape fewer to tell apart.
            f.push(&format!(" AND {now} = {now} AND ({})", any.join(" OR ")));
        }
        let (sql, args) = f.page("j.id", PageOf { ..page });
        let rows = self.read(sql, args).await?.iter().map(|row| job(row, now)).collect::<Result<Vec<_>>>()?;
        Ok(Found::new(rows, page.limit, end))
    }

    /// The job's events after sequence number `after`, oldest first, at most `limit`.
    ///
    /// The first `job.queued` and the `job.started` of the running or last attempt are told by
    /// the job's own columns; the rest are rows.
    pub async fn job_events(
        &self,
        tenant: TenantId,
        id: JobId,
        after: i64,
        limit: u32,
        now: Millis,
    ) -> Result<Vec<api::Event>> {
        let rows = self.read(ONE, args![id, tenant]).await?;
        let held = held(rows.first().ok_or(Error::NotFound)?, now)?;
        if held.job.purged {
            return Err(Error::Expired);
        }
        let rows = self.read(EVENTS, args![id, tenant, after, limit]).await?;
        let mut events = Vec::with_capacity(rows.len() + 2);
        for row in &rows {
            events.push(api::Event {
                event_id: row.id(0)?,
                job_id: Some(id),
                sequence: row.int(1)?,
                kind: row.text(2)?,
                timestamp: row.time(3)?,
                data: api::raw(row.text(4)?),
            });
        }
        for event in self.derived(&held.job)? {
            let missing = event.sequence > after && events.iter().all(|e| e.sequence != event.sequence);
            if missing {
                events.push(event);
            }
        }
        events.sort_by_key(|e| e.sequence);
        // A row beyond this page may lie between two of these: the page ends where the rows end.
        if let Some(last) = rows.last().filter(|_| rows.len() == limit as usize) {
            let last = last.int(1)?;
            events.retain(|e| e.sequence <= last);
        }
        events.truncate(limit as usize);
        // The job may have moved on between the two reads: what lies behind a gap comes with the next page.
        let whole =
            events.iter().zip(after.max(0).saturating_add(1)..).take_while(|(e, n)| e.sequence == *n).count();
        events.truncate(whole);
        Ok(events)
    }

    fn derived(&self, job: &Job) -> Result<Vec<api::Event>> {
        let state = match job.run_at {
            Some(at) if at > job.created_at => JobState::Scheduled,
            Some(_) | None => JobState::Queued,
        };
        let queued = Job { state, attempt: 0, ..as_started(job, 1, job.created_at) };
        let queued = Job { started_at: None, due_at: job.run_at, ..queued };
        let mut derived = vec![self.view_event(&queued, JobEvent::Queued, job.created_at)?];
        if let (Some(sequence), Some(at)) = (job.started_sequence, job.started_at) {
            derived.push(self.view_event(&as_started(job, sequence, at), JobEvent::Started, at)?);
        }
        Ok(derived)
    }

    fn view_event(&self, job: &Job, event: JobEvent, at: Millis) -> Result<api::Event> {
        let view = api::Job { callback_state: None, ..job.view(&self.0.urls) };
        let data = serde_json::to_string(&view).map_err(|e| Error::Bug(e.to_string()))?;
        Ok(api::Event {
            kind: event.as_str().to_owned(),
            timestamp: at,
            event_id: derived_id(job.id, job.sequence),
            job_id: Some(job.id),
            sequence: job.sequence,
            data: api::raw(data),
        })
    }
}

fn in_state(state: JobState, now: &str) -> String {
    match state {
        JobState::Scheduled => format!("(q.phase = 'ready' AND q.due_at > {now})"),
        JobState::Queued => format!("(q.phase = 'ready' AND q.due_at <= {now})"),
        JobState::Processing => "q.phase = 'leased'".to_owned(),
        JobState::Retrying => "q.phase = 'retry'".to_owned(),
        JobState::Complete => "j.state = 'complete'".to_owned(),
        JobState::Failed => "j.state = 'failed'".to_owned(),
        JobState::Cancelled => "j.state = 'cancelled'".to_owned(),
        JobState::Expired => "j.state = 'expired'".to_owned(),
    }
}
