//! Nothing crosses tenants.

mod apart;
mod matrix;
