//! A real PostgreSQL server for tests: one per `tests/with-postgres` run, else one per test process.

use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, postgres::PgConnectOptions};

/// Handed to `tests/with-postgres`: prints the URL, then obeys one pg_ctl verb a line until its stdin closes,
/// which it does when this process ends in whatever way.
const HOLDER: &str = r#"echo "$RINGBACK_TEST_POSTGRES"
while read -r verb; do $RINGBACK_TEST_PG_CTL $verb >/dev/null 2>&1 </dev/null; echo "$?"; done"#;

/// The URL of a fresh, empty database of its own, over TCP.
pub async fn database() -> String {
    database_on(shared().await, "").await
}

/// The same, whose names are ordered as English has them. None: the server is older than 15.
pub async fn english_database() -> Option<String> {
    let options: PgConnectOptions = shared().await.parse().expect("parsed before");
    let conn = options.connect().await.expect("the test server takes connections");
    let version = conn.server_version_num().expect("a server tells");
    let english = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";
    if version < 150_000 { None } else { Some(database_on(shared().await, english).await) }
}

/// A server of one's own, for tests that hurt it. It stops when this is dropped or the process ends.
pub struct Server {
    url: String,
    holder: Child,
    pipes: Arc<Mutex<Option<Pipes>>>,
}

type Pipes = (ChildStdin, BufReader<ChildStdout>);

impl Server {
    /// Starts a server; `conf` holds further lines of postgresql.conf, such as `max_connections = 5`.
    pub async fn start(conf: &str) -> Server {
        let conf = conf.to_owned();
        blocking(move || Server::start_blocking(&conf)).await
    }

    /// The URL of a fresh, empty database of this server, over TCP.
    pub async fn database(&self) -> String {
        database_on(&self.url, "").await
    }

    /// Kills every session as a crash would, recovers, and takes connections again at the same address.
    pub async fn restart_immediate(&self) {
        self.ctl("restart -m immediate").await;
    }

    /// Kills every session as a crash would and stays away until [`Server::resume`].
    pub async fn stop_immediate(&self) {
        self.ctl("stop -m immediate").await;
    }

    /// Comes back at the same address after [`Server::stop_immediate`].
    pub async fn resume(&self) {
        self.ctl("start").await;
    }

    fn start_blocking(conf: &str) -> Server {
        let mut holder = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/with-postgres"))
            .args(["sh", "-c", HOLDER])
            .env_remove("RINGBACK_TEST_POSTGRES")
            .env("RINGBACK_TEST_POSTGRES_CONF", conf)
            .process_group(0) // a test runner kills our group; the server must still be stopped
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tests/with-postgres runs (it needs bash)");
        let stdin = holder.stdin.take().expect("piped");
        let mut stdout = BufReader::new(holder.stdout.take().expect("piped"));
        let url = line(&mut stdout);
        if url.is_empty() {
            let mut why = String::new();
            let _ = holder.stderr.take().expect("piped").read_to_string(&mut why);
            panic!("no PostgreSQL to test against; `make test` installs what it needs.\n{why}");
        }
        Server { url, holder, pipes: Arc::new(Mutex::new(Some((stdin, stdout)))) }
    }

    async fn ctl(&self, verb: &'static str) {
        let pipes = Arc::clone(&self.pipes);
        let code = blocking(move || {
            let mut pipes = pipes.lock().expect("no holder panicked");
            let (stdin, stdout) = pipes.as_mut().expect("open until dropped");
            writeln!(stdin, "{verb}").expect("the holder of the server lives");
            line(stdout)
        });
        assert_eq!(code.await, "0", "pg_ctl {verb} failed");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.pipes.lock().map(|mut pipes| pipes.take()));
        let _ = self.holder.wait();
    }
}

async fn shared() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    static SERVER: OnceLock<Server> = OnceLock::new(); // statics are never dropped: the pipe closes at exit
    blocking(|| {
        URL.get_or_init(|| match std::env::var("RINGBACK_TEST_POSTGRES") {
            Ok(url) if !url.is_empty() => url,
            _ => SERVER.get_or_init(|| Server::start_blocking("")).url.clone(),
        })
    })
    .await
}

async fn database_on(server: &str, with: &str) -> String {
    let options: PgConnectOptions = server.parse().expect("RINGBACK_TEST_POSTGRES is a postgres:// URL");
    let name = format!("ringback_{:016x}", RandomState::new().hash_one(std::process::id()));
    let mut admin = options.connect().await.expect("the test server takes connections");
    admin
        .execute(AssertSqlSafe(format!("CREATE DATABASE {name} {with}")))
        .await
        .expect("may create databases");
    admin.close().await.expect("closes");
    let mut url: url::Url = server.parse().expect("parsed above");
    url.set_path(&name);
    url.into()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn line(from: &mut impl BufRead) -> String {
    let mut text = String::new();
    from.read_line(&mut text).expect("the holder of the server answers");
    text.trim_end().to_owned()
}

mod tests {
    use super::*;

    #[tokio::test]
    async fn every_database_is_fresh_and_its_own() {
        let (one, other) = tokio::join!(database(), database());
        assert_ne!(one, other);

        let options: PgConnectOptions = one.parse().unwrap();
        let mut connection = options.connect().await.unwrap();
        connection.execute("CREATE TABLE t (n bigint)").await.unwrap();
    }

    #[tokio::test]
    async fn a_private_server_survives_a_crash_and_keeps_what_was_committed() {
        let server = Server::start("").await;
        let options: PgConnectOptions = server.database().await.parse().unwrap();
        let mut before = options.connect().await.unwrap();
        before.execute("CREATE TABLE t (n bigint)").await.unwrap();

        server.restart_immediate().await;

        assert!(before.execute("SELECT 1").await.is_err());
        let mut after = options.connect().await.unwrap();
        after.execute("INSERT INTO t VALUES (1)").await.unwrap();

        server.stop_immediate().await;
        assert!(options.connect().await.is_err());
        server.resume().await;
        assert!(options.connect().await.is_ok());
    }
}
