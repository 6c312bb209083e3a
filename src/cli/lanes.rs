//! `lanes`: the rows of deliveries to receivers.

use std::process::ExitCode;

use super::exit::Exit;
use super::print::{Out, or_dash, time};
use super::{PageArgs, Remote};
use crate::client::LaneQuery;
use crate::types::{LaneId, Millis, api};

/// Look at the lanes of receivers, and pause them.
#[derive(Debug, clap::Args)]
pub struct LanesArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List lanes: how much waits, since when, and why.
    List {
        /// Only those that are `open`, `paused` or `broken`.
        #[arg(long, env = "RINGBACK_STATE")]
        state: Option<String>,
        /// `oldestDue`: those first whose oldest delivery waits longest.
        #[arg(long, env = "RINGBACK_SORT")]
        sort: Option<String>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Send nothing more of a lane; its deliveries wait, which costs them no attempt.
    Pause {
        /// The lane.
        lane_id: LaneId,
        /// When it goes on by itself; when it is resumed by default.
        #[arg(long, env = "RINGBACK_UNTIL", value_name = "INSTANT")]
        until: Option<Millis>,
    },
    /// Send again, one request at a time at first.
    Resume {
        /// The lane.
        lane_id: LaneId,
    },
}

/// Runs `ringback lanes`.
pub async fn run(args: LanesArgs, out: Out) -> anyhow::Result<ExitCode> {
    let client = args.remote.client()?;
    match args.what {
        What::List { state, sort, page } => {
            list(&client.lanes(&LaneQuery { state, sort, page: page.into() }).await?, out)?;
        }
        What::Pause { lane_id, until } => show(&client.pause_lane(lane_id, until).await?, out)?,
        What::Resume { lane_id } => show(&client.resume_lane(lane_id).await?, out)?,
    }
    Ok(Exit::Done.into())
}

fn list(page: &api::Page<api::Lane>, out: Out) -> anyhow::Result<()> {
    let head = ["LANE", "TO", "STATE", "WHY", "UNTIL", "DEPTH", "OLDEST DUE", "IN FLIGHT", "FAILURES"];
    out.page(page, &head, |lane| {
        vec![
            lane.lane_id.to_string(),
            or_dash(to(lane)),
            lane.state.as_str().to_owned(),
            or_dash(lane.held_reason.as_ref()),
            or_dash(lane.held_until.map(time)),
            lane.depth.to_string(),
            or_dash(lane.oldest_due.map(time)),
            format!("{}/{}", lane.in_flight, lane.max_in_flight),
            lane.failures.to_string(),
        ]
    })
}

/// The rows of one lane.
pub(super) fn rows(lane: &api::Lane) -> Vec<(&'static str, Option<String>)> {
    let order = if lane.ordered { "one after the other" } else { "none" };
    vec![
        ("lane", Some(lane.lane_id.to_string())),
        ("to", to(lane)),
        ("lane state", Some(lane.state.as_str().to_owned())),
        ("held", lane.held_reason.clone()),
        ("held until", lane.held_until.map(time)),
        ("depth", Some(lane.depth.to_string())),
        ("oldest due", lane.oldest_due.map(time)),
        ("in flight", Some(format!("{}/{}", lane.in_flight, lane.max_in_flight))),
        ("rate", lane.rate_per_second.map(|rate| format!("{rate}/s"))),
        ("order", Some(order.to_owned())),
        ("failures in a row", Some(lane.failures.to_string())),
    ]
}

fn show(lane: &api::Lane, out: Out) -> anyhow::Result<()> {
    out.one(lane, &rows(lane))
}

fn to(lane: &api::Lane) -> Option<String> {
    lane.origin.clone().or_else(|| lane.endpoint_id.map(|id| id.to_string()))
}
