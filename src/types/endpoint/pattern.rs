//! Which event types an endpoint wants.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest type that a pattern may spell out.
const TYPE_MAX: usize = 128;

/// `*`, a type such as `invoice.paid`, or all types below one: `invoice.*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(String);

/// The text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be `*`, an event type of at most 128 characters of A-Za-z0-9._:-, or one followed by `.*` for all below it"
)]
pub struct BadPattern;

impl Pattern {
    /// Matches whatever there is.
    pub fn every() -> Pattern {
        Pattern("*".to_owned())
    }

    /// Whether an event of type `kind` is wanted. `invoice.*` matches `invoice.paid` and `invoice.line.added`, and
    /// not `invoice` itself.
    pub fn matches(&self, kind: &str) -> bool {
        match self.0.strip_suffix('*') {
            // `` of `*` and `invoice.` of `invoice.*`.
            Some(head) => kind.len() > head.len() && kind.starts_with(head),
            None => self.0 == kind,
        }
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether one of the patterns matches.
pub fn any_matches(patterns: &[Pattern], kind: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(kind))
}

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Pattern, BadPattern> {
        let named = text.strip_suffix(".*").unwrap_or(text);
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        let head = named.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let sound = head && named.len() <= TYPE_MAX && named.bytes().all(inner);
        if text == "*" || sound { Ok(Pattern(text.to_owned())) } else { Err(BadPattern) }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}
