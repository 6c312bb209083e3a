mod registries;

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const CORPUS: &str = include_str!("../../../tests/vectors/ssrf-corpus.jsonl");

fn rows(kind: &str) -> Vec<Value> {
    let all = CORPUS.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    all.filter(|r| r["kind"] == kind).collect()
}

fn dev() -> UrlPolicy {
    UrlPolicy { dev: true, ..UrlPolicy::default() }
}

fn rule(raw: &str, policy: &UrlPolicy) -> &'static str {
    CallbackUrl::check(raw, policy).map_or_else(|e| rule_of(&e), |_| "ok")
}

#[test]
fn every_address_of_the_corpus() {
    let rows = rows("address");
    for row in &rows {
        let ip: IpAddr = row["input"].as_str().unwrap().parse().unwrap();
        let permitted = UrlPolicy::default().permits(ip).is_ok();
        assert_eq!(permitted, row["verdict"] == "allow", "{row}");
    }
    assert_eq!(rows.len(), 76);
}

#[test]
fn every_url_of_the_corpus() {
    let rows = rows("url");
    for row in &rows {
        let checked = CallbackUrl::check(row["input"].as_str().unwrap(), &UrlPolicy::default());
        assert_eq!(checked.is_ok(), row["verdict"] == "allow", "{row}: {checked:?}");
        if let Ok(url) = checked {
            let host = row["host"].as_str().unwrap().trim_end_matches('.');
            assert_eq!(url.host().trim_matches(['[', ']']), host, "{row}");
            assert_eq!(url.uri().host(), Some(url.host()));
            assert_eq!(CallbackUrl::check(url.as_str(), &UrlPolicy::default()), Ok(url.clone()));
        }
    }
    assert_eq!(rows.len(), 107);
}

const V4_RANGES: &str = "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 \
    192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 \
    198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 168.63.129.16/32";
const V6_RANGES: &str = "2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3ffe::/16 3fff::/20";

/// The promised list as text, read by `ipnet`: shares no code and no table with the classifier.
fn forbidden(ip: IpAddr) -> bool {
    thread_local! {
        static NETS: Vec<IpNet> = V4_RANGES.split_whitespace().chain(V6_RANGES.split_whitespace()).map(|n| n.parse().unwrap()).collect();
    }
    let outside = match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => !(0x2000..=0x3fff).contains(&ip.segments()[0]),
    };
    outside || NETS.with(|nets| nets.iter().any(|n| n.contains(&ip)))
}

/// SplitMix64: a fixed series, so a failure repeats.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Half of the addresses are plainly random, half share a refused or embedding prefix, where mistakes live.
fn address(state: &mut u64) -> IpAddr {
    const HEADS: [u128; 8] = [
        0x2001 << 112,
        0x2001_0db8 << 96,
        0x2620_004f_8000 << 80,
        0x3fff << 112,
        0xffff_0000_0000,
        0x0064_ff9b << 96,
        0x2002 << 112,
        0x2000 << 112,
    ];
    let pick = next(state);
    let wide = (u128::from(next(state)) << 64) | u128::from(next(state));
    let head = HEADS[(pick >> 8) as usize % HEADS.len()];
    match pick % 4 {
        0 => IpAddr::from((wide as u32).to_be_bytes()),
        1 => IpAddr::from(
            ([192, 198, 203, 100, 172, 169, 168, 10][pick as usize >> 8 & 7] as u32 | (wide as u32 & !0xff))
                .to_le_bytes(),
        ),
        2 => IpAddr::from(wide.to_be_bytes()),
        3.. => IpAddr::from((head | (wide >> (16 + (pick >> 16) % 96))).to_be_bytes()),
    }
}

#[test]
fn a_million_addresses_agree_with_another_reading_of_the_list() {
    let mut state = 1;
    let policy = UrlPolicy::default();
    let mut seen: HashMap<AddrClass, u32> = HashMap::new();
    for _ in 0..1_000_000 {
        let ip = address(&mut state);
        assert_eq!(policy.permits(ip).is_err(), forbidden(ip), "{ip}");
        *seen.entry(classify(ip)).or_default() += 1;
    }
    assert!(seen[&AddrClass::Global] > 100_000 && seen.len() >= 12, "{seen:?}");
}

#[test]
fn every_edge_of_every_range() {
    let edges = [
        V4_RANGES.split_whitespace().collect::<Vec<_>>(),
        V6_RANGES.split_whitespace().chain(["2000::/3"]).collect(),
    ];
    for net in edges.concat().into_iter().map(|n| n.parse::<IpNet>().unwrap()) {
        let (first, last) = (net.network(), net.broadcast());
        for ip in [Some(first), Some(last), step(first, -1), step(last, 1)].into_iter().flatten() {
            assert_eq!(UrlPolicy::default().permits(ip).is_err(), forbidden(ip), "{ip} of {net}");
        }
    }
}

fn step(ip: IpAddr, by: i8) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => Some(IpAddr::from(u32::from(ip).checked_add_signed(by.into())?.to_be_bytes())),
        IpAddr::V6(ip) => Some(IpAddr::from(u128::from(ip).checked_add_signed(by.into())?.to_be_bytes())),
    }
}

#[test]
fn refused_addresses_are_named() {
    for (ip, name) in [
        ("8.8.8.8", "global"),
        ("0.1.2.3", "unspecified"),
        ("10.0.0.5", "private"),
        ("127.9.9.9", "loopback"),
        ("169.254.169.254", "link-local"),
        ("100.100.100.200", "cgnat"),
        ("239.1.1.1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("203.0.113.9", "documentation"),
        ("198.19.0.1", "benchmarking"),
        ("168.63.129.16", "platform"),
        ("192.88.99.1", "6to4"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::ffff:8.8.8.8", "ipv4-mapped"),
        ("::7f00:1", "ipv4-compatible"),
        ("::ffff:0:7f00:1", "ipv4-compatible"),
        ("::5efe:7f00:1", "ipv4-compatible"),
        ("64:ff9b::a00:1", "nat64"),
        ("64:ff9b:1::1", "nat64"),
        ("2001::1", "teredo"),
        ("2001:2::1", "benchmarking"),
        ("2001:1ff::1", "reserved"),
        ("2001:db8::1", "documentation"),
        ("2002:7f00:1::", "6to4"),
        ("fd00:ec2::254", "private"),
        ("fe80::1", "link-local"),
        ("fec0::1", "private"),
        ("ff02::1", "multicast"),
        ("4000::1", "reserved"),
        ("2606:4700:4700::1111", "global"),
    ] {
        assert_eq!(classify(ip.parse().unwrap()).name(), name, "{ip}");
    }
}

#[test]
fn the_normalised_form_is_what_is_shown_and_dialled() {
    let url = CallbackUrl::check("HTTPS://EXAMPLE.com.:8443/a/../b?q=1", &UrlPolicy::default()).unwrap();
    assert_eq!(url.to_string(), "https://example.com:8443/b?q=1");
    assert_eq!((url.host(), url.port()), ("example.com", 8443));
    assert_eq!(url.origin(), "https://example.com:8443");
    assert_eq!(serde_json::to_value(&url).unwrap(), url.as_str());
    let six = CallbackUrl::check("https://[2606:4700::1]:443/", &UrlPolicy::default()).unwrap();
    assert_eq!(
        (six.host(), six.port(), six.origin().as_str()),
        ("[2606:4700::1]", 443, "https://[2606:4700::1]")
    );
}

#[test]
fn each_rule_is_named() {
    let long = format!("https://example.com/{}", "a".repeat(2_029));
    for (raw, want) in [
        (long.as_str(), "too-long"),
        ("https://exam\tple.com/", "character"),
        ("ftp://example.com/", "scheme"),
        ("https:example.com", "scheme"),
        ("https:///path", "host"),
        ("https://u:p@example.com/", "credentials"),
        ("https://%31.1.1.1/", "encoded-host"),
        ("https://example.com/#x", "fragment"),
        ("https://example.com:99999/", "syntax"),
        ("https://-x.example.com/", "host-name"),
        ("https://exa..mple.com/", "host-name"),
        ("http://example.com/", "http"),
        ("https://example.com:22/", "port"),
        ("https://example.com:0/", "port"),
        ("https://x.internal/", "special-name"),
        ("https://printer/", "single-label"),
        ("https://0x7f.1/", "address"),
        ("https://example.com/?a=b%40c@d", "ok"),
    ] {
        assert_eq!(rule(raw, &UrlPolicy::default()), want, "{raw}");
        let refused = CallbackUrl::check(raw, &UrlPolicy::default()).err();
        let blocked = ["http", "port", "special-name", "single-label", "address"].contains(&want);
        assert_eq!(refused.is_some_and(|r| r.is_blocked()), blocked, "{raw}");
        assert!(refused.is_none_or(|r| r.to_string().starts_with(want)), "{raw}");
    }
}

#[test]
fn allowances_open_what_they_say_and_no_more() {
    let http = UrlPolicy { allow_http: true, ..UrlPolicy::default() };
    let port = UrlPolicy { allow_ports: vec![9000], ..UrlPolicy::default() };
    let cidr = UrlPolicy { allow_cidrs: vec!["10.1.0.0/16".parse().unwrap()], ..UrlPolicy::default() };
    let host = UrlPolicy { allow_hosts: vec!["reports".into()], allow_http: true, ..UrlPolicy::default() };
    for (policy, raw, want) in [
        (&http, "http://example.com/", "ok"),
        (&http, "http://example.com:8080/", "ok"),
        (&http, "https://example.com:8080/", "port"),
        (&http, "http://example.com:8443/", "port"),
        (&http, "http://10.0.0.1/", "address"),
        (&port, "https://example.com:9000/", "ok"),
        (&port, "https://example.com:9001/", "port"),
        (&cidr, "https://10.1.2.3:22/", "ok"),
        (&cidr, "https://10.2.2.3/", "address"),
        (&cidr, "https://[::ffff:10.1.2.3]/", "address"),
        (&cidr, "http://10.1.2.3/", "http"),
        (&cidr, "https://example.com:22/", "port"),
        (&host, "http://reports:9999/generate", "ok"),
        (&host, "http://report/", "single-label"),
        (&dev(), "http://localhost:3000/", "ok"),
        (&dev(), "http://api.localhost:3000/", "ok"),
        (&dev(), "http://127.0.0.1:1/", "ok"),
        (&dev(), "https://[::1]:9/", "ok"),
        (&dev(), "http://127.0.0.1:0/", "port"),
        (&dev(), "http://[::ffff:127.0.0.1]/", "address"),
        (&dev(), "http://10.0.0.1/", "address"),
        (&dev(), "http://example.com:3000/", "port"),
        (&dev(), "http://example.com/", "ok"),
    ] {
        assert_eq!(rule(raw, policy), want, "{raw}");
    }
}

#[test]
fn a_host_the_operator_vouches_for_may_resolve_to_anything() {
    let policy = UrlPolicy { allow_hosts: vec!["Reports".into()], ..UrlPolicy::default() };
    let inner = "172.18.0.2".parse().unwrap();
    assert_eq!(policy.permits_at("reports", inner), Ok(()));
    assert_eq!(policy.permits_at("example.com", inner), Err(AddrClass::Private));
}

proptest! {
    #[test]
    fn any_v4(bits: u32) {
        let ip = IpAddr::from(bits.to_be_bytes());
        prop_assert_eq!(UrlPolicy::default().permits(ip).is_err(), forbidden(ip));
    }

    #[test]
    fn any_v6(bits: u128) {
        let ip = IpAddr::from(bits.to_be_bytes());
        prop_assert_eq!(UrlPolicy::default().permits(ip).is_err(), forbidden(ip));
    }

    #[test]
    fn any_text_is_refused_or_has_one_spelling(tail in ".{0,80}", head in "(https?://)?") {
        if let Ok(url) = CallbackUrl::check(&format!("{head}{tail}"), &UrlPolicy::default()) {
            prop_assert_eq!(CallbackUrl::check(url.as_str(), &UrlPolicy::default()), Ok(url));
        }
    }
}

/// The kebab-case name of the rule that refused.
fn rule_of(refusal: &UrlRefusal) -> &'static str {
    match refusal {
        UrlRefusal::TooLong => "too-long",
        UrlRefusal::Character => "character",
        UrlRefusal::Scheme => "scheme",
        UrlRefusal::Host => "host",
        UrlRefusal::Credentials => "credentials",
        UrlRefusal::EncodedHost => "encoded-host",
        UrlRefusal::Fragment => "fragment",
        UrlRefusal::Syntax => "syntax",
        UrlRefusal::HostName => "host-name",
        UrlRefusal::HttpNotAllowed => "http",
        UrlRefusal::Port(_) => "port",
        UrlRefusal::SpecialName => "special-name",
        UrlRefusal::SingleLabel => "single-label",
        UrlRefusal::Address(_) => "address",
    }
}
