//! What `ringback bench` asks of a database beside the service: what it can do alone, and stores that are full.
//!
//! No verb of the service: nothing here runs in a node.

mod fill;
mod hold;
pub mod hot;
mod raw;
mod scratch;
mod transactions;

pub use super::commit::committers;
pub use fill::{Filled, fill};
pub use hold::Held;
pub use raw::{Raw, Sample};
pub use scratch::Scratch;
pub use transactions::transactions;
