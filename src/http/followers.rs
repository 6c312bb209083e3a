//! How much each client follows or has sent at once, so that none takes all the places of a node. In memory, per node,
//! bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::problem::Problem;
use crate::types::problem::ProblemCode;
use crate::types::{JobId, KeyId, TenantId};

/// Streams and sockets open at once by the access token of one job ...
const BY_TOKEN: u32 = 20;
/// ... by one key, which is half of a node's connections ...
const BY_KEY: u32 = 5_000;
/// ... and by one tenant.
const BY_TENANT: u32 = 7_500;
/// Jobs that the sockets of one tenant follow at once: half of what a node watches.
const JOBS: u32 = 100_000;
/// Tests and challenges under way at once, which take no slots of the dispatcher ...
const PROBES: u32 = 64;
/// ... and those of one tenant.
const PROBES_BY_TENANT: u32 = 4;
/// When it is worth to ask again, seconds.
const LATER: u32 = 5;

/// Who follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    /// Whoever has the access token of the job.
    Token(Option<JobId>),
    /// An API key.
    Key(KeyId),
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Count {
    Who(Who),
    Tenant(TenantId),
    Jobs(TenantId),
    Probes,
    ProbesOf(TenantId),
}

impl Count {
    /// The most of it, and how it is told.
    fn bound(self) -> (u32, &'static str) {
        match self {
            Count::Who(Who::Token(_)) => (BY_TOKEN, "streams at once for the job's access token"),
            Count::Who(Who::Key(_)) => (BY_KEY, "streams at once for one API key"),
            Count::Tenant(_) => (BY_TENANT, "streams at once for one tenant"),
            Count::Jobs(_) => (JOBS, "jobs at once on the WebSockets of one tenant"),
            Count::Probes => (PROBES, "tests and challenges of endpoints at once"),
            Count::ProbesOf(_) => {
                (PROBES_BY_TENANT, "tests and challenges of endpoints at once for one tenant")
            }
        }
    }
}

/// The counts. Cheap to clone.
#[derive(Clone, Default)]
pub struct Followers(Arc<Mutex<HashMap<Count, u32>>>);

/// One of a count; free again when dropped.
pub struct Place {
    followers: Followers,
    count: Count,
}

/// The places of one stream or socket, or of one request that is sent at once.
pub type Places = [Place; 2];

impl Followers {
    /// Places for one stream or socket.
    pub fn connection(&self, who: Who, tenant: TenantId) -> Result<Places, Problem> {
        Ok([self.take(Count::Who(who))?, self.take(Count::Tenant(tenant))?])
    }

    /// A place for one job that a socket follows.
    pub fn job(&self, tenant: TenantId) -> Result<Place, Problem> {
        self.take(Count::Jobs(tenant))
    }

    /// Places for one request to an endpoint that someone waits for.
    pub fn probe(&self, tenant: TenantId) -> Result<Places, Problem> {
        Ok([self.take(Count::ProbesOf(tenant))?, self.take(Count::Probes)?])
    }

    fn take(&self, count: Count) -> Result<Place, Problem> {
        let (most, words) = count.bound();
        self.with(|counts| {
            let taken = counts.entry(count).or_default();
            if *taken >= most {
                let detail = format!("a node has {most} {words}");
                return Err(Problem::new(ProblemCode::RateLimited).detail(detail).retry_after(LATER));
            }
            *taken += 1;
            Ok(Place { followers: self.clone(), count })
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<Count, u32>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.followers.with(|counts| {
            let left = counts.get(&self.count).map_or(0, |taken| taken.saturating_sub(1));
            match left {
                0 => counts.remove(&self.count),
                left => counts.insert(self.count, left),
            };
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(n: u128) -> TenantId {
        TenantId::from_uuid(uuid::Uuid::from_u128(n))
    }

    fn key(n: u128) -> Who {
        Who::Key(KeyId::from_uuid(uuid::Uuid::from_u128(n)))
    }

    fn token(n: u128) -> Who {
        Who::Token(Some(JobId::from_uuid(uuid::Uuid::from_u128(n))))
    }

    /// As many as there are places.
    fn fill<T>(take: impl Fn() -> Result<T, Problem>) -> (Vec<T>, Problem) {
        let mut places = Vec::new();
        loop {
            match take() {
                Ok(place) => places.push(place),
                Err(full) => return (places, full),
            }
        }
    }

    #[test]
    fn each_has_its_bound_and_no_other_pays_for_it() {
        let followers = Followers::default();
        let (mut one, full) = fill(|| followers.connection(token(1), tenant(1)));
        assert_eq!((one.len(), full.code()), (20, ProblemCode::RateLimited));
        assert!(followers.connection(token(2), tenant(1)).is_ok(), "the other was given back");
        let (two, _) = fill(|| followers.connection(key(1), tenant(1)));
        let (three, _) = fill(|| followers.connection(key(2), tenant(1)));
        assert_eq!((two.len(), one.len() + two.len() + three.len()), (5_000, 7_500), "then the tenant's");
        assert!(followers.connection(key(3), tenant(2)).is_ok());
        one.pop();
        assert!(followers.connection(token(1), tenant(1)).is_ok(), "a place is free again");

        let (jobs, full) = fill(|| followers.job(tenant(1)));
        assert_eq!((jobs.len(), full.code()), (100_000, ProblemCode::RateLimited));
        assert!(followers.job(tenant(2)).is_ok());

        let (probes, full) = fill(|| followers.probe(tenant(1)));
        assert_eq!((probes.len(), full.code()), (4, ProblemCode::RateLimited));
        let others: Vec<_> = (2..17).map(|n| fill(|| followers.probe(tenant(n))).0).collect();
        assert_eq!(others.iter().map(Vec::len).sum::<usize>(), 60);
        assert!(followers.probe(tenant(17)).is_err(), "the node's");
    }

    #[test]
    fn who_has_left_is_forgotten() {
        let followers = Followers::default();
        let places = followers.connection(key(1), tenant(1)).unwrap();
        let job = followers.job(tenant(1)).unwrap();
        assert_eq!(followers.with(|counts| counts.len()), 3);
        drop((places, job));
        assert_eq!(followers.with(|counts| counts.len()), 0);
    }
}
