//! Every request and response body of the HTTP API (`docs/api.md`).
//!
//! Server, client, command line and tests share these shapes. Members without a value
//! are left out of answers; `null` in a request means "not given"; unknown members are refused.

mod admin;
mod deliveries;
mod endpoints;
mod events;
mod jobs;
mod lanes;
mod queues;
mod streams;
mod urls;
mod work;

pub use admin::*;
pub use deliveries::*;
pub use endpoints::*;
pub use events::*;
pub use jobs::*;
pub use lanes::*;
pub use queues::*;
pub use streams::*;
pub use urls::*;
pub use work::*;

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
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
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum OrProblem<T> {
    /// It was done.
    Done(T),
    /// It was refused.
    Problem(ProblemBody),
}

/// By hand: what serde makes of an untagged enum cannot hold the raw JSON that a job has in it.
impl<'de, T: DeserializeOwned> Deserialize<'de> for OrProblem<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Json::deserialize(d)?;
        match serde_json::from_str(text.get()) {
            Ok(problem) => Ok(OrProblem::Problem(problem)),
            Err(_) => serde_json::from_str(text.get()).map(OrProblem::Done).map_err(D::Error::custom),
        }
    }
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

/// An object or `null` for "not given"; serde would take an array for a struct too.
fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    Ok(Option::deserialize(d)?.map(|Object(value)| value))
}

/// The same for a member that is no `Option`.
fn object_or_default<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    object(d).map(Option::unwrap_or_default)
}

/// An object of one's own names; a member that is `null` counts as not given.
fn map<'de, D, T>(d: D) -> Result<Option<BTreeMap<String, T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let given: Option<BTreeMap<String, Option<T>>> = Option::deserialize(d)?;
    Ok(given.map(|members| members.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()))
}

/// The same for a member that is no `Option`.
fn map_or_default<'de, D, T>(d: D) -> Result<BTreeMap<String, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    map(d).map(Option::unwrap_or_default)
}

/// The same where `null` for the whole is told from a member that is not there.
fn given_map<'de, D, T>(d: D) -> Result<Option<Option<BTreeMap<String, T>>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    map(d).map(Some)
}

/// Tells `null` from a member that is not there.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(d).map(Some)
}

/// The same for an object.
fn given_object<'de, D, T>(d: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    object(d).map(Some)
}

struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        T::deserialize(AsMap(d)).map(Object)
    }
}

/// Reads a map, whatever is asked for.
struct AsMap<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for AsMap<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Reads JSON text that the store or the service itself wrote.
pub fn raw(text: String) -> Json {
    RawValue::from_string(text).unwrap_or_else(|_| null())
}

/// The JSON value `null`.
pub fn null() -> Json {
    RawValue::from_string("null".to_owned()).unwrap_or_else(|_| unreachable!("`null` is JSON"))
}
