//! Reading JSON bodies strictly: two readers of one body must never see two different things. Writing long ones.

use axum::response::{IntoResponse, Response};
use http::header;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use super::problem::Problem;
use crate::types::api::Json;
use crate::types::problem::{Invalid, ProblemCode};
pub use crate::types::strict::scan;
use crate::types::submit::escape;

/// Makes a `T` of text that [`scan`] let through; the error points to the member at fault.
///
/// Read once more where it does not fit: to know at each member where it stands costs as much as all the rest.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, Invalid> {
    serde_json::from_str(text).or_else(|_| read_on_the_way(text))
}

fn read_on_the_way<T: DeserializeOwned>(text: &str) -> Result<T, Invalid> {
    let mut reader = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut reader).map_err(|e| {
        let mut pointer = pointer(e.path());
        let message = e.inner().to_string();
        let message = strip_position(&message);
        if let Some(name) = between(message, "missing field `", "`") {
            return Invalid::member(format!("{pointer}/{}", escape(name)), "is required");
        }
        let Some(name) = between(message, "unknown field `", "`") else {
            return Invalid::member(pointer, rule(message));
        };
        let last = format!("/{}", escape(name));
        if !pointer.ends_with(&last) {
            pointer.push_str(&last);
        }
        Invalid::member(pointer, unknown(name, message))
    })
}

/// [`scan`] and [`read_object`].
pub fn object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Invalid> {
    read_object(scan(bytes)?)
}

/// [`read`] for text that must be an object: serde would take an array for a struct too.
pub fn read_object<T: DeserializeOwned>(text: &str) -> Result<T, Invalid> {
    if text.trim_ascii_start().starts_with('{') {
        read(text)
    } else {
        Err(Invalid::member("", "must be an object"))
    }
}

/// The whole text as it stands, without the white space around it.
pub fn verbatim(bytes: &[u8]) -> Result<Json, Invalid> {
    read(scan(bytes)?)
}

/// The path as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", escape(key)),
            Segment::Enum { variant } => format!("/{}", escape(variant)),
            Segment::Unknown => String::new(),
        })
        .collect()
}

/// The pointer says where; line and column of the text would say it twice.
fn strip_position(message: &str) -> &str {
    message.rsplit_once(" at line ").map_or(message, |(head, _)| head)
}

/// What serde says, as a rule for people. It names types of this program, and it quotes what it did not take, which
/// may be a secret at the wrong place: neither is given back.
fn rule(message: &str) -> String {
    if let Some(number) = between(message, "invalid value: integer `", "`") {
        return if number.starts_with('-') { "is too small" } else { "is too large" }.to_owned();
    }
    let ours = ["invalid type:", "invalid value:", "invalid length", "unknown variant"];
    match message.rsplit_once(", expected ") {
        Some((_, expected)) if ours.iter().any(|kind| message.starts_with(kind)) => {
            format!("must be {}", in_words(expected))
        }
        // Where a word of a list belongs there was a number, or the like.
        None if message == "expected value" => "must be a word as text".to_owned(),
        Some(_) | None => message.to_owned(),
    }
}

fn in_words(expected: &str) -> &str {
    match expected {
        "i8" | "i16" | "i32" | "i64" | "isize" | "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "a borrowed string" | "string or map" => "text",
        "a sequence" => "an array",
        "a map" => "an object",
        _ if expected.starts_with("struct ") || expected.starts_with("internally tagged enum ") => {
            "an object"
        }
        _ => expected,
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    rest.find(after).map(|end| &rest[..end])
}

/// "unknown member", with the name that was probably meant.
fn unknown(name: &str, message: &str) -> String {
    let known = message.split_once("expected").map_or("", |(_, list)| list);
    let near = known
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(far, candidate)| *far <= 1 + candidate.len() / 4)
        .min();
    match near {
        Some((_, candidate)) => format!("unknown member; did you mean `{candidate}`?"),
        None => "unknown member".to_owned(),
    }
}

/// Edits between two names, case ignored (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    // Names come from outside: a long one is never near, and must not cost its square.
    if a.len().abs_diff(b.len()) > 8 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// What a job usually takes in an answer, beside its input.
pub const JOB_BYTES: usize = 640;

/// An answer in JSON of about so many bytes: one that grows as it is written is copied each time that it doubles, and
/// leaves as much memory behind.
pub struct Long<T>(pub usize, pub T);

impl<T: Serialize> IntoResponse for Long<T> {
    fn into_response(self) -> Response {
        let mut text = Vec::with_capacity(self.0);
        match serde_json::to_writer(&mut text, &self.1) {
            Ok(()) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
            Err(_) => Problem::new(ProblemCode::Internal).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::api::{SubmitBatch, SubmitJob};

    fn fault(body: &str) -> (ProblemCode, String, String) {
        let e = object::<SubmitJob>(body.as_bytes()).unwrap_err();
        let pointer = e.errors.first().map(|e| e.pointer.clone()).unwrap_or_default();
        (e.code, pointer, e.detail)
    }

    #[test]
    fn malformed_text_is_told_with_its_place() {
        for (body, says) in [
            ("", "empty"),
            ("  ", "empty"),
            ("{", "line 1 column 1"),
            ("{\"type\":}", "line 1 column 9"),
            ("{} x", "trailing characters"),
            ("{\"type\":\"a\",\"type\":\"b\"}", "duplicate member `type`"),
            ("{\"input\":{\"a\":1,\"\\u0061\":2}}", "duplicate member `a`"),
            ("{\"input\":[1e999,01]}", "line 1 column 18"),
            ("{\"input\":[1e999,-]}", "line 1 column 18"),
            ("{\"a\":1e999,\"a\":1}", "duplicate member `a`"),
            ("{\"input\":\"\\ud800\"}", "escape"),
        ] {
            let (code, _, detail) = fault(body);
            assert_eq!(code, ProblemCode::InvalidRequest, "{body}");
            assert!(detail.contains(says), "{body}: {detail}");
        }
        let e = object::<SubmitJob>(b"{\"type\":\"\xff\"}").unwrap_err();
        assert_eq!(e.detail, "the body is not UTF-8 at byte 9");
    }

    #[test]
    fn what_breaks_a_rule_is_pointed_at() {
        for (body, pointer, says) in [
            (r#"{}"#, "/type", "is required"),
            (r#"{"type":1}"#, "/type", "must be text"),
            (r#"{"type":null}"#, "/type", "must be text"),
            (r#"{"type":"a","priority":"high"}"#, "/priority", "must be a whole number"),
            (r#"{"type":"a","priority":1.5}"#, "/priority", "must be a whole number"),
            (r#"{"type":"a","priority":300}"#, "/priority", "is too large"),
            (r#"{"type":"a","priority":-300}"#, "/priority", "is too small"),
            (r#"{"type":"a","timeoutSeconds":-1}"#, "/timeoutSeconds", "is too small"),
            (r#"{"type":"a","worker":"magic"}"#, "/worker", "must be `pull` or `external`"),
            (r#"{"type":"a","worker":"x, expected u8"}"#, "/worker", "must be `pull` or `external`"),
            (r#"{"type":"a","worker":1}"#, "/worker", "must be a word as text"),
            (r#"{"type":"a","callback":1}"#, "/callback", "must be an object"),
            (r#"{"type":"a","callback":{"events":"a"}}"#, "/callback/events", "must be an array"),
            (r#"{"type":"a","runAt":"soon"}"#, "/runAt", "RFC 3339"),
            (r#"{"type":"a","callbackURL":"x"}"#, "/callbackURL", "did you mean `callbackUrl`?"),
            (r#"{"type":"a","zzz":"x"}"#, "/zzz", "unknown member"),
            (r#"{"type":"a","callback":{"urll":"x"}}"#, "/callback/urll", "did you mean `url`?"),
            (r#"{"type":"a","callback":{"retry":{"max":1}}}"#, "/callback/retry/max", "unknown member"),
            (r#"{"type":"a","callback":{"events":["a",1]}}"#, "/callback/events/1", "must be text"),
            (r#"{"type":"a","callback":{"headers":{"a/b":1}}}"#, "/callback/headers/a~1b", "must be text"),
            (r#"[]"#, "", "must be an object"),
            (r#""x""#, "", "must be an object"),
        ] {
            let (code, at, detail) = fault(body);
            assert_eq!((code, at.as_str()), (ProblemCode::ValidationFailed, pointer), "{body}: {detail}");
            assert!(detail.contains(says), "{body}: {detail}");
            for word in ["invalid", "variant", "struct", "integer `", "i8", "u32", "sequence"] {
                assert!(!detail.contains(word), "{body}: {detail}");
            }
        }
    }

    #[test]
    fn null_means_not_given_and_input_is_kept_byte_for_byte() {
        let job: SubmitJob =
            object(br#"{"type":"a","priority":null,"input":{ "b" : 1.50, "a":"\u00e9" }}"#).unwrap();
        assert_eq!(job.priority, None);
        assert_eq!(job.input.unwrap().get(), r#"{ "b" : 1.50, "a":"\u00e9" }"#);
        let maps = br#"{"type":"a","callback":{"url":"x","headers":{"X-A":null,"X-B":"b"}}}"#;
        let headers = object::<SubmitJob>(maps).unwrap().callback.unwrap().headers.unwrap();
        assert_eq!(headers.into_iter().collect::<Vec<_>>(), [("X-B".to_owned(), "b".to_owned())]);
        let none = br#"{"op":"subscribe","jobIds":["x"],"after":{"x":null}}"#;
        assert!(object::<crate::types::api::SocketRequest>(none).unwrap().after.is_empty());
        let batch: SubmitBatch = object(br#"{"atomic":null,"jobs":[{"type":"a"}]}"#).unwrap();
        assert!(!batch.atomic);
    }
}
