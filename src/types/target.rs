//! Where a callback may go: address classes, the deployment's policy, the checked URL.
//!
//! The address guard allows, it does not deny: a list of bad encodings always misses one. Ranges are those
//! of the IANA special-purpose registries (RFC 6890 and its updates), plus multicast and one cloud platform.
//! Nothing is resolved here; the connector asks [`UrlPolicy::permits_at`] again for every address it dials.

mod address;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};
use url::{Host, Url};

pub use address::{AddrClass, classify};

/// The longest callback URL, in bytes, as given and as normalised.
pub const URL_MAX: usize = 2_048;

/// What one deployment, or one push worker's own profile, lets requests reach. The default is production.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UrlPolicy {
    /// `http` on ports 80 and 8080.
    pub allow_http: bool,
    /// Ports beside the usual ones, for either scheme.
    pub allow_ports: Vec<u16>,
    /// Ranges that are reached although they are not public; a literal inside may use any port.
    pub allow_cidrs: Vec<IpNet>,
    /// Host names the operator vouches for: any shape, any port, whatever they resolve to.
    pub allow_hosts: Vec<String>,
    /// Development: `http`, and loopback (the `localhost` names too) on any port.
    pub dev: bool,
}

impl UrlPolicy {
    /// Whether an address may be dialled; the error names its class.
    pub fn permits(&self, ip: IpAddr) -> Result<(), AddrClass> {
        let class = classify(ip);
        let own_machine = self.dev && class == AddrClass::Loopback;
        if class == AddrClass::Global || own_machine || self.in_cidrs(ip) { Ok(()) } else { Err(class) }
    }

    /// Whether `host` (as [`CallbackUrl::host`] writes it) may be dialled at this address.
    pub fn permits_at(&self, host: &str, ip: IpAddr) -> Result<(), AddrClass> {
        if self.trusts(host) { Ok(()) } else { self.permits(ip) }
    }

    /// Whether the operator vouches for this host by name.
    pub fn trusts(&self, host: &str) -> bool {
        self.allow_hosts.iter().any(|h| h.eq_ignore_ascii_case(host))
    }

    fn in_cidrs(&self, ip: IpAddr) -> bool {
        self.allow_cidrs.iter().any(|net| net.contains(&ip))
    }

    fn check_scheme(&self, url: &Url) -> Result<(), UrlRefusal> {
        let plain = url.scheme() == "http";
        if plain && !self.allow_http && !self.dev { Err(UrlRefusal::HttpNotAllowed) } else { Ok(()) }
    }

    fn check_host(&self, host: &Host<&str>, text: &str) -> Result<(), UrlRefusal> {
        match host {
            _ if self.trusts(text) => Ok(()),
            Host::Ipv4(ip) => self.permits(IpAddr::V4(*ip)).map_err(UrlRefusal::Address),
            Host::Ipv6(ip) => self.permits(IpAddr::V6(*ip)).map_err(UrlRefusal::Address),
            Host::Domain(name) if self.dev && is_localhost(name) => Ok(()),
            Host::Domain(name) => check_name(name),
        }
    }

    fn check_port(&self, url: &Url, host: &Host<&str>) -> Result<(), UrlRefusal> {
        let port = url.port_or_known_default().unwrap_or(0);
        let usual: [u16; 2] = if url.scheme() == "http" { [80, 8080] } else { [443, 8443] };
        let near = match host {
            Host::Ipv4(ip) => self.any_port(IpAddr::V4(*ip)),
            Host::Ipv6(ip) => self.any_port(IpAddr::V6(*ip)),
            Host::Domain(name) => self.dev && is_localhost(name),
        };
        let open = usual.contains(&port) || self.allow_ports.contains(&port);
        let trusted = url.host_str().is_some_and(|text| self.trusts(text));
        // Port 0 can never be dialled, so no allowance opens it.
        if port != 0 && (near || open || trusted) { Ok(()) } else { Err(UrlRefusal::Port(port)) }
    }

    fn any_port(&self, ip: IpAddr) -> bool {
        self.in_cidrs(ip) || (self.dev && classify(ip) == AddrClass::Loopback)
    }
}

/// `localhost` and the names below it, which mean loopback without asking anyone (RFC 6761, 6.3).
pub fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// Names that never lead to a public host: RFC 6761, 6762, 7686, 8375, 9476, ICANN's reservations, and what
/// clusters and routers use in practice. `arpa` covers `home.arpa`, `in-addr.arpa` and `ip6.arpa`.
const SPECIAL: [&str; 16] = [
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "private",
    "corp",
    "lan",
    "home",
    "alt",
    "svc",
    "test",
    "invalid",
    "example",
    "onion",
    "arpa",
];

fn check_name(name: &str) -> Result<(), UrlRefusal> {
    let fits = |label: &str| {
        let edge = label.starts_with('-') || label.ends_with('-');
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (1..=63).contains(&label.len()) && plain && !edge
    };
    if name.len() > 253 || !name.split('.').all(fits) {
        return Err(UrlRefusal::HostName);
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if SPECIAL.contains(&last) {
        return Err(UrlRefusal::SpecialName);
    }
    if name.contains('.') { Ok(()) } else { Err(UrlRefusal::SingleLabel) }
}

/// A callback URL that passed every check of a [`UrlPolicy`] that needs no look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackUrl {
    url: Url,
    uri: http::Uri,
}

impl CallbackUrl {
    /// Checks the text as given, then what the parser makes of it, in that order: the parser repairs
    /// (WHATWG URL), and what was repaired must not slip past the rules.
    pub fn check(raw: &str, policy: &UrlPolicy) -> Result<CallbackUrl, UrlRefusal> {
        check_text(raw)?;
        let mut url = Url::parse(raw).map_err(|_| UrlRefusal::Syntax)?;
        strip_dot(&mut url)?;
        policy.check_scheme(&url)?;
        let host = url.host().ok_or(UrlRefusal::Host)?;
        policy.check_host(&host, url.host_str().unwrap_or_default())?;
        policy.check_port(&url, &host)?;
        if url.as_str().len() > URL_MAX {
            return Err(UrlRefusal::TooLong);
        }
        let uri: http::Uri = url.as_str().parse().map_err(|_| UrlRefusal::Syntax)?;
        // Two parsers must agree on the host, or one of them was fooled.
        if uri.host() == url.host_str() { Ok(CallbackUrl { url, uri }) } else { Err(UrlRefusal::Syntax) }
    }

    /// The host in lower case; an IPv6 literal stands in brackets.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The port, the scheme's default if none was written.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(443)
    }

    /// Scheme, host and any unusual port, such as `https://example.com:8443`: what names an ad-hoc lane.
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// The same URL for the HTTP client.
    pub fn uri(&self) -> http::Uri {
        self.uri.clone()
    }

    /// The normalised text, as stored, shown and sent.
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }
}

impl fmt::Display for CallbackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for CallbackUrl {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

fn check_text(raw: &str) -> Result<(), UrlRefusal> {
    if raw.len() > URL_MAX {
        return Err(UrlRefusal::TooLong);
    }
    if raw.bytes().any(|b| b <= 0x20 || b == 0x7f || b == b'\\') {
        return Err(UrlRefusal::Character);
    }
    let (scheme, rest) = raw.split_once("://").ok_or(UrlRefusal::Scheme)?;
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return Err(UrlRefusal::Scheme);
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        Err(UrlRefusal::Host)
    } else if authority.contains('@') {
        Err(UrlRefusal::Credentials)
    } else if authority.contains('%') {
        Err(UrlRefusal::EncodedHost)
    } else if rest.contains('#') {
        Err(UrlRefusal::Fragment)
    } else {
        Ok(())
    }
}

/// One trailing dot only says that a name is complete; kept, it would slip past name lists, SNI and lanes.
fn strip_dot(url: &mut Url) -> Result<(), UrlRefusal> {
    let Some(bare) = url.host_str().and_then(|h| h.strip_suffix('.')).map(str::to_owned) else {
        return Ok(());
    };
    url.set_host(Some(&bare)).map_err(|_| UrlRefusal::Syntax)
}

/// Why a callback URL was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlRefusal {
    #[error("too-long: a callback URL has at most 2048 bytes")]
    TooLong,
    #[error("character: no space, control character or backslash may stand in a callback URL")]
    Character,
    #[error("scheme: a callback URL starts with https:// (or http:// where the operator gave --allow-http)")]
    Scheme,
    #[error("host: a callback URL names a host right after ://")]
    Host,
    #[error("credentials: no user name or password may stand in a callback URL; use callback headers")]
    Credentials,
    #[error("encoded-host: the host must be written plainly, without %")]
    EncodedHost,
    #[error("fragment: a callback URL has no #fragment, it would never be sent")]
    Fragment,
    #[error("syntax: not a valid URL")]
    Syntax,
    #[error("host-name: labels have 1 to 63 letters, digits, hyphens or underscores, the name at most 253")]
    HostName,
    #[error("http: plain http is not allowed here; the operator may allow it with --allow-http")]
    HttpNotAllowed,
    #[error("port: port {0} is not open to callbacks; the operator may open it with --allow-port {0}")]
    Port(u16),
    #[error(
        "special-name: this host name is reserved for inner networks; the operator may allow its addresses \
         with --allow-cidr, for a URL that names the address"
    )]
    SpecialName,
    #[error(
        "single-label: a host name without a dot never is a public one; the operator may allow its \
         addresses with --allow-cidr, for a URL that names the address"
    )]
    SingleLabel,
    #[error(
        "address: {0} addresses are not open to callbacks; the operator may open a range with --allow-cidr"
    )]
    Address(AddrClass),
}

impl UrlRefusal {
    /// True if the URL is sound but not allowed (`callback-url-blocked`), false if it is none
    /// (`callback-url-invalid`).
    pub fn is_blocked(&self) -> bool {
        match self {
            UrlRefusal::HttpNotAllowed
            | UrlRefusal::Port(_)
            | UrlRefusal::SpecialName
            | UrlRefusal::SingleLabel
            | UrlRefusal::Address(_) => true,
            UrlRefusal::TooLong
            | UrlRefusal::Character
            | UrlRefusal::Scheme
            | UrlRefusal::Host
            | UrlRefusal::Credentials
            | UrlRefusal::EncodedHost
            | UrlRefusal::Fragment
            | UrlRefusal::Syntax
            | UrlRefusal::HostName => false,
        }
    }
}

#[cfg(test)]
mod tests;
