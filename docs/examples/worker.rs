//! A worker: two handlers, one worker.
fn main() {}
