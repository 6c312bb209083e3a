//! What is built with `opt-level = 3` has the profile.

use std::process::Command;

use super::root;

/// What rustc would be called with.
fn called(args: &[&str], counts: Option<&str>) -> String {
    let mut command = Command::new(root().join(".cargo/rustc"));
    command.arg("echo").args(args).env_remove("RINGBACK_COUNTS");
    if let Some(counts) = counts {
        command.env("RINGBACK_COUNTS", counts);
    }
    let output = command.output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn only_what_is_optimised_has_the_profile() {
    let profile = root().join(".cargo/release.profdata");
    let bytes = std::fs::read(&profile).unwrap();
    assert!(bytes.starts_with(b"\xfflprofi\x81"), "an indexed profile of LLVM");

    let optimised = called(&["--crate-name", "x", "-C", "opt-level=3"], None);
    let wanted = format!("--crate-name x -C opt-level=3 -C profile-use={}", profile.display());
    assert!(optimised.starts_with(&wanted), "{optimised}");
    assert_eq!(called(&["-C", "opt-level=0"], None), "-C opt-level=0");
    assert_eq!(called(&["-vV"], None), "-vV");

    let counting = called(&["-C", "opt-level=3"], Some("counts"));
    assert_eq!(counting, "-C opt-level=3 -C profile-generate=counts");
    assert_eq!(called(&["-C", "opt-level=0"], Some("counts")), "-C opt-level=0");
}
