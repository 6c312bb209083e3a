//! The truth. One method is one use case is one transaction.
//!
//! Rules of this folder, for one SQL text on two engines:
//!
//! 1. Columns are ids (`UUID`/`BLOB`), `BIGINT`, `TEXT` and bytes. Times are epoch milliseconds.
//! 2. SQL never asks the time or makes an id; both are bound.
//! 3. No writes inside CTEs (SQLite refuses): two statements in one transaction instead. Where nobody asks what came of a
//!    write, [`pool::Tx::later`] spares PostgreSQL the way there and back.
//! 4. `RETURNING` names columns of the target table and has no order; sort in Rust.
//! 5. `SUM` is `numeric` on PostgreSQL: cast to `BIGINT`.
//! 6. `INSERT ... SELECT ... ON CONFLICT` needs `WHERE true` (SQLite's grammar).
//! 7. Claims go through `picked AS MATERIALIZED`: the planner may otherwise update more rows than `LIMIT`.
//! 8. State names are literals: partial indexes match literals only.
//! 9. Batches bind scalars first, rows after them ([`batch::Sql`]).
//! 10. A statement for rows that are named by their keys must fit no other index: what else it asks of a row is written
//!     `state || ''`, `due_at + 0`, `COALESCE(deleted_at, 0)`. With few such rows, or no statistics yet, PostgreSQL takes the
//!     index of what is owed, due or owned, and then each row of the batch costs as much as all of these.
//! 11. On the hot connections a queue is joined by its key as `{is ...}` ([`batch::Sql`]), and nothing is sorted by that key.
//! 12. Every verb takes the tenant; nothing reads across tenants but the loops of the service itself.

pub mod batch;
pub mod bench;
mod change;
mod commit;
mod counts;
pub mod db;
mod dead_letters;
mod deliveries;
mod due;
mod emit;
mod endpoints;
mod error;
mod expiry;
mod explain;
mod fan_out;
mod feed;
mod gather;
mod health;
mod idempotency;
mod invariants;
mod jobs;
mod keys;
mod lanes;
mod learn;
mod lease;
mod limits;
mod list;
mod migrate;
pub mod model;
mod outages;
mod parking;
pub mod pool;
mod probe;
mod publish;
mod push;
mod queues;
mod record;
mod redrive;
mod reopen;
mod ring;
mod rotate;
mod rows;
pub mod seal;
mod secrets;
mod submit;
mod subscribers;
mod sweep;
mod turn;
mod verbs;
mod watch;

pub use counts::{ServerCounts, server_counts};
pub use error::{Error, Result};
pub use feed::{FeedPage, Head};
pub use invariants::{Finding, check};
pub use lease::Offer;
pub use list::Found;
pub use model::*;
pub use probe::{TEST, VERIFY};
pub use publish::{NewEvent, Publication, Published, Reused};
pub use ring::NotAnHeir;
pub use rotate::{Rotation, Tally, census};
pub use secrets::{LiveSecret, Rotated};
pub use sweep::Retained;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::dice::Dice;
use crate::metrics::Metrics;
use crate::types::api::Urls;
use crate::types::id::NodeId;
use crate::types::key::AccessToken;
use crate::types::{DeliveryId, JobId, LaneId, Millis, TenantId};

/// Handle to the store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    /// Reads, outside any transaction.
    readers: pool::Pool,
    /// Looks for what is due and reads by key, with the plans of the hot verbs.
    scouts: pool::Pool,
    /// The cold verbs' transactions. On SQLite the one writer, shared with the committer.
    writers: pool::Pool,
    committer: commit::Committer,
    dice: Dice,
    urls: Urls,
    keys: ring::LiveKeys,
    floors: lease::Floors,
    offers: lease::Offers,
    limits: limits::Limits,
    learned: learn::Learned,
    secrets: secrets::Cache,
    asked: subscribers::Asked,
    subscribers: subscribers::Subscribers,
    told_last: turn::LastTenant,
    redriven_last: turn::LastTenant,
    desk: OnceLock<Arc<dyn HandOver>>,
    observer: OnceLock<Arc<dyn Observer>>,
    metrics: Metrics,
}

/// How the store is opened.
pub struct Options {
    /// `sqlite://path` or `postgres://...`.
    pub url: String,
    /// Base of the URLs in answers and frozen bodies.
    pub urls: Urls,
    /// Seals secrets and signs access tokens.
    pub ring: seal::KeyRing,
    /// Mints ids, tokens and nonces.
    pub dice: Dice,
    /// Counts commits and their sizes.
    pub metrics: Metrics,
}

/// Takes over a delivery in the moment it is made, without a second claim.
///
/// The dispatcher of this node stands behind it. Places are reserved before the commit and given
/// back if it fails, so what is handed over can always be taken. It may be called on threads of the store, which are not to be held up
/// and whose runtime need not be the service's.
pub trait HandOver: Send + Sync {
    /// Reserves a slot of the node and of the lane, or a place to wait for one, for a body of so many bytes.
    fn reserve(&self, lane: LaneId, turn: i64, bytes: usize) -> Option<Reserved>;
    /// Gives the place back.
    fn give_back(&self, lane: LaneId, turn: i64, place: Place);
    /// The commit is durable: send it, at once or, from the hand, when the lane has a slot.
    fn take(&self, claimed: ClaimedDelivery, place: Place);
    /// The node that holds the lease.
    fn node(&self) -> NodeId;
    /// Whether this node would own the lane: it does not, no other node is known to, and it has slots to spare.
    fn lacks(&self, lane: LaneId) -> bool;
    /// The answer to a try to own `asked`, before its commit; what is due in those `owned` is handed over next. Gives those that
    /// this node did not own before.
    fn own(&self, asked: &[LaneId], owned: Vec<OwnedLane>) -> Vec<LaneId>;
    /// Others hold their rows: they are not to be asked for again at once, but by a look.
    fn avoid(&self, lanes: &[LaneId]);
    /// There is no such commit. One that something else is under way of meanwhile sends nothing new until the next beat.
    fn disown(&self, lanes: &[LaneId]);
    /// What is set for the lane has changed, after the commit: what is in hand and has not begun goes back to the store,
    /// which knows what becomes of it.
    fn empty_hand(&self, lane: LaneId);
    /// After the commit that cancelled a delivery: it is not sent from the hand, nor do others wait for its time. False if it
    /// was not in hand.
    fn cancelled(&self, lane: LaneId, delivery: DeliveryId) -> bool;
}

/// What is reserved for a delivery that is about to be made.
#[derive(Debug, Clone, Copy)]
pub struct Reserved {
    /// How long its lease must hold.
    pub lease: Duration,
    /// Where it goes.
    pub place: Place,
}

/// Where a delivery goes that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It has a slot of its lane and of the node.
    Slot,
    /// It waits in the node's hand, in memory, for one.
    Hand,
}

/// Is told how far jobs have come, right after the commit that moved them and before its caller is answered.
///
/// What other nodes change it is not told, nor a change whose answer from the database was lost: who has to
/// know asks [`Store::standings`] from time to time.
pub trait Observer: Send + Sync {
    /// The writer waits for it. Calls for one job may come out of order.
    fn moved(&self, jobs: &[Standing]);
}

/// Connections for reads.
const READERS: usize = 8;
/// Connections for reads of the loops and the hot verbs.
const SCOUTS: usize = 4;
/// Connections for the cold verbs' transactions on PostgreSQL.
const WRITERS: usize = 4;
/// The longest wait for a free connection; the caller answers 503 after it.
const WAIT: Duration = Duration::from_millis(1_200);

impl Store {
    /// Opens the store, brings its schema up to date and starts the committers.
    ///
    /// A SQLite file is locked against a second process.
    pub async fn open(options: Options) -> Result<Store> {
        let target = db::Target::parse(&options.url)?;
        let lock = migrate::lock_file(&target)?;
        migrate::migrate(&target).await?;
        let readers = pool::Pool::new(target.clone(), READERS, true, WAIT);
        let scouts = pool::Pool::new(target.clone().pinned(), SCOUTS, true, WAIT);
        let (writers, hot) = match target.engine() {
            db::Engine::Sqlite => {
                let one = pool::Pool::new(target, 1, false, Duration::from_secs(5)).holding(lock);
                (one.clone(), one)
            }
            db::Engine::Postgres => (
                pool::Pool::new(target.clone(), WRITERS, false, WAIT),
                pool::Pool::new(target.pinned(), 1, false, WAIT),
            ),
        };
        let (committer, receiver) = commit::Committer::new();
        let store = Store(Arc::new(Inner {
            readers,
            scouts,
            writers,
            committer,
            keys: ring::LiveKeys::new(options.ring),
            dice: options.dice,
            urls: options.urls,
            floors: lease::Floors::default(),
            offers: lease::Offers::default(),
            limits: limits::Limits::default(),
            learned: learn::Learned::default(),
            secrets: secrets::Cache::default(),
            asked: subscribers::Asked::default(),
            subscribers: subscribers::Subscribers::default(),
            told_last: turn::LastTenant::default(),
            redriven_last: turn::LastTenant::default(),
            desk: OnceLock::new(),
            observer: OnceLock::new(),
            metrics: options.metrics,
        }));
        commit::start(&store, &hot, receiver)?;
        Ok(store)
    }

    /// For tests of what never reaches the store: every verb answers `Down`.
    #[cfg(test)]
    pub(crate) fn hollow(urls: Urls) -> Store {
        let target = db::Target::Sqlite("/nowhere/store.db".into());
        let ring = seal::KeyRing::generate([7; 32]);
        let one = pool::Pool::new(target, 1, true, WAIT);
        Store(Arc::new(Inner {
            readers: one.clone(),
            scouts: one.clone(),
            writers: one,
            committer: commit::Committer::new().0,
            keys: ring::LiveKeys::new(ring),
            dice: Dice::seeded(1),
            urls,
            floors: lease::Floors::default(),
            offers: lease::Offers::default(),
            limits: limits::Limits::default(),
            learned: learn::Learned::default(),
            secrets: secrets::Cache::default(),
            asked: subscribers::Asked::default(),
            subscribers: subscribers::Subscribers::default(),
            told_last: turn::LastTenant::default(),
            redriven_last: turn::LastTenant::default(),
            desk: OnceLock::new(),
            observer: OnceLock::new(),
            metrics: Metrics::new(),
        }))
    }

    /// Brings the schema of a store up to date and does nothing else. Gives its version.
    pub async fn migrate(url: &str) -> Result<i64> {
        let target = db::Target::parse(url)?;
        let _lock = migrate::lock_file(&target)?;
        migrate::migrate(&target).await?;
        Ok(migrate::version())
    }

    /// Lets the dispatcher of this node take over new deliveries. Once.
    pub fn hand_over_to(&self, desk: Arc<dyn HandOver>) {
        let _ = self.0.desk.set(desk);
    }

    /// Tells `observer` of every job that this node moves. Once.
    pub fn observed_by(&self, observer: Arc<dyn Observer>) {
        let _ = self.0.observer.set(observer);
    }

    /// Writes what is queued and closes the connections. Verbs called later answer `Down`.
    pub async fn close(&self) {
        self.0.committer.close().await;
        self.0.readers.close();
        self.0.scouts.close();
        self.0.writers.close();
    }

    /// URLs of answers and bodies.
    pub fn urls(&self) -> &Urls {
        &self.0.urls
    }

    /// A fresh job id.
    pub fn mint_job_id(&self, now: Millis) -> JobId {
        self.0.dice.id(now)
    }

    /// The capability that reads one job.
    pub fn access_token(&self, tenant: TenantId, job: JobId) -> String {
        AccessToken::mint(&self.0.keys.now().tokens[0], tenant, job)
    }

    /// Whose job a capability opens.
    pub fn open_access_token(&self, text: &str) -> Option<(TenantId, JobId)> {
        AccessToken::verify(&self.0.keys.now().tokens, text)
    }

    /// Whether the database can be read now, and someone is there who writes.
    pub async fn ping(&self) -> Result<()> {
        if !self.0.committer.is_open() {
            return Err(Error::Down("nobody writes".to_owned()));
        }
        self.0.readers.get().await?.all("SELECT 1", vec![]).await.map(drop)
    }

    /// Whether the store has a clock of its own.
    pub fn has_clock(&self) -> bool {
        self.0.readers.engine() == db::Engine::Postgres
    }

    /// The database's clock, which nodes follow; None on SQLite, where the machine's own serves.
    pub async fn server_time(&self) -> Result<Option<Millis>> {
        const NOW: &str = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
        if !self.has_clock() {
            return Ok(None);
        }
        let rows = self.0.readers.get().await?.all(NOW, vec![]).await?;
        rows.first().map(|r| r.time(0)).transpose()
    }
}

/// Whole seconds as a duration.
fn seconds(n: u32) -> Duration {
    Duration::from_secs(n.into())
}
