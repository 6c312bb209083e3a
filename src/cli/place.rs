//! A directory of a command's own, gone when it is dropped.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::dice::Dice;

/// A temporary directory that nobody else may enter.
pub struct Place(PathBuf);

impl Place {
    /// Makes one for the command `name`.
    pub fn make(name: &str) -> anyhow::Result<Place> {
        let number = u64::from_le_bytes(Dice::Os.bytes());
        let path = std::env::temp_dir().join(format!("ringback-{name}-{number:016x}"));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot make the directory {}", path.display()))?;
        let text = path.to_str().is_some_and(|text| !text.contains(['?', '%', '#']));
        let place = Place(path);
        ensure!(text, "the path of the temporary directory does not fit into a store's URL; set TMPDIR");
        Ok(place)
    }

    /// The URL of a store in it.
    pub fn store(&self) -> String {
        format!("sqlite://{}", self.0.join("ringback.db").display())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed is left to the system's own cleaning of temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
