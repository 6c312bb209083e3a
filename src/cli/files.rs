//! How many files, and so connections, this process may open at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::exit::Usage;

/// Lets this process and its children open as many as they may: what a shell or a container sets is made for programs with few. Gives how many.
pub fn open_all() -> u64 {
    let Rlimit { current: before, maximum } = getrlimit(Resource::Nofile);
    // Some systems have bounds of their own beside the limit.
    for most in [maximum, Some(65_536), Some(10_240)] {
        let more = most.is_none_or(|most| before.is_some_and(|before| before < most));
        if more && setrlimit(Resource::Nofile, Rlimit { current: most, maximum }).is_ok() {
            break;
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The same, where `files` have to be open at once.
pub fn open(files: u64) -> Result<(), Usage> {
    let most = open_all();
    if most >= files {
        return Ok(());
    }
    Err(Usage(format!(
        "{files} files have to be open at once and may at most {most}; raise the limit (ulimit -n), or take fewer streams"
    )))
}
