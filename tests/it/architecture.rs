//! The floors of the house, held against every `crate::` path in the code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Module -> floor. Imports point to a lower floor or stay inside the module.
const FLOORS: &[(&str, u8)] = &[
    ("types", 0),
    ("clock", 1),
    ("dice", 1),
    ("wake", 1),
    ("metrics", 1),
    ("store", 2),
    ("egress", 2),
    ("client", 2),
    ("http", 3),
    ("dispatch", 3),
    ("push", 3),
    ("sweep", 3),
    ("app", 4),
    ("config", 4),
    ("telemetry", 4),
    ("worker", 5),
    ("cli", 5),
];

/// Doors people use may also lean on each other, and app reads its configuration.
const ALSO: &[(&str, &str)] = &[("cli", "worker"), ("app", "config")];

/// A crate that only one place may name.
const CONFINED: &[(&str, &[&str])] = &[
    ("backoff::", &["src/types/retry.rs"]),
    ("sqlx::", &["src/store/"]),
    ("rusqlite::", &["src/store/db", "src/store/migrate.rs"]),
    ("reqwest::", &["src/client.rs", "src/client/"]),
    ("axum::", &["src/http/", "src/cli/demo", "src/cli/listen", "src/app.rs"]),
    ("x509_parser::", &["src/egress/look.rs"]),
    ("getrandom::", &["src/dice.rs"]),
    ("SystemTime::now", &["src/clock.rs"]),
];

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    walk(&root.join("src"), &mut files);
    files.sort();
    let name = |p: &Path| p.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    files.iter().map(|p| (name(p), std::fs::read_to_string(p).unwrap())).collect()
}

/// The lines that are code: comments tell of other floors freely.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")).map(|(n, l)| (n + 1, l))
}

fn module_of(file: &str) -> &str {
    let inside = file.strip_prefix("src/").unwrap();
    inside.split('/').next().unwrap().trim_end_matches(".rs")
}

#[test]
fn imports_only_point_down() {
    let floors: BTreeMap<&str, u8> = FLOORS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let from = module_of(&file);
        if matches!(from, "lib" | "main") {
            continue;
        }
        let own = *floors.get(from).unwrap_or_else(|| panic!("{file}: `{from}` has no floor; give it one"));
        for (line, code) in code(&text) {
            for path in code.split("crate::").skip(1) {
                let to: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(floor) = floors.get(to.as_str()) else { continue };
                if to != from && *floor >= own && !ALSO.contains(&(from, to.as_str())) {
                    wrong.push(format!("{file}:{line}: {from} (floor {own}) imports {to} (floor {floor})"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that do not point down:\n{}", wrong.join("\n"));
}

#[test]
fn each_outside_thing_is_spoken_to_in_one_place() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (line, code) in code(&text) {
            for (name, places) in CONFINED {
                // A module's own tests may play the other side of the wire.
                let allowed = file.ends_with("/tests.rs") || places.iter().any(|p| file.starts_with(p));
                if code.contains(name) && !allowed {
                    wrong.push(format!("{file}:{line}: `{name}` belongs to {places:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_language_is_pure() {
    let mut wrong = Vec::new();
    for (file, text) in sources().into_iter().filter(|(f, _)| f.starts_with("src/types/")) {
        for (line, code) in code(&text) {
            if ["async ", "tokio::", "std::fs", "std::net::Tcp", ".await"].iter().any(|w| code.contains(w)) {
                wrong.push(format!("{file}:{line}: {code}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_stay_readable() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|(_, text)| text.lines().count() > 420)
        .map(|(file, text)| format!("{file}: {} lines", text.lines().count()))
        .collect();
    assert!(long.is_empty(), "split by verb:\n{}", long.join("\n"));
}

#[test]
fn nothing_is_left_undone() {
    let words = ["todo!(", "unimplemented!(", concat!("FIX", "ME"), concat!("XX", "X"), "dbg!("];
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (n, line) in text.lines().enumerate() {
            if words.iter().any(|w| line.contains(w)) {
                wrong.push(format!("{file}:{}: {line}", n + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
