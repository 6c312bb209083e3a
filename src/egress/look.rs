//! A look at a receiver without a request: its addresses and what the guard says of them, TCP, TLS, the certificate.

use std::net::IpAddr;
use std::time::Duration;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::connect::Connector;
use super::gate::Trail;
use super::guard::Guard;
use super::{BootTime, CONNECT_BUDGET, Options, SetupError};
use crate::types::Millis;
use crate::types::delivery::{Fault, TlsFault};
use crate::types::target::{AddrClass, CallbackUrl};

/// An address, and its class if the guard refuses it.
pub type Judged = (IpAddr, Result<(), AddrClass>);

/// How far a look came. What was not tried, because something before it failed, is None.
#[derive(Debug)]
pub struct Look {
    /// Every address of the name and what the guard says of it; not cut to those that would be dialled.
    pub addresses: Result<Vec<Judged>, Fault>,
    /// How long the name look-up took; None for an address that the URL writes out.
    pub dns: Option<Duration>,
    /// How long the connection took.
    pub tcp: Option<Result<Duration, Fault>>,
    /// What the receiver showed, if it is asked over TLS; a certificate that is not acceptable is a fault.
    pub tls: Option<Result<Certificate, Fault>>,
}

/// A certificate that was accepted for the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// When it is no longer valid.
    pub not_after: Millis,
    /// The names and addresses that it is for.
    pub names: Vec<String>,
    /// Who signed it.
    pub issuer: String,
}

/// Looks; dials nothing that the guard refuses, and writes no byte of HTTP.
pub async fn look(options: Options, url: &CallbackUrl) -> Result<Look, SetupError> {
    let budgets = options.budgets();
    let guard = Guard::new(options.policy, options.names)?;
    let start = BootTime::now();
    let found = guard.find(url.host()).await;
    let took = BootTime::now().since(start);
    let (addresses, looked_up) = match found {
        Ok(found) => found,
        Err(fault) => return Ok(Look { addresses: Err(fault), dns: Some(took), tcp: None, tls: None }),
    };
    let judge = |ip: &IpAddr| (*ip, guard.classify(url.host(), *ip));
    let judged: Vec<_> = addresses.iter().map(judge).collect();
    let free = !judged.is_empty() && judged.iter().all(|(_, verdict)| verdict.is_ok());
    let mut look = Look { addresses: Ok(judged), dns: looked_up.then_some(took), tcp: None, tls: None };
    if free {
        Connector::new(guard, options.extra_roots, budgets)?.look(url, &mut look).await;
    }
    Ok(look)
}

impl Connector {
    async fn look(&self, url: &CallbackUrl, look: &mut Look) {
        let trail = Trail::default();
        let start = BootTime::now();
        let standing = tokio::time::timeout(CONNECT_BUDGET, self.stand_for(url, &trail)).await;
        let standing = standing.unwrap_or_else(|_| Err(Fault::Timeout(trail.steps().phase)));
        let secure = url.uri().scheme_str() == Some("https");
        let connected = trail.steps().phases.connect_ms;
        let took =
            connected.map_or_else(|| BootTime::now().since(start), |ms| Duration::from_millis(ms.into()));
        match standing {
            Err(fault) if connected.is_none() => look.tcp = Some(Err(fault)),
            Err(fault) => (look.tcp, look.tls) = (Some(Ok(took)), Some(Err(fault))),
            Ok(shown) => {
                look.tcp = Some(Ok(took));
                let read = |der: Vec<u8>| certificate(&der).ok_or(Fault::Tls(TlsFault::Certificate));
                look.tls = secure.then(|| shown.ok_or(Fault::Tls(TlsFault::Certificate)).and_then(read));
            }
        }
    }
}

/// What the certificate says; None if it is none.
fn certificate(der: &[u8]) -> Option<Certificate> {
    let (_, read) = X509Certificate::from_der(der).ok()?;
    let names = read.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.iter().filter_map(name).collect());
    Some(Certificate {
        not_after: Millis(read.validity().not_after.timestamp().saturating_mul(1_000)),
        names: names.unwrap_or_default(),
        issuer: read.issuer().to_string(),
    })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    }
}
