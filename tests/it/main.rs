//! The behaviour tests: one binary, a module per behaviour.

mod architecture;
mod behaviour;
mod cli;
mod conformance;
mod crash;
mod documents;
mod nodes;
mod support;
mod usage;
