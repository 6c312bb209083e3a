//! `ringback doctor URL`: holds a receiver against what a webhook receiver must do, and reports it.

mod checks;
mod event;
mod report;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::exit::{self, Exit, Usage};
use super::print::Out;
use super::sign::{SchemeArg, SecretText};
use crate::clock::Clock;
use crate::dice::Dice;
use crate::egress::{self, Sender, look};
use crate::types::signature::asymmetric::PrivateKey;
use crate::types::signature::schemes::{Scheme, SigningKey};
use crate::types::signature::{BadSecret, Secret};
use crate::types::target::{CallbackUrl, UrlPolicy};
use checks::Probe;
use report::{Report, Verdict};

/// Look at a webhook receiver as the service would, send it good and bad test events, and report.
///
/// Exit 0 if it does all that a receiver must, 1 if not. The events are of type `webhook.test`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// The receiver's URL.
    url: String,
    /// What the receiver verifies with: `whsec_...`, or for v1a the private key `whsk_...` to its public one; without it
    /// only what must be refused is sent.
    #[arg(long, env = "RINGBACK_SECRET", hide_env_values = true)]
    secret: Option<SecretText>,
    /// Which signature the receiver verifies; `v1` is always sent, as by the service.
    #[arg(long, env = "RINGBACK_SCHEME", value_enum, default_value = "v1")]
    scheme: SchemeArg,
    /// A header that the endpoint or the callback brings along, `NAME: VALUE`; repeatable.
    #[arg(long = "header", env = "RINGBACK_HEADER", hide_env_values = true, value_name = "HEADER")]
    headers: Vec<SecretText>,
    /// A receiver on this machine: loopback, any port, and http.
    #[arg(long, env = "RINGBACK_ALLOW_LOOPBACK")]
    allow_loopback: bool,
    /// As with `serve`: a range that may be reached although it is not public; repeatable.
    #[arg(long, env = "RINGBACK_ALLOW_CIDR", value_delimiter = ',', value_name = "CIDR")]
    allow_cidr: Vec<IpNet>,
    /// As with `serve`: a port beside 443 and 8443; repeatable.
    #[arg(long, env = "RINGBACK_ALLOW_PORT", value_delimiter = ',', value_name = "N")]
    allow_port: Vec<u16>,
    /// As with `serve`: http too.
    #[arg(long, env = "RINGBACK_ALLOW_HTTP")]
    allow_http: bool,
}

impl DoctorArgs {
    fn policy(&self) -> UrlPolicy {
        UrlPolicy {
            allow_http: self.allow_http,
            allow_ports: self.allow_port.clone(),
            allow_cidrs: self.allow_cidr.clone(),
            dev: self.allow_loopback,
            ..UrlPolicy::default()
        }
    }

    /// The key that signs as the receiver expects, and how beside `v1`.
    fn key(&self, dice: &Dice) -> anyhow::Result<(Option<SigningKey>, Vec<Scheme>)> {
        let text =
            self.secret.as_ref().map(|text| text.given().ok_or_else(|| Usage("--secret is empty".into())));
        let text = text.transpose()?;
        let asymmetric = text.is_some_and(PrivateKey::is_named_by);
        let schemes = match (self.scheme, asymmetric) {
            (SchemeArg::V1, false) => vec![],
            (SchemeArg::V1, true) => vec![Scheme::V1a],
            (SchemeArg::Github, false) => vec![Scheme::Github],
            (SchemeArg::Stripe, false) => vec![Scheme::Stripe],
            (SchemeArg::Github | SchemeArg::Stripe, true) => {
                return Err(Usage("this scheme signs with a secret, whsec_...".to_owned()).into());
            }
        };
        let key = text.map(|text| -> Result<SigningKey, BadSecret> {
            match asymmetric {
                true => {
                    let nobodys = Secret::from_bytes(&dice.bytes::<32>())?;
                    Ok(SigningKey::with_private(nobodys, PrivateKey::parse(text)?))
                }
                false => Secret::parse_lenient(text).map(SigningKey::from),
            }
        });
        Ok((key.transpose().context("--secret")?, schemes))
    }

    /// As strictly as those of a callback.
    fn headers(&self) -> anyhow::Result<HeaderMap> {
        let mut given = BTreeMap::new();
        for text in &self.headers {
            let field = text.reveal().split_once(':');
            let (name, value) = field.ok_or_else(|| Usage("--header must be NAME: VALUE".to_owned()))?;
            given.insert(name.trim().to_owned(), value.trim().to_owned());
        }
        let mut headers = HeaderMap::new();
        for (name, value) in crate::types::submit::headers("--header", Some(given))? {
            headers.insert(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(&value)?);
        }
        Ok(headers)
    }
}

/// Runs `ringback doctor`.
pub async fn run(args: DoctorArgs, out: Out) -> anyhow::Result<ExitCode> {
    let report = examine(&args).await?;
    let sound = report.worst() != Verdict::Fail;
    exit::told(if sound { Exit::Done } else { Exit::Failed }, report.print(out))
}

async fn examine(args: &DoctorArgs) -> anyhow::Result<Report> {
    let dice = Dice::Os;
    let (key, schemes) = args.key(&dice)?;
    let headers = args.headers()?;
    let options = egress::Options { policy: args.policy(), ..egress::Options::default() };
    let mut report = Report::of(&args.url);
    let url = match CallbackUrl::check(&args.url, &options.policy) {
        Ok(url) => url,
        Err(why) => {
            report.fail("url", format!("the service would refuse it: {why}"));
            return Ok(report);
        }
    };
    let clock = Clock::system();
    let seen = look::look(options.clone(), &url).await.context("cannot look at the receiver")?;
    if !checks::way(&mut report, &url, &seen, clock.now()) {
        return Ok(report);
    }
    let sender = Sender::new(options).context("cannot set up the sender")?;
    let probe = Probe { url, sender, clock, dice, key, schemes, headers };
    probe.run(&mut report).await;
    Ok(report)
}
