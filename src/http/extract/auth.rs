//! Who asks, and what they may: API keys with scopes.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;

use crate::http::app::App;
use crate::http::layers::Ctx;
use crate::http::problem::Problem;
use crate::store::KeyRecord;
use crate::types::job::Job;
use crate::types::key::{ApiKey, Scope};
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
pub(super) async fn authenticate(
    app: &App,
    ctx: Option<&Ctx>,
    text: &str,
) -> Result<Arc<KeyRecord>, Problem> {
    // One text for every reason: who guesses learns nothing.
    let refused = || Problem::unauthorized("the API key is not valid");
    let key = ApiKey::parse(text).map_err(|_| refused())?;
    let record = recall(app, key.hash()).await?;
    let record = record.filter(|record| key.matches(&record.hash)).ok_or_else(refused)?;
    if record.expires_at.is_some_and(|at| at <= app.now()) {
        return Err(refused());
    }
    if let Some(ctx) = ctx {
        ctx.tenant(record.tenant);
    }
    Ok(record)
}

/// What the store says of a key, or said within the last second.
async fn recall(app: &App, hash: [u8; 32]) -> Result<Option<Arc<KeyRecord>>, Problem> {
    let now = app.real.now();
    if let Some(seen) = app.keys.get(&hash, now) {
        return Ok(seen);
    }
    let read = app.ask(app.store.key_by_hash(hash)).await?.map(Arc::new);
    app.keys.put(hash, read.clone(), now);
    Ok(read)
}

/// Whether a key that was let in before would be again.
pub(super) async fn still_valid(app: &App, key: &KeyRecord, scope: Scope) -> Result<bool, Problem> {
    let record = recall(app, key.hash).await?;
    let lives = |record: &KeyRecord| record.expires_at.is_none_or(|at| at > app.now());
    Ok(record.is_some_and(|record| lives(&record) && record.scopes.allows(scope)))
}

pub(super) fn require(record: &KeyRecord, scope: Scope) -> Result<(), Problem> {
    if record.scopes.allows(scope) {
        return Ok(());
    }
    Err(Problem::new(ProblemCode::Forbidden).detail(format!("the key lacks the scope `{scope}`")))
}

pub(super) fn in_queues(queues: Option<&[String]>, queue: &str) -> bool {
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
    needs!(
        JobsWrite,
        JobsRead,
        Work,
        EventsWrite,
        EndpointsWrite,
        EndpointsRead,
        DeliveriesRead,
        DeadlettersReplay,
        MetricsRead,
        Admin,
        Operator
    );
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

impl<N: Needs> Key<N> {
    /// Whether it would still be let in: for what goes on after the request was judged. A silent store takes no
    /// right away.
    pub async fn is_let_in(&self, app: &App) -> bool {
        still_valid(app, &self.record, N::SCOPE).await.unwrap_or(true)
    }
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
