//! Whether bytes are JSON that every reader reads alike.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::types::problem::{Invalid, ProblemCode};

/// How deep arrays and objects may nest.
pub const DEPTH: usize = 64;

/// Checks that `bytes` are one JSON value in UTF-8, at most [`DEPTH`] deep, without duplicate members. A number may be
/// of any size: whether it is too large is for who needs it.
///
/// The error is `invalid-request` and tells line and column.
pub fn scan(bytes: &[u8]) -> Result<&str, Invalid> {
    let unreadable =
        |detail: String| Invalid { code: ProblemCode::InvalidRequest, detail, errors: Vec::new() };
    let text = std::str::from_utf8(bytes)
        .map_err(|e| unreadable(format!("the body is not UTF-8 at byte {}", e.valid_up_to())))?;
    if text.trim_ascii().is_empty() {
        return Err(unreadable("the body is empty; JSON is required".to_owned()));
    }
    walk(text)
        .or_else(|e| without_large_numbers(text).map_or(Err(e), |same| walk(&same)))
        .map_err(|e| unreadable(format!("the body is not taken as JSON: {e}")))?;
    Ok(text)
}

fn walk(text: &str) -> serde_json::Result<()> {
    let mut reader = serde_json::Deserializer::from_str(text);
    Scan { room: DEPTH }.deserialize(&mut reader).and_then(|()| reader.end())
}

/// `text` with a 0 for each number that [`walk`] finds too large, all else at its place. None if there is none.
///
/// The reader makes every number an `f64` before it asks whether anybody wants it.
fn without_large_numbers(text: &str) -> Option<String> {
    let mut same = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        let number = !from.starts_with('"');
        let len = if number { number_len(from) } else { text_len(from) };
        let (token, after) = from.split_at(len);
        same.push_str(before);
        if number && is_large(token) {
            same.extend(std::iter::once('0').chain(std::iter::repeat_n(' ', len - 1)));
        } else {
            same.push_str(token);
        }
        rest = after;
    }
    same.push_str(rest);
    (same != text).then_some(same)
}

/// How long the text in quotes is that `from` begins with.
fn text_len(from: &str) -> usize {
    let mut escaped = false;
    let end = from.bytes().skip(1).position(|b| {
        let ends = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        ends
    });
    end.map_or(from.len(), |at| at + 2)
}

/// How long what may be a number is that `from` begins with.
fn number_len(from: &str) -> usize {
    let within = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
    from.bytes().position(|b| !within(b)).unwrap_or(from.len())
}

fn is_large(token: &str) -> bool {
    // What is skipped is held against the grammar alone.
    serde_json::from_str::<f64>(token).is_err() && serde_json::from_str::<de::IgnoredAny>(token).is_ok()
}

/// Walks a value and keeps nothing of it.
#[derive(Clone, Copy)]
struct Scan {
    room: usize,
}

impl Scan {
    fn deeper<E: de::Error>(self) -> Result<Scan, E> {
        let room = self.room.checked_sub(1);
        room.map(|room| Scan { room }).ok_or_else(|| E::custom(format!("nested deeper than {DEPTH} levels")))
    }
}

impl<'de> DeserializeSeed<'de> for Scan {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while items.next_element_seed(inner)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        // A set that neither hashes nor takes much memory where there are few, and holds for any number.
        let mut seen = BTreeSet::new();
        while let Some(name) = members.next_key_seed(Name)? {
            members.next_value_seed(inner)?;
            if let Some(twice) = seen.replace(name) {
                let shown: String = twice.chars().take(64).collect();
                return Err(de::Error::custom(format!("duplicate member `{shown}`")));
            }
        }
        Ok(())
    }
}

/// The name of a member, borrowed where nothing in it is escaped.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }
    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }
    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_levels_are_taken_and_one_more_is_not() {
        let nest = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(scan(nest(DEPTH).as_bytes()).is_ok());
        assert!(scan(nest(DEPTH + 1).as_bytes()).unwrap_err().detail.contains("deeper than 64"));
        assert!(scan(nest(100_000).as_bytes()).is_err());
    }

    #[test]
    fn a_large_number_is_looked_through_and_all_else_stays_at_its_place() {
        let seen = |text: &str| without_large_numbers(text).unwrap_or_else(|| "as it was".to_owned());
        assert_eq!(seen(r#"{"1e999":[ 1e999,-2E+400, 3]}"#), r#"{"1e999":[ 0    ,0      , 3]}"#);
        assert_eq!(seen(r#"["\\",1e999,"\"1e999",true]"#), r#"["\\",0    ,"\"1e999",true]"#);
        assert_eq!(seen("[1e999x"), "[0    x", "what is no JSON is no JSON afterwards");
        for same in [r#"[1.5,-0,"1e999"]"#, "[01e999]", "\"1e999", "é1.7e308", "[1e-999]"] {
            assert_eq!(seen(same), "as it was", "{same}");
        }
        let long = format!("[{}]", "9".repeat(400));
        assert!(scan(long.as_bytes()).is_ok() && scan(b"[1e999,1e999,]").is_err());
    }
}
