//! One WebSocket from its opening to its close.
//!
//! One task reads, looks and writes, in turn: nothing is read from the store before the client has taken what
//! was there, and of its own messages it gets no more read than it may send. So all that is held for a client
//! is its list of jobs and one page of events.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use tokio::time::{Instant, interval_at, timeout};

use super::ends::{
    DONE, End, FAREWELL, TOO_SLOW, UNAUTHORIZED, check, close, fault, hear_out, no_job, stopping,
};
use crate::http::app::App;
use crate::http::extract::Viewer;
use crate::http::followers::{Place, Places};
use crate::http::json;
use crate::http::problem::Problem;
use crate::http::stream::{Goal, Open, PAGE};
use crate::http::watch::Watcher;
use crate::metrics::Stream;
use crate::store::Standing;
use crate::types::api::{SocketMessage, SocketOp, SocketRequest};
use crate::types::problem::ProblemCode;
use crate::types::{JobId, Millis};

/// Jobs that one connection watches at once, and in one message.
pub(super) const JOBS_MAX: usize = 1_000;
/// How often the right to go on and the client's signs of life are looked at.
const TICK: Duration = Duration::from_secs(2);
/// Messages read in one [`TICK`].
const MESSAGES: u32 = 40;
/// Subscriptions that a connection may have made at once, and how many more each [`TICK`] brings: each reads events
/// anew, and pages of them cost far more than the message that asks.
const SUBSCRIPTIONS: u32 = 2_000;
const SUBSCRIPTIONS_MORE: u32 = 400;
/// How often the client is pinged.
const PING: Duration = Duration::from_secs(25);
/// A client of which nothing was heard for so long, a pong at least, is gone.
const SILENCE: Duration = Duration::from_secs(45);
/// A client that follows no job for so long is sent away.
const IDLE: Duration = Duration::from_secs(60);
/// How long a message may wait for the client to take it.
const STALL: Duration = Duration::from_secs(10);
/// How long the close may take of who has much before it on the way.
const LONG_FAREWELL: Duration = Duration::from_secs(5);

/// What is known of a job that the client watches.
struct Subscription {
    /// The sequence of the last event sent.
    last: i64,
    /// How far there are events; None until the client's right to see the job is known.
    goal: Option<Goal>,
    /// It was told of an event, so the end is told by the last one.
    told: bool,
    place: Place,
}

/// A WebSocket and what its client watches.
pub struct Session {
    app: App,
    viewer: Viewer,
    socket: WebSocket,
    watcher: Watcher,
    jobs: HashMap<JobId, Subscription>,
    /// Jobs that have, or may have, events to send; each once.
    due: VecDeque<JobId>,
    /// Messages that may still be read in this tick.
    allowance: u32,
    /// Subscriptions that may still be made.
    subscriptions: u32,
    heard: Millis,
    pinged: Millis,
    /// When it last followed a job, by the service's clock.
    followed: Millis,
    /// The request that opened it.
    request_id: Option<Box<str>>,
    _open: Open,
}

impl Session {
    /// A session that watches nothing yet. Its problems name the request that opened it.
    pub fn new(
        app: App,
        viewer: Viewer,
        places: Places,
        socket: WebSocket,
        request_id: Option<Box<str>>,
    ) -> Session {
        let now = app.real.now();
        Session {
            watcher: app.hub.watcher(),
            _open: Open::new(&app.metrics, Stream::Socket, places),
            jobs: HashMap::new(),
            due: VecDeque::new(),
            allowance: MESSAGES,
            subscriptions: SUBSCRIPTIONS,
            heard: now,
            pinged: now,
            followed: app.now(),
            app,
            viewer,
            socket,
            request_id,
        }
    }

    /// Serves the client until either side ends it.
    pub async fn run(mut self) {
        let end = self.serve().await;
        let farewell = match end {
            End::Left => return,
            End::Answer => timeout(FAREWELL, hear_out(&mut self.socket)).await,
            End::Close(TOO_SLOW, reason) => {
                self.app.metrics.read_too_slowly();
                timeout(LONG_FAREWELL, close(&mut self.socket, TOO_SLOW, reason)).await
            }
            End::Close(code, reason) => timeout(FAREWELL, close(&mut self.socket, code, reason)).await,
        };
        if farewell.is_err() {
            tracing::debug!("a WebSocket's client did not answer the close");
        }
    }

    async fn serve(&mut self) -> End {
        // Not at once: a first tick would come after some messages, and double what may be read of them.
        let mut tick = interval_at(Instant::now() + TICK, TICK);
        let draining = self.app.draining.clone();
        loop {
            // Boxed: a socket that rests keeps no room for what it does when it is woken.
            let step = tokio::select! {
                biased;
                () = draining.cancelled() => Err(stopping()),
                _ = tick.tick() => Box::pin(self.tick()).await,
                message = self.socket.recv(), if self.allowance > 0 => Box::pin(self.hear(message)).await,
                job = next(&mut self.due, &self.watcher) => Box::pin(self.follow(job)).await,
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn tick(&mut self) -> Result<(), End> {
        self.allowance = MESSAGES;
        self.subscriptions = (self.subscriptions + SUBSCRIPTIONS_MORE).min(SUBSCRIPTIONS);
        let now = self.app.real.now();
        if now.since(self.heard) > SILENCE {
            return Err(End::Left);
        }
        if !self.viewer.is_let_in(&self.app).await {
            return Err(End::Close(UNAUTHORIZED, "the API key is no longer valid"));
        }
        // The hub tells of a job that is followed; of another one nobody does.
        if self.jobs.is_empty() && !self.viewer.has_its_job(&self.app).await {
            return Err(End::Close(UNAUTHORIZED, "the access token's job is gone"));
        }
        if self.jobs.is_empty() && self.app.now().since(self.followed) >= IDLE {
            return Err(End::Close(DONE, "no job is followed"));
        }
        if now.since(self.pinged) >= PING {
            self.pinged = now;
            self.send(Message::Ping(Default::default())).await?;
        }
        Ok(())
    }

    /// Sends, unless the client takes nothing for too long.
    async fn send(&mut self, message: Message) -> Result<(), End> {
        tokio::select! {
            biased;
            sent = timeout(STALL, self.socket.send(message)) => match sent {
                Ok(sent) => sent.map_err(|_| End::Left),
                Err(_) => Err(End::Close(TOO_SLOW, "events are not taken as fast as they come")),
            },
            () = self.app.draining.cancelled() => Err(stopping()),
        }
    }

    async fn tell(&mut self, message: &SocketMessage) -> Result<(), End> {
        let text = serde_json::to_string(message).unwrap_or_default();
        self.send(Message::text(text)).await
    }

    async fn refuse(&mut self, job_id: Option<JobId>, problem: Problem) -> Result<(), End> {
        let problem = problem.body(self.request_id.as_deref());
        self.tell(&SocketMessage::Error { job_id, problem }).await
    }
}

/// What the client says.
impl Session {
    async fn hear(&mut self, message: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        self.allowance -= 1;
        self.heard = self.app.real.now();
        match message {
            None => Err(End::Left),
            Some(Ok(Message::Close(_))) => Err(End::Answer),
            Some(Err(e)) => Err(fault(&e)),
            Some(Ok(Message::Text(text))) => match json::object(text.as_bytes()) {
                Ok(request) => self.obey(request).await,
                Err(refusal) => self.refuse(None, refusal.into()).await,
            },
            Some(Ok(Message::Binary(_))) => {
                let problem = Problem::new(ProblemCode::InvalidRequest);
                self.refuse(None, problem.detail("messages are JSON in text frames")).await
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
        }
    }

    async fn obey(&mut self, request: SocketRequest) -> Result<(), End> {
        if let Err(refusal) = check(&request) {
            return self.refuse(None, refusal.into()).await;
        }
        for (i, text) in request.job_ids.iter().enumerate() {
            match request.op {
                SocketOp::Subscribe => self.subscribe(i, text, request.after.get(text).copied()).await?,
                SocketOp::Unsubscribe => match text.parse() {
                    Ok(id) => self.unsubscribe(id),
                    Err(_) => self.refuse(None, no_job(i)).await?,
                },
            }
        }
        Ok(())
    }

    async fn subscribe(&mut self, i: usize, text: &str, after: Option<u64>) -> Result<(), End> {
        let Ok(id) = text.parse::<JobId>() else { return self.refuse(None, no_job(i)).await };
        if self.jobs.contains_key(&id) && after.is_none() {
            return Ok(());
        }
        if let Err(hurry) = self.pace(id) {
            return self.refuse(Some(id), hurry).await;
        }
        if self.jobs.len() >= JOBS_MAX && !self.jobs.contains_key(&id) {
            let rule = format!("one connection watches at most {JOBS_MAX} jobs at once");
            let pointer = format!("/jobIds/{i}");
            return self.refuse(Some(id), Problem::new(ProblemCode::QuotaExceeded).at(&pointer, &rule)).await;
        }
        let place = match self.jobs.remove(&id) {
            Some(before) => before.place,
            None => match self.app.followers.job(self.viewer.tenant) {
                Ok(place) => place,
                Err(full) => return self.refuse(Some(id), full).await,
            },
        };
        let last = after.map_or(0, |after| i64::try_from(after).unwrap_or(i64::MAX));
        self.jobs.insert(id, Subscription { last, goal: None, told: false, place });
        self.put_due(id);
        Ok(())
    }

    /// A subscription reads what a poll reads, and is paced like one; and one connection makes only so many.
    fn pace(&mut self, id: JobId) -> Result<(), Problem> {
        self.viewer.pace(&self.app, id)?;
        match self.subscriptions.checked_sub(1) {
            Some(left) => self.subscriptions = left,
            None => {
                let detail = "this connection subscribes too often; wait before the next";
                let wait = u32::try_from(TICK.as_secs()).unwrap_or(1);
                return Err(Problem::new(ProblemCode::RateLimited).detail(detail).retry_after(wait));
            }
        }
        Ok(())
    }

    fn unsubscribe(&mut self, id: JobId) {
        self.watcher.leave(id);
        self.followed = self.app.now();
        self.jobs.remove(&id);
        self.due.retain(|due| *due != id);
    }
}

/// What the client is told.
impl Session {
    fn put_due(&mut self, id: JobId) {
        if !self.due.contains(&id) {
            self.due.push_back(id);
        }
    }

    /// Sends the next page of a job's events, if it has any.
    async fn follow(&mut self, (id, news): News) -> Result<(), End> {
        // The bell may tell of a job that was given up since.
        let Some(subscription) = self.jobs.get_mut(&id) else { return Ok(()) };
        if let (Some(now), Some(goal)) = (news, &mut subscription.goal) {
            goal.learn(now);
        }
        let goal = match subscription.goal {
            Some(goal) => goal,
            None => match self.admit(id).await {
                Ok(goal) => goal,
                Err(problem) => return self.give_up(id, problem).await,
            },
        };
        let last = self.jobs.get(&id).map_or(0, |subscription| subscription.last);
        let verb = self.app.store.job_events(self.viewer.tenant, id, last, PAGE, self.app.now());
        let events = match self.app.ask_job(verb).await {
            Ok(events) => events,
            // The hub rings again for what is behind.
            Err(problem) if problem.is_passing() => return Ok(()),
            Err(problem) => return self.give_up(id, problem).await,
        };
        let read = !events.is_empty();
        for event in events {
            self.advance(id, event.sequence);
            self.tell(&SocketMessage::Event(event)).await?;
        }
        let told = self.jobs.get(&id).is_none_or(|subscription| subscription.told);
        if !self.go_on(id, goal, read) && !told {
            return self.tell(&SocketMessage::Ended { job_id: id }).await;
        }
        Ok(())
    }

    /// Looks for the first time: whether the client may see the job, and how far it is. Only what it may see is
    /// watched, for there is room for so much; what happens meanwhile is read next.
    async fn admit(&mut self, id: JobId) -> Result<Goal, Problem> {
        let job = self.viewer.job(&self.app, id).await?;
        let goal = Goal { sequence: job.sequence, ended: job.state.ended() };
        if let Some(subscription) = self.jobs.get_mut(&id) {
            // A client that says it is further than the job is told of all that is still to come.
            subscription.last = subscription.last.min(job.sequence);
            self.watcher.watch(id, subscription.last)?;
            subscription.goal = Some(goal);
        }
        Ok(goal)
    }

    async fn give_up(&mut self, id: JobId, problem: Problem) -> Result<(), End> {
        self.unsubscribe(id);
        self.refuse(Some(id), problem).await
    }

    fn advance(&mut self, id: JobId, sequence: i64) {
        if let Some(subscription) = self.jobs.get_mut(&id) {
            subscription.last = sequence;
            subscription.told = true;
        }
    }

    /// Looks again at what has more; gives up what has come to its end, and says false.
    fn go_on(&mut self, id: JobId, goal: Goal, read: bool) -> bool {
        let Some(last) = self.jobs.get(&id).map(|subscription| subscription.last) else { return true };
        if goal.reached(last) {
            self.unsubscribe(id);
            return false;
        }
        // It is watched already, so there is a place for it.
        let _ = self.watcher.watch(id, last);
        if read && last < goal.sequence {
            self.put_due(id);
        }
        true
    }
}

/// A job to look at, and what the hub said of it.
type News = (JobId, Option<Standing>);

async fn next(due: &mut VecDeque<JobId>, watcher: &Watcher) -> News {
    match due.pop_front() {
        Some(id) => (id, None),
        None => watcher.moved().await,
    }
}
