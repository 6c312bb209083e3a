//! `sign` and `verify`, against the published vectors too.

use serde_json::{Value, json};

use super::{Ran, feed};
use crate::support::process::{SECRET, ringback};

const OTHER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw3x3qXwQbDsY=";
const NAMED: [&str; 4] = ["--id", "dlv_1", "--timestamp", "1767225600"];

fn sign(secrets: &[&str], body: &[u8]) -> Ran {
    let secrets = secrets.iter().flat_map(|secret| ["--secret", secret]);
    feed(ringback().arg("sign").args(secrets).args(NAMED), body)
}

fn verify(args: &[&str], body: &[u8]) -> Ran {
    feed(ringback().arg("verify").args(NAMED).args(args), body)
}

#[test]
fn what_sign_prints_verify_takes() {
    let body = "{\"a\":\"\u{fc}\"}".as_bytes();
    let signed = sign(&[SECRET], body);
    let value = signed.done().strip_suffix('\n').unwrap();
    assert!(value.starts_with("v1,") && value.len() == 47, "{value}");
    let good = ["--secret", SECRET, "--signature", value];

    let now = ["--at", "1767225600"];
    assert_eq!(verify(&[&good[..], &now].concat(), body).done(), "valid\n");
    assert_eq!(verify(&[&good[..], &now, &["--json"]].concat(), body).json(), json!({"valid": true}));
    for within in ["1767225300", "1767225900"] {
        verify(&[&good[..], &["--at", within]].concat(), body).done();
    }
    let json = feed(ringback().args(["sign", "--json", "--secret", SECRET]).args(NAMED), body).json();
    assert_eq!(json, json!({"signature": value}));
}

#[test]
fn secrets_sign_in_their_order_and_any_of_them_verifies() {
    let one = sign(&[SECRET], b"x").done().trim().to_owned();
    let two = sign(&[OTHER], b"x").done().trim().to_owned();

    assert_eq!(sign(&[SECRET, OTHER], b"x").done(), format!("{one} {two}\n"));
    assert_eq!(sign(&[OTHER, SECRET], b"x").done(), format!("{two} {one}\n"));
    let both = format!("{two} {one}");
    for secrets in [&[SECRET][..], &[OTHER], &[OTHER, SECRET]] {
        let mut args: Vec<&str> = secrets.iter().flat_map(|secret| ["--secret", secret]).collect();
        args.extend(["--signature", &both, "--at", "1767225600"]);
        verify(&args, b"x").done();
    }
    let listed =
        feed(ringback().arg("sign").args(NAMED).env("RINGBACK_SECRET", format!("{SECRET},{OTHER}")), b"x");
    assert_eq!(listed.done(), format!("{one} {two}\n"));
}

#[test]
fn an_ed25519_key_signs_beside_a_secret_and_its_public_half_verifies() {
    let private = "whsk_ObA/WASGO//h75aQWyLU98JDCciZznLBenDkhUSOwJs=";
    let public = "whpk_NC/xILoS1vSyTpYM1MNPQV3TffjsnvqljoYHJjiLotQ=";
    let signed = sign(&[private, SECRET], b"x");
    let value = signed.done().trim();
    assert!(value.starts_with("v1a,") && value.contains(" v1,"), "{value}");
    let check = |secrets: &[&str], body: &[u8]| {
        let secrets = secrets.iter().flat_map(|secret| ["--secret", secret]);
        let args: Vec<&str> = secrets.chain(["--signature", value, "--at", "1767225600"]).collect();
        verify(&args, body)
    };
    for secrets in [&[public][..], &[private], &[SECRET], &[public, OTHER], &[SECRET, public]] {
        assert_eq!(check(secrets, b"x").done(), "valid\n", "{secrets:?}");
    }
    assert_eq!(check(&[public], b"y").code, 1);
    sign(&["whsk_canary"], b"").refused(2, "error: ");
    sign(&[public], b"").refused(2, "error: ");
}

#[test]
fn verify_says_why_a_signature_fails() {
    let value = sign(&[SECRET], b"{\"a\":1}").done().trim().to_owned();
    let at = ["--at", "1767225600"];
    let with = |secret: &str, signature: &str, at: &[&str], body: &[u8]| {
        verify(&[&["--secret", secret, "--signature", signature], at].concat(), body)
    };
    for (ran, says) in [
        (with(SECRET, &value, &at, b"{\"a\":2}"), "the body was changed"),
        (with(SECRET, &value, &at, b"{\"a\":1}\n"), "a newline was added at the end of the body"),
        (with(SECRET, &value, &at, b"{\"a\": 1}"), "verify the raw bytes"),
        (with(OTHER, &value, &at, b"{\"a\":1}"), "another secret"),
        (with(SECRET, &value, &["--at", "1767226000"], b"{\"a\":1}"), "too old by 100 s"),
        (with(SECRET, &value, &["--at", "1767225200"], b"{\"a\":1}"), "100 s"),
        (with(SECRET, &value, &[], b"{\"a\":1}"), "--at"),
        (with(SECRET, "v2,xxxx", &at, b"{\"a\":1}"), "v1"),
        (with(SECRET, "nonsense", &at, b"{\"a\":1}"), "invalid: "),
        (with(SECRET, "v1,###", &at, b"{\"a\":1}"), "base64"),
    ] {
        assert_eq!(ran.code, 1, "{says}: {ran:?}");
        assert!(ran.out.starts_with("invalid: ") && ran.out.contains(says), "{says}: {ran:?}");
    }
    let told = with(SECRET, &value, &["--at", "1767225200", "--json"], b"{\"a\":1}");
    let told: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!((&told["valid"], &told["code"]), (&json!(false), &json!("too-new")));
    assert!(told["detail"].is_string(), "{told}");
}

#[test]
fn wrong_usage_is_told_and_no_secret_is_quoted() {
    for (ran, code) in [
        (sign(&["canary"], b""), 2),
        (sign(&["whsec_canary"], b""), 2),
        (sign(&[], b""), 2),
        (verify(&["--secret", "canary", "--signature", "v1,x"], b""), 2),
        (verify(&["--secret", SECRET], b""), 2),
        (feed(ringback().args(["sign", "--secret", SECRET, "--id", "i", "--timestamp", "soon"]), b""), 2),
    ] {
        ran.refused(code, "error: ");
        assert!(!ran.err.contains("canary"), "{ran:?}");
    }
}

#[test]
fn the_published_vectors_are_signed_byte_for_byte() {
    let vectors: Value = serde_json::from_str(include_str!("../../vectors/signatures.json")).unwrap();
    let rows = vectors["standard_webhooks"].as_array().unwrap();
    let plain = |row: &&Value| row["expect"] == "accept" && row["body"]["utf8"].is_string();
    let mut tried = 0;
    for row in rows.iter().filter(plain) {
        let text = |name: &str| row[name].as_str().unwrap_or_else(|| panic!("{name}: {row}")).to_owned();
        let secrets = row["signing_secrets"].as_array().unwrap().iter().map(|s| s.as_str().unwrap());
        let (id, timestamp) = (text("webhook_id"), row["webhook_timestamp"].to_string());
        let mut command = ringback();
        command.arg("sign").args(secrets.flat_map(|secret| ["--secret", secret]));
        command.args(["--id", &id, "--timestamp", timestamp.trim_matches('"')]);
        let signed = feed(&mut command, row["body"]["utf8"].as_str().unwrap().as_bytes());
        assert_eq!(signed.done().trim(), text("webhook_signature"), "{}", row["name"]);
        tried += 1;
    }
    assert!(tried >= 10, "only {tried} vectors were found");
}

#[test]
fn the_schemes_of_github_and_stripe_are_signed_and_verified() {
    let vectors: Value = serde_json::from_str(include_str!("../../vectors/signatures.json")).unwrap();
    let rows = vectors["other_schemes"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap().clone();
    for (scheme, row) in [("github", row("github_docs_example")), ("stripe", row("stripe_v1"))] {
        let (secret, value) = (row["secret"].as_str().unwrap(), row["value"].as_str().unwrap());
        let body = row["body"].as_str().unwrap().as_bytes();
        let with = ["--scheme", scheme, "--secret", secret];
        let time = if scheme == "stripe" { &["--timestamp", "1700000000"][..] } else { &[] };
        let signed = feed(ringback().arg("sign").args(with).args(time), body);
        assert_eq!(signed.done(), format!("{value}\n"), "{scheme}");
        let check = |secret: &str, body: &[u8]| {
            let args = ["--scheme", scheme, "--secret", secret, "--signature", value, "--at", "1700000000"];
            feed(ringback().arg("verify").args(args), body)
        };
        assert_eq!(check(secret, body).done(), "valid\n", "{scheme}");
        let spoilt = check(secret, &[body, b"\n"].concat());
        assert!(spoilt.code == 1 && spoilt.out.contains("a newline was added"), "{spoilt:?}");
        let other = check("another", body);
        assert!(other.code == 1 && other.out.contains("another secret"), "{other:?}");
    }
}

#[test]
fn what_a_scheme_needs_is_asked_for() {
    let with = |args: &[&str]| feed(ringback().args(args), b"{}");
    for (args, flag) in [
        (&["sign", "--secret", SECRET, "--timestamp", "1"][..], "--id"),
        (&["sign", "--secret", SECRET, "--id", "i"], "--timestamp"),
        (&["sign", "--scheme", "stripe", "--secret", SECRET], "--timestamp"),
        (&["sign", "--scheme", "github", "--secret", SECRET, "--secret", OTHER], "one --secret"),
        (&["sign", "--scheme", "github", "--secret", " "], "--secret is empty"),
        (&["sign", "--scheme", "sha1", "--secret", SECRET], "sha1"),
        (&["verify", "--secret", SECRET, "--signature", "v1,x", "--id", "i"], "--timestamp"),
    ] {
        with(args).refused(2, flag);
    }
    let stale = with(&["verify", "--scheme", "stripe", "--secret", "s", "--signature", "t=1700000000,v1=00"]);
    assert!(stale.code == 1 && stale.out.contains("no `v1=`"), "{stale:?}");
}
