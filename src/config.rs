//! The configuration file (TOML): routes of one's own, and the workers of queues.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::http::{self, BadRoute, check_routes};
use crate::types::submit as rules;

/// The whole file. Unknown keys are refused: a misspelt one would silently do nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Paths that submit a job of one type, with the body as its input.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Settings by queue.
    #[serde(default)]
    pub queues: BTreeMap<String, Queue>,
    /// Settings of standing endpoints.
    #[serde(default)]
    pub endpoints: Endpoints,
}

/// Settings of standing endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// How many an account may have, and what belongs to none; 50 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_account: Option<u32>,
}

/// A path of one's own that submits a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where the input is POSTed, such as `/api/reports/generate`.
    pub path: String,
    /// The type of the job.
    #[serde(rename = "type")]
    pub kind: String,
    /// The job's queue, such as one with a worker below; `default` or the client's choice when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Where its status is read, with `{jobId}` as one segment; `/v1/jobs/{jobId}` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_path: Option<String>,
}

/// Settings of one queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// An endpoint that does the queue's work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<PushWorker>,
}

/// An HTTP endpoint that does the work of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushWorker {
    /// Where jobs are POSTed.
    pub url: String,
    /// What is POSTed: `input` or `job`.
    #[serde(default)]
    pub body: PushBody,
    /// Host names that this worker may have although they are not public.
    #[serde(default)]
    pub allow_hosts: Vec<String>,
    /// Ranges that this worker may have although they are not public.
    #[serde(default)]
    pub allow_cidrs: Vec<IpNet>,
    /// Whether its URL may use `http`.
    #[serde(default)]
    pub allow_http: bool,
    /// How many requests each node makes to it at a time; 10 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
}

/// What a push worker is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PushBody {
    /// The input as it was submitted.
    #[default]
    Input,
    /// The job as a pull worker would claim it.
    Job,
}

/// The file breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadConfig {
    /// Not TOML, or not of this shape.
    #[error("{0}")]
    Shape(String),
    /// A value breaks its rule.
    #[error("{place}: {rule}")]
    Value {
        /// Where it stands, such as `routes[0].path`.
        place: String,
        /// What it must be.
        rule: &'static str,
    },
    /// A route cannot be served.
    #[error(transparent)]
    Route(#[from] BadRoute),
}

impl File {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> anyhow::Result<File> {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("cannot read the configuration {}", path.display()))?;
        File::parse(&text).with_context(|| format!("in the configuration {}", path.display()))
    }

    /// Reads and checks the text of a file.
    pub fn parse(text: &str) -> Result<File, BadConfig> {
        let file: File = toml::from_str(text).map_err(|e| BadConfig::Shape(shown(text, e)))?;
        check_routes(&file.routes())?;
        if file.endpoints.per_account.is_some_and(|n| !(1..=100_000).contains(&n)) {
            return Err(bad("endpoints.per_account".to_owned(), "must be 1 to 100000"));
        }
        for (name, queue) in &file.queues {
            if rules::name("", name, 64).is_err() {
                return Err(bad(format!("queues.{name}"), QUEUE_NAME));
            }
            if let Some(worker) = &queue.worker {
                worker.check(&format!("queues.{name}.worker"))?;
            }
        }
        Ok(file)
    }

    /// The routes as they are served.
    pub fn routes(&self) -> Vec<http::Route> {
        let served = |r: &Route| http::Route {
            path: r.path.clone(),
            kind: r.kind.clone(),
            queue: r.queue.clone(),
            status_path: r.status_path.clone(),
        };
        self.routes.iter().map(served).collect()
    }

    /// How many standing endpoints an account may have, and what belongs to none.
    pub fn endpoints_per_account(&self) -> u32 {
        self.endpoints.per_account.unwrap_or(http::Options::default().endpoints_per_account)
    }

    /// The file as it may be shown: without what is secret in URLs.
    #[must_use]
    pub fn redacted(mut self) -> File {
        for worker in self.queues.values_mut().filter_map(|queue| queue.worker.as_mut()) {
            worker.url = redact_url(&worker.url);
        }
        self
    }
}

impl PushWorker {
    /// What can be told without knowing how careful the node is.
    fn check(&self, place: &str) -> Result<(), BadConfig> {
        let http = |url: url::Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        if !url::Url::parse(&self.url).is_ok_and(http) {
            return Err(bad(format!("{place}.url"), "must be an http or https URL"));
        }
        let name = |host: &String| !host.is_empty() && !host.contains(['/', '@', '*']) && host.is_ascii();
        if !self.allow_hosts.iter().all(name) {
            return Err(bad(format!("{place}.allow_hosts"), "has names of hosts, without port or pattern"));
        }
        if self.max_in_flight.is_some_and(|n| !(1..=IN_FLIGHT_MAX).contains(&n)) {
            return Err(bad(format!("{place}.max_in_flight"), "must be 1 to 1000"));
        }
        Ok(())
    }

    /// How many jobs it is given at a time.
    pub fn in_flight(&self) -> u32 {
        self.max_in_flight.unwrap_or(IN_FLIGHT)
    }
}

/// Jobs a push worker is given at a time, where the file does not say, and at the most.
const IN_FLIGHT: u32 = 10;
const IN_FLIGHT_MAX: u32 = 1_000;

const QUEUE_NAME: &str = "a queue is 1 to 64 of `A-Za-z0-9._:-` and begins with a letter or digit";
fn bad(place: String, rule: &'static str) -> BadConfig {
    BadConfig::Value { place, rule }
}

/// What is wrong with the text of a file and where, without a line or a value of it: URLs carry passwords.
fn shown(text: &str, mut error: toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let (line, column) =
        (before.split('\n').count(), before.chars().rev().take_while(|c| *c != '\n').count() + 1);
    error.set_input(None);
    let mut said = error.to_string().trim_end().replace('\n', ", ");
    // A string where none may be is quoted.
    if let (Some(first), Some(last)) = (said.find('"'), said.rfind('"'))
        && first < last
    {
        said.replace_range(first + 1..last, "redacted");
    }
    format!("line {line}, column {column}: {said}")
}

/// The store's URL without its password, for people and logs.
pub fn redact_store(store: &str) -> String {
    if store.starts_with("sqlite:") {
        return store.to_owned();
    }
    let Ok(mut url) = url::Url::parse(store) else { return "redacted".to_owned() };
    if url.password().is_some() && url.set_password(Some("redacted")).is_err() {
        return "redacted".to_owned();
    }
    // libpq's form may carry it as a parameter.
    let hidden = |name: &str| name.contains("password") || name.contains("sslkey");
    let query: Vec<_> = url.query_pairs().into_owned().collect();
    if !query.is_empty() {
        let shown = |(name, value): (String, String)| {
            let value = if hidden(&name) { "redacted".to_owned() } else { value };
            (name, value)
        };
        url.query_pairs_mut().clear().extend_pairs(query.into_iter().map(shown));
    }
    url.to_string()
}

/// A URL without its user name, password and query, for people and logs.
fn redact_url(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else { return "redacted".to_owned() };
    let named = !url.username().is_empty() || url.password().is_some();
    if !named && url.query().is_none() {
        return text.to_owned();
    }
    if named && (url.set_username("redacted").is_err() || url.set_password(None).is_err()) {
        return "redacted".to_owned();
    }
    if url.query().is_some() {
        url.set_query(Some("redacted"));
    }
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"
        [[routes]]
        path = "/api/reports/generate"
        type = "report.generate"
        queue = "reports"
        status_path = "/api/reports/status/{jobId}"

        [queues.reports.worker]
        url = "http://reports:8080/generate"
        allow_hosts = ["reports"]
        allow_http = true
        max_in_flight = 20
    "#;

    #[test]
    fn the_contracts_example_is_read() {
        let file = File::parse(SAMPLE).unwrap();
        assert_eq!(file.routes[0].kind, "report.generate");
        assert_eq!(file.routes()[0].queue.as_deref(), Some("reports"));
        let worker = file.queues["reports"].worker.as_ref().unwrap();
        assert_eq!((worker.in_flight(), worker.body), (20, PushBody::Input));
        let fewer = SAMPLE.replace("max_in_flight = 20", "body = 'job'");
        let worker = File::parse(&fewer).unwrap().queues["reports"].worker.clone().unwrap();
        assert_eq!((worker.in_flight(), worker.body), (10, PushBody::Job));
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        let route = |path: &str, kind: &str, status: &str| {
            format!("[[routes]]\npath = '{path}'\ntype = '{kind}'\nstatus_path = '{status}'\n")
        };
        let worker = |more: &str| format!("[queues.a.worker]\nurl = 'https://x.org/'\n{more}\n");
        for (text, named) in [
            (route("api", "t", "/s/{jobId}"), "routes[0].path"),
            (route("/a//b", "t", "/s/{jobId}"), "routes[0].path"),
            (route("/a/../v1", "t", "/s/{jobId}"), "routes[0].path"),
            (route("/v1/mine", "t", "/s/{jobId}"), "own paths"),
            (route("/a", "-t", "/s/{jobId}"), "routes[0].type"),
            ("[[routes]]\npath = '/a'\ntype = 't'\nqueue = '-q'".to_owned(), "routes[0].queue"),
            (route("/a", "t", "/s/{id}"), "routes[0].status_path"),
            (route("/a", "t", "/s/x{jobId}"), "routes[0].status_path"),
            (route("/a", "t", "/results/{jobId}"), "own paths"),
            (route("/a", "t", "/s/{jobId}").repeat(2), "routes[1].path: is used"),
            ("[queues.'a b']".to_owned(), "queues.a b"),
            ("[queues.a.worker]\nurl = 'ftp://x'".to_owned(), "queues.a.worker.url"),
            (worker("max_in_flight = 0"), "queues.a.worker.max_in_flight"),
            (worker("max_in_flight = 1001"), "queues.a.worker.max_in_flight"),
            (worker("allow_hosts = ['']"), "queues.a.worker.allow_hosts"),
            (worker("allow_hosts = ['*.x']"), "queues.a.worker.allow_hosts"),
            (worker("allow_cidrs = ['10.0.0.0/33']"), "allow_cidrs"),
            (worker("body = 'all'"), "all"),
            (worker("secret = 'x'"), "secret"),
            ("[queues.a.worker]\nbody = 'job'".to_owned(), "url"),
            ("[endpoints]\nper_account = 0".to_owned(), "endpoints.per_account"),
            ("[[route]]".to_owned(), "route"),
            ("[[routes]]\npath = '/a'\ntype = 't'\nstatus = 'x'".to_owned(), "status"),
        ] {
            let why = File::parse(&text).unwrap_err().to_string();
            assert!(why.contains(named), "{text}: {why}");
        }
    }

    #[test]
    fn the_default_status_paths_may_be_written_out() {
        for status in ["/v1/jobs/{jobId}", "/api/jobs/{jobId}", "/s/{jobId}"] {
            let text = format!("[[routes]]\npath = '/a'\ntype = 't'\nstatus_path = '{status}'\n");
            assert_eq!(File::parse(&text).unwrap().routes()[0].polled_at(), status);
        }
    }

    #[test]
    fn a_push_workers_credentials_are_not_shown() {
        let text = SAMPLE.replace("http://reports", "http://canary:canary@reports");
        let shown = serde_json::to_string(&File::parse(&text).unwrap().redacted()).unwrap();
        assert!(
            !shown.contains("canary") && shown.contains("http://redacted@reports:8080/generate"),
            "{shown}"
        );
        let text = SAMPLE.replace("8080/generate", "8080/generate?code=canary");
        let shown = File::parse(&text).unwrap().redacted();
        let url = &shown.queues["reports"].worker.as_ref().unwrap().url;
        assert_eq!(url, "http://reports:8080/generate?redacted");
        let plain = File::parse(SAMPLE).unwrap();
        assert_eq!(plain.clone().redacted(), plain);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_of_without_what_stands_in_it() {
        let url = "https://u:canary@x.org/?code=canary";
        for (line, told) in [
            (format!("worker.url = '{url}' bad"), "line 2, column 52: "),
            (format!("worker.url = {url}"), "line 2, column 42: "),
            (format!("worker.url = '{url}"), "line 2, column "),
            (
                format!("worker = \"{url}\""),
                "line 2, column 10: invalid type: string \"redacted\", expected struct",
            ),
            (format!("worker = {{ url = '{url}', allow_http = '\"' }}"), "in `queues.a.worker.allow_http`"),
        ] {
            let why = File::parse(&format!("[queues.a]\n{line}\n")).unwrap_err().to_string();
            assert!(why.contains(told) && !why.contains("canary") && !why.contains('\n'), "{line}: {why}");
        }
    }

    #[test]
    fn a_stores_password_is_not_shown() {
        assert_eq!(redact_store("sqlite://ringback.db"), "sqlite://ringback.db");
        for text in ["postgres://u:canary@h/d", "postgres://h/d?user=u&password=canary&sslmode=require"] {
            let shown = redact_store(text);
            assert!(!shown.contains("canary") && shown.contains("redacted"), "{shown}");
        }
        assert_eq!(redact_store("postgres canary"), "redacted");
    }
}
