//! Every request and response body of the HTTP API (`docs/api.md`).
//!
//! Server, client, command line and tests share these shapes. Members without a value
//! are left out of answers; `null` in a request means "not given"; unknown members are refused.

mod admin;
mod deliveries;
mod jobs;
mod urls;
mod work;

pub use admin::*;
pub use deliveries::*;
pub use jobs::*;
pub use urls::*;
pub use work::*;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::problem::ProblemBody;

/// A JSON value kept byte for byte as it was sent.
pub type Json = Box<RawValue>;

/// One page of a list. `nextCursor` is always there.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// The entries, newest first unless the route says otherwise.
    pub items: Vec<T>,
    /// Give it back as `cursor` for the next page; `null` at the end.
    pub next_cursor: Option<String>,
}

/// One answer of many: what was asked for, or why not.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum OrProblem<T> {
    /// It was done.
    Done(T),
    /// It was refused.
    Problem(ProblemBody),
}

/// The answers of a batch, in the order of the request.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Items<T> {
    /// One entry per request entry.
    pub items: Vec<T>,
}

/// `null` in a request means "not given", for a member that is no `Option` too.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Option::deserialize(d).map(Option::unwrap_or_default)
}

/// Reads JSON text that the store or the service itself wrote.
pub fn raw(text: String) -> Json {
    RawValue::from_string(text).unwrap_or_else(|_| null())
}

/// The JSON value `null`.
pub fn null() -> Json {
    RawValue::from_string("null".to_owned()).unwrap_or_else(|_| unreachable!("`null` is JSON"))
}
