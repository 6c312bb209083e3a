//! The only file that knows everyone: puts a node together and takes it apart.

mod checked;
mod push;
pub mod ring;
mod sends;

pub use checked::{Checked, check_config};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::File;
use crate::dice::Dice;
use crate::dispatch;
use crate::egress::{self, Sender};
use crate::http::{self, server::ServerOptions};
use crate::metrics::Metrics;
use crate::store::seal::KeyRing;
use crate::store::{self, KeyRecord, ServerCounts, Store};
use crate::sweep::{self, Sweep};
use crate::types::TenantId;
use crate::types::api::{NewApiKey, Urls};
use crate::types::key::{ApiKey, Scopes, check_wish};
use crate::types::submit as rules;
use crate::types::target::UrlPolicy;
use crate::wake::Wake;

/// How careful a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Loopback only; `http` and loopback callbacks are allowed; a key with every scope.
    Dev,
    /// Production.
    Serve,
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Answers the API.
    Api,
    /// Sends what is due.
    Dispatch,
}

/// Everything that a node is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// How careful it is.
    pub mode: Mode,
    /// Where the API listens; port 0 picks one.
    pub listen: SocketAddr,
    /// What URLs in answers and bodies start with; `http://` and the listen address when left out.
    pub public_url: Option<String>,
    /// `sqlite://path` or `postgres://...`.
    pub store: String,
    /// The file with the keys that seal secrets; in development made beside the store when left out.
    pub key_ring: Option<PathBuf>,
    /// Ids of keys that are lost for good: the ring may lack them although they sealed what the store needs.
    pub lost_keys: Vec<String>,
    /// The key of `dev`; a new one when left out.
    pub api_key: Option<ApiKey>,
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// What the node does; never empty.
    pub roles: Vec<Role>,
    /// Ranges that callbacks may reach although they are not public.
    pub allow_cidrs: Vec<IpNet>,
    /// Ports that callbacks may use beside the usual ones.
    pub allow_ports: Vec<u16>,
    /// Whether callbacks may use `http`.
    pub allow_http: bool,
    /// A listener of its own for `/metrics`, which then needs no key.
    pub metrics_listen: Option<SocketAddr>,
}

/// The tenant that `dev` works for.
const DEV_TENANT: &str = "default";
/// The longest a stop takes: 20 s for what is in flight, then the flush.
const STOP: Duration = Duration::from_secs(30);
/// A loop that died is started again after this long.
const REVIVE: Duration = Duration::from_secs(1);

/// A node that is up.
pub struct Running {
    /// Where the API listens.
    pub addr: SocketAddr,
    /// The key of `dev`.
    pub api_key: Option<String>,
    /// The default tenant's webhook secret, in `dev`.
    pub webhook_secret: Option<String>,
    store: Store,
    ring: PathBuf,
    deaf: CancellationToken,
    doors: CancellationToken,
    loops: CancellationToken,
    servers: Vec<JoinHandle<()>>,
    tasks: TaskTracker,
}

impl Running {
    /// Waits until a listener has ended, which is before a [stop](Running::stop) a defect: who looks after the process is to
    /// start it anew.
    pub async fn deaf(&self) {
        self.deaf.cancelled().await;
    }

    /// Stops taking requests, finishes what is in flight, flushes, gives lanes back.
    pub async fn stop(self) -> anyhow::Result<()> {
        let stop = async {
            // Side by side: what is in flight at either end has the same 20 s.
            self.doors.cancel();
            self.loops.cancel();
            self.tasks.close();
            let served = join_all(self.servers).await;
            self.tasks.wait().await;
            self.store.close().await;
            let died = served.into_iter().find_map(Result::err);
            died.map_or(Ok(()), |e| Err(e).context("a listener died"))
        };
        tokio::time::timeout(STOP, stop).await.context("the stop took longer than 30 s")?
    }
}

/// Starts a node; it is ready when this returns.
pub async fn start(config: Config, clock: Clock, dice: Dice) -> anyhow::Result<Running> {
    let Checked { file, workers, ring_path, ring } = check_config(&config, &dice)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let addr = listener.local_addr()?;
    let public = config.public_url.clone().unwrap_or_else(|| format!("http://{addr}"));
    let metrics = Metrics::new();
    let options = store::Options {
        url: config.store.clone(),
        urls: Urls::new(&public),
        ring,
        dice: dice.clone(),
        metrics: metrics.clone(),
    };
    let store = Store::open(options).await.context("cannot open the store")?;
    // Before any loop: leases and lanes of other nodes must not look expired to a clock that is ahead.
    if let Some(reference) = sweep::reference(&store, &clock).await {
        clock.adopt(reference);
    }
    let (api_key, webhook_secret) = prepare(&config, &store, &clock, &dice).await?;
    let wake = Wake::default();
    let (doors, loops, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
    let policy = policy(&config);
    let node = Node { store: &store, clock: &clock, wake: &wake, metrics: &metrics };
    start_sweep(&node, &loops, &tasks);
    let sender = Sender::new(egress::Options { policy: policy.clone(), ..egress::Options::default() })
        .context("cannot set up the sender")?;
    let options = dispatch::Options { policy: policy.clone(), ..dispatch::Options::default() };
    let courier = sends::courier(&node, sender.clone(), options.clone());
    if config.roles.contains(&Role::Dispatch) {
        sends::start(&node, &dice, sender, options, (&loops, &tasks)).await?;
        push::start(&node, workers, &loops, &tasks)?;
    }
    let app = http::App::new(http::Parts {
        store: store.clone(),
        clock,
        dice,
        wake,
        metrics: metrics.clone(),
        policy,
        courier,
        options: http_options(&config, &file),
        draining: doors.clone(),
    });
    let deaf = CancellationToken::new();
    let open = |listener, router| {
        let ended = deaf.clone().drop_guard();
        let served = http::serve(listener, router, metrics.clone(), ServerOptions::default(), doors.clone());
        tokio::spawn(async move {
            let _ended = ended;
            served.await;
        })
    };
    let mut servers = Vec::new();
    if let Some(metrics_addr) = config.metrics_listen {
        let bound = TcpListener::bind(metrics_addr).await;
        let extra = bound.with_context(|| format!("cannot listen on {metrics_addr}"))?;
        servers.push(open(extra, http::metrics_router(app.clone())));
    }
    let serves = config.roles.contains(&Role::Api);
    if serves {
        let (app, token) = (app.clone(), loops.clone());
        supervise(&tasks, &loops, "watch", move || http::watch(app.clone(), token.clone()));
    }
    servers.push(open(listener, if serves { http::router(app)? } else { http::node_router(app) }));
    Ok(Running { addr, api_key, webhook_secret, store, ring: ring_path, deaf, doors, loops, servers, tasks })
}

struct Node<'a> {
    store: &'a Store,
    clock: &'a Clock,
    wake: &'a Wake,
    metrics: &'a Metrics,
}

/// What any node does, whatever its roles.
fn start_sweep(node: &Node<'_>, stop: &CancellationToken, tasks: &TaskTracker) {
    let (store, clock, wake, token) =
        (node.store.clone(), node.clock.clone(), node.wake.clone(), stop.clone());
    let (s, c, t) = (store.clone(), clock.clone(), stop.clone());
    supervise(tasks, stop, "sweep", move || {
        Sweep::new(store.clone(), clock.clone(), wake.clone()).run(token.clone())
    });
    supervise(tasks, stop, "clock", move || sweep::follow_clock(s.clone(), c.clone(), t.clone()));
}

/// Runs a loop until `stop`; one that dies is started again.
fn supervise<F: Future<Output = ()> + Send + 'static>(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    name: &'static str,
    make: impl Fn() -> F + Send + 'static,
) {
    let stop = stop.clone();
    tasks.spawn(async move {
        loop {
            let ended = tokio::spawn(make()).await;
            if stop.is_cancelled() {
                return;
            }
            tracing::error!(loop_name = name, died = ended.is_err(), "a loop ended and is started again");
            let _ = tokio::time::timeout(REVIVE, stop.cancelled()).await;
        }
    });
}

fn policy(config: &Config) -> UrlPolicy {
    UrlPolicy {
        allow_http: config.allow_http,
        allow_ports: config.allow_ports.clone(),
        allow_cidrs: config.allow_cidrs.clone(),
        dev: config.mode == Mode::Dev,
        ..UrlPolicy::default()
    }
}

fn http_options(config: &Config, file: &File) -> http::Options {
    let dev = config.mode == Mode::Dev;
    http::Options {
        mode: if dev { http::Mode::Dev } else { http::Mode::Serve },
        routes: file.routes(),
        metrics_open: dev,
        endpoints_per_account: file.endpoints_per_account(),
        ..http::Options::default()
    }
}

/// What a mode needs before it serves: `dev` its key and secret, `serve` that someone has a key and the ring is the store's.
async fn prepare(
    config: &Config,
    store: &Store,
    clock: &Clock,
    dice: &Dice,
) -> anyhow::Result<(Option<String>, Option<String>)> {
    match config.mode {
        Mode::Serve => {
            let any = store.has_keys().await?;
            ensure!(
                any,
                "production needs an API key; make one with `ringback keys create --store URL --tenant NAME --scopes ...`"
            );
            ring::suits(store, config).await?;
            Ok((None, None))
        }
        Mode::Dev => {
            let now = clock.now();
            let tenant = store.tenant(DEV_TENANT, now).await?;
            let key = match &config.api_key {
                Some(key) => key.clone(),
                None => ApiKey::mint(dice.bytes()),
            };
            let wish = NewApiKey { name: Some("dev".to_owned()), ..NewApiKey::default() };
            put_key(store, tenant, &key, wish, Scopes::every(), clock, dice).await?;
            let secrets = store.default_secrets(tenant, now).await?;
            let secret = secrets.first().map(|(s, _)| s.reveal());
            Ok((Some(key.reveal().to_owned()), secret))
        }
    }
}

async fn put_key(
    store: &Store,
    tenant: TenantId,
    key: &ApiKey,
    wish: NewApiKey,
    scopes: Scopes,
    clock: &Clock,
    dice: &Dice,
) -> store::Result<()> {
    let now = clock.now();
    let record = KeyRecord {
        id: dice.id(now),
        tenant,
        name: wish.name,
        prefix: key.prefix().to_owned(),
        hash: key.hash(),
        scopes,
        queues: wish.queues,
        accounts: wish.accounts,
        created_at: now,
        expires_at: wish.expires_at,
    };
    store.put_key(&record).await
}

/// Brings the store to this release's schema.
pub async fn migrate(store: &str) -> anyhow::Result<String> {
    let version = Store::migrate(store).await?;
    Ok(format!("the store is at schema version {version}"))
}

/// Holds the store against the invariants, reading only. Empty when all of them hold.
pub async fn check(store: &str) -> anyhow::Result<Vec<Violation>> {
    let findings = store::check(store).await?;
    let violations = findings.into_iter().flat_map(|f| {
        let (invariant, detail) = f.invariant.split_once(": ").unwrap_or((f.invariant, ""));
        let violation =
            move |id| Violation { invariant: invariant.to_owned(), id, detail: detail.to_owned() };
        f.broken.into_iter().map(violation)
    });
    Ok(violations.collect())
}

/// What PostgreSQL has counted so far; `None` for SQLite.
pub async fn server_counts(store: &str) -> anyhow::Result<Option<ServerCounts>> {
    Ok(store::server_counts(store).await?)
}

/// An invariant that does not hold.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Violation {
    /// `I1` ... `I5`.
    pub invariant: String,
    /// The row at fault.
    pub id: String,
    /// What is wrong with it.
    pub detail: String,
}

/// Makes a key of the tenant of that name, which is made if there is none.
pub async fn create_key(
    store: &str,
    tenant: &str,
    wish: NewApiKey,
    clock: Clock,
    dice: Dice,
) -> anyhow::Result<ApiKey> {
    rules::name("tenant", tenant, 128)?;
    let scopes = check_wish(&wish, clock.now())?;
    // Keys are hashed, not sealed: a ring of its own serves for this one call.
    let ring = KeyRing::generate(dice.bytes());
    let options = store::Options {
        url: store.to_owned(),
        urls: Urls::new(""),
        ring,
        dice: dice.clone(),
        metrics: Metrics::new(),
    };
    let store = Store::open(options).await.context("cannot open the store")?;
    let tenant = store.tenant(tenant, clock.now()).await?;
    let key = ApiKey::mint(dice.bytes());
    put_key(&store, tenant, &key, wish, scopes, &clock, &dice).await?;
    store.close().await;
    Ok(key)
}
