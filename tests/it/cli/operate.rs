//! `migrate`, `check`, `config print`, `openapi`, `demo`, and what the top level does.

use serde_json::{Value, json};

use super::{Desk, run};
use crate::support::process::ringback;
use crate::support::store::beside;

#[test]
fn migrate_makes_the_schema_and_may_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let migrate = |more: &[&str]| {
        run(ringback().args(["migrate", "--store", "sqlite://m.db"]).args(more).current_dir(dir.path()))
    };
    assert_eq!(migrate(&[]).done(), "the store is at schema version 1\n");
    assert!(dir.path().join("m.db").is_file());
    assert_eq!(migrate(&["--json"]).json(), json!({"detail": "the store is at schema version 1"}));
    run(ringback().arg("migrate")).refused(2, "--store");
    run(ringback().args(["migrate", "--store", "mysql://x"])).refused(2, "sqlite:// or postgres://");
    run(ringback().args(["migrate", "--store", "postgres://127.0.0.1:1/x"])).refused(1, "error: ");
}

#[tokio::test]
async fn check_tells_a_broken_invariant_from_a_sound_store() {
    let mut desk = Desk::open();
    let job = desk.submit(&[]);
    assert_eq!(desk.node.terminate(), 0);
    let check = |more: &[&str]| desk.run(&[&["check", "--store", "sqlite://desk.db"], more].concat());
    assert_eq!(check(&[]).done(), "all invariants hold\n");
    assert_eq!(check(&["--json"]).json(), json!({"holds": true, "violations": []}));

    let file = format!("sqlite://{}", desk.dir.path().join("desk.db").display());
    beside(&file).await.run("DELETE FROM job_queue", vec![]).await.unwrap();

    let broken = check(&["--json"]);
    assert_eq!(broken.code, 1, "{broken:?}");
    let found: Value = serde_json::from_str(&broken.out).unwrap();
    assert_eq!(found["holds"], false);
    assert_eq!(found["violations"][0]["invariant"], "I1", "{found}");
    assert_eq!(found["violations"].as_array().unwrap().len(), 1, "{found}");
    let table = check(&[]);
    assert_eq!(table.code, 1);
    assert!(table.out.starts_with("INVARIANT") && table.out.contains("I1"), "{table:?} of {job}");
}

#[test]
fn check_makes_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = ["check", "--store", "sqlite://none.db"];
    run(ringback().args(store).current_dir(dir.path())).refused(1, "error: ");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "it reads only");
}

#[test]
fn what_goes_to_a_store_as_it_is_says_how_it_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let told = |args: &[&str]| run(ringback().args(args).current_dir(dir.path()));
    told(&["keyring", "create", "ring"]).done();
    std::fs::write(dir.path().join("old.db"), "").unwrap();
    let store = ["--store", "sqlite://old.db"];
    let commands: [&[&str]; 3] =
        [&["check"], &["rotate-keys", "--key-ring", "ring"], &["keyring", "list", "ring"]];
    for command in commands {
        told(&[command, &store[..]].concat()).refused(1, "`ringback migrate --store URL`");
    }
    told(&[&["migrate"], &store[..]].concat()).done();
    for command in commands {
        told(&[command, &store[..]].concat()).done();
    }
}

#[test]
fn config_print_shows_what_counts_and_no_password() {
    let dir = tempfile::tempdir().unwrap();
    let route = "[[routes]]\npath = '/mine'\ntype = 'm'\nqueue = 'slow'\n[endpoints]\nper_account = 77\n";
    std::fs::write(dir.path().join("r.toml"), route).unwrap();
    run(ringback().args(["keyring", "create", "ring"]).current_dir(dir.path())).done();
    let print = |more: &[&str]| {
        let mut command = ringback();
        command.args(["config", "print", "--key-ring", "ring"]).args(more).env("RINGBACK_CONFIG", "r.toml");
        command.env("RINGBACK_STORE", "postgres://me:canary@db.example.com/r?password=canary");
        command.env("RINGBACK_ALLOW_PORT", "81,82").env("RINGBACK_ALLOW_HTTP", "1");
        command.env("RINGBACK_LISTEN", "127.0.0.1:1").current_dir(dir.path());
        run(&mut command)
    };

    let shown = print(&["--listen", "127.0.0.1:2", "--json"]);

    assert!(!shown.out.contains("canary"), "{shown:?}");
    let seen = shown.json();
    let flags = &seen["flags"];
    assert!(flags["store"].as_str().unwrap().contains("redacted"), "{flags}");
    for (name, value) in [
        ("listen", "127.0.0.1:2"),
        ("public_url", "http://127.0.0.1:2"),
        ("key_ring", "ring"),
        ("config", "r.toml"),
        ("role", "api,dispatch"),
        ("allow_port", "81,82"),
        ("allow_http", "true"),
    ] {
        assert_eq!(flags[name], value, "{name}");
    }
    assert_eq!(seen["file"]["routes"], json!([{"path": "/mine", "type": "m", "queue": "slow"}]));
    assert_eq!(seen["file"]["endpoints"], json!({"per_account": 77}));
    let table = print(&[]);
    for bad in [
        "https://u:canary@x.org",
        "https://x.org/?a=canary",
        "https://x.org#canary",
        "ftp://canary",
        "https://x.org ",
    ] {
        let ran = print(&["--public-url", bad]);
        ran.refused(2, "--public-url");
        assert!(!ran.err.contains("canary"), "{ran:?}");
        let serve = ["serve", "--store", "sqlite://x.db", "--key-ring", "ring", "--public-url", bad];
        run(ringback().args(serve).current_dir(dir.path())).refused(2, "--public-url");
    }
    assert_eq!(
        print(&["--public-url", "https://x.org/a", "--json"]).json()["flags"]["public_url"],
        "https://x.org/a"
    );
    assert!(table.done().contains("db.example.com") && !table.out.contains("canary"), "{table:?}");
    let line = |with: &str| table.out.lines().find(|line| line.contains(with)).unwrap_or_default();
    let words = |with: &str| line(with).split_whitespace().collect::<Vec<_>>();
    assert_eq!(words("/mine"), ["/mine", "m", "slow", "/v1/jobs/{jobId}"], "{table:?}");
    assert_eq!(words("per_account"), ["endpoints.per_account", "77"], "{table:?}");
}

#[test]
fn config_print_refuses_what_serve_refuses_and_in_the_same_words() {
    let dir = tempfile::tempdir().unwrap();
    run(ringback().args(["keyring", "create", "ring"]).current_dir(dir.path())).done();
    for (name, text) in [
        ("bad.toml", "[[route]]\n"),
        ("push.toml", "[queues.q.worker]\nurl = 'http://w.example.org/'\n"),
        ("ring.bad", "nonsense\n"),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let store = ["--store", "sqlite://x.db"];
    let whole = [&store[..], &["--key-ring", "ring"]].concat();
    let refused: [(&[&str], i32, &str); 6] = [
        (&[&store[..], &["--key-ring", "none"]].concat(), 1, "cannot read the key ring none"),
        (&[&store[..], &["--key-ring", "ring.bad"]].concat(), 1, "key ring, line 1"),
        (&["--store", "mysql://x", "--key-ring", "ring"], 2, "sqlite:// or postgres://"),
        (&[&whole[..], &["--config", "none.toml"]].concat(), 1, "none.toml"),
        (&[&whole[..], &["--config", "bad.toml"]].concat(), 1, "bad.toml"),
        (&[&whole[..], &["--config", "push.toml"]].concat(), 1, "plain http needs `allow_http = true`"),
    ];
    for (flags, code, says) in refused {
        let told = |command: &[&str]| run(ringback().args(command).args(flags).current_dir(dir.path()));
        let (served, printed) = (told(&["serve", "--listen", "127.0.0.1:0"]), told(&["config", "print"]));
        printed.refused(code, says);
        assert_eq!((served.code, served.err), (printed.code, printed.err), "{flags:?}");
    }
    for flags in [&[][..], &store, &whole] {
        let printed = run(ringback().args(["config", "print"]).args(flags).current_dir(dir.path()));
        assert!(printed.done().contains("allow_http"), "what is given shows: {printed:?}");
    }
    assert!(!dir.path().join("x.db").exists(), "it opens no store");
}

#[test]
fn openapi_prints_the_document_of_the_service() {
    let desk = Desk::open();
    let printed = desk.run(&["openapi"]);
    let document: Value = serde_json::from_str(printed.done()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
    assert_eq!(document["servers"], json!([{"url": desk.node.url}]));
    assert!(document["paths"]["/v1/jobs"]["post"].is_object());
}

#[test]
fn demo_ends_by_itself_and_says_how_it_went() {
    let (plain, told) = std::thread::scope(|both| {
        let plain = both.spawn(|| run(ringback().arg("demo")));
        let told = both.spawn(|| run(ringback().args(["demo", "--json"])));
        (plain.join().unwrap(), told.join().unwrap())
    });
    assert!(plain.done().contains("0 bad; all went as it should"), "{plain:?}");
    assert_eq!(told.code, 0, "{told:?}");
    let last: Value = serde_json::from_str(told.out.lines().next_back().unwrap()).unwrap();
    assert_eq!((&last["passed"], &last["signatures"]["bad"]), (&json!(true), &json!(0)), "{last}");
    assert_eq!(last["acts"].as_array().unwrap().len(), 4, "{last}");
    assert!(told.out.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{told:?}");
}

#[test]
fn wrong_usage_is_exit_2_and_help_is_exit_0() {
    let top = |args: &[&str]| run(ringback().args(args));
    let version = top(&["--version"]);
    assert_eq!(version.done(), format!("ringback {}\n", env!("CARGO_PKG_VERSION")));
    for help in [&["--help"][..], &["jobs", "--help"], &["help", "work"]] {
        assert!(top(help).done().contains("Usage: ringback"), "{help:?}");
    }
    for wrong in [
        &[][..],
        &["jump"],
        &["jobs"],
        &["jobs", "jump"],
        &["jobs", "get"],
        &["jobs", "get", "dlv_01H455VB4PEX5VSKNK084SN02Q"],
        &["jobs", "list", "--limit", "0"],
        &["jobs", "list", "--state", "done"],
        &["submit"],
        &["submit", "--type", "t", "--input", "{"],
        &["submit", "--type", "t", "--metadata", "x"],
        &["submit", "--type", "t", "--metadata", "[]"],
        &["submit", "--type", "t", "--callback-secret", "whsec_x"],
        &["submit", "--type", "t", "--url", "ftp://x"],
        &["work"],
        &["work", "--exec", "cat", "--concurrency", "0"],
        &["dead-letters", "discard"],
        &["keyring", "create"],
        &["sign", "--id", "i", "--timestamp", "1"],
        &["demo", "--fast"],
    ] {
        let ran = top(wrong);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{wrong:?}: {ran:?}");
        assert!(!ran.err.is_empty(), "{wrong:?}");
    }
}
