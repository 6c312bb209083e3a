//! `endpoints`: every verb.

use serde_json::json;

use super::{Desk, run};
use crate::support::process::ringback;

#[test]
fn an_endpoint_is_made_looked_at_changed_and_deleted() {
    let desk = Desk::open();
    let made = desk.json(&[
        "endpoints",
        "create",
        "http://127.0.0.1:9/in",
        "--events",
        "invoice.*,job.failed",
        "--account",
        "acme",
        "--rate-limit",
        "5",
        "--schemes",
        "github",
        "--ordered",
        "--headers",
        r#"{"X-Env": "prod"}"#,
    ]);
    let id = made["endpointId"].as_str().unwrap();
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"), "{made}");
    assert_eq!((&made["events"], &made["ordered"]), (&json!(["invoice.*", "job.failed"]), &json!(true)));

    let shown = desk.run(&["endpoints", "show", id]);
    assert!(shown.done().contains("acme") && !shown.out.contains("whsec_"), "{shown:?}");
    let list = desk.run(&["endpoints", "list", "--account", "acme"]);
    assert!(list.done().starts_with("ENDPOINT ID") && list.out.contains(id), "{list:?}");

    let changed =
        desk.json(&["endpoints", "update", id, "--timeout-seconds", "3", "--reset", "account,headers"]);
    assert_eq!(changed["timeoutSeconds"], 3);
    assert!(changed.get("account").is_none() && changed.get("headers").is_none(), "{changed}");
    assert_eq!(changed["rateLimitPerSecond"], 5, "what is not given stays");
    desk.run(&["endpoints", "update", id, "--timeout-seconds", "31"]).refused(1, "/timeoutSeconds");

    assert_eq!(desk.json(&["endpoints", "pause", id])["state"], "paused");
    assert_eq!(desk.json(&["endpoints", "resume", id])["state"], "enabled");
    let rotated = desk.json(&["endpoints", "rotate-secret", id, "--overlap-seconds", "60"]);
    assert!(rotated["secret"] != made["secret"] && rotated["previousExpiresAt"].is_string(), "{rotated}");
    // Nobody listens there.
    for verb in ["test", "verify"] {
        let probe = desk.run(&["endpoints", verb, id]);
        assert!(probe.code == 1 && probe.out.contains("no connection"), "{probe:?}");
    }
    assert_eq!(desk.json(&["endpoints", "delete", id]), json!({ "deleted": id }));
    desk.run(&["endpoints", "show", id]).refused(1, "not-found");
}

#[test]
fn what_says_nothing_or_nonsense_is_wrong_usage() {
    let id = "ep_01H455VB4PEX5VSKNK084SN02Q";
    for args in [
        &["update", id][..],
        &["update", id, "--reset", "colour"],
        &["update", id, "--headers", "x"],
        &["create", "https://x", "--schemes", "v9"],
        &["show", "job_01H455VB4PEX5VSKNK084SN02Q"],
        &["create"],
    ] {
        let ran = run(ringback().arg("endpoints").args(args));
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {ran:?}");
    }
}
