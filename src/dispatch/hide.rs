//! What a receiver repeats of the credentials that it was sent is not kept.

use bytes::Bytes;

use crate::types::delivery::Exchange;

/// Stands where a credential stood.
const HIDDEN: &str = "redacted";
/// What is shorter is no credential, and would be found everywhere.
const SHORT: usize = 6;
/// A value of more words is a text: only the whole of it is looked for, or thousands of them would be, in each answer.
const WORDS: usize = 8;

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
    let words = sent.iter().flat_map(|(_, value)| {
        let words = value.split_ascii_whitespace();
        let few = words.clone().count() <= WORDS;
        std::iter::once(value.as_str()).chain(words.filter(move |_| few))
    });
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
///
/// Each byte is looked at once (Knuth, Morris and Pratt): both the text and the secret may be made to look alike.
fn without(text: &[u8], secret: &[u8]) -> Option<Vec<u8>> {
    let falls = falls(secret);
    let (mut left, mut kept, mut known) = (Vec::new(), 0, 0);
    for (at, byte) in text.iter().enumerate() {
        known = further(secret, &falls, known, *byte);
        if known == secret.len() {
            left.extend_from_slice(&text[kept..at + 1 - known]);
            left.extend_from_slice(HIDDEN.as_bytes());
            (kept, known) = (at + 1, 0);
        }
    }
    if known >= SHORT {
        left.extend_from_slice(&text[kept..text.len() - known]);
        left.extend_from_slice(HIDDEN.as_bytes());
        kept = text.len();
    }
    left.extend_from_slice(&text[kept..]);
    (kept > 0).then_some(left)
}

/// How much of the secret the text ends with, after one more byte.
fn further(secret: &[u8], falls: &[usize], mut known: usize, byte: u8) -> usize {
    while known > 0 && secret[known] != byte {
        known = falls[known - 1];
    }
    known + usize::from(secret[known] == byte)
}

/// For each beginning of the secret, how much of the secret it ends with, but for the whole of it.
fn falls(secret: &[u8]) -> Vec<usize> {
    let mut falls = vec![0; secret.len()];
    for at in 1..secret.len() {
        falls[at] = further(secret, &falls, falls[at - 1], secret[at]);
    }
    falls
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

    #[test]
    fn what_looks_like_the_beginning_of_it_hides_nothing_else() {
        for (secret, body, want) in [
            ("aabaabaac", "aabaabaabaac", "aabredacted"),
            ("aabaabaac", "aabaabaacaabaabaac.", "redactedredacted."),
            ("aaaaaaaa", "aaaaaaaaaaaa", "redactedaaaa"),
            ("abcabcabd", "abcabcabcabca", "abcabcredacted"),
        ] {
            let (_, body) = hidden(&[("x-key", secret)], "", body);
            assert_eq!(body, want, "{secret}");
        }
    }

    #[test]
    fn a_text_is_one_secret_and_not_as_many_as_it_has_words() {
        let text = (0..700).map(|n| format!("w{n:05}")).collect::<Vec<_>>().join(" ");
        let nine = "second third-1 third-2 third-3 third-4 third-5 third-6 third-7 third-8";
        let sent = [("x-a".to_owned(), text.clone()), ("x-b".to_owned(), nine.to_owned())];
        assert_eq!(secrets(&sent), [text.as_str(), nine]);
        let (_, body) = hidden(&[("x-a", &text)], "", &format!("got {text}, w00001"));
        assert_eq!(body, "got redacted, w00001");
    }
}
