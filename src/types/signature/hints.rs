//! Why a well-formed signature may not match: the usual mistakes, each one tried.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Secret, keyed};

/// A larger body is not searched: every guess is one more pass over it.
const MAX_BODY: usize = 1 << 20;
/// Indentation multiplies deep JSON; a guess that grows beyond this is dropped.
const MAX_GUESS: usize = 4 << 20;

/// The mistake that explains a mismatch: with it undone, the signature matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Hint {
    /// The text of the secret was the key.
    #[error("the secret's text was used undecoded; the key is the base64-decoded bytes after `whsec_`")]
    SecretNotDecoded,
    /// `timestamp.body` was signed.
    #[error("the webhook-id was left out; the signed text is `id.timestamp.body`")]
    WithoutId,
    /// The id was taken from where it stands in quotes.
    #[error("the webhook-id has quotes around it: that is the idempotency-key; take the webhook-id as it is")]
    QuotedId,
    /// `body` was signed.
    #[error("the body alone was signed; the signed text is `id.timestamp.body`")]
    BodyOnly,
    /// The signed text holds milliseconds.
    #[error("the timestamp was signed in milliseconds, the webhook-timestamp is in seconds")]
    Milliseconds,
    /// The body given here has a newline at its end that was not signed.
    #[error("a newline was added at the end of the body")]
    NewlineAdded,
    /// The body signed had a newline at its end.
    #[error("the newline at the end of the body was stripped")]
    NewlineStripped,
    /// CRLF became LF or the reverse.
    #[error("the body's line endings were changed (CRLF and LF)")]
    LineEndings,
    /// The same JSON in another layout.
    #[error("the JSON body was parsed and re-serialised; verify the raw bytes as they were received")]
    Reserialised,
    /// None of the above.
    #[error(
        "the body was changed or re-serialised, another secret signed it, or the webhook-id is another one (no common mistake explains it)"
    )]
    Unexplained,
}

/// What a refused webhook claims.
struct Claim<'a> {
    id: &'a str,
    timestamp: &'a str,
    tags: &'a [Vec<u8>],
}

impl Claim<'_> {
    /// Whether any of the signatures is the one of `parts`, run together.
    fn fits(&self, key: &Hmac<Sha256>, parts: &[&[u8]]) -> bool {
        let mac = parts.iter().fold(key.clone(), |mac, part| mac.chain_update(part));
        self.tags.iter().any(|tag| mac.clone().verify_slice(tag).is_ok())
    }

    fn fits_body(&self, key: &Hmac<Sha256>, body: &[u8]) -> bool {
        self.fits(key, &[self.id.as_bytes(), b".", self.timestamp.as_bytes(), b".", body])
    }
}

/// The first mistake which, undone, makes one of `tags` match.
pub(super) fn explain(secrets: &[Secret], id: &str, timestamp: &str, body: &[u8], tags: &[Vec<u8>]) -> Hint {
    if body.len() > MAX_BODY {
        return Hint::Unexplained;
    }
    let claim = Claim { id, timestamp, tags };
    for secret in secrets {
        if let Some(hint) = wrong_key(&claim, secret, body).or_else(|| wrong_text(&claim, secret, body)) {
            return hint;
        }
    }
    explain_body(body, |guess| secrets.iter().any(|secret| claim.fits_body(&secret.mac, guess)))
}

/// The first change of `body` which, undone, `fits`; of any scheme.
pub(super) fn explain_body(body: &[u8], fits: impl Fn(&[u8]) -> bool) -> Hint {
    if body.len() > MAX_BODY {
        return Hint::Unexplained;
    }
    // Guesses about the body are made once, then tried with each secret.
    body_guesses(body).into_iter().find(|(_, guess)| fits(guess)).map_or(Hint::Unexplained, |(hint, _)| hint)
}

fn wrong_key(claim: &Claim<'_>, secret: &Secret, body: &[u8]) -> Option<Hint> {
    let whole = Zeroizing::new(secret.reveal());
    let bare = Zeroizing::new(STANDARD.encode(secret.bytes()));
    [whole, bare]
        .iter()
        .any(|text| claim.fits_body(&keyed(text.as_bytes()), body))
        .then_some(Hint::SecretNotDecoded)
}

fn wrong_text(claim: &Claim<'_>, secret: &Secret, body: &[u8]) -> Option<Hint> {
    let (id, timestamp) = (claim.id.as_bytes(), claim.timestamp.as_bytes());
    let bare = claim.id.trim_matches('"').as_bytes();
    let texts: [(Hint, &[&[u8]]); 4] = [
        (Hint::QuotedId, &[bare, b".", timestamp, b".", body]),
        (Hint::WithoutId, &[timestamp, b".", body]),
        (Hint::BodyOnly, &[body]),
        (Hint::Milliseconds, &[id, b".", timestamp, b"000.", body]),
    ];
    texts.into_iter().find(|(_, parts)| claim.fits(&secret.mac, parts)).map(|(hint, _)| hint)
}

/// Bodies that the sender may have signed, if `body` is what became of them.
fn body_guesses(body: &[u8]) -> Vec<(Hint, Vec<u8>)> {
    let mut guesses = vec![
        (Hint::NewlineStripped, [body, b"\n"].concat()),
        (Hint::NewlineStripped, [body, b"\r\n"].concat()),
    ];
    if let Some(cut) = body.strip_suffix(b"\n") {
        guesses.push((Hint::NewlineAdded, cut.to_vec()));
        guesses.push((Hint::NewlineAdded, cut.strip_suffix(b"\r").unwrap_or(cut).to_vec()));
    }
    if let Ok(text) = std::str::from_utf8(body) {
        let unix = text.replace("\r\n", "\n");
        guesses.push((Hint::LineEndings, unix.replace('\n', "\r\n").into_bytes()));
        guesses.push((Hint::LineEndings, unix.into_bytes()));
        guesses.extend(json_guesses(text).into_iter().map(|guess| (Hint::Reserialised, guess.into_bytes())));
    }
    guesses
}

/// The usual layouts of the JSON in `text`; none if it is not JSON of sane depth.
fn json_guesses(text: &str) -> Vec<String> {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else {
        return Vec::new();
    };
    // Python's default, then what `JSON.stringify` and pretty printers write.
    let layouts = [(", ", ": ", None), (",", ":", None), (",", ": ", Some(2)), (",", ": ", Some(4))];
    let mut guesses: Vec<String> = layouts
        .into_iter()
        .filter_map(|(comma, colon, indent)| lay_out(text, comma, colon, indent))
        .collect();
    // Unlike the layouts above these undo `\u` escapes too, the second other spellings of numbers and another order.
    guesses.push(tokens(text).map(unescaped).collect());
    guesses.push(value.to_string());
    guesses
}

/// Valid JSON with its white space replaced and every token kept; `None` if it grows too large.
fn lay_out(json: &str, comma: &str, colon: &str, indent: Option<usize>) -> Option<String> {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0usize;
    let mut after_open = false;
    let break_line = |out: &mut String, depth: usize| {
        if let Some(width) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    for token in tokens(json) {
        let closes = matches!(token, "}" | "]");
        depth = depth.saturating_sub(usize::from(closes));
        // An empty object or array stays on its line.
        if after_open != closes {
            break_line(&mut out, depth);
        }
        after_open = matches!(token, "{" | "[");
        depth += usize::from(after_open);
        match token {
            "," => {
                out.push_str(comma);
                break_line(&mut out, depth);
            }
            ":" => out.push_str(colon),
            other => out.push_str(other),
        }
        if out.len() > MAX_GUESS {
            return None;
        }
    }
    Some(out)
}

/// The tokens of valid JSON, strings with their quotes.
fn tokens(json: &str) -> impl Iterator<Item = &str> {
    let mut rest = json.trim_ascii_start();
    std::iter::from_fn(move || {
        let end = match rest.bytes().next()? {
            b'"' => string_end(rest),
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            _ => rest.find(|c: char| c.is_ascii_whitespace() || "{}[],:".contains(c)).unwrap_or(rest.len()),
        };
        let (token, tail) = rest.split_at(end);
        rest = tail.trim_ascii_start();
        Some(token)
    })
}

/// A string literal with nothing escaped but what must be; any other token as it is.
fn unescaped(token: &str) -> Cow<'_, str> {
    let text = token.starts_with('"').then(|| serde_json::from_str::<String>(token).ok()).flatten();
    let plain = text.and_then(|text| serde_json::to_string(&text).ok());
    plain.map_or(Cow::Borrowed(token), Cow::Owned)
}

/// The length of the string literal that `text` begins with.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_agree_with_the_usual_printers() {
        let value = serde_json::json!({"a": [], "b": {}, "c": [1, {"d": "x, \"y\": {\\"}], "e": "Zoë"});
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let compact = value.to_string();
        assert_eq!(lay_out(&pretty, ",", ":", None).as_ref(), Some(&compact));
        assert_eq!(lay_out(&compact, ",", ": ", Some(2)), Some(pretty));
        assert_eq!(lay_out("[ 1 ,2]", ", ", ": ", None).as_deref(), Some("[1, 2]"));
    }

    #[test]
    fn deep_or_broken_json_is_not_searched() {
        assert!(json_guesses(&"[".repeat(100_000)).is_empty());
        let wide = format!("{}{}1{}", "[".repeat(100), "1,".repeat(100_000), "]".repeat(100));
        assert_eq!(lay_out(&wide, ",", ": ", Some(4)), None);
        assert_eq!(json_guesses(&wide).len(), 4, "the wide layouts are dropped");
    }
}
