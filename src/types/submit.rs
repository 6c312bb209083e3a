//! From what a client asked for to a job that may be stored: every rule of the request, checked once.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use super::api::{self, SubmitJob};
use super::job::{Callback, CallbackSecrets, Idempotency, JobEvent, NewJob, WorkerKind};
use super::key::LeaseToken;
use super::problem::{Invalid, ProblemCode};
use super::retry::RetryPolicy;
use super::signature::Secret;
use super::target::{CallbackUrl, UrlPolicy};
use super::{EndpointId, JobId, Millis, TenantId};

/// The queue of a job that names none.
pub const DEFAULT_QUEUE: &str = "default";
/// How far ahead `runAt` may lie.
const RUN_AT_MAX: Duration = Duration::from_secs(30 * 86_400);
/// How far ahead `deadlineAt` and a callback's `expiresAt` may lie.
const DEADLINE_MAX: Duration = Duration::from_secs(365 * 86_400);
/// The most bytes `metadata` and `context` may have as JSON text.
const NOTE_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 20;

/// What the check needs to know beside the request.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// The present instant.
    pub now: Millis,
    /// Where callbacks may go.
    pub policy: &'a UrlPolicy,
    /// The URLs of those standing endpoints that the request names and may name.
    pub endpoints: &'a BTreeMap<EndpointId, String>,
}

/// What the service itself adds to a checked request.
pub struct Stamp {
    /// Minted for it.
    pub id: JobId,
    /// From the key.
    pub tenant: TenantId,
    /// From the request head (W3C Trace Context).
    pub traceparent: Option<String>,
    /// Learned.
    pub estimated_seconds: u32,
    /// The random half of an external job's first lease token.
    pub lease: LeaseToken,
    /// Recognises a repeated request.
    pub idempotency: Option<Idempotency>,
}

type Checked<T> = Result<T, Invalid>;

fn refuse<T>(pointer: &str, detail: impl Into<String>) -> Checked<T> {
    Err(Invalid::member(pointer, detail))
}

/// Checks a request against `rules` and makes the job of it.
///
/// The first broken rule is reported, with the JSON pointer of its member.
pub fn check(wish: SubmitJob, rules: &Rules<'_>, stamp: Stamp) -> Checked<NewJob> {
    kind(&wish.kind)?;
    let queue = wish.queue.unwrap_or_else(|| DEFAULT_QUEUE.to_owned());
    name("/queue", &queue, 64)?;
    optional_text("/ref", wish.reference.as_deref(), 255)?;
    let priority = range("/priority", wish.priority, 0, -2..=2)?;
    let timeout_seconds = range("/timeoutSeconds", wish.timeout_seconds, 600, 1..=86_400)?;
    let max_attempts = range("/maxAttempts", wish.max_attempts, 3, 1..=100)?;
    let retain_seconds = range("/retainSeconds", wish.retain_seconds, 604_800, 60..=2_592_000)?;
    let worker = wish.worker.unwrap_or(WorkerKind::Pull);
    // Its one holder does it, and there is no queue to go back to.
    let max_attempts = if worker == WorkerKind::External { 1 } else { max_attempts };
    let lease_seconds = lease(worker, wish.lease_seconds)?;
    times(rules.now, worker, wish.run_at, wish.deadline_at)?;
    let metadata = metadata(wish.metadata)?;
    let (callback, secrets) = callback(wish.callback_url, wish.callback, rules)?;
    Ok(NewJob {
        id: stamp.id,
        tenant: stamp.tenant,
        kind: wish.kind,
        queue,
        reference: wish.reference,
        priority,
        worker,
        input: wish.input.map_or_else(|| "null".to_owned(), |json| json.get().to_owned()),
        callback,
        secrets,
        run_at: wish.run_at,
        deadline_at: wish.deadline_at,
        timeout_seconds,
        max_attempts,
        lease_seconds,
        metadata,
        retain_seconds,
        traceparent: stamp.traceparent,
        estimated_seconds: stamp.estimated_seconds,
        lease: (worker == WorkerKind::External).then_some(stamp.lease),
        idempotency: stamp.idempotency,
    })
}

/// The type of a job.
pub fn kind(text: &str) -> Checked<()> {
    name("/type", text, 128)
}

/// A type or queue name: `[A-Za-z0-9][A-Za-z0-9._:-]*`, at most `max` characters.
pub fn name(pointer: &str, text: &str, max: usize) -> Checked<()> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    let head = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if head && text.len() <= max && text.bytes().all(inner) {
        return Ok(());
    }
    refuse(pointer, format!("must be 1-{max} characters of A-Za-z0-9._:- and start with a letter or digit"))
}

/// Text for people: at most `max` characters, without control characters but tab and line ends.
pub fn text(pointer: &str, text: &str, max: usize) -> Checked<()> {
    if text.chars().count() > max {
        return refuse(pointer, format!("must have at most {max} characters"));
    }
    if text.chars().any(bare_control) {
        return refuse(pointer, "must not hold control characters");
    }
    Ok(())
}

/// What a worker says, at most `max` characters; U+FFFD stands for what [`text`] would refuse.
///
/// A worker passes on what programs print, colours included. Refusing that would cost it the report.
pub fn said(pointer: &str, text: &str, max: usize) -> Checked<String> {
    if text.chars().count() > max {
        return refuse(pointer, format!("must have at most {max} characters"));
    }
    Ok(text.chars().map(|c| if bare_control(c) { char::REPLACEMENT_CHARACTER } else { c }).collect())
}

fn bare_control(c: char) -> bool {
    c.is_control() && !matches!(c, '\t' | '\n' | '\r')
}

/// [`text`], if there is any.
pub fn optional_text(pointer: &str, given: Option<&str>, max: usize) -> Checked<()> {
    given.map_or(Ok(()), |given| text(pointer, given, max))
}

/// The given number, or `usual`; refused outside `allowed`.
pub fn range<T: PartialOrd + std::fmt::Display + Copy>(
    pointer: &str,
    given: Option<T>,
    usual: T,
    allowed: std::ops::RangeInclusive<T>,
) -> Checked<T> {
    match given {
        None => Ok(usual),
        Some(n) if allowed.contains(&n) => Ok(n),
        Some(_) => refuse(pointer, format!("must be between {} and {}", allowed.start(), allowed.end())),
    }
}

fn lease(worker: WorkerKind, given: Option<u32>) -> Checked<u32> {
    match (worker, given) {
        (WorkerKind::Pull, Some(_)) => refuse("/leaseSeconds", "is only taken with worker \"external\""),
        (WorkerKind::Pull, None) => Ok(0),
        (WorkerKind::External, given) => range("/leaseSeconds", given, 3_600, 1..=86_400),
    }
}

fn times(now: Millis, worker: WorkerKind, run_at: Option<Millis>, deadline: Option<Millis>) -> Checked<()> {
    if run_at.is_some_and(|at| at > now.plus(RUN_AT_MAX)) {
        return refuse("/runAt", "must be within 30 days");
    }
    if run_at.is_some_and(|at| at > now) && worker == WorkerKind::External {
        return refuse("/runAt", "cannot be given with worker \"external\", which starts at once");
    }
    let Some(deadline) = deadline else { return Ok(()) };
    if deadline <= now {
        return refuse("/deadlineAt", "lies in the past");
    }
    if deadline > now.plus(DEADLINE_MAX) {
        return refuse("/deadlineAt", "must be within 365 days");
    }
    if run_at.is_some_and(|at| at >= deadline) {
        return refuse("/deadlineAt", "must be after runAt");
    }
    Ok(())
}

fn metadata(given: Option<api::Json>) -> Checked<String> {
    let text = given.map_or_else(|| "{}".to_owned(), |json| json.get().to_owned());
    if !text.starts_with('{') {
        return refuse("/metadata", "must be an object");
    }
    if text.len() > NOTE_MAX {
        return refuse("/metadata", format!("must be at most {NOTE_MAX} bytes of JSON"));
    }
    Ok(text)
}

/// Where the reply goes, from either form.
fn callback(
    short: Option<String>,
    long: Option<api::Callback>,
    rules: &Rules<'_>,
) -> Checked<(Option<Callback>, CallbackSecrets)> {
    match (short, long) {
        (None, None) => Ok((None, CallbackSecrets::default())),
        (Some(_), Some(_)) => refuse("/callback", "cannot be given together with callbackUrl"),
        (Some(raw), None) => {
            let callback = Callback {
                url: url("/callbackUrl", &raw, rules.policy)?,
                endpoint_id: None,
                wants: JobEvent::ends(),
                payload: None,
                format: None,
                context: None,
                expires_at: None,
                failure_url: None,
                retry: RetryPolicy::default(),
            };
            Ok((Some(callback), CallbackSecrets::default()))
        }
        (None, Some(long)) => long_callback(long, rules).map(|(callback, secrets)| (Some(callback), secrets)),
    }
}

fn long_callback(long: api::Callback, rules: &Rules<'_>) -> Checked<(Callback, CallbackSecrets)> {
    let to = receiver(&long, rules)?;
    let retry = long.retry.unwrap_or_default();
    retry.check().map_err(|(member, rule)| Invalid::member(format!("/callback/retry/{member}"), rule))?;
    expiry(long.expires_at, rules.now)?;
    if long.context.as_ref().is_some_and(|json| json.get().len() > NOTE_MAX) {
        return refuse("/callback/context", format!("must be at most {NOTE_MAX} bytes of JSON"));
    }
    let failure_url =
        long.failure_url.map(|raw| url("/callback/failureUrl", &raw, rules.policy)).transpose()?;
    let callback = Callback {
        url: to,
        endpoint_id: long.endpoint_id,
        wants: long.events.map_or(Ok(JobEvent::ends()), |names| wants("/callback/events", &names))?,
        payload: long.payload,
        format: long.format,
        context: long.context,
        expires_at: long.expires_at,
        failure_url,
        retry,
    };
    Ok((
        callback,
        CallbackSecrets {
            secret: secret(long.secret)?,
            headers: headers("/callback/headers", long.headers)?,
        },
    ))
}

/// Where a callback goes; a standing endpoint takes the place of URL, secret and policy.
fn receiver(long: &api::Callback, rules: &Rules<'_>) -> Checked<String> {
    let Some(id) = long.endpoint_id else {
        let raw = long.url.as_deref();
        return raw.map_or_else(
            || refuse("/callback/url", "is required"),
            |raw| url("/callback/url", raw, rules.policy),
        );
    };
    let given =
        [("url", long.url.is_some()), ("secret", long.secret.is_some()), ("retry", long.retry.is_some())];
    if let Some((member, _)) = given.into_iter().find(|(_, given)| *given) {
        return refuse(&format!("/callback/{member}"), "cannot be given together with endpointId");
    }
    match rules.endpoints.get(&id) {
        Some(url) => Ok(url.clone()),
        None => refuse("/callback/endpointId", "there is no such endpoint"),
    }
}

fn expiry(at: Option<Millis>, now: Millis) -> Checked<()> {
    match at {
        Some(at) if at <= now => refuse("/callback/expiresAt", "lies in the past"),
        Some(at) if at > now.plus(DEADLINE_MAX) => refuse("/callback/expiresAt", "must be within 365 days"),
        Some(_) | None => Ok(()),
    }
}

fn secret(given: Option<String>) -> Checked<Option<String>> {
    let Some(text) = given else { return Ok(None) };
    let parsed = Secret::parse(&text).map_err(|e| Invalid::member("/callback/secret", e.to_string()))?;
    Ok(Some(parsed.reveal()))
}

/// A callback URL in its normalised form; a refusal names the rule.
pub fn url(pointer: &str, raw: &str, policy: &UrlPolicy) -> Checked<String> {
    CallbackUrl::check(raw, policy).map(|url| url.as_str().to_owned()).map_err(|refusal| {
        let code = match refusal.is_blocked() {
            true => ProblemCode::CallbackUrlBlocked,
            false => ProblemCode::CallbackUrlInvalid,
        };
        Invalid::with(code, pointer, refusal.to_string())
    })
}

/// The bits of the named events; `pointer` is that of the list.
pub fn wants(pointer: &str, names: &[String]) -> Checked<i64> {
    if names.is_empty() {
        return refuse(pointer, "must name at least one event");
    }
    names.iter().enumerate().try_fold(0, |set, (i, name)| match JobEvent::from_word(name) {
        Some(event) => Ok(set | event.bit()),
        None => {
            let words: Vec<_> = JobEvent::ALL.iter().map(|event| event.as_str()).collect();
            refuse(&format!("{pointer}/{i}"), format!("must be one of {}", words.join(", ")))
        }
    })
}

/// Names that HTTP, the signature or Ringback itself uses.
const RESERVED: [&str; 22] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
    "content-type",
    "content-encoding",
    "content-digest",
    "signature",
    "signature-input",
    "user-agent",
    "via",
    "forwarded",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "stripe-signature",
    "x-hub-signature-256",
];
const RESERVED_PREFIXES: [&str; 5] = ["proxy-", "webhook-", "x-forwarded-", "ringback-", "ce-"];

/// Headers that a callback or an endpoint adds, their names in lower case; `at` is the pointer of their object.
pub fn headers(at: &str, given: Option<BTreeMap<String, String>>) -> Checked<Vec<(String, String)>> {
    let given = given.unwrap_or_default();
    if given.len() > HEADERS_MAX {
        return refuse(at, format!("must have at most {HEADERS_MAX} members"));
    }
    let mut out: Vec<(String, String)> = Vec::with_capacity(given.len());
    for (name, value) in given {
        let pointer = format!("{at}/{}", escape(&name));
        let lower = name.to_ascii_lowercase();
        header(&pointer, &lower, &value)?;
        if out.iter().any(|(known, _)| *known == lower) {
            return refuse(&pointer, "is given twice in different case");
        }
        out.push((lower, value));
    }
    Ok(out)
}

fn header(pointer: &str, lower: &str, value: &str) -> Checked<()> {
    if lower.len() > 128 || http::HeaderName::from_bytes(lower.as_bytes()).is_err() {
        return refuse(pointer, "is not the name of a header field");
    }
    let reserved =
        RESERVED.contains(&lower) || RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
    if reserved {
        return refuse(pointer, "is a header field that Ringback or HTTP itself uses");
    }
    if value.len() > 4_096 || !value.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
        return refuse(pointer, "must have a value of at most 4096 visible ASCII characters and spaces");
    }
    Ok(())
}

/// One reference token of a JSON pointer (RFC 6901, section 3).
pub fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

/// A worker's result URL in its normalised form; the client follows it, the service never does.
///
/// So it may lead to any host, and have a fragment (RFC 9110, section 10.2.2).
pub fn result_url(pointer: &str, raw: &str) -> Checked<String> {
    if raw.len() > 2_048 {
        return refuse(pointer, "must have at most 2048 bytes");
    }
    if raw.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return refuse(pointer, "must not hold blanks, control characters and backslashes");
    }
    let web =
        url::Url::parse(raw).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    match web {
        None => refuse(pointer, "must be an absolute http or https URL"),
        Some(url) if !url.username().is_empty() || url.password().is_some() => {
            refuse(pointer, "must not hold a user name or password")
        }
        Some(url) => Ok(url.into()),
    }
}
