//! `submit`, and the waiting that the seed draws: poll, obey the service's pace, else 1 s doubling to 30 s.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use super::callback::{CallbackArgs, metadata};
use super::exit::{self, Exit, Usage};
use super::print::{self, Out};
use super::{Remote, jobs};
use crate::client::{self, Client, Polled, SubmitOptions};
use crate::types::job::Status;
use crate::types::{JobId, Millis, api};
use crate::worker;

/// Submit a job.
#[derive(Debug, clap::Args)]
pub struct SubmitArgs {
    #[command(flatten)]
    remote: Remote,
    /// What kind of work it is.
    #[arg(long = "type", env = "RINGBACK_TYPE", value_name = "TYPE")]
    kind: String,
    /// The input: JSON, `-` for standard input, or `@FILE`.
    #[arg(long, env = "RINGBACK_INPUT", value_name = "JSON|-|@FILE", allow_hyphen_values = true)]
    input: Option<String>,
    #[command(flatten)]
    callback: CallbackArgs,
    /// Your own name for the work.
    #[arg(long = "ref", env = "RINGBACK_REF", value_name = "REF")]
    reference: Option<String>,
    /// The queue.
    #[arg(long, env = "RINGBACK_QUEUE")]
    queue: Option<String>,
    /// Makes it safe to submit again: the same key gives the same job.
    #[arg(long, env = "RINGBACK_IDEMPOTENCY_KEY", value_name = "KEY")]
    idempotency_key: Option<String>,
    /// -2..2, higher first.
    #[arg(long, env = "RINGBACK_PRIORITY", allow_hyphen_values = true)]
    priority: Option<i8>,
    /// Not before this instant.
    #[arg(long, env = "RINGBACK_RUN_AT", value_name = "INSTANT")]
    run_at: Option<Millis>,
    /// The job expires if it is not complete by then.
    #[arg(long, env = "RINGBACK_DEADLINE_AT", value_name = "INSTANT")]
    deadline_at: Option<Millis>,
    /// The longest one attempt may run.
    #[arg(long, env = "RINGBACK_TIMEOUT_SECONDS", value_name = "N")]
    timeout_seconds: Option<u32>,
    /// How often the work is tried.
    #[arg(long, env = "RINGBACK_MAX_ATTEMPTS", value_name = "N")]
    max_attempts: Option<u32>,
    /// A JSON object for your own use.
    #[arg(long, env = "RINGBACK_METADATA", value_name = "JSON")]
    metadata: Option<String>,
    /// How long the ended job is kept.
    #[arg(long, env = "RINGBACK_RETAIN_SECONDS", value_name = "N")]
    retain_seconds: Option<u32>,
    /// Wait for the end, with a progress bar on a terminal; exit 1 if the job does not complete.
    #[arg(long, env = "RINGBACK_WAIT")]
    wait: bool,
    /// The longest to wait.
    #[arg(long, env = "RINGBACK_WAIT_SECONDS", value_name = "N", default_value_t = 86_400)]
    wait_seconds: u64,
}

/// Runs `ringback submit`.
pub async fn run(args: SubmitArgs, out: Out) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    let job = request(&args)?;
    let options = SubmitOptions { idempotency_key: args.idempotency_key.as_deref() };
    let accepted = client.submit(&job, options).await?;
    let id = accepted.job.job_id;
    if !args.wait {
        show(&accepted, out)?;
        return Ok(Exit::Done.into());
    }
    if !out.json {
        print::err(format_args!("submitted {id}"));
    }
    // The job's own token reads it, whatever the key may not do.
    let reader = client.with_key(&accepted.job.access_token);
    let waiting = wait(&reader, id, accepted.retry_after);
    let job = tokio::time::timeout(Duration::from_secs(args.wait_seconds), waiting).await;
    let job = job.with_context(|| format!("{id} has not ended within {} s", args.wait_seconds))?;
    let job = job.with_context(|| format!("{id} was submitted, and may go on"))?;
    exit::told(jobs::exit(&job), jobs::show(&job, out))
}

fn request(args: &SubmitArgs) -> anyhow::Result<api::SubmitJob> {
    Ok(api::SubmitJob {
        kind: args.kind.clone(),
        input: args.input.as_deref().map(|text| input(text, std::io::stdin())).transpose()?,
        queue: args.queue.clone(),
        reference: args.reference.clone(),
        priority: args.priority,
        run_at: args.run_at,
        deadline_at: args.deadline_at,
        timeout_seconds: args.timeout_seconds,
        max_attempts: args.max_attempts,
        metadata: metadata(args.metadata.as_deref())?,
        retain_seconds: args.retain_seconds,
        ..args.callback.job()
    })
}

/// The input, kept byte for byte as it was written.
pub fn input(text: &str, mut stdin: impl Read) -> anyhow::Result<api::Json> {
    let read = match (text, text.strip_prefix('@')) {
        ("-", _) => {
            let mut read = String::new();
            stdin.read_to_string(&mut read).context("cannot read the input from standard input")?;
            read
        }
        (_, Some(path)) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read the input from {path}"))?
        }
        (json, None) => json.to_owned(),
    };
    serde_json::from_str(read.trim()).map_err(|e| Usage(format!("the input is not JSON: {e}")).into())
}

fn show(accepted: &client::Accepted, out: Out) -> anyhow::Result<()> {
    let job = &accepted.job;
    out.one(
        job,
        &[
            ("job", Some(job.job_id.to_string())),
            ("state", Some(job.state.as_str().to_owned())),
            ("status URL", Some(job.status_url.clone())),
            ("estimate", Some(format!("{} s", job.estimated_seconds))),
            ("note", accepted.replayed.then(|| "an earlier submission with this key made it".to_owned())),
        ],
    )
}

/// How often in a row a poll may go unanswered: together some two minutes.
const MISSES: u32 = 8;

/// Polls until the job has ended.
pub async fn wait(client: &Client, id: JobId, first: Option<u32>) -> Result<api::Job, client::Error> {
    let bar = bar();
    let mut pace = Pace::default();
    let mut etag = None;
    let mut misses = 0;
    let mut pause = pace.next(first);
    loop {
        tokio::time::sleep(pause).await;
        let after = match client.poll(id, etag.as_deref()).await {
            Ok(Polled::Job { job, etag: new, retry_after }) => {
                draw(&bar, &job);
                if ended(job.status) {
                    bar.finish_and_clear();
                    return Ok(*job);
                }
                etag = new;
                retry_after
            }
            Ok(Polled::Unchanged { retry_after } | Polled::Busy { retry_after }) => retry_after,
            // The service knows the job: what stands before it may speak for it for a while.
            Err(error)
                if misses < MISSES
                    && (worker::passing(&error) || worker::may_be_of_another(&error, misses)) =>
            {
                misses += 1;
                pause = pace.next(None);
                continue;
            }
            Err(error) => return Err(error),
        };
        misses = 0;
        pause = pace.next(after);
    }
}

/// Whether a poller that knows only the seed's four words is done.
fn ended(status: Status) -> bool {
    match status {
        Status::Queued | Status::Processing => false,
        Status::Complete | Status::Failed => true,
    }
}

/// The seed's polling backoff.
#[derive(Debug, Default)]
struct Pace(u32);

impl Pace {
    /// What the service asked for; without a word from it 1 s, doubling to 30 s.
    fn next(&mut self, retry_after: Option<u32>) -> Duration {
        if let Some(seconds) = retry_after {
            self.0 = 0;
            return Duration::from_secs(seconds.clamp(1, 3_600).into());
        }
        let seconds = (1_u64 << self.0.min(5)).min(30);
        self.0 += 1;
        Duration::from_secs(seconds)
    }
}

/// A bar on a terminal, nothing elsewhere. Drawn to standard error, so that the answer stays clean.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(100);
    // A template that indicatif refuses would only look plainer.
    if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}] {bar:30} {pos:>3} % {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn draw(bar: &ProgressBar, job: &api::Job) {
    bar.set_position(job.progress.unwrap_or(0).into());
    let message = job.message.as_deref().unwrap_or_default();
    bar.set_message(format!("{} {}", job.state.as_str(), print::clean(message)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_word_from_the_service_polls_wait_1_s_doubling_to_30() {
        let mut pace = Pace::default();
        let mut next = |after| pace.next(after).as_secs();
        assert_eq!([None; 7].map(&mut next), [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!([Some(5), Some(0), None, None].map(&mut next), [5, 1, 1, 2]);
    }

    #[test]
    fn an_input_is_json_from_one_of_three_places() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"a\":  1}\n").unwrap();
        let at = format!("@{}", file.path().display());
        for text in ["{\"a\":  1}", "-", &at] {
            assert_eq!(input(text, &b" {\"a\":  1}\n"[..]).unwrap().get(), "{\"a\":  1}");
        }
        let error = input("{", &b""[..]).unwrap_err();
        assert!(error.downcast_ref::<Usage>().is_some());
    }
}
