//! The verbs of the API, in the order of the contract.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use reqwest::RequestBuilder;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::shapes::{
    Accepted, Answer, DeadLetterQuery, DeliveryQuery, JobQuery, JobResult, LaneQuery, OutageQuery, PageQuery,
    Polled, SubmitOptions,
};
use super::{
    ANSWER_MAX, CLAIMED_MAX, Client, DEADLINE, Error, Reply, Result, answer, answer_up_to, exchange,
    with_json,
};
use crate::types::key::LeaseToken;
use crate::types::{DeliveryId, JobId, KeyId, LaneId, Millis, RedriveId, api};

/// The service lets one reader of a job ask ten times a second.
const BETWEEN_PAGES: Duration = Duration::from_millis(120);

/// Jobs.
impl Client {
    /// Submits one job.
    pub async fn submit(&self, job: &api::SubmitJob, options: SubmitOptions<'_>) -> Result<Accepted> {
        accepted(with_json(keyed(self.request(Method::POST, &["v1", "jobs"]), &options), job)?).await
    }

    /// Submits `input` as the whole body, the way the seed draws it.
    pub async fn operation(
        &self,
        kind: &str,
        input: Bytes,
        callback_url: Option<&str>,
        options: SubmitOptions<'_>,
    ) -> Result<Accepted> {
        let mut request = keyed(self.request(Method::POST, &["v1", "operations", kind]), &options)
            .header(header::CONTENT_TYPE, "application/json")
            .body(input);
        if let Some(url) = callback_url {
            request = request.header("Callback-Url", url);
        }
        accepted(request).await
    }

    /// Submits many jobs; one answer per job, in order.
    pub async fn batch(&self, batch: &api::SubmitBatch) -> Result<Vec<Answer<api::JobAccepted>>> {
        many(&answer(with_json(self.request(Method::POST, &["v1", "jobs", "batch"]), batch)?).await?)
    }

    /// The job as it stands.
    pub async fn job(&self, id: JobId) -> Result<api::Job> {
        self.get(&["v1", "jobs", &id.to_string()]).await
    }

    /// One poll, as the seed draws it: with the `ETag` of the last one an unchanged job costs a 304.
    pub async fn poll(&self, id: JobId, etag: Option<&str>) -> Result<Polled> {
        let mut request = self.request(Method::GET, &["v1", "jobs", &id.to_string()]);
        if let Some(etag) = etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let reply = exchange(request, ANSWER_MAX).await?;
        let retry_after = reply.retry_after();
        match reply.status {
            StatusCode::OK => {
                let etag = reply.header(header::ETAG);
                Ok(Polled::Job { job: Box::new(reply.json()?), etag, retry_after })
            }
            StatusCode::NOT_MODIFIED => Ok(Polled::Unchanged { retry_after }),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Ok(Polled::Busy { retry_after })
            }
            _ => Err(reply.refusal()),
        }
    }

    /// The job once it has ended, or as it stands after `seconds` (60 at the most).
    pub async fn job_wait(&self, id: JobId, seconds: u32) -> Result<api::Job> {
        let request = self
            .request(Method::GET, &["v1", "jobs", &id.to_string()])
            .header("Prefer", format!("wait={seconds}"))
            .timeout(DEADLINE + Duration::from_secs(seconds.into()));
        answer(request).await?.json()
    }

    /// Jobs, newest first.
    pub async fn jobs(&self, query: &JobQuery) -> Result<api::Page<api::Job>> {
        self.list(&["v1", "jobs"], query).await
    }

    /// The result of a complete job.
    pub async fn result(&self, id: JobId) -> Result<JobResult> {
        let reply = answer(self.request(Method::GET, &["v1", "jobs", &id.to_string(), "result"])).await?;
        if reply.status == StatusCode::SEE_OTHER {
            let place = reply.header(header::LOCATION);
            return place
                .map(JobResult::Elsewhere)
                .ok_or_else(|| Error::BadReply("303 without a Location".into()));
        }
        let content_type = reply.header(header::CONTENT_TYPE).unwrap_or_default();
        Ok(JobResult::Bytes { content_type, bytes: reply.body })
    }

    /// Ends a job; one that is being worked on ends when its worker has been told.
    pub async fn cancel(&self, id: JobId, reason: Option<&str>) -> Result<api::Job> {
        let body = api::Cancel { reason: reason.map(str::to_owned) };
        self.post(&["v1", "jobs", &id.to_string(), "cancel"], &body).await
    }

    /// Queues a job again that has ended without a result. The answer shows where it stands.
    pub async fn retry(&self, id: JobId) -> Result<serde_json::Value> {
        self.poke(&["v1", "jobs", &id.to_string(), "retry"]).await
    }

    /// The job's events above the sequence number `after`, oldest first.
    pub async fn events(&self, id: JobId, after: i64) -> Result<Vec<api::Event>> {
        #[derive(Serialize)]
        struct Behind {
            after: i64,
            limit: u32,
        }
        let path = ["v1", "jobs", &id.to_string(), "events"];
        let (mut events, mut next) = (Vec::new(), Some(after));
        while let Some(after) = next {
            if !events.is_empty() {
                tokio::time::sleep(BETWEEN_PAGES).await;
            }
            let page: api::Page<api::Event> = self.list(&path, &Behind { after, limit: 200 }).await?;
            events.extend(page.items);
            let last = events.last().map(|event: &api::Event| event.sequence);
            // A page that leads nowhere must not be asked for again for ever.
            next = page.next_cursor.and(last).filter(|last| *last > after);
        }
        Ok(events)
    }
}

/// Workers.
impl Client {
    /// Claims jobs of `queue`; empty when there was none in time.
    pub async fn claim(&self, queue: &str, claim: &api::Claim) -> Result<Vec<api::ClaimedJob>> {
        let wait = Duration::from_secs(claim.wait_seconds.unwrap_or(0).into());
        let request = self.request(Method::POST, &["v1", "queues", queue, "claim"]).timeout(DEADLINE + wait);
        let jobs = usize::try_from(claim.max.unwrap_or(1)).unwrap_or(usize::MAX);
        let most = ANSWER_MAX.max(jobs.saturating_mul(CLAIMED_MAX));
        let claimed: api::Claimed = answer_up_to(with_json(request, claim)?, most).await?.json()?;
        Ok(claimed.jobs)
    }

    /// Keeps the lease and tells how far the work is.
    pub async fn heartbeat(&self, id: JobId, beat: &api::Heartbeat) -> Result<api::Alive> {
        self.post(&["v1", "jobs", &id.to_string(), "heartbeat"], beat).await
    }

    /// The work is done; the result is JSON or kept elsewhere.
    pub async fn complete(&self, id: JobId, done: &api::Complete) -> Result<api::Job> {
        self.post(&["v1", "jobs", &id.to_string(), "complete"], done).await
    }

    /// The work is done; the result is bytes of any type.
    pub async fn complete_bytes(
        &self,
        id: JobId,
        token: LeaseToken,
        content_type: &str,
        bytes: Bytes,
    ) -> Result<api::Job> {
        let request = self
            .request(Method::POST, &["v1", "jobs", &id.to_string(), "complete"])
            .header("Lease-Token", token.to_string())
            .header(header::CONTENT_TYPE, content_type)
            .body(bytes);
        answer(request).await?.json()
    }

    /// The work went wrong.
    pub async fn fail(&self, id: JobId, failure: &api::Fail) -> Result<api::Job> {
        self.post(&["v1", "jobs", &id.to_string(), "fail"], failure).await
    }

    /// Gives a job back; no attempt is used.
    pub async fn release(&self, id: JobId, release: &api::Release) -> Result<()> {
        let path = ["v1", "jobs", &id.to_string(), "release"];
        answer(with_json(self.request(Method::POST, &path), release)?).await?;
        Ok(())
    }

    /// Reports many outcomes; one answer per outcome, in order.
    pub async fn ack(&self, acks: &api::Acks) -> Result<Vec<Answer<api::Job>>> {
        many(&answer(with_json(self.request(Method::POST, &["v1", "leases", "ack"]), acks)?).await?)
    }
}

/// Queues.
impl Client {
    /// Queues, by name.
    pub async fn queues(&self, page: &PageQuery) -> Result<api::Page<api::Queue>> {
        self.list(&["v1", "queues"], page).await
    }

    /// One queue.
    pub async fn queue(&self, queue: &str) -> Result<api::Queue> {
        self.get(&["v1", "queues", queue]).await
    }

    /// Changes what is set for a queue.
    pub async fn change_queue(&self, queue: &str, change: &api::ChangeQueue) -> Result<api::Queue> {
        answer(with_json(self.request(Method::PATCH, &["v1", "queues", queue]), change)?).await?.json()
    }

    /// Pauses a queue, until then or until someone resumes it.
    pub async fn pause_queue(&self, queue: &str, until: Option<Millis>) -> Result<api::Queue> {
        self.post(&["v1", "queues", queue, "pause"], &api::PauseQueue { until }).await
    }

    /// Lets a queue hand out jobs again.
    pub async fn resume_queue(&self, queue: &str) -> Result<api::Queue> {
        self.poke(&["v1", "queues", queue, "resume"]).await
    }
}

/// Deliveries and dead letters.
impl Client {
    /// Deliveries, newest first.
    pub async fn deliveries(&self, query: &DeliveryQuery) -> Result<api::Page<api::Delivery>> {
        self.list(&["v1", "deliveries"], query).await
    }

    /// One delivery with its attempts.
    pub async fn delivery(&self, id: DeliveryId) -> Result<api::Delivery> {
        self.get(&["v1", "deliveries", &id.to_string()]).await
    }

    /// Why a delivery stands where it stands, and what happens next.
    pub async fn explain(&self, id: DeliveryId) -> Result<api::Explanation> {
        self.get(&["v1", "deliveries", &id.to_string(), "explain"]).await
    }

    /// A new round of attempts, now.
    pub async fn retry_delivery(&self, id: DeliveryId) -> Result<api::Delivery> {
        self.poke(&["v1", "deliveries", &id.to_string(), "retry"]).await
    }

    /// Takes back a delivery that has not ended.
    pub async fn cancel_delivery(&self, id: DeliveryId) -> Result<api::Delivery> {
        self.poke(&["v1", "deliveries", &id.to_string(), "cancel"]).await
    }

    /// Dead letters, newest first.
    pub async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<api::Page<api::DeadLetter>> {
        self.list(&["v1", "dead-letters"], query).await
    }

    /// One dead letter.
    pub async fn dead_letter(&self, id: DeliveryId) -> Result<api::DeadLetter> {
        self.get(&["v1", "dead-letters", &id.to_string()]).await
    }

    /// Removes a dead letter for good.
    pub async fn discard(&self, id: DeliveryId) -> Result<()> {
        answer(self.request(Method::DELETE, &["v1", "dead-letters", &id.to_string()])).await?;
        Ok(())
    }

    /// Sends dead letters again, or counts them.
    pub async fn replay(&self, replay: &api::Replay) -> Result<api::Replayed> {
        self.post(&["v1", "dead-letters", "replay"], replay).await
    }

    /// Sends deliveries again that have ended, or counts them.
    pub async fn replay_deliveries(&self, replay: &api::Replay) -> Result<api::Replayed> {
        self.post(&["v1", "deliveries", "replay"], replay).await
    }

    /// Dead letters that belong together, the last ones first.
    pub async fn outages(&self, query: &OutageQuery) -> Result<api::Page<api::Outage>> {
        self.list(&["v1", "dead-letters", "outages"], query).await
    }

    /// Replays, newest first.
    pub async fn redrives(&self, page: &PageQuery) -> Result<api::Page<api::Redrive>> {
        self.list(&["v1", "redrives"], page).await
    }

    /// One replay.
    pub async fn redrive(&self, id: RedriveId) -> Result<api::Redrive> {
        self.get(&["v1", "redrives", &id.to_string()]).await
    }

    /// Ends a replay before all of its letters are queued.
    pub async fn cancel_redrive(&self, id: RedriveId) -> Result<()> {
        answer(self.request(Method::DELETE, &["v1", "redrives", &id.to_string()])).await?;
        Ok(())
    }

    /// The lanes of endpoints and ad-hoc origins.
    pub async fn lanes(&self, query: &LaneQuery) -> Result<api::Page<api::Lane>> {
        self.list(&["v1", "lanes"], query).await
    }

    /// Pauses a lane, until then or until someone resumes it.
    pub async fn pause_lane(&self, id: LaneId, until: Option<Millis>) -> Result<api::Lane> {
        self.post(&["v1", "lanes", &id.to_string(), "pause"], &api::PauseLane { until }).await
    }

    /// Lets a lane send again.
    pub async fn resume_lane(&self, id: LaneId) -> Result<api::Lane> {
        self.poke(&["v1", "lanes", &id.to_string(), "resume"]).await
    }
}

/// Keys, secrets and the service itself.
impl Client {
    /// A new API key; the answer is the only one that shows it.
    pub async fn create_key(&self, key: &api::NewApiKey) -> Result<api::ApiKey> {
        self.post(&["v1", "keys"], key).await
    }

    /// API keys, newest first.
    pub async fn keys(&self, page: &PageQuery) -> Result<api::Page<api::ApiKey>> {
        self.list(&["v1", "keys"], page).await
    }

    /// Revokes an API key.
    pub async fn revoke_key(&self, id: KeyId) -> Result<()> {
        answer(self.request(Method::DELETE, &["v1", "keys", &id.to_string()])).await?;
        Ok(())
    }

    /// The tenant's default webhook secret.
    pub async fn webhook_secret(&self) -> Result<api::WebhookSecret> {
        self.get(&["v1", "tenants", "self", "webhook-secret"]).await
    }

    /// A new default webhook secret; the old one signs beside it for a while.
    pub async fn rotate_webhook_secret(&self, rotate: &api::RotateSecret) -> Result<api::WebhookSecret> {
        self.post(&["v1", "tenants", "self", "rotate-secret"], rotate).await
    }

    /// The OpenAPI document, byte for byte.
    pub async fn openapi(&self) -> Result<Bytes> {
        Ok(answer(self.request(Method::GET, &["openapi.json"])).await?.body)
    }

    /// How the fleet is; a service that is not well says so in `status`.
    pub async fn health(&self) -> Result<api::Health> {
        self.get(&["healthz"]).await
    }
}

pub(super) fn keyed(request: RequestBuilder, options: &SubmitOptions<'_>) -> RequestBuilder {
    match options.idempotency_key {
        Some(key) => request.header("Idempotency-Key", key),
        None => request,
    }
}

async fn accepted(request: RequestBuilder) -> Result<Accepted> {
    let reply = answer(request).await?;
    let replayed = reply.headers.get("Idempotent-Replayed").is_some_and(|value| value == "true");
    Ok(Accepted { job: reply.json()?, retry_after: reply.retry_after(), replayed })
}

pub(super) fn many<T: DeserializeOwned>(reply: &Reply) -> Result<Vec<Answer<T>>> {
    let answers: api::Items<api::OrProblem<T>> = reply.json()?;
    let one = |answer| match answer {
        api::OrProblem::Done(done) => Ok(done),
        api::OrProblem::Problem(problem) => Err(Box::new(problem)),
    };
    Ok(answers.items.into_iter().map(one).collect())
}
