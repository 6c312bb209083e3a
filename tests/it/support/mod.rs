//! What the tests share.

pub mod app;
pub mod ask;
pub mod postgres;
pub mod probe;
pub mod process;
pub mod receiver;
pub mod store;
pub mod stream;
