//! One delivery: its states, what an attempt saw, and the pure decision what follows from it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use sha2::{Digest, Sha256};

use super::retry::RetryPolicy;
use super::target::AddrClass;
use super::{DeliveryId, Millis};

/// Writes `as_str`, [`FromStr`] and [`fmt::Display`] for an enum whose text form is stored and shown.
macro_rules! words {
    ($name:ident: $($variant:ident $text:literal),* $(,)?) => {
        impl $name {
            /// The text form, as stored and shown.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }
        }
        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(s: &str) -> Result<Self, UnknownWord> {
                match s { $($text => Ok($name::$variant),)* _ => Err(UnknownWord) }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

/// The text names no value of the wanted set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one of the known words")]
pub struct UnknownWord;

/// Where a delivery stands. `Delivered`, `Dead` and `Cancelled` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum DeliveryState {
    Pending,
    InFlight,
    Delivered,
    Dead,
    Held,
    Cancelled,
}
words!(DeliveryState: Pending "pending", InFlight "inFlight", Delivered "delivered", Dead "dead", Held "held",
    Cancelled "cancelled");

/// Why a held delivery waits; holding costs no attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum HeldReason {
    /// Someone paused the lane or the endpoint.
    Paused,
    /// The endpoint was disabled after days without a success.
    Disabled,
    /// The lane's breaker is open.
    Breaker,
}
words!(HeldReason: Paused "paused", Disabled "disabled", Breaker "breaker");

/// Why a delivery was laid down as a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeadReason {
    /// The policy's attempts are spent.
    Exhausted,
    /// The receiver answered 410.
    Gone,
    /// The receiver answered with `webhook-delivery: abort`.
    Aborted,
    /// The next attempt would come after the delivery's `expiresAt`.
    Expired,
    /// The address guard refused the target.
    Refused,
    /// Five attempts in a row ended with the sender.
    Poison,
    /// There is no usable key to sign with.
    Unsignable,
}
words!(DeadReason: Exhausted "exhausted", Gone "gone", Aborted "aborted", Expired "expired", Refused "refused",
    Poison "poison", Unsignable "unsignable");

/// How far an attempt had come; ordered as it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Phase {
    #[default]
    Dns,
    Connect,
    Tls,
    /// The request may have been written; no complete response head came.
    Head,
    Body,
}

impl Phase {
    /// What was waited for, in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Dns => "name look-up",
            Phase::Connect => "connection",
            Phase::Tls => "TLS handshake",
            Phase::Head => "response head",
            Phase::Body => "end of the response body",
        }
    }
}

/// What was wrong with the receiver's TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsFault {
    Expired,
    WrongName,
    UnknownIssuer,
    Certificate,
    Handshake,
}

impl TlsFault {
    fn as_str(self) -> &'static str {
        match self {
            TlsFault::Expired => "the certificate is expired or not valid yet",
            TlsFault::WrongName => "the certificate is for another name",
            TlsFault::UnknownIssuer => "the certificate is not signed by a known authority",
            TlsFault::Certificate => "the certificate is not acceptable",
            TlsFault::Handshake => "the TLS handshake failed",
        }
    }
}

/// Why an attempt has no answer that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    Dns,
    Connect,
    Tls(TlsFault),
    Timeout(Phase),
    Reset,
    BadResponse,
    ResponseTooLarge,
    /// The class is for the operator's log only: [`Fault::kind`] and the text look alike for all of them,
    /// or a tenant could map the inner network.
    Refused(AddrClass),
    /// Never sent: the lease ran out before the first byte.
    LeaseRanOut,
    /// Never sent: this machine has no file handle, port or memory for one more connection.
    NoSocket,
    /// The sender died; whether the receiver saw the request is not known.
    Unknown,
}

impl Fault {
    /// The kebab-case kind, as stored and shown.
    pub fn kind(self) -> &'static str {
        match self {
            Fault::Dns => "dns",
            Fault::Connect => "connect",
            Fault::Tls(_) => "tls",
            Fault::Timeout(_) => "timeout",
            Fault::Reset => "reset",
            Fault::BadResponse => "bad-response",
            Fault::ResponseTooLarge => "response-too-large",
            Fault::Refused(_) => "refused",
            Fault::LeaseRanOut => "lease-ran-out",
            Fault::NoSocket => "no-socket",
            Fault::Unknown => "unknown",
        }
    }

    /// The class of the address that was refused, for the operator's log.
    pub fn refused(self) -> Option<&'static str> {
        match self {
            Fault::Refused(class) => Some(class.name()),
            Fault::Dns | Fault::Connect | Fault::Tls(_) | Fault::Timeout(_) | Fault::Reset => None,
            Fault::BadResponse | Fault::ResponseTooLarge => None,
            Fault::LeaseRanOut | Fault::NoSocket | Fault::Unknown => None,
        }
    }

    /// Whether the receiver's machine or network failed, as opposed to its application or to us: what the
    /// breaker counts.
    pub fn infrastructure(self) -> bool {
        match self {
            Fault::Dns | Fault::Connect | Fault::Tls(_) | Fault::Timeout(_) | Fault::Reset => true,
            Fault::BadResponse | Fault::ResponseTooLarge => false,
            Fault::Refused(_) | Fault::LeaseRanOut | Fault::NoSocket | Fault::Unknown => false,
        }
    }

    /// Whether the attempt spends one of the policy's: not if the failure is ours.
    pub fn counts(self) -> bool {
        match self {
            Fault::Dns | Fault::Connect | Fault::Tls(_) | Fault::Timeout(_) | Fault::Reset => true,
            Fault::BadResponse | Fault::ResponseTooLarge | Fault::Refused(_) => true,
            Fault::LeaseRanOut | Fault::NoSocket | Fault::Unknown => false,
        }
    }

    /// Whether nothing has left the house: there is no attempt to show.
    pub fn unsent(self) -> bool {
        matches!(self, Fault::LeaseRanOut | Fault::NoSocket)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Dns => f.write_str("the host name could not be resolved"),
            Fault::Connect => f.write_str("no connection could be made"),
            Fault::Tls(why) => f.write_str(why.as_str()),
            Fault::Timeout(phase) => write!(f, "the deadline passed before the {}", phase.as_str()),
            Fault::Reset => f.write_str("the connection was closed before the answer"),
            Fault::BadResponse => f.write_str("the answer is not valid HTTP"),
            Fault::ResponseTooLarge => f.write_str("the head of the answer is too large"),
            Fault::Refused(_) => f.write_str("the address is not open to callbacks"),
            Fault::LeaseRanOut => f.write_str("not sent: the lease ran out first"),
            Fault::NoSocket => f.write_str("not sent: this machine has no room for a connection"),
            Fault::Unknown => f.write_str("the sender stopped; the outcome was not seen"),
        }
    }
}

/// What one attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered {
        status: u16,
        /// What `Retry-After` asked for, at most 24 h.
        retry_after: Option<Duration>,
        /// `webhook-delivery: abort` was in the answer.
        abort: bool,
    },
    Failed(Fault),
}

impl Outcome {
    /// Why there was no answer.
    pub fn fault(self) -> Option<Fault> {
        match self {
            Outcome::Answered { .. } => None,
            Outcome::Failed(fault) => Some(fault),
        }
    }
}

/// Milliseconds spent in each phase; `None` where a pooled connection or an early end made it moot.
#[skip_serializing_none]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Phases {
    pub dns_ms: Option<u32>,
    pub connect_ms: Option<u32>,
    pub tls_ms: Option<u32>,
    /// From the request to the complete response head.
    pub first_byte_ms: Option<u32>,
}

/// All that is kept of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    pub outcome: Outcome,
    pub phases: Phases,
    pub duration: Duration,
    /// The peer that was spoken to, or dialled last.
    pub address: Option<SocketAddr>,
    /// As received, not yet redacted; values that are no UTF-8 are shown with replacement characters.
    pub headers: Vec<(String, String)>,
    /// The beginning of the answer: 16 KiB of a callback's, all of a push worker's.
    pub body: Bytes,
}

/// What follows from an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    RetryAt(Millis),
    Dead(DeadReason),
}

/// When what was not sent is claimed again: not at once, or a node that is too slow or too full would do nothing else.
const UNSENT: Duration = Duration::from_secs(1);

/// Decides what follows from an attempt: only a 2xx delivers, only 410, an abort and the address guard end it
/// early, everything else is tried again by the policy.
///
/// `attempt` counts the policy attempts used, this one included if its outcome [counts](Fault::counts).
/// `roll` places the next try in its jitter band (see [`roll`]).
pub fn judge(
    outcome: &Outcome,
    attempt: u32,
    policy: &RetryPolicy,
    expires_at: Option<Millis>,
    now: Millis,
    roll: f64,
) -> Verdict {
    let attempt = attempt.max(1);
    match *outcome {
        Outcome::Answered { status: 200..=299, .. } => Verdict::Delivered,
        Outcome::Answered { status: 410, .. } => Verdict::Dead(DeadReason::Gone),
        Outcome::Answered { abort: true, .. } => Verdict::Dead(DeadReason::Aborted),
        Outcome::Failed(Fault::Refused(_)) => Verdict::Dead(DeadReason::Refused),
        Outcome::Answered { retry_after, .. } => {
            let wait = policy.delay(attempt, roll).map(|d| d.max(retry_after.unwrap_or_default()));
            again(wait, expires_at, now)
        }
        Outcome::Failed(fault) if fault.unsent() => again(Some(UNSENT), expires_at, now),
        Outcome::Failed(fault) if fault.counts() => again(policy.delay(attempt, roll), expires_at, now),
        Outcome::Failed(_) => again(Some(policy.interval(attempt, roll)), expires_at, now),
    }
}

fn again(wait: Option<Duration>, expires_at: Option<Millis>, now: Millis) -> Verdict {
    let Some(wait) = wait else { return Verdict::Dead(DeadReason::Exhausted) };
    let next = now.plus(wait);
    if expires_at.is_some_and(|end| next > end) {
        Verdict::Dead(DeadReason::Expired)
    } else {
        Verdict::RetryAt(next)
    }
}

/// The jitter roll in `[0, 1)` of one attempt: derived, so that the next time is knowable from the row alone.
pub fn roll(id: DeliveryId, attempt: u32) -> f64 {
    let mut hash = Sha256::new();
    hash.update(b"ringback retry jitter");
    hash.update(id.uuid().as_bytes());
    hash.update(attempt.to_be_bytes());
    let digest = hash.finalize();
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    // 53 bits are what an f64 holds exactly, so 1.0 cannot come out.
    (u64::from_be_bytes(head) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests;
