//! The address guard: from a host to the addresses that may be dialled.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver as Hickory, TokioResolver};
use tokio::sync::Semaphore;

use super::connect::is_ours;
use super::{DIALS_MAX, DNS_BUDGET, DNS_SLOTS, Names, SetupError};
use crate::types::delivery::{Fault, Phase};
use crate::types::target::{AddrClass, UrlPolicy, is_localhost};

/// Resolves and vets.
pub(super) struct Guard {
    policy: UrlPolicy,
    resolver: Resolver,
    slots: Semaphore,
}

enum Resolver {
    System(Box<TokioResolver>),
    Fixed(BTreeMap<String, Vec<IpAddr>>),
}

/// Addresses that may be dialled, the best first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Vetted {
    pub addresses: Vec<IpAddr>,
    /// False for literals and names that mean loopback by themselves.
    pub looked_up: bool,
}

impl Guard {
    pub fn new(policy: UrlPolicy, names: Names) -> Result<Guard, SetupError> {
        let resolver = match names {
            Names::System => Resolver::System(Box::new(build(system()?)?)),
            Names::Servers(servers) => Resolver::System(Box::new(build(asking(servers))?)),
            Names::Fixed(table) => Resolver::Fixed(table),
        };
        Ok(Guard { policy, resolver, slots: Semaphore::new(DNS_SLOTS) })
    }

    /// The addresses of a URL's host (IPv6 literals in brackets). One that is forbidden refuses them all: a name
    /// with a public and an inner address is an attack or a mistake.
    pub async fn vet(&self, host: &str) -> Result<Vetted, Fault> {
        let (mut addresses, looked_up) = self.find(host).await?;
        for ip in &addresses {
            self.permits(host, *ip)?;
        }
        // IPv4 first: a server without an IPv6 route is common, one without an IPv4 route is not.
        addresses.sort_by_key(IpAddr::is_ipv6);
        addresses.truncate(DIALS_MAX);
        if addresses.is_empty() { Err(Fault::Dns) } else { Ok(Vetted { addresses, looked_up }) }
    }

    /// Every address of the host, forbidden or not, and whether a name server was asked.
    pub async fn find(&self, host: &str) -> Result<(Vec<IpAddr>, bool), Fault> {
        match literal(host) {
            Some(ip) => Ok((vec![ip], false)),
            None => tokio::time::timeout(DNS_BUDGET, self.look_up(host))
                .await
                .unwrap_or(Err(Fault::Timeout(Phase::Dns))),
        }
    }

    /// Whether the host may be dialled at this address; the error names its class.
    pub fn classify(&self, host: &str, ip: IpAddr) -> Result<(), AddrClass> {
        self.policy.permits_at(host, ip)
    }

    /// The same question about a single address, asked again of the peer of a standing connection.
    pub fn permits(&self, host: &str, ip: IpAddr) -> Result<(), Fault> {
        self.classify(host, ip).map_err(Fault::Refused)
    }

    async fn look_up(&self, host: &str) -> Result<(Vec<IpAddr>, bool), Fault> {
        if is_localhost(host) && !self.is_fixed(host) {
            // Never sent to a name server (RFC 6761, 6.3).
            return Ok((vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()], false));
        }
        match &self.resolver {
            Resolver::Fixed(table) => table.get(host).map(|ips| (ips.clone(), true)).ok_or(Fault::Dns),
            Resolver::System(resolver) => {
                let _slot = self.slots.acquire().await.map_err(|_| Fault::Dns)?;
                // The final dot keeps the machine's search list out: it would lead to inner names. Names that
                // the operator vouches for are inner names.
                let name = if self.policy.trusts(host) { host.to_owned() } else { format!("{host}.") };
                let found = resolver.lookup_ip(name).await;
                let found = found.map_err(|e| match e {
                    NetError::Io(e) if is_ours(&e) => Fault::NoSocket,
                    // It does not say why.
                    NetError::NoConnections if lacks_sockets() => Fault::NoSocket,
                    _ => Fault::Dns,
                })?;
                Ok((found.iter().collect(), true))
            }
        }
    }

    fn is_fixed(&self, host: &str) -> bool {
        match &self.resolver {
            Resolver::Fixed(table) => table.contains_key(host),
            Resolver::System(_) => false,
        }
    }
}

fn lacks_sockets() -> bool {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_err_and(|e| is_ours(&e))
}

/// The address that a URL's host writes out, if it does.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host).parse().ok()
}

type Source = (ResolverConfig, ResolverOpts);

fn system() -> Result<Source, SetupError> {
    hickory_resolver::system_conf::read_system_conf().map_err(|e| SetupError::Resolver(e.to_string()))
}

fn asking(servers: Vec<SocketAddr>) -> Source {
    let server = |at: SocketAddr| {
        let mut server = NameServerConfig::udp_and_tcp(at.ip());
        for connection in &mut server.connections {
            connection.port = at.port();
        }
        server
    };
    let servers = servers.into_iter().map(server).collect();
    (ResolverConfig::from_name_servers(servers), ResolverOpts::default())
}

fn build((config, mut options): Source) -> Result<TokioResolver, SetupError> {
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // Three tries fit into the budget.
    options.timeout = Duration::from_secs(1);
    options.attempts = 2;
    // A receiver that moved is found again within a minute, one that appeared within seconds.
    options.positive_max_ttl = Some(Duration::from_secs(60));
    options.negative_max_ttl = Some(Duration::from_secs(5));
    Hickory::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|e| SetupError::Resolver(e.to_string()))
}
