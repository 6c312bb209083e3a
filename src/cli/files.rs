//! How many files, and so connections, this process may open at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::exit::Usage;

/// Lets this process open as many as it may: what a shell or a container sets is made for programs with few. Gives how many.
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

/// Lets this process and its children open `files` files each, if they may.
pub fn open(files: u64) -> Result<(), Usage> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|now| now >= files) {
        return Ok(());
    }
    let wanted = Rlimit { current: Some(files), maximum };
    setrlimit(Resource::Nofile, wanted).map_err(|_| {
        let most = maximum.map_or_else(String::new, |most| format!(" and may at most {most}"));
        Usage(format!(
            "{files} files have to be open at once{most}; raise the limit (ulimit -n), or take fewer streams"
        ))
    })
}
