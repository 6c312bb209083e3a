//! Two stages side by side, and the ratio of what they do.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;

use crate::cli::bench::lifecycle::stage::{Stage, Wanted};
use crate::cli::bench::lifecycle::{Pace, Report, once, stretch};
use crate::cli::bench::load::{Posts, Until};
use crate::cli::exit::Exit;
use crate::cli::print::Out;

/// Until what is under way at one stage has ended and the other's turn begins.
const SETTLE: Duration = Duration::from_millis(500);

/// What every comparison needs to know.
#[derive(Debug, Clone, clap::Args)]
pub struct GrowthArgs {
    /// Beside which store those that are measured are made, `sqlite://PATH` or `postgres://...`; in a temporary directory by default.
    #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
    pub store: Option<String>,
    /// Jobs of each round.
    #[arg(long, env = "RINGBACK_JOBS", value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub jobs: u64,
    /// How often each of the two is measured.
    #[arg(long, env = "RINGBACK_ROUNDS", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    #[command(flatten)]
    pub pace: Pace,
}

/// What is posted at a stage when it is its turn, and until when.
pub type Turn<'a> = (&'a dyn Fn(&Stage) -> Posts, Until);

/// Two stages over new stores on one disk or server.
pub struct Pair {
    /// As it is in the beginning.
    pub base: Stage,
    /// What is compared with it.
    pub other: Stage,
}

impl Pair {
    /// Starts both and warms them up.
    pub async fn set(args: &GrowthArgs, base: Wanted, other: Wanted) -> anyhow::Result<Pair> {
        let base = Stage::set(args.store.clone(), base).await?;
        let mut pair = Pair { base, other: Stage::set(args.store.clone(), other).await? };
        for stage in [&mut pair.base, &mut pair.other] {
            once(stage, &args.pace, args.jobs.min(2_000)).await?;
            stage.rest().await?;
        }
        Ok(pair)
    }

    /// Stops both and takes their stores away.
    pub async fn strike(self) -> anyhow::Result<()> {
        self.base.strike().await?;
        self.other.strike().await
    }

    /// Measures both in turn; each begins every other time.
    pub async fn rounds(
        &mut self,
        args: &GrowthArgs,
        rounds: u32,
        posts: [Turn<'_>; 2],
    ) -> anyhow::Result<[Vec<Report>; 2]> {
        let mut seen = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for turn in 0..2 {
                let which = usize::from((round + turn) % 2 == 1);
                let stage = if which == 0 { &mut self.base } else { &mut self.other };
                stage.work().await?;
                let (make, until) = &posts[which];
                let made = make(stage);
                seen[which].push(stretch(stage, &args.pace, made, *until).await?);
                stage.rest().await?;
                tokio::time::sleep(SETTLE).await;
            }
        }
        Ok(seen)
    }

    /// The same with jobs on both sides.
    pub async fn jobs(&mut self, args: &GrowthArgs) -> anyhow::Result<[Vec<Report>; 2]> {
        let bytes = usize::try_from(args.pace.payload_bytes)?;
        let jobs = |stage: &Stage| stage.jobs(bytes);
        let until = Until::Posted(args.jobs);
        self.rounds(args, args.rounds, [(&jobs, until), (&jobs, until)]).await
    }
}

/// What is compared, in words.
pub struct Words<'a> {
    /// The whole.
    pub what: &'a str,
    /// The first.
    pub base: &'a str,
    /// The second.
    pub other: &'a str,
    /// What the second did before, when all was new to it.
    pub first: Option<Report>,
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Comparison<'a> {
    what: &'a str,
    base_is: &'a str,
    other_is: &'a str,
    /// The other's jobs a second by the base's, over all rounds.
    throughput_ratio: f64,
    /// The same of the last round alone.
    last_throughput_ratio: f64,
    /// Of the medians of all rounds.
    submit_p99_ratio: Option<f64>,
    done_to_seen_p99_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<&'a Report>,
    base: Vec<Report>,
    other: Vec<Report>,
}

/// Tells the ratio.
pub fn tell(words: &Words<'_>, [base, other]: [Vec<Report>; 2], out: Out) -> anyhow::Result<ExitCode> {
    ensure!(!base.is_empty() && !other.is_empty(), "nothing was measured");
    let pace = |reports: &[Report]| {
        let jobs: u64 = reports.iter().map(|r| r.jobs).sum();
        jobs as f64 / reports.iter().map(|r| r.seconds).sum::<f64>()
    };
    let last = |reports: &[Report]| reports.last().map_or(0.0, |r| r.jobs_per_second);
    let ratio = |of: fn(&Report) -> Option<f64>| Some(median(&other, of)? / median(&base, of)?);
    let comparison = Comparison {
        what: words.what,
        base_is: words.base,
        other_is: words.other,
        throughput_ratio: pace(&other) / pace(&base),
        last_throughput_ratio: last(&other) / last(&base),
        submit_p99_ratio: ratio(|r| Some(r.submit?.p99_ms)),
        done_to_seen_p99_ratio: ratio(|r| Some(r.done_to_seen?.p99_ms)),
        first: words.first.as_ref(),
        base,
        other,
    };
    if out.json {
        out.value(&comparison)?;
        return Ok(Exit::Done.into());
    }
    for (name, reports) in [(words.base, &comparison.base), (words.other, &comparison.other)] {
        let each: Vec<String> = reports.iter().map(|r| format!("{:.0}", r.jobs_per_second)).collect();
        let times = |of: fn(&Report) -> Option<f64>| median(reports, of).map(|ms| format!("{ms:.1} ms"));
        let submit = times(|r| Some(r.submit?.p99_ms)).unwrap_or_default();
        let done = times(|r| Some(r.done_to_seen?.p99_ms));
        let done = done.map_or_else(String::new, |ms| format!(", complete to receiver {ms}"));
        out.say(&format!("{name}: {} a second; p99 of submit {submit}{done}", each.join(", ")))?;
    }
    if let Some(Report { jobs, jobs_per_second, .. }) = &words.first {
        out.say(&format!("{}, before: {jobs} at {jobs_per_second:.0} a second", words.other))?;
    }
    let percent = |ratio: f64| format!("{:.0} %", 100.0 * ratio);
    let times = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2} x"));
    out.say(&format!(
        "{}: {} of the throughput (last round {}), p99 of submit {}, of complete to receiver {}",
        words.what,
        percent(comparison.throughput_ratio),
        percent(comparison.last_throughput_ratio),
        times(comparison.submit_p99_ratio),
        times(comparison.done_to_seen_p99_ratio)
    ))?;
    Ok(Exit::Done.into())
}

fn median(reports: &[Report], of: fn(&Report) -> Option<f64>) -> Option<f64> {
    let mut values: Vec<f64> = reports.iter().filter_map(of).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
