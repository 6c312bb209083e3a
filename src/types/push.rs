//! What a push worker's answer makes of its job: the pure decision.

use std::time::Duration;

use bytes::Bytes;

use super::api;
use super::content::{UNKNOWN_BYTES, is_media_type};
use super::delivery::{Exchange, Fault, Outcome as Answer, Phase};
use super::job::{Failure, Outcome};
use super::submit as rules;

/// The most characters of an answer that become the job's error.
const ERROR_MAX: usize = 4_000;

/// What follows from one request to a push worker.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// The answer is the result.
    Done(Outcome),
    /// The worker completes the job later with its lease token.
    Later,
    /// The attempt went wrong.
    Failed(Failure),
    /// The attempt took longer than it may: what follows is the clock's business.
    Overdue,
    /// Nothing was sent.
    Unsent,
}

/// Decides what one exchange makes of the job. `deadline` is what the attempt could take.
pub fn judge(exchange: &Exchange, deadline: Duration) -> Verdict {
    match exchange.outcome {
        Answer::Answered { status: 202, .. } => Verdict::Later,
        Answer::Answered { status: 200..=299, .. } if exchange.body.len() > api::RESULT_MAX => too_large(),
        Answer::Answered { status: 200..=299, .. } if is_encoded(exchange) => failed(
            "the push worker's answer has a Content-Encoding, though it was asked for none".to_owned(),
            "content-encoding",
            false,
            None,
        ),
        Answer::Answered { status: 200..=299, .. } => result(exchange),
        Answer::Answered { status, retry_after, .. } => refused(status, retry_after, &exchange.body),
        Answer::Failed(fault) if fault.unsent() => Verdict::Unsent,
        Answer::Failed(Fault::Timeout(_)) if exchange.duration >= deadline => Verdict::Overdue,
        Answer::Failed(fault) => unreachable_worker(fault),
    }
}

/// How long the whole queue waits because the worker asked for it.
pub fn slows_down(answer: &Answer) -> Option<Duration> {
    match answer {
        Answer::Answered { status: 429 | 503, retry_after, .. } => *retry_after,
        Answer::Answered { .. } | Answer::Failed(_) => None,
    }
}

/// Whether the worker cannot be spoken to, as opposed to a job that takes it too long; None says that
/// nobody knows. Where it is this node that has no room for a connection, the queue waits all the same.
pub fn is_away(answer: &Answer) -> Option<bool> {
    match answer {
        Answer::Answered { .. } => Some(false),
        // It was spoken to; one tenant's input that breaks it must not pause the queue of all.
        Answer::Failed(Fault::Reset | Fault::BadResponse | Fault::ResponseTooLarge) => None,
        Answer::Failed(Fault::LeaseRanOut | Fault::Unknown) => None,
        Answer::Failed(Fault::Timeout(phase)) => (*phase < Phase::Head).then_some(true),
        Answer::Failed(Fault::Dns | Fault::Connect | Fault::Tls(_) | Fault::Refused(_) | Fault::NoSocket) => {
            Some(true)
        }
    }
}

fn too_large() -> Verdict {
    failed(format!("the result is over {} bytes", api::RESULT_MAX), "result-too-large", false, None)
}

/// What is given out later says nothing of a coding (RFC 9110, section 8.4): nobody could read it.
fn is_encoded(exchange: &Exchange) -> bool {
    let mut codings = exchange.headers.iter().filter(|(name, _)| name == "content-encoding");
    codings.any(|(_, coding)| !coding.trim().eq_ignore_ascii_case("identity") && !coding.trim().is_empty())
}

/// The answer's bytes with their content type, which is given out again as it came.
fn result(exchange: &Exchange) -> Verdict {
    let done =
        |content_type: &str| Verdict::Done(Outcome::raw(content_type.to_owned(), exchange.body.clone()));
    let mut given = exchange.headers.iter().filter(|(name, _)| name == "content-type").map(|(_, text)| text);
    match (given.next(), given.next()) {
        _ if exchange.body.is_empty() => Verdict::Done(Outcome::json(Bytes::from_static(b"null"))),
        (None, _) => done(UNKNOWN_BYTES),
        (Some(text), None) if is_media_type(text) => done(text),
        (Some(_), _) => failed(
            "the Content-Type of the push worker's answer is not a media type".to_owned(),
            "content-type",
            false,
            None,
        ),
    }
}

fn refused(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Verdict {
    let text: String = String::from_utf8_lossy(body).trim().chars().take(ERROR_MAX).collect();
    let told = rules::said("", &text, ERROR_MAX).unwrap_or_default();
    let error = if told.is_empty() { format!("the push worker answered {status}") } else { told };
    let again = matches!(status, 408 | 429 | 500..=599);
    failed(error, &format!("http-{status}"), again, retry_after.filter(|_| again))
}

fn unreachable_worker(fault: Fault) -> Verdict {
    let why = match fault {
        // The class of the address is for the operator's log only.
        Fault::Refused(_) => "its address is not open to it".to_owned(),
        other => other.to_string(),
    };
    failed(format!("the push worker did not answer: {why}"), "worker-unreachable", true, None)
}

fn failed(error: String, code: &str, retryable: bool, wait: Option<Duration>) -> Verdict {
    let seconds = |d: Duration| u32::try_from(d.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX);
    Verdict::Failed(Failure {
        error,
        code: Some(code.to_owned()),
        retryable,
        retry_after_seconds: wait.map(seconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::delivery::Phases;
    use crate::types::target::AddrClass;

    const DEADLINE: Duration = Duration::from_secs(60);

    fn exchange(outcome: Answer, content_type: Option<&str>, body: &[u8]) -> Exchange {
        let headers = content_type.map(|text| ("content-type".to_owned(), text.to_owned()));
        Exchange {
            outcome,
            phases: Phases::default(),
            duration: Duration::from_secs(1),
            address: None,
            headers: headers.into_iter().collect(),
            body: body.to_vec().into(),
        }
    }

    fn answered(status: u16) -> Answer {
        Answer::Answered { status, retry_after: Some(Duration::from_millis(6_001)), abort: false }
    }

    fn failure(outcome: Answer, body: &[u8]) -> Failure {
        match judge(&exchange(outcome, None, body), DEADLINE) {
            Verdict::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_2xx_is_the_result_with_its_content_type() {
        for (content_type, body, want_type, want) in [
            (Some("application/json"), &b"{\"a\": 1}"[..], "application/json", &b"{\"a\": 1}"[..]),
            (Some("text/csv; charset=utf-8"), b"a,b", "text/csv; charset=utf-8", b"a,b"),
            (None, b"x", UNKNOWN_BYTES, b"x"),
            (Some("pdf"), b"", "application/json", b"null"),
        ] {
            let Verdict::Done(Outcome::Bytes { content_type, bytes, .. }) =
                judge(&exchange(answered(200), content_type, body), DEADLINE)
            else {
                panic!("{want_type}");
            };
            assert_eq!((content_type.as_str(), &bytes[..]), (want_type, want));
        }
        assert!(matches!(judge(&exchange(answered(202), None, b"x"), DEADLINE), Verdict::Later));
    }

    #[test]
    fn an_answer_of_no_media_type_is_no_result() {
        let mut twice = exchange(answered(200), Some("text/csv"), b"x");
        twice.headers.push(("content-type".to_owned(), "text/html".to_owned()));
        let wrong = ["pdf", "text/\u{fffd}", ""].map(|text| exchange(answered(200), Some(text), b"x"));
        for exchange in wrong.into_iter().chain([twice]) {
            let Verdict::Failed(failure) = judge(&exchange, DEADLINE) else { panic!("{exchange:?}") };
            assert_eq!((failure.code.as_deref(), failure.retryable), (Some("content-type"), false));
            assert!(failure.error.contains("Content-Type"), "{}", failure.error);
        }
    }

    #[test]
    fn an_encoded_answer_is_no_result() {
        let coded = |coding: &str| {
            let mut given = exchange(answered(200), Some("application/json"), b"x");
            given.headers.push(("content-encoding".to_owned(), coding.to_owned()));
            judge(&given, Duration::from_secs(60))
        };
        assert!(
            matches!(coded("gzip"), Verdict::Failed(f) if f.error.contains("Content-Encoding") && !f.retryable)
        );
        assert!(matches!(coded("identity"), Verdict::Done(_)));
    }

    #[test]
    fn a_result_that_does_not_fit_fails_the_job_for_good() {
        let fits = exchange(answered(200), None, &vec![0; api::RESULT_MAX]);
        assert!(matches!(judge(&fits, DEADLINE), Verdict::Done(_)));
        let over = failure(answered(200), &vec![0; api::RESULT_MAX + 1]);
        assert_eq!((over.code.as_deref(), over.retryable), (Some("result-too-large"), false));
    }

    #[test]
    fn only_408_429_and_5xx_are_tried_again() {
        for (status, again) in [
            (408, true),
            (429, true),
            (500, true),
            (503, true),
            (599, true),
            (101, false),
            (302, false),
            (400, false),
            (404, false),
            (410, false),
            (600, false),
        ] {
            let f = failure(answered(status), b"");
            let code = format!("http-{status}");
            assert_eq!((f.retryable, f.code), (again, Some(code)), "{status}");
            assert_eq!(f.error, format!("the push worker answered {status}"));
            assert_eq!(f.retry_after_seconds, again.then_some(7), "{status}");
        }
    }

    #[test]
    fn the_error_is_the_answer_cut_and_cleaned() {
        assert_eq!(failure(answered(422), b" no\x1b[31m data\n").error, "no\u{fffd}[31m data");
        assert_eq!(failure(answered(422), b"\xff").error, "\u{fffd}");
        let long = failure(answered(500), "\u{e4}".repeat(5_000).as_bytes()).error;
        assert_eq!(long.chars().count(), ERROR_MAX);
    }

    #[test]
    fn no_answer_is_tried_again_and_a_deadline_is_the_clocks() {
        for fault in [Fault::Dns, Fault::Connect, Fault::Reset, Fault::Timeout(Phase::Connect)] {
            let f = failure(Answer::Failed(fault), b"");
            assert_eq!((f.retryable, f.code.as_deref()), (true, Some("worker-unreachable")), "{fault:?}");
        }
        let inner = failure(Answer::Failed(Fault::Refused(AddrClass::Loopback)), b"");
        assert!(!inner.error.contains("loopback"), "{}", inner.error);
        let late = Exchange { duration: DEADLINE, ..exchange(answered(200), None, b"") };
        let late = Exchange { outcome: Answer::Failed(Fault::Timeout(Phase::Body)), ..late };
        assert!(matches!(judge(&late, DEADLINE), Verdict::Overdue));
        let unsent = exchange(Answer::Failed(Fault::LeaseRanOut), None, b"");
        assert!(matches!(judge(&unsent, DEADLINE), Verdict::Unsent));
    }

    #[test]
    fn only_429_and_503_slow_the_queue_and_only_silence_means_away() {
        let wait = Some(Duration::from_millis(6_001));
        assert_eq!([429, 503, 500, 200].map(|s| slows_down(&answered(s))), [wait, wait, None, None]);
        assert_eq!(is_away(&answered(500)), Some(false));
        assert_eq!(is_away(&Answer::Failed(Fault::Connect)), Some(true));
        assert_eq!(is_away(&Answer::Failed(Fault::Timeout(Phase::Connect))), Some(true));
        assert_eq!(is_away(&Answer::Failed(Fault::Timeout(Phase::Head))), None, "it may be the job");
        assert_eq!(is_away(&Answer::Failed(Fault::Reset)), None, "it may be the job");
        assert_eq!(is_away(&Answer::Failed(Fault::LeaseRanOut)), None);
        assert_eq!(
            is_away(&Answer::Failed(Fault::NoSocket)),
            Some(true),
            "there is no room for others either"
        );
    }
}
