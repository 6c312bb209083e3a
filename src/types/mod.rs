//! The language of the house: ids, states, retry maths, signatures, API shapes.
//!
//! Pure data and pure decisions. No async, no SQL, no HTTP, no clock.

pub mod api;
pub mod cloudevents;
pub mod content;
pub mod delivery;
pub mod disable;
pub mod endpoint;
pub mod event;
pub mod explain;
pub mod id;
pub mod job;
pub mod key;
pub mod lane;
pub mod outage;
pub mod problem;
pub mod push;
pub mod retry;
pub mod signature;
pub mod strict;
pub mod submit;
pub mod target;
pub mod time;

pub use id::{DeliveryId, EndpointId, EventId, Id, JobId, KeyId, LaneId, RedriveId, TenantId};
pub use time::Millis;
