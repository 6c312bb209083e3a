//! Wrong usage of the command line ends with exit code 2 and says what to do.

use crate::support::process::ringback;

#[test]
fn what_cannot_be_meant_is_told_and_exits_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let late = ["--expires-at", "2001-01-01T00:00:00Z"];
    let create = ["keys", "create", "--store", "sqlite://x.db", "--scopes", "work", "--tenant"];
    for (args, says) in [
        (vec!["serve", "--store", "sqlite://x.db"], "`ringback keyring create FILE` makes one"),
        (
            vec!["serve", "--store", "postgress://u:canary@h/d", "--key-ring", "ring"],
            "--store must start with",
        ),
        (vec!["dev", "--listen", "127.0.0.1:0", "--store", "x.db"], "--store must start with"),
        (vec!["dev", "--listen", "127.0.0.1:0", "--api-key", "canary"], "--api-key: must be `rbk_`"),
        (vec!["migrate", "--store", "x.db"], "--store must start with"),
        (vec!["check", "--store", "x.db"], "--store must start with"),
        ([&create[..], &["a b"]].concat(), "tenant: must be 1-128 characters"),
        ([&create[..], &["a", "--queues", "q,-"]].concat(), "/queues/1: must be 1-64 characters"),
        ([&create[..], &["a"], &late].concat(), "/expiresAt: lies in the past"),
    ] {
        let ended = ringback().args(&args).current_dir(dir.path()).output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {told}");
        assert!(told.contains(says) && !told.contains("canary"), "{args:?}: {told}");
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was made");
}

#[test]
fn a_key_made_in_the_store_is_narrowed_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let ended = ringback().args(args).current_dir(dir.path()).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).unwrap()
    };
    let end = "2100-01-01T00:00:00.000Z";
    let narrow = ["--queues", "a,b", "--accounts", "x", "--expires-at", end];
    let create = ["keys", "create", "--store", "sqlite://x.db", "--tenant", "t", "--scopes", "work"];
    assert!(run(&[&create[..], &narrow].concat()).starts_with("rbk_"));

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let url = format!("sqlite://{}", dir.path().join("x.db").display());
        let store = crate::support::store::open(&url, 1).await.unwrap();
        let tenant = store.tenant("t", ringback::types::Millis(0)).await.unwrap();
        let key = store.keys(tenant, crate::support::store::page(9)).await.unwrap().remove(0);
        assert_eq!(key.queues, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((key.accounts, key.expires_at), (Some(vec!["x".to_owned()]), Some(end.parse().unwrap())));
        store.close().await;
    });
}
