//! What a receiver repeats of the credentials that it was sent is not kept.

use bytes::Bytes;

use crate::types::delivery::Exchange;

/// Stands where a credential stood.
const HIDDEN: &str = "redacted";
/// What is shorter is no credential, and would be found everywhere.
const SHORT: usize = 6;

/// Takes the values of the extra headers that were `sent` out of an answer's headers and body.
pub(super) fn hide(exchange: &mut Exchange, sent: &[(String, String)]) {
    let secrets = secrets(sent);
    if secrets.is_empty() {
        return;
    }
    for (_, value) in &mut exchange.headers {
        for secret in &secrets {
            if value.contains(secret.as_str()) {
                *value = value.replace(secret.as_str(), HIDDEN);
            }
        }
    }
    let mut body = Vec::new();
    for secret in &secrets {
        let text = if body.is_empty() { &exchange.body[..] } else { &body[..] };
        if let Some(without) = without(text, secret.as_bytes()) {
            body = without;
        }
    }
    if !body.is_empty() {
        exchange.body = Bytes::from(body);
    }
}

/// The values, and the words of each: `Bearer` may be left out. Also as some JSON is written.
fn secrets(sent: &[(String, String)]) -> Vec<String> {
    let values = sent.iter().map(|(_, value)| value.as_str());
    let words = values.flat_map(|value| std::iter::once(value).chain(value.split_ascii_whitespace()));
    let mut secrets: Vec<String> = words
        .filter(|word| word.len() >= SHORT && !word.eq_ignore_ascii_case("bearer"))
        .flat_map(|word| [word.to_owned(), word.replace('/', "\\/")])
        .collect();
    // The longest first, or a part of it would be found before the whole.
    secrets.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    secrets.dedup();
    secrets
}

/// The text without the secret, or without the beginning of it where the text was cut off; None if it has neither.
fn without(text: &[u8], secret: &[u8]) -> Option<Vec<u8>> {
    let mut left = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let cut = rest.len() < secret.len() && rest.len() >= SHORT && secret.starts_with(rest);
        if cut || rest.starts_with(secret) {
            left.extend_from_slice(HIDDEN.as_bytes());
            at += secret.len();
        } else {
            left.push(text[at]);
            at += 1;
        }
    }
    (left != text).then_some(left)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::delivery::{Outcome, Phases};

    fn hidden(sent: &[(&str, &str)], header: &str, body: &str) -> (String, String) {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let sent: Vec<_> = sent.iter().map(own).collect();
        let mut exchange = Exchange {
            outcome: Outcome::Answered { status: 200, retry_after: None, abort: false },
            phases: Phases::default(),
            duration: Duration::ZERO,
            address: None,
            headers: vec![("x-echo".to_owned(), header.to_owned())],
            body: Bytes::from(body.to_owned()),
        };
        hide(&mut exchange, &sent);
        let body = String::from_utf8(exchange.body.to_vec()).unwrap();
        (exchange.headers.remove(0).1, body)
    }

    #[test]
    fn what_is_repeated_of_a_credential_is_hidden() {
        let key = [("authorization", "Bearer tok/en-123"), ("x-tenant", "eu")];
        for (header, body, want) in [
            ("Bearer tok/en-123", "{\"got\": \"Bearer tok/en-123\"}", "{\"got\": \"redacted\"}"),
            ("tok/en-123", "tok/en-123tok/en-123 eu", "redactedredacted eu"),
            ("redacted", "{\"got\": \"tok\\/en-123\"}", "{\"got\": \"redacted\"}"),
            ("redacted", "cut off: tok/en-", "cut off: redacted"),
        ] {
            assert_eq!(hidden(&key, header, body), ("redacted".to_owned(), want.to_owned()));
        }
        for body in ["", "tok/ a Bearer of eu", "en-123"] {
            assert_eq!(hidden(&key, "none", body), ("none".to_owned(), body.to_owned()));
        }
        assert_eq!(hidden(&[], "x", "Bearer"), ("x".to_owned(), "Bearer".to_owned()));
    }
}
