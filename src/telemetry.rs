//! Where logs go: to standard error, for people on a terminal and as JSON elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets up logging once for the process. `RUST_LOG` rules; `usual` counts where it is not set.
pub fn init(usual: &str) {
    let (filter, fault) = match std::env::var("RUST_LOG") {
        Ok(text) => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(e) => (EnvFilter::new(usual), Some(e)),
        },
        Err(_) => (EnvFilter::new(usual), None),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A line that cannot be written is lost. Told of, it would be by `eprintln!` into the same place, which panics.
    let builder = builder.log_internal_errors(false);
    // A second call finds the first one's set-up in place, which is as good.
    let _ = if std::io::stderr().is_terminal() {
        builder.with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    if let Some(fault) = fault {
        tracing::warn!("RUST_LOG is not understood and not used: {fault}");
    }
}
