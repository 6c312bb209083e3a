//! The schemes beside Standard Webhooks, for `sign` and `verify`: here the text of the secret is the key.

use super::super::exit::Usage;
use super::{SecretText, SignArgs, VerifyArgs, explain};
use crate::types::signature::TOLERANCE_SECONDS;
use crate::types::signature::schemes::hex::{self, BadHex};

/// Which header is made or checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SchemeArg {
    /// `webhook-signature`, Standard Webhooks: `v1` for a secret, `v1a` for an Ed25519 key.
    V1,
    /// `x-hub-signature-256`, over the body alone; takes one secret.
    Github,
    /// `stripe-signature`, over a timestamp and the body, without an id.
    Stripe,
}

/// The value of that scheme's header.
///
/// Errors: [`Usage`] for what the scheme needs and does not have.
pub fn sign(args: &SignArgs, body: &[u8]) -> anyhow::Result<String> {
    let secrets = texts(&args.secrets)?;
    match args.scheme {
        SchemeArg::V1 => super::standard(args, body),
        SchemeArg::Github => match secrets[..] {
            [secret] => Ok(hex::github(secret, body)),
            [..] => Err(Usage("github has room for one signature: give one --secret".to_owned()).into()),
        },
        SchemeArg::Stripe => Ok(hex::stripe(&secrets, needed(args.timestamp, "--timestamp")?, body)),
    }
}

/// Why the signature is refused, as a word and a sentence; None if it is good.
///
/// Errors: [`Usage`] for what the scheme needs and does not have.
pub fn verify(args: &VerifyArgs, body: &[u8], at: i64) -> anyhow::Result<Option<(&'static str, String)>> {
    let given = args.at.is_some();
    let secrets = texts(&args.secrets)?;
    let refused = match args.scheme {
        SchemeArg::V1 => {
            let why = super::check_standard(args, body, at)?;
            return Ok(why.map(|why| (why.code(), explain(why, given))));
        }
        SchemeArg::Github => hex::verify_github(&secrets, &args.signature, body),
        SchemeArg::Stripe => hex::verify_stripe(&secrets, &args.signature, body, at, TOLERANCE_SECONDS),
    };
    Ok(refused.err().map(|why| (why.code(), in_words(why, given))))
}

fn in_words(why: BadHex, at_given: bool) -> String {
    let late = matches!(why, BadHex::TooOld { .. }) && !at_given;
    if late { format!("{why}; judge an old delivery with --at") } else { why.to_string() }
}

/// What an option holds that its scheme cannot do without.
pub fn needed<T>(value: Option<T>, flag: &str) -> Result<T, Usage> {
    value.ok_or_else(|| Usage(format!("{flag} is required for this scheme")))
}

fn texts(secrets: &[SecretText]) -> Result<Vec<&str>, Usage> {
    let one = |text: &'_ SecretText| text.given().is_some();
    if !secrets.iter().all(one) {
        return Err(Usage("--secret is empty".to_owned()));
    }
    Ok(secrets.iter().filter_map(SecretText::given).collect())
}
