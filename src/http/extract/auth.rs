//! Who asks, and what they may: API keys with scopes, and the capability that reads one job.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{FromRequestParts, MatchedPath};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::path::First;
use crate::http::app::App;
use crate::http::layers::Ctx;
use crate::http::problem::Problem;
use crate::store::KeyRecord;
use crate::types::job::Job;
use crate::types::key::{AccessToken, ApiKey, Scope};
use crate::types::problem::ProblemCode;
use crate::types::{JobId, Millis, TenantId};

/// How long a key is believed without asking the store: the time a revocation takes to reach every node.
const BELIEVED: Duration = Duration::from_secs(1);
const CACHED_MAX: usize = 10_000;

/// What the store said of a key's hash, and when.
type Seen = (Option<Arc<KeyRecord>>, Millis);

/// Keys seen within the last second, unknown ones too. In memory, bounded.
#[derive(Default)]
pub struct KeyCache(Mutex<HashMap<[u8; 32], Seen>>);

impl KeyCache {
    fn get(&self, hash: &[u8; 32], now: Millis) -> Option<Option<Arc<KeyRecord>>> {
        let cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cached.get(hash).filter(|(_, at)| now.since(*at) < BELIEVED).map(|(key, _)| key.clone())
    }

    /// Remembers what the store said just now.
    pub(in crate::http) fn put(&self, hash: [u8; 32], key: Option<Arc<KeyRecord>>, now: Millis) {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.len() >= CACHED_MAX {
            cached.retain(|_, (_, at)| now.since(*at) < BELIEVED);
        }
        if cached.len() < CACHED_MAX {
            cached.insert(hash, (key, now));
        }
    }

    /// Forgets all, so that this node sees a revocation at once.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The token of an `Authorization: Bearer` field (RFC 6750, 2.1).
pub struct Bearer<'a>(pub &'a str);

impl<'a> Bearer<'a> {
    /// None if there is no `Authorization` at all.
    pub fn read(headers: &'a HeaderMap) -> Result<Option<Bearer<'a>>, Problem> {
        let bad = || Problem::unauthorized("Authorization must be given once, as `Bearer <key>`");
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let (scheme, token) = value.to_str().map_err(|_| bad())?.split_once(' ').ok_or_else(bad)?;
        if values.next().is_some() || !scheme.eq_ignore_ascii_case("bearer") {
            return Err(bad());
        }
        Ok(Some(Bearer(token.trim())))
    }
}

/// The record of a valid key.
async fn authenticate(app: &App, ctx: Option<&Ctx>, text: &str) -> Result<Arc<KeyRecord>, Problem> {
    // One text for every reason: who guesses learns nothing.
    let refused = || Problem::unauthorized("the API key is not valid");
    let key = ApiKey::parse(text).map_err(|_| refused())?;
    let hash = key.hash();
    let now = app.real.now();
    let record = match app.keys.get(&hash, now) {
        Some(seen) => seen,
        None => {
            let read = app.ask(app.store.key_by_hash(hash)).await?.map(Arc::new);
            app.keys.put(hash, read.clone(), now);
            read
        }
    };
    let record = record.filter(|record| key.matches(&record.hash)).ok_or_else(refused)?;
    if record.expires_at.is_some_and(|at| at <= app.now()) {
        return Err(refused());
    }
    if let Some(ctx) = ctx {
        ctx.tenant(record.tenant);
    }
    Ok(record)
}

fn require(record: &KeyRecord, scope: Scope) -> Result<(), Problem> {
    if record.scopes.allows(scope) {
        return Ok(());
    }
    Err(Problem::new(ProblemCode::Forbidden).detail(format!("the key lacks the scope `{scope}`")))
}

fn in_queues(queues: Option<&[String]>, queue: &str) -> bool {
    queues.is_none_or(|queues| queues.iter().any(|q| q == queue))
}

/// The scope a route needs, as a type.
pub trait Needs: 'static {
    /// The scope.
    const SCOPE: Scope;
}

/// One type for each scope that a route needs.
pub mod need {
    use super::{Needs, Scope};

    macro_rules! needs {
        ($($name:ident),* $(,)?) => {$(
            #[doc = concat!("Needs [`Scope::", stringify!($name), "`].")]
            pub enum $name {}
            impl Needs for $name { const SCOPE: Scope = Scope::$name; }
        )*};
    }
    needs!(JobsWrite, JobsRead, Work, DeliveriesRead, DeadlettersReplay, MetricsRead, Admin, Operator);
}

/// An API key that has the scope `N`.
pub struct Key<N> {
    /// The key as stored.
    pub record: Arc<KeyRecord>,
    need: PhantomData<fn() -> N>,
}

impl<N> Key<N> {
    /// Whose key it is.
    pub fn tenant(&self) -> TenantId {
        self.record.tenant
    }

    /// Refuses a queue that the key is not for.
    pub fn for_queue(&self, queue: &str) -> Result<(), Problem> {
        if in_queues(self.record.queues.as_deref(), queue) {
            return Ok(());
        }
        Err(Problem::new(ProblemCode::Forbidden).detail("the key is narrowed to other queues"))
    }

    /// Refuses a narrowed key where what is told or done cannot be narrowed.
    pub fn whole(&self) -> Result<(), Problem> {
        if self.record.queues.is_none() && self.record.accounts.is_none() {
            return Ok(());
        }
        Err(Problem::new(ProblemCode::Forbidden)
            .detail("a key narrowed to queues or accounts cannot do this"))
    }

    /// Refuses what belongs to another account than the key's, or to no job or one outside its queues, as if
    /// it were not there.
    pub async fn may_see(&self, app: &App, account: Option<&str>, job: Option<JobId>) -> Result<(), Problem> {
        let missing = || Problem::new(ProblemCode::NotFound);
        if !self.in_accounts(account) {
            return Err(missing());
        }
        match job {
            Some(job) => self.may_touch(app, job).await.map_err(|problem| match problem.code() {
                ProblemCode::JobNotFound => missing(),
                _ => problem,
            }),
            None if self.record.queues.is_some() => Err(missing()),
            None => Ok(()),
        }
    }

    /// Whether the key may see what belongs to `account`.
    pub fn in_accounts(&self, account: Option<&str>) -> bool {
        let fits = |accounts: &Vec<String>| account.is_some_and(|a| accounts.iter().any(|one| one == a));
        self.record.accounts.as_ref().is_none_or(fits)
    }

    /// Refuses a job that the key must not see, as if it were not there.
    pub async fn may_touch(&self, app: &App, id: JobId) -> Result<(), Problem> {
        if self.record.queues.is_none() {
            return Ok(());
        }
        let job = app.ask_job(app.store.job(self.tenant(), id, app.now())).await?;
        visible(self.record.queues.as_deref(), &job)
    }
}

fn visible(queues: Option<&[String]>, job: &Job) -> Result<(), Problem> {
    if in_queues(queues, &job.queue) { Ok(()) } else { Err(Problem::new(ProblemCode::JobNotFound)) }
}

impl<N: Needs> FromRequestParts<App> for Key<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Some(Bearer(text)) = Bearer::read(&parts.headers)? else {
            return Err(Problem::unauthorized("an API key is required"));
        };
        let record = authenticate(app, Ctx::of(parts), text).await?;
        require(&record, N::SCOPE)?;
        Ok(Key { record, need: PhantomData })
    }
}

/// Who reports on a job: the holder of a lease token alone, or one with a key besides.
pub struct Worker(pub Option<Key<need::Work>>);

impl Worker {
    /// Whose the job must be; None if the lease token alone says so.
    pub fn tenant(&self) -> Option<TenantId> {
        self.0.as_ref().map(Key::tenant)
    }

    /// See [`Key::may_touch`].
    pub async fn may_touch(&self, app: &App, id: JobId) -> Result<(), Problem> {
        match &self.0 {
            Some(key) => key.may_touch(app, id).await,
            None => Ok(()),
        }
    }

    /// Refuses who shows no lease token and has no right beside it.
    pub fn without_token(&self) -> Result<(), Problem> {
        match &self.0 {
            Some(key) => require(&key.record, Scope::Work),
            None => Err(Problem::unauthorized("an API key or a lease token is required")),
        }
    }
}

impl FromRequestParts<App> for Worker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Some(Bearer(text)) = Bearer::read(&parts.headers)? else { return Ok(Worker(None)) };
        // The token is the right; a key only says whose the job must be, whatever its scopes.
        let record = authenticate(app, Ctx::of(parts), text).await?;
        Ok(Worker(Some(Key { record, need: PhantomData })))
    }
}

/// Someone who may read the job that the path names: a key with `jobs:read`, or the job's access token.
pub struct Reader {
    /// Whose job it is.
    pub tenant: TenantId,
    /// The job.
    pub id: JobId,
    queues: Option<Vec<String>>,
    /// The access token, if it came in the query and counted.
    by_query: Option<String>,
    /// Tells readers apart when polls are counted.
    who: u64,
}

impl Reader {
    /// The job as it stands.
    pub async fn job(&self, app: &App) -> Result<Job, Problem> {
        let job = app.ask_job(app.store.job(self.tenant, self.id, app.now())).await?;
        self.sees(&job)?;
        Ok(job)
    }

    /// Refuses a job outside the key's queues, as if it were not there.
    pub fn sees(&self, job: &Job) -> Result<(), Problem> {
        visible(self.queues.as_deref(), job)
    }

    /// The access token that came in the query.
    pub fn query_token(&self) -> Option<&str> {
        self.by_query.as_deref()
    }

    /// Refuses a burst of polls.
    pub fn pace(&self, app: &App) -> Result<(), Problem> {
        if app.pace.allows(self.who, self.id, app.real.now()) {
            return Ok(());
        }
        Err(Problem::new(ProblemCode::RateLimited).detail("this job is polled too often; obey Retry-After"))
    }
}

impl FromRequestParts<App> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let required = || Problem::unauthorized("an API key or access token is required");
        let (token, by_query) = match Bearer::read(&parts.headers)? {
            Some(Bearer(token)) => (token.to_owned(), None),
            None => query_token(parts).map(|token| (token.clone(), Some(token))).ok_or_else(required)?,
        };
        let missing = || Problem::new(ProblemCode::JobNotFound);
        if token.starts_with(AccessToken::PREFIX) {
            let refused = || Problem::unauthorized("the access token is not valid");
            let (tenant, opened) = app.store.open_access_token(&token).ok_or_else(refused)?;
            let id = job_in_path(parts, app).await.filter(|id| *id == opened).ok_or_else(missing)?;
            return Ok(Reader { tenant, id, queues: None, by_query, who: 0 });
        }
        let record = authenticate(app, Ctx::of(parts), &token).await?;
        require(&record, Scope::JobsRead)?;
        let id = job_in_path(parts, app).await.ok_or_else(missing)?;
        let who = record.id.uuid().as_u64_pair().1;
        Ok(Reader { tenant: record.tenant, id, queues: record.queues.clone(), by_query, who })
    }
}

/// The token of `?access_token=`; an API key is never taken there, it would stand in logs.
fn query_token(parts: &Parts) -> Option<String> {
    url::form_urlencoded::parse(parts.uri.query()?.as_bytes())
        .find(|(name, _)| name == "access_token")
        .map(|(_, value)| value.into_owned())
        .filter(|token| token.starts_with(AccessToken::PREFIX))
}

/// The job of the path; on `/results/{file}` the ending does not count.
async fn job_in_path(parts: &mut Parts, app: &App) -> Option<JobId> {
    let with_ending = parts.extensions.get::<MatchedPath>().is_some_and(|p| p.as_str() == "/results/{file}");
    let First(text) = First::from_request_parts(parts, app).await.ok()?;
    let id = if with_ending { text.split('.').next().unwrap_or_default() } else { &text };
    id.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_read_in_one_form_only() {
        let read = |value: &'static str| {
            let headers: HeaderMap =
                [(AUTHORIZATION, http::HeaderValue::from_static(value))].into_iter().collect();
            Bearer::read(&headers).map(|b| b.map(|Bearer(token)| token.to_owned())).ok().flatten()
        };
        assert_eq!(read("Bearer rbk_x").as_deref(), Some("rbk_x"));
        assert_eq!(read("bearer  rbk_x").as_deref(), Some("rbk_x"));
        assert_eq!(read("Basic rbk_x"), None);
        assert_eq!(read("rbk_x"), None);
        assert!(Bearer::read(&HeaderMap::new()).unwrap().is_none());
    }

    #[test]
    fn the_cache_forgets_within_a_second_and_is_bounded() {
        let cache = KeyCache::default();
        cache.put([1; 32], None, Millis(0));
        assert!(matches!(cache.get(&[1; 32], Millis(999)), Some(None)));
        assert!(cache.get(&[1; 32], Millis(1_000)).is_none());
        for n in 0..20_000u32 {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&n.to_be_bytes());
            cache.put(hash, None, Millis(i64::from(n)));
        }
        assert!(cache.0.lock().unwrap().len() <= CACHED_MAX);
    }
}
