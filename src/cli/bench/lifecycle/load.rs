//! The load: many connections that submit, as fast as they may or at a given rate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::Method;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::super::figures::{Spread, micros};
use super::super::wire::Wire;
use super::stage::Stage;

/// How often the driver asks how far the receiver is.
const LOOK: Duration = Duration::from_millis(10);
/// An open loop that is so many requests behind has shown what there is to show.
const BEHIND: usize = 100_000;

/// How it is submitted.
pub struct Load {
    /// Connections at once.
    pub connections: u32,
    /// Bytes of each input.
    pub payload_bytes: usize,
    /// Jobs a second; as many as go where there is none.
    pub rate: Option<u32>,
    /// Jobs under way at once, without a rate.
    pub window: u64,
}

/// When the schedule wants each request sent, microseconds; `None` = now, whenever a connection is free.
type Tickets = mpsc::Receiver<Option<u64>>;

impl Load {
    /// Submits `jobs` jobs. The time of each counts from when its turn came, whether a connection was free or not.
    pub async fn drive(&self, stage: &Stage, jobs: u64) -> anyhow::Result<Option<Spread>> {
        let (schedule, tickets) = self.schedule(stage, jobs).await?;
        let tickets = Arc::new(Mutex::new(tickets));
        let pad = "x".repeat(self.payload_bytes);
        let callback =
            if stage.whole() { format!(r#","callbackUrl":"{}/hook""#, stage.hooks) } else { String::new() };
        let mut submitters = JoinSet::new();
        for _ in 0..self.connections {
            let wire = Wire::open(&stage.server.url, Some(&stage.key)).await?;
            let rest = format!(r#","input":{{"pad":"{pad}"}}{callback}}}"#);
            submitters.spawn(submit(wire, Arc::clone(&tickets), rest));
        }
        let mut times = Vec::with_capacity(usize::try_from(jobs)?);
        while let Some(ended) = submitters.join_next().await {
            times.extend(ended??);
        }
        schedule.await.context("the schedule broke off")??;
        Ok(Spread::of(times))
    }

    async fn schedule(
        &self,
        stage: &Stage,
        jobs: u64,
    ) -> anyhow::Result<(AbortOnDropHandle<anyhow::Result<()>>, Tickets)> {
        let (schedule, tickets) = match self.rate {
            Some(rate) => {
                let (give, tickets) = mpsc::channel(BEHIND);
                (tokio::spawn(at_rate(give, jobs, rate)), tickets)
            }
            None => {
                let (give, tickets) = mpsc::channel(1);
                let wire = Wire::open(&stage.hooks, None).await?;
                // Without callbacks nothing says how far it is; each connection has one request under way.
                let window = if stage.whole() { self.window } else { u64::MAX };
                (tokio::spawn(in_window(give, jobs, window, wire)), tickets)
            }
        };
        Ok((AbortOnDropHandle::new(schedule), tickets))
    }
}

async fn submit(mut wire: Wire, tickets: Arc<Mutex<Tickets>>, rest: String) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    loop {
        let ticket = tickets.lock().await.recv().await;
        let Some(due) = ticket else { return Ok(times) };
        let due = due.unwrap_or_else(micros);
        let body = format!(r#"{{"type":"bench","metadata":{{"submittedAtMicros":{due}}}{rest}"#);
        wire.must(Method::POST, "/v1/jobs", body).await?;
        times.push(Duration::from_micros(micros().saturating_sub(due)));
    }
}

/// Gives tickets by the clock, however the answers come.
async fn at_rate(give: mpsc::Sender<Option<u64>>, jobs: u64, rate: u32) -> anyhow::Result<()> {
    let start = micros();
    for n in 0..jobs {
        let due = start + n * 1_000_000 / u64::from(rate);
        let now = micros();
        if due > now {
            tokio::time::sleep(Duration::from_micros(due - now)).await;
        }
        // The timer of this process is a millisecond coarse; that is not the server's delay.
        let due = micros();
        give.try_send(Some(due)).map_err(|_| anyhow::anyhow!("{BEHIND} requests behind the schedule"))?;
    }
    Ok(())
}

/// Gives a ticket whenever a connection is free, with at most `window` jobs under way.
async fn in_window(
    give: mpsc::Sender<Option<u64>>,
    jobs: u64,
    window: u64,
    mut wire: Wire,
) -> anyhow::Result<()> {
    let (done, mut progress) = watch::channel(0u64);
    let look = async move {
        loop {
            let count = wire.must(Method::GET, "/count", "").await?;
            done.send_replace(str::from_utf8(&count)?.parse()?);
            tokio::time::sleep(LOOK).await;
        }
    };
    let look: AbortOnDropHandle<anyhow::Result<()>> = AbortOnDropHandle::new(tokio::spawn(look));
    for n in 0..jobs {
        let free = progress.wait_for(|done| n.saturating_sub(*done) < window).await.is_ok();
        if !free {
            return look.await?;
        }
        let place = give.reserve().await.context("every connection has ended")?;
        place.send(None);
    }
    Ok(())
}
