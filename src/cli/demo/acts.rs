//! The four acts of the demo, and the worker that plays in all of them. They run at the same time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::receiver::{Post, Receiver};
use super::story::Story;
use crate::client::{Accepted, Client, DeadLetterQuery, SubmitOptions};
use crate::dice::Dice;
use crate::types::job::{CallbackState, JobState};
use crate::types::retry::RetryPolicy;
use crate::types::signature::Secret;
use crate::types::{JobId, api};
use crate::worker::{Failure, Reply, Task};

/// What every act needs.
pub struct Stage {
    /// Speaks to the server.
    pub client: Client,
    /// Gets the callbacks.
    pub receiver: Receiver,
    /// Tells it.
    pub story: Arc<Story>,
}

/// How an act went.
pub struct Act {
    /// Its name: the job's `ref` and the end of its callback URL.
    pub name: &'static str,
    /// Its job, if it came to one.
    pub job: Option<JobId>,
    /// What was shown, or what went wrong.
    pub outcome: anyhow::Result<&'static str>,
}

impl Act {
    /// For the summary.
    pub fn in_words(&self) -> String {
        match &self.outcome {
            Ok(shown) => format!("ok: {shown}"),
            Err(error) => format!("FAILED: {error:#}"),
        }
    }

    /// For programs.
    pub fn to_json(&self) -> serde_json::Value {
        let error = self.outcome.as_ref().err().map(|error| format!("{error:#}"));
        serde_json::json!({"act": self.name, "jobId": self.job, "passed": error.is_none(), "error": error})
    }
}

/// Jobs whose work never ends by itself.
const ENDLESS: &str = "demo.endless";
const REPORT: &str = "report.generate";
/// Steps of the work, and how long each takes.
const STEPS: [u8; 3] = [25, 50, 75];
const STEP: Duration = Duration::from_millis(400);

/// Plays all acts; one that fails does not end the others.
pub async fn all(stage: &Stage) -> Vec<Act> {
    let (report, invoice, cancel, repeat) =
        tokio::join!(report(stage), invoice(stage), cancel(stage), repeat(stage));
    vec![report, invoice, cancel, repeat]
}

/// The worker's part: what is to be done follows from the job's type.
pub async fn work(story: Arc<Story>, task: Task) -> Result<Reply, Failure> {
    let act = task.job.reference.clone().unwrap_or_default();
    let tell = |step: &str, detail: &str| story.tell(&act, step, detail);
    tell("claim", &format!("a worker claims it (attempt {})", task.job.attempt));
    if task.job.kind == ENDLESS {
        task.stop.cancelled().await;
        tell("stop", "the worker hears of the cancel and stops");
        let error = "stopped on request".to_owned();
        return Err(Failure { error, code: None, retryable: false, retry_after_seconds: None });
    }
    for percent in STEPS {
        tokio::time::sleep(STEP).await;
        task.progress.report(percent, Some("collecting figures"));
        tell("progress", &format!("progress {percent} %"));
    }
    tokio::time::sleep(STEP).await;
    tell("complete", "the worker completes it; the reply is owed from the same commit on");
    Ok(Reply::Json(api::raw(r#"{"pages":12,"total":"4711.00"}"#.to_owned())))
}

/// A receiver that fails twice gets its reply at the third attempt.
async fn report(stage: &Stage) -> Act {
    let name = "report";
    stage.receiver.script(name, &[500, 503]);
    let job = submission(stage, name, REPORT, None, 5);
    play(stage, name, job, None, async |accepted: &Accepted| {
        let id = accepted.job.job_id;
        let posts = stage.receiver.wait(name, 3).await?;
        same_letter(&posts, id, "job.completed")?;
        ensure!(posts.iter().map(|post| post.status).eq([500, 503, 200]), "other answers than scripted");
        callback_is(stage, id, CallbackState::Delivered).await?;
        Ok("delivered at the third attempt")
    })
    .await
}

/// A receiver that stays broken costs a dead letter; once it is repaired the letter is sent again.
async fn invoice(stage: &Stage) -> Act {
    let name = "invoice";
    let secret = match Secret::from_bytes(&Dice::Os.bytes::<32>()) {
        Ok(secret) => secret,
        Err(e) => return Act { name, job: None, outcome: Err(e.into()) },
    };
    stage.receiver.expect(name, secret.clone());
    stage.receiver.break_with(name, Some(500));
    let job = submission(stage, name, REPORT, Some(&secret), 2);
    play(stage, name, job, None, async |accepted: &Accepted| {
        let id = accepted.job.job_id;
        callback_is(stage, id, CallbackState::Dead).await?;
        let letter = dead_letters(stage, id).await?.pop().context("there is no dead letter")?;
        let why = format!("a dead letter after {} attempts ({})", letter.attempts, letter.reason);
        stage.story.tell(name, "dead", &why);
        stage.receiver.break_with(name, None);
        let filter = api::ReplayFilter { ids: Some(vec![letter.delivery_id]), ..Default::default() };
        let replayed = stage.client.replay(&api::Replay { filter, ..Default::default() }).await?;
        ensure!(replayed.matched == 1, "the replay matched {} letters", replayed.matched);
        stage.story.tell(name, "replay", "the receiver is repaired, the letter is replayed");
        let posts = stage.receiver.wait(name, 3).await?;
        same_letter(&posts, id, "job.completed")?;
        ensure!(posts.iter().all(|post| post.id == letter.delivery_id.to_string()), "another webhook-id");
        callback_is(stage, id, CallbackState::Delivered).await?;
        ensure!(dead_letters(stage, id).await?.is_empty(), "the dead letter is still there");
        Ok("dead-lettered, replayed, delivered; signed with a secret of its own")
    })
    .await
}

/// A job that is cancelled while a worker has it.
async fn cancel(stage: &Stage) -> Act {
    let name = "cancel";
    let job = submission(stage, name, ENDLESS, None, 5);
    play(stage, name, job, None, async |accepted: &Accepted| {
        let id = accepted.job.job_id;
        job_is(stage, id, JobState::Processing).await?;
        stage.client.cancel(id, Some("the demo does not need it")).await?;
        stage.story.tell(name, "cancel", "the client cancels it");
        job_is(stage, id, JobState::Cancelled).await?;
        same_letter(&stage.receiver.wait(name, 1).await?, id, "job.cancelled")?;
        callback_is(stage, id, CallbackState::Delivered).await?;
        Ok("cancelled while it was being worked on")
    })
    .await
}

/// The same submission twice is one job.
async fn repeat(stage: &Stage) -> Act {
    let name = "repeat";
    let key = format!("demo-{:032x}", u128::from_le_bytes(Dice::Os.bytes()));
    let job = submission(stage, name, REPORT, None, 5);
    let again = job.clone();
    play(stage, name, job, Some(&key), async |accepted: &Accepted| {
        let id = accepted.job.job_id;
        let options = SubmitOptions { idempotency_key: Some(&key) };
        let second = stage.client.submit(&again, options).await?;
        let same = second.job.job_id == id && second.replayed;
        ensure!(same, "the same key gave another job: {}", second.job.job_id);
        stage.story.tell(name, "repeat", &format!("the same submission again -> the same {id}"));
        callback_is(stage, id, CallbackState::Delivered).await?;
        let posts = stage.receiver.wait(name, 1).await?;
        same_letter(&posts, id, "job.completed")?;
        ensure!(posts.len() == 1, "{} callbacks instead of one", posts.len());
        Ok("submitted twice, done and delivered once")
    })
    .await
}

/// Submits `job` and plays `rest` with it.
async fn play(
    stage: &Stage,
    name: &'static str,
    job: api::SubmitJob,
    key: Option<&str>,
    rest: impl AsyncFnOnce(&Accepted) -> anyhow::Result<&'static str>,
) -> Act {
    let accepted = match submit(stage, name, &job, key).await {
        Ok(accepted) => accepted,
        Err(error) => return Act { name, job: None, outcome: Err(error) },
    };
    Act { name, job: Some(accepted.job.job_id), outcome: rest(&accepted).await }
}

async fn submit(
    stage: &Stage,
    name: &str,
    job: &api::SubmitJob,
    key: Option<&str>,
) -> anyhow::Result<Accepted> {
    stage.story.tell(name, "submit", &format!("the client submits a {}", job.kind));
    let accepted = stage.client.submit(job, SubmitOptions { idempotency_key: key }).await?;
    stage.story.tell(name, "accepted", &format!("submit -> 202 {}", accepted.job.job_id));
    Ok(accepted)
}

fn submission(
    stage: &Stage,
    name: &str,
    kind: &str,
    secret: Option<&Secret>,
    attempts: u32,
) -> api::SubmitJob {
    let retry =
        RetryPolicy { max_attempts: attempts, initial_seconds: 1, factor: 1.0, ..RetryPolicy::default() };
    let callback = api::Callback {
        url: Some(stage.receiver.url(name)),
        secret: secret.map(Secret::reveal),
        retry: Some(retry),
        ..api::Callback::default()
    };
    api::SubmitJob {
        kind: kind.to_owned(),
        input: Some(api::raw(r#"{"reportType":"annual","year":2025}"#.to_owned())),
        callback: Some(callback),
        reference: Some(name.to_owned()),
        ..api::SubmitJob::default()
    }
}

/// Every attempt carried the same id and the same bytes, told of this job, and was well signed.
fn same_letter(posts: &[Post], job: JobId, kind: &str) -> anyhow::Result<()> {
    let first = posts.first().context("no POST came")?;
    for post in posts {
        post.verdict.with_context(|| format!("POST #{}", post.attempt))?;
        ensure!(post.id == first.id, "POST #{} has another webhook-id", post.attempt);
        ensure!(post.body == first.body, "POST #{} has another body", post.attempt);
    }
    let envelope = first.envelope()?;
    ensure!(envelope.kind == kind, "the event is {} instead of {kind}", envelope.kind);
    ensure!(envelope.data.job_id == job, "the webhook speaks of {}", envelope.data.job_id);
    Ok(())
}

async fn dead_letters(stage: &Stage, job: JobId) -> anyhow::Result<Vec<api::DeadLetter>> {
    let filter = api::ReplayFilter { job_id: Some(job), ..api::ReplayFilter::default() };
    Ok(stage.client.dead_letters(&DeadLetterQuery { filter, ..Default::default() }).await?.items)
}

async fn job_is(stage: &Stage, id: JobId, wanted: JobState) -> anyhow::Result<()> {
    until(stage, id, |job| job.state == wanted).await.with_context(|| format!("not {}", wanted.as_str()))
}

async fn callback_is(stage: &Stage, id: JobId, wanted: CallbackState) -> anyhow::Result<()> {
    let reached = until(stage, id, |job| job.callback_state == Some(wanted)).await;
    reached.with_context(|| format!("the callback is not {}", wanted.as_str()))
}

/// How often the job is looked at, below the service's limit of 10/s per job, and for how long.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const LOOKS: u32 = 300;

async fn until(stage: &Stage, id: JobId, reached: impl Fn(&api::Job) -> bool) -> anyhow::Result<()> {
    let mut state = JobState::Queued;
    for _ in 0..LOOKS {
        let job = stage.client.job(id).await?;
        if reached(&job) {
            return Ok(());
        }
        state = job.state;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("{id} is {} after {} s", state.as_str(), (LOOK_EVERY * LOOKS).as_secs())
}
