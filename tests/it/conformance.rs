//! Every verb of the store, on both engines.

mod change;
mod check;
mod deliveries;
mod endpoints;
mod engines;
mod etag;
mod events;
mod expiry;
mod feed;
mod hand_over;
mod history;
mod keys;
mod lanes;
mod lease;
mod letters;
mod push;
mod queues;
mod read;
mod redrives;
mod retention;
mod rotation;
mod stop;
mod submit;
mod together;
mod turns;
mod watch;
