//! The behaviour tests: one binary, a module per behaviour.

mod architecture;
mod behaviour;
mod conformance;
mod crash;
mod nodes;
mod support;
