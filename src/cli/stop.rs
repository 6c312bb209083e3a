//! SIGTERM and SIGINT: the first asks for a graceful end, the second ends at once. SIGHUP: read again what may change, or where
//! there is nothing to read the end of a terminal.

use std::future::pending;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::child;

/// Within this time the same signal again is the same one: `timeout` and others send it to the process and to its group.
const AGAIN: Duration = Duration::from_millis(500);

/// A token that fires at the first signal. A second signal ends the process with 130, as shells do, and the commands that it
/// runs with it.
pub fn on_signal() -> anyhow::Result<CancellationToken> {
    stop_at(None)
}

/// The same, at a SIGHUP too unless `nohup` or the like had it ignored. One that comes later hurries nothing: of a terminal that
/// closes there are two.
pub fn on_signal_or_hangup() -> anyhow::Result<CancellationToken> {
    stop_at(hangups_if_heard()?)
}

fn stop_at(mut hangups: Option<Signal>) -> anyhow::Result<CancellationToken> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let fired = stop.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = term.recv() => SignalKind::terminate(),
                _ = int.recv() => SignalKind::interrupt(),
            }
        };
        let first = tokio::select! {
            first = next() => first,
            () = self::next(&mut hangups) => SignalKind::hangup(),
        };
        fired.cancel();
        let first = Heard::now(first);
        while first.is(&next().await) {}
        // Their groups do not hear the terminal, and nothing is dropped from here on.
        child::kill_all();
        std::process::exit(130);
    });
    Ok(stop)
}

/// A signal that was heard right now.
pub struct Heard<S> {
    signal: S,
    at: Instant,
}

impl<S: PartialEq> Heard<S> {
    /// It came right now.
    pub fn now(signal: S) -> Heard<S> {
        Heard { signal, at: Instant::now() }
    }

    /// Whether the one that comes now is the same one.
    pub fn is(&self, next: &S) -> bool {
        self.signal == *next && self.at.elapsed() < AGAIN
    }
}

/// SIGHUPs, one after the other; from here on they no longer end the process.
pub fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// The same, unless `nohup` or the like had them ignored.
pub fn hangups_if_heard() -> std::io::Result<Option<Signal>> {
    (!ignores_hangups()).then(hangups).transpose()
}

/// The next one; never, where they are ignored.
pub async fn next(hangups: &mut Option<Signal>) {
    match hangups {
        Some(hangups) => drop(hangups.recv().await),
        None => pending().await,
    }
}

/// Whether SIGHUP is ignored, as far as the system tells: where it does not it may be.
fn ignores_hangups() -> bool {
    std::fs::read_to_string("/proc/self/status").map_or(true, |status| ignored(&status, 1))
}

/// Whether a process of that status (proc(5)) ignores that signal.
fn ignored(status: &str, signal: u32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask & (1 << (signal - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_signal_at_once_is_the_same_one() {
        let first = Heard::now("TERM");
        assert!(first.is(&"TERM") && !first.is(&"INT"));
        let earlier = Heard { at: first.at - AGAIN, ..first };
        assert!(!earlier.is(&"TERM"));
    }

    #[test]
    fn what_a_process_ignores_is_read_from_its_status() {
        let status =
            |mask| format!("Name:\tringback\nSigBlk:\t0000000000000000\nSigIgn:\t{mask}\nSigCgt:\t0\n");
        for (mask, hangups) in [
            ("0000000000000000", false),
            ("0000000000000001", true),
            ("0000000000001000", false),
            ("0000000000001001", true),
            ("?", true),
        ] {
            assert_eq!(ignored(&status(mask), 1), hangups, "{mask}");
        }
        assert!(ignored("", 1), "nobody knows");
    }
}
