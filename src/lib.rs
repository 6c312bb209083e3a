//! Ringback: submit a job, get `202 Accepted`, receive the signed reply.
//!
//! The house, from the ground up; imports only point down
//! (`tests/it/architecture.rs` holds the code against this drawing):
//!
//! ```text
//! 5  cli  worker                                doors people use
//! 4  app  config  telemetry                     wiring: app alone knows everyone
//! 3  http  dispatch  push  sweep                doors and loops, which never import each other
//! 2  store  egress  client                      I/O leaves: each speaks to one outside thing
//! 1  clock  dice  wake  metrics                 small tools with no knowledge of jobs
//! 0  types                                      ids, states, retry maths, signatures, API shapes
//! ```
//!
//! Feature `client` alone (`default-features = false`) is [`client`], [`worker`] and [`types`], for programs that submit
//! and do jobs; feature `server`, the default, is the whole house.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]
// They panic where nobody reads; `cli::print` does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod clock;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "client")]
pub mod dice;
#[cfg(feature = "server")]
pub mod dispatch;
#[cfg(feature = "server")]
pub mod egress;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
pub mod push;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod sweep;
#[cfg(feature = "server")]
pub mod telemetry;
pub mod types;
#[cfg(feature = "server")]
pub mod wake;
#[cfg(feature = "client")]
pub mod worker;

/// The Rust code of the page about signatures, held to compile and to hold.
#[cfg(doctest)]
#[doc = include_str!("../docs/signatures.md")]
pub struct SignaturesPage;
