//! SIGTERM and SIGINT: the first asks for a graceful end, the second ends at once. SIGHUP: read again what may change.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::child;

/// A token that fires at the first signal. A second signal ends the process with 130, as shells do, and the commands that it
/// runs with it.
pub fn on_signal() -> anyhow::Result<CancellationToken> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let fired = stop.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        };
        next().await;
        fired.cancel();
        next().await;
        // Their groups do not hear the terminal, and nothing is dropped from here on.
        child::kill_all();
        std::process::exit(130);
    });
    Ok(stop)
}

/// SIGHUPs, one after the other; from here on they no longer end the process.
pub fn hangups() -> anyhow::Result<Signal> {
    Ok(signal(SignalKind::hangup())?)
}
