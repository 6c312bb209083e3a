//! `keyring` and `rotate-keys`, beside a node that works.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ringback::client::{Client, SubmitOptions};
use ringback::types::api::{Callback, RotateSecret, SubmitJob};
use serde_json::Value;

use super::{Process, Ran, run};
use crate::support::app::{LIMIT, until};
use crate::support::process::{KEY, Node, SECRET, free_port, ringback};
use crate::support::receiver::Receiver;

#[test]
fn keyring_create_never_overwrites() {
    let dir = tempfile::tempdir().unwrap();
    let create =
        |args: &[&str]| run(ringback().args(["keyring", "create"]).args(args).current_dir(dir.path()));

    assert!(create(&["ring"]).done().starts_with("made ring with the key "));

    let file = dir.path().join("ring");
    let first = std::fs::read(&file).unwrap();
    let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "for its owner only");
    create(&["ring"]).refused(1, "cannot make the key ring ring");
    assert_eq!(std::fs::read(&file).unwrap(), first);
    let told = create(&["other", "--json"]).json();
    assert_eq!(told["file"], "other");
    let other = std::fs::read_to_string(dir.path().join("other")).unwrap();
    assert!(other.contains(told["activeKey"].as_str().unwrap()), "{told}");
    assert_ne!(other.as_bytes(), first, "every ring has a key of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_load_survives_a_kill_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    rotate("sqlite://desk.db", "desk.db.keyring", dir.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_load_survives_a_kill_on_postgres() {
    let dir = tempfile::tempdir().unwrap();
    let store = crate::support::postgres::database().await;
    rotate(&store, "ringback.keyring", dir.path()).await;
}

/// A job whose first event is told at once, with a secret and a header of its own: two values are sealed.
fn sealed(url: &str) -> SubmitJob {
    let callback = Callback {
        url: Some(url.to_owned()),
        secret: Some(SECRET.to_owned()),
        events: Some(vec!["job.queued".to_owned()]),
        ..Callback::default()
    };
    SubmitJob { kind: "t".to_owned(), callback: Some(callback), ..SubmitJob::default() }
}

/// Submits without a pause until it is told to stop; every submission is accepted.
async fn load(client: Client, url: String, stop: Arc<AtomicBool>, made: Arc<AtomicUsize>) {
    while !stop.load(Ordering::SeqCst) {
        client.submit(&sealed(&url), SubmitOptions::default()).await.unwrap();
        made.fetch_add(1, Ordering::SeqCst);
    }
}

/// A store, its ring, and the folder that commands run in.
struct Place<'a> {
    store: &'a str,
    ring: &'a str,
    dir: &'a Path,
}

impl Place<'_> {
    fn run(&self, args: &[&str]) -> Ran {
        run(ringback().args(args).current_dir(self.dir))
    }

    /// How many values a key has sealed.
    fn count(&self, id: &str) -> u64 {
        let listed = self.run(&["keyring", "list", self.ring, "--store", self.store, "--json"]).json();
        let key = listed["keys"].as_array().unwrap().iter().find(|key| key["keyId"] == id);
        key.unwrap_or_else(|| panic!("{id}: {listed}"))["sealed"].as_u64().unwrap()
    }

    fn remove(&self, id: &str) -> Ran {
        self.run(&["keyring", "remove", self.ring, id, "--store", self.store])
    }

    /// Starts a slow rotation and kills it when a part of the 201 old values is sealed anew.
    async fn rotate_in_part(&self, old: &str) {
        let slowly = ["rotate-keys", "--store", self.store, "--key-ring", self.ring, "--per-second", "20"];
        let killed = Process::start(ringback().args(slowly), self.dir, "rotate.log");
        until("a part is sealed anew", async || {
            let left = self.count(old);
            if left < 195 { Ok(()) } else { Err(left) }
        })
        .await;
        drop(killed);
        assert!(self.count(old) > 0, "it was killed in the middle");
    }

    /// Rotates to the end.
    fn rotate(&self, new: &str) {
        let told =
            self.run(&["rotate-keys", "--store", self.store, "--key-ring", self.ring, "--json"]).json();
        assert_eq!((&told["done"], &told["activeKey"]), (&Value::from(true), &Value::from(new)), "{told}");
        assert!(told["sealedAnew"].as_u64().unwrap() > 0, "{told}");
    }
}

async fn rotate(store: &str, ring: &str, dir: &Path) {
    let place = Place { store, ring, dir };
    let receiver = Receiver::start().await;
    let port = free_port();
    let mut node = Node::dev(store, port, dir);
    let client = Client::new(&node.url, Some(KEY)).unwrap();
    for _ in 0..100 {
        client.submit(&sealed(&receiver.url("/x")), SubmitOptions::default()).await.unwrap();
    }
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (old, new) = next_key(&node, ring, dir).await;
    // From here on the load is sealed with the new key.
    let loading = tokio::spawn(load(client, receiver.url("/x"), stop.clone(), made.clone()));
    place.remove(&old).refused(1, "still sealed by");

    place.rotate_in_part(&old).await;
    place.rotate(&new);

    stop.store(true, Ordering::SeqCst);
    loading.await.unwrap();
    let jobs = 100 + made.load(Ordering::SeqCst);
    assert!(jobs > 100, "the node was at work");
    assert_eq!((place.count(&old), place.count(&new)), (0, u64::try_from(1 + 2 * jobs).unwrap()));
    place.remove(&old).done();
    place.remove(&new).refused(2, "is the key that seals");
    place.remove(&old).refused(2, "holds no key");
    // A node that never knew the old key opens everything.
    assert_eq!(node.terminate(), 0, "its lanes are given back");
    let node = Node::dev(store, port, dir);
    receiver.wait("/x", jobs, LIMIT).await;
    send_again(&place, &node, &receiver).await;
    receiver.log().iter().for_each(|request| request.verify(SECRET));
    place.run(&["check", "--store", store]).done();
}

/// The oldest delivery, sealed first with the old key, is sent once more.
async fn send_again(place: &Place<'_>, node: &Node, receiver: &Receiver) {
    let first = receiver.at("/x")[0].webhook_id().to_owned();
    until("the delivery can be sent again", async || {
        let ran = place.run(&["deliveries", "retry", &first, "--url", &node.url, "--api-key", KEY]);
        if ran.code == 0 { Ok(()) } else { Err(ran) }
    })
    .await;
    until("it is sent again", async || {
        let seen = receiver.at("/x").iter().filter(|r| r.webhook_id() == first).count();
        if seen > 1 { Ok(()) } else { Err(seen) }
    })
    .await;
}

/// Takes the node to a new key as the documents say; gives the ids of the old key and the new one.
async fn next_key(node: &Node, ring: &str, dir: &Path) -> (String, String) {
    let ringback_in = |args: &[&str]| run(ringback().args(args).current_dir(dir)).json();
    let added = ringback_in(&["keyring", "add", ring, "--json"]);
    let id = |n: usize| added["keys"][n].as_str().unwrap().to_owned();
    let (old, new) = (id(0), id(1));
    assert_eq!(added["activeKey"], old.as_str());
    read_again(node, dir, &old).await;
    let promoted = ringback_in(&["keyring", "promote", ring, &new, "--json"]);
    assert_eq!(promoted["activeKey"], new.as_str());
    read_again(node, dir, &new).await;
    (old, new)
}

/// Sends SIGHUP and waits until the node says that it seals with that key.
async fn read_again(node: &Node, dir: &Path, key: &str) {
    node.hang_up();
    until(&format!("{key} seals"), async || {
        let log = std::fs::read_to_string(dir.join("node.log")).unwrap();
        let said = log.lines().any(|line| line.contains("read again") && line.contains(key));
        if said { Ok(()) } else { Err(log.lines().last().map(str::to_owned)) }
    })
    .await;
}

#[tokio::test]
async fn a_ring_that_cannot_be_used_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::dev("sqlite://desk.db", 0, dir.path());
    let ring = dir.path().join("desk.db.keyring");
    for (text, why) in [("nonsense", "key ring, line 1"), ("", "holds no key"), (FOREIGN, "lacks the key")] {
        std::fs::write(&ring, text).unwrap();
        node.hang_up();
        until(why, async || {
            let log = std::fs::read_to_string(dir.path().join("node.log")).unwrap();
            if log.contains(why) { Ok(()) } else { Err(log) }
        })
        .await;
    }
    let client = Client::new(&node.url, Some(KEY)).unwrap();
    let receiver = Receiver::start().await;
    client.submit(&sealed(&receiver.url("/x")), SubmitOptions::default()).await.unwrap();
    receiver.wait("/x", 1, LIMIT).await[0].verify(SECRET);
}

#[tokio::test]
async fn serve_refuses_a_ring_that_lacks_what_sealed_the_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Node::dev("sqlite://desk.db", 0, dir.path());
    assert_eq!(dev.terminate(), 0);
    std::fs::write(dir.path().join("ring"), FOREIGN).unwrap();
    let ring = std::fs::read_to_string(dir.path().join("desk.db.keyring")).unwrap();
    let key = ring.lines().next_back().unwrap().split(' ').next().unwrap();
    let serve = |more: &[&str]| {
        let mut command = ringback();
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--store",
            "sqlite://desk.db",
            "--key-ring",
            "ring",
        ]);
        command.args(more).current_dir(dir.path());
        command
    };
    let up = |more: &[&str]| {
        let node = Process::start(&mut serve(more), dir.path(), "serve.log");
        let url = node.line().strip_prefix("listening on ").unwrap().to_owned();
        (node, url)
    };
    let down = |mut node: Process| {
        node.signal("TERM");
        assert_eq!(node.ended(), 0);
    };

    run(&mut serve(&[])).refused(1, &format!("the key ring lacks {key}, by which"));
    run(&mut serve(&["--lost-key", "other"])).refused(1, key);

    // Both keys open what either has sealed.
    std::fs::write(dir.path().join("ring"), format!("{FOREIGN}\n{ring}")).unwrap();
    down(up(&[]).0);
    // A key that is lost is needed no more once there is a new secret.
    std::fs::write(dir.path().join("ring"), FOREIGN).unwrap();
    let (node, url) = up(&["--lost-key", &format!("other,{key}")]);
    let now = RotateSecret { overlap_seconds: Some(0) };
    Client::new(&url, Some(KEY)).unwrap().rotate_webhook_secret(&now).await.unwrap();
    down(node);
    down(up(&[]).0);
}

const FOREIGN: &str = "foreign AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
