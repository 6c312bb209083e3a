//! A job's result: the worker's bytes, served so that no browser ever runs them.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use sha2::{Digest, Sha256};

use super::app::App;
use super::extract::{FromQuery, Params, Prefer, Query, Reader, Waiting, etag_matches};
use super::problem::Problem;
use crate::store::StoredResult;
use crate::types::JobId;
use crate::types::api::ending;
use crate::types::job::{Job, JobState};
use crate::types::problem::ProblemCode;

/// Only the capability may stand in the query.
pub struct ResultQuery;

impl FromQuery for ResultQuery {
    const NAMES: &'static [&'static str] = &["access_token"];
    fn from_params(_: &Params) -> Result<Self, Problem> {
        Ok(ResultQuery)
    }
}

/// Read a job's result.
///
/// The worker's bytes with its content type. One `Range` is honoured.
#[utoipa::path(get, path = "/v1/jobs/{jobId}/result", tag = "jobs", operation_id = "getResult",
    security(("apiKey" = ["jobs:read"]), ("accessToken" = []), ("accessTokenQuery" = [])),
    params(("jobId" = JobId, Path), ("Range" = Option<String>, Header), ("If-Range" = Option<String>, Header),
        ("If-None-Match" = Option<String>, Header), ("Prefer" = Option<String>, Header)),
    responses((status = 200, description = "The result", content_type = "*/*"),
        (status = 206, description = "A part of it", content_type = "*/*"),
        (status = 303, description = "The result is kept elsewhere"), (status = 304, description = "Not changed"),
        (status = 409, description = "result-not-ready, job-failed"),
        (status = 416, description = "range-not-satisfiable")))]
pub async fn get_result(
    State(app): State<App>,
    reader: Reader,
    _: Query<ResultQuery>,
    prefer: Prefer,
    waiting: Waiting,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    reader.pace(&app)?;
    let job = waiting.for_reader(&app, prefer, &reader, None::<fn(&Job) -> bool>).await?;
    ready(&app, &job).map_err(|refusal| applied(prefer, refusal))?;
    let stored = app.ask_job(app.store.job_result(reader.tenant(), reader.id, app.now())).await?;
    reader.sees(&stored.job)?;
    well_named(&reader, &stored.job)?;
    let mut response = serve(&stored, &method, &headers)?;
    if let Some(applied) = prefer.wait.and_then(|_| prefer.applied(false)) {
        response.headers_mut().insert(HeaderName::from_static("preference-applied"), applied);
    }
    Ok(response)
}

/// A file is served under the ending of its type or none: programs go by the ending, and run what it says.
fn well_named(reader: &Reader, job: &Job) -> Result<(), Problem> {
    let Some(content_type) = job.result_type.as_deref() else { return Ok(()) };
    match (reader.ending.as_deref(), ending(content_type)) {
        (None, _) => Ok(()),
        (Some(asked), Some(own)) if asked == own => Ok(()),
        (Some(_), _) => {
            Err(Problem::new(ProblemCode::NotFound).detail("the result has another ending, or none"))
        }
    }
}

/// A refusal after a wait says that there was one (RFC 7240, section 3).
fn applied(prefer: Prefer, refusal: Problem) -> Problem {
    let applied = prefer.wait.and_then(|_| prefer.applied(false));
    let refusal = refusal.header(header::VARY, HeaderValue::from_static("Authorization, Prefer"));
    applied.into_iter().fold(refusal, |refusal, applied| {
        refusal.header(HeaderName::from_static("preference-applied"), applied)
    })
}

/// Refuses a job that has no result, or none yet.
fn ready(app: &App, job: &Job) -> Result<(), Problem> {
    match job.state {
        JobState::Complete => Ok(()),
        JobState::Failed | JobState::Cancelled | JobState::Expired => {
            Err(Problem::new(ProblemCode::JobFailed).detail(job.error.clone().unwrap_or_default()))
        }
        JobState::Scheduled | JobState::Queued | JobState::Processing | JobState::Retrying => {
            Err(Problem::new(ProblemCode::ResultNotReady).retry_after(job.poll_after(app.now())))
        }
    }
}

fn serve(stored: &StoredResult, method: &Method, headers: &HeaderMap) -> Result<Response, Problem> {
    let missing = || Problem::new(ProblemCode::NotFound).detail("the job ended without a result");
    if let Some(location) = stored.job.result_url.as_deref() {
        let location = HeaderValue::from_str(location).map_err(|_| missing())?;
        let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response();
        harmless(response.headers_mut());
        return Ok(response);
    }
    let bytes = stored.bytes.clone().ok_or_else(missing)?;
    let digest = Sha256::digest(&bytes);
    let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&digest[..18]));
    if etag_matches(headers, header::IF_NONE_MATCH, &etag) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        guard(response.headers_mut(), &stored.job, &etag);
        return Ok(response);
    }
    // RFC 9110, 14.2: a range is asked of GET alone.
    let part = if method == Method::GET { part(headers, &etag, bytes.len())? } else { None };
    // RFC 9530: Repr-Digest tells of the whole, also in a partial answer, Content-Digest of what this answer
    // carries, which is nothing at HEAD. A `Want-...` is a wish; SHA-256 is what everyone reads.
    let carried = match part {
        _ if method == Method::HEAD => Sha256::digest(b""),
        Some((first, last)) => Sha256::digest(&bytes[first..=last]),
        None => digest,
    };
    let mut response = match part {
        None => Body::from(bytes).into_response(),
        Some(range) => partial(&bytes, range),
    };
    guard(response.headers_mut(), &stored.job, &etag);
    for (name, digest) in [("repr-digest", digest), ("content-digest", carried)] {
        if let Ok(value) = HeaderValue::from_str(&format!("sha-256=:{}:", STANDARD.encode(digest))) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

/// The fields that keep a worker's bytes from being taken for a page of ours.
fn guard(headers: &mut HeaderMap, job: &Job, etag: &str) {
    let content_type = job.result_type.as_deref().unwrap_or("application/octet-stream");
    let ending = ending(content_type).map(|e| format!(".{e}")).unwrap_or_default();
    let file = format!("attachment; filename=\"{}{ending}\"", job.id);
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_DISPOSITION, file.as_str()),
        (header::ETAG, etag),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    harmless(headers);
}

/// No page of ours, for nobody else, and another answer to who waits or is someone else.
fn harmless(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "sandbox"),
        (header::CACHE_CONTROL, "private, no-cache"),
        (header::VARY, "Authorization, Prefer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn partial(bytes: &Bytes, (first, last): (usize, usize)) -> Response {
    let shown = format!("bytes {first}-{last}/{}", bytes.len());
    let body = Body::from(bytes.slice(first..=last));
    (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, shown)], body).into_response()
}

/// The part that is asked for; None for the whole.
fn part(headers: &HeaderMap, etag: &str, len: usize) -> Result<Option<(usize, usize)>, Problem> {
    let Some(range) = headers.get(header::RANGE).and_then(|v| v.to_str().ok()) else { return Ok(None) };
    // RFC 9110, 13.1.5: a strong comparison, and a date never matches what has no Last-Modified.
    let stale = headers.get(header::IF_RANGE).is_some_and(|known| known.as_bytes() != etag.as_bytes());
    if stale {
        return Ok(None);
    }
    match one_range(range, len) {
        Range::Whole => Ok(None),
        Range::Part(first, last) => Ok(Some((first, last))),
        Range::Outside => {
            let size = HeaderValue::from_str(&format!("bytes */{len}"));
            let problem =
                Problem::new(ProblemCode::RangeNotSatisfiable).at("Range", "lies outside the result");
            Err(size.into_iter().fold(problem, |p, size| p.header(header::CONTENT_RANGE, size)))
        }
    }
}

/// What a `Range` asks of `len` bytes.
#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// No range that we honour (RFC 9110, 14.2 lets a server ignore it): other units, several, malformed.
    Whole,
    /// First and last byte, inclusive.
    Part(usize, usize),
    /// Nothing of it is there.
    Outside,
}

fn one_range(text: &str, len: usize) -> Range {
    let number = |digits: &str| match digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty() {
        true => Some(digits.parse::<usize>().unwrap_or(usize::MAX)),
        false => None,
    };
    let spec = text.split_once('=').filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"));
    let Some((first, last)) = spec.and_then(|(_, spec)| spec.trim().split_once('-')) else {
        return Range::Whole;
    };
    match (number(first), number(last)) {
        (None, Some(0)) if first.is_empty() => Range::Outside,
        (None, Some(tail)) if first.is_empty() && len > 0 => Range::Part(len.saturating_sub(tail), len - 1),
        (None, Some(_)) if first.is_empty() => Range::Outside,
        (Some(first), Some(last)) if first > last => Range::Whole,
        (Some(first), _) if first >= len && (last.is_empty() || number(last).is_some()) => Range::Outside,
        (Some(first), Some(last)) => Range::Part(first, last.min(len - 1)),
        (Some(first), None) if last.is_empty() => Range::Part(first, len - 1),
        (Some(_) | None, _) => Range::Whole,
    }
}

/// Read a job's result under its public name, with or without an ending.
#[utoipa::path(get, path = "/results/{file}", tag = "jobs", operation_id = "getResultFile",
    security(("apiKey" = ["jobs:read"]), ("accessToken" = []), ("accessTokenQuery" = [])),
    params(("file" = String, Path, description = "`{jobId}` or `{jobId}.{ext}`"),
        ("Range" = Option<String>, Header), ("If-Range" = Option<String>, Header),
        ("If-None-Match" = Option<String>, Header), ("Prefer" = Option<String>, Header)),
    responses((status = 200, description = "The result", content_type = "*/*"),
        (status = 206, description = "A part of it", content_type = "*/*"),
        (status = 303, description = "The result is kept elsewhere"), (status = 304, description = "Not changed"),
        (status = 409, description = "result-not-ready, job-failed"),
        (status = 416, description = "range-not-satisfiable")))]
pub async fn get_file(
    app: State<App>,
    reader: Reader,
    query: Query<ResultQuery>,
    prefer: Prefer,
    waiting: Waiting,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    get_result(app, reader, query, prefer, waiting, method, headers).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_honoured_and_oddities_give_the_whole() {
        for (text, want) in [
            ("bytes=0-4", Range::Part(0, 4)),
            ("bytes=5-", Range::Part(5, 9)),
            ("bytes=-3", Range::Part(7, 9)),
            ("bytes=-99", Range::Part(0, 9)),
            ("Bytes = 0-99", Range::Part(0, 9)),
            ("bytes=9-9", Range::Part(9, 9)),
            ("bytes=10-", Range::Outside),
            ("bytes=10-20", Range::Outside),
            ("bytes=99999999999999999999-", Range::Outside),
            ("bytes=-0", Range::Outside),
            ("bytes=0-1,3-4", Range::Whole),
            ("bytes=4-1", Range::Whole),
            ("bytes=a-b", Range::Whole),
            ("bytes=a-0", Range::Whole),
            ("bytes=-", Range::Whole),
            ("lines=0-1", Range::Whole),
            ("0-1", Range::Whole),
        ] {
            assert_eq!(one_range(text, 10), want, "{text}");
        }
        assert_eq!(one_range("bytes=0-", 0), Range::Outside);
        assert_eq!(one_range("bytes=-5", 0), Range::Outside);
    }

    #[test]
    fn if_range_with_another_tag_gives_the_whole() {
        let ask = |if_range: &'static str| {
            let fields = [(header::RANGE, "bytes=0-1"), (header::IF_RANGE, if_range)];
            let headers = fields.map(|(n, v)| (n, HeaderValue::from_static(v))).into_iter().collect();
            part(&headers, "\"a\"", 10).unwrap()
        };
        assert_eq!(ask("\"a\""), Some((0, 1)));
        assert_eq!(ask("\"b\""), None);
        assert_eq!(ask("W/\"a\""), None);
        assert_eq!(ask("Thu, 01 Jan 2026 00:00:00 GMT"), None);
    }
}
