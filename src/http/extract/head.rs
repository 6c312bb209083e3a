//! What clients say in the head: `Idempotency-Key`, `Prefer`, `Callback-*`, `traceparent`, entity tags.

use std::time::Duration;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::{Digest, Sha256};

use crate::http::app::App;
use crate::http::problem::Problem;
use crate::types::job::Idempotency;
use crate::types::problem::ProblemCode;
use crate::types::submit::DEFAULT_QUEUE;

/// The longest deliberate wait a client may ask for, seconds.
pub const WAIT_MAX: u32 = 60;
const KEY_MAX: usize = 255;

/// What a submission says beside its body.
#[derive(Debug)]
pub struct Head {
    /// The client's key, unquoted.
    key: Option<String>,
    /// How the client wants to be answered.
    pub prefer: Prefer,
    /// W3C Trace Context, if it was sound.
    pub traceparent: Option<String>,
    /// `Callback-Url`.
    pub callback_url: Option<String>,
    /// `Callback-Events`, split at its commas.
    pub callback_events: Option<Vec<String>>,
    /// `Queue`, or the one that the route fixes.
    pub queue: Option<String>,
    /// The `Callback-*` fields as the fingerprint takes them.
    callback_fields: Vec<u8>,
}

impl FromRequestParts<App> for Head {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let headers = &parts.headers;
        known_callback_fields(headers)?;
        Ok(Head {
            key: idempotency_key(headers)?,
            prefer: Prefer::read(headers),
            traceparent: traceparent(headers),
            callback_url: single(headers, "Callback-Url")?,
            callback_events: list(headers, "Callback-Events")?,
            queue: single(headers, "Queue")?,
            callback_fields: callback_fields(headers),
        })
    }
}

impl Head {
    /// What recognises a repeat of this request on `route`, if the client gave a key.
    ///
    /// The fingerprint is SHA-256 of the raw body, the `Callback-*` fields and the queue: aliases share their keys, and
    /// one of them may lead to a queue of its own.
    pub fn idempotency(&self, route: &str, body: &[u8]) -> Option<Idempotency> {
        let key = self.key.clone()?;
        let mut hash = Sha256::new();
        // The length keeps a body from being read as a field, or the other way round.
        hash.update((body.len() as u64).to_be_bytes());
        hash.update(body);
        hash.update(&self.callback_fields);
        if let Some(queue) = self.queue.as_deref().filter(|queue| *queue != DEFAULT_QUEUE) {
            hash.update(format!("queue:{queue}\n"));
        }
        Some(Idempotency { route: route.to_owned(), key, fingerprint: hash.finalize().into() })
    }
}

/// The same of a route whose body says everything.
///
/// The options of an operation are refused there: without effect they would mean that no callback ever comes.
pub struct BareHead(pub Head);

impl FromRequestParts<App> for BareHead {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let head = Head::from_request_parts(parts, app).await?;
        let options = [
            ("Callback-Url", head.callback_url.is_some(), "callbackUrl"),
            ("Callback-Events", head.callback_events.is_some(), "callback.events"),
            ("Queue", head.queue.is_some(), "queue"),
        ];
        match options.into_iter().find(|(_, given, _)| *given) {
            None => Ok(BareHead(head)),
            Some((field, _, member)) => {
                let rule = format!(
                    "is for `/v1/operations/{{type}}` and configured routes; here a job says it in its body, as `{member}`"
                );
                Err(Problem::new(ProblemCode::InvalidRequest).at(field, &rule))
            }
        }
    }
}

/// A misspelt field would mean that no callback ever comes.
fn known_callback_fields(headers: &HeaderMap) -> Result<(), Problem> {
    let mut names = headers.keys().map(HeaderName::as_str).filter(|name| name.starts_with("callback-"));
    match names.find(|name| !["callback-url", "callback-events"].contains(name)) {
        None => Ok(()),
        Some(name) => {
            let detail = "is unknown; there are `Callback-Url` and `Callback-Events`";
            Err(Problem::new(ProblemCode::InvalidRequest).at(&as_written(name), detail))
        }
    }
}

/// The name of a field in the case that documents use.
fn as_written(name: &str) -> String {
    let mut start = true;
    let up = |c: char| {
        let shown = if start { c.to_ascii_uppercase() } else { c };
        start = c == '-';
        shown
    };
    name.chars().map(up).collect()
}

/// The values of a field, in order, as text without blanks around it.
fn texts<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Vec<&'h str>, Problem> {
    let bad = || Problem::new(ProblemCode::InvalidRequest).at(name, "must be visible ASCII");
    let values = headers.get_all(name).iter();
    values.map(|value| value.to_str().map(str::trim).map_err(|_| bad())).collect()
}

/// A field that may be given once.
fn single(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Problem> {
    match texts(headers, name)?[..] {
        [] => Ok(None),
        [value] => Ok(Some(value.to_owned())),
        [..] => Err(Problem::new(ProblemCode::InvalidRequest).at(name, "is given twice")),
    }
}

/// A list: several field lines are one (RFC 9110, section 5.3), and empty elements count for nothing (5.6.1).
fn list(headers: &HeaderMap, name: &'static str) -> Result<Option<Vec<String>>, Problem> {
    let lines = texts(headers, name)?;
    let names = lines.iter().flat_map(|line| line.split(',')).map(str::trim).filter(|name| !name.is_empty());
    Ok((!lines.is_empty()).then(|| names.map(str::to_owned).collect()))
}

fn callback_fields(headers: &HeaderMap) -> Vec<u8> {
    let mut fields: Vec<(&str, &[u8])> = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("callback-"))
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    fields.sort_unstable();
    fields.iter().flat_map(|(name, value)| [name.as_bytes(), b":", value, b"\n"].concat()).collect()
}

/// `Idempotency-Key`, bare or as a structured-field string (draft-ietf-httpapi-idempotency-key-header).
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let bad = || {
        Problem::new(ProblemCode::IdempotencyKeyInvalid).at(
            "Idempotency-Key",
            "must be given once, 1-255 visible ASCII characters, in quotes also spaces",
        )
    };
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad());
    }
    let text = value.to_str().map_err(|_| bad())?.trim();
    let (key, spaces) = match text.strip_prefix('"') {
        Some(rest) => (unquote(rest).ok_or_else(bad)?, true),
        None => (text.to_owned(), false),
    };
    let taken = |b: u8| b.is_ascii_graphic() || (spaces && b == b' ');
    let sound = (1..=KEY_MAX).contains(&key.len()) && key.bytes().all(taken);
    if sound { Ok(Some(key)) } else { Err(bad()) }
}

/// What follows the opening quote of an sf-string (RFC 9651, 3.3.3), up to and with the closing one.
fn unquote(rest: &str) -> Option<String> {
    let body = rest.strip_suffix('"')?;
    let mut out = String::with_capacity(body.len());
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return None,
            '\\' => out.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            c => out.push(c),
        }
    }
    Some(out)
}

/// `traceparent` (W3C Trace Context, level 1): what is not sound counts as absent.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all("traceparent").iter();
    let text = values.next()?.to_str().ok()?.trim();
    let head = text.get(..55).filter(|_| values.next().is_none())?;
    let longer = text.len() > 55;
    let fields: Vec<&str> = head.split('-').collect();
    let [version, trace, span, flags] = fields[..] else { return None };
    let hex = |s: &str, n| s.len() == n && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |s: &str| s.bytes().all(|b| b == b'0');
    let sound = hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    // A later version may add fields behind a dash; version 00 may not, and ff is none.
    let tail = !longer || (version != "00" && text.as_bytes()[55] == b'-');
    (sound && tail && version != "ff" && !zero(trace) && !zero(span)).then(|| head.to_owned())
}

/// The preferences we honour (RFC 7240). Others are ignored, and so is what cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prefer {
    /// `respond-async`.
    pub respond_async: bool,
    /// `wait`, at most [`WAIT_MAX`] seconds.
    pub wait: Option<u32>,
}

impl Prefer {
    /// Reads every `Prefer` field; of a preference named twice the first counts.
    pub fn read(headers: &HeaderMap) -> Prefer {
        let mut prefer = Prefer::default();
        let fields = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        for preference in fields.flat_map(|field| field.split(',')) {
            let item = preference.split(';').next().unwrap_or_default();
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "respond-async" => prefer.respond_async = true,
                "wait" if prefer.wait.is_none() => prefer.wait = seconds(value),
                _ => {}
            }
        }
        prefer
    }

    /// How long to wait.
    pub fn patience(self) -> Duration {
        Duration::from_secs(self.wait.unwrap_or(0).into())
    }

    /// The `Preference-Applied` value; `asynchronous` if the answer is the 202.
    pub fn applied(self, asynchronous: bool) -> Option<HeaderValue> {
        let wait = self.wait.map(|seconds| format!("wait={seconds}"));
        let token = (self.respond_async && asynchronous).then(|| "respond-async".to_owned());
        let list: Vec<String> = [token, wait].into_iter().flatten().collect();
        if list.is_empty() { None } else { HeaderValue::from_str(&list.join(", ")).ok() }
    }
}

impl FromRequestParts<App> for Prefer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        Ok(Prefer::read(&parts.headers))
    }
}

fn seconds(value: &str) -> Option<u32> {
    let digits = value.trim().trim_matches('"').trim();
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // More digits than fit are still only "very long".
    plain.then(|| digits.parse().unwrap_or(WAIT_MAX).min(WAIT_MAX))
}

/// Whether a list of entity tags holds `etag` (RFC 9110, 13.1.1 and 13.1.2; weak comparison).
pub fn etag_matches(headers: &HeaderMap, name: HeaderName, etag: &str) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// Whether the request has an `If-None-Match`.
pub fn is_conditional(headers: &HeaderMap) -> bool {
    headers.contains_key(header::IF_NONE_MATCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, values: &[&[u8]]) -> HeaderMap {
        values.iter().map(|v| (name.parse().unwrap(), HeaderValue::from_bytes(v).unwrap())).collect()
    }

    #[test]
    fn prefer_takes_what_it_knows_and_ignores_the_rest() {
        let read = |values: &[&[u8]]| {
            let p = Prefer::read(&headers("prefer", values));
            (p.respond_async, p.wait)
        };
        assert_eq!(read(&[b"respond-async, wait=10"]), (true, Some(10)));
        assert_eq!(read(&[b"respond-async", b"wait=5"]), (true, Some(5)));
        assert_eq!(read(&[b"Wait = \"7\"; foo=bar, Respond-Async"]), (true, Some(7)));
        assert_eq!(read(&[b"wait=600"]), (false, Some(60)));
        assert_eq!(read(&[b"wait=99999999999999999999"]), (false, Some(60)));
        assert_eq!(read(&[b"wait=1, wait=2"]), (false, Some(1)));
        assert_eq!(read(&[b"wait=-1"]), (false, None));
        assert_eq!(read(&[b"wait=1.5, return=minimal, ,,"]), (false, None));
        assert_eq!(read(&[b"\xff\xfe"]), (false, None));
        let both = Prefer { respond_async: true, wait: Some(3) };
        assert_eq!(both.applied(true).unwrap(), "respond-async, wait=3");
        assert_eq!(both.applied(false).unwrap(), "wait=3");
        assert_eq!(Prefer::default().applied(true), None);
    }

    #[test]
    fn several_lines_of_a_list_are_one() {
        let read = |values: &[&[u8]]| list(&headers("callback-events", values), "Callback-Events").unwrap();
        let both = Some(vec!["job.completed".to_owned(), "job.failed".to_owned()]);
        assert_eq!(read(&[b"job.completed,job.failed"]), both);
        assert_eq!(read(&[b" job.completed , ", b"job.failed,"]), both);
        assert_eq!((read(&[]), read(&[b""])), (None, Some(vec![])));
    }

    #[test]
    fn a_misspelt_callback_field_is_named() {
        let of = |name| known_callback_fields(&headers(name, &[b"x"])).err();
        for (name, shown) in [("callback-uri", "Callback-Uri"), ("callback--a", "Callback--A")] {
            assert_eq!(of(name).unwrap().body(None).errors[0].pointer, shown);
        }
        assert!(of("callback-url").is_none() && of("callback").is_none() && of("queue").is_none());
    }

    #[test]
    fn an_idempotency_key_is_bare_or_quoted_and_both_spell_the_same() {
        let read = |values: &[&[u8]]| idempotency_key(&headers("idempotency-key", values)).ok().flatten();
        let long = vec![b'x'; 255];
        assert_eq!(read(&[b"abc"]).as_deref(), Some("abc"));
        assert_eq!(read(&[b"\"abc\""]).as_deref(), Some("abc"));
        assert_eq!(read(&[br#""a\"b\\c""#]).as_deref(), Some(r#"a"b\c"#));
        assert_eq!(read(&[b"\"two words\""]).as_deref(), Some("two words"));
        assert_eq!(read(&[&long]).map(|key| key.len()), Some(255));
        for bad in [&b""[..], b"\"\"", b"\"abc", b"a b", b"\"a\"b\"", b"\"a\\b\"", b"\xc3\xa9", &[b'x'; 256]]
        {
            assert!(idempotency_key(&headers("idempotency-key", &[bad])).is_err(), "{bad:?}");
        }
        assert!(idempotency_key(&headers("idempotency-key", &[b"a", b"a"])).is_err());
        assert!(idempotency_key(&HeaderMap::new()).unwrap().is_none());
    }

    #[test]
    fn only_a_sound_traceparent_is_kept() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let read = |text: &str| traceparent(&headers("traceparent", &[text.as_bytes()]));
        assert_eq!(read(good).as_deref(), Some(good));
        assert_eq!(read(&good.replacen("00", "cc", 1)).map(|t| t.len()), Some(55));
        assert_eq!(read(&format!("{}-more", good.replacen("00", "cc", 1))).map(|t| t.len()), Some(55));
        for bad in [
            "",
            "x",
            &format!("{good}-more"),
            &good.to_uppercase(),
            &good.replacen("00", "ff", 1),
            &good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &good.replace('-', "_"),
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn entity_tags_compare_weakly() {
        let hit = |list: &str| {
            etag_matches(&headers("if-none-match", &[list.as_bytes()]), header::IF_NONE_MATCH, "\"3.0\"")
        };
        assert!(hit("\"3.0\"") && hit("W/\"3.0\"") && hit("\"1.0\", \"3.0\"") && hit("*"));
        assert!(!hit("\"3.1\"") && !hit("3.0") && !hit(""));
    }

    #[test]
    fn the_fingerprint_holds_body_queue_and_callback_fields() {
        let head = |fields: &[u8], queue: Option<&str>| Head {
            key: Some("k".to_owned()),
            prefer: Prefer::default(),
            traceparent: None,
            callback_url: None,
            callback_events: None,
            queue: queue.map(str::to_owned),
            callback_fields: fields.to_vec(),
        };
        let print = |fields: &[u8], queue: Option<&str>, body: &[u8]| {
            head(fields, queue).idempotency("r", body).unwrap().fingerprint
        };
        assert_eq!(print(b"", None, b"{}"), print(b"", None, b"{}"));
        assert_ne!(print(b"", None, b"{}"), print(b"", None, b"{ }"));
        assert_ne!(print(b"", None, b"ab"), print(b"b", None, b"a"));
        assert_ne!(print(b"", None, b"{}"), print(b"", Some("q"), b"{}"));
    }
}
