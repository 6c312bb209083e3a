//! `ringback doctor URL`: holds a receiver against what a webhook receiver must do, and reports it.

mod checks;
mod event;
mod report;

use std::process::ExitCode;

use anyhow::Context;
use ipnet::IpNet;

use super::exit::{Exit, Usage};
use super::print::Out;
use super::sign::SecretText;
use crate::clock::Clock;
use crate::dice::Dice;
use crate::egress::{self, Sender, look};
use crate::types::signature::Secret;
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
    /// The secret that the receiver verifies with, `whsec_...`; without it only what must be refused is sent.
    #[arg(long, env = "RINGBACK_SECRET", hide_env_values = true)]
    secret: Option<SecretText>,
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

    fn secret(&self) -> anyhow::Result<Option<Secret>> {
        let text =
            self.secret.as_ref().map(|text| text.given().ok_or_else(|| Usage("--secret is empty".into())));
        let secret = text.transpose()?.map(Secret::parse_lenient);
        secret.transpose().context("--secret")
    }
}

/// Runs `ringback doctor`.
pub async fn run(args: DoctorArgs, out: Out) -> anyhow::Result<ExitCode> {
    let report = examine(&args).await?;
    report.print(out)?;
    let sound = report.worst() != Verdict::Fail;
    Ok(if sound { Exit::Done } else { Exit::Failed }.into())
}

async fn examine(args: &DoctorArgs) -> anyhow::Result<Report> {
    let secret = args.secret()?;
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
    let probe = Probe { url, sender, clock, dice: Dice::Os, secret };
    probe.run(&mut report).await;
    Ok(report)
}
