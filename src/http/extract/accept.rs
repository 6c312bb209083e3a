//! In which of two forms a client wants events (RFC 9110, 12.5.1).

use http::{HeaderMap, header};

/// The forms of a job's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One page of them.
    Json,
    /// As they come (WHATWG HTML, server-sent events).
    Stream,
}

/// The form that `Accept` likes best; None if it takes neither.
///
/// Of two that it likes the same the one that it names is taken, then JSON.
pub fn negotiate(headers: &HeaderMap) -> Option<Form> {
    let fields = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<Range> = fields.flat_map(|field| field.split(',')).filter_map(Range::read).collect();
    if ranges.is_empty() {
        return Some(Form::Json);
    }
    let json = liking(&ranges, "application", "json");
    let stream = liking(&ranges, "text", "event-stream");
    match (json, stream) {
        ((0, _), (0, _)) => None,
        (json, stream) if stream > json => Some(Form::Stream),
        _ => Some(Form::Json),
    }
}

/// One media range with its weight in thousandths.
struct Range<'a> {
    kind: &'a str,
    subkind: &'a str,
    weight: u16,
}

impl<'a> Range<'a> {
    fn read(text: &'a str) -> Option<Range<'a>> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subkind) = parts.next()?.split_once('/')?;
        let weight = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| thousandths(value.trim()))
        });
        Some(Range { kind, subkind, weight: weight.unwrap_or(1_000) })
    }
}

/// `0`, `0.5`, `1.000`; what is no weight counts as the full one, as if it were not there.
fn thousandths(text: &str) -> u16 {
    let weight = text.parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(1.0);
    // In 0..=1000 by the line above.
    (weight * 1_000.0).round() as u16
}

/// The weight of a type by the range that fits it best, and how well that one fits.
fn liking(ranges: &[Range], kind: &str, subkind: &str) -> (u16, u8) {
    let fits = ranges.iter().filter_map(|range| {
        let exact = range.kind.eq_ignore_ascii_case(kind);
        let fit = match range.subkind {
            sub if exact && sub.eq_ignore_ascii_case(subkind) => 2,
            "*" if exact => 1,
            "*" if range.kind == "*" => 0,
            _ => return None,
        };
        Some((fit, range.weight))
    });
    let best = fits.max_by_key(|(fit, _)| *fit);
    best.map_or((0, 0), |(fit, weight)| (weight, fit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_that_is_liked_best_is_chosen() {
        let chosen = |accept: &str| {
            let value = http::HeaderValue::from_str(accept).unwrap();
            negotiate(&[(header::ACCEPT, value)].into_iter().collect())
        };
        assert_eq!(negotiate(&HeaderMap::new()), Some(Form::Json));
        for (accept, form) in [
            ("text/event-stream", Some(Form::Stream)),
            ("Text/Event-Stream;charset=utf-8", Some(Form::Stream)),
            ("text/event-stream, */*", Some(Form::Stream)),
            ("text/*", Some(Form::Stream)),
            ("application/json", Some(Form::Json)),
            ("application/json, text/event-stream", Some(Form::Json)),
            ("application/json;q=0.5, text/event-stream", Some(Form::Stream)),
            ("text/event-stream;q=0.2, application/json; q=0.3", Some(Form::Json)),
            ("text/event-stream;q=0.5, */*;q=0.1", Some(Form::Stream)),
            ("*/*", Some(Form::Json)),
            ("*/*, application/json;q=0", Some(Form::Stream)),
            ("*/*, text/event-stream;q=0", Some(Form::Json)),
            ("", Some(Form::Json)),
            ("text/html", None),
            ("text/event-stream;q=0", None),
            ("application/json;q=0, text/html", None),
            ("image/*", None),
        ] {
            assert_eq!(chosen(accept), form, "{accept}");
        }
    }
}
