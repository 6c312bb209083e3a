//! The `ringback` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// musl's allocator in particular is slow under threads.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything can build a TLS client: without a process-wide provider rustls panics. An error
    // says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ringback::cli::main()
}
