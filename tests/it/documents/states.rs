//! `docs/state-machines.md` against the enums.

use std::collections::BTreeSet;

use ringback::types::delivery::{DeadReason, DeliveryState, HeldReason};
use ringback::types::job::{CallbackState, JobEvent, JobState};

use super::{code, read, spans, table};

const PAGE: &str = "docs/state-machines.md";

fn yes(told: &str) -> bool {
    match told {
        "yes" => true,
        "no" => false,
        other => panic!("neither yes nor no: {other}"),
    }
}

/// Every delivery state; a new one must not compile before it is listed here.
fn delivery_states() -> Vec<(&'static str, bool)> {
    use DeliveryState::*;
    let ended = |state| match state {
        Pending | InFlight | Held => false,
        Delivered | Dead | Cancelled => true,
    };
    [Pending, InFlight, Held, Delivered, Dead, Cancelled].map(|state| (state.as_str(), ended(state))).to_vec()
}

fn dead_reasons() -> Vec<&'static str> {
    use DeadReason::*;
    let all = [Exhausted, Gone, Aborted, Expired, Refused, Poison, Unsignable];
    all.map(|reason| match reason {
        Exhausted | Gone | Aborted | Expired | Refused | Poison | Unsignable => reason.as_str(),
    })
    .to_vec()
}

fn held_reasons() -> Vec<&'static str> {
    use HeldReason::*;
    [Paused, Disabled, Breaker]
        .map(|reason| match reason {
            Paused | Disabled | Breaker => reason.as_str(),
        })
        .to_vec()
}

/// The first column of a table.
fn words(heading: &str) -> Vec<String> {
    table(&read(PAGE), heading).iter().map(|row| code(&row[0]).to_owned()).collect()
}

#[test]
fn job_states_are_those_of_the_code() {
    let rows = table(&read(PAGE), "### Job states");
    let told: Vec<(&str, &str, bool)> =
        rows.iter().map(|row| (code(&row[0]), code(&row[1]), yes(&row[3]))).collect();
    let states: Vec<(&str, &str, bool)> =
        JobState::ALL.iter().map(|state| (state.as_str(), state.status().as_str(), state.ended())).collect();
    assert_eq!(told, states);
}

#[test]
fn job_events_are_those_of_the_code() {
    let rows = table(&read(PAGE), "### Job events");
    let told: Vec<(&str, i64, bool)> =
        rows.iter().map(|row| (code(&row[0]), 1 << row[1].parse::<u8>().unwrap(), yes(&row[2]))).collect();
    let events: Vec<(&str, i64, bool)> =
        JobEvent::ALL.iter().map(|event| (event.as_str(), event.bit(), event.is_terminal())).collect();
    assert_eq!(told, events);
}

#[test]
fn delivery_states_and_reasons_are_those_of_the_code() {
    let rows = table(&read(PAGE), "### Delivery states");
    let told: Vec<(&str, bool)> = rows.iter().map(|row| (code(&row[0]), yes(&row[2]))).collect();
    assert_eq!(told, delivery_states());
    assert_eq!(words("### Dead reasons"), dead_reasons());
    let callback: Vec<&str> = CallbackState::ALL.iter().map(|state| state.as_str()).collect();
    assert_eq!(words("### Callback states"), callback);
    let page = read(PAGE);
    let held: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.starts_with("| Held reason |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| spans(line)[0])
        .collect();
    assert_eq!(held, held_reasons());
}

/// The arrows of the diagram below a heading, as `from -> to`.
fn arrows(heading: &str) -> BTreeSet<String> {
    let page = read(PAGE);
    let below = page.split(&format!("{heading}\n")).nth(1).unwrap();
    let diagram = below.split("```mermaid\n").nth(1).unwrap().split("```").next().unwrap();
    let arrows = diagram.lines().filter_map(|line| line.trim().split_once(" --> "));
    let pair = |(from, to): (&str, &str)| format!("{from} -> {}", to.split(':').next().unwrap());
    arrows.map(pair).filter(|arrow| !arrow.ends_with("[*]")).collect()
}

/// The same of a table of transitions, whose cells may name several states.
fn transitions(heading: &str) -> BTreeSet<String> {
    let mut pairs = BTreeSet::new();
    for row in table(&read(PAGE), heading) {
        let from = if row[0] == "-" { vec!["[*]"] } else { spans(&row[0]) };
        for from in from {
            let to = if row[1] == "the same" { vec![from] } else { spans(&row[1]) };
            pairs.extend(to.iter().map(|to| format!("{from} -> {to}")));
        }
    }
    pairs
}

#[test]
fn the_diagrams_draw_the_transitions_of_the_tables() {
    assert_eq!(arrows("## Job"), transitions("### Job transitions"));
    let stays = |pairs: BTreeSet<String>| -> BTreeSet<String> {
        let moves = |pair: &String| pair.split_once(" -> ").is_some_and(|(from, to)| from != to);
        pairs.into_iter().filter(moves).collect()
    };
    assert_eq!(stays(arrows("## Delivery")), stays(transitions("### Delivery transitions")));
    let known: BTreeSet<&str> = JobState::ALL.iter().map(|state| state.as_str()).collect();
    for arrow in arrows("## Job") {
        let (from, to) = arrow.split_once(" -> ").unwrap();
        assert!((from == "[*]" || known.contains(from)) && known.contains(to), "{arrow}");
    }
}
