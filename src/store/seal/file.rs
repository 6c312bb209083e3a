//! The file of a key ring: made once, replaced whole, never half written.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::KeyRing;

impl KeyRing {
    /// Writes `text` to a new file that only its owner may read (mode 0600), and syncs it.
    ///
    /// Refuses to overwrite: a ring that is lost takes every sealed secret with it.
    pub fn create_file(path: &Path, text: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        if written.is_err() {
            // Half a ring would stand in the way of the next try. The first error is the one to tell.
            let _ = std::fs::remove_file(path);
        }
        written
    }

    /// Keeps others from changing the ring for as long as the file that it gives is open: of two who read it and write it anew, one
    /// would lose what the other has added. `WouldBlock` if somebody does so now.
    pub fn lock_file(path: &Path) -> io::Result<File> {
        let path = path.canonicalize()?;
        // The folder: the ring itself is another file after each change.
        let folder = File::open(path.parent().unwrap_or(Path::new("/")))?;
        folder.try_lock().map_err(io::Error::from)?;
        Ok(folder)
    }

    /// Puts `text` in the place of an existing file at once: who reads it, or a crash, finds the old or the new ring.
    ///
    /// The owner stays: an operator who is root must not lock the service out of its own ring. Holding [`KeyRing::lock_file`] is the
    /// caller's part.
    pub fn replace_file(path: &Path, text: &str) -> io::Result<()> {
        // A ring is often a link into a folder of secrets; the file it leads to is the one to replace.
        let path = path.canonicalize()?;
        let beside = beside(&path);
        // Of a change that was broken off; nobody else is at it, by the lock.
        match std::fs::remove_file(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        KeyRing::create_file(&beside, text)?;
        let placed = keep_owner(&path, &beside).and_then(|()| std::fs::rename(&beside, &path));
        if placed.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        placed?;
        // The rename lasts once the folder does.
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

/// A name that nobody gives a ring of their own: what stands there is removed.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".ringback-tmp");
    path.with_file_name(name)
}

#[cfg(unix)]
fn keep_owner(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, chown};
    let (old, new) = (std::fs::metadata(from)?, std::fs::metadata(to)?);
    if (old.uid(), old.gid()) == (new.uid(), new.gid()) {
        return Ok(());
    }
    chown(to, Some(old.uid()), Some(old.gid()))
}

#[cfg(not(unix))]
fn keep_owner(_: &Path, _: &Path) -> io::Result<()> {
    Ok(())
}
