//! `ringback sign` and `ringback verify`: a webhook's signature by hand, with the body on standard input.

mod scheme;

use std::convert::Infallible;
use std::fmt;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context;
use zeroize::Zeroizing;

pub(super) use scheme::SchemeArg;
use scheme::needed;

use super::exit::{self, Exit};
use crate::types::signature::asymmetric::{self, PrivateKey, PublicKey};
use crate::types::signature::{self, BadSecret, BadSignature, Secret, TOLERANCE_SECONDS};

/// A secret as it was typed.
///
/// Read by us and not by clap, whose errors quote the value, and redacted in `Debug`.
#[derive(Clone)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The text without the line break that files leave behind; None if nothing else is in it.
    pub fn given(&self) -> Option<&str> {
        Some(self.0.trim()).filter(|text| !text.is_empty())
    }
}

impl FromStr for SecretText {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(SecretText(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(redacted)")
    }
}

/// Print the signature header's value for the body on standard input.
#[derive(Debug, clap::Args)]
pub struct SignArgs {
    /// Which header: `webhook-signature`, or that of another scheme.
    #[arg(long, env = "RINGBACK_SCHEME", value_enum, default_value = "v1")]
    pub scheme: SchemeArg,
    /// Signing secret, `whsec_...`, or for v1a `whsk_...`; repeatable, the items come in this order.
    #[arg(
        long = "secret",
        env = "RINGBACK_SECRET",
        hide_env_values = true,
        required = true,
        value_delimiter = ','
    )]
    pub secrets: Vec<SecretText>,
    /// The `webhook-id`.
    #[arg(long, env = "RINGBACK_ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub id: Option<String>,
    /// The `webhook-timestamp`, in seconds since 1970.
    #[arg(long, env = "RINGBACK_TIMESTAMP", value_parser = clap::value_parser!(i64).range(0..=99_999_999_999))]
    pub timestamp: Option<i64>,
}

/// Check a received signature against the body on standard input; exit 0, or say why not and exit 1.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Which header: `webhook-signature`, or that of another scheme.
    #[arg(long, env = "RINGBACK_SCHEME", value_enum, default_value = "v1")]
    pub scheme: SchemeArg,
    /// Signing secret, `whsec_...`, or for v1a `whpk_...` or `whsk_...`; repeatable, any of them may have signed.
    #[arg(
        long = "secret",
        env = "RINGBACK_SECRET",
        hide_env_values = true,
        required = true,
        value_delimiter = ','
    )]
    pub secrets: Vec<SecretText>,
    /// The `webhook-id` as received.
    #[arg(long, env = "RINGBACK_ID")]
    pub id: Option<String>,
    /// The `webhook-timestamp` as received.
    #[arg(long, env = "RINGBACK_TIMESTAMP", allow_hyphen_values = true)]
    pub timestamp: Option<String>,
    /// The signature header as received.
    #[arg(long, env = "RINGBACK_SIGNATURE")]
    pub signature: String,
    /// When to judge the timestamp, in seconds since 1970; now by default.
    #[arg(long, env = "RINGBACK_AT", value_name = "SECONDS")]
    pub at: Option<i64>,
}

/// Runs `ringback sign`. In JSON the answer is one object with the member `signature`.
///
/// Errors: [`BadSecret`], which is wrong usage (exit 2), or the streams' own.
pub fn run_sign(
    args: &SignArgs,
    json: bool,
    stdin: impl Read,
    mut out: impl Write,
) -> anyhow::Result<ExitCode> {
    let signature = scheme::sign(args, &read(stdin)?)?;
    if json {
        writeln!(out, "{}", serde_json::json!({"signature": signature}))?;
    } else {
        writeln!(out, "{signature}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `ringback verify`; the verdict goes to `out`, a refusal is exit 1.
///
/// In JSON the answer is one object: `valid`, and if it is not, `code` and `detail`.
///
/// Errors: [`BadSecret`], which is wrong usage (exit 2), or the streams' own.
pub fn run_verify(
    args: &VerifyArgs,
    json: bool,
    stdin: impl Read,
    mut out: impl Write,
    now_seconds: i64,
) -> anyhow::Result<ExitCode> {
    let body = read(stdin)?;
    let detail = scheme::verify(args, &body, args.at.unwrap_or(now_seconds))?;
    let exit = if detail.is_none() { Exit::Done } else { Exit::Failed };
    let printed = match (&detail, json) {
        (None, false) => writeln!(out, "valid"),
        (None, true) => writeln!(out, "{}", serde_json::json!({"valid": true})),
        (Some((_, detail)), false) => writeln!(out, "invalid: {detail}"),
        (Some((code, detail)), true) => {
            writeln!(out, "{}", serde_json::json!({"valid": false, "code": code, "detail": detail}))
        }
    };
    exit::told(exit, printed.map_err(Into::into))
}

/// The items of a `webhook-signature`, in the order of the secrets.
fn standard(args: &SignArgs, body: &[u8]) -> anyhow::Result<String> {
    let signers = parse(&args.secrets, Signer::parse)?;
    let id = needed(args.id.as_deref(), "--id")?;
    let timestamp = needed(args.timestamp, "--timestamp")?;
    let items: Vec<String> = signers.iter().map(|signer| signer.item(id, timestamp, body)).collect();
    Ok(items.join(" "))
}

/// Why a `webhook-signature` is refused; None if it is good.
fn check_standard(args: &VerifyArgs, body: &[u8], at: i64) -> anyhow::Result<Option<BadSignature>> {
    let verifiers = Verifiers::parse(&args.secrets)?;
    let seen = Seen {
        id: needed(args.id.as_deref(), "--id")?,
        timestamp: needed(args.timestamp.as_deref(), "--timestamp")?,
        signature: &args.signature,
        body,
    };
    Ok(verifiers.check(&seen, at).err())
}

/// A webhook as it was received.
pub struct Seen<'a> {
    /// The `webhook-id`.
    pub id: &'a str,
    /// The `webhook-timestamp`.
    pub timestamp: &'a str,
    /// The `webhook-signature`.
    pub signature: &'a str,
    /// The raw body.
    pub body: &'a [u8],
}

/// Secrets and public keys, any of which may have signed.
pub struct Verifiers {
    secrets: Vec<Secret>,
    keys: Vec<PublicKey>,
}

impl Verifiers {
    /// Reads `whsec_`, `whpk_` and `whsk_` texts.
    pub fn parse(texts: &[SecretText]) -> anyhow::Result<Verifiers> {
        let (mut secrets, mut keys) = (Vec::new(), Vec::new());
        for verifier in parse(texts, Verifier::parse)? {
            match verifier {
                Verifier::V1(secret) => secrets.push(secret),
                Verifier::V1a(key) => keys.push(key),
            }
        }
        Ok(Verifiers { secrets, keys })
    }

    /// Whether there is nothing to verify with.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty() && self.keys.is_empty()
    }

    /// Holds what was received against them; `at` is seconds since 1970.
    pub fn check(&self, seen: &Seen<'_>, at: i64) -> Result<(), BadSignature> {
        let Seen { id, timestamp, signature: header, body } = *seen;
        let v1 = || signature::verify(&self.secrets, id, timestamp, header, body, at, TOLERANCE_SECONDS);
        let v1a = || asymmetric::verify(&self.keys, id, timestamp, header, body, at, TOLERANCE_SECONDS);
        match (self.secrets.is_empty(), self.keys.is_empty()) {
            (_, true) => v1(),
            (true, false) => v1a(),
            // Of two refusals the one of `v1` says more.
            (false, false) => v1a().or_else(|_| v1()),
        }
    }
}

fn explain(why: BadSignature, at_given: bool) -> String {
    match why {
        BadSignature::TooOld { .. } if !at_given => format!("{why}; judge an old delivery with --at"),
        BadSignature::MissingId
        | BadSignature::MissingTimestamp
        | BadSignature::MissingSignature
        | BadSignature::BadTimestamp(_)
        | BadSignature::TooOld { .. }
        | BadSignature::TooNew { .. }
        | BadSignature::StraySpace
        | BadSignature::NoVersion
        | BadSignature::NoV1Item
        | BadSignature::NoV1aItem
        | BadSignature::Ed25519Mismatch
        | BadSignature::BadBase64
        | BadSignature::WrongLength { .. }
        | BadSignature::Mismatch(_) => why.to_string(),
    }
}

/// A secret that signs, of either scheme.
enum Signer {
    V1(Secret),
    V1a(PrivateKey),
}

impl Signer {
    fn parse(text: &str) -> Result<Self, BadSecret> {
        if PrivateKey::is_named_by(text) {
            PrivateKey::parse(text).map(Signer::V1a)
        } else {
            Secret::parse(text).map(Signer::V1)
        }
    }

    fn item(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        match self {
            Signer::V1(secret) => signature::sign(std::slice::from_ref(secret), id, timestamp, body),
            Signer::V1a(key) => key.item(id, timestamp, body),
        }
    }
}

/// What verifies, of either scheme.
enum Verifier {
    V1(Secret),
    V1a(PublicKey),
}

impl Verifier {
    fn parse(text: &str) -> Result<Self, BadSecret> {
        if PublicKey::is_named_by(text) {
            PublicKey::parse(text).map(Verifier::V1a)
        } else if PrivateKey::is_named_by(text) {
            PrivateKey::parse(text).map(|key| Verifier::V1a(key.public()))
        } else {
            Secret::parse_lenient(text).map(Verifier::V1)
        }
    }
}

fn parse<T>(texts: &[SecretText], read: fn(&str) -> Result<T, BadSecret>) -> anyhow::Result<Vec<T>> {
    let one = |(at, text): (usize, &SecretText)| {
        read(&text.0).with_context(|| format!("--secret number {}", at + 1))
    };
    texts.iter().enumerate().map(one).collect()
}

fn read(mut stdin: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    stdin.read_to_end(&mut body).context("cannot read the body from standard input")?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const KEY: &str = "whsec_t9Iu17CQUB91WZZiPLt2TUScuZ21l6aI5BIkx/iyoWg=";
    const NOW: i64 = 1_700_000_000;

    #[derive(Parser)]
    struct Cli {
        #[arg(long, global = true)]
        json: bool,
        #[command(subcommand)]
        what: What,
    }

    #[derive(clap::Subcommand)]
    enum What {
        Sign(SignArgs),
        Verify(VerifyArgs),
    }

    fn run(args: &[&str], body: &[u8]) -> (anyhow::Result<ExitCode>, String) {
        let mut out = Vec::new();
        let cli = Cli::try_parse_from([&["ringback"], args].concat()).unwrap();
        let code = match cli.what {
            What::Sign(args) => run_sign(&args, cli.json, body, &mut out),
            What::Verify(args) => run_verify(&args, cli.json, body, &mut out, NOW),
        };
        (code, String::from_utf8(out).unwrap())
    }

    fn verify(extra: &[&str], body: &[u8]) -> (ExitCode, String) {
        let args = ["verify", "--secret", KEY, "--id", "dlv_1", "--timestamp", "1700000000"];
        let (code, out) = run(&[&args, extra].concat(), body);
        (code.unwrap(), out)
    }

    #[test]
    fn what_sign_prints_verify_takes() {
        let args = ["sign", "--secret", KEY, "--secret", KEY, "--id", "dlv_1", "--timestamp", "1700000000"];
        let (code, header) = run(&args, b"{}");
        assert_eq!(code.unwrap(), ExitCode::SUCCESS);
        assert_eq!(header.split_whitespace().count(), 2);
        let good = ["--signature", header.trim()];
        assert_eq!(verify(&good, b"{}"), (ExitCode::SUCCESS, "valid\n".to_owned()));
        assert_eq!(verify(&[&good[..], &["--json"]].concat(), b"{}").1, "{\"valid\":true}\n");

        let (code, why) = verify(&good, b"{}\n");
        assert_eq!(code, ExitCode::FAILURE);
        assert!(why.contains("newline was added"), "{why}");
        let (code, why) = verify(&[&good[..], &["--at", "1700000400"]].concat(), b"{}");
        assert_eq!(code, ExitCode::FAILURE);
        assert!(why.contains("too old by 100 s") && !why.contains("--at"), "{why}");
        let (_, why) = verify(&[&good[..], &["--json", "--at", "0"]].concat(), b"{}");
        assert!(why.starts_with(r#"{"code":"too-new","detail":"#), "{why}");
    }

    #[test]
    fn a_bad_secret_is_wrong_usage_and_is_not_quoted() {
        for (text, error) in [
            ("canary", BadSecret::Prefix),
            ("whsk_canary", BadSecret::Base64),
            ("whpk_canary", BadSecret::Asymmetric),
            ("whsec_canary", BadSecret::Base64),
        ] {
            let (code, out) = run(&["sign", "--secret", text, "--id", "i", "--timestamp", "1"], b"{}");
            let shown = code.unwrap_err();
            assert_eq!(shown.downcast_ref(), Some(&error));
            assert!(!format!("{shown:#} {shown:?} {out}").contains("canary"));
        }
        let args =
            Cli::try_parse_from(["ringback", "sign", "--secret", "canary", "--id", "i", "--timestamp", "x"]);
        assert!(!args.err().unwrap().to_string().contains("canary"));
    }
}
