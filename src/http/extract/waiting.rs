//! Deliberate waits of one request: they give its place away, so that pollers never keep others out.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::{Prefer, Reader};
use crate::http::app::{App, Awaited};
use crate::http::layers::Ctx;
use crate::http::problem::Problem;
use crate::store::{LeaseRequest, LeasedJob};
use crate::types::JobId;
use crate::types::job::Job;

/// The right to wait on purpose, and the request's name.
pub struct Waiting(Option<Arc<Ctx>>);

impl FromRequestParts<App> for Waiting {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        Ok(Waiting(parts.extensions.get::<Arc<Ctx>>().cloned()))
    }
}

impl Waiting {
    /// The `Request-Id` of the answer.
    pub fn request_id(&self) -> Option<&str> {
        self.0.as_ref().map(|ctx| ctx.id.as_str())
    }

    /// Claims jobs; see [`App::claim`].
    pub async fn claim(
        &self,
        app: &App,
        wish: &LeaseRequest,
        patience: Duration,
    ) -> Result<Vec<LeasedJob>, Problem> {
        self.rest_for(patience);
        app.claim(wish, patience).await
    }

    /// Looks again when what is awaited of the job may be there; see [`App::watch`].
    pub async fn watch<T, F: Future<Output = Result<T, Problem>>>(
        &self,
        app: &App,
        (id, patience): (JobId, Duration),
        look: impl FnMut() -> F,
        awaited: impl Fn(&T) -> Option<Awaited>,
    ) -> Result<T, Problem> {
        self.rest_for(patience);
        app.watch((id, patience), look, awaited).await
    }

    /// Gives the request's place away for good.
    pub fn rest(&self) {
        if let Some(ctx) = &self.0 {
            ctx.rest();
        }
    }

    fn rest_for(&self, patience: Duration) {
        if !patience.is_zero() {
            self.rest();
        }
    }

    /// The job just stored, once it has ended or the client's patience has.
    pub async fn for_end(&self, app: &App, prefer: Prefer, job: Job) -> Job {
        if job.state.ended() || prefer.patience().is_zero() {
            return job;
        }
        let look = || app.ask_job(app.store.job(job.tenant, job.id, app.now()));
        // It is stored: whatever keeps us from waiting for it, the answer is that it was accepted.
        let waited = self.watch(app, (job.id, prefer.patience()), look, Awaited::event_of).await;
        waited.unwrap_or(job)
    }

    /// The job a reader asks for, once `changed`, or without it at its end, or when the client's patience has
    /// run out.
    pub async fn for_reader(
        &self,
        app: &App,
        prefer: Prefer,
        reader: &Reader,
        changed: Option<impl Fn(&Job) -> bool>,
    ) -> Result<Job, Problem> {
        let (look, patience) = (|| reader.job(app), prefer.patience());
        let awaited = |job: &Job| match &changed {
            Some(changed) => (!changed(job)).then(|| Awaited::change_of(job)),
            None => Awaited::event_of(job),
        };
        let job = self.watch(app, (reader.id, patience), look, awaited).await?;
        reader.viewer.is_let_in_after(app, patience).await?;
        Ok(job)
    }
}
