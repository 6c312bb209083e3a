//! A job's events as they come: server-sent events (WHATWG HTML, 9.2).
//!
//! The body is pulled: nothing is read from the store before the client has taken what was there, so a slow
//! reader costs one page at most, until the deadline of the connection's writes cuts it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Extension;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::stream::unfold;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::time::{Interval, MissedTickBehavior};

use super::app::App;
use super::extract::{Reader, Waiting};
use super::followers::Places;
use super::problem::Problem;
use super::server::Endless;
use super::watch::Watcher;
use crate::metrics::{Metrics, Stream};
use crate::store::Standing;
use crate::types::api::Event;
use crate::types::problem::ProblemCode;

/// Events read at once.
pub const PAGE: u32 = 32;
/// How often a stream that rests looks at its own right to go on.
const LOOK: Duration = Duration::from_secs(5);
/// A comment is sent when nothing else was for this many looks: 15 s keep proxies from closing.
const QUIET: u32 = 3;
/// When a client that was cut off comes again, and a first byte for who waits for one.
pub const HELLO: &[u8] = b"retry: 2000\n\n";
/// The sign of life.
pub const HEARTBEAT: &[u8] = b": alive\n\n";

/// How long a stream has sent nothing, and when it looks up again: also while it has a long way to catch up with.
pub struct Quiet {
    looks: Interval,
    /// Looks since something was sent.
    since: u32,
}

impl Quiet {
    /// From now on.
    pub fn begin() -> Quiet {
        let mut looks = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Quiet { looks, since: 0 }
    }

    /// Something was sent.
    pub fn sent(&mut self) {
        self.since = 0;
    }

    /// Whether it was time for a look: then as [`Quiet::look`].
    pub fn passed(&mut self) -> Option<bool> {
        self.look().now_or_never()
    }

    /// Waits for the next look. True when it is time for a sign of life.
    pub async fn look(&mut self) -> bool {
        self.looks.tick().await;
        self.since += 1;
        let due = self.since >= QUIET;
        if due {
            self.since = 0;
        }
        due
    }
}

/// What `Last-Event-ID` says; None if there is none.
pub fn last_event_id<T: FromStr>(headers: &HeaderMap, rule: &str) -> Result<Option<T>, Problem> {
    let bad = || Problem::new(ProblemCode::InvalidRequest).at("Last-Event-ID", rule);
    let mut values = headers.get_all("last-event-id").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().map_err(|_| bad())?.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let id = text.parse().map_err(|_| bad())?;
    if values.next().is_some() { Err(bad()) } else { Ok(Some(id)) }
}

/// The stream of what follows `after`; 204 if nothing can.
pub async fn open(app: &App, reader: Reader, after: i64, waiting: &Waiting) -> Result<Response, Problem> {
    let job = reader.job(app).await?;
    // A client that says it is further than the job is told of all that is still to come.
    let after = after.min(job.sequence);
    let goal = Goal { sequence: job.sequence, ended: job.state.ended() };
    if goal.reached(after) {
        return Ok((StatusCode::NO_CONTENT, stream_head()).into_response());
    }
    let open = Open::new(&app.metrics, Stream::Sse, reader.viewer.places(app)?);
    // Only what may be seen is watched, for there is room for so much.
    let mut watcher = app.hub.watcher();
    watcher.watch(reader.id, after)?;
    waiting.rest();
    let feed = Feed {
        app: app.clone(),
        reader,
        watcher,
        last: after,
        goal,
        page: VecDeque::new(),
        hello: true,
        unread: true,
        quiet: Quiet::begin(),
        _open: open,
    };
    let frames = unfold(feed, |mut feed| async move {
        let frame = feed.next().await?;
        Some((Ok::<_, Infallible>(frame), feed))
    });
    let kind = (header::CONTENT_TYPE, "text/event-stream");
    Ok((stream_head(), [kind], Extension(Endless), Body::from_stream(frames)).into_response())
}

/// No cache may keep it and no proxy hold it back.
pub fn stream_head() -> [(HeaderName, HeaderValue); 3] {
    [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::VARY, HeaderValue::from_static("Accept, Authorization, Last-Event-ID")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ]
}

/// How far there are events to send.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    /// Of the last event known of.
    pub sequence: i64,
    /// None follows it.
    pub ended: bool,
}

impl Goal {
    /// Whether nothing is left to wait for. Who has more than that was told of has read on: the job was retried.
    pub fn reached(self, last: i64) -> bool {
        self.ended && last == self.sequence
    }

    /// Takes what is known now; news may overtake one another.
    pub fn learn(&mut self, now: Standing) {
        if now.sequence >= self.sequence {
            *self = Goal { sequence: now.sequence, ended: now.ended };
        }
    }
}

/// Counts an open stream, and holds its places.
pub struct Open {
    metrics: Metrics,
    stream: Stream,
    _places: Places,
}

impl Open {
    /// Until it is dropped.
    pub fn new(metrics: &Metrics, stream: Stream, places: Places) -> Open {
        metrics.stream_opened(stream);
        Open { metrics: metrics.clone(), stream, _places: places }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.stream_closed(self.stream);
    }
}

/// What one stream knows.
struct Feed {
    app: App,
    reader: Reader,
    watcher: Watcher,
    /// The sequence of the last event sent.
    last: i64,
    goal: Goal,
    page: VecDeque<Event>,
    hello: bool,
    /// Nothing was read since the job is watched: what happened just before it is news to nobody else.
    unread: bool,
    quiet: Quiet,
    _open: Open,
}

impl Feed {
    /// The next bytes; None at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.hello) {
            return Some(Bytes::from_static(HELLO));
        }
        loop {
            if let Some(event) = self.page.pop_front() {
                return self.send(&event);
            }
            if self.app.draining.is_cancelled() || self.goal.reached(self.last) {
                return None;
            }
            // What cannot be read now is rung for again. Boxed, as below: the room for a look at the store is
            // taken while it lasts, not by thousands of streams that rest.
            let unread = std::mem::take(&mut self.unread);
            if unread || self.last < self.goal.sequence {
                if let Some(due) = self.quiet.passed() {
                    match Box::pin(self.reader.viewer.is_let_in(&self.app)).await {
                        true if due => {
                            self.unread = true;
                            return Some(Bytes::from_static(HEARTBEAT));
                        }
                        true => {}
                        false => return None,
                    }
                }
                if Box::pin(self.read()).await? {
                    continue;
                }
            }
            if self.rest().await? {
                return Some(Bytes::from_static(HEARTBEAT));
            }
        }
    }

    fn send(&mut self, event: &Event) -> Option<Bytes> {
        self.last = event.sequence;
        self.quiet.sent();
        self.watcher.watch(self.reader.id, self.last).ok()?;
        frame(&event.sequence, &event.kind, event)
    }

    /// Reads the next page, and says whether there was something; None when the job is gone.
    async fn read(&mut self) -> Option<bool> {
        let (app, reader) = (&self.app, &self.reader);
        let verb = app.store.job_events(reader.tenant(), reader.id, self.last, PAGE, app.now());
        match app.ask_job(verb).await {
            Ok(events) => self.page = events.into(),
            Err(problem) if problem.is_passing() => {}
            Err(_) => return None,
        }
        Some(!self.page.is_empty())
    }

    /// Waits for news of the job. True when it is time for a sign of life; None when the stream has to end.
    async fn rest(&mut self) -> Option<bool> {
        tokio::select! {
            biased;
            () = self.app.draining.cancelled() => None,
            (_, standing) = self.watcher.moved() => {
                self.goal.learn(standing?);
                Some(false)
            }
            due = self.quiet.look() => {
                Box::pin(self.reader.viewer.is_let_in(&self.app)).await.then_some(due)
            }
        }
    }
}

/// JSON on one line has no line break, so one `data` field holds it.
pub fn frame(id: &impl Display, kind: &str, event: &impl Serialize) -> Option<Bytes> {
    let data = serde_json::to_string(event).ok()?;
    let frame = format!("id: {id}\nevent: {kind}\ndata: ");
    // What a client sent is kept byte for byte, line breaks between its members too.
    let lines = data.split(['\r', '\n']).collect::<Vec<_>>().join("\ndata: ");
    Some(format!("{frame}{lines}\n\n").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{EventId, JobId, Millis, api};

    #[test]
    fn a_frame_tells_one_event_whatever_line_breaks_it_holds() {
        let event = Event {
            kind: "job.progress".to_owned(),
            timestamp: Millis(0),
            event_id: EventId::mint(Millis(0), [0; 10]),
            job_id: Some(JobId::mint(Millis(0), [0; 10])),
            sequence: 7,
            data: api::raw("{\n\"a\":\r\n1}".to_owned()),
        };
        let frame = frame(&event.sequence, &event.kind, &event).unwrap();
        let text = std::str::from_utf8(&frame).unwrap();
        assert!(text.starts_with("id: 7\nevent: job.progress\ndata: {"), "{text}");
        assert!(text.ends_with("\n\n"), "{text}");
        let fields: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let told: serde_json::Value = serde_json::from_str(&fields.join("\n")).unwrap();
        assert_eq!((&told["sequence"], &told["data"]["a"]), (&7.into(), &1.into()));
    }

    #[test]
    fn who_has_read_beyond_the_end_that_is_known_goes_on() {
        let job = JobId::mint(Millis(0), [0; 10]);
        let mut goal = Goal { sequence: 3, ended: true };
        assert!(goal.reached(3) && !goal.reached(2));
        assert!(!goal.reached(4), "it was retried: what its fourth event began has no end yet");
        goal.learn(Standing { id: job, sequence: 6, ended: true });
        assert!(goal.reached(6) && !goal.reached(4));
    }

    #[test]
    fn a_last_event_id_is_a_sequence() {
        let read = |values: &[&'static str]| {
            let all = values.iter().map(|v| ("last-event-id".parse().unwrap(), HeaderValue::from_static(v)));
            last_event_id::<u64>(&all.collect(), "a number")
        };
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[""]).unwrap(), None);
        assert_eq!(read(&["12"]).unwrap(), Some(12));
        for bad in [&["x"][..], &["-1"], &["1.5"], &["1", "2"], &["99999999999999999999"]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
