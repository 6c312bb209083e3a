//! Everything that leaves for a callback URL or a push worker.
//!
//! The rules of this folder:
//!
//! * Every address is asked for in `guard` before it is dialled, literals included, and once more after the
//!   connection stands. One forbidden answer refuses the name. Nothing else here opens sockets.
//! * One [`Sender`] serves one [`UrlPolicy`]: a pooled connection was vetted under the policy that reuses it.
//! * One post is at most one request on the wire. No redirects, no proxies (the environment is not read), no
//!   decompression, HTTP/1.1 only.
//! * Time and size are bounded for every answer: see the constants below and [`Limits`].
//! * Nothing is written once the lease may belong to another node, see `gate`.

mod boot;
mod connect;
mod gate;
mod guard;
pub mod look;
mod send;
mod wire;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use crate::types::target::UrlPolicy;
use wire::Budgets;

pub use boot::BootTime;
pub use send::Sender;

/// For one name look-up, the wait for a free slot included.
const DNS_BUDGET: Duration = Duration::from_secs(3);
/// Look-ups in flight at once: one for each request that a node has under way, so that the silent name
/// server of one receiver never makes another's look-up wait.
const DNS_SLOTS: usize = 512;
/// For TCP and TLS together, over all addresses that are tried.
const CONNECT_BUDGET: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const DIALS_MAX: usize = 4;
/// How long a connection waits for its next request.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Idle connections kept for one origin.
const IDLE_PER_ORIGIN: usize = 256;
/// Bytes of one response head, and of what is buffered unread.
const HEAD_MAX: usize = 16 * 1024;
/// Bytes of an answer's body that are read before the connection is dropped.
const BODY_READ_MAX: usize = 64 * 1024;
/// Bytes of an answer's body that are kept.
const BODY_KEEP_MAX: usize = 16 * 1024;

/// How a [`Sender`] is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// What may be reached.
    pub policy: UrlPolicy,
    /// Who is asked for the addresses of a name.
    pub names: Names,
    /// Trusted beside the built-in Mozilla roots.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// From the first byte of an answer to the end of its head; 5 s. Who drips it must not have the whole deadline.
    pub head_budget: Duration,
    /// From when a receiver does not take what it is sent until it has taken all; 60 s, longer than any callback. Nobody else
    /// would end it: the request may have its answer, or be given up.
    pub write_budget: Duration,
}

impl Options {
    fn budgets(&self) -> Budgets {
        Budgets { head: self.head_budget, write: self.write_budget }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            policy: UrlPolicy::default(),
            names: Names::default(),
            extra_roots: Vec::new(),
            head_budget: Duration::from_secs(5),
            write_budget: Duration::from_secs(60),
        }
    }
}

/// Where addresses of host names come from.
#[derive(Debug, Clone, Default)]
pub enum Names {
    /// The machine's resolver configuration.
    #[default]
    System,
    /// These name servers (UDP, then TCP), nothing of the machine's configuration but its hosts file.
    Servers(Vec<SocketAddr>),
    /// This table and nobody else; for static hosts. Its answers are vetted like any other.
    Fixed(BTreeMap<String, Vec<IpAddr>>),
}

/// What one attempt may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the whole attempt, from the name look-up to the end of the answer's body.
    pub deadline: Duration,
    /// When the lease runs out: past it, no request is written.
    pub not_after: BootTime,
    /// How much of the answer's body is wanted.
    pub answer: Answer,
}

/// A request body that is sent piece by piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drip {
    /// Bytes of a piece.
    pub piece: usize,
    /// Between two of them.
    pub pause: Duration,
}

/// What is wanted of an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Its beginning, for people who look: at most 64 KiB are read and 16 KiB kept, and the status counts
    /// however the body ends.
    Glance,
    /// All of it, up to so many bytes. One byte more is kept of a longer body and shows that it is longer;
    /// the body of a 2xx answer that breaks off is a failure.
    Whole(usize),
}

impl Answer {
    /// Bytes that are read before the connection is dropped, and bytes that are kept.
    fn bounds(self) -> (usize, usize) {
        match self {
            Answer::Glance => (BODY_READ_MAX, BODY_KEEP_MAX),
            Answer::Whole(most) => (most.saturating_add(1), most.saturating_add(1)),
        }
    }
}

/// A [`Sender`] cannot be built from its [`Options`].
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the resolver cannot be set up: {0}")]
    Resolver(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

#[cfg(test)]
mod tests;
