//! Submitting many jobs in one request.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::app::App;
use super::extract::{BareHead, Head, JsonBody, Key, NoQuery, Query, Waiting, need::JobsWrite, sizes};
use super::json;
use super::problem::Problem;
use super::submit::{REPLAYED, STATUS_PATH, check, endpoints, first_of, stamp, view};
use crate::store::Submitted;
use crate::types::api::{Items, JobAccepted, OrProblem, SubmitBatch, SubmitJob};
use crate::types::job::{Idempotency, NewJob};
use crate::types::problem::{Invalid, ProblemCode};
use crate::types::{EndpointId, TenantId};

/// Jobs in one request.
const BATCH_MAX: usize = 1_000;
/// Then the estimates of further types come from memory: a thousand types are not worth a thousand reads.
const ESTIMATES_WITHIN: Duration = Duration::from_millis(250);

/// Submit many jobs, all or none (`atomic`) or each for itself.
#[utoipa::path(post, path = "/v1/jobs/batch", tag = "jobs", operation_id = "submitBatch",
    security(("apiKey" = ["jobs:write"])),
    params(("Idempotency-Key" = Option<String>, Header, max_length = 257),
        ("traceparent" = Option<String>, Header)),
    request_body = SubmitBatch,
    responses((status = 202, body = Items<OrProblem<JobAccepted>>),
        (status = 409, description = "idempotency-in-flight")))]
pub async fn batch(
    State(app): State<App>,
    key: Key<JobsWrite>,
    _: Query<NoQuery>,
    BareHead(head): BareHead,
    waiting: Waiting,
    body: JsonBody<SubmitBatch, sizes::Batch>,
) -> Result<Response, Problem> {
    let SubmitBatch { atomic, jobs } = body.value;
    if jobs.is_empty() || jobs.len() > BATCH_MAX {
        return Err(Invalid::member("/jobs", format!("must have 1 to {BATCH_MAX} entries")).into());
    }
    let whole = head.idempotency("POST /v1/jobs/batch", &body.raw);
    let mut checked = Vec::with_capacity(jobs.len());
    let until = Instant::now() + ESTIMATES_WITHIN;
    let wishes: Vec<_> = jobs.iter().map(|raw| json::read_object::<SubmitJob>(raw.get())).collect();
    let endpoints = endpoints(&app, &key, wishes.iter().flatten()).await?;
    for (i, wish) in wishes.into_iter().enumerate() {
        let one = entry(&app, &key, wish, (&endpoints, &head), until).await;
        checked.push(one.map_err(|problem| problem.below(&format!("/jobs/{i}"))));
    }
    if let Some(whole) = whole {
        recall(&app, &key, &whole, &mut checked).await?;
    }
    if atomic && let Some(refusal) = Problem::all(checked.iter().filter_map(|one| one.as_ref().err())) {
        return Err(refusal);
    }
    store_batch(&app, &waiting, checked).await
}

/// An entry that may be stored, or one that an earlier request has stored and that would not do today.
enum Entry {
    New(Box<NewJob>),
    Stored(Box<Submitted>),
}

/// Gives each entry its key, and finds what was sound when it first came though the rules or the time have moved on.
async fn recall(
    app: &App,
    key: &Key<JobsWrite>,
    whole: &Idempotency,
    checked: &mut [Result<Entry, Problem>],
) -> Result<(), Problem> {
    let keys = Keys::of(app, key.tenant(), whole, checked).await?;
    for (i, one) in checked.iter_mut().enumerate() {
        let own = keys.nth(i);
        match one {
            Ok(Entry::New(job)) => job.idempotency = Some(own),
            Ok(Entry::Stored(_)) => {}
            Err(_) if !keys.repeats => {}
            Err(_) => match first_of(app, key, &own).await {
                Ok(Some(found)) => *one = Ok(Entry::Stored(Box::new(found))),
                Ok(None) => {}
                Err(refusal) => *one = Err(refusal.below(&format!("/jobs/{i}"))),
            },
        }
    }
    Ok(())
}

/// The keys of a batch's entries, made of that of the whole, so that each entry recognises its repeat.
///
/// The first entry that is stored claims the key of the whole, and with its place in the fingerprint: any two
/// bodies under one key meet there, whichever of their entries are bad, and the later one is refused as a whole.
/// Which entries are bad may depend on who sends it.
pub(super) struct Keys<'w> {
    whole: &'w Idempotency,
    first: Option<usize>,
    /// Whether a request with that key was stored before.
    repeats: bool,
}

impl<'w> Keys<'w> {
    pub(super) async fn of<T>(
        app: &App,
        tenant: TenantId,
        whole: &'w Idempotency,
        entries: &[Result<T, Problem>],
    ) -> Result<Keys<'w>, Problem> {
        let named = (whole.route.as_str(), whole.key.as_str());
        let before = app.ask(app.store.first_fingerprint(tenant, named, app.now())).await?;
        let first = match &before {
            None => entries.iter().position(Result::is_ok),
            Some(before) => {
                let place = (0..entries.len()).find(|i| placed(whole, *i).fingerprint.as_slice() == before);
                Some(place.ok_or_else(|| Problem::new(ProblemCode::IdempotencyKeyReused))?)
            }
        };
        Ok(Keys { whole, first, repeats: before.is_some() })
    }

    pub(super) fn nth(&self, i: usize) -> Idempotency {
        match Some(i) == self.first {
            true => placed(self.whole, i),
            false => Idempotency { route: format!("{}#{i}", self.whole.route), ..self.whole.clone() },
        }
    }
}

fn placed(whole: &Idempotency, i: usize) -> Idempotency {
    let placed = Sha256::new().chain_update(whole.fingerprint).chain_update((i as u64).to_be_bytes());
    Idempotency { fingerprint: placed.finalize().into(), ..whole.clone() }
}

/// One entry of a batch.
async fn entry(
    app: &App,
    key: &Key<JobsWrite>,
    wish: Result<SubmitJob, Invalid>,
    (endpoints, head): (&BTreeMap<EndpointId, String>, &Head),
    until: Instant,
) -> Result<Entry, Problem> {
    let wish = wish?;
    let estimate = match Instant::now() < until {
        true => app.store.estimate(key.tenant(), &wish.kind, app.now()).await,
        false => app.store.remembered_estimate(key.tenant(), &wish.kind),
    };
    let stamp = stamp(app, key.tenant(), estimate, head, None);
    check(app, key, wish, endpoints, stamp).map(|job| Entry::New(Box::new(job)))
}

async fn store_batch(
    app: &App,
    waiting: &Waiting,
    checked: Vec<Result<Entry, Problem>>,
) -> Result<Response, Problem> {
    let mut good = Vec::with_capacity(checked.len());
    let places: Vec<Result<Option<Box<Submitted>>, Problem>> = checked
        .into_iter()
        .map(|one| match one? {
            Entry::New(job) => {
                good.push(*job);
                Ok(None)
            }
            Entry::Stored(earlier) => Ok(Some(earlier)),
        })
        .collect();
    let stored = match good.is_empty() {
        true => Vec::new(),
        false => app.ask(app.store.submit(good, app.now())).await?,
    };
    app.tell_of(&stored);
    let mut stored = stored.into_iter();
    let answers: Vec<Result<Submitted, Problem>> = places
        .into_iter()
        .map(|place| match place? {
            Some(earlier) => Ok(*earlier),
            None => stored.next().ok_or_else(|| Problem::new(ProblemCode::Internal)),
        })
        .collect();
    let done = || answers.iter().flatten();
    let replayed = done().next().is_some() && done().all(|one| one.replayed);
    let items: Vec<_> = answers
        .iter()
        .map(|answer| match answer {
            Ok(one) => OrProblem::Done(view(app, one, STATUS_PATH)),
            Err(problem) => OrProblem::Problem(problem.clone().body(waiting.request_id())),
        })
        .collect();
    let mut response =
        (StatusCode::ACCEPTED, json::Long(items.len() * json::JOB_BYTES, Items { items })).into_response();
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}
