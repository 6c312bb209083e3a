//! `keys`.

use serde_json::{Value, json};

use super::{Desk, Process, run};
use crate::support::app::until;
use crate::support::process::ringback;

#[test]
fn the_first_key_is_made_in_the_store_and_works() {
    let dir = tempfile::tempdir().unwrap();
    let create = |args: &[&str]| {
        let head = ["keys", "create", "--store", "sqlite://k.db"];
        run(ringback().args(head).args(args).current_dir(dir.path()))
    };

    let made = create(&["--tenant", "acme", "--scopes", "jobs:read,metrics:read", "--name", "ops"]);
    let told = create(&["--tenant", "acme", "--scopes", "jobs:write", "--json"]).json();

    let key = made.done().strip_suffix('\n').unwrap();
    assert!(key.starts_with("rbk_") && !key.contains(char::is_whitespace), "only the key: {made:?}");
    assert_eq!((&told["tenant"], &told["scopes"]), (&json!("acme"), &json!(["jobs:write"])));
    let writer = told["key"].as_str().unwrap();
    let files = [std::fs::read(dir.path().join("k.db")).unwrap()].concat();
    assert!(!files.windows(key.len()).any(|bytes| bytes == key.as_bytes()), "it is not stored");
    create(&["--scopes", "work"]).refused(2, "needs --tenant");
    let id = "ten_01JDAAAAAAAAAAAAAAAAAAAAAA";
    create(&["--tenant", id, "--scopes", "work"]).refused(2, "takes the tenant's name, not its id");
    create(&["--tenant", "acme"]).refused(2, "--scopes");
    create(&["--tenant", "acme", "--scopes", "fly"]).refused(2, "fly");

    run(ringback().args(["keyring", "create", "ring"]).current_dir(dir.path())).done();
    let mut command = ringback();
    command.args(["serve", "--listen", "127.0.0.1:0", "--store", "sqlite://k.db", "--key-ring", "ring"]);
    let node = Process::start(&mut command, dir.path(), "serve.log");
    let line = node.line();
    let url = line.strip_prefix("listening on ").unwrap();
    let with = |key: &str, args: &[&str]| {
        run(ringback().args(args).env("RINGBACK_URL", url).env("RINGBACK_API_KEY", key))
    };
    with(key, &["jobs", "list"]).done();
    with(key, &["submit", "--type", "t"]).refused(1, "forbidden");
    with(writer, &["submit", "--type", "t"]).done();
    with(writer, &["jobs", "list"]).refused(1, "forbidden");
}

#[tokio::test]
async fn further_keys_are_made_listed_and_revoked_through_the_service() {
    let desk = Desk::open();

    let made = desk.run(&["keys", "create", "--scopes", "jobs:read", "--name", "reader"]);
    let reader = made.done().trim().to_owned();
    let short = ["keys", "create", "--scopes", "work", "--expires-at", "2199-01-01T00:00:00Z"];
    assert_eq!(desk.json(&short)["expiresAt"], "2199-01-01T00:00:00.000Z");
    desk.run(&["keys", "create", "--scopes", "work", "--tenant", "acme"])
        .refused(2, "--tenant needs --store");

    let as_reader = || run(desk.command(&["jobs", "list"]).env("RINGBACK_API_KEY", &reader));
    as_reader().done();
    let list = desk.json(&["keys", "list"]);
    let entry = list["items"].as_array().unwrap().iter().find(|k| k["name"] == "reader").unwrap().clone();
    assert_eq!((&entry["scopes"], entry.get("key")), (&json!(["jobs:read"]), None));
    assert!(reader.starts_with(entry["prefix"].as_str().unwrap()), "{entry}");
    assert!(!list.to_string().contains(&reader), "it is shown once");
    let table = desk.run(&["keys", "list"]);
    assert!(table.done().starts_with("KEY ID") && table.out.contains("reader"), "{table:?}");

    let id = entry["keyId"].as_str().unwrap();
    assert_eq!(desk.json(&["keys", "revoke", id]), json!({"revoked": id}));
    until("the key is refused", async || {
        let ran = as_reader();
        if ran.code == 1 { Ok(ran) } else { Err(ran) }
    })
    .await
    .refused(1, "unauthorized");
    let missing = desk.run(&["keys", "revoke", id, "--json"]);
    missing.refused(1, "");
    assert_eq!(serde_json::from_str::<Value>(&missing.err).unwrap()["code"], "not-found");
}
