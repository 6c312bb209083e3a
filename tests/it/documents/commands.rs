//! `--help` against `docs/configuration.md` and `docs/api.md`.

use std::collections::{BTreeMap, BTreeSet};

use super::{code, read, spans, table};
use crate::support::process::ringback;

fn help(args: &[&str]) -> String {
    let output = ringback().args(args).arg("--help").output().unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Each flag that a help text shows, and the text that belongs to it.
fn flags(help: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut last = None;
    for line in help.lines().skip_while(|line| *line != "Options:").skip(1) {
        let text = line.trim().trim_start_matches("-h, ").trim_start_matches("-V, ");
        if text.starts_with("--") {
            last = Some(text.split_whitespace().next().unwrap().to_owned());
        }
        if let Some(flag) = &last {
            let known = found.entry(flag.clone()).or_default();
            *known = format!("{known} {}", line.trim());
        }
    }
    found.remove("--help").expect("a help text");
    found.remove("--version").expect("a help text");
    found
}

#[test]
fn every_flag_of_dev_and_serve_is_told_with_its_variable() {
    let page = read("docs/configuration.md");
    for command in ["dev", "serve"] {
        let shown = flags(&help(&[command]));
        assert!(shown.len() >= 5, "{shown:?}");
        let told: BTreeMap<String, String> = table(&page, &format!("## `ringback {command}`"))
            .iter()
            .map(|row| (code(&row[0]).to_owned(), code(&row[1]).to_owned()))
            .collect();
        let names = |flags: &BTreeMap<String, String>| flags.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&told), names(&shown), "{command}");
        for (flag, variable) in told {
            let wanted = format!("RINGBACK_{}", flag[2..].to_uppercase().replace('-', "_"));
            assert_eq!(variable, wanted, "{command} {flag}");
            // What every command has is told once, at the end of the top-level help.
            let env = format!("[env: {variable}");
            assert!(shown[&flag].contains(&env) || flag == "--json", "{command} {flag}: {}", shown[&flag]);
        }
    }
}

#[test]
fn the_defaults_told_are_those_of_the_help() {
    let page = read("docs/configuration.md");
    for command in ["dev", "serve"] {
        let shown = flags(&help(&[command]));
        for row in table(&page, &format!("## `ringback {command}`")) {
            let text = &shown[code(&row[0])];
            let default = text.split("[default: ").nth(1).map(|rest| rest.split(']').next().unwrap());
            let told = row[2].strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
            let told = told.filter(|told| !told.ends_with('/') && !told.contains('`'));
            assert_eq!(told, default, "{command} {}", row[0]);
        }
    }
}

#[test]
fn every_flag_of_work_and_run_is_told() {
    let page = read("docs/workers.md");
    for command in ["work", "run"] {
        let mut shown: BTreeSet<String> = flags(&help(&[command])).into_keys().collect();
        for everywhere in ["--url", "--api-key", "--json"] {
            assert!(shown.remove(everywhere), "{command} {everywhere}");
        }
        let (_, tables) = page.split_once(&format!("## `ringback {command}`")).unwrap();
        let (_, rows) = tables.split_once("| Flag |").unwrap();
        let rows = rows.lines().skip(2).take_while(|line| line.starts_with('|'));
        let told: BTreeSet<String> =
            rows.flat_map(|row| spans(row.split(" | ").next().unwrap())).map(str::to_owned).collect();
        assert_eq!(told, shown, "{command}");
    }
}

/// The commands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let block = lines.take_while(|line| !line.is_empty());
    // Continuation lines are indented further.
    let names = block.filter(|line| line.len() - line.trim_start().len() == 2);
    names.map(|line| line.split_whitespace().next().unwrap().to_owned()).filter(|n| n != "help").collect()
}

#[test]
fn every_command_of_the_help_is_told_and_no_other() {
    let mut served: BTreeSet<String> = BTreeSet::new();
    let mut parents = BTreeSet::new();
    for command in commands(&help(&[])) {
        let below = commands(&help(&[&command]));
        if below.is_empty() {
            served.insert(command);
            continue;
        }
        served.extend(below.iter().map(|sub| format!("{command} {sub}")));
        parents.insert(command);
    }
    let mut told = BTreeSet::new();
    for row in table(&read("docs/api.md"), "## Command line") {
        for part in row[0].split(';') {
            let mut parent = None;
            for span in spans(part) {
                let words: Vec<&str> = span.split_whitespace().collect();
                if words.len() > 1 && parents.contains(words[0]) {
                    parent = Some(words[0]);
                    told.insert(
                        words[1].split(',').map(|sub| format!("{} {sub}", words[0])).collect::<String>(),
                    );
                } else {
                    told.insert(
                        parent.map_or(words[0].to_owned(), |parent| format!("{parent} {}", words[0])),
                    );
                }
            }
        }
    }
    assert_eq!(told, served);
    assert!(served.len() >= 25, "{served:?}");
}
