//! `demo`: server, worker and receiver in one process, and real jobs over HTTP between them.

mod acts;
mod receiver;
mod story;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::exit::{self, Exit};
use super::place::Place;
use super::print::{self, Out};
use super::{serve, stop};
use crate::app::{self, Running};
use crate::client::{self, Client};
use crate::clock::Clock;
use crate::dice::Dice;
use crate::types::JobId;
use crate::types::signature::Secret;
use crate::worker;
use acts::{Act, Stage};
use receiver::Receiver;
use story::Story;

/// See the whole trip: a server, a worker and a receiver on this machine, and jobs that go between them.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Keep the server, the worker and the receiver up afterwards, until SIGINT or SIGTERM.
    #[arg(long, env = "RINGBACK_STAY")]
    stay: bool,
}

/// Some 15 s are enough; a machine that is ten times slower still gets through.
const LIMIT: Duration = Duration::from_secs(150);
const STOP_WITHIN: Duration = Duration::from_secs(25);

/// Runs `ringback demo`.
pub async fn run(args: DemoArgs, out: Out) -> anyhow::Result<ExitCode> {
    let stop = stop::on_signal()?;
    let place = Place::make("demo")?;
    let story = Arc::new(Story::begin(Clock::system(), out));
    let config = serve::dev_config(([127, 0, 0, 1], 0).into(), place.store(), None, None);
    let running = app::start(config, Clock::system(), Dice::Os).await.context("the server did not start")?;
    let shown = show(&running, &story, args.stay, &stop).await;
    let stopped = tokio::time::timeout(STOP_WITHIN, running.stop()).await;
    let exit = shown?;
    stopped.context("the server did not stop in time")?.context("the server did not stop well")?;
    Ok(exit)
}

/// Worker and receiver live as long as this runs.
async fn show(
    running: &Running,
    story: &Arc<Story>,
    stay: bool,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let url = format!("http://{}", running.addr);
    story.tell("server", "start", &format!("a server listens on {url}, with a store of its own"));
    let client = Client::new(&url, running.api_key.as_deref())?;
    let secret = client.webhook_secret().await.context("no webhook secret")?.secret;
    let receiver = Receiver::start(Secret::parse(&secret)?, Arc::clone(story)).await?;
    story.tell("receiver", "start", &format!("a receiver listens on {}", receiver.base()));
    let _worker = start_worker(&client, story);
    let stage = Stage { client, receiver, story: Arc::clone(story) };
    let acts = stop.run_until_cancelled(tokio::time::timeout(LIMIT, acts::all(&stage))).await;
    let acts = acts.context("interrupted")?.context("the demo took too long")?;
    let exit = summary(&acts, &stage)?;
    if stay {
        let key = running.api_key.as_deref().unwrap_or_default();
        exit::told(exit, stay_up(story.out(), &url, key, &secret))?;
        stop.cancelled().await;
    }
    Ok(exit)
}

/// A worker through the same door as everyone's: the public API.
fn start_worker(client: &Client, story: &Arc<Story>) -> AbortOnDropHandle<Result<(), client::Error>> {
    let options = worker::Options {
        concurrency: 8,
        // A beat each second, so that a cancel is heard quickly.
        lease: Duration::from_secs(3),
        worker_id: Some("demo".to_owned()),
        ..worker::Options::new("default")
    };
    let story = Arc::clone(story);
    let handler = move |task| acts::work(Arc::clone(&story), task);
    let work = worker::run(client.clone(), options, handler, CancellationToken::new());
    AbortOnDropHandle::new(tokio::spawn(work))
}

fn summary(acts: &[Act], stage: &Stage) -> anyhow::Result<ExitCode> {
    let posts = stage.receiver.posts();
    let unsigned = posts.iter().filter(|post| post.verdict.is_err()).count();
    let passed = acts.iter().all(|act| act.outcome.is_ok()) && unsigned == 0 && !posts.is_empty();
    let out = stage.story.out();
    let told = || -> anyhow::Result<()> {
        if out.json {
            let acts: Vec<_> = acts.iter().map(Act::to_json).collect();
            let signatures = serde_json::json!({"checked": posts.len(), "bad": unsigned});
            return out.value(&serde_json::json!({"passed": passed, "acts": acts, "signatures": signatures}));
        }
        print::raw("\n")?;
        let row = |act: &Act| {
            let job = act.job.as_ref().map(JobId::to_string);
            let posts = posts.iter().filter(|post| post.act == act.name).count();
            vec![act.name.to_owned(), print::or_dash(job), posts.to_string(), act.in_words()]
        };
        out.rows(&["ACT", "JOB", "POSTS", "OUTCOME"], acts.iter().map(row))?;
        let verdict = if passed { "all went as it should" } else { "something went wrong" };
        Ok(out.say(&format!("\n{} signatures checked, {unsigned} bad; {verdict}", posts.len()))?)
    };
    let told = told();
    for (name, error) in acts.iter().filter_map(|act| Some((act.name, act.outcome.as_ref().err()?))) {
        print::err(format_args!("error: {name}: {error:#}"));
    }
    exit::told(if passed { Exit::Done } else { Exit::Failed }, told)
}

fn stay_up(out: Out, url: &str, key: &str, secret: &str) -> anyhow::Result<()> {
    if out.json {
        return out.value(&serde_json::json!({"url": url, "apiKey": key, "webhookSecret": secret}));
    }
    let lines = format!("\nURL: {url}\nAPI key: {key}\nwebhook secret: {secret}\nCtrl-C ends it\n");
    Ok(print::raw(&lines)?)
}
