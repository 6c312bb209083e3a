//! The contract over HTTP, the same on both engines.

mod channels;
mod dead_letters;
mod deliveries;
mod edge;
mod endpoints;
mod events;
mod feed;
mod idempotency;
mod keys;
mod leases;
mod operator;
mod push;
mod queues;
mod refusals;
mod result;
mod schemes;
mod seed;
mod sockets;
mod status;
mod steering;
mod streams;
mod submit;
mod tenants;
mod workers;
