//! Who reads jobs: a key with `jobs:read`, or the capability that reads one job.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, MatchedPath};
use http::request::Parts;

use super::auth::{Bearer, Key, authenticate, in_queues, require, still_valid};
use super::path::First;
use crate::http::app::App;
use crate::http::followers::{Places, Who};
use crate::http::layers::Ctx;
use crate::http::problem::Problem;
use crate::store::KeyRecord;
use crate::types::job::Job;
use crate::types::key::{AccessToken, Scope};
use crate::types::problem::ProblemCode;
use crate::types::{JobId, TenantId};

/// Someone who may read jobs: all that a key sees, or the one of an access token.
pub struct Viewer {
    /// Whose jobs.
    pub tenant: TenantId,
    /// The one job of an access token.
    only: Option<JobId>,
    key: Option<Arc<KeyRecord>>,
    /// The access token, and whether it came in the query and counted.
    token: Option<(String, bool)>,
}

impl Viewer {
    /// The job as it stands, unless it is not to be seen.
    pub async fn job(&self, app: &App, id: JobId) -> Result<Job, Problem> {
        if self.only.is_some_and(|only| only != id) {
            return Err(Problem::new(ProblemCode::JobNotFound));
        }
        let job = app.ask_job(app.store.job(self.tenant, id, app.now())).await?;
        self.sees(&job)?;
        Ok(job)
    }

    /// Refuses a job outside the key's queues, as if it were not there.
    pub fn sees(&self, job: &Job) -> Result<(), Problem> {
        let queues = self.key.as_ref().and_then(|key| key.queues.as_deref());
        if in_queues(queues, &job.queue) { Ok(()) } else { Err(Problem::new(ProblemCode::JobNotFound)) }
    }

    /// Lets a WebSocket be opened: not too often, and by an access token only while its job is there.
    pub async fn may_open(&self, app: &App) -> Result<(), Problem> {
        let now = app.real.now();
        let (pace, job) = match self.only {
            Some(job) => (&app.pace, job),
            None => (&app.opens, JobId::from_uuid(uuid::Uuid::nil())),
        };
        if !pace.allows(self.number(), job, now) {
            let detail = "WebSockets are opened too often; obey Retry-After";
            return Err(Problem::new(ProblemCode::RateLimited).detail(detail));
        }
        match self.only {
            Some(job) => self.job(app, job).await.map(drop),
            None => Ok(()),
        }
    }

    /// Places to follow jobs from, until they are dropped.
    pub fn places(&self, app: &App) -> Result<Places, Problem> {
        let who = self.key.as_ref().map_or(Who::Token(self.only), |key| Who::Key(key.id));
        app.followers.connection(who, self.tenant)
    }

    /// Tells keys apart; bearers of a job's token are one.
    fn number(&self) -> u64 {
        self.key.as_ref().map_or(0, |key| key.id.uuid().as_u64_pair().1)
    }

    /// Refuses a burst of requests for one job.
    pub fn pace(&self, app: &App, id: JobId) -> Result<(), Problem> {
        pace(app, self.number(), id)
    }

    /// Refuses who was let in before it waited, and would not be now.
    pub async fn is_let_in_after(&self, app: &App, patience: Duration) -> Result<(), Problem> {
        match patience.is_zero() || self.is_let_in(app).await {
            true => Ok(()),
            false => Err(Problem::unauthorized("the API key is no longer valid")),
        }
    }

    /// Whether the job of an access token is still there; a key needs none. A silent store takes no right away.
    pub async fn has_its_job(&self, app: &App) -> bool {
        let Some(job) = self.only else { return true };
        self.job(app, job).await.err().is_none_or(|problem| problem.is_passing())
    }

    /// Whether the key still lets in whom it let in: for what goes on after the request was judged.
    ///
    /// An access token lives as long as its job, of which whoever watches it is told, and as the key in the ring that signed it.
    /// A silent store takes no right away.
    pub async fn is_let_in(&self, app: &App) -> bool {
        match &self.key {
            Some(key) => still_valid(app, key, Scope::JobsRead).await.unwrap_or(true),
            None => self.token.as_ref().is_some_and(|(text, _)| app.store.open_access_token(text).is_some()),
        }
    }
}

impl FromRequestParts<App> for Viewer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let required = || Problem::unauthorized("an API key or access token is required");
        let (token, by_query) = match Bearer::read(&parts.headers)? {
            Some(Bearer(token)) => (token.to_owned(), false),
            None => (query_token(parts).ok_or_else(required)?, true),
        };
        if token.starts_with(AccessToken::PREFIX) {
            let refused = || Problem::unauthorized("the access token is not valid");
            let (tenant, job) = app.store.open_access_token(&token).ok_or_else(refused)?;
            return Ok(Viewer { tenant, only: Some(job), key: None, token: Some((token, by_query)) });
        }
        let key = authenticate(app, Ctx::of(parts), &token).await?;
        require(&key, Scope::JobsRead)?;
        Ok(Viewer { tenant: key.tenant, only: None, key: Some(key), token: None })
    }
}

/// Someone who may read the job that the path names.
pub struct Reader {
    /// The job.
    pub id: JobId,
    /// What follows the job's id in the name of a file, without the dot.
    pub ending: Option<String>,
    /// Who it is.
    pub viewer: Viewer,
}

impl Reader {
    /// Whose job it is.
    pub fn tenant(&self) -> TenantId {
        self.viewer.tenant
    }

    /// The job as it stands.
    pub async fn job(&self, app: &App) -> Result<Job, Problem> {
        self.viewer.job(app, self.id).await
    }

    /// See [`Viewer::sees`].
    pub fn sees(&self, job: &Job) -> Result<(), Problem> {
        self.viewer.sees(job)
    }

    /// The access token that came in the query.
    pub fn query_token(&self) -> Option<&str> {
        self.viewer.token.as_ref().filter(|(_, by_query)| *by_query).map(|(text, _)| text.as_str())
    }

    /// Refuses a burst of polls.
    pub fn pace(&self, app: &App) -> Result<(), Problem> {
        self.viewer.pace(app, self.id)
    }
}

/// Refuses a burst of requests for one job; keys are told apart by `number`.
fn pace(app: &App, number: u64, id: JobId) -> Result<(), Problem> {
    if app.pace.allows(number, id, app.real.now()) {
        return Ok(());
    }
    Err(Problem::new(ProblemCode::RateLimited).detail("this job is polled too often; obey Retry-After"))
}

impl<N> Key<N> {
    /// Refuses a burst of requests for one job.
    pub fn pace(&self, app: &App, id: JobId) -> Result<(), Problem> {
        pace(app, self.record.id.uuid().as_u64_pair().1, id)
    }
}

impl FromRequestParts<App> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let viewer = Viewer::from_request_parts(parts, app).await?;
        let named = job_in_path(parts, app).await;
        let named = named.filter(|(id, _)| viewer.only.is_none_or(|only| only == *id));
        let (id, ending) = named.ok_or_else(|| Problem::new(ProblemCode::JobNotFound))?;
        Ok(Reader { id, ending, viewer })
    }
}

/// The token of `?access_token=`; an API key is never taken there, it would stand in logs.
fn query_token(parts: &Parts) -> Option<String> {
    url::form_urlencoded::parse(parts.uri.query()?.as_bytes())
        .find(|(name, _)| name == "access_token")
        .map(|(_, value)| value.into_owned())
        .filter(|token| token.starts_with(AccessToken::PREFIX))
}

/// The job of the path, and on `/results/{file}` the ending.
async fn job_in_path(parts: &mut Parts, app: &App) -> Option<(JobId, Option<String>)> {
    let with_ending = parts.extensions.get::<MatchedPath>().is_some_and(|p| p.as_str() == "/results/{file}");
    let First(text) = First::from_request_parts(parts, app).await.ok()?;
    match text.split_once('.').filter(|_| with_ending) {
        Some((id, ending)) => Some((id.parse().ok()?, Some(ending.to_owned()))),
        None => Some((text.parse().ok()?, None)),
    }
}
