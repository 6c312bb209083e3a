//! Every figure the process shows at `/metrics`, named once.
//!
//! Labels come from closed sets (route templates, words of our enums), never from what a client sent.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One answered request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Http {
    /// The route's template, `none` if no route matched.
    route: String,
    method: &'static str,
    status: u16,
}

/// One word of a closed set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Word {
    word: &'static str,
}

/// A queue that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    queue: String,
}

/// The same and one word of a closed set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueWord {
    queue: String,
    word: &'static str,
}

/// How a client follows events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Server-sent events of one job.
    Sse,
    /// A WebSocket.
    Socket,
}

/// The figures of this process. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    http: Family<Http, Counter>,
    http_seconds: Histogram,
    connections: Gauge,
    submitted: Counter,
    claimed: Counter,
    taken: Counter,
    ended: Family<Word, Counter>,
    wait_seconds: Histogram,
    run_seconds: Histogram,
    attempts: Counter,
    verdicts: Family<Word, Counter>,
    attempt_seconds: Histogram,
    batch_size: Histogram,
    batch_seconds: Histogram,
    lanes: Gauge,
    pushed: Family<QueueWord, Counter>,
    push_seconds: Family<Queue, Histogram, fn() -> Histogram>,
    push_in_flight: Family<Queue, Gauge>,
    event_streams: Gauge,
    websockets: Gauge,
    slow_readers: Counter,
}

fn seconds() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0])
}

/// The time of work, which may take hours.
fn long_seconds() -> Histogram {
    Histogram::new([0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 86_400.0])
}

fn sizes() -> Histogram {
    Histogram::new([1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0])
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All figures at zero.
    pub fn new() -> Metrics {
        let mut inner = Inner {
            registry: Registry::with_prefix("ringback"),
            http: Family::default(),
            http_seconds: seconds(),
            connections: Gauge::default(),
            submitted: Counter::default(),
            claimed: Counter::default(),
            taken: Counter::default(),
            ended: Family::default(),
            wait_seconds: long_seconds(),
            run_seconds: long_seconds(),
            attempts: Counter::default(),
            verdicts: Family::default(),
            attempt_seconds: seconds(),
            batch_size: sizes(),
            batch_seconds: seconds(),
            lanes: Gauge::default(),
            pushed: Family::default(),
            push_seconds: Family::new_with_constructor(long_seconds),
            push_in_flight: Family::default(),
            event_streams: Gauge::default(),
            websockets: Gauge::default(),
            slow_readers: Counter::default(),
        };
        inner.register();
        Metrics(Arc::new(inner))
    }

    /// A request was answered: the route's template, the method, the status, the time it took.
    pub fn http(&self, route: &str, method: &'static str, status: u16, took: Duration) {
        self.0.http.get_or_create_owned(&Http { route: route.to_owned(), method, status }).inc();
        self.0.http_seconds.observe(took.as_secs_f64());
    }

    /// A client connected; [`Metrics::disconnected`] takes it back.
    pub fn connected(&self) {
        self.0.connections.inc();
    }

    /// A client is gone.
    pub fn disconnected(&self) {
        self.0.connections.dec();
    }

    /// `n` jobs were accepted.
    pub fn submitted(&self, n: u64) {
        self.0.submitted.inc_by(n);
    }

    /// `n` jobs were handed to workers by the transaction that stored them.
    pub fn taken(&self, n: u64) {
        self.0.taken.inc_by(n);
    }

    /// `n` jobs were handed to workers.
    pub fn claimed(&self, n: u64) {
        self.0.claimed.inc_by(n);
    }

    /// A job ended in this state.
    pub fn ended(&self, state: &'static str) {
        self.0.ended.get_or_create_owned(&Word { word: state }).inc();
    }

    /// A job was so long due before a worker took it.
    pub fn waited(&self, time: Duration) {
        self.0.wait_seconds.observe(time.as_secs_f64());
    }

    /// The attempt that ended a job took so long.
    pub fn ran(&self, time: Duration) {
        self.0.run_seconds.observe(time.as_secs_f64());
    }

    /// A request to a receiver ended with this verdict.
    pub fn attempted(&self, verdict: &'static str, took: Duration) {
        self.0.attempts.inc();
        self.0.verdicts.get_or_create_owned(&Word { word: verdict }).inc();
        self.0.attempt_seconds.observe(took.as_secs_f64());
    }

    /// One transaction of the group commit: calls in it and how long it took.
    pub fn committed(&self, calls: usize, took: Duration) {
        self.0.batch_size.observe(f64::from(u32::try_from(calls).unwrap_or(u32::MAX)));
        self.0.batch_seconds.observe(took.as_secs_f64());
    }

    /// How many lanes this node owns now.
    pub fn lanes_owned(&self, n: usize) {
        self.0.lanes.set(i64::try_from(n).unwrap_or(i64::MAX));
    }

    /// A request to the push worker of a queue ended, and its job is in this state now.
    pub fn pushed(&self, queue: &str, state: &'static str, took: Duration) {
        let named = QueueWord { queue: queue.to_owned(), word: state };
        self.0.pushed.get_or_create_owned(&named).inc();
        let named = Queue { queue: queue.to_owned() };
        self.0.push_seconds.get_or_create_owned(&named).observe(took.as_secs_f64());
    }

    /// How many requests to the push worker of a queue are under way on this node.
    pub fn push_in_flight(&self, queue: &str, n: usize) {
        let named = Queue { queue: queue.to_owned() };
        self.0.push_in_flight.get_or_create_owned(&named).set(i64::try_from(n).unwrap_or(i64::MAX));
    }

    fn streams(&self, stream: Stream) -> &Gauge {
        match stream {
            Stream::Sse => &self.0.event_streams,
            Stream::Socket => &self.0.websockets,
        }
    }

    /// A client follows events; [`Metrics::stream_closed`] takes it back.
    pub fn stream_opened(&self, stream: Stream) {
        self.streams(stream).inc();
    }

    /// It does so no longer.
    pub fn stream_closed(&self, stream: Stream) {
        self.streams(stream).dec();
    }

    /// A stream's client did not take what it was sent.
    pub fn read_too_slowly(&self) {
        self.0.slow_readers.inc();
    }

    /// The figures as OpenMetrics text, with gauges read elsewhere just now (the store's), `ringback_` before
    /// each name.
    pub fn render_with(&self, gauges: &[(&'static str, i64)]) -> String {
        let mut out = String::with_capacity(4096);
        // Writing to a String cannot fail.
        let _ = text::encode_registry(&mut out, &self.0.registry);
        for (name, value) in gauges {
            let _ = writeln!(out, "# TYPE ringback_{name} gauge\nringback_{name} {value}");
        }
        let _ = text::encode_eof(&mut out);
        out
    }
}

impl Inner {
    fn register(&mut self) {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        let r = &mut self.registry;
        r.register("build", "What is running", version);
        r.register("http_requests", "Requests answered", self.http.clone());
        r.register_with_unit("http", "Time to answer", Unit::Seconds, self.http_seconds.clone());
        r.register("http_connections", "Open connections", self.connections.clone());
        r.register("jobs_submitted", "Jobs accepted", self.submitted.clone());
        r.register("jobs_claimed", "Jobs handed to workers", self.claimed.clone());
        r.register(
            "jobs_taken",
            "Of these, jobs that a claim took in the transaction that stored them",
            self.taken.clone(),
        );
        r.register("jobs_ended", "Jobs ended, by state", self.ended.clone());
        r.register_with_unit("job_wait", "Time for a worker", Unit::Seconds, self.wait_seconds.clone());
        r.register_with_unit("job_run", "Time of the last attempt", Unit::Seconds, self.run_seconds.clone());
        r.register("delivery_attempts", "Requests to receivers", self.attempts.clone());
        r.register("delivery_verdicts", "What attempts came to", self.verdicts.clone());
        r.register_with_unit("attempt", "Time of an attempt", Unit::Seconds, self.attempt_seconds.clone());
        r.register("commit_batch_size", "Calls in one transaction", self.batch_size.clone());
        r.register_with_unit("commit", "Time of a transaction", Unit::Seconds, self.batch_seconds.clone());
        r.register("lanes_owned", "Delivery lanes this node owns", self.lanes.clone());
        r.register("push_attempts", "Requests to push workers, by the job's state", self.pushed.clone());
        r.register_with_unit("push", "Time of a push", Unit::Seconds, self.push_seconds.clone());
        r.register("push_in_flight", "Requests to push workers under way", self.push_in_flight.clone());
        r.register("event_streams", "Open streams of server-sent events", self.event_streams.clone());
        r.register("websockets", "Open WebSockets", self.websockets.clone());
        r.register(
            "slow_readers",
            "Streams cut because their client read too slowly",
            self.slow_readers.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_every_figure_once_and_ends_as_open_metrics_wants() {
        let m = Metrics::new();
        m.http("/v1/jobs", "POST", 202, Duration::from_millis(3));
        m.submitted(2);
        m.ended("complete");
        m.attempted("delivered", Duration::from_millis(9));
        m.committed(7, Duration::from_millis(2));
        m.lanes_owned(4);
        m.pushed("reports", "complete", Duration::from_secs(40));
        m.push_in_flight("reports", 3);
        let text = m.render_with(&[("jobs_owed", 5)]);
        for line in [
            "ringback_http_requests_total{route=\"/v1/jobs\",method=\"POST\",status=\"202\"} 1",
            "ringback_http_seconds_count 1",
            "ringback_jobs_submitted_total 2",
            "ringback_jobs_ended_total{word=\"complete\"} 1",
            "ringback_delivery_verdicts_total{word=\"delivered\"} 1",
            "ringback_commit_batch_size_sum 7.0",
            "ringback_lanes_owned 4",
            "ringback_push_attempts_total{queue=\"reports\",word=\"complete\"} 1",
            "ringback_push_seconds_count{queue=\"reports\"} 1",
            "ringback_push_in_flight{queue=\"reports\"} 3",
            "ringback_jobs_owed 5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.contains("ringback_build_info{version="));
        assert!(text.ends_with("# EOF\n"));
        let mut types: Vec<_> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
        let all = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), all);
    }
}
