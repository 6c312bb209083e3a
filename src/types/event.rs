//! Published events and the tenant's feed: the rules of an event, and a place in the feed.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::EventId;
use super::api::PublishEvent;
use super::endpoint::{Pattern, any_matches, named_account};
use super::job::Idempotency;
use super::problem::Invalid;
use super::submit as rules;

/// What the service itself tells of, and nobody else.
const RESERVED: [&str; 4] = ["job.", "endpoint.", "delivery.", "webhook."];
/// The most characters of an event's own id.
const ID_MAX: usize = 255;
/// The place of events' own ids among the idempotency keys; no route is called so.
const OWN_IDS: &str = "event id";

/// An event that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its type.
    pub kind: String,
    /// Whose endpoints are told; those of none where None.
    pub account: Option<String>,
    /// JSON, as it was given.
    pub data: String,
    /// Recognises the same event published again, by the publisher's own id.
    pub own: Option<Idempotency>,
}

/// Holds an event against every rule.
pub fn check(wish: PublishEvent) -> Result<Draft, Invalid> {
    rules::name("/type", &wish.kind, 128)?;
    if let Some(reserved) = RESERVED.iter().find(|head| wish.kind.starts_with(**head)) {
        let rule = format!("must not begin with `{reserved}`: the service tells of these itself");
        return Err(Invalid::member("/type", rule));
    }
    let account = wish.account.map(|name| named_account("/account", name)).transpose()?;
    let data = wish.data.ok_or_else(|| Invalid::member("/data", "is required"))?.get().to_owned();
    let own = wish.id.map(|id| own_id(id, &[&wish.kind, account.as_deref().unwrap_or_default(), &data]));
    Ok(Draft { kind: wish.kind, account, data, own: own.transpose()? })
}

fn own_id(id: String, says: &[&str]) -> Result<Idempotency, Invalid> {
    rules::text("/id", &id, ID_MAX)?;
    if id.is_empty() || id.contains(char::is_control) {
        return Err(Invalid::member("/id", "must have 1 to 255 characters and no control characters"));
    }
    let mut hash = Sha256::new();
    for part in says {
        // The lengths keep two events from reading alike.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    Ok(Idempotency { route: OWN_IDS.to_owned(), key: id, fingerprint: hash.finalize().into() })
}

/// Which events of its feed a reader wants.
#[derive(Debug, Clone, Default)]
pub struct FeedFilter {
    /// Of these types; of every type where there are none.
    pub types: Vec<Pattern>,
    /// Of this account.
    pub account: Option<String>,
    /// Only of these accounts (the key is narrowed).
    pub only_accounts: Option<Vec<String>>,
}

impl FeedFilter {
    /// Whether nothing is left out.
    pub fn is_open(&self) -> bool {
        self.types.is_empty() && self.account.is_none() && self.only_accounts.is_none()
    }

    /// Whether the event is wanted.
    pub fn wants(&self, kind: &str, account: Option<&str>) -> bool {
        let of_type = self.types.is_empty() || any_matches(&self.types, kind);
        let of_account = self.account.is_none() || self.account.as_deref() == account;
        let seen = |only: &Vec<String>| account.is_some_and(|a| only.iter().any(|one| one == a));
        of_type && of_account && self.only_accounts.as_ref().is_none_or(seen)
    }
}

/// A place in the tenant's feed: behind this event of this commit. Opaque outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Of the commit.
    pub position: i64,
    /// Of the event in it.
    pub event: Uuid,
}

/// The text is no cursor of the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a cursor of this feed")]
pub struct BadCursor;

impl Cursor {
    /// Before the first event.
    pub const START: Cursor = Cursor { position: 0, event: Uuid::nil() };

    /// Behind all events of the commit at `position`.
    pub const fn behind(position: i64) -> Cursor {
        Cursor { position, event: Uuid::max() }
    }

    /// Behind one event.
    pub fn at(position: i64, event: EventId) -> Cursor {
        Cursor { position, event: event.uuid() }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.position.to_be_bytes()[..], self.event.as_bytes()].concat();
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Cursor, BadCursor> {
        if text.len() > 64 {
            return Err(BadCursor);
        }
        let bytes: [u8; 24] =
            URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(BadCursor)?;
        let (head, tail) = bytes.split_at(8);
        let position = i64::from_be_bytes(head.try_into().map_err(|_| BadCursor)?);
        let event = Uuid::from_slice(tail).map_err(|_| BadCursor)?;
        if position < 0 { Err(BadCursor) } else { Ok(Cursor { position, event }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(wish: serde_json::Value) -> Result<Draft, Invalid> {
        check(serde_json::from_str(&wish.to_string()).unwrap())
    }

    fn pointer(wish: serde_json::Value) -> String {
        checked(wish).unwrap_err().errors[0].pointer.clone()
    }

    #[test]
    fn what_an_event_may_be() {
        use serde_json::json;
        for (wish, at) in [
            (json!({"type": "job.completed", "data": 1}), "/type"),
            (json!({"type": "webhook.test", "data": 1}), "/type"),
            (json!({"type": "endpoint.x", "data": 1}), "/type"),
            (json!({"type": "delivery.dead", "data": 1}), "/type"),
            (json!({"type": "", "data": 1}), "/type"),
            (json!({"type": "a b", "data": 1}), "/type"),
            (json!({"type": "x".repeat(129), "data": 1}), "/type"),
            (json!({"type": "a.b"}), "/data"),
            (json!({"type": "a.b", "data": null}), "/data"),
            (json!({"type": "a.b", "data": 1, "account": ""}), "/account"),
            (json!({"type": "a.b", "data": 1, "account": "a\nb"}), "/account"),
            (json!({"type": "a.b", "data": 1, "id": ""}), "/id"),
            (json!({"type": "a.b", "data": 1, "id": "x".repeat(256)}), "/id"),
        ] {
            assert_eq!(pointer(wish.clone()), at, "{wish}");
        }
        for kind in ["invoice.paid", "job", "jobs.done", "Webhooks:x"] {
            assert!(checked(json!({"type": kind, "data": [1]})).is_ok(), "{kind}");
        }
    }

    #[test]
    fn an_event_published_again_is_known_by_all_that_it_says() {
        let print = |kind: &str, account: Option<&str>, data: &str| {
            let data = super::super::api::raw(data.to_owned());
            let wish = PublishEvent {
                kind: kind.to_owned(),
                data: Some(data),
                account: account.map(str::to_owned),
                id: Some("1".to_owned()),
            };
            check(wish).unwrap().own.unwrap().fingerprint
        };
        let first = print("a", None, "[1]");
        assert_eq!(first, print("a", None, "[1]"));
        for other in [print("b", None, "[1]"), print("a", Some("x"), "[1]"), print("a", None, "[1 ]")] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn a_cursor_comes_back_as_it_went_out() {
        for cursor in [Cursor::START, Cursor::behind(7), Cursor { position: i64::MAX, event: Uuid::max() }] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for bad in ["", "x", "AAAA", &"A".repeat(65), &Cursor { position: -1, ..Cursor::START }.to_string()] {
            assert_eq!(bad.parse::<Cursor>(), Err(BadCursor), "{bad}");
        }
    }

    #[test]
    fn a_filter_wants_what_it_names() {
        let filter = |types: &[&str], account: Option<&str>, only: Option<&[&str]>| FeedFilter {
            types: types.iter().map(|t| t.parse().unwrap()).collect(),
            account: account.map(str::to_owned),
            only_accounts: only.map(|o| o.iter().map(|&a| a.to_owned()).collect()),
        };
        assert!(filter(&[], None, None).wants("a.b", Some("x")));
        assert!(filter(&["a.*", "c"], None, None).wants("a.b", None));
        assert!(!filter(&["a.*", "c"], None, None).wants("b", None));
        assert!(!filter(&[], Some("x"), None).wants("a", None));
        assert!(filter(&[], Some("x"), Some(&["x"])).wants("a", Some("x")));
        assert!(!filter(&[], None, Some(&["x"])).wants("a", None), "a narrowed key sees its accounts alone");
        assert!(!filter(&[], Some("y"), Some(&["x"])).wants("a", Some("y")));
    }
}
