//! CloudEvents 1.0 over HTTP, binary content mode: the text of an attribute as a header's value.

use std::fmt::Write as _;

/// The value of a `ce-` header (HTTP protocol binding 1.0.2, 3.1.3.2).
///
/// Space, `"`, `%` and whatever is not printable ASCII become `%XX`, byte by byte of UTF-8; a receiver decodes once.
pub fn header_value(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut value, byte| {
        if byte.is_ascii_graphic() && byte != b'"' && byte != b'%' {
            value.push(char::from(byte));
        } else {
            let _ = write!(value, "%{byte:02X}");
        }
        value
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_binding_names_is_encoded() {
        // The first two are the specification's own.
        for (text, value) in [
            ("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
            ("%", "%25"),
            ("https://jobs.example.com/a?b=c#d,e;f'(~)", "https://jobs.example.com/a?b=c#d,e;f'(~)"),
            ("https://x/%C3%BC", "https://x/%25C3%25BC"),
            ("a \"b\"\r\n\u{7f}\t", "a%20%22b%22%0D%0A%7F%09"),
            ("job.completed", "job.completed"),
            ("", ""),
        ] {
            assert_eq!(header_value(text), value);
        }
    }
}
