//! Sealing: what opens, what does not, and that nothing shows a key.

use proptest::prelude::*;

use super::*;
use crate::types::key::AccessToken;
use crate::types::{JobId, TenantId};

const OLD: &str = "old AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NEW: &str = "new_2026-10 /////////////////////////////////////////w8=";

fn place() -> Aad {
    Aad { tenant: Uuid::from_u128(1), row: Uuid::from_u128(2), column: "endpoints.secret" }
}

fn ring(lines: &[&str]) -> KeyRing {
    KeyRing::parse(&lines.join("\n")).unwrap()
}

#[test]
fn a_value_has_the_documented_layout() {
    let sealed = ring(&[OLD]).seal([7; 24], &place(), b"whsec");
    assert_eq!(sealed[..5], [1, 3, b'o', b'l', b'd']);
    assert_eq!(sealed[5..29], [7; 24]);
    assert_eq!(sealed.len(), 29 + 5 + 16);
    // Computed by another implementation (Python's `cryptography` with HChaCha20 on top).
    assert_eq!(
        STANDARD.encode(&sealed),
        "AQNvbGQHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBweR1yi9PYm72+QMSN07hXppzxZ6fZA="
    );
    assert_eq!(*ring(&[OLD]).open(&place(), &sealed).unwrap(), b"whsec");
}

#[test]
fn a_value_opens_only_in_its_place() {
    let ring = ring(&[OLD]);
    let sealed = ring.seal([7; 24], &place(), b"whsec");
    for elsewhere in [
        Aad { tenant: Uuid::from_u128(9), ..place() },
        Aad { row: Uuid::from_u128(9), ..place() },
        Aad { column: "tenants.secret", ..place() },
        Aad { tenant: place().row, row: place().tenant, ..place() },
    ] {
        assert_eq!(ring.open(&elsewhere, &sealed).unwrap_err(), SealError::Forged);
    }
}

#[test]
fn every_changed_byte_and_every_cut_is_noticed() {
    let ring = ring(&[OLD]);
    let sealed = ring.seal([7; 24], &place(), b"whsec");
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 0x20;
        assert!(ring.open(&place(), &changed).is_err(), "{at}");
        assert!(ring.open(&place(), &sealed[..at]).is_err(), "{at}");
    }
    assert_eq!(ring.open(&place(), &[]).unwrap_err(), SealError::Short);
    assert_eq!(ring.open(&place(), &[1]).unwrap_err(), SealError::Short);
    assert_eq!(ring.open(&place(), &[1, 255, 0]).unwrap_err(), SealError::Short);
    assert_eq!(ring.open(&place(), &[2, 0]).unwrap_err(), SealError::Version(2));
    assert_eq!(ring.open(&place(), &sealed[..44]).unwrap_err(), SealError::Short);
}

#[test]
fn old_keys_open_and_the_active_one_seals() {
    let (before, after) = (ring(&[OLD]), ring(&[NEW, OLD]));
    let sealed = before.seal([1; 24], &place(), b"x");
    assert_eq!(*after.open(&place(), &sealed).unwrap(), b"x");
    assert_eq!(sealed_by(&sealed).unwrap(), "old");
    let anew = after.seal([2; 24], &place(), b"x");
    assert_eq!(sealed_by(&anew[..66.min(anew.len())]).unwrap(), "new_2026-10");
    assert_eq!(after.active_id(), "new_2026-10");
    assert_eq!(before.open(&place(), &anew).unwrap_err(), SealError::UnknownKey);
    // Another key under the same id.
    let other = ring(&[&NEW.replace("new_2026-10", "old")]);
    assert_eq!(other.open(&place(), &sealed).unwrap_err(), SealError::Forged);
}

#[test]
fn a_ring_survives_its_file() {
    let fourth = KeyRing::generate([4; 32]).active_id().to_owned();
    let ring = KeyRing::generate([3; 32]).with([4; 32]).promoting(&fourth).unwrap();
    let text = ring.to_text();
    let again = KeyRing::parse(&text).unwrap();
    assert_eq!(*again.to_text(), *text);
    assert_eq!(again.active_id(), fourth);
    assert_eq!(again.active_id().len(), 17);
    let sealed = KeyRing::generate([3; 32]).seal([0; 24], &place(), b"");
    assert!(again.open(&place(), &sealed).unwrap().is_empty());
}

#[test]
fn comments_empty_lines_and_foreign_line_ends_are_skipped() {
    let text = format!("# ring\r\n\r\n  {NEW}\t\r\n # old\n{OLD}");
    assert_eq!(format!("{:?}", KeyRing::parse(&text).unwrap()), r#"["new_2026-10", "old"]"#);
}

#[test]
fn a_bad_line_is_named_and_never_quoted() {
    let long = format!("{} {}", "a".repeat(65), &OLD[4..]);
    for (line, fault) in [
        ("canary", LineFault::Shape),
        ("id canary canary", LineFault::Shape),
        ("i.d AAAA", LineFault::Id),
        (&long, LineFault::Id),
        ("id canary!", LineFault::Base64),
        (&OLD[..OLD.len() - 1], LineFault::Base64),
        ("id AAAA", LineFault::Length),
        (OLD, LineFault::Duplicate),
    ] {
        let error = KeyRing::parse(&format!("{OLD}\n{line}")).unwrap_err();
        assert_eq!(error, BadKeyRing::Line { line: 2, fault }, "{line}");
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
    assert_eq!(KeyRing::parse("# nothing\n\n").unwrap_err(), BadKeyRing::Empty);
}

#[test]
fn access_tokens_outlive_a_rotation() {
    let (before, after) = (ring(&[OLD]), ring(&[NEW, OLD]));
    let ids = (TenantId::from_uuid(Uuid::from_u128(1)), JobId::from_uuid(Uuid::from_u128(2)));
    let token = AccessToken::mint(&before.token_keys()[0], ids.0, ids.1);
    assert_eq!(AccessToken::verify(&after.token_keys(), &token), Some(ids));
    assert_ne!(AccessToken::mint(&after.token_keys()[0], ids.0, ids.1), token);
}

#[test]
fn a_file_is_private_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ring");
    KeyRing::create_file(&path, OLD).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), OLD);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let refused = KeyRing::create_file(&path, NEW).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), OLD);
    assert!(KeyRing::create_file(&dir.path().join("no/such"), OLD).is_err());
}

proptest! {
    #[test]
    fn what_is_sealed_opens(nonce in any::<[u8; 24]>(), key in any::<[u8; 32]>(), plain in prop::collection::vec(any::<u8>(), 0..100)) {
        let ring = KeyRing::generate(key);
        let sealed = ring.seal(nonce, &place(), &plain);
        prop_assert_eq!(&*ring.open(&place(), &sealed).unwrap(), &plain);
    }

    #[test]
    fn nothing_makes_open_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), text in "\\PC{0,60}") {
        let headed = [&[1, 3, b'o', b'l', b'd'][..], &bytes].concat();
        prop_assert!(ring(&[OLD]).open(&place(), &bytes).is_err());
        prop_assert!(ring(&[OLD]).open(&place(), &headed).is_err());
        prop_assert!(KeyRing::parse(&text).is_err());
    }
}

#[test]
fn a_ring_goes_from_one_key_to_the_next() {
    let first = KeyRing::generate([3; 32]);
    let old = first.active_id().to_owned();
    let both = first.with([4; 32]);
    let new = both.ids().last().unwrap().to_owned();
    assert_eq!(both.active_id(), old, "a key that was only added does not seal");
    let sealed = first.with([4; 32]).promoting(&new).unwrap().seal([0; 24], &place(), b"x");
    assert_eq!(*both.open(&place(), &sealed).unwrap(), b"x", "it opens what a node seals that is ahead");
    let after = both.promoting(&new).unwrap();
    assert_eq!(after.ids().collect::<Vec<_>>(), [new.as_str(), &old]);
    assert!(after.without(&new).is_none(), "the active key stays");
    assert!(both.promoting("x").is_none() && both.without("x").is_none());
    assert_eq!(after.without(&old).unwrap().ids().collect::<Vec<_>>(), [&new]);
}

#[test]
fn a_ring_is_replaced_whole_and_stays_its_owners() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("ring"));
    std::fs::write(&real, "old").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    KeyRing::replace_file(&link, "new").unwrap();
    assert_eq!(std::fs::read_to_string(&real).unwrap(), "new");
    std::fs::write(dir.path().join(".real.ringback-tmp"), "half").unwrap();
    KeyRing::replace_file(&link, "newer").unwrap();
    assert_eq!(
        std::fs::read_to_string(&real).unwrap(),
        "newer",
        "a change that was broken off is in nobody's way"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    let lock = KeyRing::lock_file(&link).unwrap();
    assert_eq!(KeyRing::lock_file(&real).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(lock);
    KeyRing::lock_file(&link).unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
    assert!(KeyRing::replace_file(&dir.path().join("none"), "x").is_err());
}
