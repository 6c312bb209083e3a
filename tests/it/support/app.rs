//! A whole node in this process on either engine.

use std::sync::Mutex;
use std::time::Duration;

use ringback::app::{self, Config, Mode, Role, Running};
use ringback::clock::Clock;
use ringback::dice::Dice;
use ringback::store::seal::KeyRing;
use ringback::types::Millis;
use ringback::types::api::NewApiKey;
use ringback::types::key::{ApiKey, Scopes};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::ask::{Ask, Http, http};
use super::process::KEY;

/// Runs each function on SQLite and on PostgreSQL; afterwards the invariants must hold.
macro_rules! both_engines {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let site = $crate::support::app::Site::sqlite();
                super::$name(&site).await;
                site.finish().await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let site = $crate::support::app::Site::postgres().await;
                super::$name(&site).await;
                site.finish().await;
            })*
        }
    };
}
pub(crate) use both_engines;

/// Longer than anything that is waited for; only a failure takes so long.
pub const LIMIT: Duration = Duration::from_secs(15);

/// A store and the nodes that run on it.
pub struct Site {
    store: String,
    dir: tempfile::TempDir,
    running: Mutex<Vec<Running>>,
}

impl Site {
    pub fn sqlite() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let store = format!("sqlite://{}", dir.path().join("ringback.db").display());
        Site { store, dir, running: Mutex::default() }
    }

    pub async fn postgres() -> Site {
        let store = super::postgres::database().await;
        Site { store, dir: tempfile::tempdir().unwrap(), running: Mutex::default() }
    }

    /// A node in dev mode on the machine's clock.
    pub async fn start(&self) -> TestApp {
        self.start_with(Clock::system(), |_| {}).await
    }

    /// The same with time in the test's hands; it starts now, for receivers check timestamps.
    pub async fn start_still(&self) -> TestApp {
        self.start_with(Clock::manual(Clock::wall()), |_| {}).await
    }

    /// The same with a configuration file.
    pub async fn start_configured(&self, toml: &str) -> TestApp {
        let file = self.file(toml);
        self.start_with(Clock::system(), |config| config.file = Some(file)).await
    }

    /// A configuration file.
    pub fn file(&self, toml: &str) -> std::path::PathBuf {
        let file = self.dir.path().join("ringback.toml");
        std::fs::write(&file, toml).unwrap();
        file
    }

    /// Where its data are, as `--store` has it.
    pub fn store(&self) -> &str {
        &self.store
    }

    /// Gives its nodes another key ring.
    pub fn reload(&self, ring: &KeyRing) {
        KeyRing::replace_file(&self.dir.path().join("ring"), &ring.to_text()).unwrap();
        self.running.lock().unwrap().iter().for_each(|node| drop(node.reload_ring().unwrap()));
    }

    /// Why a node does not start.
    pub async fn refuses(&self, change: impl FnOnce(&mut Config)) -> String {
        let mut config = self.config();
        change(&mut config);
        match app::start(config, Clock::system(), Dice::Os).await {
            Ok(_) => panic!("it starts"),
            Err(why) => why.to_string(),
        }
    }

    /// A node in production mode, with nothing opened.
    pub async fn start_serving(&self) -> TestApp {
        let key = self.key_of("default").await;
        let mut app = self.start_with(Clock::system(), |config| config.mode = Mode::Serve).await;
        app.key = key;
        app
    }

    pub async fn start_with(&self, clock: Clock, change: impl FnOnce(&mut Config)) -> TestApp {
        let mut config = self.config();
        change(&mut config);
        let running = app::start(config, clock.clone(), Dice::Os).await.unwrap();
        let url = format!("http://{}", running.addr);
        let app = TestApp {
            addr: running.addr,
            key: KEY.to_owned(),
            secret: running.webhook_secret.clone().unwrap_or_default(),
            http: http(),
            url,
            clock,
        };
        self.running.lock().unwrap().push(running);
        app
    }

    fn config(&self) -> Config {
        let ring = self.dir.path().join("ring");
        if !ring.exists() {
            KeyRing::create_file(&ring, &KeyRing::generate([7; 32]).to_text()).unwrap();
        }
        Config {
            mode: Mode::Dev,
            listen: "127.0.0.1:0".parse().unwrap(),
            public_url: None,
            store: self.store.clone(),
            key_ring: Some(ring),
            lost_keys: vec![],
            api_key: Some(ApiKey::parse(KEY).unwrap()),
            file: None,
            roles: vec![Role::Api, Role::Dispatch],
            allow_cidrs: vec![],
            allow_ports: vec![],
            allow_http: false,
            metrics_listen: None,
        }
    }

    /// A key of another tenant with every scope. Only before a start: SQLite has one process at a time.
    pub async fn key_of(&self, tenant: &str) -> String {
        let wish = NewApiKey { scopes: Scopes::every().iter().collect(), ..NewApiKey::default() };
        let key = app::create_key(&self.store, tenant, wish, Clock::system(), Dice::Os).await.unwrap();
        key.reveal().to_owned()
    }

    /// Stops every node.
    pub async fn stop(&self) {
        let running: Vec<Running> = self.running.lock().unwrap().drain(..).collect();
        for node in running {
            node.stop().await.unwrap();
        }
    }

    /// Stops every node; then nothing may be in between.
    pub async fn finish(self) {
        self.stop().await;
        let violations = app::check(&self.store).await.unwrap();
        assert!(violations.is_empty(), "{violations:?}");
    }
}

/// A running node and how one speaks to it.
pub struct TestApp {
    pub addr: std::net::SocketAddr,
    pub url: String,
    pub key: String,
    /// The default tenant's webhook secret; empty in production mode.
    pub secret: String,
    pub clock: Clock,
    http: Http,
}

/// Requests.
impl TestApp {
    pub fn ask(&self, method: &str, path: &str) -> Ask {
        Ask::new(&self.http, method, &format!("{}{path}", self.url), &self.key)
    }

    pub fn get(&self, path: &str) -> Ask {
        self.ask("GET", path)
    }

    pub fn delete(&self, path: &str) -> Ask {
        self.ask("DELETE", path)
    }

    pub fn post(&self, path: &str, body: &Value) -> Ask {
        self.ask("POST", path).json(body)
    }
}

/// What tests do over and over.
impl TestApp {
    /// Submits and gives the JobAccepted.
    pub async fn submit(&self, job: Value) -> Value {
        self.post("/v1/jobs", &job).await.ok(202)
    }

    /// Submits and gives the id.
    pub async fn submit_id(&self, job: Value) -> String {
        id(&self.submit(job).await["jobId"])
    }

    pub async fn job(&self, id: &str) -> Value {
        self.get(&format!("/v1/jobs/{id}")).await.ok(200)
    }

    pub async fn claim(&self, max: u32) -> Vec<Value> {
        let wish = json!({"workerId": "w", "max": max, "leaseSeconds": 60});
        let claimed = self.post("/v1/queues/default/claim", &wish).await.ok(200);
        claimed["jobs"].as_array().unwrap().clone()
    }

    pub async fn claim_one(&self) -> Value {
        let mut jobs = self.claim(1).await;
        assert_eq!(jobs.len(), 1, "a job can be claimed");
        jobs.remove(0)
    }

    /// Tells `verb` of a claimed job; `more` holds the other members.
    pub fn report(&self, claimed: &Value, verb: &str, more: Value) -> Ask {
        let mut body = json!({"leaseToken": claimed["leaseToken"]});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        self.post(&format!("/v1/jobs/{}/{verb}", id(&claimed["jobId"])), &body)
    }

    /// Submits, claims and completes with `{"ok": true}`; gives the job's id.
    pub async fn completed(&self, job: Value) -> String {
        let id = self.submit_id(job).await;
        self.complete(&id).await;
        id
    }

    /// A completed job whose callback goes to `url`; `more` holds further members of it. Gives the job's id.
    pub async fn called_back(&self, url: &str, more: Value) -> String {
        let mut callback = json!({"url": url});
        for (name, value) in more.as_object().unwrap() {
            callback[name] = value.clone();
        }
        self.completed(json!({"type": "t", "callback": callback})).await
    }

    /// Claims the job, which must be the next one, and completes it.
    pub async fn complete(&self, id: &str) -> Value {
        let claimed = self.claim_one().await;
        assert_eq!(claimed["jobId"], id);
        self.report(&claimed, "complete", json!({"result": {"ok": true}})).await.ok(200)
    }

    /// The entries of a list.
    pub async fn items(&self, path: &str) -> Vec<Value> {
        self.get(path).await.ok(200)["items"].as_array().unwrap().clone()
    }

    /// The entries of a list over all its pages, as `Link` leads.
    pub async fn pages(&self, path: &str) -> Vec<Vec<Value>> {
        let mut pages = Vec::new();
        let mut path = path.to_owned();
        loop {
            let reply = self.get(&path).await;
            let page = reply.ok(200);
            pages.push(page["items"].as_array().unwrap().clone());
            let link = reply.header("link");
            let Some(cursor) = page["nextCursor"].as_str() else {
                assert_eq!((link, &page["nextCursor"]), ("", &Value::Null));
                return pages;
            };
            assert!(link.contains(&format!("cursor={cursor}")), "{link}");
            let next = link.strip_prefix(&format!("<{}", self.url));
            let next = next.and_then(|l| l.strip_suffix(">; rel=\"next\""));
            path = next.unwrap_or_else(|| panic!("{link}")).to_owned();
        }
    }

    /// The one delivery of a job, without its attempts.
    pub async fn delivery_of(&self, job: &str) -> Value {
        // Not the job's own list, which is paced by the real clock.
        let mut found = self.items(&format!("/v1/deliveries?jobId={job}")).await;
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// The job's one delivery with its attempts, once it rests after `attempt` requests.
    pub async fn delivery_after(&self, job: &str, attempt: u32) -> Value {
        let path = format!("/v1/deliveries/{}", id(&self.delivery_of(job).await["deliveryId"]));
        until(&format!("{path} has made attempt {attempt}"), async || {
            let seen = self.get(&path).await.ok(200);
            if seen["attempt"] == attempt && seen["state"] != "inFlight" { Ok(seen) } else { Err(seen) }
        })
        .await
    }

    /// The job's one delivery with its attempts, once it is in that state.
    pub async fn delivery_in(&self, job: &str, state: &str) -> Value {
        let delivery = id(&self.delivery_of(job).await["deliveryId"]);
        let path = format!("/v1/deliveries/{delivery}");
        until(&format!("{delivery} is {state}"), async || {
            let seen = self.get(&path).await.ok(200);
            if seen["state"] == state { Ok(seen) } else { Err(seen) }
        })
        .await
    }

    /// Nothing was stored.
    pub async fn holds_no_job(&self) {
        let list = self.get("/v1/jobs").await.ok(200);
        assert_eq!(list, json!({"items": [], "nextCursor": null}));
    }

    /// Lets time pass on a node whose clock stands still.
    pub fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// The same up to an instant.
    pub fn pass_until(&self, at: Millis) {
        self.clock.advance(at.since(self.clock.now()));
    }
}

/// The text of an id.
#[track_caller]
pub fn id(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("an id: {value}")).to_owned()
}

/// An instant as answers show it.
#[track_caller]
pub fn instant(value: &Value) -> Millis {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("an instant: {value}: {e}"))
}

/// Looks until there is something; the error is what was seen instead.
pub async fn until<T, E: std::fmt::Debug>(what: &str, look: impl AsyncFnMut() -> Result<T, E>) -> T {
    until_in(LIMIT, what, look).await
}

/// The same for what takes its time.
pub async fn until_in<T, E: std::fmt::Debug>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + limit;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < end, "not in {limit:?}: {what}; last seen: {seen:?}"),
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
