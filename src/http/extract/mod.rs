//! What handlers take in: who asks, for what, with which head and body. Every refusal is a problem.

mod accept;
mod auth;
mod body;
mod head;
mod path;
mod query;
mod reader;
mod waiting;

pub use accept::{Form, negotiate};
pub use auth::{Key, KeyCache, Worker, need};
pub use body::{Bytes256, JsonBody, MaybeJson, NoBody, Raw, Size, is_json, sizes};
pub use head::{BareHead, Head, Prefer, etag_matches, is_conditional};
pub use path::{First, PathId, PathIds};
pub use query::{FromQuery, NoQuery, Params, Query, next_link, page_of, paged, paged_by, paged_to};
pub use reader::{Reader, Viewer};
pub use waiting::Waiting;
