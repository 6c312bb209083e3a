//! `keys`: what lets callers in.

use std::process::ExitCode;

use super::exit::{Exit, Usage};
use super::print::{self, Out, or_dash, time};
use super::{PageArgs, Remote};
use crate::app;
use crate::clock::Clock;
use crate::dice::Dice;
use crate::types::key::Scopes;
use crate::types::{KeyId, Millis, TenantId, api};

/// API keys.
#[derive(Debug, clap::Args)]
pub struct KeysArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    what: KeysWhat,
}

#[derive(Debug, clap::Subcommand)]
enum KeysWhat {
    /// Make a key and show it, this once; with --store directly in the store, else through the service.
    Create(CreateArgs),
    /// List the tenant's keys, newest first.
    List {
        #[command(flatten)]
        page: PageArgs,
    },
    /// Revoke a key.
    Revoke {
        /// The key's id.
        key_id: KeyId,
    },
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// The store: `sqlite://PATH` or `postgres://...`. The first key of a deployment is made so.
    #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<String>,
    /// The tenant's name; the tenant is made if there is none. Only with --store.
    #[arg(long, env = "RINGBACK_TENANT")]
    tenant: Option<String>,
    /// What the key allows, such as `jobs:write,jobs:read`.
    #[arg(long, env = "RINGBACK_SCOPES", value_name = "A,B")]
    scopes: Scopes,
    /// What people call the key.
    #[arg(long, env = "RINGBACK_NAME")]
    name: Option<String>,
    /// Only these queues; all when left out.
    #[arg(long, env = "RINGBACK_QUEUES", value_delimiter = ',', value_name = "A,B")]
    queues: Option<Vec<String>>,
    /// Only these accounts; all when left out.
    #[arg(long, env = "RINGBACK_ACCOUNTS", value_delimiter = ',', value_name = "A,B")]
    accounts: Option<Vec<String>>,
    /// When it stops working; never when left out.
    #[arg(long, env = "RINGBACK_EXPIRES_AT", value_name = "INSTANT")]
    expires_at: Option<Millis>,
}

impl CreateArgs {
    fn wish(self) -> api::NewApiKey {
        api::NewApiKey {
            name: self.name,
            scopes: self.scopes.iter().collect(),
            queues: self.queues,
            accounts: self.accounts,
            expires_at: self.expires_at,
        }
    }
}

/// Runs `ringback keys`.
pub async fn run(args: KeysArgs, out: Out) -> anyhow::Result<ExitCode> {
    match args.what {
        KeysWhat::Create(create) => match create.store.clone() {
            Some(store) => create_in_store(&store, create, out).await?,
            None => create_by_api(&args.remote, create, out).await?,
        },
        KeysWhat::List { page } => {
            let page = args.remote.client()?.keys(&page.into()).await?;
            out.page(&page, &["KEY ID", "NAME", "PREFIX", "SCOPES", "CREATED", "EXPIRES"], row)?;
        }
        KeysWhat::Revoke { key_id } => {
            args.remote.client()?.revoke_key(key_id).await?;
            if out.json {
                out.value(&serde_json::json!({"revoked": key_id}))?;
            }
            out.say(&format!("revoked {key_id}"))?;
        }
    }
    Ok(Exit::Done.into())
}

async fn create_in_store(store: &str, create: CreateArgs, out: Out) -> anyhow::Result<()> {
    let tenant = create
        .tenant
        .clone()
        .ok_or_else(|| Usage("--store (or RINGBACK_STORE) needs --tenant".to_owned()))?;
    if tenant.parse::<TenantId>().is_ok() {
        // As a name it would make another tenant, in which there is nothing.
        return Err(Usage("--tenant takes the tenant's name, not its id".to_owned()).into());
    }
    super::check_store(store)?;
    let scopes = create.scopes;
    let key = app::create_key(store, &tenant, create.wish(), Clock::system(), Dice::Os).await?;
    show(key.reveal(), &tenant, scopes, out)
}

async fn create_by_api(remote: &Remote, create: CreateArgs, out: Out) -> anyhow::Result<()> {
    if create.tenant.is_some() {
        return Err(
            Usage("--tenant needs --store; through the service a key's tenant is one's own".into()).into()
        );
    }
    let made = remote.client()?.create_key(&create.wish()).await?;
    if out.json {
        return out.value(&made);
    }
    Ok(print::raw(&format!("{}\n", made.key.unwrap_or_default()))?)
}

/// Only the key on standard output, so that a script can take it as it is.
fn show(key: &str, tenant: &str, scopes: Scopes, out: Out) -> anyhow::Result<()> {
    if out.json {
        return out.value(&serde_json::json!({"key": key, "tenant": tenant, "scopes": scopes}));
    }
    Ok(print::raw(&format!("{key}\n"))?)
}

fn row(key: &api::ApiKey) -> Vec<String> {
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    vec![
        key.key_id.to_string(),
        or_dash(key.name.as_ref()),
        key.prefix.clone(),
        scopes.join(","),
        time(key.created_at),
        or_dash(key.expires_at.map(time)),
    ]
}
