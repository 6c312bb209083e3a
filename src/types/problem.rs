//! The problem table: every code the service answers with, its status and its title.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! problems {
    ($($name:ident $slug:literal $status:literal $title:literal),* $(,)?) => {
        /// What went wrong, in one word (`code` of the problem document).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ProblemCode {
            $(#[doc = $title] #[serde(rename = $slug)] $name,)*
        }

        impl ProblemCode {
            /// Every code, in the order of the contract.
            pub const ALL: &[ProblemCode] = &[$(ProblemCode::$name),*];

            /// The slug that stands in `code` and ends `type`.
            pub const fn slug(self) -> &'static str {
                match self { $(ProblemCode::$name => $slug),* }
            }

            /// The HTTP status (RFC 9110, section 15).
            pub const fn status(self) -> u16 {
                match self { $(ProblemCode::$name => $status),* }
            }

            /// A short text that never changes for one code (RFC 9457, section 3.1.3).
            pub const fn title(self) -> &'static str {
                match self { $(ProblemCode::$name => $title),* }
            }
        }

        // By hand: the derive does not see a rename that a macro writes.
        impl utoipa::PartialSchema for ProblemCode {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .enum_values(Some(Self::ALL.iter().map(|c| c.slug())))
                    .into()
            }
        }

        impl ToSchema for ProblemCode {}
    };
}

problems! {
    InvalidRequest "invalid-request" 400 "The request could not be read",
    ValidationFailed "validation-failed" 422 "A member breaks its rule",
    IdempotencyKeyInvalid "idempotency-key-invalid" 400 "The Idempotency-Key is malformed",
    IdempotencyInFlight "idempotency-in-flight" 409 "The first request with this Idempotency-Key is still running",
    IdempotencyKeyReused "idempotency-key-reused" 422 "The Idempotency-Key belongs to another request",
    Unauthorized "unauthorized" 401 "A valid key is required",
    Forbidden "forbidden" 403 "The key does not allow this",
    QuotaExceeded "quota-exceeded" 403 "A quota is used up",
    RateLimited "rate-limited" 429 "Too many requests",
    PayloadTooLarge "payload-too-large" 413 "The request body is too large",
    HeaderTooLarge "header-too-large" 431 "The request head is too large",
    UnsupportedMediaType "unsupported-media-type" 415 "The content type is not supported",
    UpgradeRequired "upgrade-required" 426 "Another version of the protocol is spoken here",
    NotAcceptable "not-acceptable" 406 "No representation fits the Accept header",
    MethodNotAllowed "method-not-allowed" 405 "The resource does not support this method",
    NotFound "not-found" 404 "There is no such resource",
    CallbackUrlInvalid "callback-url-invalid" 422 "The callback URL is malformed",
    CallbackUrlBlocked "callback-url-blocked" 422 "The callback URL is not allowed",
    JobNotFound "job-not-found" 404 "There is no such job",
    JobExpired "job-expired" 410 "The job is past its retention",
    JobAlreadyFinished "job-already-finished" 409 "The job has already ended",
    JobNotRetryable "job-not-retryable" 409 "The job cannot be retried in its state",
    ResultNotReady "result-not-ready" 409 "The job has no result yet",
    ResultTooLarge "result-too-large" 413 "The result is too large",
    JobFailed "job-failed" 409 "The job ended without a result",
    CursorExpired "cursor-expired" 410 "The cursor points behind the retention",
    RangeNotSatisfiable "range-not-satisfiable" 416 "The range lies outside the result",
    LeaseLost "lease-lost" 409 "The lease is lost",
    RequestTimeout "request-timeout" 408 "The request body did not arrive in time",
    ServiceOverloaded "service-overloaded" 503 "The service is overloaded",
    StorageUnavailable "storage-unavailable" 503 "The store does not answer",
    Internal "internal" 500 "Something went wrong inside the service",
}

/// A problem document (RFC 9457), `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemBody {
    /// A URI reference that names the code: `/problems/<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code's title; the same for every occurrence.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// What happened this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The slug to program against.
    pub code: ProblemCode,
    /// The members at fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The `Request-Id` of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// One member of the request that breaks its rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the request body, or `?name` / `Name` for a query or header field.
    pub pointer: String,
    /// The rule, in words.
    pub detail: String,
}

/// The reasons for which a request is refused before anything is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Invalid {
    /// `validation-failed` unless a more exact code fits.
    pub code: ProblemCode,
    /// One sentence for people.
    pub detail: String,
    /// The members at fault.
    pub errors: Vec<FieldError>,
}

impl Invalid {
    /// One member that breaks a rule.
    pub fn member(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::with(ProblemCode::ValidationFailed, pointer, detail)
    }

    /// One member that breaks a rule which has a code of its own.
    pub fn with(code: ProblemCode, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let (pointer, detail) = (pointer.into(), detail.into());
        let at = if pointer.is_empty() { "the body".to_owned() } else { pointer.clone() };
        Invalid { code, detail: format!("{at}: {detail}"), errors: vec![FieldError { pointer, detail }] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_the_contract() {
        // The contract's 31, and `upgrade-required`.
        assert_eq!(ProblemCode::ALL.len(), 32);
        for code in ProblemCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.slug());
            assert!((400..600).contains(&code.status()), "{code:?}");
            assert!(code.slug().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
        }
    }
}
