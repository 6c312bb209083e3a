//! Every error answer is a problem document (RFC 9457), from one table of codes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use tokio::time::Instant;

use crate::store;
use crate::types::problem::{FieldError, Invalid, ProblemBody, ProblemCode};

/// The media type of an error answer.
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The most faults that one answer names.
const ERRORS_MAX: usize = 100;

/// An error on its way to the client.
#[derive(Debug, Clone)]
pub struct Problem {
    code: ProblemCode,
    detail: Option<String>,
    errors: Vec<FieldError>,
    retry_after: Option<u32>,
    headers: Vec<(http::HeaderName, HeaderValue)>,
}

impl Problem {
    /// The code alone; its title says all.
    pub fn new(code: ProblemCode) -> Problem {
        // RFC 9110, 10.2.3 and RFC 6585, 4: a client that is turned away is told when to come back.
        let retry_after = match code.status() {
            429 | 503 => Some(1),
            _ => None,
        };
        Problem { code, detail: None, errors: Vec::new(), retry_after, headers: Vec::new() }
    }

    /// What happened this time.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Problem {
        self.detail = Some(detail.into());
        self
    }

    /// One part of the request that is at fault: a JSON pointer, `?name` or a header's name.
    #[must_use]
    pub fn at(mut self, pointer: &str, rule: &str) -> Problem {
        self.detail.get_or_insert_with(|| format!("{pointer}: {rule}"));
        self.errors.push(FieldError { pointer: pointer.to_owned(), detail: rule.to_owned() });
        self
    }

    /// Whole seconds to wait.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Problem {
        self.retry_after = Some(seconds);
        self
    }

    /// One more field of the answer's head.
    #[must_use]
    pub fn header(mut self, name: http::HeaderName, value: HeaderValue) -> Problem {
        self.headers.push((name, value));
        self
    }

    /// No key, or one that is not valid.
    pub fn unauthorized(detail: &str) -> Problem {
        Problem::new(ProblemCode::Unauthorized)
            .detail(detail)
            .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"ringback\""))
    }

    /// A store error on a route that names a job.
    pub fn of_job(error: store::Error) -> Problem {
        let problem = Problem::from(error);
        if problem.code == ProblemCode::NotFound { Problem::new(ProblemCode::JobNotFound) } else { problem }
    }

    /// The same refusal one level down, as in a batch.
    #[must_use]
    pub fn below(mut self, parent: &str) -> Problem {
        for e in &mut self.errors {
            e.pointer = format!("{parent}{}", e.pointer);
        }
        if let Some(e) = self.errors.first() {
            self.detail = Some(format!("{}: {}", e.pointer, e.detail));
        }
        self
    }

    /// The first refusal with what all of them point at, [`ERRORS_MAX`] at the most. None if there is none.
    pub fn all<'a>(refusals: impl IntoIterator<Item = &'a Problem>) -> Option<Problem> {
        let mut refusals = refusals.into_iter();
        let mut first = refusals.next()?.clone();
        first.errors.extend(refusals.flat_map(|one| one.errors.iter().cloned()));
        first.errors.truncate(ERRORS_MAX);
        Some(first)
    }

    /// The same refusal where the options were given in the head instead of the body.
    #[must_use]
    pub fn in_option_headers(mut self) -> Problem {
        for e in &mut self.errors {
            let field = match e.pointer.as_str() {
                "/callbackUrl" | "/callback/url" => "Callback-Url",
                p if p.starts_with("/callback/events") => "Callback-Events",
                "/queue" => "Queue",
                _ => continue,
            };
            e.pointer = field.to_owned();
            self.detail = Some(format!("{field}: {}", e.detail));
        }
        self
    }

    /// What stands in `code`.
    pub fn code(&self) -> ProblemCode {
        self.code
    }

    /// Whether the same may go well in a moment: the store is silent or busy.
    pub fn is_passing(&self) -> bool {
        self.code.status() == 503
    }

    /// The document, as an entry of a batch's answer.
    pub fn body(self, request_id: Option<&str>) -> ProblemBody {
        ProblemBody {
            kind: format!("/problems/{}", self.code.slug()),
            title: self.code.title().to_owned(),
            status: self.code.status(),
            detail: self.detail,
            code: self.code,
            errors: self.errors,
            request_id: request_id.map(str::to_owned),
        }
    }
}

impl From<Invalid> for Problem {
    fn from(refusal: Invalid) -> Problem {
        let mut problem = Problem::new(refusal.code).detail(refusal.detail);
        problem.errors = refusal.errors;
        problem
    }
}

/// Says once a second what every request may say: when the store is away or the node is flooded, the log must not be too.
pub(super) struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    pub(super) const fn new() -> Seldom {
        Seldom(Mutex::new((None, 0)))
    }

    /// For how many requests to speak, those that were silent and this one; none if somebody has just spoken.
    pub(super) fn turn(&self) -> Option<u64> {
        self.turn_at(Instant::now())
    }

    fn turn_at(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, requests) = &mut *said;
        *requests += 1;
        if last.is_some_and(|at| now < at + Duration::from_secs(1)) {
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(requests))
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Problem {
        use store::Error as E;
        let code = match error {
            E::NotFound => ProblemCode::NotFound,
            E::Expired => ProblemCode::JobExpired,
            E::CursorExpired => ProblemCode::CursorExpired,
            E::LeaseLost => ProblemCode::LeaseLost,
            E::AlreadyFinished => ProblemCode::JobAlreadyFinished,
            E::NotRetryable => ProblemCode::JobNotRetryable,
            E::KeyReused => ProblemCode::IdempotencyKeyReused,
            E::KeyInFlight => return Problem::new(ProblemCode::IdempotencyInFlight).retry_after(1),
            E::Invalid(refusal) => return refusal.into(),
            E::TooManyRedrives(most) => {
                let detail = format!("{most} replays are running: stop one, or wait until one is done");
                return Problem::new(ProblemCode::RateLimited).detail(detail).retry_after(10);
            }
            E::Overloaded | E::Again | E::Locked(_) => ProblemCode::ServiceOverloaded,
            E::Down(why) => {
                static SAID: Seldom = Seldom::new();
                if let Some(requests) = SAID.turn() {
                    tracing::warn!(%why, requests, "the store does not answer");
                }
                ProblemCode::StorageUnavailable
            }
            E::Data(_) | E::Seal(_) | E::Newer { .. } | E::Older { .. } | E::Bug(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a store verb failed");
                ProblemCode::Internal
            }
        };
        Problem::new(code)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (retry_after, headers) = (self.retry_after, self.headers.clone());
        let body = self.body(None);
        let mut response = (status, Json(&body)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, PROBLEM_JSON);
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        for (name, value) in headers {
            response.headers_mut().insert(name, value);
        }
        // The outermost layer knows the request id and writes the document again with it.
        response.extensions_mut().insert(std::sync::Arc::new(body));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_request_says_is_said_once_a_second_for_all() {
        let (said, begin) = (Seldom::new(), Instant::now());
        let after = |ms| said.turn_at(begin + Duration::from_millis(ms));
        assert_eq!(after(0), Some(1), "the first at once");
        assert!((0..9).all(|n| after(n * 111).is_none()));
        assert_eq!((after(1_000), after(1_999)), (Some(10), None), "nine were silent");
        assert_eq!(after(60_000), Some(2));
    }

    #[test]
    fn what_is_ours_to_mend_is_not_told_to_the_client() {
        let shown = Problem::from(store::Error::Bug("column x".to_owned())).body(Some("r1"));
        assert_eq!((shown.status, shown.detail, shown.request_id.as_deref()), (500, None, Some("r1")));
        assert_eq!(shown.kind, "/problems/internal");
    }

    #[test]
    fn who_is_turned_away_is_told_when_to_come_back() {
        for code in ProblemCode::ALL {
            let response = Problem::new(*code).into_response();
            let told = response.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(told, matches!(code.status(), 429 | 503), "{code:?}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        }
    }

    #[test]
    fn a_missing_job_has_its_own_word() {
        assert_eq!(Problem::of_job(store::Error::NotFound).code(), ProblemCode::JobNotFound);
        assert_eq!(Problem::from(store::Error::NotFound).code(), ProblemCode::NotFound);
    }
}
