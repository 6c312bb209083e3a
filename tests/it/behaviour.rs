//! The contract over HTTP, the same on both engines.

mod deliveries;
mod idempotency;
mod operator;
mod refusals;
mod result;
mod seed;
mod status;
mod submit;
mod workers;
