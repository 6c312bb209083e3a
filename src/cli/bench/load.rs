//! The load: many connections that post, as fast as they may or at a given rate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::Method;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::figures::{Spread, micros, moment};
use super::wire::Wire;

/// How often the driver asks how far the receiver is.
const LOOK: Duration = Duration::from_millis(10);
/// An open loop that is so many requests behind has shown what there is to show.
const BEHIND: usize = 100_000;

/// How it is posted.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Connections at once.
    pub connections: u32,
    /// Requests a second; as many as go where there is none.
    pub rate: Option<u32>,
    /// Callbacks under way at once, without a rate.
    pub window: u64,
}

/// What is posted.
pub struct Posts {
    /// `http://ADDR` of each server; connections take them in turn.
    pub urls: Vec<String>,
    /// A key that may do it.
    pub key: String,
    /// Where.
    pub path: &'static str,
    /// The body of the nth request, whose turn came at these microseconds.
    pub body: Box<dyn Fn(u64, u64) -> String + Send + Sync>,
    /// The receiver of the callbacks, which says how many have come; without one each connection has one request under way.
    pub hooks: Option<String>,
    /// The callbacks of one request.
    pub callbacks: u64,
    /// Told how many were accepted so far.
    pub accepted: watch::Sender<u64>,
}

/// When it ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// So many requests.
    Posted(u64),
    /// This long.
    Passed(Duration),
}

/// What came of it.
pub struct Driven {
    /// Requests.
    pub requests: u64,
    /// From the moment the schedule wanted each sent to its answer.
    pub times: Option<Spread>,
}

/// The number of a request, and when the schedule wants it sent, microseconds; `None` = now, whenever a connection is free.
type Ticket = (u64, Option<u64>);

impl Load {
    /// Posts until then. The time of each counts from when its turn came, whether a connection was free or not.
    pub async fn drive(&self, posts: Posts, until: Until) -> anyhow::Result<Driven> {
        let posts = Arc::new(posts);
        let (schedule, tickets) = self.schedule(&posts, until).await?;
        let tickets = Arc::new(Mutex::new(tickets));
        let mut posters = JoinSet::new();
        for url in posts.urls.iter().cycle().take(usize::try_from(self.connections)?) {
            let wire = Wire::open(url, Some(&posts.key)).await?;
            posters.spawn(post(wire, Arc::clone(&tickets), Arc::clone(&posts)));
        }
        let mut times = Vec::new();
        while let Some(ended) = posters.join_next().await {
            times.extend(ended??);
        }
        schedule.await.context("the schedule broke off")??;
        Ok(Driven { requests: times.len() as u64, times: Spread::of(times) })
    }

    async fn schedule(
        &self,
        posts: &Posts,
        until: Until,
    ) -> anyhow::Result<(AbortOnDropHandle<anyhow::Result<()>>, mpsc::Receiver<Ticket>)> {
        let (schedule, tickets) = match self.rate {
            Some(rate) => {
                let (give, tickets) = mpsc::channel(BEHIND);
                (tokio::spawn(at_rate(give, until, rate)), tickets)
            }
            None => {
                let (give, tickets) = mpsc::channel(1);
                let progress = match &posts.hooks {
                    Some(hooks) => Some((Wire::open(hooks, None).await?, posts.callbacks)),
                    None => None,
                };
                (tokio::spawn(in_window(give, until, self.window, progress)), tickets)
            }
        };
        Ok((AbortOnDropHandle::new(schedule), tickets))
    }
}

async fn post(
    mut wire: Wire,
    tickets: Arc<Mutex<mpsc::Receiver<Ticket>>>,
    posts: Arc<Posts>,
) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    loop {
        let ticket = tickets.lock().await.recv().await;
        let Some((n, due)) = ticket else { return Ok(times) };
        let due = due.unwrap_or_else(micros);
        wire.must(Method::POST, posts.path, (posts.body)(n, due)).await?;
        posts.accepted.send_modify(|n| *n += 1);
        times.push(Duration::from_micros(micros().saturating_sub(due)));
    }
}

impl Until {
    fn goes_on(self, n: u64, start: Duration) -> bool {
        match self {
            Until::Posted(all) => n < all,
            Until::Passed(all) => moment().saturating_sub(start) < all,
        }
    }
}

/// Gives tickets by the clock, however the answers come.
async fn at_rate(give: mpsc::Sender<Ticket>, until: Until, rate: u32) -> anyhow::Result<()> {
    let (start, began) = (micros(), moment());
    for n in (0..).take_while(|n| until.goes_on(*n, began)) {
        let due = start + n * 1_000_000 / u64::from(rate);
        let now = micros();
        if due > now {
            tokio::time::sleep(Duration::from_micros(due - now)).await;
        }
        // The timer of this process is a millisecond coarse; that is not the server's delay.
        let due = micros();
        give.try_send((n, Some(due)))
            .map_err(|_| anyhow::anyhow!("{BEHIND} requests behind the schedule"))?;
    }
    Ok(())
}

/// Gives a ticket whenever a connection is free, with at most `window` callbacks under way.
async fn in_window(
    give: mpsc::Sender<Ticket>,
    until: Until,
    window: u64,
    progress: Option<(Wire, u64)>,
) -> anyhow::Result<()> {
    let began = moment();
    let (done, mut so_far) = watch::channel(0u64);
    let (wire, callbacks) = progress.map_or((None, 0), |(wire, callbacks)| (Some(wire), callbacks));
    let look = async move {
        let Some(mut wire) = wire else { return std::future::pending().await };
        loop {
            let count = wire.must(Method::GET, "/count", "").await?;
            done.send_replace(str::from_utf8(&count)?.parse()?);
            tokio::time::sleep(LOOK).await;
        }
    };
    let look: AbortOnDropHandle<anyhow::Result<()>> = AbortOnDropHandle::new(tokio::spawn(look));
    for n in (0..).take_while(|n| until.goes_on(*n, began)) {
        let free = so_far.wait_for(|done| (n * callbacks).saturating_sub(*done) < window).await.is_ok();
        if !free {
            return look.await?;
        }
        let place = give.reserve().await.context("every connection has ended")?;
        place.send((n, None));
    }
    Ok(())
}
