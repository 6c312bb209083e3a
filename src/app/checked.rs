//! What a node is told, held against the rules before anything is opened: `config print` has no others than `serve`.

use std::path::PathBuf;

use anyhow::ensure;

use super::push::Profile;
use super::{Config, Mode, push, ring};
use crate::config::File;
use crate::dice::Dice;
use crate::store::seal::KeyRing;

/// What a configuration names, read.
pub struct Checked {
    /// The configuration file; the defaults where there is none.
    pub file: File,
    pub(super) workers: Vec<Profile>,
    pub(super) ring_path: PathBuf,
    pub(super) ring: KeyRing,
}

/// Reads what a configuration names and refuses what a node would not start with, as far as that shows without the store
/// and the network. In development a key ring is made where there is none.
pub fn check_config(config: &Config, dice: &Dice) -> anyhow::Result<Checked> {
    let dev = config.mode == Mode::Dev;
    let file = config.file.as_deref().map(File::read).transpose()?.unwrap_or_default();
    let workers = push::profiles(&file, dev)?;
    if dev {
        let listen = config.listen;
        ensure!(listen.ip().is_loopback(), "dev listens on loopback only; use serve for {listen}");
    }
    let ring_path = ring::path(config)?;
    let ring = ring::load(&ring_path, config.mode, dice)?;
    Ok(Checked { file, workers, ring_path, ring })
}
