//! The schemes against the reference vectors, and each refusal with its reason.

use serde_json::Value;

use super::super::{Hint, TOLERANCE_SECONDS, asymmetric, verify};
use super::hex::{BadHex, github, stripe, verify_github, verify_stripe};
use super::*;

const AT: i64 = 1_700_000_000;
const BODY: &[u8] = br#"{"type":"job.completed","data":{"id":"job_1"}}"#;

fn vectors(scheme: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../../../tests/vectors/signatures.json")).unwrap();
    let rows = all["other_schemes"].as_array().unwrap().iter();
    let rows: Vec<Value> = rows.filter(|row| row["scheme"] == scheme).cloned().collect();
    assert_eq!(rows.len(), 2, "{scheme}");
    rows
}

fn text<'a>(row: &'a Value, member: &str) -> &'a str {
    row[member].as_str().unwrap()
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_random([n; 32], [n + 100; 32]).unwrap()
}

fn message() -> Message<'static> {
    Message { id: "dlv_1", seconds: AT, body: BODY }
}

#[test]
fn githubs_vectors_are_signed_byte_for_byte_and_verified() {
    for row in vectors("X-Hub-Signature-256") {
        let (secret, body, value) =
            (text(&row, "secret"), text(&row, "body").as_bytes(), text(&row, "value"));
        assert_eq!(text(&row, "header").to_lowercase(), hex::GITHUB_HEADER);
        assert_eq!(github(secret, body), value, "{row}");
        assert_eq!(verify_github(&["another", secret], value, body), Ok(()), "{row}");
    }
}

#[test]
fn stripes_vectors_are_signed_byte_for_byte_and_verified() {
    for row in vectors("Stripe-Signature") {
        let (secret, body, value) =
            (text(&row, "secret"), text(&row, "body").as_bytes(), text(&row, "value"));
        assert_eq!(text(&row, "header").to_lowercase(), hex::STRIPE_HEADER);
        let signed = stripe(&[secret], AT, body);
        let tag = signed.split_once(',').unwrap().1;
        assert!(value.starts_with("t=1700000000,") && value.contains(tag), "{signed} {row}");
        for now in [AT - TOLERANCE_SECONDS, AT, AT + TOLERANCE_SECONDS] {
            assert_eq!(verify_stripe(&[secret], value, body, now, TOLERANCE_SECONDS), Ok(()), "{row}");
        }
    }
    let row = &vectors("Stripe-Signature")[0];
    assert_eq!(stripe(&[text(row, "secret")], AT, text(row, "body").as_bytes()), text(row, "value"));
}

#[test]
fn every_scheme_has_its_header_and_every_live_key_its_signature() {
    let keys = [key(2), key(1)];
    let all = [Scheme::V1a, Scheme::Github, Scheme::Stripe];
    let headers = message().headers(&all, &keys);
    let value = |name: &str| headers[name].to_str().unwrap();
    let items: Vec<&str> =
        value("webhook-signature").split(' ').map(|i| i.split_once(',').unwrap().0).collect();
    assert_eq!(items, ["v1", "v1", "v1a", "v1a"]);
    for key in &keys {
        let standard = value("webhook-signature");
        let secret = [key.secret().clone()];
        assert_eq!(verify(&secret, "dlv_1", "1700000000", standard, BODY, AT, 300), Ok(()));
        assert_eq!(
            asymmetric::verify(&[key.public().unwrap()], "dlv_1", "1700000000", standard, BODY, AT, 300),
            Ok(())
        );
        let whole = key.secret().reveal();
        assert_eq!(verify_stripe(&[&whole], value("stripe-signature"), BODY, AT, 300), Ok(()));
    }
    let (new, old) = (keys[0].secret().reveal(), keys[1].secret().reveal());
    assert_eq!(verify_github(&[&new], value("x-hub-signature-256"), BODY), Ok(()));
    assert!(verify_github(&[&old], value("x-hub-signature-256"), BODY).is_err(), "room for the new key only");
    assert_eq!(value("stripe-signature").matches("v1=").count(), 2);
}

#[test]
fn v1_is_always_there_and_nothing_else_unasked() {
    let headers = message().headers(&[], &[key(1)]);
    assert_eq!(headers.len(), 1);
    assert!(headers["webhook-signature"].to_str().unwrap().starts_with("v1,"));
    assert!(message().headers(&[Scheme::Stripe], &[]).is_empty(), "no key, no signature");
    let alone = SigningKey::from(key(1).secret().clone());
    let headers = message().headers(&[Scheme::V1a], std::slice::from_ref(&alone));
    assert!(!headers["webhook-signature"].to_str().unwrap().contains("v1a"), "it has no such key");
    assert!(alone.public().is_none() && alone.to_bytes().is_none());
}

#[test]
fn a_sealed_key_comes_back_whole_and_is_never_shown() {
    let old = key(9);
    let back = SigningKey::from_bytes(&old.to_bytes().unwrap()).unwrap();
    let all = [Scheme::V1a];
    assert_eq!(message().headers(&all, std::slice::from_ref(&back)), message().headers(&all, &[old]));
    assert_eq!(format!("{back:?}"), "SigningKey(redacted)");
    for bytes in [&[][..], &[1; 31], &[1; 32], &[1; 55], &[1; 97]] {
        assert!(SigningKey::from_bytes(bytes).is_err(), "{}", bytes.len());
    }
}

#[test]
fn a_refusal_says_why() {
    let secret = "whsec_t9Iu17CQUB91WZZiPLt2TUScuZ21l6aI5BIkx/iyoWg=";
    let good = github(secret, BODY);
    let pretty = String::from_utf8(BODY.to_vec()).unwrap().replace(',', ", ").replace(':', ": ");
    let raw_key = Secret::parse(secret).unwrap();
    let decoded = keyed_hex(raw_key.bytes(), BODY);
    for (header, body, why) in [
        ("", BODY, BadHex::Missing),
        ("sha1=00", BODY, BadHex::Sha1),
        ("sha256=00", BODY, BadHex::NotGithub),
        (&good[7..], BODY, BadHex::NotGithub),
        (&good, b"{}", BadHex::Mismatch(Hint::Unexplained)),
        (&good, pretty.as_bytes(), BadHex::Mismatch(Hint::Reserialised)),
        (&good, &[BODY, b"\n"].concat(), BadHex::Mismatch(Hint::NewlineAdded)),
        (&format!("sha256={decoded}"), BODY, BadHex::Decoded),
    ] {
        assert_eq!(verify_github(&[secret], header, body), Err(why), "{header}");
    }
    let good = stripe(&[secret], AT, BODY);
    let two = format!("{good},t=1");
    for (header, now, why) in [
        (" ", AT, BadHex::Missing),
        ("v1=00", AT, BadHex::NoTime),
        (&two, AT, BadHex::NoTime),
        ("t=1700000000000,v1=00", AT, BadHex::NoTime),
        ("t=1700000000", AT, BadHex::NoV1),
        (&good.replace("v1", "V1"), AT, BadHex::NoV1),
        (&good, AT + 301, BadHex::TooOld { by_seconds: 1 }),
        (&good, AT - 302, BadHex::TooNew { by_seconds: 2 }),
    ] {
        assert_eq!(verify_stripe(&[secret], header, BODY, now, 300), Err(why), "{header}");
    }
    let why = verify_stripe(&["another"], &good, BODY, AT, 300);
    assert_eq!(why, Err(BadHex::Mismatch(Hint::Unexplained)));
}

/// What a sender makes who decodes the secret.
fn keyed_hex(key: &[u8], body: &[u8]) -> String {
    use hmac::Mac;
    let tag = super::super::keyed(key).chain_update(body).finalize().into_bytes();
    tag.iter().map(|byte| format!("{byte:02x}")).collect()
}
