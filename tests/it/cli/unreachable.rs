//! Exit 3: nobody is there. And where client commands look for the service.

use serde_json::Value;

use super::{Desk, run};
use crate::support::process::{KEY, free_port, ringback};

const JOB: &str = "job_01H455VB4PEX5VSKNK084SN02Q";
const DELIVERY: &str = "dlv_01H455VB4PEX5VSKNK084SN02Q";

#[test]
fn every_client_command_says_that_it_cannot_reach_the_service() {
    let url = format!("http://127.0.0.1:{}", free_port());
    for args in [
        &["submit", "--type", "t"][..],
        &["submit", "--type", "t", "--wait"],
        &["jobs", "list"],
        &["jobs", "get", JOB],
        &["jobs", "result", JOB],
        &["jobs", "cancel", JOB],
        &["jobs", "retry", JOB],
        &["jobs", "events", JOB],
        &["deliveries", "list"],
        &["deliveries", "get", DELIVERY],
        &["deliveries", "retry", DELIVERY],
        &["deliveries", "cancel", DELIVERY],
        &["lanes", "list"],
        &["dead-letters", "list"],
        &["dead-letters", "show", DELIVERY],
        &["dead-letters", "replay"],
        &["dead-letters", "discard", DELIVERY],
        &["keys", "create", "--scopes", "work"],
        &["keys", "list"],
        &["openapi"],
        &["run", "--", "true"],
    ] {
        let ran = run(ringback().args(args).env("RINGBACK_URL", &url).env("RINGBACK_API_KEY", KEY));
        ran.refused(3, "cannot reach the service");
    }
    let told = run(ringback().args(["jobs", "list", "--json", "--url", &url]));
    told.refused(3, "");
    let told: Value = serde_json::from_str(&told.err).unwrap();
    assert_eq!(told["code"], "unreachable");
}

#[test]
fn the_environment_names_the_service_and_flags_win() {
    let desk = Desk::open();
    let nobody = format!("http://127.0.0.1:{}", free_port());

    assert!(desk.run(&["jobs", "list"]).done().starts_with("JOB"));
    desk.run(&["jobs", "list", "--url", &nobody]).refused(3, "cannot reach");
    let mut lost = desk.command(&["jobs", "list", "--url", &desk.node.url]);
    run(lost.env("RINGBACK_URL", &nobody)).done();
    let other = format!("rbk_{}", "x".repeat(40));
    desk.run(&["jobs", "list", "--api-key", &other]).refused(1, "unauthorized");
    run(desk.command(&["jobs", "list"]).env_remove("RINGBACK_API_KEY")).refused(1, "unauthorized");
    let json = run(desk.command(&["jobs", "list"]).env("RINGBACK_JSON", "1").env("RINGBACK_LIMIT", "1"));
    assert!(json.json()["items"].is_array());
}
