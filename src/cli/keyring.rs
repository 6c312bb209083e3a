//! `keyring` and `rotate-keys`: the keys that seal secrets at rest, and going from one to the next.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::time::Instant;

use super::exit::{self, Exit, Usage};
use super::print::{self, Out};
use crate::app::ring;
use crate::dice::Dice;
use crate::store::seal::KeyRing;
use crate::store::{Tally, census};

/// How often a rotation tells how far it is.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// The keys that seal secrets at rest.
///
/// To go to a new key: `add`, give the file to every node and send each SIGHUP; `promote`, the same again;
/// `rotate-keys`; `remove` the old one, the same again. Comments in the file are not kept.
#[derive(Debug, clap::Args)]
pub struct KeyringArgs {
    #[command(subcommand)]
    what: KeyringWhat,
}

#[derive(Debug, clap::Subcommand)]
enum KeyringWhat {
    /// Make a file with one new key, readable by its owner only; never overwrites one.
    Create {
        /// The file to make. Whoever loses it loses every sealed secret.
        file: PathBuf,
    },
    /// List the keys, the one that seals first; with --store, how many values each has sealed there.
    List {
        /// The key ring.
        file: PathBuf,
        /// The store: `sqlite://PATH` or `postgres://...`.
        #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
        store: Option<String>,
    },
    /// Add a new key at the end: it opens, and does not seal until it is promoted.
    Add {
        /// The key ring.
        file: PathBuf,
    },
    /// Let a key of the ring seal from now on. Every node must know it by then.
    Promote {
        /// The key ring.
        file: PathBuf,
        /// The key's id.
        key_id: String,
    },
    /// Remove a key that has sealed nothing that is left in the store. Access tokens signed under it stop working.
    Remove {
        /// The key ring.
        file: PathBuf,
        /// The key's id.
        key_id: String,
        /// The store: `sqlite://PATH` or `postgres://...`.
        #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
        store: String,
    },
}

/// Seal every secret anew with the ring's first key, beside a running service; begun again, it goes on.
#[derive(Debug, clap::Args)]
pub struct RotateArgs {
    /// The store: `sqlite://PATH` or `postgres://...`.
    #[arg(long, env = "RINGBACK_STORE", hide_env_values = true, value_name = "URL")]
    store: String,
    /// The key ring; the keys that sealed so far must be in it.
    #[arg(long, env = "RINGBACK_KEY_RING", value_name = "FILE")]
    key_ring: PathBuf,
    /// The most values per second; by default half of the time is left to the service.
    #[arg(long, env = "RINGBACK_PER_SECOND", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    per_second: Option<u32>,
}

/// Runs `ringback keyring`.
pub async fn run(args: KeyringArgs, out: Out) -> anyhow::Result<ExitCode> {
    match args.what {
        KeyringWhat::Create { file } => create(&file, out)?,
        KeyringWhat::List { file, store } => list(&file, store.as_deref(), out).await?,
        KeyringWhat::Add { file } => {
            let _lock = lock(&file)?;
            let next = ring::read(&file)?.with(Dice::Os.bytes());
            let added = next.ids().last().unwrap_or_default().to_owned();
            replace(
                &file,
                &next,
                &format!("added the key {added}; give the file to every node before it seals"),
                out,
            )?;
        }
        KeyringWhat::Promote { file, key_id } => {
            let _lock = lock(&file)?;
            let next = ring::read(&file)?.promoting(&key_id).ok_or_else(|| no_such(&key_id))?;
            replace(
                &file,
                &next,
                &format!("{key_id} seals from now on, at each node once it has read the file"),
                out,
            )?;
        }
        KeyringWhat::Remove { file, key_id, store } => remove(&file, &key_id, &store, out).await?,
    }
    Ok(Exit::Done.into())
}

fn create(file: &Path, out: Out) -> anyhow::Result<()> {
    let ring = KeyRing::generate(Dice::Os.bytes());
    KeyRing::create_file(file, &ring.to_text())
        .with_context(|| format!("cannot make the key ring {}", file.display()))?;
    if out.json {
        out.value(&json!({"file": file, "activeKey": ring.active_id()}))?;
    }
    Ok(out.say(&format!("made {} with the key {}; keep a copy of it", file.display(), ring.active_id()))?)
}

async fn list(file: &Path, store: Option<&str>, out: Out) -> anyhow::Result<()> {
    let ring = ring::read(file)?;
    let sealed = match store {
        Some(store) => {
            super::check_store(store)?;
            Some(census(store).await?)
        }
        None => None,
    };
    let count = |id: &str| sealed.as_ref().map(|sealed| sealed.get(id).copied().unwrap_or_default());
    if out.json {
        let keys: Vec<_> = ring.ids().map(|id| json!({"keyId": id, "sealed": count(id)})).collect();
        return out.value(&json!({"activeKey": ring.active_id(), "keys": keys}));
    }
    let row = |id: &str| {
        let role = if id == ring.active_id() { "seals" } else { "opens" };
        vec![id.to_owned(), role.to_owned(), super::print::or_dash(count(id))]
    };
    out.rows(&["KEY ID", "ROLE", "SEALED"], ring.ids().map(row))
}

async fn remove(file: &Path, key_id: &str, store: &str, out: Out) -> anyhow::Result<()> {
    super::check_store(store)?;
    let _lock = lock(file)?;
    let ring = ring::read(file)?;
    if !ring.holds(key_id) {
        return Err(no_such(key_id).into());
    }
    let next = ring.without(key_id).ok_or_else(|| Usage(format!("{key_id} is the key that seals")))?;
    let left = census(store).await?.get(key_id).copied().unwrap_or_default();
    ensure!(left == 0, "{left} values are still sealed by {key_id}: run `ringback rotate-keys` first");
    replace(
        file,
        &next,
        &format!("removed the key {key_id}; backups made before need it, keep a copy with them"),
        out,
    )
}

fn lock(file: &Path) -> anyhow::Result<File> {
    KeyRing::lock_file(file).with_context(|| format!("cannot change the key ring {} now", file.display()))
}

fn replace(file: &Path, next: &KeyRing, said: &str, out: Out) -> anyhow::Result<()> {
    KeyRing::replace_file(file, &next.to_text())
        .with_context(|| format!("cannot replace the key ring {}", file.display()))?;
    if out.json {
        let keys: Vec<&str> = next.ids().collect();
        out.value(&json!({"file": file, "activeKey": next.active_id(), "keys": keys}))?;
    }
    Ok(out.say(said)?)
}

fn no_such(key_id: &str) -> Usage {
    Usage(format!("the key ring holds no key {key_id}"))
}

/// Runs `ringback rotate-keys`: exit 0 if all is sealed by the first key, 1 if something is left.
pub async fn rotate(args: RotateArgs, out: Out) -> anyhow::Result<ExitCode> {
    super::check_store(&args.store)?;
    let keys = ring::read(&args.key_ring)?;
    let mut next = Instant::now() + TELL_EVERY;
    let told = |place: &str, sum: &Tally| {
        if Instant::now() >= next {
            next = Instant::now() + TELL_EVERY;
            print::err(format_args!(
                "{place}: {} rows looked at, {} values sealed anew in this pass",
                sum.looked_at, sum.sealed_anew
            ));
        }
    };
    let sum = ring::rotate_keys(&args.store, &keys, &Dice::Os, args.per_second, told).await?;
    let done = sum.is_done();
    let printed = if out.json {
        let unknown: BTreeMap<&str, u64> = sum.unknown.iter().map(|(id, n)| (id.as_str(), *n)).collect();
        out.value(&json!({
            "activeKey": keys.active_id(), "done": done, "sealedAnew": sum.sealed_anew,
            "heldByOthers": sum.passed_over, "unknownKeys": unknown, "damaged": sum.damaged,
        }))
    } else {
        let said = format!("{} values sealed anew with {}", sum.sealed_anew, keys.active_id());
        out.say(&said).map_err(Into::into)
    };
    if sum.passed_over > 0 {
        print::err(format_args!("{} values were held by others all the time: run it again", sum.passed_over));
    }
    if sum.damaged > 0 {
        let some: Vec<_> = sum.examples.iter().map(|(place, id)| format!("{place} of {id}")).collect();
        print::err(format_args!(
            "{} values open with no key and stay as they are: {}",
            sum.damaged,
            some.join(", ")
        ));
    }
    for (id, count) in &sum.unknown {
        print::err(format_args!(
            "{count} values were sealed by {}, which is not in the key ring",
            print::clean(id)
        ));
    }
    exit::told(if done { Exit::Done } else { Exit::Failed }, printed)
}
