//! What the head of a message says of the bytes behind it: their media type and their digest.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256, Sha512};

/// What is known of bytes without a content type (RFC 9110, 8.3).
pub const UNKNOWN_BYTES: &str = "application/octet-stream";
/// The longest content type that is given out again.
const MEDIA_TYPE_MAX: usize = 255;

/// Whether `text` is one media type (RFC 9110, 8.3.1) of visible ASCII, so that it can be given out as it came.
pub fn is_media_type(text: &str) -> bool {
    let essence = |text: &str| text.split_once('/').is_some_and(|(a, b)| is_token(a) && is_token(b));
    let (first, parameters) = text.split_once(';').map_or((text, None), |(a, b)| (a, Some(b)));
    text.len() <= MEDIA_TYPE_MAX
        && essence(first.trim_end_matches([' ', '\t']))
        && parameters.is_none_or(are_parameters)
}

/// RFC 9110, 5.6.6: what follows the first `;`. An empty parameter is none.
fn are_parameters(mut rest: &str) -> bool {
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        rest = match rest.strip_prefix(';') {
            Some(next) => {
                rest = next;
                continue;
            }
            None if rest.is_empty() => return true,
            None => match parameter(rest).map(|after| after.trim_start_matches([' ', '\t'])) {
                Some("") => return true,
                Some(after) if after.starts_with(';') => after,
                Some(_) | None => return false,
            },
        };
    }
}

/// What follows the parameter that `text` begins with.
fn parameter(text: &str) -> Option<&str> {
    let (name, value) = text.split_once('=')?;
    if !is_token(name) {
        return None;
    }
    match value.strip_prefix('"') {
        Some(quoted) => after_quoted(quoted),
        None => {
            let end = value.find([';', ' ', '\t']).unwrap_or(value.len());
            is_token(&value[..end]).then_some(&value[end..])
        }
    }
}

/// What follows the closing quote.
fn after_quoted(text: &str) -> Option<&str> {
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            '\t' | ' '..='~' if escaped => escaped = false,
            '"' => return Some(&text[i + 1..]),
            '\\' => escaped = true,
            '\t' | ' '..='~' => {}
            _ => return None,
        }
    }
    None
}

fn is_token(text: &str) -> bool {
    let tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(tchar)
}

/// The algorithm by which `bytes` are not what a `Content-Digest` (RFC 9530) says; None if they are, or if nothing
/// is said in `sha-256` or `sha-512`. What cannot be read in these is no match: the sender relies on it.
pub fn broken_digest(field: &str, bytes: &[u8]) -> Option<&'static str> {
    // Of a member named twice the last counts (RFC 9651, 3.2), so that each algorithm is worked through once.
    let said = |algorithm: &str| {
        let members = field.split(',').filter_map(|member| member.trim_matches([' ', '\t']).split_once('='));
        members.filter(|(name, _)| *name == algorithm).map(|(_, value)| value).next_back()
    };
    let wrong = |algorithm, digest: fn(&[u8]) -> Vec<u8>| {
        let value = said(algorithm)?.split(';').next()?.trim_end_matches([' ', '\t']);
        let given = value.strip_prefix(':').and_then(|v| v.strip_suffix(':')).map(|v| STANDARD.decode(v));
        let right = given.is_some_and(|given| given.is_ok_and(|given| given == digest(bytes)));
        (!right).then_some(algorithm)
    };
    wrong("sha-256", |bytes| Sha256::digest(bytes).to_vec())
        .or_else(|| wrong("sha-512", |bytes| Sha512::digest(bytes).to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_has_the_grammar_of_the_standard() {
        for good in [
            "text/csv",
            "application/vnd.api+json",
            "text/html;charset=utf-8",
            "text/html ; charset=\"utf-8\"\t;q=1",
            "text/html; a=\"x;\\\",y\"; b=c",
            "text/html;",
            "text/html;;; a=b;",
            "*/*",
        ] {
            assert!(is_media_type(good), "{good}");
        }
        for bad in [
            "",
            "pdf",
            "/",
            "text/",
            "/csv",
            "text/a/b",
            "te xt/csv",
            "text/ csv",
            " text/csv",
            "text/csv, text/html",
            "text/csv charset=utf-8",
            "text/csv; charset",
            "text/csv; =utf-8",
            "text/csv; charset=",
            "text/csv; charset =utf-8",
            "text/csv; charset= utf-8",
            "text/csv; a=\"open",
            "text/csv; a=\"x\\\"",
            "text/csv; a=\"x\"y",
            "text/csv; a=b c",
            "text/csv; a=\u{e4}",
            "text/csv; a=\"\u{e4}\"",
            "text/\u{fffd}",
            "text/csv\r\nX: y",
        ] {
            assert!(!is_media_type(bad), "{bad}");
        }
        assert!(is_media_type(&format!("text/{}", "x".repeat(250))));
        assert!(!is_media_type(&format!("text/{}", "x".repeat(251))));
    }

    #[test]
    fn a_digest_is_checked_where_its_algorithm_is_known() {
        let sha256 = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
        let sha512 = "sha-512=:m3HSJL1i83hdltRq0+o9czGb+8KJDKra4t/3JRlnPKcjI8PZm6XBHXx6zG4UuMXaDEZjR1wuXDre9G9zvN7AQw==:";
        let wrong = "sha-256=:AAAAul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
        for (field, broken) in [
            (String::new(), None),
            (sha256.to_owned(), None),
            (format!("{sha256};q=1"), None),
            (format!("{sha512},\t{sha256}"), None),
            (format!("{wrong}, {sha256}"), None),
            (format!("{sha256}, {wrong}"), Some("sha-256")),
            ("md5=:AAAA:, unixsum=:AAAA:".to_owned(), None),
            (sha512.replace("m3HS", "AAAA"), Some("sha-512")),
            ("sha-256=:????:".to_owned(), Some("sha-256")),
            (sha256.replace(':', ""), Some("sha-256")),
            ("sha-256=::".to_owned(), Some("sha-256")),
            ("sha-256=".to_owned(), Some("sha-256")),
        ] {
            assert_eq!(broken_digest(&field, b"hello"), broken, "{field}");
        }
    }
}
