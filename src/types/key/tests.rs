//! Keys, scopes and tokens: their shapes, their secrecy, and what they refuse.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::types::{JobId, TenantId};

const PLAIN: &str = "rbk_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn crc32_agrees_with_the_published_check_value() {
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    assert_eq!(crc32(b""), 0);
}

#[test]
fn base62_is_a_fixed_width_number() {
    let text = |bytes: &[u8], digits| {
        let mut out = String::new();
        push_base62(&mut out, bytes, digits);
        out
    };
    assert_eq!(text(&[0, 0, 0, 0], 6), "000000");
    assert_eq!(text(&[0, 0, 0, 61], 6), "00000z");
    assert_eq!(text(&[0, 0, 0, 62], 6), "000010");
    assert_eq!(text(&[255; 4], 6), "4gfFC3");
    assert_eq!(text(&[0; 32], 43), "0".repeat(43));
    assert_eq!(text(&[255; 32], 43).len(), 43);
}

/// Whether the last six digits are the checksum of the rest, by which scanners tell a key from other text.
fn checksum_ok(key: &ApiKey) -> bool {
    let (rest, sum) = key.0.split_at(key.0.len() - CHECKSUM_DIGITS);
    let mut wanted = String::new();
    push_base62(&mut wanted, &crc32(rest.as_bytes()).to_be_bytes(), CHECKSUM_DIGITS);
    sum == wanted
}

#[test]
fn any_text_of_the_shape_is_a_key() {
    let long = format!("rbk_{}", "Z".repeat(1_000));
    for good in [PLAIN, &long, "rbk_dev_key_for_tests_0123456789ABCDEF", ApiKey::mint([9; 32]).reveal()] {
        assert_eq!(ApiKey::parse(good).unwrap().reveal(), good);
    }
    for bad in ["", "rbk_", &PLAIN[..35], "rbk-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
        assert!(ApiKey::parse(bad).is_err(), "{bad}");
    }
    for strange in [" ", "-", "é", "\n", "/", "\0"] {
        assert!(ApiKey::parse(&format!("{PLAIN}{strange}")).is_err(), "{strange:?}");
    }
    assert!(!checksum_ok(&ApiKey::parse(PLAIN).unwrap()));
}

#[test]
fn a_key_shows_only_its_first_characters() {
    let key = ApiKey::mint([0xA5; 32]);
    assert_eq!(format!("{key:?}"), "ApiKey(redacted)");
    assert_eq!(key.prefix(), &key.reveal()[..12]);
    assert_eq!(key.hash(), ApiKey::parse(key.reveal()).unwrap().hash());
    assert!(key.matches(&key.hash()));
    assert!(!key.matches(&[0; 32]));
    assert!(!key.matches(&key.hash()[..31]));
    assert!(!key.matches(&[]));
}

#[test]
fn scopes_are_the_words_of_the_contract() {
    let words = "jobs:write,jobs:read,work,events:write,endpoints:write,endpoints:read,\
                 deliveries:read,deadletters:replay,metrics:read,admin,operator";
    assert_eq!(Scopes::every().to_string(), words);
    assert_eq!(words.parse(), Ok(Scopes::every()));
    assert_eq!("".parse(), Ok(Scopes::NONE));
    assert_eq!("work, jobs:read".parse::<Scopes>().unwrap().to_string(), "jobs:read,work");
    for bad in ["jobs", "Admin", "work,", ",", " ", "*"] {
        assert_eq!(bad.parse::<Scopes>(), Err(BadScope), "{bad:?}");
    }
    let two: Scopes = serde_json::from_str(r#"["work","jobs:read"]"#).unwrap();
    assert_eq!(serde_json::to_string(&two).unwrap(), r#"["jobs:read","work"]"#);
    assert!(serde_json::from_str::<Scopes>(r#"["root"]"#).unwrap_err().to_string().contains("jobs:write,"));
    let schema = serde_json::to_value(<Scope as utoipa::PartialSchema>::schema()).unwrap();
    assert_eq!(schema["enum"].as_array().unwrap().len(), Scope::ALL.len());
}

#[test]
fn admin_and_operator_cover_different_things() {
    let admin = Scopes::NONE.with(Scope::Admin);
    let operator = Scopes::NONE.with(Scope::Operator);
    for scope in Scope::ALL {
        assert_eq!(admin.allows(scope), scope != Scope::Operator, "{scope}");
        let figures_too = matches!(scope, Scope::Operator | Scope::MetricsRead);
        assert_eq!(operator.allows(scope), figures_too, "{scope}");
        assert!(Scopes::every().allows(scope));
        assert!(!Scopes::NONE.allows(scope));
        for needed in Scope::ALL {
            let plain = !matches!(scope, Scope::Admin | Scope::Operator);
            assert!(!plain || Scopes::NONE.with(scope).allows(needed) == (scope == needed));
        }
    }
    assert!(admin.covers("work,admin".parse().unwrap()));
    assert!(!admin.covers(operator));
    assert!(!"work".parse::<Scopes>().unwrap().covers(admin));
}

fn ids(tenant: u128, job: u128) -> (TenantId, JobId) {
    (TenantId::from_uuid(Uuid::from_u128(tenant)), JobId::from_uuid(Uuid::from_u128(job)))
}

#[test]
fn an_access_token_opens_its_job_under_any_key_of_the_ring() {
    let (old, new) = (TokenKey::derive(&[1; 32]), TokenKey::derive(&[2; 32]));
    let (tenant, job) = ids(7, 8);
    let token = AccessToken::mint(&old, tenant, job);
    assert_eq!(token.len(), 70);
    assert_eq!(AccessToken::mint(&old, tenant, job), token);
    assert_eq!(AccessToken::verify(&[new.clone(), old.clone()], &token), Some((tenant, job)));
    assert_eq!(AccessToken::verify(std::slice::from_ref(&new), &token), None);
    assert_eq!(AccessToken::verify(&[], &token), None);
    // A foreign key that happens to have the same one-byte id opens nothing.
    let twin = (0..=u8::MAX).flat_map(|a| (0..=u8::MAX).map(move |b| [a, b])).find_map(|[a, b]| {
        let mut bytes = [3; 32];
        (bytes[0], bytes[1]) = (a, b);
        let key = TokenKey::derive(&bytes);
        let token = AccessToken::mint(&key, tenant, job);
        (AccessToken::mint(&old, tenant, job)[68..] == token[68..]).then_some(token)
    });
    assert_eq!(AccessToken::verify(std::slice::from_ref(&old), &twin.unwrap()), None);
    assert_eq!(format!("{old:?}"), "TokenKey(redacted)");
}

#[test]
fn no_changed_access_token_opens_anything() {
    let key = TokenKey::derive(&[1; 32]);
    let (tenant, job) = ids(u128::MAX / 3, 8);
    let token = AccessToken::mint(&key, tenant, job);
    for at in 0..token.len() {
        for digit in "Ab9-_".chars().filter(|digit| !token[at..].starts_with(*digit)) {
            let changed = format!("{}{digit}{}", &token[..at], &token[at + 1..]);
            assert_eq!(AccessToken::verify(std::slice::from_ref(&key), &changed), None, "{changed}");
        }
        assert_eq!(AccessToken::verify(std::slice::from_ref(&key), &token[..at]), None);
    }
    for bad in ["", "rbj_", &format!("{token}="), &format!("{token}A"), &token.replace("rbj_", "rbl_")] {
        assert_eq!(AccessToken::verify(std::slice::from_ref(&key), bad), None, "{bad}");
    }
}

#[test]
fn lease_tokens_are_refused_unless_exact() {
    let token = LeaseToken { fence: 5, random: [0xEE; 16] };
    let text = token.to_string();
    assert_eq!(format!("{token:?}"), "LeaseToken(fence 5, redacted)");
    assert_eq!(text.parse(), Ok(token));
    assert_eq!(serde_json::from_str::<LeaseToken>(&format!("{text:?}")).unwrap(), token);
    assert_eq!(serde_json::to_string(&token).unwrap(), format!("{text:?}"));
    for bad in [
        "",
        "rbl_",
        &text[..35],
        &format!("{text}A"),
        &text.replace("rbl", "rbj"),
        &format!("{}é", &text[..34]),
    ] {
        assert_eq!(bad.parse::<LeaseToken>(), Err(BadLeaseToken), "{bad}");
    }
    assert_ne!(token, LeaseToken { fence: 6, ..token });
    assert_ne!(token, LeaseToken { random: [0xEF; 16], ..token });
}

proptest! {
    #[test]
    fn minted_keys_have_the_shape_and_the_checksum(random in any::<[u8; 32]>(), place in 4usize..53, digit in "[0-9A-Za-z]") {
        let key = ApiKey::mint(random);
        prop_assert_eq!(key.reveal().len(), 53);
        prop_assert!(checksum_ok(&ApiKey::parse(key.reveal()).unwrap()));
        let mut typo = key.reveal().to_owned();
        typo.replace_range(place..=place, &digit);
        let same = typo == key.reveal();
        prop_assert_eq!(checksum_ok(&ApiKey::parse(&typo).unwrap()), same);
    }

    #[test]
    fn lease_tokens_round_trip(fence in any::<i64>(), random in any::<[u8; 16]>()) {
        let token = LeaseToken { fence, random };
        prop_assert_eq!(token.to_string().parse::<LeaseToken>(), Ok(token));
        prop_assert_eq!(token.to_string().len(), 36);
    }

    #[test]
    fn nothing_makes_a_reader_panic(text in "(rbk_|rbj_|rbl_)?\\PC{0,80}") {
        prop_assert!(AccessToken::verify(&[TokenKey::derive(&[1; 32])], &text).is_none());
        let _ = text.parse::<LeaseToken>();
        let _ = ApiKey::parse(&text);
    }
}
