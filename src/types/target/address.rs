//! What an address is for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is for; everything but [`AddrClass::Global`] is refused unless the operator allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddrClass {
    /// Ordinary public unicast.
    Global,
    /// "This network", `0.0.0.0/8` and `::`: reaches the local machine on Linux.
    Unspecified,
    /// RFC 1918 and the IPv6 unique-local and old site-local ranges.
    Private,
    Loopback,
    /// Holds the metadata services of most clouds.
    LinkLocal,
    /// Shared address space of carriers, RFC 6598.
    Cgnat,
    Multicast,
    /// Set aside, unallocated, or used by infrastructure (AS112, AMT, SRv6, discard).
    Reserved,
    Documentation,
    /// RFC 2544 and RFC 5180.
    Benchmarking,
    /// A public-looking address that reaches the cloud platform under the machine.
    Platform,
    /// IPv4 inside `::ffff:0:0/96`.
    Mapped,
    /// IPv4 inside `::/96` or `::ffff:0:0:0/96`, or ISATAP under `::/8`.
    Compatible,
    /// RFC 6052 and RFC 8215.
    Nat64,
    /// `2002::/16` and the relay range `192.88.99.0/24`.
    SixToFour,
    Teredo,
}

impl AddrClass {
    /// The kebab-case name, for operators' logs and for refusals of a literal.
    pub fn name(self) -> &'static str {
        match self {
            AddrClass::Global => "global",
            AddrClass::Unspecified => "unspecified",
            AddrClass::Private => "private",
            AddrClass::Loopback => "loopback",
            AddrClass::LinkLocal => "link-local",
            AddrClass::Cgnat => "cgnat",
            AddrClass::Multicast => "multicast",
            AddrClass::Reserved => "reserved",
            AddrClass::Documentation => "documentation",
            AddrClass::Benchmarking => "benchmarking",
            AddrClass::Platform => "platform",
            AddrClass::Mapped => "ipv4-mapped",
            AddrClass::Compatible => "ipv4-compatible",
            AddrClass::Nat64 => "nat64",
            AddrClass::SixToFour => "6to4",
            AddrClass::Teredo => "teredo",
        }
    }
}

impl fmt::Display for AddrClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> u32 {
    u32::from_be_bytes([a, b, c, d])
}

const fn v6(a: u16, b: u16, c: u16, d: u16) -> u128 {
    ((a as u128) << 112) | ((b as u128) << 96) | ((c as u128) << 80) | ((d as u128) << 64)
}

const V4_REFUSED: [(u32, u32, AddrClass); 19] = [
    (v4(0, 0, 0, 0), 8, AddrClass::Unspecified),
    (v4(10, 0, 0, 0), 8, AddrClass::Private),
    (v4(100, 64, 0, 0), 10, AddrClass::Cgnat),
    (v4(127, 0, 0, 0), 8, AddrClass::Loopback),
    (v4(169, 254, 0, 0), 16, AddrClass::LinkLocal),
    (v4(172, 16, 0, 0), 12, AddrClass::Private),
    (v4(192, 0, 0, 0), 24, AddrClass::Reserved),
    (v4(192, 0, 2, 0), 24, AddrClass::Documentation),
    (v4(192, 31, 196, 0), 24, AddrClass::Reserved),
    (v4(192, 52, 193, 0), 24, AddrClass::Reserved),
    (v4(192, 88, 99, 0), 24, AddrClass::SixToFour),
    (v4(192, 168, 0, 0), 16, AddrClass::Private),
    (v4(192, 175, 48, 0), 24, AddrClass::Reserved),
    (v4(198, 18, 0, 0), 15, AddrClass::Benchmarking),
    (v4(198, 51, 100, 0), 24, AddrClass::Documentation),
    (v4(203, 0, 113, 0), 24, AddrClass::Documentation),
    (v4(224, 0, 0, 0), 4, AddrClass::Multicast),
    (v4(240, 0, 0, 0), 4, AddrClass::Reserved),
    (v4(168, 63, 129, 16), 32, AddrClass::Platform),
];

/// Inside `2000::/3`, the only IPv6 space that is allowed at all.
const V6_REFUSED: [(u128, u32, AddrClass); 8] = [
    (v6(0x2001, 0, 0, 0), 32, AddrClass::Teredo),
    (v6(0x2001, 2, 0, 0), 48, AddrClass::Benchmarking),
    (v6(0x2001, 0, 0, 0), 23, AddrClass::Reserved),
    (v6(0x2001, 0xdb8, 0, 0), 32, AddrClass::Documentation),
    (v6(0x2002, 0, 0, 0), 16, AddrClass::SixToFour),
    (v6(0x2620, 0x4f, 0x8000, 0), 48, AddrClass::Reserved),
    (v6(0x3ffe, 0, 0, 0), 16, AddrClass::Reserved),
    (v6(0x3fff, 0, 0, 0), 20, AddrClass::Documentation),
];

/// Outside `2000::/3` all is refused; this table only finds a better name than "reserved".
const V6_OUTSIDE: [(u128, u32, AddrClass); 12] = [
    (0, 128, AddrClass::Unspecified),
    (1, 128, AddrClass::Loopback),
    (0xffff_0000_0000, 96, AddrClass::Mapped),
    (0xffff_0000_0000_0000, 96, AddrClass::Compatible),
    (0x5efe_0000_0000, 96, AddrClass::Compatible),
    (0, 96, AddrClass::Compatible),
    (v6(0x64, 0xff9b, 0, 0), 96, AddrClass::Nat64),
    (v6(0x64, 0xff9b, 1, 0), 48, AddrClass::Nat64),
    (v6(0xfc00, 0, 0, 0), 7, AddrClass::Private),
    (v6(0xfe80, 0, 0, 0), 10, AddrClass::LinkLocal),
    (v6(0xfec0, 0, 0, 0), 10, AddrClass::Private),
    (v6(0xff00, 0, 0, 0), 8, AddrClass::Multicast),
];

/// Says what an address is for. No embedded IPv4 address is ever taken out and judged in its place.
pub fn classify(ip: IpAddr) -> AddrClass {
    match ip {
        IpAddr::V4(ip) => classify_v4(ip),
        IpAddr::V6(ip) => classify_v6(ip),
    }
}

fn classify_v4(ip: Ipv4Addr) -> AddrClass {
    let bits = u32::from(ip);
    let hit = V4_REFUSED.iter().find(|(base, len, _)| (bits ^ base) >> (32 - len) == 0);
    hit.map_or(AddrClass::Global, |(_, _, class)| *class)
}

fn classify_v6(ip: Ipv6Addr) -> AddrClass {
    let bits = u128::from(ip);
    let inside = |(base, len, _): &&(u128, u32, AddrClass)| (bits ^ base) >> (128 - len) == 0;
    if bits >> 125 == 0b001 {
        V6_REFUSED.iter().find(inside).map_or(AddrClass::Global, |(_, _, class)| *class)
    } else {
        V6_OUTSIDE.iter().find(inside).map_or(AddrClass::Reserved, |(_, _, class)| *class)
    }
}
