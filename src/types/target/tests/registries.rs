//! The guard against a second witness: the IANA registries themselves, and every way to write IPv4 inside IPv6.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;

/// The IANA special-purpose address registries (RFC 6890 and its updates), every row that is not "globally
/// reachable", and the multicast registries. A row below another one is written out as they have it.
const SET_ASIDE: &str = "0.0.0.0/8 0.0.0.0/32 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 \
    192.0.0.0/29 192.0.0.8/32 192.0.0.170/32 192.0.0.171/32 192.0.2.0/24 192.88.99.0/24 192.88.99.2/32 192.168.0.0/16 \
    198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 255.255.255.255/32 224.0.0.0/4 \
    ::1/128 ::/128 ::ffff:0:0/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001::/32 2001:2::/48 2001:10::/28 \
    2001:db8::/32 2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 ff00::/8";

/// `bits` of an address below the network's own.
fn within(net: IpNet, bits: u128) -> IpAddr {
    match net {
        IpNet::V4(net) => {
            let host = u32::from(net.hostmask()) & bits as u32;
            IpAddr::from((u32::from(net.network()) | host).to_be_bytes())
        }
        IpNet::V6(net) => {
            let host = u128::from(net.hostmask()) & bits;
            IpAddr::from((u128::from(net.network()) | host).to_be_bytes())
        }
    }
}

fn wide(state: &mut u64) -> u128 {
    (u128::from(next(state)) << 64) | u128::from(next(state))
}

#[test]
fn nothing_that_a_registry_sets_aside_is_reached() {
    let (policy, mut state) = (UrlPolicy::default(), 2);
    for net in SET_ASIDE.split_whitespace().map(|n| n.parse::<IpNet>().unwrap()) {
        let random = (0..5_000).map(|_| wide(&mut state));
        for ip in random.chain([0, u128::MAX]).map(|bits| within(net, bits)) {
            assert!(policy.permits(ip).is_err(), "{ip} of {net}");
        }
    }
}

/// IPv6 addresses that lead, or once led, to this IPv4 address; `more` fills what the form leaves open.
fn forms(v4: Ipv4Addr, more: u128) -> [Ipv6Addr; 9] {
    let bits = u128::from(u32::from(v4));
    let high = |word: u128| word << 112;
    let nat64 = high(0x64) | (0xff9b << 96);
    [
        // Mapped, translated (SIIT), compatible.
        (0xffff << 32) | bits,
        (0xffff << 48) | bits,
        bits,
        // NAT64: the well-known prefix, and local ones of 96 and 48 bits (the latter leaves octet 8 out).
        nat64 | bits,
        nat64 | (1 << 80) | bits,
        nat64 | (1 << 80) | ((bits >> 16) << 64) | ((bits & 0xffff) << 40),
        // 6to4: the address follows the prefix, the rest is the site's own.
        high(0x2002) | (bits << 80) | (more >> 48),
        // Teredo: server, flags, port, and the client's address with every bit turned.
        high(0x2001) | (bits << 64) | (more & 0xffff_ffff) << 32 | u128::from(!u32::from(v4)),
        // ISATAP, link-local.
        high(0xfe80) | (0x5efe << 32) | bits,
    ]
    .map(Ipv6Addr::from)
}

#[test]
fn no_form_of_any_ipv4_address_inside_ipv6_is_reached() {
    let (policy, mut state) = (UrlPolicy::default(), 3);
    let known = forms(Ipv4Addr::new(10, 1, 2, 3), 0);
    let written =
        ["::ffff:10.1.2.3", "::ffff:0:10.1.2.3", "::10.1.2.3", "64:ff9b::10.1.2.3", "64:ff9b:1::10.1.2.3"];
    assert_eq!(known[..5], written.map(|w| w.parse::<Ipv6Addr>().unwrap()));
    assert_eq!(known[6], "2002:a01:203::".parse::<Ipv6Addr>().unwrap());
    for _ in 0..100_000 {
        let (v4, more) = (Ipv4Addr::from((next(&mut state) as u32).to_be_bytes()), wide(&mut state));
        for ip in forms(v4, more) {
            assert!(policy.permits(ip.into()).is_err(), "{ip} holds {v4}");
        }
    }
}
