//! The `ringback` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// SQLite's allocator too: both share what one of them leaves free.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Before anything can build a TLS client: without a process-wide provider rustls panics. An error
    // says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ringback::cli::main()
}
