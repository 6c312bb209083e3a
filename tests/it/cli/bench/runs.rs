//! The benchmarks of the whole way and of growth, at the smallest size: that they measure what they say.

use std::process::Command;

use serde_json::Value;

use crate::cli::run;
use crate::support::postgres::database;
use crate::support::process::ringback;

/// `ringback bench WORDS --json`, with `more` after it; on SQLite in `dir` where it names no store.
fn bench(dir: &tempfile::TempDir, words: &str, more: &[&str]) -> Command {
    let mut command = ringback();
    command.arg("bench").args(words.split(' ')).args(more).arg("--json").env("TMPDIR", dir.path());
    command
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number: {value}"))
}

#[track_caller]
fn measured(dir: &tempfile::TempDir, words: &str, more: &[&str]) -> Value {
    let seen = run(&mut bench(dir, words, more)).json();
    assert_eq!(dir.path().read_dir().unwrap().count(), 0, "nothing is left behind");
    seen
}

const FEW: &str = "--jobs 120 --warm-up 40 --limit-jobs 40 --connections 4 --window 40";
const ROUND: &str = "--jobs 60 --rounds 1 --connections 4 --window 20";

#[track_caller]
fn is_a_run(seen: &Value, processes: &[&str]) {
    assert_eq!(seen["jobs"], 120, "{seen}");
    for process in processes {
        assert!(seen["cpuMicrosPerJob"][process].is_number(), "{process}: {seen}");
    }
    let limits = &seen["limits"];
    for limit in ["store", "http"] {
        assert_eq!(limits[limit].as_array().map(Vec::len), Some(2), "before and after: {limits}");
        assert!(number(&limits[limit][0]["jobsPerSecond"]) > 0.0, "{limits}");
    }
    let (sum, share) = (number(&limits["sumOfPartsJobsPerSecond"]), number(&limits["share"]));
    assert!((number(&seen["jobsPerSecond"]) / sum - share).abs() < 1e-6, "{seen}");
}

#[test]
fn the_whole_way_is_held_against_what_the_machine_can_do() {
    let dir = tempfile::tempdir().unwrap();
    let seen = measured(&dir, &format!("lifecycle {FEW}"), &[]);
    is_a_run(&seen, &["server", "worker", "receiver", "driver"]);
    assert_eq!(seen["engine"], "sqlite");
    assert!(seen["walBytesPerJob"].is_null() && number(&seen["jobsPerClaim"]) > 0.0, "{seen}");
}

#[tokio::test]
async fn two_nodes_go_the_whole_way_together() {
    let (dir, store) = (tempfile::tempdir().unwrap(), database().await);
    let seen = measured(&dir, &format!("lifecycle {FEW} --nodes 2"), &["--store", &store]);
    is_a_run(&seen, &["server", "worker", "receiver", "driver", "database"]);
    assert_eq!((&seen["engine"], &seen["nodes"]), (&"postgres".into(), &2.into()));
    assert!(number(&seen["walBytesPerJob"]) > 1_000.0, "{seen}");
    run(&mut bench(&dir, "lifecycle --nodes 2", &[])).refused(2, "PostgreSQL");
    run(&mut bench(&dir, "nodes", &[])).refused(2, "PostgreSQL");
}

#[track_caller]
fn is_a_comparison(seen: &Value, callbacks: u64) {
    for side in ["base", "other"] {
        let round = &seen[side][0];
        assert!(round["jobs"].as_u64().unwrap() >= callbacks, "{side}: {seen}");
        assert!(number(&round["jobsPerSecond"]) > 0.0, "{side}: {seen}");
    }
    assert!(number(&seen["throughputRatio"]) > 0.0 && number(&seen["submitP99Ratio"]) > 0.0, "{seen}");
}

/// What is measured on both engines, each by a test of its own: it starts many processes.
macro_rules! on_both_engines {
    ($($name:ident: $test:ident($($arg:expr),+);)+) => {
        mod sqlite {
            use super::*;
            $(#[test]
            fn $name() {
                $test(&tempfile::tempdir().unwrap(), &[], $($arg),+);
            })+
        }
        mod postgres {
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                let store = database().await;
                $test(&tempfile::tempdir().unwrap(), &["--store", &store], $($arg),+);
            })+
        }
    };
}

on_both_engines! {
    the_durable_202_is_measured_alone: submitted("submit");
    a_backlog_is_compared_with_an_empty_store: compared("backlog --due 150 --finished 300", 60);
    a_held_snapshot_is_compared_with_none: compared("snapshot --hold-seconds 1", 1);
    many_endpoints_are_compared_with_one: compared("endpoints --endpoints 57", 60);
    a_fan_out_is_compared_with_as_many_single_events: compared("fanout --endpoints 60", 60);
    rest_and_start_are_measured_over_a_filled_store: rested("idle --finished 200 --rest-seconds 1 --starts 2");
}

#[track_caller]
fn submitted(dir: &tempfile::TempDir, more: &[&str], words: &str) {
    let seen = measured(dir, &format!("{words} {FEW}"), more);
    is_a_run(&seen, &["server", "driver"]);
    assert!(seen["doneToSeen"].is_null() && seen["cpuMicrosPerJob"]["worker"].is_null(), "{seen}");
}

#[track_caller]
fn compared(dir: &tempfile::TempDir, more: &[&str], words: &str, callbacks: u64) {
    is_a_comparison(&measured(dir, &format!("{words} {ROUND}"), more), callbacks);
}

#[track_caller]
fn rested(dir: &tempfile::TempDir, more: &[&str], words: &str) {
    let seen = measured(dir, words, more);
    for rest in ["alone", "withWorker", "full"] {
        assert!(number(&seen[rest]["serverMib"]) > 1.0 && seen[rest]["cores"].is_number(), "{seen}");
    }
    assert!(number(&seen["ready"]["p50Ms"]) > 0.0, "{seen}");
}

#[tokio::test]
async fn two_nodes_are_compared_with_one() {
    let (dir, store) = (tempfile::tempdir().unwrap(), database().await);
    let seen = measured(&dir, &format!("nodes {ROUND}"), &["--store", &store]);
    is_a_comparison(&seen, 60);
    assert_eq!((&seen["base"][0]["nodes"], &seen["other"][0]["nodes"]), (&1.into(), &2.into()));
}

#[test]
fn a_flood_is_counted_by_answers() {
    let dir = tempfile::tempdir().unwrap();
    let seen = measured(&dir, "flood --connections 20 --seconds 1", &[]);
    assert!(seen["answers"]["202"].as_u64().unwrap() > 0, "{seen}");
    assert_eq!((&seen["withoutRetryAfter"], &seen["cut"]), (&0.into(), &0.into()), "{seen}");
}
