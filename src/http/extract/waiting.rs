//! Deliberate waits of one request: they give its place away, so that pollers never keep others out.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::{Prefer, Reader};
use crate::http::app::App;
use crate::http::layers::Ctx;
use crate::http::problem::Problem;
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

    /// Looks again and again; see [`App::watch`].
    pub async fn watch<T, F: Future<Output = Result<T, Problem>>>(
        &self,
        app: &App,
        patience: Duration,
        look: impl FnMut() -> F,
        done: impl Fn(&T) -> bool,
    ) -> Result<T, Problem> {
        if let Some(ctx) = self.0.as_ref().filter(|_| !patience.is_zero()) {
            ctx.rest();
        }
        app.watch(patience, look, done).await
    }

    /// The job just stored, once it has ended or the client's patience has.
    pub async fn for_end(&self, app: &App, prefer: Prefer, job: Job) -> Result<Job, Problem> {
        if job.state.ended() || prefer.patience().is_zero() {
            return Ok(job);
        }
        let look = || app.ask_job(app.store.job(job.tenant, job.id, app.now()));
        self.watch(app, prefer.patience(), look, |job| job.state.ended()).await
    }

    /// The job a reader asks for, once `done` or the client's patience has run out.
    pub async fn for_reader(
        &self,
        app: &App,
        prefer: Prefer,
        reader: &Reader,
        done: impl Fn(&Job) -> bool,
    ) -> Result<Job, Problem> {
        self.watch(app, prefer.patience(), || reader.job(app), done).await
    }
}
