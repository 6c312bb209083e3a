//! What a full store costs: an empty and a full one measured in turn, each with servers of its own.

mod backlog;
mod compare;
mod endpoints;
mod fanout;
mod nodes;
mod snapshot;

pub use backlog::{BacklogArgs, backlog};
pub use endpoints::{EndpointsArgs, endpoints};
pub use fanout::{FanoutArgs, fanout};
pub use nodes::{NodesArgs, nodes};
pub use snapshot::{SnapshotArgs, snapshot};
