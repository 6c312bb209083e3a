//! `bench`: that it measures what it says; the figures themselves are the machine's.

mod interrupted;
mod runs;

use serde_json::Value;

use super::run;
use crate::support::postgres;
use crate::support::process::ringback;

fn streams(more: &[&str]) -> std::process::Command {
    let mut command = ringback();
    command.args(["bench", "streams", "--streams", "20", "--changes", "5", "--rest-seconds", "1"]).args(more);
    command
}

#[test]
fn streams_are_measured_on_a_server_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let said = run(streams(&[]).env("TMPDIR", dir.path()));
    for word in ["20 event streams (SSE), sqlite", "KiB each", "of a core", "p50", "p99", "(5 changes)"] {
        assert!(said.done().contains(word), "{word}: {said:?}");
    }
    println!("{}", said.out);
    assert_eq!(dir.path().read_dir().unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn sockets_are_measured_over_two_nodes() {
    let store = postgres::database().await;
    let seen =
        run(&mut streams(&["--kind", "websocket", "--nodes", "2", "--store", &store, "--json"])).json();
    for (name, wanted) in [("kind", "websocket"), ("engine", "postgresql")] {
        assert_eq!(seen[name], wanted, "{seen}");
    }
    for (name, wanted) in [("nodes", 2), ("streams", 20), ("changes", 5)] {
        assert_eq!(seen[name], wanted, "{seen}");
    }
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{seen}"));
    assert!(number(&seen["memoryWithStreams"]) > 1e6 && number(&seen["memoryBefore"]) > 1e6, "{seen}");
    for times in ["wake", "changeAndWake"].map(|name| &seen[name]) {
        let [half, most, all] = ["p50Ms", "p99Ms", "maxMs"].map(|name| number(&times[name]));
        assert!(half <= most && most <= all, "{seen}");
    }
    assert!(number(&seen["changeAndWake"]["p50Ms"]) > number(&seen["wake"]["p50Ms"]), "{seen}");
}

/// The limits themselves are held by the command, at its receiver; it fails where one is exceeded.
fn parked(more: &[&str]) {
    let mut command = ringback();
    command.args(["bench", "parked", "--deliveries", "1000", "--rate-limit", "300", "--max-in-flight", "4"]);
    let seen = run(command.args(["--answer-ms", "10", "--json"]).args(more)).json();
    let number = |name: &str| seen[name].as_f64().unwrap_or_else(|| panic!("{seen}"));
    assert_eq!((number("deliveries"), number("badSignatures")), (1_000.0, 0.0), "{seen}");
    assert!((1.0..=4.0).contains(&number("mostInFlight")), "{seen}");
    // 10 + 20 + 40 + 80 + 160 + 320 + 640 is the ramp, and the rate is slower at its end.
    assert!(number("seconds") > 5.0 && number("deliveriesPerSecond") < 200.0, "{seen}");
    let seconds: Vec<_> =
        seen["firstSeconds"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    assert!(seconds[0] <= 10 && seconds[..2].iter().sum::<u64>() <= 30, "{seen}");
}

#[test]
fn what_was_parked_is_drained_within_the_lanes_limits() {
    parked(&[]);
}

#[tokio::test]
async fn what_was_parked_is_drained_within_the_lanes_limits_on_postgres() {
    let store = postgres::database().await;
    parked(&["--store", &store]);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    run(&mut streams(&["--nodes", "2"])).refused(2, "PostgreSQL");
    run(&mut streams(&["--changes", "21"])).refused(2, "--changes");
    run(&mut streams(&["--streams", "0"])).refused(2, "--streams");
    run(&mut streams(&["--store", "mysql://x"])).refused(2, "sqlite:// or postgres://");
}

fn isolation(more: &[&str]) -> std::process::Command {
    let mut command = ringback();
    command.args(["bench", "isolation", "--seconds", "1", "--rounds", "1", "--rate", "10", "--window", "60"]);
    command.args(["--healthy", "20", "--black-holes", "2", "--slow-bodies", "1", "--busy", "1"]).args(more);
    command
}

#[test]
fn healthy_endpoints_are_measured_alone_and_beside_bad_ones() {
    let dir = tempfile::tempdir().unwrap();
    let said = run(isolation(&[]).env("TMPDIR", dir.path()));
    for word in ["20 healthy endpoints beside 2 black holes", "sqlite", "p99", "none lost", "alone", "beside"]
    {
        assert!(said.done().contains(word), "{word}: {said:?}");
    }
    assert_eq!(dir.path().read_dir().unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn bad_neighbours_are_met_on_postgresql() {
    let store = postgres::database().await;
    let seen = run(&mut isolation(&["--store", &store, "--json"])).json();
    for (name, wanted) in [("healthy", 20), ("blackHoles", 2), ("slowBodies", 1), ("busy", 1), ("rounds", 1)]
    {
        assert_eq!(seen[name], wanted, "{seen}");
    }
    assert_eq!(seen["engine"], "postgres");
    for phase in ["alone", "beside"].map(|name| &seen[name]) {
        assert_eq!(phase["publishedToSeen"].as_array().map(Vec::len), Some(1), "{seen}");
        assert!(
            phase["perSecond"][0].as_f64() > Some(0.0) && phase["deliveries"].as_u64() > Some(20),
            "{seen}"
        );
    }
    assert!(seen["beside"]["failedAttempts"].as_f64() > Some(0.0), "{seen}");
    assert!(seen["p99Ratio"].as_f64() > Some(0.0) && seen["throughputRatio"].as_f64() > Some(0.0), "{seen}");
}
