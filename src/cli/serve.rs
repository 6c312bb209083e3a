//! `dev` and `serve` run a node; `migrate`, `check` and `config print` look after one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use ipnet::IpNet;

use super::exit::{self, Exit, Usage};
use super::print::{self, Out};
use super::sign::SecretText;
use super::{files, stop};
use crate::app::{self, Mode, Role, Running};
use crate::clock::Clock;
use crate::config::{self, File};
use crate::dice::Dice;
use crate::http::Route;
use crate::types::key::ApiKey;

/// 10,000 connections of clients, those to receivers, and the store's.
const FILES: u64 = 12_000;
/// The longest a graceful end may take: 20 s for what is in flight, and the flush after it.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Run a node for development: loopback only, with a key that may do everything.
#[derive(Debug, clap::Args)]
pub struct DevArgs {
    /// Where the API listens; loopback only, port 0 picks one.
    #[arg(long, env = "RINGBACK_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where everything is kept: `sqlite://PATH` or `postgres://...`.
    #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, default_value = "sqlite://ringback.db")]
    store: String,
    /// The API key, `rbk_` and 32 or more letters, digits or underscores; a new one by default.
    #[arg(long, env = "RINGBACK_API_KEY", hide_env_values = true)]
    api_key: Option<SecretText>,
    /// The configuration file (TOML).
    #[arg(long, env = "RINGBACK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Run a node in production.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    node: NodeArgs,
}

/// What a production node is told.
#[derive(Debug, Clone, clap::Args)]
struct NodeArgs {
    /// Where the API listens; port 0 picks one.
    #[arg(long, env = "RINGBACK_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR")]
    listen: SocketAddr,
    /// What URLs in answers and webhooks start with; the listen address by default.
    #[arg(long, env = "RINGBACK_PUBLIC_URL", value_name = "URL")]
    public_url: Option<String>,
    /// Where everything is kept: `sqlite://PATH` or `postgres://...`.
    #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<String>,
    /// The file with the keys that seal secrets; `ringback keyring create` makes one.
    #[arg(long, env = "RINGBACK_KEY_RING", value_name = "FILE")]
    key_ring: Option<PathBuf>,
    /// The id of a key that is lost for good: start although it sealed secrets in the store; repeatable.
    #[arg(long, env = "RINGBACK_LOST_KEY", value_delimiter = ',', value_name = "KEY_ID")]
    lost_key: Vec<String>,
    /// The configuration file (TOML).
    #[arg(long, env = "RINGBACK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// What this node does; all of it by default.
    #[arg(long, env = "RINGBACK_ROLE", value_delimiter = ',', default_value = "api,dispatch")]
    role: Vec<Role>,
    /// A range that callbacks may reach although it is not public; repeatable.
    #[arg(long, env = "RINGBACK_ALLOW_CIDR", value_delimiter = ',', value_name = "CIDR")]
    allow_cidr: Vec<IpNet>,
    /// A port that callbacks may use beside 443 and 8443; repeatable.
    #[arg(long, env = "RINGBACK_ALLOW_PORT", value_delimiter = ',', value_name = "N")]
    allow_port: Vec<u16>,
    /// Let callbacks use http.
    #[arg(long, env = "RINGBACK_ALLOW_HTTP")]
    allow_http: bool,
    /// A listener of its own for /metrics, which then needs no key.
    #[arg(long, env = "RINGBACK_METRICS_LISTEN", value_name = "ADDR")]
    metrics_listen: Option<SocketAddr>,
}

/// Bring the store to this release's schema.
#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    /// The store: `sqlite://PATH` or `postgres://...`.
    #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
    store: String,
}

/// Hold the store against the invariants; reads only, beside a running service or after it.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The store: `sqlite://PATH` or `postgres://...`.
    #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
    store: String,
}

/// The configuration.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    what: ConfigWhat,
}

#[derive(Debug, clap::Subcommand)]
enum ConfigWhat {
    /// Show what `serve` with the same flags, environment and files would go by, redacted; refuse what it would refuse
    /// before it listens and opens the store.
    Print(NodeArgs),
}

/// Runs `ringback dev`.
pub async fn dev(args: DevArgs, out: Out) -> anyhow::Result<ExitCode> {
    let why = "dev listens on loopback only, because its key may do everything; use serve";
    super::check_loopback(args.listen, why)?;
    super::check_store(&args.store)?;
    let key = args.api_key.as_ref().and_then(SecretText::given).map(ApiKey::parse).transpose();
    let key = key.map_err(|e| Usage(format!("--api-key: {e}")))?;
    up(dev_config(args.listen, args.store, key, args.config), out).await
}

/// What a development node is told.
pub fn dev_config(
    listen: SocketAddr,
    store: String,
    api_key: Option<ApiKey>,
    file: Option<PathBuf>,
) -> app::Config {
    app::Config {
        mode: Mode::Dev,
        listen,
        public_url: None,
        store,
        key_ring: None,
        lost_keys: Vec::new(),
        api_key,
        file,
        roles: vec![Role::Api, Role::Dispatch],
        allow_cidrs: Vec::new(),
        allow_ports: Vec::new(),
        allow_http: false,
        metrics_listen: None,
    }
}

/// What `serve` goes by. Errors: wrong usage.
fn serve_config(node: NodeArgs) -> Result<app::Config, Usage> {
    check_public_url(node.public_url.as_deref())?;
    let missing = |flag: &str| Usage(format!("{flag} is required"));
    let store = node.store.ok_or_else(|| missing("--store"))?;
    let key_ring = node.key_ring.ok_or_else(|| {
        Usage("--key-ring is required; `ringback keyring create FILE` makes one".to_owned())
    })?;
    super::check_store(&store)?;
    Ok(app::Config {
        mode: Mode::Serve,
        listen: node.listen,
        public_url: node.public_url,
        store,
        key_ring: Some(key_ring),
        lost_keys: node.lost_key,
        api_key: None,
        file: node.config,
        roles: node.role,
        allow_cidrs: node.allow_cidr,
        allow_ports: node.allow_port,
        allow_http: node.allow_http,
        metrics_listen: node.metrics_listen,
    })
}

/// Runs `ringback serve`.
pub async fn serve(args: ServeArgs, out: Out) -> anyhow::Result<ExitCode> {
    up(serve_config(args.node)?, out).await
}

/// Refuses what does not become another URL by adding a path. Not a parser of the argument: the complaint would quote
/// the text, and with it a password.
fn check_public_url(text: Option<&str>) -> Result<(), Usage> {
    let Some(text) = text else { return Ok(()) };
    let plain = |url: url::Url| {
        let bare = url.username().is_empty() && url.password().is_none();
        bare && url.query().is_none() && url.fragment().is_none()
    };
    let spaced = text.contains(|c: char| c.is_whitespace() || c.is_control());
    if !spaced && super::service_url(text).is_ok() && url::Url::parse(text).is_ok_and(plain) {
        return Ok(());
    }
    let rule = "must be an http(s) URL without user name, password, query and fragment";
    Err(Usage(format!("--public-url {rule}")))
}

/// Starts a node, says that it is ready, and stops it at the first signal.
async fn up(config: app::Config, out: Out) -> anyhow::Result<ExitCode> {
    let stop = stop::on_signal()?;
    let mut hangups = stop::hangups()?;
    let files = files::open_all();
    if files < FILES {
        tracing::warn!(
            files,
            wanted = FILES,
            "this process may open few files: connections may wait (ulimit -n)"
        );
    }
    let starting = app::start(config, Clock::system(), Dice::Os);
    let Some(running) = stop.run_until_cancelled(starting).await else { return Ok(Exit::Done.into()) };
    let running = running?;
    exit::told(Exit::Done, announce(&running, out))?;
    let deaf = loop {
        tokio::select! {
            () = stop.cancelled() => break false,
            () = running.deaf() => break true,
            Some(()) = hangups.recv() => reload(&running),
        }
    };
    tracing::info!("stopping");
    let stopped = tokio::time::timeout(STOP_WITHIN, running.stop()).await;
    stopped.context("the node did not stop in time; leases bring back what it held")??;
    ensure!(!deaf, "the node did not listen any more");
    Ok(Exit::Done.into())
}

/// What SIGHUP asks for. A ring that cannot be used is told of and changes nothing.
fn reload(running: &Running) {
    match running.reload_ring() {
        Ok(key) => tracing::info!(key, "the key ring was read again; this key seals from now on"),
        Err(e) => tracing::error!(error = format!("{e:#}"), "the key ring was not changed"),
    }
}

/// The ready line, which programs wait for, comes last.
fn announce(running: &Running, out: Out) -> anyhow::Result<()> {
    let url = format!("http://{}", running.addr);
    if out.json {
        let (key, secret) = (&running.api_key, &running.webhook_secret);
        return out.value(&serde_json::json!({"listening": url, "apiKey": key, "webhookSecret": secret}));
    }
    let mut lines = String::new();
    for (name, value) in [("API key", &running.api_key), ("webhook secret", &running.webhook_secret)] {
        if let Some(value) = value {
            lines.push_str(&format!("{name}: {value}\n"));
        }
    }
    Ok(print::raw(&format!("{lines}listening on {url}\n"))?)
}

/// Runs `ringback migrate`.
pub async fn migrate(args: MigrateArgs, out: Out) -> anyhow::Result<ExitCode> {
    super::check_store(&args.store)?;
    let done = app::migrate(&args.store).await?;
    if out.json {
        out.value(&serde_json::json!({"detail": done}))?;
    }
    out.say(&done)?;
    Ok(Exit::Done.into())
}

/// Runs `ringback check`.
pub async fn check(args: CheckArgs, out: Out) -> anyhow::Result<ExitCode> {
    super::check_store(&args.store)?;
    let found = app::check(&args.store).await?;
    let exit = if found.is_empty() { Exit::Done } else { Exit::Failed };
    let printed = if out.json {
        out.value(&serde_json::json!({"holds": found.is_empty(), "violations": found}))
    } else if found.is_empty() {
        out.say("all invariants hold").map_err(Into::into)
    } else {
        let row = |v: &app::Violation| vec![v.invariant.clone(), v.id.clone(), v.detail.clone()];
        out.rows(&["INVARIANT", "ID", "WHAT IS WRONG"], found.iter().map(row))
    };
    exit::told(exit, printed)
}

/// Runs `ringback config print`.
pub fn config(args: ConfigArgs, out: Out) -> anyhow::Result<ExitCode> {
    let ConfigWhat::Print(node) = args.what;
    // What has no store or key ring cannot start, but the rest of it shows all the same.
    let file = if node.store.is_some() && node.key_ring.is_some() {
        app::check_config(&serve_config(node.clone())?, &Dice::Os)?.file
    } else {
        check_public_url(node.public_url.as_deref())?;
        node.config.as_deref().map(File::read).transpose()?.unwrap_or_default()
    };
    let file = file.redacted();
    let texts = |items: Vec<String>| (!items.is_empty()).then(|| items.join(","));
    let mut shown = vec![
        ("listen", Some(node.listen.to_string())),
        ("public_url", Some(node.public_url.unwrap_or_else(|| format!("http://{}", node.listen)))),
        ("store", node.store.as_deref().map(config::redact_store)),
        ("key_ring", node.key_ring.map(|path| path.display().to_string())),
        ("lost_key", texts(node.lost_key)),
        ("config", node.config.map(|path| path.display().to_string())),
        ("role", texts(node.role.iter().map(|role| format!("{role:?}").to_lowercase()).collect())),
        ("allow_cidr", texts(node.allow_cidr.iter().map(ToString::to_string).collect())),
        ("allow_port", texts(node.allow_port.iter().map(ToString::to_string).collect())),
        ("allow_http", Some(node.allow_http.to_string())),
        ("metrics_listen", node.metrics_listen.map(|addr| addr.to_string())),
    ];
    shown.retain(|(_, value)| value.is_some());
    let members: serde_json::Map<_, _> =
        shown.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
    if out.json {
        out.value(&serde_json::json!({"flags": members, "file": file}))?;
        return Ok(Exit::Done.into());
    }
    shown.push(("endpoints.per_account", Some(file.endpoints_per_account().to_string())));
    out.one(&members, &shown)?;
    let routes = file.routes();
    let route = |r: &Route| {
        vec![r.path.clone(), r.kind.clone(), print::or_dash(r.queue.clone()), r.polled_at().to_owned()]
    };
    out.rows(&["ROUTE", "TYPE", "QUEUE", "STATUS"], routes.iter().map(route))?;
    let worker = |(name, queue): (String, config::Queue)| match queue.worker {
        Some(w) => {
            let body = format!("{:?}", w.body).to_lowercase();
            let opens = w.allow_hosts.iter().cloned().chain(w.allow_cidrs.iter().map(ToString::to_string));
            let opens: Vec<String> = opens.chain(w.allow_http.then(|| "http".to_owned())).collect();
            vec![name, w.url.clone(), body, w.in_flight().to_string(), print::or_dash(texts(opens))]
        }
        None => [vec![name], vec!["-".to_owned(); 4]].concat(),
    };
    let queues = file.queues.into_iter().map(worker);
    out.rows(&["QUEUE", "PUSH WORKER", "BODY", "IN FLIGHT", "OPENS"], queues)?;
    Ok(Exit::Done.into())
}
