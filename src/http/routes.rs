//! The operator's own paths, and the one place where they are judged.

use std::collections::BTreeSet;

use super::submit::{SEED_STATUS_PATH, STATUS_PATH};
use crate::types::submit as rules;

/// A path of the operator's own that submits one type of job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where clients POST the input.
    pub path: String,
    /// The type of the jobs.
    pub kind: String,
    /// The queue of the jobs; the client's choice when left out.
    pub queue: Option<String>,
    /// Where the jobs are polled, `{jobId}` as one segment; [`STATUS_PATH`] when left out.
    pub status_path: Option<String>,
}

impl Route {
    /// Where the jobs are polled.
    pub fn polled_at(&self) -> &str {
        self.status_path.as_deref().unwrap_or(STATUS_PATH)
    }
}

/// A configured route that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("routes[{at}].{member}: {rule}")]
pub struct BadRoute {
    /// Its place in the list.
    pub at: usize,
    /// The member at fault, as the file calls it.
    pub member: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

/// Paths, and everything below them, that are the service's own.
const RESERVED: [&str; 12] = [
    "/v1",
    "/api/jobs",
    "/results",
    "/docs",
    "/dashboard",
    "/problems",
    "/livez",
    "/readyz",
    "/healthz",
    "/metrics",
    "/openapi.json",
    "/favicon.ico",
];

/// Checks routes; the first that cannot be served is named.
pub fn check_routes(routes: &[Route]) -> Result<(), BadRoute> {
    let mut paths = BTreeSet::new();
    for (at, route) in routes.iter().enumerate() {
        check(route).map_err(|(member, rule)| BadRoute { at, member, rule })?;
        if !paths.insert(&route.path) {
            return Err(BadRoute { at, member: "path", rule: "is used by an earlier route" });
        }
    }
    Ok(())
}

fn check(route: &Route) -> Result<(), (&'static str, &'static str)> {
    if !path(&route.path) {
        return Err(("path", "must be `/` and segments of `A-Za-z0-9._~-`"));
    }
    if reserved(&route.path) {
        return Err(("path", "is one of the service's own paths"));
    }
    if rules::name("", &route.kind, 128).is_err() {
        return Err(("type", "must be 1 to 128 of `A-Za-z0-9._:-` and begin with a letter or digit"));
    }
    if route.queue.as_ref().is_some_and(|queue| rules::name("", queue, 64).is_err()) {
        return Err(("queue", "must be 1 to 64 of `A-Za-z0-9._:-` and begin with a letter or digit"));
    }
    let status = route.polled_at();
    let once = status.split('/').filter(|part| *part == "{jobId}").count() == 1;
    if !once || !path(&status.replacen("{jobId}", "x", 1)) {
        return Err(("status_path", "must be a path with `{jobId}` as exactly one of its segments"));
    }
    if reserved(status) && ![STATUS_PATH, SEED_STATUS_PATH].contains(&status) {
        return Err(("status_path", "is one of the service's own paths"));
    }
    Ok(())
}

fn path(text: &str) -> bool {
    text.starts_with('/') && text.split('/').skip(1).all(segment)
}

fn segment(text: &str) -> bool {
    // A dot segment would be folded away by every client before it is sent.
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b));
    !text.is_empty() && text != "." && text != ".." && plain
}

pub(super) fn reserved(path: &str) -> bool {
    let below = |own: &str| path.strip_prefix(own).is_some_and(|r| r.is_empty() || r.starts_with('/'));
    RESERVED.iter().any(|own| below(own))
}
