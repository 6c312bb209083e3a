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
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod app;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod dice;
pub mod dispatch;
pub mod egress;
pub mod http;
pub mod metrics;
pub mod push;
pub mod store;
pub mod sweep;
pub mod telemetry;
pub mod types;
pub mod wake;
pub mod worker;
