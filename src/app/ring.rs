//! The key ring's file: made for development, read again while a node runs, and the rotation under it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::time::Instant;

use super::{Config, Mode, Running};
use crate::dice::Dice;
use crate::store::seal::KeyRing;
use crate::store::{Error, Rotation, Store, Tally};

/// Passes after which what is still held by someone is left to another run.
const PASSES: usize = 20;
/// Tries of one step while the store is busy, and the wait between them.
const TRIES: usize = 20;
const BUSY: Duration = Duration::from_millis(250);
/// The longest rest between two bites.
const REST: Duration = Duration::from_millis(250);
/// Values of one bite.
const BITE: usize = 200;

/// Where the ring's file is.
pub(super) fn path(config: &Config) -> anyhow::Result<PathBuf> {
    match (&config.key_ring, config.mode) {
        (Some(path), _) => Ok(path.clone()),
        (None, Mode::Dev) => Ok(beside(&config.store)),
        (None, Mode::Serve) => {
            bail!("production needs --key-ring FILE; make one with `ringback keyring create FILE`")
        }
    }
}

/// Reads the ring of a node that starts; `dev` makes one where there is none.
pub(super) fn load(path: &Path, mode: Mode, dice: &Dice) -> anyhow::Result<KeyRing> {
    if mode == Mode::Dev && !path.exists() {
        let text = KeyRing::generate(dice.bytes()).to_text();
        KeyRing::create_file(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    read(path)
}

/// Reads a ring's file.
pub fn read(path: &Path) -> anyhow::Result<KeyRing> {
    let text = std::fs::read_to_string(path);
    let text = zeroize::Zeroizing::new(
        text.with_context(|| format!("cannot read the key ring {}", path.display()))?,
    );
    KeyRing::parse(&text).with_context(|| format!("{}", path.display()))
}

/// Refuses a ring that lacks a key which the store needs, but for those that are lost. A node without it signs nothing that
/// was sealed by it: each try would spend an attempt, and nobody would hear of it but those who read the log.
pub(super) async fn suits(store: &Store, config: &Config) -> anyhow::Result<()> {
    let mut lacking = store.lacking_keys().await?;
    lacking.retain(|id| !config.lost_keys.contains(id));
    let lacking: Vec<String> = lacking.into_iter().collect();
    ensure!(
        lacking.is_empty(),
        "the key ring lacks {ids}, by which secrets in the store are sealed: give this node the ring that has it; \
         if it is lost for good, --lost-key {ids} starts without",
        ids = lacking.join(",")
    );
    Ok(())
}

/// Beside a SQLite file; in the working directory for a server, which has no beside.
fn beside(store: &str) -> PathBuf {
    let file = store.strip_prefix("sqlite://").or_else(|| store.strip_prefix("sqlite:"));
    match file.and_then(|f| f.split('?').next()).filter(|f| !f.is_empty()) {
        Some(file) => PathBuf::from(format!("{file}.keyring")),
        None => Path::new("ringback.keyring").to_path_buf(),
    }
}

impl Running {
    /// Reads the key ring's file again and goes on with what it holds. Gives the id of the key that seals now.
    ///
    /// Errors: the file, or a ring without the key that sealed so far; the ring in use stays.
    pub fn reload_ring(&self) -> anyhow::Result<String> {
        let ring = read(&self.ring)?;
        self.store.use_ring(ring).with_context(|| format!("{}", self.ring.display()))
    }
}

/// Seals anew what the ring's active key did not seal, pass by pass until one finds nothing to do.
///
/// `per_second` bounds the values; without it a bite is followed by a rest as long as it took, so that a busy
/// service keeps half of the store's time. Gives how many were sealed anew in all; the rest is of the last pass.
pub async fn rotate_keys(
    store: &str,
    ring: &KeyRing,
    dice: &Dice,
    per_second: Option<u32>,
    mut told: impl FnMut(&str, &Tally),
) -> anyhow::Result<Tally> {
    let mut sealed_anew = 0;
    let mut sum = Tally::default();
    let mut pass = Rotation::begin(store, ring.clone(), dice.clone()).await?;
    for _ in 0..PASSES {
        sum = Tally::default();
        while let Some(place) = pass.place() {
            let began = Instant::now();
            let bite = step(&mut pass, per_second).await?;
            let pause = pause(bite.sealed_anew, began.elapsed(), per_second);
            sum.add(bite);
            told(place, &sum);
            tokio::time::sleep(pause).await;
        }
        sealed_anew += sum.sealed_anew;
        if sum.is_clean() {
            break;
        }
        pass.again();
    }
    Ok(Tally { sealed_anew, ..sum })
}

/// One bite, asked for again while the store is busy with others.
async fn step(pass: &mut Rotation, per_second: Option<u32>) -> anyhow::Result<Tally> {
    let most = per_second.map_or(BITE, |n| BITE.min(usize::try_from(n).unwrap_or(BITE)));
    for _ in 1..TRIES {
        match pass.step(most).await {
            Err(Error::Again | Error::Locked(_) | Error::Down(_)) => tokio::time::sleep(BUSY).await,
            done => return Ok(done?),
        }
    }
    pass.step(most).await.context("the store is too busy; what is done stays done, so run it again")
}

/// How long to rest after a bite.
fn pause(values: u64, took: Duration, per_second: Option<u32>) -> Duration {
    match per_second {
        _ if values == 0 => Duration::ZERO,
        None => took.min(REST),
        Some(n) => Duration::from_secs_f64(values as f64 / f64::from(n.max(1))).saturating_sub(took),
    }
}
