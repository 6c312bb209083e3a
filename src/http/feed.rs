//! The tenant's feed: pages of it, and what happens as it happens.

mod heads;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderMap, HeaderValue, Uri, header};
use tokio::sync::watch;

use super::app::App;
use super::extract::{
    Form, FromQuery, Key, Params, Query, Waiting, need::DeliveriesRead, negotiate, next_link,
};
use super::followers::Who;
use super::problem::Problem;
use super::server::Endless;
use super::stream::{HEARTBEAT, HELLO, Open, PAGE, Quiet, frame, last_event_id, stream_head};
use crate::metrics::Stream;
use crate::store::FeedPage;
use crate::types::TenantId;
use crate::types::api::{FeedEvent, Page};
use crate::types::endpoint::Pattern;
use crate::types::event::{Cursor, FeedFilter};
use crate::types::problem::ProblemCode;
pub use heads::{Heads, keep_looking};

/// The most patterns of one reader.
const PATTERNS_MAX: usize = 100;

/// So long a page waits for what is committed and not yet told.
const SETTLES: Duration = Duration::from_millis(400);

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// With the oldest event behind which none is gone.
    Oldest,
    /// With what happens from now on.
    Now,
    /// Behind what was read.
    Cursor(Cursor),
}

/// What is read of the feed.
pub struct FeedQuery {
    filter: FeedFilter,
    after: After,
    limit: u32,
}

impl FromQuery for FeedQuery {
    const NAMES: &'static [&'static str] = &["types", "account", "after", "limit"];

    fn from_params(params: &Params) -> Result<Self, Problem> {
        let after = match params.text("after") {
            Some("now") => After::Now,
            _ => params.parse("after")?.map_or(After::Oldest, After::Cursor),
        };
        let filter = FeedFilter {
            types: types(params.text("types").unwrap_or_default())?,
            account: params.short("account", 255)?,
            only_accounts: None,
        };
        Ok(FeedQuery { filter, after, limit: params.limit()? })
    }
}

fn types(list: &str) -> Result<Vec<Pattern>, Problem> {
    let bad = |rule: &str| Problem::new(ProblemCode::InvalidRequest).at("?types", rule);
    let names: Vec<&str> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.len() > PATTERNS_MAX {
        return Err(bad(&format!("must have at most {PATTERNS_MAX} entries")));
    }
    if let Some(name) = names.iter().find(|name| matches!(**name, "job.queued" | "job.started")) {
        return Err(bad(&format!("`{name}` is not in the feed; it is told at `/v1/jobs/{{jobId}}/events`")));
    }
    names.into_iter().map(|name| name.parse().map_err(|_| bad("must be event types or patterns"))).collect()
}

/// Read the tenant's events, oldest first, in the order in which they were committed.
///
/// All that was published, what befalls endpoints, and of jobs `job.retrying`, `job.progress` and their ends; `job.queued`
/// and `job.started` are told at the job alone. Nothing ever appears behind a cursor that was given. As JSON one page: come back with
/// its `nextCursor` as `after`; where that is the `after` you gave, you are at the end. As an event stream each event
/// as it comes: `id` is the cursor, `event` the type, `data` the same as in JSON. Without `after` it begins with the
/// oldest event behind which none is gone (at least seven days back), with `after=now` at the end.
#[utoipa::path(get, path = "/v1/events", tag = "events", operation_id = "listEvents",
    security(("apiKey" = ["deliveries:read"])),
    params(("types" = Option<String>, Query, example = "invoice.*,job.failed"), ("account" = Option<String>, Query),
        ("after" = Option<String>, Query), ("limit" = Option<u32>, Query, minimum = 1, maximum = 200),
        ("Last-Event-ID" = Option<String>, Header)),
    responses((status = 200, content(
            (Page<FeedEvent> = "application/json"), (String = "text/event-stream"))),
        (status = 406, description = "not-acceptable"),
        (status = 410, description = "cursor-expired"),
        (status = 429, description = "rate-limited")))]
pub async fn read(
    State(app): State<App>,
    key: Key<DeliveriesRead>,
    Query(mut query): Query<FeedQuery>,
    waiting: Waiting,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    of_all_queues(&key)?;
    query.filter.only_accounts = key.record.accounts.clone();
    match negotiate(&headers) {
        Some(Form::Json) => page(&app, &key, &query, &uri).await,
        Some(Form::Stream) => open(&app, key, query, &waiting, &headers).await,
        None => Err(Problem::new(ProblemCode::NotAcceptable)
            .detail("events are served as application/json and as text/event-stream")),
    }
}

/// A key narrowed to queues has no feed: it would be told of jobs in the others.
fn of_all_queues<N>(key: &Key<N>) -> Result<(), Problem> {
    match key.record.queues {
        None => Ok(()),
        Some(_) => {
            Err(Problem::new(ProblemCode::Forbidden)
                .detail("a key narrowed to queues does not read the feed"))
        }
    }
}

async fn page<N>(app: &App, key: &Key<N>, query: &FeedQuery, uri: &Uri) -> Result<Response, Problem> {
    let after = begin(app, key.tenant(), query.after).await?;
    let read = settled(app, key.tenant(), query, after).await?;
    let items = read.events.into_iter().map(|(_, event)| event).collect();
    let cursor = read.end.to_string();
    let link = read.more.then(|| next_link(uri, app.store.urls(), "after", &cursor)).flatten();
    let mut response = Json(Page::<FeedEvent> { items, next_cursor: Some(cursor) }).into_response();
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept, Authorization"));
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// A page that tells what its reader may have published just now: what a short transaction of someone else's holds
/// back is waited for.
async fn settled(
    app: &App,
    tenant: TenantId,
    query: &FeedQuery,
    after: Option<Cursor>,
) -> Result<FeedPage, Problem> {
    let until = tokio::time::Instant::now() + SETTLES;
    loop {
        let page = app.ask(app.store.feed(tenant, &query.filter, after, query.limit)).await?;
        if !page.held || tokio::time::Instant::now() >= until {
            return Ok(page);
        }
        tokio::time::sleep(SETTLES / 20).await;
    }
}

/// The cursor to begin behind; None for the oldest event.
async fn begin(app: &App, tenant: TenantId, after: After) -> Result<Option<Cursor>, Problem> {
    match after {
        After::Oldest => Ok(None),
        After::Cursor(cursor) => Ok(Some(cursor)),
        After::Now => app.ask(app.store.feed_end(tenant)).await.map(Some),
    }
}

async fn open(
    app: &App,
    key: Key<DeliveriesRead>,
    query: FeedQuery,
    waiting: &Waiting,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let resumed = last_event_id(headers, "must be given once, as the id of an event of this feed")?;
    let after = begin(app, key.tenant(), resumed.map_or(query.after, After::Cursor)).await?;
    let places = app.followers.connection(Who::Key(key.record.id), key.tenant())?;
    let open = Open::new(&app.metrics, Stream::Sse, places);
    // Before the first look, so that nothing is missed behind it.
    let head = app.heads.follow(key.tenant());
    let first = app.ask(app.store.feed(key.tenant(), &query.filter, after, PAGE)).await?;
    waiting.rest();
    let feed = Feed {
        app: app.clone(),
        key,
        filter: query.filter,
        head,
        page: first.events.into(),
        read_to: first.end,
        told_to: after.unwrap_or(Cursor::START),
        unread: first.more,
        hello: true,
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

/// What one stream knows.
struct Feed {
    app: App,
    key: Key<DeliveriesRead>,
    filter: FeedFilter,
    head: watch::Receiver<i64>,
    page: VecDeque<(Cursor, FeedEvent)>,
    /// How far was looked, and how far the client knows that.
    read_to: Cursor,
    told_to: Cursor,
    /// There may be more behind that.
    unread: bool,
    hello: bool,
    quiet: Quiet,
    _open: Open,
}

impl Feed {
    /// The next bytes; None at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.hello) {
            return Some(self.hello());
        }
        loop {
            if let Some((cursor, event)) = self.page.pop_front() {
                self.told_to = cursor;
                self.quiet.sent();
                return frame(&cursor, &event.kind, &event);
            }
            if self.app.draining.is_cancelled() {
                return None;
            }
            // Boxed: the room for a look at the store is taken while it lasts, not by streams that rest.
            if self.unread {
                if let Some(due) = self.quiet.passed() {
                    match Box::pin(self.key.is_let_in(&self.app)).await {
                        // A filter that fits nothing of all that is read.
                        true if due => return Some(self.sign_of_life()),
                        true => {}
                        false => return None,
                    }
                }
                if Box::pin(self.read()).await? {
                    continue;
                }
            }
            if self.rest().await? {
                return Some(self.sign_of_life());
            }
        }
    }

    /// With the place to come back to, lest a stream from `now` that breaks before its first event begins at a later one.
    fn hello(&self) -> Bytes {
        match self.told_to {
            Cursor::START => Bytes::from_static(HELLO),
            begun => format!("retry: 2000\nid: {begun}\n\n").into(),
        }
    }

    /// Reads the next page, and says whether to go on at once; None when the feed must be read anew.
    async fn read(&mut self) -> Option<bool> {
        let verb = self.app.store.feed(self.key.tenant(), &self.filter, Some(self.read_to), PAGE);
        match self.app.ask(verb).await {
            Ok(page) => {
                (self.page, self.read_to, self.unread) = (page.events.into(), page.end, page.more);
                Some(self.unread || !self.page.is_empty())
            }
            Err(problem) if problem.is_passing() => Some(false),
            Err(_) => None,
        }
    }

    /// Waits for news. True when it is time for a sign of life; None when the stream has to end.
    async fn rest(&mut self) -> Option<bool> {
        tokio::select! {
            biased;
            () = self.app.draining.cancelled() => None,
            moved = self.head.changed() => {
                self.unread = true;
                moved.ok().map(|()| false)
            }
            due = self.quiet.look() => {
                Box::pin(self.key.is_let_in(&self.app)).await.then_some(due)
            }
        }
    }

    /// Where nothing that is wanted has come for long, it also tells how far that was looked.
    fn sign_of_life(&mut self) -> Bytes {
        if self.told_to == self.read_to {
            return Bytes::from_static(HEARTBEAT);
        }
        self.told_to = self.read_to;
        format!(": alive\nid: {}\n\n", self.read_to).into()
    }
}
