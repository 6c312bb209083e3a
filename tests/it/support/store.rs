//! A store of one's own on either engine, with dice and time in the test's hands.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ringback::dice::Dice;
use ringback::metrics::Metrics;
use ringback::store::db::{Engine, Row, Target};
use ringback::store::pool::{Guard, Pool};
use ringback::store::seal::KeyRing;
use ringback::store::{
    Attempted, Changed, ClaimedDelivery, Error, JobChange, LeaseRequest, Options, PageOf, Retained, Right,
    Store, Submitted, What, check,
};
use ringback::types::api::{ClaimedJob, Urls};
use ringback::types::delivery::{Exchange, Outcome as Seen, Phases, Verdict};
use ringback::types::id::NodeId;
use ringback::types::job::{
    Callback, CallbackSecrets, Change, Failure, Idempotency, Job, JobEvent, NewJob, Outcome, WorkerKind,
};
use ringback::types::key::LeaseToken;
use ringback::types::retry::RetryPolicy;
use ringback::types::{JobId, Millis, TenantId};

/// 2026-01-01T00:00:00Z.
pub const START: Millis = Millis(1_767_225_600_000);

/// Runs each function on SQLite and on PostgreSQL; afterwards the invariants must hold.
macro_rules! both_stores {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let bed = $crate::support::store::Bed::sqlite().await;
                super::$name(&bed).await;
                bed.sound().await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let bed = $crate::support::store::Bed::postgres().await;
                super::$name(&bed).await;
                bed.sound().await;
            })*
        }
    };
}
pub(crate) use both_stores;

/// A store, a tenant in it, and a clock that stands still.
pub struct Bed {
    pub store: Store,
    pub url: String,
    pub tenant: TenantId,
    pub node: NodeId,
    pub dice: Dice,
    now: AtomicI64,
    spoiled: AtomicBool,
    _dir: Option<tempfile::TempDir>,
}

/// Opens a store; `seed` keeps the ids of several handles apart.
pub async fn open(url: &str, seed: u64) -> Result<Store, Error> {
    Store::open(Options {
        url: url.to_owned(),
        urls: Urls::new("https://api.example.com"),
        ring: KeyRing::generate([7; 32]),
        dice: Dice::seeded(seed),
        metrics: Metrics::default(),
    })
    .await
}

impl Bed {
    pub async fn sqlite() -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("store.db").display());
        Bed::on(url, Some(dir)).await
    }

    pub async fn postgres() -> Bed {
        Bed::on(super::postgres::database().await, None).await
    }

    pub async fn on(url: String, dir: Option<tempfile::TempDir>) -> Bed {
        let store = open(&url, 1).await.unwrap();
        let tenant = store.tenant("one", START).await.unwrap();
        let dice = Dice::seeded(2);
        let node = dice.id(START);
        let (now, spoiled) = (AtomicI64::new(START.0), AtomicBool::new(false));
        Bed { store, url, tenant, node, dice, now, spoiled, _dir: dir }
    }

    pub fn engine(&self) -> Engine {
        Target::parse(&self.url).unwrap().engine()
    }

    pub fn now(&self) -> Millis {
        Millis(self.now.load(Ordering::SeqCst))
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        self.now.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub fn pass_seconds(&self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    pub fn set_now(&self, now: Millis) {
        self.now.store(now.0, Ordering::SeqCst);
    }

    /// The invariants are broken on purpose.
    pub fn spoil(&self) {
        self.spoiled.store(true, Ordering::SeqCst);
    }
}

/// Jobs.
impl Bed {
    pub fn job(&self) -> NewJob {
        NewJob {
            id: self.dice.id(self.now()),
            tenant: self.tenant,
            kind: "report.generate".to_owned(),
            queue: "default".to_owned(),
            reference: None,
            priority: 0,
            worker: WorkerKind::Pull,
            input: r#"{"year":2025}"#.to_owned(),
            callback: None,
            secrets: CallbackSecrets::default(),
            run_at: None,
            deadline_at: None,
            timeout_seconds: 600,
            max_attempts: 3,
            lease_seconds: 30,
            metadata: "{}".to_owned(),
            retain_seconds: 604_800,
            traceparent: None,
            estimated_seconds: 30,
            lease: None,
            idempotency: None,
        }
    }

    pub fn job_with(&self, change: impl FnOnce(&mut NewJob)) -> NewJob {
        let mut job = self.job();
        change(&mut job);
        job
    }

    /// A job whose callback wants the four ends.
    pub fn called_back(&self) -> NewJob {
        self.job_with(|j| j.callback = Some(callback("https://hooks.example.com/a")))
    }

    pub async fn submit(&self, job: NewJob) -> Submitted {
        self.store.submit(vec![job], self.now()).await.unwrap().remove(0)
    }

    pub async fn submit_n(&self, n: usize) -> Vec<JobId> {
        let jobs = (0..n).map(|_| self.job()).collect();
        self.store.submit(jobs, self.now()).await.unwrap().iter().map(|s| s.job.id).collect()
    }

    pub fn wish(&self, max: u32) -> LeaseRequest {
        LeaseRequest {
            tenant: self.tenant,
            queue: "default".to_owned(),
            types: vec![],
            max,
            lease_seconds: 30,
            renew_seconds: None,
            worker_id: Some("w-1".to_owned()),
        }
    }

    pub async fn lease(&self, max: u32) -> Vec<ClaimedJob> {
        let got = self.store.lease(self.wish(max), self.now()).await.unwrap();
        got.into_iter().map(|l| l.job).collect()
    }

    pub async fn lease_one(&self) -> ClaimedJob {
        let mut got = self.lease(1).await;
        assert_eq!(got.len(), 1, "a job is due");
        got.remove(0)
    }

    pub async fn change(&self, change: JobChange) -> Result<Changed, Error> {
        self.store.change(vec![change], self.now()).await.unwrap().remove(0)
    }

    pub async fn by_lease(&self, id: JobId, token: LeaseToken, what: What) -> Result<Changed, Error> {
        self.change(JobChange { id, tenant: None, right: Right::Lease(token), what }).await
    }

    pub async fn held(&self, job: &ClaimedJob, what: What) -> Result<Changed, Error> {
        self.by_lease(job.job_id, job.lease_token, what).await
    }

    pub async fn owner(&self, id: JobId, what: What) -> Result<Changed, Error> {
        self.change(JobChange { id, tenant: Some(self.tenant), right: Right::Owner, what }).await
    }

    pub async fn get(&self, id: JobId) -> Job {
        self.store.job(self.tenant, id, self.now()).await.unwrap()
    }

    /// Submits, claims and completes one job with a callback.
    pub async fn completed(&self) -> Job {
        let id = self.submit(self.called_back()).await.job.id;
        let held = self.lease(500).await.into_iter().find(|j| j.job_id == id).unwrap();
        *self.held(&held, complete()).await.unwrap().job
    }

    /// Sequence and type of each event, in the order given.
    pub async fn events(&self, id: JobId) -> Vec<(i64, String)> {
        let events = self.store.job_events(self.tenant, id, 0, 1_000, self.now()).await.unwrap();
        events.into_iter().map(|e| (e.sequence, e.kind)).collect()
    }

    pub async fn kinds(&self, id: JobId) -> Vec<String> {
        self.events(id).await.into_iter().map(|(_, kind)| kind.replace("job.", "")).collect()
    }
}

/// Deliveries.
impl Bed {
    /// Claims everything that is due.
    pub async fn claim(&self) -> Vec<ClaimedDelivery> {
        let due = self.store.due(Millis(0), self.now(), 1_000).await.unwrap();
        self.store.claim(due, self.node, Duration::from_secs(30), self.now()).await.unwrap()
    }

    pub async fn claim_one(&self) -> ClaimedDelivery {
        let mut got = self.claim().await;
        assert_eq!(got.len(), 1, "one delivery is due");
        got.remove(0)
    }

    pub async fn record(&self, attempted: Attempted) -> bool {
        self.store.record(vec![attempted], self.now()).await.unwrap()[0].is_some()
    }

    /// Claims the one due delivery and writes what came of it.
    pub async fn deliver(&self, status: u16, verdict: Verdict) -> ClaimedDelivery {
        let claimed = self.claim_one().await;
        assert!(self.record(attempted(&claimed, status, verdict)).await);
        claimed
    }
}

/// The database behind the store's back.
impl Bed {
    pub async fn rows(&self, sql: &str) -> Vec<Row> {
        let text: &'static str = Box::leak(sql.to_owned().into_boxed_str());
        let mut conn = beside(&self.url).await;
        conn.all(text, vec![]).await.unwrap()
    }

    /// One bite of each kind, whatever another came to.
    pub async fn retain(&self, bite: u32) -> Result<u64, Error> {
        let mut gone = Ok(0);
        for what in Retained::ALL {
            let some = self.store.retain(what, self.now(), bite).await;
            gone = gone.and_then(|n| some.map(|more| n + more));
        }
        gone
    }

    pub async fn count(&self, from: &str) -> i64 {
        self.rows(&format!("SELECT COUNT(*) FROM {from}")).await[0].int(0).unwrap()
    }

    /// How the engine writes a UUID.
    pub fn literal(&self, id: uuid::Uuid) -> String {
        match self.engine() {
            Engine::Sqlite => format!("x'{}'", id.simple()),
            Engine::Postgres => format!("'{id}'"),
        }
    }

    /// The invariants as `check` sees them, and every job's history without a gap or a repeat.
    pub async fn sound(&self) {
        if self.spoiled.load(Ordering::SeqCst) {
            return;
        }
        for finding in check(&self.url).await.unwrap() {
            assert!(finding.broken.is_empty(), "{finding:?}");
        }
        let kept = format!(
            "SELECT id, tenant_id FROM jobs WHERE purged_at IS NULL AND (remove_at IS NULL OR remove_at > {})
             ORDER BY id LIMIT 300",
            self.now().0
        );
        for row in self.rows(&kept).await {
            let (id, tenant): (JobId, TenantId) = (row.id(0).unwrap(), row.id(1).unwrap());
            let job = self.store.job(tenant, id, self.now()).await.unwrap();
            let events = self.store.job_events(tenant, id, 0, 5_000, self.now()).await.unwrap();
            let sequences: Vec<i64> = events.iter().map(|e| e.sequence).collect();
            assert_eq!(sequences, (1..=job.sequence).collect::<Vec<_>>(), "{job:?}");
            let ended = JobEvent::from_word(&events.last().unwrap().kind).unwrap().is_terminal();
            assert_eq!(ended, job.state.ended(), "{job:?}");
        }
        let repeated = "(SELECT 1 AS one FROM events WHERE job_id IS NOT NULL
                         GROUP BY job_id, sequence HAVING COUNT(*) > 1) AS r";
        assert_eq!(self.count(repeated).await, 0, "one row per event");
    }
}

pub fn callback(url: &str) -> Callback {
    Callback {
        url: url.to_owned(),
        wants: JobEvent::ends(),
        endpoint_id: None,
        payload: None,
        format: None,
        context: None,
        expires_at: None,
        failure_url: None,
        retry: RetryPolicy::default(),
    }
}

pub fn key(route: &str, key: &str, fingerprint: u8) -> Idempotency {
    Idempotency { route: route.to_owned(), key: key.to_owned(), fingerprint: [fingerprint; 32] }
}

pub fn json(text: &'static str) -> Outcome {
    Outcome::json(Bytes::from_static(text.as_bytes()))
}

pub fn complete() -> What {
    What::Change(Change::Complete(json(r#"{"ok":true}"#)))
}

pub fn failure(retryable: bool) -> What {
    What::Change(Change::Fail(Failure {
        error: "no data".to_owned(),
        code: Some("no_data".to_owned()),
        retryable,
        retry_after_seconds: None,
    }))
}

pub fn cancel() -> What {
    What::Change(Change::Cancel { reason: Some("not needed".to_owned()) })
}

pub fn release(delay_seconds: u32) -> What {
    What::Change(Change::Release { delay_seconds })
}

pub fn heartbeat(progress: Option<u8>) -> What {
    What::Heartbeat { progress, message: None, extend_seconds: None }
}

pub fn exchange(seen: Seen) -> Exchange {
    Exchange {
        outcome: seen,
        phases: Phases { connect_ms: Some(3), ..Phases::default() },
        duration: Duration::from_millis(12),
        address: None,
        headers: vec![("server".to_owned(), "x".to_owned()), ("Set-Cookie".to_owned(), "s3cret".to_owned())],
        body: Bytes::from_static(b"thanks"),
    }
}

pub fn answered(status: u16) -> Exchange {
    exchange(Seen::Answered { status, retry_after: None, abort: false })
}

pub fn attempted(claimed: &ClaimedDelivery, status: u16, verdict: Verdict) -> Attempted {
    Attempted {
        id: claimed.id,
        tenant: claimed.tenant,
        fence: claimed.fence,
        number: claimed.number,
        started_at: claimed.started_at,
        exchange: Some(answered(status)),
        verdict,
        endpoint: None,
        counts: true,
    }
}

pub fn page<K>(limit: u32) -> PageOf<K> {
    PageOf { after: None, limit }
}

/// A connection of one's own, beside the service's.
pub async fn beside(url: &str) -> Guard {
    hold(Target::parse(url).unwrap()).await
}

/// A connection to that target.
pub async fn hold(target: Target) -> Guard {
    Pool::new(target, 1, false, Duration::from_secs(5)).get().await.unwrap()
}
