//! Query parameters: a name that is unknown, given twice or not readable is refused with `?name`.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use http::{HeaderValue, Uri};

use crate::http::app::App;
use crate::http::problem::Problem;
use crate::store::{Found, PageOf};
use crate::types::api::{Page, Urls};
use crate::types::id::Kind;
use crate::types::problem::ProblemCode;
use crate::types::{Id, Millis};

const LIMIT: u32 = 50;
const LIMIT_MAX: u32 = 200;

/// The decoded parameters of one request.
#[derive(Debug)]
pub struct Params(Vec<(String, String)>);

fn bad(name: &str, rule: &str) -> Problem {
    Problem::new(ProblemCode::InvalidRequest).at(&format!("?{name}"), rule)
}

/// What the language's own parsers say, in people's words.
fn in_words(error: &str) -> &str {
    match error {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "must be a whole number"
        }
        "number too large to fit in target type" => "is too large",
        "number too small to fit in target type" => "is too small",
        "provided string was not `true` or `false`" => "must be true or false",
        ours => ours,
    }
}

impl Params {
    /// Only `names` may occur, and each once.
    pub fn read(query: Option<&str>, names: &[&str]) -> Result<Params, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let shown: String = name.chars().take(64).collect();
            if !names.contains(&name.as_ref()) {
                return Err(bad(&shown, "unknown query parameter"));
            }
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(bad(&shown, "is given twice"));
            }
            if value.contains('\0') || value.contains(char::REPLACEMENT_CHARACTER) {
                return Err(bad(&shown, "holds bytes that are not text"));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Params(pairs))
    }

    /// The value as text; an empty one counts as not given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, value)| value.as_str())
    }

    /// The value as text of at most `max` characters.
    pub fn short(&self, name: &str, max: usize) -> Result<Option<String>, Problem> {
        match self.text(name) {
            Some(value) if value.chars().count() > max => {
                Err(bad(name, &format!("must have at most {max} characters")))
            }
            value => Ok(value.map(str::to_owned)),
        }
    }

    /// The value as a `T`.
    pub fn parse<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.text(name).map(str::parse).transpose().map_err(|e: T::Err| bad(name, in_words(&e.to_string())))
    }

    /// The value as one word of a closed set.
    pub fn word<T>(&self, name: &str, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Problem> {
        match self.text(name) {
            None => Ok(None),
            Some(word) => read(word).map(Some).ok_or_else(|| bad(name, "is not one of the known words")),
        }
    }

    /// The value as an instant.
    pub fn time(&self, name: &str) -> Result<Option<Millis>, Problem> {
        self.parse(name)
    }

    /// `limit` (1..200, 50).
    pub fn limit(&self) -> Result<u32, Problem> {
        let limit = self.parse::<u32>("limit")?.unwrap_or(LIMIT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(bad("limit", "must be between 1 and 200"));
        }
        Ok(limit)
    }

    /// `limit` and `cursor`.
    pub fn page<K: Kind>(&self) -> Result<PageOf<K>, Problem> {
        Ok(PageOf { after: self.cursor()?, limit: self.limit()? })
    }

    /// The place that `cursor` holds.
    pub fn cursor<T: FromStr>(&self) -> Result<Option<T>, Problem> {
        self.text("cursor").map(open_cursor).transpose()
    }

    /// The name that `cursor` holds, in a list ordered by name.
    pub fn after(&self, named: impl Fn(&str) -> bool) -> Result<Option<String>, Problem> {
        let refused = || bad("cursor", "is not a cursor of this list");
        let Some(text) = self.text("cursor") else { return Ok(None) };
        let name = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        name.filter(|name| named(name)).map(Some).ok_or_else(refused)
    }

    /// The value of either of two names for one thing, and the name that was used; the first by default.
    pub fn either<T: FromStr<Err: Display>>(
        &self,
        names: [&'static str; 2],
    ) -> Result<(&'static str, Option<T>), Problem> {
        match names.map(|name| self.text(name).is_some()) {
            [true, true] => Err(bad(names[1], &format!("cannot be given together with {}", names[0]))),
            [false, true] => Ok((names[1], self.parse(names[1])?)),
            [_, false] => Ok((names[0], self.parse(names[0])?)),
        }
    }
}

fn open_cursor<T: FromStr>(text: &str) -> Result<T, Problem> {
    let refused = || bad("cursor", "is not a cursor of this list");
    if text.len() > 128 {
        return Err(refused());
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused())?;
    std::str::from_utf8(&bytes).ok().and_then(|place| place.parse().ok()).ok_or_else(refused)
}

/// Asks the store for one row more than the page holds: only then is there a next page.
pub fn page_of<K>(page: &PageOf<K>) -> PageOf<K> {
    PageOf { after: page.after, limit: page.limit + 1 }
}

/// The page of `rows` (one more than `limit` if there are more), with `Link: rel="next"`.
pub fn paged<K: Kind, T>(
    rows: Vec<T>,
    limit: u32,
    id: impl Fn(&T) -> Id<K>,
    uri: &Uri,
    urls: &Urls,
) -> (Option<HeaderValue>, Page<T>) {
    paged_by(rows, limit, |row| id(row).to_string(), uri, urls)
}

/// The same for what a look found that may have ended before the page was full: the next one goes on behind it.
pub fn paged_to<K: Kind, T>(
    found: Found<T, K>,
    limit: u32,
    id: impl Fn(&T) -> Id<K>,
    uri: &Uri,
    urls: &Urls,
) -> (Option<HeaderValue>, Page<T>) {
    let Some(end) = found.looked_to else { return paged(found.rows, limit, id, uri, urls) };
    next(found.rows, Some(URL_SAFE_NO_PAD.encode(end.to_string())), uri, urls)
}

/// The same for rows that go by a name.
pub fn paged_by<T>(
    mut rows: Vec<T>,
    limit: u32,
    name: impl Fn(&T) -> String,
    uri: &Uri,
    urls: &Urls,
) -> (Option<HeaderValue>, Page<T>) {
    let limit = limit as usize;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more).map(|row| URL_SAFE_NO_PAD.encode(name(row)));
    next(rows, last, uri, urls)
}

fn next<T>(
    items: Vec<T>,
    next_cursor: Option<String>,
    uri: &Uri,
    urls: &Urls,
) -> (Option<HeaderValue>, Page<T>) {
    let link = next_cursor.as_deref().and_then(|cursor| next_link(uri, urls, "cursor", cursor));
    (link, Page { items, next_cursor })
}

/// The `Link` value that names the next page: this request's URL with another `name`.
pub fn next_link(uri: &Uri, urls: &Urls, name: &str, value: &str) -> Option<HeaderValue> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (known, text) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        // A capability in the query must not wander into links that people pass on.
        if known != name && known != "access_token" {
            query.append_pair(&known, &text);
        }
    }
    query.append_pair(name, value);
    let link = format!("<{}{}?{}>; rel=\"next\"", urls.base(), uri.path(), query.finish());
    HeaderValue::from_str(&link).ok()
}

/// What a route reads from its query.
pub trait FromQuery: Sized {
    /// The names it knows.
    const NAMES: &'static [&'static str];

    /// Reads them.
    fn from_params(params: &Params) -> Result<Self, Problem>;
}

/// For routes without parameters; anything else is refused.
pub struct NoQuery;

impl FromQuery for NoQuery {
    const NAMES: &'static [&'static str] = &[];
    fn from_params(_: &Params) -> Result<Self, Problem> {
        Ok(NoQuery)
    }
}

/// The query of the request, read as a `T`.
pub struct Query<T>(pub T);

impl<T: FromQuery> FromRequestParts<App> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        T::from_params(&Params::read(parts.uri.query(), T::NAMES)?).map(Query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::id;

    const NAMES: &[&str] = &["limit", "cursor", "state"];

    fn refusal(query: &str) -> Option<String> {
        let read = Params::read(Some(query), NAMES).and_then(|p| p.page::<id::Job>().map(|page| page.limit));
        read.err().map(|problem| problem.body(None).errors[0].pointer.clone())
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (query, pointer) in [
            ("foo=1", "?foo"),
            ("limit=0", "?limit"),
            ("limit=201", "?limit"),
            ("limit=ten", "?limit"),
            ("limit=1&limit=2", "?limit"),
            ("cursor=x", "?cursor"),
            ("cursor=%00", "?cursor"),
            ("state=%ff", "?state"),
        ] {
            assert_eq!(refusal(query).as_deref(), Some(pointer), "{query}");
        }
        for query in ["", "limit=1", "limit=200&state=a", "limit=", "cursor="] {
            assert_eq!(refusal(query), None, "{query}");
        }
    }

    #[test]
    fn numbers_are_refused_in_peoples_words() {
        let said = |query: &str| {
            let read = Params::read(Some(query), NAMES).and_then(|p| p.parse::<u32>("limit"));
            read.unwrap_err().body(None).errors[0].detail.clone()
        };
        for (query, rule) in [
            ("limit=ten", "must be a whole number"),
            ("limit=-1", "must be a whole number"),
            ("limit=4294967296", "is too large"),
        ] {
            assert_eq!(said(query), rule, "{query}");
        }
    }

    #[test]
    fn a_page_names_its_next_one_and_the_cursor_leads_there() {
        let ids: Vec<crate::types::JobId> = (0..3).map(|n| Id::mint(Millis(n), [0; 10])).collect();
        let uri: Uri = "/v1/jobs?limit=2&state=a%20b&access_token=rbj_x".parse().unwrap();
        let (link, page) = paged(ids.clone(), 2, |id| *id, &uri, &Urls::new("https://api.example.com"));
        let cursor = page.next_cursor.unwrap();
        assert_eq!(page.items.len(), 2);
        assert_eq!(open_cursor::<crate::types::JobId>(&cursor).unwrap(), ids[1]);
        let wanted =
            format!("<https://api.example.com/v1/jobs?limit=2&state=a+b&cursor={cursor}>; rel=\"next\"");
        assert_eq!(link.unwrap(), wanted.as_str());
        let (link, page) = paged(ids, 3, |id| *id, &uri, &Urls::new("https://api.example.com"));
        assert!(link.is_none() && page.next_cursor.is_none());
    }
}
