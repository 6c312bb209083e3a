//! `run`: a command as a step of somebody else's pipeline, told to the service as an external job.

mod step;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use sha2::{Digest, Sha256};
use step::{Ended, Step};

use super::callback::{CallbackArgs, metadata};
use super::exit::{self, Exit};
use super::print::{self, Out};
use super::{Remote, child, jobs};
use crate::client::{Accepted, Client, SubmitOptions};
use crate::types::job::{Status, WorkerKind};
use crate::types::{JobId, api};
use crate::worker::{self, Failure, Hold, Reply};

/// Run a command as a job: submit, heartbeat, report its outcome, end as it ends.
///
/// The command has this terminal or pipeline as its standard input, output and error, and RINGBACK_JOB_ID,
/// RINGBACK_JOB_TYPE and RINGBACK_ATTEMPT in its environment, but none of the variables that carry keys and
/// secrets. A line `::progress 40 some words` on standard error tells how far it is and is taken out. Exit code
/// 0 completes the job, any other fails it with the last lines of standard error. If the client cancels, the
/// command gets SIGTERM, and SIGKILL 5 s later, and without a terminal as its input so does what it has started.
/// SIGINT, SIGTERM and, on Linux and unless it is ignored, SIGHUP are passed on to it; one that comes after its end
/// leaves 5 s for the service to hear of it, and a SIGINT or SIGTERM after that none. Should the service go away
/// meanwhile, the command goes on.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: the command's own, 128 + N if signal N ended it, 126 or 127 if it cannot be \
    started; 1 if it\nended with 0 but its job did not complete. Without the command having run: 1, 2 and 3 as \
    elsewhere."
)]
pub struct RunArgs {
    #[command(flatten)]
    remote: Remote,
    /// What kind of work it is.
    #[arg(long = "type", env = "RINGBACK_TYPE", value_name = "TYPE", default_value = "ci.run")]
    kind: String,
    /// The queue that it counts for.
    #[arg(long, env = "RINGBACK_QUEUE")]
    queue: Option<String>,
    /// Your own name for the work, such as a build number; `jobs list --ref` finds it.
    #[arg(long = "ref", env = "RINGBACK_REF", value_name = "REF")]
    reference: Option<String>,
    #[command(flatten)]
    callback: CallbackArgs,
    /// How long the service waits for a sign of life before the job ends as `worker-lost`.
    #[arg(long, env = "RINGBACK_LEASE_SECONDS", value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    lease_seconds: u32,
    /// A step started again with the same key goes on with its job; one whose job has ended is not run, and another
    /// command is refused.
    #[arg(long, env = "RINGBACK_IDEMPOTENCY_KEY", value_name = "KEY")]
    idempotency_key: Option<String>,
    /// A JSON object for your own use.
    #[arg(long, env = "RINGBACK_METADATA", value_name = "JSON")]
    metadata: Option<String>,
    /// The file whose bytes are the result; the exit code and the duration otherwise.
    #[arg(long, env = "RINGBACK_RESULT_FILE", value_name = "FILE")]
    result_file: Option<PathBuf>,
    /// The content type of that file; JSON, text or bytes by its content otherwise.
    #[arg(long, env = "RINGBACK_RESULT_TYPE", value_name = "TYPE")]
    result_type: Option<String>,
    /// Run the command even if the service cannot be reached; then nobody hears of it.
    #[arg(long, env = "RINGBACK_ANYWAY")]
    anyway: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs `ringback run`.
pub async fn run(args: RunArgs, out: Out) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    let order = request(&args)?;
    let options = SubmitOptions { idempotency_key: args.idempotency_key.as_deref() };
    let accepted = match client.submit(&order, options).await {
        Ok(accepted) => Some(accepted),
        Err(error) if args.anyway && worker::passing(&error) => {
            print::err(format_args!("running without a job: {error}"));
            None
        }
        Err(error) => return Err(error.into()),
    };
    let id = accepted.as_ref().map(|accepted| accepted.job.job_id);
    // The job's own token reads it, whatever else the key may not do.
    let reader = accepted.as_ref().map_or_else(|| client.clone(), |a| client.with_key(&a.job.access_token));
    let hold = accepted.as_ref().and_then(|accepted| hold(&client, accepted, args.lease_seconds));
    if let (Some(accepted), None) = (&accepted, &hold) {
        return earlier(&reader, accepted.job.job_id, out).await;
    }
    if let (Some(id), false) = (id, out.json) {
        print::err(format_args!("submitted {id}"));
    }
    let (file, command) = (args.result_file.as_deref(), &args.command);
    let step = Step { command, kind: &args.kind, reader: &reader, id, hold: hold.as_ref(), file };
    let mut ended = step.run().await?;
    ended.name_type(args.result_type.filter(|_| file.is_some()));
    let Ended { code, outcome, mut signals } = ended;
    let failed = outcome.is_err();
    let told = tokio::select! {
        told = report(&reader, id, hold, outcome) => told,
        // Who signals a whole group means the command, which has ended; a second time, the wait for the service.
        () = async {
            let first = signals.next().await;
            let _ = tokio::time::timeout(child::PATIENCE, signals.hurry(first)).await;
        } => {
            print::err("interrupted before the outcome was reported");
            Told { interrupted: true, ..Told::default() }
        }
    };
    let printed = show(told.job.as_ref(), out);
    // A service that is not there, or was away too long, does not make a good step a bad one.
    let refused = told.taken && told.job.is_some_and(|job| job.status != Status::Complete);
    let code = if code == 0 && (failed || refused || told.interrupted) { Exit::Failed as u8 } else { code };
    exit::told(code, printed)
}

fn request(args: &RunArgs) -> anyhow::Result<api::SubmitJob> {
    Ok(api::SubmitJob {
        kind: args.kind.clone(),
        input: args.idempotency_key.as_ref().map(|_| named(&args.command)).transpose()?,
        queue: args.queue.clone(),
        reference: args.reference.clone(),
        metadata: metadata(args.metadata.as_deref())?,
        worker: Some(WorkerKind::External),
        lease_seconds: Some(args.lease_seconds),
        ..args.callback.job()
    })
}

/// What the service compares under an idempotency key, so that another command is not taken for one that has been run. A digest:
/// arguments may be secret.
fn named(command: &[OsString]) -> anyhow::Result<api::Json> {
    let mut digest = Sha256::new();
    for word in command {
        digest.update((word.len() as u64).to_be_bytes());
        digest.update(word.as_encoded_bytes());
    }
    let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(serde_json::value::to_raw_value(&serde_json::json!({"commandSha256": digest}))?)
}

/// Nothing if the job was made by an earlier submission with the same key and has ended.
fn hold(client: &Client, accepted: &Accepted, lease_seconds: u32) -> Option<Hold> {
    let lease = Duration::from_secs(lease_seconds.into());
    Some(Hold::new(client, accepted.job.job_id, accepted.job.lease_token?, lease))
}

/// The step has been done before: its outcome is told again.
async fn earlier(reader: &Client, id: JobId, out: Out) -> anyhow::Result<ExitCode> {
    let job = reader.job(id).await?;
    print::err("not run: an earlier run with this key has ended");
    exit::told(jobs::exit(&job), show(Some(&job), out))
}

/// What the service has heard of the end.
#[derive(Default)]
struct Told {
    /// The job as it stands then, if that is known.
    job: Option<api::Job>,
    /// It took the outcome.
    taken: bool,
    /// A signal ended the wait for it.
    interrupted: bool,
}

/// Tells the service how the step ended.
async fn report(
    reader: &Client,
    id: Option<JobId>,
    hold: Option<Hold>,
    outcome: Result<Reply, Failure>,
) -> Told {
    let (Some(id), Some(hold)) = (id, hold) else { return Told::default() };
    if hold.lost().is_cancelled() {
        print::err(format_args!("{id} is no longer held here; its outcome was not reported"));
        return Told { job: reader.job(id).await.ok(), ..Told::default() };
    }
    match hold.report(outcome).await {
        Ok(job) => Told { job: Some(job), taken: true, interrupted: false },
        Err(error) => {
            print::err(format_args!("the outcome was not taken: {error}"));
            Told { job: reader.job(id).await.ok(), ..Told::default() }
        }
    }
}

/// Standard output is the command's: only `--json` adds a line to it, `null` if nobody knows the job.
fn show(job: Option<&api::Job>, out: Out) -> anyhow::Result<()> {
    if out.json {
        return out.value(&job);
    }
    if let Some(job) = job {
        let why = job.error.as_deref().map(|error| error.lines().next().unwrap_or_default());
        let why = why.map(|error| format!(": {}", print::clean(error))).unwrap_or_default();
        print::err(format_args!("{} {}{why}", job.job_id, job.state.as_str()));
    }
    Ok(())
}

fn fatal(error: impl Into<String>, code: &str) -> Failure {
    Failure::fatal(error).with_code(code)
}
