//! The behaviour tests: one binary, a module per behaviour.

mod architecture;
mod behaviour;
mod cli;
mod conformance;
mod crash;
mod documents;
mod nodes;
mod push_python;
mod push_restart;
mod support;
mod usage;
