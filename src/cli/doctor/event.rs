//! The test events, and what is wrong with each of them.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use crate::types::signature::schemes::{Message, Scheme, SigningKey};
use crate::types::{DeliveryId, EventId, Millis};

/// What one test event is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Signed well.
    Good,
    /// The same once more, as after an answer that was lost.
    Again,
    /// Signed with a secret that the receiver does not know.
    Foreign,
    /// Changed after it was signed.
    Altered,
    /// Signed well, an hour ago.
    Stale,
    /// Without the headers that name and sign it.
    Unsigned,
}

/// How old a stale event is, seconds; far beyond the five minutes that receivers allow.
const STALE: i64 = 3_600;

/// One `webhook.test`.
pub struct Event {
    pub delivery: DeliveryId,
    pub event: EventId,
    pub at: Millis,
}

impl Event {
    /// The frozen body.
    pub fn body(&self) -> Bytes {
        let body = serde_json::json!({
            "type": "webhook.test", "timestamp": self.at, "eventId": self.event,
            "data": {"message": "a test event of `ringback doctor`"},
        });
        Bytes::from(body.to_string())
    }

    /// What is sent: the headers of the service, and a body.
    pub fn request(
        &self,
        kind: Kind,
        key: &SigningKey,
        schemes: &[Scheme],
        now: Millis,
    ) -> (HeaderMap, Bytes) {
        let body = self.body();
        let seconds = if kind == Kind::Stale { now.seconds() - STALE } else { now.seconds() };
        let id = self.delivery.to_string();
        let signed = Message { id: &id, seconds, body: &body }.headers(schemes, std::slice::from_ref(key));
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, text: &str| {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        };
        put("content-type", "application/json");
        put("user-agent", concat!("Ringback/", env!("CARGO_PKG_VERSION")));
        put("webhook-attempt", if kind == Kind::Again { "2" } else { "1" });
        put("idempotency-key", &format!("\"{id}\""));
        if kind != Kind::Unsigned {
            put("webhook-id", &id);
            put("webhook-timestamp", &seconds.to_string());
            headers.extend(signed);
        }
        let altered = kind == Kind::Altered;
        let sent = if altered { [&body[..body.len() - 1], b",\"x\":1}"].concat().into() } else { body };
        (headers, sent)
    }
}
