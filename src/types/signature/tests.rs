//! The signer and the verifier against the reference vectors, other implementations and broken input.

use proptest::prelude::*;
use serde::Deserialize;

use super::asymmetric::PrivateKey;
use super::*;

const KEY: &str = "whsec_t9Iu17CQUB91WZZiPLt2TUScuZ21l6aI5BIkx/iyoWg=";
const BODY: &[u8] = br#"{"type":"job.completed","data":{"id":"job_1","list":[1,2]}}"#;
const AT: i64 = 1_700_000_000;

#[derive(Deserialize)]
struct Vectors {
    standard_webhooks: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    webhook_id: String,
    webhook_timestamp: String,
    signing_secrets: Vec<String>,
    verify_secret: String,
    verify_at: i64,
    webhook_signature: String,
    expect: String,
    body: Body,
    body_len: usize,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Body {
    Text { utf8: String },
    Bytes { base64: String },
    Large { prefix: String, repeat: String, count: usize, suffix: String },
}

impl Row {
    fn body(&self) -> Vec<u8> {
        let body = match &self.body {
            Body::Text { utf8 } => utf8.clone().into_bytes(),
            Body::Bytes { base64 } => STANDARD.decode(base64).unwrap(),
            Body::Large { prefix, repeat, count, suffix } => {
                format!("{prefix}{}{suffix}", repeat.repeat(*count)).into_bytes()
            }
        };
        assert_eq!(body.len(), self.body_len, "{}", self.name);
        body
    }

    fn verify(&self) -> Result<(), BadSignature> {
        let secret = Secret::parse_lenient(&self.verify_secret).unwrap();
        let (id, at, header) = (&self.webhook_id, &self.webhook_timestamp, &self.webhook_signature);
        verify(&[secret], id, at, header, &self.body(), self.verify_at, TOLERANCE_SECONDS)
    }
}

fn rows(expect: &str) -> Vec<Row> {
    let text = include_str!("../../../tests/vectors/signatures.json");
    let all: Vectors = serde_json::from_str(text).unwrap();
    let rows: Vec<Row> = all.standard_webhooks.into_iter().filter(|row| row.expect == expect).collect();
    assert!(!rows.is_empty());
    rows
}

/// `^v1,[A-Za-z0-9+/]+=*( v1,[A-Za-z0-9+/]+=*)*$`, the shape that no client refuses.
fn is_emittable(header: &str) -> bool {
    header.split(' ').all(|item| {
        item.strip_prefix("v1,").map(|text| text.trim_end_matches('=')).is_some_and(|text| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
        })
    })
}

fn key() -> Secret {
    Secret::parse(KEY).unwrap()
}

fn check(header: &str, body: &[u8]) -> Result<(), BadSignature> {
    verify(&[key()], "dlv_1", "1700000000", header, body, AT, TOLERANCE_SECONDS)
}

fn header_of(tag: &[u8]) -> String {
    format!("v1,{}", STANDARD.encode(tag))
}

/// The header that a sender makes who keys and composes as given.
fn foreign(key: &[u8], text: &[u8]) -> String {
    header_of(&keyed(key).chain_update(text).finalize().into_bytes())
}

#[test]
fn accept_vectors_are_signed_byte_for_byte_and_verified() {
    for row in rows("accept") {
        let (id, at, body) = (&row.webhook_id, row.webhook_timestamp.parse().unwrap(), row.body());
        let items = row.signing_secrets.iter().map(|text| match PrivateKey::is_named_by(text) {
            true => PrivateKey::parse(text).unwrap().item(id, at, &body),
            false => sign(&[Secret::parse(text).unwrap()], id, at, &body),
        });
        assert_eq!(items.collect::<Vec<_>>().join(" "), row.webhook_signature, "{}", row.name);
        assert_eq!(row.verify(), Ok(()), "{}", row.name);
    }
}

#[test]
fn reject_vectors_are_refused_with_the_reason() {
    let reasons: Vec<(String, &str)> =
        rows("reject").iter().map(|row| (row.name.clone(), row.verify().unwrap_err().code())).collect();
    let reasons: Vec<(&str, &str)> = reasons.iter().map(|(name, code)| (name.as_str(), *code)).collect();
    assert_eq!(
        reasons,
        [
            ("future_301s", "too-new"),
            ("wrong_secret", "mismatch"),
            ("body_one_byte_changed", "mismatch"),
            ("timestamp_changed", "mismatch"),
            ("timestamp_in_ms", "bad-timestamp"),
            ("uppercase_version", "no-v1-item"),
            ("github_style_prefix", "no-version"),
            ("comma_joined_list", "bad-base64"),
            ("signed_without_id", "mismatch"),
            ("signed_body_only", "mismatch"),
            ("hmac_sha512", "wrong-length"),
            ("timestamp_not_number", "bad-timestamp"),
        ]
    );
}

#[test]
fn shapes_on_which_clients_differ_are_never_emitted() {
    for row in rows("differs") {
        let secrets: Vec<Secret> =
            row.signing_secrets.iter().filter_map(|text| Secret::parse(text).ok()).collect();
        let ours = sign(&secrets, &row.webhook_id, AT, &row.body());
        assert!(is_emittable(&ours), "{}", row.name);
        // A body that is not UTF-8 is refused when it is submitted, not here: its header is well formed.
        assert_eq!(row.verify().is_ok(), row.name == "EMIT_NEVER_non_utf8_body", "{}", row.name);
    }
}

#[test]
fn tags_of_any_length_are_refused_without_a_panic() {
    let good =
        keyed(key().bytes()).chain_update("dlv_1.1700000000.").chain_update(BODY).finalize().into_bytes();
    assert_eq!(check(&header_of(&good), BODY), Ok(()));
    for length in [0, 1, 31, 33] {
        let tag: Vec<u8> = good.iter().copied().cycle().take(length).collect();
        assert_eq!(check(&header_of(&tag), BODY), Err(BadSignature::WrongLength { bytes: length }));
    }
    let mut flipped = good;
    flipped[31] ^= 1;
    assert_eq!(check(&header_of(&flipped), BODY), Err(BadSignature::Mismatch(Hint::Unexplained)));
    assert_eq!(check(&format!("{} {}", header_of(&[1]), header_of(&good)), BODY), Ok(()));
    let hex: String = good.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(check(&format!("v1,{hex}"), BODY).unwrap_err().to_string().contains("hex"));
}

#[test]
fn malformed_headers_say_what_is_wrong() {
    let good = sign(&[key()], "dlv_1", AT, BODY);
    for (header, code) in [
        ("", "missing-signature"),
        (" ", "stray-space"),
        (&format!("{good} "), "stray-space"),
        (&format!("{good}  {good}"), "stray-space"),
        (&format!("{good} v1"), "no-version"),
        (&format!("{good} v1,_"), "bad-base64"),
        ("v2,AAAA v1a,AAAA", "no-v1-item"),
        ("v1,é", "bad-base64"),
    ] {
        assert_eq!(check(header, BODY).map_err(BadSignature::code), Err(code), "{header:?}");
    }
    assert_eq!(check(&format!("v1a,%% {good} v3,?"), BODY), Ok(()), "other versions are skipped");
}

#[test]
fn timestamps_are_whole_seconds_in_plain_digits() {
    use TimestampFault::*;
    let read = |text: &str| verify(&[key()], "dlv_1", text, "v1,AAAA", b"", 0, 0);
    for (text, fault) in [
        ("1700000000.0", Fraction),
        ("1e9", Fraction),
        ("01700000000", LeadingZero),
        ("00", LeadingZero),
        ("1700000000000", Milliseconds),
        ("99999999999999999999999999", Milliseconds),
        ("-5", NotDigits),
        ("+5", NotDigits),
        (" 5", NotDigits),
        ("٥", NotDigits),
        ("now", NotDigits),
    ] {
        assert_eq!(read(text), Err(BadSignature::BadTimestamp(fault)), "{text}");
    }
    assert_eq!(read(""), Err(BadSignature::MissingTimestamp));
    assert_eq!(read("0"), Err(BadSignature::WrongLength { bytes: 3 }));
}

#[test]
fn the_tolerance_is_inclusive_both_ways() {
    let header = sign(&[key()], "dlv_1", AT, BODY);
    let at = |now| verify(&[key()], "dlv_1", "1700000000", &header, BODY, now, 300);
    assert_eq!(at(AT + 300), Ok(()));
    assert_eq!(at(AT - 300), Ok(()));
    assert_eq!(at(AT + 307), Err(BadSignature::TooOld { by_seconds: 7 }));
    assert_eq!(at(AT - 307), Err(BadSignature::TooNew { by_seconds: 7 }));
    assert!(at(i64::MAX).is_err() && at(i64::MIN).is_err());
}

#[test]
fn likely_mistakes_are_named() {
    let raw = key();
    let bare = KEY.strip_prefix("whsec_").unwrap();
    let text = [b"dlv_1.1700000000.".as_slice(), BODY].concat();
    let milliseconds = [b"dlv_1.1700000000000.".as_slice(), BODY].concat();
    for (header, hint) in [
        (foreign(KEY.as_bytes(), &text), Hint::SecretNotDecoded),
        (foreign(bare.as_bytes(), &text), Hint::SecretNotDecoded),
        (foreign(raw.bytes(), &text[6..]), Hint::WithoutId),
        (foreign(raw.bytes(), BODY), Hint::BodyOnly),
        (foreign(raw.bytes(), &milliseconds), Hint::Milliseconds),
        (foreign(b"another key", &text), Hint::Unexplained),
    ] {
        assert_eq!(check(&header, BODY), Err(BadSignature::Mismatch(hint)));
    }
    assert_eq!(verify(&[raw], "", "1", "v1,AAAA", BODY, 1, 0), Err(BadSignature::MissingId));
}

#[test]
fn an_id_in_quotes_is_named() {
    let header = sign(&[key()], "dlv_1", AT, BODY);
    let refused = verify(&[key()], "\"dlv_1\"", "1700000000", &header, BODY, AT, TOLERANCE_SECONDS);
    assert_eq!(refused, Err(BadSignature::Mismatch(Hint::QuotedId)));
    let other = verify(&[key()], "dlv_2", "1700000000", &header, BODY, AT, TOLERANCE_SECONDS);
    assert_eq!(other, Err(BadSignature::Mismatch(Hint::Unexplained)));
}

#[test]
fn what_became_of_the_body_is_named() {
    let text = std::str::from_utf8(BODY).unwrap();
    let pretty = "{\n  \"type\": \"job.completed\",\n  \"data\": {\n    \"id\": \"job_1\",\n    \"list\": [\n      1,\n      2\n    ]\n  }\n}";
    let spaced = text.replace(',', ", ").replace(':', ": ");
    for (signed, received, hint) in [
        (text, &*format!("{text}\n"), Hint::NewlineAdded),
        (text, &*format!("{text}\r\n"), Hint::NewlineAdded),
        (&*format!("{text}\n"), text, Hint::NewlineStripped),
        ("[1,\r\n2]", "[1,\n2]", Hint::LineEndings),
        ("[1,\n2]", "[1,\r\n2]", Hint::LineEndings),
        (text, pretty, Hint::Reserialised),
        (text, &*spaced, Hint::Reserialised),
        (&*spaced, text, Hint::Reserialised),
        ("{\n    \"a\": [\n        1\n    ]\n}", "{\"a\":[1]}", Hint::Reserialised),
        ("{\"a\":\"Zoë\"}", "{\"a\": \"Zo\\u00eb\"}", Hint::Reserialised),
        // Python's default: escapes and spaces, in the order and with the numbers that were signed.
        ("{\"b\":\"Zoë \\\"\",\"a\":1.0}", "{\"b\": \"Zo\\u00eb \\\"\", \"a\": 1.0}", Hint::Reserialised),
        ("{\"a\":1}", "{\"a\":2}", Hint::Unexplained),
    ] {
        let header = sign(&[key()], "dlv_1", AT, signed.as_bytes());
        assert_eq!(check(&header, received.as_bytes()), Err(BadSignature::Mismatch(hint)), "{received:?}");
    }
}

#[test]
fn secrets_are_parsed_strictly_and_never_shown() {
    assert_eq!(key().reveal(), KEY);
    assert_eq!(format!("{:?}", key()), "Secret(redacted)");
    for length in [24, 32, 64] {
        let text = format!("whsec_{}", STANDARD.encode(vec![7; length]));
        assert_eq!(Secret::parse(&text).unwrap().reveal(), text);
    }
    for (text, error) in [
        ("", BadSecret::Prefix),
        ("t9Iu17CQUB91WZZiPLt2TUScuZ21l6aI5BIkx/iyoWg=", BadSecret::Prefix),
        ("WHSEC_t9Iu17CQUB91WZZiPLt2TUScuZ21l6aI5BIkx/iyoWg=", BadSecret::Prefix),
        ("whsk_ObA/WASGO//h75aQWyLU98JDCciZznLBenDkhUSOwJs=", BadSecret::Asymmetric),
        ("whsec_", BadSecret::Length(0)),
        ("whsec_AAAA", BadSecret::Length(3)),
        ("whsec_t9Iu17CQUB91WZZiPLt2TUScuZ21l6aI5BIkx/iyoWg", BadSecret::Base64),
        ("whsec_t9Iu17CQUB91WZZiPLt2TUScuZ21l6aI5BIkx/iyoWh=", BadSecret::Base64),
        ("whsec_3f0a zz", BadSecret::Base64),
    ] {
        assert_eq!(Secret::parse(text).unwrap_err(), error, "{text}");
    }
    assert_eq!(Secret::from_bytes(&[0; 65]).unwrap_err(), BadSecret::Length(65));
    assert_eq!(Secret::parse_lenient(&KEY[6..]).unwrap().reveal(), KEY);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn every_header_has_the_shape_all_clients_take_and_equals_the_official_one(
        id in "[A-Za-z0-9_]{1,40}",
        at in 1i64..99_999_999_999,
        body in "\\PC{0,200}",
        keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 24..=64), 1..=3),
    ) {
        let secrets: Vec<Secret> = keys.iter().map(|key| Secret::from_bytes(key).unwrap()).collect();
        let header = sign(&secrets, &id, at, body.as_bytes());
        prop_assert!(is_emittable(&header), "{header}");
        prop_assert!(header.len() < 512);
        for (item, secret) in header.split(' ').zip(&secrets) {
            let official = standardwebhooks::Webhook::new(&secret.reveal()).unwrap();
            prop_assert_eq!(item, official.sign(&id, at, body.as_bytes()).unwrap());
            let ours = verify(std::slice::from_ref(secret), &id, &at.to_string(), &header, body.as_bytes(), at, 0);
            prop_assert_eq!(ours, Ok(()));
        }
    }

    #[test]
    fn nothing_makes_the_verifier_panic(
        timestamp in "([0-9]{0,25}|\\PC{0,12})",
        header in "(v1,|v1a,| |,|[A-Za-z0-9+/=]{1,44}|\\PC){0,6}",
        body in prop::collection::vec(any::<u8>(), 0..200),
        now in any::<i64>(),
        tolerance in any::<i64>(),
    ) {
        prop_assert!(verify(&[key()], "dlv_1", &timestamp, &header, &body, now, tolerance).is_err());
    }
}
